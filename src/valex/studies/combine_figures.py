"""Figures of the study combine-horizons: one row per rule, all models side by side. Numbers only."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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
    late_mean,
    paired,
    restrict,
    update_seconds,
)
from valex.studies.combine_claims import COMBINED
from valex.studies.naming import CE, MVE, arm_name, learned, rule_name, without_model
from valex.studies.return_figures import auc_and_final
from valex.studies.series import INTERVAL, STEPS, band, points, seeds_of, spans_decades

RULE_ORDER = (BASELINE, CE, f"{CE}_mean", f"{CE}_min", f"{CE}_td_lambda", f"{CE}_steve")  # the rest behind them
SOURCES = {"no model": BASELINE, "oracle": CE, "learned": MVE}  # label and colour
Place = tuple[str, int]  # an arm whatever its model, and its horizon


class Kind(NamedTuple):
    """One quantity per run."""

    title: str
    unit: str
    measure: Callable  # (StoredRun) -> float
    line: float | None = None  # a reference


def places(grid: Grid, env: str) -> dict[Place, str]:
    """Return what was run in an environment, whatever the model, with its label, from top to bottom."""
    found = {(without_model(arm), h) for e, arm, h in grid.cells if e == env}
    combined = {h for arm, h in found if arm not in (BASELINE, CE) and h}

    def order(place: Place) -> tuple:
        base, _, settings = place[0].partition(" ")
        last = base not in RULE_ORDER or (bool(settings) and base == CE)
        return (last, RULE_ORDER.index(base) if base in RULE_ORDER else 0, settings, place[1])

    def label(arm: str, h: int) -> str:
        if h == 0:
            return arm_name(arm).replace(" (H = 0)", "")
        alone = arm == CE or len(combined) == 1
        return rule_name(arm, h) if alone else f"{rule_name(arm, h)}, H = {h}"

    return {place: label(*place) for place in sorted(found, key=order)}


def source(arm: str) -> str:
    """Return where an arm's rollouts come from."""
    return "no model" if arm.split(" ")[0] == BASELINE else "learned" if learned(arm) else "oracle"


def by_place(grid: Grid, env: str, values: Callable) -> list[Series]:
    """Return one series of marks per source; values(arm, H) gives those of a cell, one per seed."""
    where = list(places(grid, env))
    series = []
    for name, colour in SOURCES.items():
        columns = {
            where.index((without_model(arm), h)): values(arm, h)
            for e, arm, h in grid.cells
            if e == env and source(arm) == name
        }
        series.append(points(name, colour, dict(sorted(columns.items())), "marks"))
    return [s for s in series if s]


def rule_panel(grid: Grid, env: str, kind: Kind, values: Callable) -> Panel | None:
    """Return one quantity with a row per rule that has it, or None without any; values(arm, H) gives those of a cell."""
    names, series = list(places(grid, env).values()), by_place(grid, env, values)
    if not series:
        return None
    used = sorted({int(x) for s in series for x in s.x})
    series = [s._replace(x=np.array([float(used.index(int(x))) for x in s.x])) for s in series]
    ticks = tuple((float(k), names[place]) for k, place in enumerate(used))
    rules = ((kind.line, ""),) if kind.line is not None else ()
    log = kind.line != 0.0 and spans_decades(series)
    return Panel(f"{env} · {kind.title}", "", kind.unit, series, "rows", ticks, log, rules)


def by_rule(grid: Grid, kinds: tuple[Kind, ...], note: str = "") -> Plate:
    """Return one panel per environment and quantity."""
    panels, left_out = [], []
    for env, kind in itertools.product(envs(grid), kinds):
        panel = rule_panel(grid, env, kind, lambda arm, h, e=env, k=kind: column(grid, e, arm, h, k.measure))
        if panel:
            panels.append(panel)
        else:
            left_out.append(f"{kind.title}, {env}: no finished run has it")
    columns = len(kinds) if len(kinds) > 1 else 2
    return Plate(panels, columns, f"{note}Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}.", left_out)


def returns(grid: Grid) -> Plate:
    """Return area under the curve and final return of every rule."""
    return by_rule(grid, (Kind("area under the curve", "return", auc), Kind("final return", "return", final)))


def bias(grid: Grid) -> Plate:
    """Return the critic's bias under every rule."""
    measure = partial(late_mean, key="value/bias")
    return by_rule(
        grid,
        (Kind("bias of the critic", "Q − Monte-Carlo return", measure, 0.0),),
        "Means over the second half of training. ",
    )


def spread(grid: Grid) -> Plate:
    """Return the variance of the mini-batch of targets under every rule."""
    measure = partial(late_mean, key="target/variance")
    return by_rule(
        grid,
        (Kind("variance of the targets", "variance (return²)", measure),),
        "Means over the second half of training. ",
    )


