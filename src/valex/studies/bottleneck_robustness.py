"""The claims D1 to D3, ours [D]: ensembles and linear values, errors at test time, and a rule that picks the extractor.

Their datasets have one amount of data, one value of the study's own and one setting of AWR and of DDPG+BC, chosen before any run.
Scores are compared in points of 100 (`points_per_unit`), so that one margin holds on every dataset.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from valex.offline.extraction_rule import FEATURE_NAMES, Judged, Stump, describe_stump, fit_stump, judge_rule
from valex.settings.offline import ValueKind
from valex.statistics import Interval, mean, stratified_bootstrap
from valex.studies.base import NOT_RUN, TOGETHER, Claim, Component
from valex.studies.bottleneck_measures import (
    ABOVE,
    EXTRACTORS,
    at_test_time,
    lost_seeds,
    numbers,
    plan_of,
    settings_of,
)
from valex.studies.bottleneck_panels import unit_of
from valex.studies.bottleneck_policies import TESTS, best_of
from valex.studies.judge import MIN_SEEDS
from valex.studies.offline import ROBUSTNESS, Board, DataPlan

AWR, DDPG, _ = EXTRACTORS
HUNDRED = ("success", "normalised")  # units that run from nothing, 0, to mastery, 100
AS_GOOD_AS = 5.0  # points; the paper calls 95 % of the best as good
ONE = 1.0  # an error as large as the spread of Q
LEAST_SETS = 6  # datasets below which leaving one out leaves too few to choose a threshold on


def points_per_unit(board: Board, name: str) -> float:
    """Return how many points of 100 one unit of a dataset's scores is; NaN where there are no scores.

        1 for success (%) and normalised return;  100 / (max_x y_x - min(0, min_x y_x)) elsewhere

    y_x mean over seeds of AWR and of DDPG+BC over the study's own value, on most data: where nothing says what mastery is, the
    better of the two stands for it. *Derived*.
    """
    if unit_of(board, name).startswith(HUNDRED):
        return 1.0
    means = [finite_mean(plain(board, name, e)) for e in (AWR, DDPG)]
    span = max(means) - min(0.0, *means)
    return 100.0 / span if span > 0 else float("nan")


def finite_mean(values: np.ndarray) -> float:
    """Return the mean of what is finite, NaN where nothing is."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def plain(board: Board, name: str, extractor: str, value: ValueKind | None = None) -> np.ndarray:
    """Return the scores of an extractor over a value (None: the study's own) on most data, [S]; NaN where there is none."""
    plan = plan_of(board, name)
    policy = settings_of(plan, extractor)[0]
    return numbers(board, name, value or plan.matrix.values[0], policy)[:, -1, -1]


def gap(board: Board, name: str, label: str, before: np.ndarray, after: np.ndarray) -> Component:
    """Return what changes from one set of scores to another in points of 100, paired by seed."""
    whole = np.isfinite(before) & np.isfinite(after)
    change = (after - before)[whole] * points_per_unit(board, name)
    detail = f"mean {finite_mean(before[whole]):.1f} to {finite_mean(after[whole]):.1f}, {unit_of(board, name)}"
    missing = 0 if board.floor or whole.all() else lost_seeds(board, name)
    return Component(label, change[np.isfinite(change)], missing, detail)


# ------------------------------------------------------------------------------------------------- D1: ensembles, linear values


def larger(plan: DataPlan) -> ValueKind | None:
    """Return the value with more critics than the study's own."""
    values = plan.robustness.values if plan.robustness else ()
    return next((v for v in values if v.num_critics > plan.matrix.values[0].num_critics), None)


def linear(plan: DataPlan) -> ValueKind | None:
    """Return the value without a hidden layer."""
    return next((v for v in (plan.robustness.values if plan.robustness else ()) if not v.hidden), None)


def ensemble_helps(board: Board, name: str) -> list[Component] | str:
    """Return what more critics add to DDPG+BC."""
    value = larger(plan_of(board, name))
    if value is None:
        return f"{NOT_RUN}: a larger ensemble"
    label = f"DDPG+BC, {value.num_critics} critics − {plan_of(board, name).matrix.values[0].num_critics}"
    return [gap(board, name, label, plain(board, name, DDPG), plain(board, name, DDPG, value))]


def linear_is_as_good(board: Board, name: str) -> list[Component] | str:
    """Return what a linear value adds to either extractor."""
    value = linear(plan_of(board, name))
    if value is None:
        return f"{NOT_RUN}: a linear value"
    return [
        gap(board, name, f"{EXTRACTORS[e]}, linear − net", plain(board, name, e), plain(board, name, e, value))
        for e in (AWR, DDPG)
    ]


# ------------------------------------------------------------------------------------------------------ D2: errors at test time


def with_error(board: Board, name: str, which: str, size: float) -> np.ndarray:
    """Return the score of AWR improved at test time by a value with an error, [S]; its setting was best on other seeds.

    NaN where a seed has not been tried with every setting, or the size was not run.
    """
    plan = plan_of(board, name)
    hows = [how for how in plan.matrix.test_times if how.name == which]
    found = np.full(len(plan.matrix.seeds), np.nan)
    if not hows:
        return found
    value, policy = plan.matrix.values[0], settings_of(plan, AWR)[0]
    tried = np.stack([at_test_time(board, name, value, policy, how, size) for how in hows])
    whole = np.isfinite(tried).all(axis=0)
    if whole.sum() >= min(2, len(hows)):
        found[whole] = best_of(tried[:, whole])
    return found


