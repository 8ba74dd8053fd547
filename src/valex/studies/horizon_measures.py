"""What the claims about horizons measure: one value per seed, and what it is a difference of.

Scores are areas under the learning curve (AUC), compared seed by seed and divided by the return range of their task (highest
minus lowest evaluation of any run), so that margins and pooling have one unit.
"""

import math
from functools import partial

import numpy as np

from valex.store import StoredRun
from valex.studies.base import NOT_RUN, Component
from valex.studies.cells import (
    Grid,
    Paired,
    arms,
    cell,
    cell_of,
    horizons,
    in_words,
    log10_mean,
    paired,
    return_bounds,
    scores,
    update_seconds,
)
from valex.studies.naming import AE, CE, MVE, RETRACE

LONGEST = 30  # the longest horizon of the source: a shorter grid cannot refute growth with H


def auc_contrast(
    grid: Grid, env: str, label: str, weights: dict[tuple[str, int], float], detail: str = ""
) -> Component | str:
    """Return sum_cells weight * AUC / return range, one value per seed that finished in all cells."""
    found = paired(grid, env, list(weights))
    if isinstance(found, str):
        return found
    low, high = return_bounds(grid, env)
    values = np.array(list(weights.values())) @ found.values / (high - low if high > low else math.nan)
    text = f"{detail}; " if detail else ""
    return Component(label, values, found.failed, f"{text}return range {high - low:,.4g}")


def together(parts: list[Component | str]) -> list[Component] | str:
    """Return the components, or the first reason why one of them is missing."""
    return next((p for p in parts if isinstance(p, str)), [p for p in parts if not isinstance(p, str)])


def longer_helps(grid: Grid, env: str, arm: str = CE) -> list[Component] | str:
    """Return AUC(3) - AUC(0) of an arm: H = 3 is the short end of the range the source names, not the best H seen."""
    return together([auc_contrast(grid, env, "AUC(3) − AUC(0)", {(arm, 3): 1.0, (arm, 0): -1.0})])


def gain_shrinks(grid: Grid, env: str, arm: str = CE) -> list[Component] | str:
    """Return the drops of the gain per model step of an arm: m(0,1) - m(1,3) and m(1,3) - m(3,5), m(a,b) = dAUC/(b - a)."""
    first = {(arm, 1): 1.0 + 0.5, (arm, 0): -1.0, (arm, 3): -0.5}
    second = {(arm, 3): 0.5 + 0.5, (arm, 1): -0.5, (arm, 5): -0.5}
    return together([
        auc_contrast(grid, env, "gain per step, 0→1 less 1→3", first),
        auc_contrast(grid, env, "gain per step, 1→3 less 3→5", second),
    ])  # fmt: skip


def little_beyond(grid: Grid, env: str, arm: str = CE) -> list[Component] | str:
    """Return AUC(longest H) - AUC(5) of an arm."""
    longest = max(horizons(grid, env, arm), default=0)
    if longest <= 5:
        return f"{NOT_RUN}: {in_words(grid, arm)} at H > 5"
    weights = {(arm, longest): 1.0, (arm, 5): -1.0}
    return together([auc_contrast(grid, env, "AUC(longest H) − AUC(5)", weights, f"H = {longest}")])


def long_rollouts_hurt(grid: Grid, env: str) -> list[Component] | str:
    """Return mean AUC over H >= 10 minus mean AUC over 1 <= H <= 5, of AE: all horizons that were run, none picked."""
    ran = horizons(grid, env, AE)
    long, short = [h for h in ran if h >= 10], [h for h in ran if 1 <= h <= 5]
    if not long or not short:
        return f"{NOT_RUN}: {in_words(grid, AE)} at 1 ≤ H ≤ 5 and at H ≥ 10"
    weights = {(AE, h): 1.0 / len(long) for h in long} | {(AE, h): -1.0 / len(short) for h in short}
    detail = f"H {{{', '.join(map(str, long))}}} against {{{', '.join(map(str, short))}}}"
    return together([auc_contrast(grid, env, "mean AUC, long less short H", weights, detail)])


