"""Figures of the study trust-your-model. Numbers only."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from valex.studies.base import Figure, Panel, Plate, Series
from valex.studies.cells import (
    BASELINE,
    RETURN,
    Grid,
    auc,
    column,
    envs,
    final,
    finished,
    horizons,
    in_words,
    late_mean,
    paired,
    restrict,
)
from valex.studies.naming import CE, MVE
from valex.studies.return_figures import along_training, auc_and_final, overhead
from valex.studies.series import (
    HORIZON,
    INTERVAL,
    STEPS,
    averaged,
    by_horizon,
    horizon_bands,
    horizon_ticks,
    iqm_interval,
    mean_and_sd,
    points,
    seeds_of,
    spans_decades,
    variance,
)
from valex.studies.trust_claims import dial_arms, error_by_steps, one_step_error

MODELS = (CE, MVE)
MEASURES = (("area under the curve", auc), ("final return", final))
STATISTICS = (  # title, statistic, unit, its own axis
    ("IQM", iqm_interval, "return", False),
    ("mean ± sd", mean_and_sd, "return", False),
    ("variance", variance, "return²", True),
)
DIAL_NAMES = {
    "noise": "noisy oracle, rising noise",
    "bias": "noisy oracle, rising bias",
    "data": "learned, from fewer steps",
}
LOOPS = (("open_loop", "recorded actions"), ("closed_loop", "actions of the policy"))


def learning_curves(grid: Grid) -> Plate:
    """Return the evaluation return along training, one panel per model."""
    return along_training(restrict(grid, MODELS), RETURN, ("episode return", "learning curve"))


def returns(grid: Grid) -> Plate:
    """Return area under the curve and final return against H, both models."""
    return auc_and_final(restrict(grid, MODELS))


def seed_statistics(grid: Grid) -> Plate:
    """Return the statistics of 2412.20537 (IQM) beside those of 2203.14660 (mean and variance), against H."""
    grid, panels, left_out = restrict(grid, MODELS), [], []
    for env, (name, measure) in itertools.product(envs(grid), MEASURES):
        for title, statistic, unit, log_y in STATISTICS:
            series = by_horizon(grid, env, measure, statistic)
            if series:
                where = f"{env} · {'AUC' if measure is auc else name}, {title}"
                panels.append(Panel(where, HORIZON, unit, series, "horizon", horizon_ticks(series), log_y))
            else:
                left_out.append(f"{title}, {name} against H, {env}: too few finished runs")
    note = (
        f"Over {seeds_of(panels)}. Left: {INTERVAL}. Middle and right: plain mean and unbiased variance, no interval."
    )
    return Plate(panels, len(STATISTICS), note, left_out)


def oracle_gap(grid: Grid) -> Plate:
    """Return what the oracle gains over the learned model at equal H, paired by seed."""
    panels, left_out = [], []
    for env in envs(grid):
        shared = [h for h in horizons(grid, env, CE) if h and h in horizons(grid, env, MVE)]
        found = []
        for colour, (name, measure) in zip(("first", "second"), MEASURES, strict=True):
            pairs = {h: paired(grid, env, [(CE, h), (MVE, h)], measure) for h in shared}
            columns = {h: p.values[0] - p.values[1] for h, p in pairs.items() if not isinstance(p, str)}
            found.append(points(name, colour, columns))
        series = [s for s in found if s]
        if series:
            ticks = horizon_ticks(series)
            panels.append(
                Panel(env, HORIZON, "oracle − learned (return)", series, "horizon", ticks, rules=((0.0, ""),))
            )
        else:
            left_out.append(f"oracle less learned, {env}: no seed finished with both at an equal H")
    note = f"Point: IQM over {seeds_of(panels)} of differences paired by seed; bar: {INTERVAL}."
    return Plate(panels, min(3, max(1, len(panels))), note, left_out)


def bias_and_variance(grid: Grid) -> Plate:
    """Return the critic's bias and the variance of its targets against H, means over the second half of training."""
    grid, panels, left_out = restrict(grid, MODELS), [], []
    kinds = (
        ("value/bias", "bias of the critic", "Q − Monte-Carlo return", ((0.0, ""),)),
        ("target/variance", "variance of the targets", "variance over the batch (return²)", ()),
    )
    for env, (key, title, ylabel, rules) in itertools.product(envs(grid), kinds):
        series = by_horizon(grid, env, partial(late_mean, key=key))
        if series:
            log_y = key == "target/variance" and spans_decades(series)
            panels.append(
                Panel(f"{env} · {title}", HORIZON, ylabel, series, "horizon", horizon_ticks(series), log_y, rules)
            )
        else:
            left_out.append(f"{title} against H, {env}: no finished run has logged {key}")
    note = f"Means over the second half of training. Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}."
    return Plate(panels, len(kinds), note, left_out)


