"""The claims R6 to R13: how policies act and fit, what predicts their score, what noise in the data and test time change."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from valex.offline.matrix_statistics import best_alpha
from valex.settings.offline import ValueKind
from valex.studies.base import EACH, TOGETHER, Claim, Component
from valex.studies.bottleneck_intervals import correlations, predicts_better
from valex.studies.bottleneck_measures import (
    EXTRACTORS,
    NOT_RUN,
    VALUES,
    at_test_time,
    compared,
    numbers,
    over_values,
    per_seed,
    plan_of,
    settings_of,
)
from valex.studies.offline import Board, is_default

PAPER = "Park et al. 2024 (2406.09329)"
AWR, DDPG, SFBC = EXTRACTORS
POOR = 0.7  # of the other's score
ERRORS = ("train", "val", "eval")  # of actions, against the declared optimal policy
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
        return f"{NOT_RUN}{EXTRACTORS[extractor]} at its default alpha"
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


# --------------------------------------------------------------------------------------- R10 to R12: errors, coverage, test time


def errors_of(board: Board, name: str) -> tuple[np.ndarray, np.ndarray] | str:
    """Return ([4, n] the three errors and the score of every cell, [n] their seeds), or why there are none."""
    cells = [c for c in board.cells.get(name, ()) if c in board.found and c.test_time is None]
    rows = [board.found[c]["measures"] for c in cells]
    if not rows or f"error/{ERRORS[0]}" not in rows[0]:
        return "no optimal policy is declared for this dataset" if rows else "0 seeds finished all it compares"
    columns = [[row[f"error/{which}"] for row in rows] for which in ERRORS]
    columns.append([board.found[c]["score"] for c in cells])
    return np.array(columns), np.array([c.seed for c in cells])


def predicts(board: Board, name: str) -> list[Component] | str:
    """Return the rank correlation of the error on visited states with the score, over all cells."""
    found = errors_of(board, name)
    if isinstance(found, str):
        return found
    columns, seeds = found

    def rho(confidence: float):
        value, low, high = correlations(columns[[2, 3]], seeds, confidence)[0]
        return type(correlations(columns[[2, 3]], seeds, confidence)[0])(float(value[0]), float(low[0]), float(high[0]))

    others = correlations(columns, seeds, 0.95)[0].value
    detail = f"{columns.shape[1]} cells; on training states {others[0]:.2f}, held-out {others[1]:.2f}"
    return [Component("ρ of score and error/eval", np.zeros(len(np.unique(seeds))), detail=detail, estimate=rho)]


def predicts_best(board: Board, name: str) -> list[Component] | str:
    """Return how much more the error on visited states falls with the score than the other two."""
    found = errors_of(board, name)
    if isinstance(found, str):
        return found
    columns, seeds = found
    count = np.zeros(len(np.unique(seeds)))
    return [
        Component(f"|ρ| of eval − of {which}", count, estimate=partial(predicts_better, columns, seeds, 2, k))
        for k, which in enumerate(ERRORS[:2])
    ]


def sweeps(board: Board) -> dict[str, list]:
    """Return the plans of every sweep, by rising noise."""
    found: dict[str, list] = {}
    for plan in board.plans:
        if plan.sweep:
            found.setdefault(plan.sweep, []).append(plan)
    return {name: sorted(plans, key=lambda plan: plan.settings.sigma) for name, plans in found.items()}


def wider_data(board: Board, name: str, beside: bool = False) -> list[Component] | str:
    """Return what noisier data gain over the least noisy, DDPG+BC's or by how much it is more than AWR's."""
    parts = []
    for sweep, plans in sweeps(board).items():
        for value in plans[0].matrix.values:
            rows = [compared(board, plan.name, value, (AWR, DDPG)) for plan in plans]
            if len(rows) < 2 or any(isinstance(row, str) for row in rows):
                return next((row for row in rows if isinstance(row, str)), f"{NOT_RUN}a second amount of noise")
            n = min(len(row.seeds) for row in rows)  # pyright: ignore[reportAttributeAccessIssue]
            gains = []
            for extractor in (DDPG, AWR):
                scores = np.array([row.scores[extractor][:n, -1, -1] for row in rows])  # pyright: ignore
                gains.append(scores[1:].mean(axis=0) - scores[0])
            taken = gains[0] - gains[1] if beside else gains[0]
            parts.append(Component(f"{VALUES[value.name]}, {sweep}", taken))
    return parts or f"{NOT_RUN}sets that differ in noise alone"


def improved(board: Board, name: str, which: str) -> list[Component] | str:
    """Return the score with an improvement at test time less that of IQL with AWR, and less that of IQL with SfBC."""
    plan = plan_of(board, name)
    value = next((v for v in plan.matrix.values if v.name == "iql"), None)
    policy = next((p for p in settings_of(plan, AWR) if is_default(p)), None)
    hows = [how for how in plan.matrix.test_times if how.name == which]
    if value is None or policy is None or not hows:
        return f"{NOT_RUN}{TESTS[which]} of IQL with AWR at its default alpha"
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


# --------------------------------------------------------------------------------------------- R9 and R13: what needs other cells


def not_run(board: Board, name: str, what: str) -> str:
    """Return that a claim has nothing to go by."""
    return f"{NOT_RUN}{what}"


def claim(
    id: str, text: str, source: str, statistic: str, region: tuple[float, float], measure: Callable, scope: str
) -> Claim:
    """Return a claim of the paper, with what is ours in its test."""
    return Claim(id, text, f"{PAPER}, {source}", statistic, region, measure, scope=scope)


ABOVE = (0.0, math.inf)
POOLED = Claim._field_defaults["scope"]
POLICY_CLAIMS = (
    claim(
        "R6a",
        "actions of AWR keep to the middle, those of DDPG+BC reach the edges",
        "figure 3 [T]; on every dataset, not one alone [D]",
        "mean over visited states of the largest |a|: DDPG+BC less AWR, mean over the matrix, each at its best alpha",
        ABOVE,
        partial(acts_wider, measure="action/max", label="largest |a|"),
        POOLED,
    ),
    claim(
        "R6b",
        "and leave what the data did nearby, where AWR's stay inside",
        "section 4.4 [T]; the 50 nearest states' bounds for the hull [D]",
        "share of actions beyond all that the data did at the 50 nearest states: DDPG+BC less AWR, as R6a",
        ABOVE,
        partial(acts_wider, measure="action/outside", label="share outside"),
        POOLED,
    ),
    claim(
        "R7a",
        "AWR over-fits the smallest set",
        "figure 4 [T]; squared error to the data's actions for the loss, which DDPG+BC does not share [D]",
        "log10(held-out / training error) of AWR at its default alpha, least data of both kinds",
        ABOVE,
        overfits,
        POOLED,
    ),
    claim(
        "R7b",
        "more than DDPG+BC does",
        "figure 4 [T]; as R7a [D]",
        "log10(held-out / training error) of AWR less that of DDPG+BC, each at its default alpha",
        ABOVE,
        partial(overfits, beside=True),
        POOLED,
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
        "R9",
        "online continuation lowers the error on visited states while those on the data stay flat",
        "figure 6 [T]",
        "slopes of the three errors by environment steps",
        (-math.inf, 0.0),
        partial(not_run, what="online continuation"),
        TOGETHER,
    ),
    claim(
        "R10a",
        "a policy that errs less on the states that it visits scores higher",
        "section 5 [R]",
        "Spearman's ρ of score and squared error to the optimal policy on visited states, over cells; seeds resampled whole",
        (-1.0 - 1e-9, 0.0),
        predicts,
        EACH,
    ),
    claim(
        "R10b",
        "and no other of the three errors predicts the score so well",
        "section 5 [R]",
        "−ρ with the error on visited states less −ρ with that on training states, and on held-out states",
        ABOVE,
        predicts_best,
        EACH,
    ),
    claim(
        "R11a",
        "data of more coverage are worth more than better ones",
        "figure 7 [T], [R]",
        "score of DDPG+BC on most data, alpha chosen on other seeds: mean over the noisier sets less that on the least noisy",
        ABOVE,
        wider_data,
        TOGETHER,
    ),
    claim(
        "R11b",
        "DDPG+BC gains more by them than AWR",
        "figure 7 [T], [R]",
        "the gain of R11a less that of AWR",
        ABOVE,
        partial(wider_data, beside=True),
        TOGETHER,
    ),
    claim(
        "R12a",
        "steps along the value's gradient at test time (OPEX) beat IQL as it is, and SfBC",
        "figure 8 [T]; alpha fixed, step size and N chosen on other seeds [D]",
        "score on most data: OPEX of IQL with AWR less the same without, and less IQL with SfBC; paired by seed",
        ABOVE,
        partial(improved, which="opex"),
        POOLED,
    ),
    claim(
        "R12b",
        "training on the states of test time (TTT) beats IQL as it is, and SfBC",
        "figure 8 [T]; alpha fixed, strength and N chosen on other seeds [D]",
        "score on most data: TTT of IQL with AWR less the same without, and less IQL with SfBC; paired by seed",
        ABOVE,
        partial(improved, which="ttt"),
        POOLED,
    ),
    claim(
        "R13",
        "another encoding of the same state lowers the error on visited states and raises the score of cloning",
        "figure 9 [T]",
        "score of cloning on encoded states less that on plain ones",
        ABOVE,
        partial(not_run, what="cloning on encoded states"),
        TOGETHER,
    ),
)
