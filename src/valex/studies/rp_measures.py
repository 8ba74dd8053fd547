"""What the claims about reparameterisation gradients measure, read off diagnoses that runs have stored (`gradients`)."""

import numpy as np
from scipy import stats

from valex.store import StoredRun
from valex.studies.base import NOT_RUN, Component
from valex.studies.cells import Grid, cell, horizons
from valex.studies.horizon_measures import auc_contrast, together

MIDDLE, LONG = 5, 15  # horizons of a diagnosis between which growth is measured


def kind(run: StoredRun) -> tuple[str, bool]:
    """Return how a run takes its gradient, and whether its policy is normalised."""
    spectral = getattr(run.config.agent, "spectral", None)
    return run.config.actor.gradient, spectral is not None and spectral.layers != "none"


def arm_of(grid: Grid, env: str, gradient: str = "dp", normalised: bool = False) -> str | None:
    """Return the arm of an environment that takes its gradient in this way, or None."""
    for (where, name, h), found in grid.cells.items():
        if where == env and h and any(kind(run) == (gradient, normalised) for run in found.runs[:1]):
            return name
    return None


def diagnosed(grid: Grid, env: str, normalised: bool) -> dict[int, StoredRun]:
    """Return the finished runs of RP-DP, plain or normalised, that were diagnosed, by seed: those of one horizon."""
    name = arm_of(grid, env, "dp", normalised)
    for h in horizons(grid, env, name) if name else ():
        found = cell(grid, env, name, h) if name and h else None
        runs = {s: run for s, run in found.finished.items() if "gradients" in run.diagnostics} if found else {}
        if runs:
            return runs
    return {}


def value_at(run: StoredRun, quantity: str, h: int, name: str = "dp") -> float:
    """Return a quantity of a diagnosis at a horizon; NaN where it was not measured or not finite."""
    table = run.diagnostics["gradients"]
    if h not in table["horizons"] or name not in table["quantities"][quantity]:
        return np.nan
    value = table["quantities"][quantity][name]["value"][table["horizons"].index(h)]
    return np.nan if value is None else float(value)


def finite(label: str, values: list[float], detail: str = "") -> Component:
    """Return the finite ones of some values as a component."""
    array = np.array(values, float)
    return Component(label, array[np.isfinite(array)], 0, detail)


def variance_grows(grid: Grid, env: str) -> list[Component] | str:
    """Return how log variance grows with the horizon without normalisation: per step, and beyond any power of h.

    s(a, b) = (log tr(b) - log tr(a)) / (b - a)
    growth                s(5, 15)
    beyond a power law    s(10, 15) - s(5, 10) log(1.5) / log(2)      0 for tr ~ h^p, above it for an exponential
    """
    runs = list(diagnosed(grid, env, False).values())
    if not runs:
        return "not measured: no finished run of RP-DP without normalisation was diagnosed"
    logs = {h: np.log([value_at(run, "trace", h) for run in runs]) for h in (MIDDLE, 10, LONG)}
    early, late = (logs[10] - logs[MIDDLE]) / 5.0, (logs[LONG] - logs[10]) / 5.0
    beyond = late - early * np.log(1.5) / np.log(2.0)
    return [
        finite("growth of log variance per step, h = 5 to 15", list((logs[LONG] - logs[MIDDLE]) / 10.0)),
        finite("late growth less that of a power law", list(beyond)),
    ]


def between_kinds(grid: Grid, env: str, quantity: str, h: int, log: bool) -> np.ndarray | str:
    """Return a quantity of normalised agents less that of plain ones (of log10 with `log`), seed by seed."""
    plain, normalised = diagnosed(grid, env, False), diagnosed(grid, env, True)
    seeds = sorted(plain.keys() & normalised.keys())
    if not seeds:
        return "not measured: no seed was diagnosed both with and without spectral normalisation"
    a, b = (np.array([value_at(runs[s], quantity, h) for s in seeds]) for runs in (normalised, plain))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(a) - np.log10(b) if log else a - b


def normalisation_reduces_variance(grid: Grid, env: str) -> list[Component] | str:
    """Return log10 of the variance of normalised agents over that of plain ones, at h = 5 and 15."""
    parts = []
    for h in (MIDDLE, LONG):
        found = between_kinds(grid, env, "trace", h, log=True)
        if isinstance(found, str):
            return found
        parts.append(finite(f"log10 variance ratio, h = {h}", list(found)))
    return parts


def normalisation_costs_bias(grid: Grid, env: str) -> list[Component] | str:
    """Return the relative squared bias of normalised agents less that of plain ones at h = 5."""
    found = between_kinds(grid, env, "relative_bias", MIDDLE, log=False)
    return found if isinstance(found, str) else [finite(f"difference of bias² / |g|², h = {MIDDLE}", list(found))]


def best_horizon(run: StoredRun) -> float:
    """Return the horizon of least relative MSE, NaN where the gradient without error is not told from zero."""
    found = run.diagnostics["gradients"]["recommendation"]
    return np.nan if found is None else float(found["horizon"])


def best_horizon_follows_errors(grid: Grid, env: str) -> list[Component] | str:
    """Return the rank correlation over agents of the best horizon with eps_v / (eps_f + eps_v), as jackknife pseudo-values.

    Both errors have units of their own, but within one environment the rank of their ratio does not depend on them.
    """
    runs = [run for normalised in (False, True) for run in diagnosed(grid, env, normalised).values()]
    pairs = []
    for run in runs:
        errors = run.diagnostics["gradients"].get("derivatives")
        if errors and errors["scale"]["value"] is not None and np.isfinite(best_horizon(run)):
            pairs.append((errors["scale"]["value"], best_horizon(run)))
    if len(pairs) < 5:
        return f"not measured: {len(pairs)} agents have a best horizon and the errors of derivatives"
    x, y = np.array(pairs, float).T
    if len(set(y)) < 2:
        return f"not measured: the best horizon is {y[0]:g} for all {len(y)} agents"

    def correlation(keep: np.ndarray) -> float:
        return float(stats.spearmanr(x[keep], y[keep]).statistic)  # pyright: ignore[reportAttributeAccessIssue]

    everyone, n = np.arange(len(x)), len(x)
    whole = correlation(everyone)
    pseudo = [n * whole - (n - 1) * correlation(np.delete(everyone, i)) for i in everyone]
    return [finite("rank correlation of best h with eps_v / (eps_f + eps_v)", pseudo, f"{n} agents, pseudo-values")]


def normalisation_helps_long(grid: Grid, env: str) -> list[Component] | str:
    """Return AUC(normalised) - AUC(plain) of RP-DP at the longest horizon that both were trained with."""
    plain, normalised = (arm_of(grid, env, "dp", flag) for flag in (False, True))
    if plain is None or normalised is None:
        return f"{NOT_RUN}: RP-DP with and without spectral normalisation"
    longest = max(set(horizons(grid, env, plain)) & set(horizons(grid, env, normalised)))
    weights = {(normalised, longest): 1.0, (plain, longest): -1.0}
    return together([auc_contrast(grid, env, "AUC(SN) − AUC(plain), longest h", weights, f"h = {longest}")])
