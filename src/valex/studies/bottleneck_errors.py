"""The claims R9 to R11 and R13: three errors to the optimal policy, what lowers them, and what noise in the data is worth."""

from functools import partial

import numpy as np

from valex.settings.bottleneck import Cell
from valex.statistics import Interval
from valex.studies.base import EACH, NOT_RUN, TOGETHER, Component
from valex.studies.bottleneck_intervals import correlations, predicts_better
from valex.studies.bottleneck_measures import (
    ABOVE,
    BC,
    EXTRACTORS,
    VALUES,
    claim,
    compared,
    encoded,
    numbers,
    plan_of,
    shared_seeds,
)
from valex.studies.offline import Board, DataPlan

AWR, DDPG, SFBC = EXTRACTORS
ERRORS = ("train", "val", "eval")  # of actions, against the declared optimal policy
FLAT = 0.1  # log10 of a ratio of errors that counts as no change: a quarter


# ------------------------------------------------------------------------------------------------------------- R9: online


def online_slopes(board: Board, name: str, beside: bool = False) -> list[Component] | str:
    """Return slopes of errors online per 1,000 steps, by dataset: that on visited states, or the others less it."""
    from valex.continuation import slopes  # here: it imports jax

    parts = []
    for plan in board.plans:
        for template in plan.continuations:
            records = [record for key, record in board.continued.get(plan.name, ()) if key == template]
            if not records:
                return "0 seeds finished all it compares"
            what = f"{EXTRACTORS[template.policy.name]} over {VALUES[template.value.name]}, {plan.name}"
            found = {which: slopes(records, f"error/{which}") for which in ERRORS}
            if not np.isfinite(found["eval"]).all():
                return f"{plan.name}: no optimal policy is declared for this dataset"
            if not beside:
                parts.append(Component(f"slope of eval, {what}", found["eval"]))
                continue
            parts += [Component(f"slope of {k} − of eval, {what}", found[k] - found["eval"]) for k in ERRORS[:2]]
    return parts or f"{NOT_RUN}: online continuation"


# ---------------------------------------------------------------------------------------------- R10 and R11: errors, coverage


def plain_cells(board: Board, name: str) -> list[Cell]:
    """Return the cells of a matrix that were tried, without what is improved at test time or encoded in another way."""
    usual = plan_of(board, name).matrix.encoding
    tried = (c for c in board.cells.get(name, ()) if c in board.found)
    return [c for c in tried if c.test_time is None and c.encoding == usual]


def errors_of(board: Board, name: str) -> tuple[np.ndarray, np.ndarray] | str:
    """Return ([4, n] the three errors and the score of every cell, [n] their seeds), or why there are none."""
    cells = plain_cells(board, name)
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

    def rho(confidence: float) -> Interval:
        return Interval(*(float(end[0]) for end in correlations(columns[[2, 3]], seeds, confidence)[0]))

    others = correlations(columns, seeds, 0.95)[0].value
    train, val = (f"{rho:.2f}" if np.isfinite(rho) else "–" for rho in others[:2])
    detail = f"{columns.shape[1]} cells; on training states {train}, held-out {val}"
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
                return next((row for row in rows if isinstance(row, str)), f"{NOT_RUN}: a second amount of noise")
            whole = [row for row in rows if not isinstance(row, str)]
            seeds = shared_seeds(whole)
            if isinstance(seeds, str):
                return seeds
            gains = []
            for extractor in (DDPG, AWR):
                scores = np.array([r.scores[extractor][mine, -1, -1] for r, mine in zip(whole, seeds, strict=True)])
                gains.append(scores[1:].mean(axis=0) - scores[0])
            taken = gains[0] - gains[1] if beside else gains[0]
            parts.append(Component(f"{VALUES[value.name]}, {sweep}", taken))
    return parts or f"{NOT_RUN}: sets that differ in noise alone"


# ------------------------------------------------------------------------------------------------------------ R13: encoding


def cloning(board: Board, plan: DataPlan, encoding: str | None, measure: str) -> np.ndarray:
    """Return a number of cloning in an encoding, None for the matrix's own, mean over amounts of data, [S]."""
    policy = next(p for p in plan.matrix.policies if p.name == BC)
    if encoding is None:
        return numbers(board, plan.name, None, policy, measure)[:, 0].mean(axis=1)
    return encoded(board, plan.name, policy, encoding, measure).mean(axis=1)


def encodings(board: Board, name: str, flat: bool = False) -> list[Component] | str:
    """Return what another encoding of observations changes in cloning: score and error on visited states, or the other errors."""
    plan, parts = plan_of(board, name), []
    if not plan.encodings or not any(p.name == BC for p in plan.matrix.policies):
        return f"{NOT_RUN}: cloning on encoded states"
    for encoding in plan.encodings:
        wanted = ("error/train", "error/val") if flat else ("score", "error/eval")
        for measure in wanted:
            before, after = (cloning(board, plan, e, measure) for e in (None, encoding))
            if measure != "score" and not np.isfinite(after).any():
                return "no optimal policy is declared for this dataset"
            with np.errstate(divide="ignore", invalid="ignore"):
                gain = after - before if measure == "score" else np.log10(before / after)
            label = "score, encoded − plain" if measure == "score" else f"log10({measure}, plain / encoded)"
            parts.append(Component(f"{label}, {encoding}", gain[np.isfinite(gain)]))
    return parts


ERROR_CLAIMS = (
    claim(
        "R9a",
        "training on online lowers the error on the states that the policy visits",
        "figure 6 [T]; on tasks of one goal, the value learned first [D]",
        "least-squares slope of the squared error to the optimal policy on visited states, per 1,000 environment steps",
        (-np.inf, 0.0),
        online_slopes,
        TOGETHER,
    ),
    claim(
        "R9b",
        "while the errors on the data's states stay flat",
        "figure 6 [T]; flatter than the other, which needs no margin [D]",
        "slope of the error on training states, and on held-out ones, less that on visited states",
        ABOVE,
        partial(online_slopes, beside=True),
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
        "R13a",
        "another one-to-one encoding of the state lowers cloning's error where it acts, and raises its score",
        "figure 9 [T]; the encoding is ours, theirs is not known [D]",
        "score of cloning on encoded states less that on plain ones, and log10 of the ratio of errors on visited states, plain "
        "to encoded; means over amounts of data, paired by seed",
        ABOVE,
        encodings,
        EACH,
    ),
    claim(
        "R13b",
        "and leaves the errors on the data's states as they are",
        "figure 9 [T]; a quarter is no change [D]",
        "log10 of the ratio of the errors, plain to encoded, on training and on held-out states; as R13a",
        (-FLAT, FLAT),
        partial(encodings, flat=True),
        EACH,
    ),
)
