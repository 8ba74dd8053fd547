"""Figures of the horizon study: distributions of targets and statistics of actor gradients. Numbers only."""

import itertools

import numpy as np

from valex.statistics import iqm
from valex.store import StoredRun
from valex.studies.base import NOT_RUN, Figure, Panel, Plate, Series
from valex.studies.cells import Grid, arms, cell, envs, horizons, in_words
from valex.studies.horizon_measures import target_column, target_runs
from valex.studies.naming import AE, AE_LEARNED
from valex.studies.return_figures import along_training, value_bias
from valex.studies.series import INTERVAL, STEPS, horizon_bands, horizon_ticks, points, seeds_of

MODEL_STEPS = "horizon H (model steps)"
ESTIMATORS = {"plain": "plain", "doubly_robust": "doubly robust"}
TARGET_PANELS = (  # statistic, panel title, y label, log axis
    ("mean", "expected target", "mean target (return)", False),
    ("variance", "variance of the target", "within-state variance (return²)", True),
    ("w1", "distance to the true return", "1-Wasserstein distance (return)", False),
)
GRADIENT_PANELS = (
    ("sample_variance", "per-sample variance", "trace of covariance across samples", True),
    ("param_std", "std over parameter entries", "std over parameter entries", True),
    ("nonfinite_share", "non-finite gradients", "share of samples not finite", False),
)


def statistic_points(runs: list[StoredRun], estimator: str, key: str) -> Series | None:
    """Return a target statistic against H over measured agents, non-finite values left out."""
    if any(estimator not in run.diagnostics["targets"] for run in runs):
        return None
    shared, values = target_column(runs, estimator, key)
    columns = {h: values[np.isfinite(values[:, k]), k] for k, h in enumerate(shared)}
    return points(f"estimator {ESTIMATORS[estimator]}", estimator, columns)


def targets(grid: Grid) -> Plate:
    """Return mean, variance and Wasserstein distance of the targets of fixed agents against H, both estimators."""
    panels, left_out, sampled = [], [], set()
    for env in envs(grid):
        runs = target_runs(grid, env)
        if not runs:
            left_out.append(f"targets against H, {env}: no finished run has diagnostics.target_horizons")
            continue
        tables = [run.diagnostics["targets"] for run in runs]
        sampled |= {(table["states"], table["particles"]) for table in tables}
        truth = iqm(np.array([table["mc_return"] for table in tables], float))
        for key, title, ylabel, log_y in TARGET_PANELS:
            series = [s for name in ESTIMATORS if (s := statistic_points(runs, name, key))]
            rules = ((float(truth), "Monte-Carlo return"),) if key == "mean" else ()
            if series:
                ticks, name = horizon_ticks(series), f"{env} · {title}"
                log_y = log_y and all(bool(np.any(s.y > 0)) for s in series)  # a deterministic learner has none
                panels.append(Panel(name, MODEL_STEPS, ylabel, series, "horizon", ticks, log_y, rules))
    sizes = " or ".join(f"{s} states × {p} rollouts" for s, p in sorted(sampled))
    note = (
        f"Oracle rollouts on final agents, {sizes} each. Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}. "
        "Estimators: plain and doubly robust."
    )
    return Plate(panels, 3, note, left_out)


def estimators_used(grid: Grid) -> str:
    """Return which estimator each arm was trained with."""
    used = {}
    for (_, arm, h), found in grid.cells.items():
        if h and arm in arms(grid):
            runs = found.finished | found.failed | found.unfinished
            used[in_words(grid, arm)] = " and ".join(
                sorted({ESTIMATORS[run.config.critic.estimator] for run in runs.values()})
            )
    return "; ".join(f"{arm}: {estimators}" for arm, estimators in used.items())


def target_variance(grid: Grid) -> Plate:
    """Return the variance of the mini-batch of targets along training."""
    labels = ("variance over the batch (return²)", "target variance")
    plate = along_training(grid, "target/variance", labels, log_y=True)
    return plate._replace(note=f"Estimator of the critic's target, {estimators_used(grid)}. {plate.note}")


def target_mean(grid: Grid) -> Plate:
    """Return the mean of the mini-batch of targets along training."""
    plate = along_training(grid, "target/mean", ("mean over the batch (return)", "target mean"))
    return plate._replace(note=f"Estimator of the critic's target, {estimators_used(grid)}. {plate.note}")


def factor_text(inside: set[bool]) -> str:
    """Return whether the objective is divided by H + 1, in words."""
    if inside == {True}:
        return "objective divided by H + 1: the factor 1/(H+1) is inside"
    if inside == {False}:
        return "objective not divided: the factor 1/(H+1) is not inside"
    return "some runs with and some without the factor 1/(H+1)"


