"""Figures that any study of returns against the horizon can show: returns, bias and cost. Numbers only."""

import itertools

import numpy as np

from valex.studies.base import Figure, Panel, Plate, Series
from valex.studies.cells import (
    BASELINE,
    RETURN,
    Grid,
    arms,
    auc,
    envs,
    final,
    finished,
    horizons,
    in_words,
    paired,
    update_seconds,
)
from valex.studies.series import (
    HORIZON,
    INTERVAL,
    STEPS,
    by_horizon,
    horizon_bands,
    horizon_ticks,
    points,
    seeds_of,
    spans_decades,
)


def along_training(grid: Grid, key: str, labels: tuple[str, str], log_y: bool = False) -> Plate:
    """Return panels (environment x arm) of a metric along training, one band per horizon; labels = (y label, what)."""
    panels, left_out, names = [], [], arms(grid)
    rules = ((0.0, ""),) if key == "value/bias" else ()
    for env, arm in itertools.product(envs(grid), names):
        series = horizon_bands(grid, env, arm, key, with_failed=key == RETURN)
        title = f"{env} · {in_words(grid, arm)}"
        if series:
            panels.append(Panel(title, STEPS, labels[0], series, log_y=log_y, rules=rules))
        else:
            left_out.append(f"{labels[1]}, {title}: no run has logged {key}")
    return Plate(panels, len(names), f"Line: IQM over {seeds_of(panels)}; band: {INTERVAL}.", left_out)


def learning_curves(grid: Grid) -> Plate:
    """Return the evaluation return along training."""
    return along_training(grid, RETURN, ("episode return", "learning curve"))


def value_bias(grid: Grid) -> Plate:
    """Return the critic's bias along training."""
    return along_training(grid, "value/bias", ("Q − Monte-Carlo return", "value bias"))


def auc_and_final(grid: Grid) -> Plate:
    """Return area under the curve and final return against H, one row per environment."""
    panels, left_out = [], []
    for env, (name, measure) in itertools.product(envs(grid), (("area under the curve", auc), ("final return", final))):
        series = by_horizon(grid, env, measure)
        if series:
            ylabel = f"{name} (return)" if measure is auc else "episode return, last evaluation"
            panels.append(Panel(f"{env} · {name}", HORIZON, ylabel, series, "horizon", horizon_ticks(series)))
        else:
            left_out.append(f"{name} against H, {env}: no finished run")
    note = f"Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}. H = 0 is one set of runs, shown in every arm."
    return Plate(panels, 2, note, left_out)


def gain_columns(grid: Grid, env: str, arm: str) -> dict[tuple[int, int], np.ndarray]:
    """Return (AUC(b) - AUC(a)) / (b - a) by neighbouring horizons (a, b), one value per seed that finished both."""
    columns = {}
    for a, b in itertools.pairwise(horizons(grid, env, arm)):
        found = paired(grid, env, [(arm, a), (arm, b)])
        if not isinstance(found, str) and found.values.shape[1]:
            columns[a, b] = (found.values[1] - found.values[0]) / (b - a)
    return columns


def marginal_gain(grid: Grid) -> Plate:
    """Return the gain of AUC per extra model step between neighbouring horizons."""
    panels, left_out = [], []
    for env in envs(grid):
        gains = {arm: gain_columns(grid, env, arm) for arm in arms(grid, env)}
        gaps = sorted({gap for columns in gains.values() for gap in columns})
        found = [
            points(in_words(grid, arm), arm, {gaps.index(gap): values for gap, values in columns.items()})
            for arm, columns in gains.items()
        ]
        series = [s for s in found if s]
        if series:
            ticks = tuple((float(k), f"{a}→{b}") for k, (a, b) in enumerate(gaps))
            title, ylabel = f"{env} · marginal gain", "AUC gain per model step (return)"
            panels.append(Panel(title, "horizon from → to", ylabel, series, "category", ticks, rules=((0.0, ""),)))
        else:
            left_out.append(f"marginal gain, {env}: no two horizons of an arm share a finished seed")
    note = f"Point: IQM over {seeds_of(panels)} of differences paired by seed; bar: {INTERVAL}."
    return Plate(panels, min(3, max(1, len(panels))), note, left_out)