def model_error_training(grid: Grid) -> Plate:
    """Return the squared error of the model on its own mini-batches along training, one band per horizon."""
    panels, left_out = [], []
    for env in envs(grid):
        series = horizon_bands(restrict(grid, (MVE,)), env, MVE, "model/mse")
        if series:
            ylabel = "squared error (squared one-step changes)"
            panels.append(Panel(f"{env} · {in_words(grid, MVE)}", STEPS, ylabel, series, log_y=True))
        else:
            left_out.append(f"model error along training, {env}: no run has logged model/mse")
    note = f"Line: IQM over {seeds_of(panels)}; band: {INTERVAL}. Error of one step on the data that it is trained on."
    return Plate(panels, min(3, max(1, len(panels))), note, left_out)


def error_line(label: str, colour: str, rows: list[np.ndarray]) -> Series | None:
    """Return IQM and interval of errors after 1..K steps over runs, or None where all are 0 or there are none."""
    rows = [row for row in rows if len(row)]
    found = averaged(label, colour, rows) if rows else None
    return found if found and np.all(found.y > 0) and np.all(np.isfinite(found.y)) else None


def error_growth(grid: Grid) -> Plate:
    """Return the error of learned models against the number of model steps, on new episodes of the final agents."""
    panels, left_out, places = [], [], set()
    for env, (loop, how) in itertools.product(envs(grid), LOOPS):
        here, dials = dial_arms(grid, env)
        found = []
        for colour, arm in zip(("fourth", "third", "second"), reversed(dials.get("data", [])[-3:]), strict=False):
            runs = finished(grid, env, arm, here)
            places |= {here} if runs else set()
            found.append(error_line(in_words(grid, arm), colour, [error_by_steps(run, loop) for run in runs]))
            if arm == MVE:
                found.append(
                    error_line("standing still", BASELINE, [error_by_steps(run, loop, "persistence") for run in runs])
                )
        series = [s for s in found if s]
        if series:
            ylabel = "error (sd of the observation)"
            panels.append(Panel(f"{env} · {how}", "model steps", ylabel, series, log_y=True))
        else:
            left_out.append(
                f"error against model steps, {env}, {how}: no finished run has diagnostics.model_error_steps"
            )
    at = ", ".join(f"H = {h}" for h in sorted(places))
    note = f"Root mean square over starts; line: IQM over {seeds_of(panels)}; band: {INTERVAL}. Trained at {at}."
    return Plate(panels, 2, note, left_out)


def dial_points(grid: Grid, env: str, names: list[str], h: int, measure: Callable) -> Series | None:
    """Return a return of some arms against their measured error, both IQM over seeds, without what has no error."""
    rows = []
    for name in names:
        errors, values = (column(grid, env, name, h, what) for what in (one_step_error, measure))
        if len(errors) and len(values) and float(iqm_interval(errors).value) > 0:
            rows.append((float(iqm_interval(errors).value), *map(float, iqm_interval(values)), len(values)))
    if not rows:
        return None
    x, value, low, high, n = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return Series("", "", x, value, low, high, tuple(map(int, n)), "points")


