"""Figures of the study of reparameterisation gradients: diagnoses of trained agents by horizon. Numbers only."""

import numpy as np

from valex.studies.base import Figure, Panel, Plate, Series
from valex.studies.cells import Grid, envs
from valex.studies.horizon_diagnostics import MODEL_STEPS
from valex.studies.rp_measures import diagnosed, value_at
from valex.studies.series import INTERVAL, horizon_ticks, points, seeds_of

KINDS = ((False, "RP-DP", "first"), (True, "RP-DP, spectral normalisation", "second"))
SWAPS = {"true critic": "third", "true jacobians": "fourth", "true states": "sixth"}


def by_horizon(
    grid: Grid, env: str, quantity: str, normalised: bool, look: tuple[str, str], name: str = "dp"
) -> Series | None:
    """Return a quantity of diagnosed agents against the horizon; look = (label, colour)."""
    runs = list(diagnosed(grid, env, normalised).values())
    if not runs:
        return None
    shared = sorted(set.intersection(*(set(run.diagnostics["gradients"]["horizons"]) for run in runs)))
    columns = {h: np.array([value_at(run, quantity, h, name) for run in runs]) for h in shared}
    return points(*look, {h: values[np.isfinite(values)] for h, values in columns.items()})


def plate(grid: Grid, what: str, panels_of: list[tuple[str, str, list[tuple]]]) -> Plate:
    """Return panels over environments; panels_of = (title, y label, [(quantity, normalised, look, name)])."""
    panels, left_out = [], []
    for env in envs(grid):
        for title, ylabel, rows in panels_of:
            series = [s for row in rows if (s := by_horizon(grid, env, *row))]
            if series:
                log_y = all(bool(np.any(s.y > 0)) for s in series) and ylabel != "expected cosine"
                panels.append(
                    Panel(f"{env} · {title}", MODEL_STEPS, ylabel, series, "horizon", horizon_ticks(series), log_y)
                )
            else:
                left_out.append(f"{what}, {env}, {title}: no diagnosed agent")
    note = f"Final agents trained at one horizon, diagnosed at several. Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}."
    return Plate(panels, 2, note, left_out)


def gradient_variance(grid: Grid) -> Plate:
    """Return the variance and the signal of the gradient by horizon, with and without normalisation."""
    rows = lambda quantity: [(quantity, flag, (label, colour)) for flag, label, colour in KINDS]  # noqa: E731
    return plate(
        grid,
        "gradient variance",
        [
            ("variance", "trace of the covariance", rows("trace")),
            ("signal in a batch", "N |E g|² / trace", rows("snr")),
        ],
    )


def gradient_bias(grid: Grid) -> Plate:
    """Return bias and error of the gradient by horizon, with and without normalisation, and with one component true."""
    rows = [("relative_bias", flag, (label, colour)) for flag, label, colour in KINDS]
    swaps = [("relative_bias", False, (f"RP-DP, {name}", colour), name) for name, colour in SWAPS.items()]
    error = [("relative_mse", flag, (label, colour)) for flag, label, colour in KINDS]
    return plate(
        grid,
        "gradient bias",
        [("bias", "bias² / |g|²", [*rows, *swaps]), ("error of a batch", "(bias² + trace / N) / |g|²", error)],
    )


def landscapes(grid: Grid) -> Plate:
    """Return the value around the policy of the first diagnosed seed, with and without normalisation, along one direction."""
    panels, left_out = [], []
    for env in envs(grid):
        series = []
        for flag, label, colour in KINDS:
            runs = diagnosed(grid, env, flag)
            found = runs[min(runs)].diagnostics["gradients"].get("landscape") if runs else None
            if found:
                surface = np.array([[np.nan if v is None else v for v in row] for row in found["surface"]], float)
                x = np.linspace(-found["span"], found["span"], len(surface))
                middle = surface[:, len(surface) // 2]
                series.append(Series(label, colour, x, middle - np.nanmin(middle), n=1))
        if series:
            ticks = tuple((float(v), f"{v:g}") for v in (-1.0, -0.5, 0.0, 0.5, 1.0))
            panels.append(
                Panel(env, "step, in lengths of the parameters", "−V_h above its minimum", series, x_ticks=ticks)
            )
        else:
            left_out.append(f"landscape, {env}: no diagnosed agent")
    return Plate(
        panels, 3, "First seed of each; a random direction, as long as the parameters, layer by layer.", left_out
    )


RP_FIGURES = (
    Figure(
        "gradient_variance",
        "Variance of the gradient by horizon",
        "How much one RP-DP gradient of V_h scatters on final agents, and what is left of the signal in a batch.",
        gradient_variance,
    ),
    Figure(
        "gradient_bias",
        "Bias and error of the gradient by horizon",
        "Against the h-step gradient without error: model, reward and critic replaced by the simulator and the return. With one "
        "component true: what makes the bias fall is where it comes from.",
        gradient_bias,
    ),
    Figure(
        "landscape",
        "The landscape along one direction",
        "−V_h around two policies, starts and noises held.",
        landscapes,
    ),
)