def split_series(grid: Grid, env: str, arm: str) -> list[Series]:
    """Return milliseconds of rollout, critic and actor, where there is one, against H, from diagnostics.overhead."""
    parts: dict[str, dict[int, np.ndarray]] = {"rollout": {}, "critic": {}, "actor": {}}
    for h in horizons(grid, env, arm):
        runs = finished(grid, env, arm, h)
        timed = [run.diagnostics["overhead"] for run in runs if run.diagnostics.get("overhead")]
        for name, columns in parts.items():
            if timed:
                columns[h] = 1e3 * np.array([row[f"{name}_s"] for row in timed], float)
    taken = {name: columns for name, columns in parts.items() if any(np.any(values) for values in columns.values())}
    return [s for name, columns in taken.items() if (s := points(name, name, columns))]


def overhead(grid: Grid) -> Plate:
    """Return time per update relative to H = 0 against H, one panel per environment."""
    panels, left_out = [], []
    for env in envs(grid):
        found = []
        for arm in arms(grid, env):
            pairs = {h: paired(grid, env, [(arm, h), (BASELINE, 0)], update_seconds) for h in horizons(grid, env, arm)}
            columns = {h: p.values[0] / p.values[1] for h, p in pairs.items() if not isinstance(p, str)}
            found.append(points(in_words(grid, arm), arm, columns))
        series = [s for s in found if s]
        if series:
            ylabel, log = "time per update / time at H = 0", spans_decades(series)
            panels.append(Panel(env, HORIZON, ylabel, series, "linear", horizon_ticks(series), log, ((1.0, ""),)))
        else:
            left_out.append(f"time per update, {env}: no seed finished at H = 0 and at a longer horizon")
    note = (
        f"Point: IQM over {seeds_of(panels)} of ratios paired by seed; bar: {INTERVAL}. "
        "Median seconds of a whole training step per update, collection included, evaluation not."
    )
    return Plate(panels, min(3, max(1, len(panels))), note, left_out)


def overhead_split(grid: Grid) -> Plate:
    """Return milliseconds of one update split into rollout, critic and actor, per environment and arm."""
    panels, left_out, names = [], [], arms(grid)
    for env, arm in itertools.product(envs(grid), names):
        series, title = split_series(grid, env, arm), f"{env} · {in_words(grid, arm)}"
        if series:
            panels.append(Panel(title, HORIZON, "ms per update", series, "linear", horizon_ticks(series)))
        else:
            left_out.append(f"split of an update, {title}: no finished run has diagnostics.overhead")
    runs = [r for c in grid.cells.values() for r in c.finished.values() if r.diagnostics.get("overhead")]
    devices = sorted({str(run.diagnostics["overhead"].get("device", "unknown device")) for run in runs})
    note = f"Median of repeated calls on one agent per cell; n = {len(runs)} agents, on {', '.join(devices)}."
    return Plate(panels, len(names), note, left_out)


RETURN_FIGURES = (
    Figure(
        "learning_curves",
        "Learning curves",
        "One panel per environment and arm, one line per horizon from dark to light; black is H = 0, the learner alone, the "
        "same runs in every panel of an environment. A dashed line that ends in a cross is a run that diverged; it "
        "is not in the mean.",
        learning_curves,
    ),
    Figure(
        "auc_and_final",
        "Return against the horizon",
        "Left: area under the learning curve divided by its length, so the mean return over training: speed and "
        "level in one number. Right: the last evaluation, never the best. Where bars overlap, a difference is not "
        "shown.",
        auc_and_final,
    ),
    Figure(
        "marginal_gain",
        "Marginal gain per extra model step",
        "What one more model step buys: the AUC at a horizon minus the AUC at the next shorter one, per model step. "
        "Above the grey line it pays; points that fall from left to right are a diminishing return.",
        marginal_gain,
    ),
    Figure(
        "overhead",
        "Wall-clock overhead",
        "Time per training step against the horizon, relative to H = 0 of the same seed. A line at 1 costs nothing. "
        "Runs that shared a machine disturb each other, so small differences mean little.",
        overhead,
    ),
    Figure(
        "overhead_split",
        "Where the time of an update goes",
        "Rollout is the making of the critic's target (model steps of critic expansion included), actor the "
        "gradient of the actor loss (model steps of actor expansion included), critic the rest: critic gradient, "
        "optimisers, target network.",
        overhead_split,
    ),
)
