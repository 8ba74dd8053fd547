"""The claims R6 to R8 and R12: how policies act and fit, how poor AWR is on exploration, what test time can mend."""

import math
from functools import partial

import numpy as np

from valex.offline.matrix_statistics import best_alpha
from valex.settings.offline import ValueKind
from valex.studies.base import EACH, NOT_RUN, POOLED_TOO, Component
from valex.studies.bottleneck_measures import (
    ABOVE,
    EXTRACTORS,
    VALUES,
    at_test_time,
    claim,
    compared,
    numbers,
    over_values,
    per_seed,
    plan_of,
    settings_of,
)
from valex.studies.offline import Board, is_default

AWR, DDPG, SFBC = EXTRACTORS
POOR = 0.7  # of the other's score
TESTS = {"opex": "OPEX", "ttt": "TTT"}


# ------------------------------------------------------------------------------------------------------- R6 to R8: extractors


def acts_wider(board: Board, name: str, measure: str, label: str) -> list[Component] | str:
    """Return a measure of DDPG+BC's actions less AWR's, mean over the matrix, each at its best alpha over all seeds."""

    def one(value: ValueKind) -> list[Component] | str:
        found = compared(board, name, value, (AWR, DDPG))
        if isinstance(found, str):
            return found
        awr, ddpg = (per_seed(numbers(board, name, value, found.chosen[e], measure)) for e in (AWR, DDPG))
        gap = (ddpg - awr)[np.isfinite(ddpg - awr)]
        return [Component(f"{label}, over {VALUES[value.name]}", gap, found.failed)]

    return over_values(board, name, one)