def actor_gradients(grid: Grid) -> Plate:
    """Return actor-gradient statistics of fixed agents against the horizon of actor expansion."""
    panels, left_out, tables = [], [], []
    for env in envs(grid):
        runs = target_runs(grid, env, "actor_gradients")
        if not runs:
            left_out.append(f"actor gradients against H, {env}: no finished run has them (diagnostics.target_horizons)")
            continue
        found = [run.diagnostics["actor_gradients"] for run in runs]
        tables += found
        shared = [h for h in found[0]["horizons"] if all(h in table["horizons"] for table in found)]
        for key, title, ylabel, log_y in GRADIENT_PANELS:
            values = np.array([[table[key][table["horizons"].index(h)] for h in shared] for table in found], float)
            columns = {h: values[np.isfinite(values[:, k]), k] for k, h in enumerate(shared)}
            series = points("actor expansion (AE) on final agents", AE, columns)
            if series:
                ticks = horizon_ticks([series])
                panels.append(Panel(f"{env} · {title}", MODEL_STEPS, ylabel, [series], "horizon", ticks, log_y))
            else:
                left_out.append(f"actor gradients, {env}, {title}: no finite value")
    note = (
        f"Oracle actor expansion on final agents, {factor_text({t['divide_by_length'] for t in tables})}; estimator "
        f"{', '.join(sorted({t['estimator'] for t in tables}))}. Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}."
    )
    return Plate(panels, 3, note, left_out)


def actor_gradient_training(grid: Grid) -> Plate:
    """Return both spreads of the actor gradient along training with actor expansion, one band per horizon."""
    names = [a for a in arms(grid) if a.split(" ")[0] in (AE, AE_LEARNED)]
    statistics = (
        ("actor/grad_param_std", "std over parameter entries", True),
        ("grad/actor_sample_variance", "trace of covariance across samples", True),
        ("grad/nonfinite_share", "share of samples not finite", False),
    )
    panels, left_out, inside = [], [], set()
    for env, arm in itertools.product(envs(grid), names):
        cells = [found for h in horizons(grid, env, arm) if h and (found := cell(grid, env, arm, h))]
        inside |= {run.config.actor.divide_by_length for found in cells for run in found.finished.values()}
        for key, ylabel, log_y in statistics:
            title = f"{env} · {ylabel}" + (f" · {in_words(grid, arm)}" if len(names) > 1 else "")
            series = horizon_bands(grid, env, arm, key)
            if series:
                panels.append(Panel(title, STEPS, ylabel, series, log_y=log_y))
            else:
                left_out.append(f"actor gradient along training, {title}: no run has logged {key}")
    if not names:
        left_out.append(f"actor gradient along training: {in_words(grid, AE)} {NOT_RUN}")
    note = f"Actor expansion, {factor_text(inside)}. Line: IQM over {seeds_of(panels)}; band: {INTERVAL}."
    return Plate(panels, 3, note, left_out)


DIAGNOSTIC_FIGURES = (
    Figure(
        "targets",
        "Targets against the horizon",
        "Targets of one and the same agent at several horizons. Left: their mean, with the Monte-Carlo return as "
        "dashed line; flat and close to it means that the value function already knows what longer rollouts find "
        "out. Middle: their noise, the variance over rollouts of one state, averaged over states. Right: distance "
        "between the distribution of targets and that of Monte-Carlo returns.",
        targets,
    ),
    Figure(
        "target_mean",
        "Mean target during training",
        "Mean of the targets in a mini-batch while training with that horizon. It grows with the returns of the agent.",
        target_mean,
    ),
    Figure(
        "target_variance",
        "Target variance during training",
        "Variance over the targets of a mini-batch while training with that horizon. It holds the spread between "
        "states as well as the noise of the target; the figure above separates the noise.",
        target_variance,
    ),
    Figure(
        "actor_gradients",
        "Actor gradients against the horizon",
        "The gradient that actor expansion would follow at several horizons, on one and the same agent. Left: "
        "variance across samples (trace of the covariance matrix). Middle: what the literature plots, the spread "
        "over PARAMETER ENTRIES of the mean gradient, which is not a noise. Right: share of samples whose gradient "
        "is not finite.",
        actor_gradients,
    ),
    Figure(
        "actor_gradient_training",
        "Actor gradients during training",
        "The same statistics while training with actor expansion at that horizon.",
        actor_gradient_training,
    ),
    Figure(
        "value_bias",
        "Bias of the critic",
        "The critic minus the Monte-Carlo return of the same policy, entropy bonus included. Above the grey line "
        "the critic overestimates.",
        value_bias,
    ),
)
