"""The figures of a gradient diagnosis, described as numbers; `figures.py` draws them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from valex.report.diagnosis_words import MODES, SWAPS, mode_name
from valex.studies.base import Panel, Plate, Series
from valex.studies.results import number

H_LABEL = "horizon h (model steps)"


def known(values: list) -> np.ndarray:
    """Return numbers as an array, NaN where JSON holds none."""
    return np.array([np.nan if v is None else v for v in values], float)


def lines(
    d: dict[str, Any], found: dict[str, Any], names: dict[str, tuple[str, str]], n: int, pick: Callable = lambda v: v
) -> list[Series]:
    """Return one series over horizons for every name that was measured."""
    horizons = np.array(d["horizons"], float)
    series = []
    for name, (label, colour) in names.items():
        if name in found:
            y, low, high = (
                np.array([np.nan if v is None else v for v in found[name][p]], float) for p in ("value", "low", "high")
            )
            if np.any(np.isfinite(y)):
                series.append(Series(label, colour, horizons, pick(y), pick(low), pick(high), n, "points"))
    return series


def over_horizons(title: str, ylabel: str, series: list[Series], d: dict[str, Any], log_y: bool = False) -> Panel:
    """Return a panel over horizons."""
    ticks = tuple((float(h), str(h)) for h in d["horizons"])
    return Panel(title, H_LABEL, ylabel, series, "horizon", ticks, log_y)


def with_rule(panel: Panel, y: float) -> Panel:
    """Return a panel with a reference line."""
    return panel._replace(rules=((y, ""),))


def plates(d: dict[str, Any]) -> tuple[dict[str, tuple[str, str, Plate]], list[str]]:
    """Return every figure that has data, name -> (title, caption, plate), and what has none."""
    drawn, left_out = {}, []
    for name, (title, caption, plate) in every_plate(d).items():
        panels = [panel for panel in plate.panels if panel.series]
        left_out += [f"{title}: {p.title}: nothing that is finite" for p in plate.panels if not p.series]
        if panels:
            drawn[name] = (title, caption, plate._replace(panels=panels))
    return drawn, left_out


def every_plate(d: dict[str, Any]) -> dict[str, tuple[str, str, Plate]]:
    """Return every figure, name -> (title, caption, plate), panels without data included."""
    result = {"variance": variance_plate(d)}
    if d["about"]["truth"]:
        result |= {"bias": bias_plate(d), "blame": blame_plate(d)}
    drawn = {
        "direction": ("return", direction_plate),
        "nodes": ("nodes", nodes_plate),
        "stretch": ("stretch", stretch_plate),
        "landscape": ("landscape", landscape_plate),
        "meter": ("meter", meter_plate),
    }
    return result | {name: plate(d) for name, (part, plate) in drawn.items() if part in d}


def measured(d: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the modes that were measured, and the gradient without error: name -> (label, colour)."""
    return {m: MODES[m] for m in MODES if m in d["names"]}


def note_of(d: dict[str, Any]) -> str:
    """Return how many samples are behind a figure."""
    about = d["about"]
    return f"{about['starts']} starts, {about['draws']} noises each; 95 % intervals: jackknife over {about['chunks']} chunks"


def variance_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return variance and signal by horizon."""
    about, q, modes = d["about"], d["quantities"], measured(d)
    draw = lambda name: lines(d, q[name], modes, about["starts"])  # noqa: E731
    signal = f"Signal in a batch of {about['batch']}"
    panels = [
        over_horizons("Variance", "trace of the covariance", draw("trace"), d, log_y=True),
        over_horizons(signal, "N |E g|² / trace", draw("snr"), d, log_y=True),
    ]
    caption = (
        "How much one gradient of V_h (not divided by h + 1) scatters, and what is left of the signal in a batch. Without error: "
        "model, reward and critic are the truth."
    )
    return "Variance by horizon", caption, Plate(panels, 2, note_of(d), [])


def bias_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return bias and error by horizon."""
    about, q = d["about"], d["quantities"]
    modes = {m: v for m, v in measured(d).items() if m != "truth"}
    draw = lambda name, pick=lambda y: y: lines(d, q[name], modes, about["starts"], pick)  # noqa: E731
    size = about["batch"]
    clip = lambda y: np.clip(y, -1.0, 1.0)  # noqa: E731
    panels = [
        with_rule(over_horizons("Bias", "bias² / |g|²", draw("relative_bias"), d, log_y=True), 1.0),
        with_rule(
            over_horizons(f"Error, batch {size}", "(bias² + trace / N) / |g|²", draw("relative_mse"), d, True), 1.0
        ),
        with_rule(over_horizons(f"Cosine, batch {size}", "expected cosine", draw("cosine", clip), d), 0.0),
    ]
    caption = (
        "Against the h-step gradient without error, g, in units of its square: 1 is the error of taking no step. Bias is "
        "unbiased, so it may be below 0, which a log axis does not show. Cosines beyond ±1 are drawn at ±1."
    )
    return "Bias and error by horizon", caption, Plate(panels, 3, note_of(d), [])