def retrace_on_par(grid: Grid, env: str, other: str) -> list[Component] | str:
    """Return AUC of Retrace minus AUC of `other` at one equal H >= 1.

    H is where the two together are best (largest sum of mean AUC), a choice symmetric in the two.
    """
    shared = [h for h in horizons(grid, env, RETRACE) if h and h in horizons(grid, env, other)]
    means = {}
    for h in shared:
        both = [list(scores(grid._replace(floor=False), env, a, h).values()) for a in (RETRACE, other)]
        if all(both):
            means[h] = sum(float(np.mean(values)) for values in both)
    if not means:
        return f"{NOT_RUN}: Retrace and {'critic' if other == CE else 'actor'} expansion at an equal H"
    best = max(means, key=lambda h: means[h])
    weights = {(RETRACE, best): 1.0, (other, best): -1.0}
    return together([auc_contrast(grid, env, "AUC(Retrace) − AUC(expansion)", weights, f"H = {best}")])


def learned_arm(grid: Grid, env: str) -> str:
    """Return the arm of critic expansion with a learned model: the usual one, or else the first that is there."""
    found = arms(grid, env)
    return MVE if MVE in found else next((name for name in found if name.split(" ")[0] == MVE), MVE)


def learned_on_par(grid: Grid, env: str, horizons: tuple[int, ...] = (1, 3, 5)) -> list[Component] | str:
    """Return AUC(learned) - AUC(oracle) of critic expansion at each of the horizons that the source calls short."""
    ours = learned_arm(grid, env)
    return together([auc_contrast(grid, env, f"H = {h}", {(ours, h): 1.0, (CE, h): -1.0}) for h in horizons])


def learned_gain_shrinks(grid: Grid, env: str) -> list[Component] | str:
    """Return the drops of the gain per model step with a learned model; see `gain_shrinks`."""
    return gain_shrinks(grid, env, learned_arm(grid, env))


def same_as(grid: Grid, env: str, pairs: tuple[tuple[str, str], ...]) -> list[Component] | str:
    """Return AUC(arm) - AUC(other) at each horizon that both have, for pairs (arm, other)."""
    parts = []
    for ours, theirs in pairs:
        shared = [h for h in horizons(grid, env, ours) if h and h in horizons(grid, env, theirs)]
        if not shared:
            return f"{NOT_RUN}: {in_words(grid, ours)} and {in_words(grid, theirs)} at an equal H"
        name = in_words(grid, ours)
        parts += [auc_contrast(grid, env, f"{name}, H = {h}", {(ours, h): 1.0, (theirs, h): -1.0}) for h in shared]
    return together(parts)


def no_target_variance(grid: Grid, env: str) -> list[Component] | str:
    """Return within-state variance / total variance of the targets at the longest horizon that was measured."""
    runs = _targets(grid, env)
    if isinstance(runs, str):
        return runs
    shared, within = target_column(runs, "plain", "variance")
    share = within[:, -1] / target_column(runs, "plain", "total_variance")[1][:, -1]
    return [Component(f"H = {shared[-1]}", share[np.isfinite(share)], _failed_beside(grid, runs[0]))]


def target_runs(grid: Grid, env: str, key: str = "targets") -> list[StoredRun]:
    """Return the finished runs whose agents were measured: of the cell with most of them, the shortest H on a tie."""
    groups = []
    for (e, _, h), found in grid.cells.items():
        runs = [run for _, run in sorted(found.finished.items()) if run.diagnostics.get(key)]
        groups += [(-len(runs), h, runs)] if e == env and runs else []
    return min(groups, key=lambda group: group[:2])[2] if groups else []


def target_column(runs: list[StoredRun], estimator: str, key: str) -> tuple[list[int], np.ndarray]:
    """Return (horizons, values [n, K]) of a target statistic over runs, at the horizons that all runs have."""
    tables = [run.diagnostics["targets"] for run in runs]
    shared = [h for h in tables[0]["horizons"] if all(h in table["horizons"] for table in tables)]
    rows = [[table[estimator][key][table["horizons"].index(h)] for h in shared] for table in tables]
    return shared, np.array(rows, float)