def still_pays(board: Board, name: str, which: str) -> list[Component] | str:
    """Return what an improvement at test time adds to AWR where the error is as large as the spread of Q."""
    plan = plan_of(board, name)
    tried = any(how.name == which for how in plan.matrix.test_times)
    if not tried or plan.robustness is None or ONE not in plan.robustness.errors:
        return f"{NOT_RUN}: {TESTS[which]} with an error as large as the spread of Q"
    before = plain(board, name, AWR)
    free = gap(board, name, "", before, with_error(board, name, which, 0.0)).values
    found = gap(board, name, f"{TESTS[which]} − none", before, with_error(board, name, which, ONE))
    return [found._replace(detail=f"{found.detail}; without an error {finite_mean(free):+.1f} points")]


# ------------------------------------------------------------------------------------------------------------------ D3: the rule


class Picked(NamedTuple):
    """A rule that picks the extractor from facts of a dataset, and how it did."""

    names: list[str]  # [D] datasets
    gain: np.ndarray  # [D, S] points of DDPG+BC less those of AWR, on the seeds that all datasets have
    judged: Judged  # on each dataset by what was chosen on the others
    rule: Stump  # chosen on all of them
    failed: int  # seeds that are missing because a cell diverged


def picked(board: Board) -> Picked | str:
    """Return the rule over all datasets with facts and both extractors, or why there is none."""
    names, rows, features = [], [], []
    for plan in board.plans:
        if plan.robustness is None or plan.name not in board.facts:
            continue
        scores = np.stack([plain(board, plan.name, e) for e in (AWR, DDPG)]) * points_per_unit(board, plan.name)
        if np.isfinite(scores).all(axis=0).any() and np.isfinite(board.facts[plan.name]).any():
            names.append(plan.name)
            rows.append(scores)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a fact that no seed knows stays NaN
                features.append(np.nanmean(board.facts[plan.name], axis=0))
    if not names:
        return f"{NOT_RUN}: datasets described for a rule"
    if len(names) < LEAST_SETS:
        return f"{len(names)} datasets have facts and both extractors, {LEAST_SETS} are needed"
    count = min(row.shape[1] for row in rows)
    scores = np.stack([row[:, :count] for row in rows])  # [D, 2, S]
    whole = np.isfinite(scores).all(axis=(0, 1))
    if not whole.any():
        return "0 seeds finished all it compares"
    awr, ddpg = scores[:, 0, whole], scores[:, 1, whole]
    table, gain = np.array(features), ddpg - awr
    failed = 0 if board.floor or whole.all() else max(lost_seeds(board, name) for name in names)
    return Picked(names, gain, judge_rule(table, awr, ddpg), fit_stump(table, gain.mean(axis=1)), failed)


def picked_text(found: Picked, places: bool = True) -> str:
    """Return the rule, where it took DDPG+BC (`places`), and the regrets, in words."""
    taken = [name for name, chosen in zip(found.names, found.judged.chosen, strict=True) if chosen]
    regrets = (found.judged.rule, found.judged.awr, found.judged.ddpg_bc)
    words = ", ".join(f"{who} {r.value:.1f}" for who, r in zip(("rule", "AWR", "DDPG+BC"), regrets, strict=True))
    where = f"; left out, it took DDPG+BC on {', '.join(taken) or 'none'}" if places else ""
    return f"on all: {describe_stump(found.rule)}{where}; regret {words}"


def less_regret(board: Board, name: str) -> list[Component] | str:
    """Return the regret of always DDPG+BC less that of the rule, a number for each dataset."""
    found = picked(board)
    if isinstance(found, str):
        return found
    if found.gain.shape[1] < MIN_SEEDS:
        return f"{found.gain.shape[1]} seeds finished all it compares, {MIN_SEEDS} are needed"
    saved = np.where(found.judged.chosen, 0.0, -found.gain.mean(axis=1))

    def interval(confidence: float) -> Interval:
        return stratified_bootstrap([saved], mean, confidence, expanded=True)

    part = Component("regret of DDPG+BC − of the rule", saved, found.failed, picked_text(found), unit="datasets")
    return [part._replace(estimate=interval)]


def ours(id: str, text: str, statistic: str, region: tuple[float, float], measure: Callable) -> Claim:
    """Return a claim that is ours."""
    return Claim(id, text, "ours, declared before any run [D]", statistic, region, measure, part=ROBUSTNESS)


POINTS = (
    "points of 100 (success, normalised return; else 100 is the better extractor's mean), most data, paired by seed"
)
ROBUSTNESS_CLAIMS = (
    ours(
        "D1a",
        "a larger ensemble of critics helps DDPG+BC",
        f"score of DDPG+BC over IQL with 10 critics less that with 2; {POINTS}",
        ABOVE,
        ensemble_helps,
    ),
    ours(
        "D1b",
        "a linear Q is as good as a net",
        f"score over IQL with linear Q and V less that with nets, of AWR and of DDPG+BC; {POINTS}",
        (-AS_GOOD_AS, AS_GOOD_AS),
        linear_is_as_good,
    ),
    ours(
        "D2a",
        "OPEX still pays with an error as large as the spread of Q",
        f"score of AWR with OPEX, step size chosen on other seeds, less that without; {POINTS}",
        ABOVE,
        partial(still_pays, which="opex"),
    ),
    ours(
        "D2b",
        "TTT still pays with an error as large as the spread of Q",
        f"score of AWR with TTT, strength chosen on other seeds, less that without; {POINTS}",
        ABOVE,
        partial(still_pays, which="ttt"),
    ),
    ours(
        "D3",
        "a rule that picks AWR or DDPG+BC from facts of the data has less regret than always DDPG+BC",
        f"regret of always DDPG+BC less that of a threshold on one of {', '.join(FEATURE_NAMES)}, chosen on the other datasets; "
        "points as above, mean over seeds, datasets resampled",
        ABOVE,
        less_regret,
    )._replace(scope=TOGETHER),
)