def blame_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return the bias with one component true."""
    about = d["about"]
    swaps = {about["mode"]: (f"{mode_name(about['mode'])} as it is", "first")} | SWAPS
    series = lines(d, d["quantities"]["relative_bias"], swaps, about["starts"])
    panel = with_rule(over_horizons("With one component true", "bias² / |g|²", series, d, log_y=True), 1.0)
    caption = (
        "The simulator in the place of one component at a time: where a step leads, how it depends on state and action, the "
        "reward, or the return of the policy in the place of the critic. What makes the bias fall is what it comes from."
    )
    return "Where the bias comes from", caption, Plate([panel], 1, note_of(d), [])


def direction_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return the cosine with the gradient of the return."""
    series = lines(d, d["return"]["cosine"], measured(d), d["about"]["starts"], lambda y: np.clip(y, -1.0, 1.0))
    panel = with_rule(over_horizons("Mean gradient", "cosine with that of the return", series, d), 0.0)
    caption = (
        f"The gradient of the return over {d['return']['steps']} steps of the simulator, from resets. The gradient without error "
        "differs from it by the weights of its starts alone. Cosines beyond ±1 are drawn at ±1."
    )
    return "Does it point where the return rises?", caption, Plate([panel], 1, note_of(d), [])


def nodes_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return which actions and which rewards carry the variance."""
    h = d["about"]["chosen"]
    panels = []
    for part, title, label in (
        ("action", "By action", "call of the policy i"),
        ("reward", "By reward", "reward i; last, the critic"),
    ):
        matrix = np.array(d["nodes"][part], float)
        total = np.sum(matrix)
        own, cross = np.diagonal(matrix) / total, np.sum(matrix, axis=1) / total
        x = np.arange(len(matrix), dtype=float)
        series = [
            Series("its own variance", "first", x, own, style="points"),
            Series("with its covariances", "second", x, cross, style="points"),
        ]
        ticks = tuple((float(i), str(i)) for i in range(len(matrix)))
        panels.append(Panel(title, label, "part of the trace", series, "linear", ticks, rules=((0.0, ""),)))
    caption = "tr Cov of the parts that the dp gradient is a sum of, in units of its trace; with covariances they add up to 1."
    return f"Who carries the variance at h = {h}?", caption, Plate(panels, 2, "one noise for each start", [])


def stretch_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return how fast the closed loop stretches."""
    series = []
    for name, label, colour in (("model", "along the model", "first"), ("simulator", "along the simulator", "seventh")):
        if name in d["stretch"]:
            for part, how in (("lyapunov_mean", "mean"), ("lyapunov_p95", "95th percentile")):
                y = known(d["stretch"][name][part])
                x = np.arange(1, len(y) + 1, dtype=float)
                series.append(
                    Series(f"{label}, {how}", colour, x, y, style="line" if part == "lyapunov_mean" else "reference")
                )
    policy = d["stretch"]["policy"]
    layers = f"; product over layers {number(policy['layers'])}" if policy["layers"] is not None else ""
    note = (
        f"policy: Jacobian of norm {number(policy['local']['mean'])} (mean), {number(policy['local']['max'])} (largest), "
        f"{number(policy['nearby']['max'])} within 0.1{layers}"
    )
    panel = Panel("Finite-time Lyapunov exponent", "steps k", "log σ / k (per step)", series, rules=((0.0, ""),))
    caption = (
        "Growth per step of what is near: σ is the largest singular value of the product of k closed-loop Jacobians."
    )
    return "Does the closed loop stretch?", caption, Plate([panel], 1, note, [])


def landscape_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return the landscape as contour lines, and its two middle lines."""
    found = d["landscape"]
    surface = np.stack([known(row) for row in found["surface"]])
    axis = np.linspace(-found["span"], found["span"], len(surface))
    low, high = np.nanmin(surface), np.nanmax(surface)
    height = np.nan_to_num((surface - low) / max(high - low, 1e-12), nan=1.0)
    middle = len(surface) // 2
    here = Series("this policy", "true", np.zeros(1), np.zeros(1), style="marks")
    plane = Panel("Contour lines", "along d1", "along d2", [here], plane=(axis, axis, height.T))
    cuts = [
        Series("along d1", "first", axis, surface[:, middle]),
        Series("along d2", "second", axis, surface[middle]),
    ]
    ticks = tuple((float(x), f"{x:g}") for x in np.linspace(-found["span"], found["span"], 5))
    line = Panel("Through the policy", "step, in lengths of the parameters", "−V_h", cuts, x_ticks=ticks)
    note = (
        f"h = {found['horizon']}; second difference {number(found['second_difference'])}, total variation "
        f"{number(found['total_variation'])}, slope changes sign at {100 * found['sign_changes']:.1f} % of the points, "
        f"largest slope {number(found['largest_slope'])}"
    )
    caption = (
        f"−V_h from {number(low)} to {number(high)} in 25 contour lines, the same starts and noises everywhere. d1, d2 are "
        "random, each as long as the parameters, layer by layer."
    )
    return "The landscape", caption, Plate([plane, line], 2, note, [])


def meter_plate(d: dict[str, Any]) -> tuple[str, str, Plate]:
    """Return the released meter beside the trace."""
    found, x = d["meter"], np.array(d["horizons"], float)
    column = lambda name: known(found[name])  # noqa: E731
    series = [
        Series("trace of the covariance", "first", x, column("trace"), style="points"),
        Series("released meter, mean of readings", "second", x, column("released"), style="points"),
        Series("what it reads by its formula", "seventh", x, column("expected"), style="reference"),
    ]
    caption = (
        "The meter in the release of 2310.19927 never clears its gradients between samples and divides by h + 1: it reads "
        "(3.5 trace + 35 |E g|²) / (h + 1)², so it falls when a policy converges, at the same variance (deviation D28)."
    )
    return (
        "The released variance meter",
        caption,
        Plate([over_horizons("dp", "variance", series, d, log_y=True)], 1, "", []),
    )