def _targets(grid: Grid, env: str) -> list[StoredRun] | str:
    runs = target_runs(grid, env)
    return runs if runs else "not measured: no finished run has diagnostics.target_horizons"


def _failed_beside(grid: Grid, run: StoredRun) -> int:
    """Return how many runs of the cell of `run` diverged, so that no final agent could be measured."""
    return len(cell_of(grid, run).failed)


def same_targets(grid: Grid, env: str, key: str) -> list[Component] | str:
    """Return (mean target at H - reference) / sd of the H = 0 target, per horizon.

    `key` mean: the reference is the mean target at H = 0; bias: it is the Monte-Carlo return. Estimator plain.
    """
    runs = _targets(grid, env)
    if isinstance(runs, str):
        return runs
    shared, values = target_column(runs, "plain", key)
    if 0 not in shared or len(shared) < 2:
        return "not measured: targets at H = 0 and at a longer horizon"
    spread = np.sqrt(target_column(runs, "plain", "total_variance")[1][:, shared.index(0)])
    scaled = (values - (values[:, [shared.index(0)]] if key == "mean" else 0.0)) / spread[:, None]
    columns = {h: scaled[:, k] for k, h in enumerate(shared) if h > 0 or key == "bias"}
    failed = _failed_beside(grid, runs[0])
    return [Component(f"H = {h}", values[np.isfinite(values)], failed) for h, values in columns.items()]


def target_variance_grows(grid: Grid, env: str, estimator: str) -> list[Component] | str:
    """Return log10(variance at the longest H / at H = 0) of targets within a state, averaged over states."""
    runs = _targets(grid, env)
    if isinstance(runs, str):
        return runs
    shared, values = target_column(runs, estimator, "variance")
    longest = max(shared, default=0)
    if 0 not in shared or longest == 0:
        return "not measured: targets at H = 0 and at a longer horizon"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log10(values[:, shared.index(longest)] / values[:, shared.index(0)])
    limit = "" if longest >= LONGEST else f"less than tenfold up to H = {longest}, but the source goes to {LONGEST}"
    label, failed = "log10 variance ratio, longest H to 0", _failed_beside(grid, runs[0])
    return [Component(label, ratio[np.isfinite(ratio)], failed, f"H = {longest}", limit)]


def gradient_growth(grid: Grid, env: str, spread: tuple[str, float], name: str, h: int) -> Paired | str:
    """Return log10 of a spread of the actor's gradient at horizon h over that at H = 1, means over training, in one row.

    spread = (metric, power that makes it a standard deviation).
    """
    key, power = spread
    pair = paired(grid, env, [(name, h), (name, 1)], partial(log10_mean, key=key))
    return pair if isinstance(pair, str) else pair._replace(values=power * (pair.values[:1] - pair.values[1:]))


def gradient_explodes(
    grid: Grid, env: str, spread: tuple[str, float], name: str = AE, least: int = 3
) -> list[Component] | str:
    """Return the growth of a spread of an arm's gradient from H = 1 to every H >= least."""
    longer = [h for h in horizons(grid, env, name) if h >= least]
    if not longer:
        return f"{NOT_RUN}: {in_words(grid, name)} at H ≥ {least}"
    found = cell(grid, env, name, longer[0])
    inside = found and any(run.config.actor.divide_by_length for run in (found.finished | found.failed).values())
    parts = []
    for h in longer:
        growth = gradient_growth(grid, env, spread, name, h)
        if isinstance(growth, str):
            return growth
        detail = f"1/(H+1) {'inside' if inside else 'not inside'}"
        parts.append(Component(f"H = {h}", growth.values[0], growth.failed, detail))
    return parts


def slowdown(grid: Grid, env: str, name: str) -> list[Component] | str:
    """Return seconds per update at the longest H over those at H = 0 (medians over each run)."""
    longest = max(horizons(grid, env, name), default=0)
    found = paired(grid, env, [(name, longest), (name, 0)], update_seconds) if longest else ""
    if isinstance(found, str):
        return found or f"{NOT_RUN}: {in_words(grid, name)} at H > 0"
    return [Component("time ratio, longest H to 0", found.values[0] / found.values[1], found.failed, f"H = {longest}")]