def gap_of_fit(board: Board, name: str, value: ValueKind, extractor: str) -> np.ndarray | str:
    """Return log10(held-out / training error to the data's actions) [S] on the least data, at the fixed alpha."""
    policy = next((p for p in settings_of(plan_of(board, name), extractor) if is_default(p)), None)
    if policy is None:
        return f"{NOT_RUN}: {EXTRACTORS[extractor]} at its default alpha"
    held, seen = (numbers(board, name, value, policy, f"fit/{which}")[:, 0, 0] for which in ("val", "train"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(held / seen)


def overfits(board: Board, name: str, beside: bool = False) -> list[Component] | str:
    """Return the gap of AWR's fit on the least data, or by how much it is larger than DDPG+BC's."""

    def one(value: ValueKind) -> list[Component] | str:
        gaps = [gap_of_fit(board, name, value, e) for e in ((AWR, DDPG) if beside else (AWR,))]
        if any(isinstance(gap, str) for gap in gaps):
            return next(gap for gap in gaps if isinstance(gap, str))
        taken = gaps[0] - gaps[1] if beside else gaps[0]  # pyright: ignore[reportOperatorIssue]
        taken = np.asarray(taken)[np.isfinite(taken)]  # pyright: ignore[reportCallIssue, reportArgumentType]
        label = "AWR − DDPG+BC" if beside else "log10(held-out / training error)"
        return [Component(f"{label}, over {VALUES[value.name]}", taken)]

    return over_values(board, name, one)


def poor(board: Board, name: str) -> list[Component] | str:
    """Return AWR's score over DDPG+BC's and over SfBC's, on sets of exploration."""

    def one(value: ValueKind) -> list[Component] | str:
        found = compared(board, name, value)
        if isinstance(found, str):
            return found
        means, parts = {e: per_seed(scores) for e, scores in found.scores.items()}, []
        for other in (DDPG, SFBC):
            if np.any(means[other] <= 0):
                return f"scores of {EXTRACTORS[other]} at or below 0 make no ratio"
            label = f"AWR / {EXTRACTORS[other]}, over {VALUES[value.name]}"
            parts.append(Component(label, means[AWR] / means[other], found.failed))
        return parts

    return over_values(board, name, one)


# ---------------------------------------------------------------------------------------------------------- R12: test time


def improved(board: Board, name: str, which: str) -> list[Component] | str:
    """Return the score with an improvement at test time less that of IQL with AWR, and less that of IQL with SfBC."""
    plan = plan_of(board, name)
    value = next((v for v in plan.matrix.values if v.name == "iql"), None)
    policy = next((p for p in settings_of(plan, AWR) if is_default(p)), None)
    hows = [how for how in plan.matrix.test_times if how.name == which]
    if value is None or policy is None or not hows:
        return f"{NOT_RUN}: {TESTS[which]} of IQL with AWR at its default alpha"
    tried = np.stack([at_test_time(board, name, value, policy, how) for how in hows])
    others = {"AWR": numbers(board, name, value, policy)[None, :, -1, -1]}
    behind = settings_of(plan, SFBC)
    if behind:
        others["SfBC"] = np.stack([numbers(board, name, value, p)[:, -1, -1] for p in behind])
    whole = np.all([np.isfinite(x).all(axis=0) for x in (tried, *others.values())], axis=0)
    if whole.sum() < 2:
        return f"{int(whole.sum())} seeds finished all it compares"
    ours = best_of(tried[:, whole])
    return [Component(f"{TESTS[which]} − {who}", ours - best_of(them[:, whole])) for who, them in others.items()]


def best_of(scores: np.ndarray) -> np.ndarray:
    """Return the score of every seed at a setting that was best on others, [n] of [A, n]."""
    return scores[0] if len(scores) == 1 else best_alpha(scores, np.arange(len(scores)), resamples=2).honest_scores


POLICY_CLAIMS = (
    claim(
        "R6a",
        "actions of AWR keep to the middle, those of DDPG+BC reach the edges",
        "figure 3 [T]; on every dataset, not one alone [D]",
        "mean over visited states of the largest |a|: DDPG+BC less AWR, mean over the matrix, each at its best alpha",
        ABOVE,
        partial(acts_wider, measure="action/max", label="largest |a|"),
        POOLED_TOO,
    ),
    claim(
        "R6b",
        "and leave what the data did nearby, where AWR's stay inside",
        "section 4.4 [T]; the 50 nearest states' bounds for the hull [D]",
        "share of actions beyond all that the data did at the 50 nearest states: DDPG+BC less AWR, as R6a",
        ABOVE,
        partial(acts_wider, measure="action/outside", label="share outside"),
        POOLED_TOO,
    ),
    claim(
        "R7a",
        "AWR over-fits the smallest set",
        "figure 4 [T]; squared error to the data's actions for the loss, which DDPG+BC does not share [D]",
        "log10(held-out / training error) of AWR at its default alpha, least data of both kinds",
        ABOVE,
        overfits,
        POOLED_TOO,
    ),
    claim(
        "R7b",
        "more than DDPG+BC does",
        "figure 4 [T]; as R7a [D]",
        "log10(held-out / training error) of AWR less that of DDPG+BC, each at its default alpha",
        ABOVE,
        partial(overfits, beside=True),
        POOLED_TOO,
    ),
    claim(
        "R8",
        "on data of exploration AWR is far behind DDPG+BC and SfBC, whatever the value",
        "Table 1 [T], [R]; 0.7 [D]",
        "ratio of scores, means over the matrix, alpha and N chosen on other seeds",
        (-math.inf, POOR),
        poor,
        EACH,
    )._replace(envs=("exploration",)),
    claim(
        "R12a",
        "steps along the value's gradient at test time (OPEX) beat IQL as it is, and SfBC",
        "figure 8 [T]; alpha fixed, step size and N chosen on other seeds [D]",
        "score on most data: OPEX of IQL with AWR less the same without, and less IQL with SfBC; paired by seed",
        ABOVE,
        partial(improved, which="opex"),
        POOLED_TOO,
    ),
    claim(
        "R12b",
        "training on the states of test time (TTT) beats IQL as it is, and SfBC",
        "figure 8 [T]; alpha fixed, strength and N chosen on other seeds [D]",
        "score on most data: TTT of IQL with AWR less the same without, and less IQL with SfBC; paired by seed",
        ABOVE,
        partial(improved, which="ttt"),
        POOLED_TOO,
    ),
)