def horizon_used(grid: Grid) -> Plate:
    """Return how far targets look, and what they are below the mean over horizons, where rules choose from row to row."""
    kinds = (
        Kind("horizon used", "model steps", partial(late_mean, key="target/horizon")),
        Kind("model use", "share of weight on h > 0", partial(late_mean, key="target/model_use")),
        Kind("gap", "mean − target (return)", partial(late_mean, key="target/gap"), 0.0),
    )
    return by_rule(grid, kinds, "Means over the second half of training, of rules that choose a horizon row by row. ")


def seconds(grid: Grid) -> Plate:
    """Return the time per update of every rule, relative to plain SAC of the same seed."""
    panels, left_out = [], []

    def ratio(env: str, arm: str, h: int) -> np.ndarray:
        found = paired(grid, env, [(arm, h), (BASELINE, 0)], update_seconds)
        return np.zeros(0) if isinstance(found, str) else found.values[0] / found.values[1]

    kind = Kind("time per update", "time / time of SAC", update_seconds, 1.0)
    for env in envs(grid):
        panel = rule_panel(grid, env, kind, partial(ratio, env))
        if panel:
            panels.append(panel)
        else:
            left_out.append(f"time per update, {env}: no seed finished with and without a model")
    note = (
        f"Point: IQM over {seeds_of(panels)} of ratios paired by seed; bar: {INTERVAL}. Training of the model included."
    )
    return Plate(panels, 2, note, left_out)


def one_horizon(grid: Grid) -> Plate:
    """Return area under the curve and final return against H where one horizon alone is used."""
    return auc_and_final(restrict(grid, (CE, MVE)))


def combined_at(grid: Grid, env: str) -> int:
    """Return the horizon at which rules are compared: H = 3, or the longest where there is none."""
    found = {h for e, _, h in grid.cells if e == env}
    return COMBINED if COMBINED in found else max(found, default=0)


def curves(grid: Grid, variants: bool) -> Plate:
    """Return learning curves at one horizon: the rules, or the variants of the model and of the rollout."""
    panels, left_out = [], []
    for env, name in itertools.product(envs(grid), ("learned", "oracle")):
        h = combined_at(grid, env)
        series = []
        for arm, at in places(grid, env):
            is_variant = arm.startswith(f"{CE} ")
            shown = (arm == BASELINE and at == 0) or (at == h and (arm == CE or is_variant == variants))
            runs = finished(grid, env, arm if at == 0 else _with(arm, name), at) if shown else []
            found = band(rule_name(arm, at), arm, runs, RETURN) if runs else None
            series += [found] if found else []
        if len(series) > 2:  # more than plain SAC and one horizon
            panels.append(Panel(f"{env} · {name}, H = {h}", STEPS, "episode return", series))
        else:
            left_out.append(f"learning curves, {env}, {name}: none of these was run")
    return Plate(panels, 2, f"Line: IQM over {seeds_of(panels)}; band: {INTERVAL}.", left_out)


def _with(arm: str, name: str) -> str:
    """Return an arm with the model of that name."""
    return MVE + arm[len(CE) :] if name == "learned" and arm.startswith(CE) else arm


FIGURES = (
    Figure(
        "returns",
        "Return of every rule",
        "Area under the learning curve divided by its length, and the last evaluation. One row per rule: filled with the "
        "oracle, hollow with the learned model; black is SAC without a model.",
        returns,
    ),
    Figure(
        "one_horizon",
        "Return against a single horizon",
        "The rules that look exactly H steps ahead, as in the horizon study.",
        one_horizon,
    ),
    Figure(
        "bias",
        "Overestimation",
        "The critic less the Monte-Carlo return of the same policy, entropy bonus included. Above the grey line the critic "
        "overestimates; a rule that takes a minimum is expected below the others.",
        bias,
    ),
    Figure(
        "variance",
        "Variance of the targets",
        "Spread of the targets in a mini-batch, between states and within one. Averages over horizons, members or critics lower "
        "the noise in it.",
        spread,
    ),
    Figure(
        "horizon_used",
        "Which horizons the rules use",
        "Mean horizon at which a target bootstraps, the weight of everything but the one-step target (STEVE's average model "
        "use), and how far the target lies below the mean over horizons, which is what a minimum costs.",
        horizon_used,
    ),
    Figure(
        "curves_rules",
        "Learning curves of the rules",
        "All at one horizon; black is plain SAC, blue one horizon alone.",
        partial(curves, variants=False),
    ),
    Figure(
        "curves_variants",
        "Learning curves of the variants",
        "One horizon alone, with what is to stabilise it: stopping where members disagree, a critic trained on imagined states "
        "(TD-k), an ensemble against a single model, a loss over several steps.",
        partial(curves, variants=True),
    ),
    Figure(
        "overhead",
        "Wall-clock overhead",
        "Time per training step relative to plain SAC of the same seed; training of the learned model included. Runs that shared "
        "a machine disturb each other, so small differences mean little.",
        seconds,
    ),
)