def return_against_error(grid: Grid) -> Plate:
    """Return area under the curve and final return against the measured one-step error of the model."""
    panels, left_out, places = [], [], set()
    for env, (title, measure) in itertools.product(envs(grid), MEASURES):
        (here, dials), series = dial_arms(grid, env), []
        for colour, (name, names) in zip(("first", "second", "third"), dials.items(), strict=False):
            found = dial_points(grid, env, [a for a in names if a != CE], here, measure)
            series += [found._replace(label=DIAL_NAMES[name], colour=colour)] if found else []
        marks = (("oracle, no error", CE, here), ("no expansion (H = 0), no model", BASELINE, 0))
        groups = [(name, column(grid, env, arm, h, measure)) for name, arm, h in marks]
        rules = tuple((float(iqm_interval(values).value), name) for name, values in groups if len(values))
        if series:
            places.add(here)
            where, xlabel = f"{env} · {title}", "one-step error of the model (sd of the observation)"
            panels.append(Panel(where, xlabel, "return", series, "log", rules=rules))
        else:
            left_out.append(f"{title} against model error, {env}: no finished run has diagnostics.model_error_steps")
    at = ", ".join(f"H = {h}" for h in sorted(places))
    note = (
        f"Critic expansion at {at}. Point: IQM over {seeds_of(panels)}, of the measured error and of the return; "
        f"bar: {INTERVAL}. The dashed lines have no interval here."
    )
    return Plate(panels, 2, note, left_out)


def cost(grid: Grid) -> Plate:
    """Return time per update relative to H = 0 against H, both models."""
    return overhead(restrict(grid, MODELS))


FIGURES = (
    Figure(
        "learning_curves",
        "Learning curves",
        "One panel per model, one line per horizon from dark to light; black is H = 0, plain SAC, the same runs in both. A "
        "dashed line that ends in a cross is a run that diverged; it is not in the mean.",
        learning_curves,
    ),
    Figure(
        "auc_and_final",
        "Return against the horizon, learned model and oracle",
        "Left: area under the learning curve divided by its length. Right: the last evaluation, never the best. Where bars "
        "overlap, a difference is not shown; the paired gap below sees more.",
        returns,
    ),
    Figure(
        "seed_statistics",
        "The same with mean and variance over seeds",
        "What the precursor reports, mean and variance of 5 seeds, beside the interquartile mean and its interval. A mean below "
        "its IQM has a seed that failed to learn; the variance shows how often that happens.",
        seed_statistics,
    ),
    Figure(
        "oracle_gap",
        "What the oracle gains over the learned model",
        "Return with the oracle less return with the learned model, seed by seed, at equal H. Points on the grey line: model "
        "error costs nothing. Points that rise with H: it costs more the longer the rollout.",
        oracle_gap,
    ),
    Figure(
        "return_against_error",
        "Return against model error",
        "The same algorithm at one horizon with models of a rising, measured one-step error. A flat curve: the return does not "
        "hang on the model. Points right of where it falls show how much error value expansion stands; below the line of plain "
        "SAC it is worse than no model.",
        return_against_error,
    ),
    Figure(
        "error_growth",
        "Error of the learned model against the length of a rollout",
        "How far the model's path is from the simulator's after so many steps, in standard deviations of the observation, along "
        "recorded actions and along the policy's own. Standing still is the prediction that nothing changes.",
        error_growth,
    ),
    Figure(
        "bias_and_variance",
        "Bias of the critic and variance of its targets",
        "Left: the critic less the Monte-Carlo return of the same policy; above the grey line it overestimates. Right: spread of "
        "the targets in a mini-batch, between states and within one.",
        bias_and_variance,
    ),
    Figure(
        "model_error_training",
        "Model error during training",
        "Squared one-step error in units of typical changes. It can rise while the policy finds states new to the model.",
        model_error_training,
    ),
    Figure(
        "overhead",
        "Wall-clock overhead",
        "Time per training step against the horizon, relative to H = 0 of the same seed; training of the learned model included. "
        "Runs that shared a machine disturb each other, so small differences mean little.",
        cost,
    ),
)
