"""What is read off a board: matrices of scores, extractors at an alpha that was chosen on other seeds, and their seeds.

A setting is a dataset with a value. An extractor at its tuned alpha is what cross-fitting over halves of the seeds leaves of it
(`offline.matrix_statistics.best_alpha`); at its fixed alpha it has the one that its config declares, whatever the data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from valex.offline.matrix_statistics import best_alpha
from valex.settings.bottleneck import Cell, error_of
from valex.settings.offline import ExtractionKind, TestTimeKind, ValueKind
from valex.studies.base import NOT_RUN, Claim, Component
from valex.studies.offline import Board, DataPlan, is_default

EXTRACTORS = {"awr": "AWR", "ddpg_bc": "DDPG+BC", "sfbc": "SfBC"}  # in the order of figures
BC = "bc"
VALUES = {"iql": "IQL", "sarsa": "SARSA", "crl": "CRL"}
KNOBS = {"awr": "alpha", "ddpg_bc": "alpha", "sfbc": "samples"}
SIGNS = {"awr": "α", "ddpg_bc": "α", "sfbc": "N"}
FACTORS = ("value", "extractor", "value data", "policy data")  # of a score
PAPER = "Park et al. 2024 (2406.09329)"
ABOVE = (0.0, math.inf)


def plan_of(board: Board, name: str) -> DataPlan:
    """Return the plan of a dataset."""
    return next(plan for plan in board.plans if plan.name == name)


def matrices(board: Board) -> list[DataPlan]:
    """Return the plans whose matrices are looked at one by one: those that have one and are in no sweep."""
    return [plan for plan in board.plans if plan.alone]


def settings_of(plan: DataPlan, extractor: str) -> list[ExtractionKind]:
    """Return an extractor with all its settings, by rising alpha or N."""
    return sorted((p for p in plan.matrix.policies if p.name == extractor), key=knob)


def knob(policy: ExtractionKind) -> float:
    """Return what an extractor is tuned by, 0 where there is nothing."""
    return float(getattr(policy, KNOBS.get(policy.name, ""), 0.0))


def knob_text(policy: ExtractionKind) -> str:
    """Return an extractor with its setting in words: "AWR, α = 3"."""
    if policy.name == BC:
        return "BC"
    return f"{EXTRACTORS[policy.name]}, {SIGNS[policy.name]} = {knob(policy):g}"


def template(board: Board, name: str, value: ValueKind | None, policy: ExtractionKind) -> Cell | None:
    """Return a cell of a dataset whose sizes and seed are still to be set, None where the dataset has not been made."""
    if not board.cells.get(name):
        return None
    shared = board.cells[name][0]
    plain = replace(shared, test_time=None, perturbation=None, encoding=plan_of(board, name).matrix.encoding)
    return replace(plain, value=value, policy=policy)


def counted(board: Board, name: str) -> dict[Cell, dict[str, Any]]:
    """Return the trials of a dataset; with `floor` what failed counts as the lowest score seen on it."""
    if not board.floor:
        return board.found
    seen = [board.found[cell]["score"] for cell in board.cells[name] if cell in board.found]
    lost = {cell: {"score": min(seen)} for cell in board.cells[name] if cell in board.failed and seen}
    return board.found | lost


def numbers(
    board: Board, name: str, value: ValueKind | None, policy: ExtractionKind, measure: str = "score"
) -> np.ndarray:
    """Return a number of all cells of one value and extractor, [S, V, P]; NaN where there is none."""
    from valex.matrix import block  # here: it imports jax, which a list of studies need not wait for

    config, like = plan_of(board, name).matrix, template(board, name, value, policy)
    if like is None:
        return np.full((len(config.seeds), len(config.sizes), len(config.sizes)), np.nan)
    return block(counted(board, name), like, config.sizes, config.seeds, measure)


def at_test_time(
    board: Board, name: str, value: ValueKind, policy: ExtractionKind, how: TestTimeKind, error: float = 0.0
) -> np.ndarray:
    """Return the score of a policy that is improved at test time, [S], where value and policy have seen most data.

    error: size of what was put on Q, in its standard deviations over the data.
    """
    from valex.matrix import values_of

    config, like = plan_of(board, name).matrix, template(board, name, value, policy)
    if like is None:
        return np.full(len(config.seeds), np.nan)
    most = config.sizes[-1]
    like = replace(like, value_size=most, policy_size=most, test_time=how)
    cells = [replace(like, seed=seed, perturbation=error_of(error, seed)) for seed in config.seeds]
    return values_of(counted(board, name), cells)


def encoded(board: Board, name: str, policy: ExtractionKind, encoding: Any, measure: str = "score") -> np.ndarray:
    """Return a number of cloning on states in another encoding, [S, P]; NaN where there is none."""
    from valex.matrix import values_of

    config, like = plan_of(board, name).matrix, template(board, name, None, policy)
    if like is None:
        return np.full((len(config.seeds), len(config.sizes)), np.nan)
    like = replace(like, value_size=0, encoding=encoding)
    cells = [replace(like, policy_size=n, seed=seed) for seed in config.seeds for n in config.sizes]
    return values_of(counted(board, name), cells, measure).reshape(len(config.seeds), len(config.sizes))


def stack(
    board: Board, name: str, value: ValueKind | None, policies: Sequence[ExtractionKind], measure: str = "score"
) -> np.ndarray:
    """Return a number of all cells for several settings of an extractor, [A, S, V, P]."""
    return np.stack([numbers(board, name, value, policy, measure) for policy in policies])


def lost_seeds(board: Board, name: str) -> int:
    """Return the seeds of a dataset that a diverged cell takes part of."""
    return len({cell.seed for cell in board.cells.get(name, ()) if cell in board.failed})


class Compared(NamedTuple):
    """Extractors over one value, for the seeds that all of them have."""

    scores: dict[str, np.ndarray]  # [n, V, P] by extractor
    chosen: dict[str, ExtractionKind]  # the setting with the best mean over all seeds, or the fixed one
    seeds: np.ndarray  # [n] places of the seeds in the plan
    failed: int  # seeds that are missing because a cell diverged


def compared(
    board: Board, name: str, value: ValueKind, extractors: Sequence[str] = tuple(EXTRACTORS), fixed: bool = False
) -> Compared | str:
    """Return extractors at their tuned alpha, or at the fixed one; a line of text where there is nothing to compare."""
    plan, stacks, settings = plan_of(board, name), {}, {}
    for extractor in extractors:
        found = settings_of(plan, extractor)
        if fixed and extractor != "sfbc":
            found = [policy for policy in found if is_default(policy)]
        if not found:
            return f"{NOT_RUN}: {EXTRACTORS[extractor]}{' at its default alpha' if fixed else ''}"
        settings[extractor], stacks[extractor] = found, stack(board, name, value, found)
    whole = np.all([np.isfinite(x).all(axis=(0, 2, 3)) for x in stacks.values()], axis=0)
    least = 2 if max(map(len, settings.values())) > 1 else 1
    if whole.sum() < least:
        return f"{int(whole.sum())} seeds finished all it compares"
    scores, chosen = {}, {}
    for extractor, found in settings.items():
        kept = stacks[extractor][:, whole]
        if len(found) == 1:
            scores[extractor], chosen[extractor] = kept[0], found[0]
            continue
        best = best_alpha(kept, [knob(policy) for policy in found], resamples=2)  # its intervals are not read here
        scores[extractor] = best.honest_scores
        chosen[extractor] = next(policy for policy in found if knob(policy) == best.alpha)
    missing = 0 if board.floor or whole.all() else lost_seeds(board, name)
    return Compared(scores, chosen, np.flatnonzero(whole), missing)


def shared_seeds(rows: Sequence[Compared]) -> list[np.ndarray] | str:
    """Return for each of several comparisons which of its seeds all of them have, [n] bool; a line of text without any."""
    common = sorted(set.intersection(*(set(row.seeds.tolist()) for row in rows)))
    return [np.isin(row.seeds, common) for row in rows] if common else "0 seeds finished all it compares"


def over_values(
    board: Board, name: str, measure: Callable[[ValueKind], list[Component] | str]
) -> list[Component] | str:
    """Return the components of every value of a dataset, or why one of them has none."""
    found: list[Component] = []
    for value in plan_of(board, name).matrix.values:
        parts = measure(value)
        if isinstance(parts, str):
            return parts
        found += parts
    return found or f"{NOT_RUN}: a value"


def factorial(board: Board, name: str) -> tuple[np.ndarray, dict[str, int], int] | str:
    """Return (scores over value, extractor and both amounts of data, seeds last; levels by factor; seeds that are lost).

    Extractors are tuned. A line of text where a value is missing.
    """
    rows: list[Compared] = []
    for value in plan_of(board, name).matrix.values:
        found = compared(board, name, value)
        if isinstance(found, str):
            return found
        rows.append(found)
    if len(rows) < 2:
        return f"{NOT_RUN}: a second value"
    seeds = shared_seeds(rows)
    if isinstance(seeds, str):
        return seeds
    taken = [[row.scores[e][mine] for e in EXTRACTORS] for row, mine in zip(rows, seeds, strict=True)]
    scores = np.moveaxis(np.array(taken), 2, -1)
    factors: dict[str, int] = dict(zip(FACTORS, scores.shape, strict=False))
    return scores, factors, max(row.failed for row in rows)


def per_seed(scores: np.ndarray) -> np.ndarray:
    """Return the mean over a matrix, [n] of [n, V, P]."""
    return scores.mean(axis=(1, 2))


def claim(
    id: str, text: str, source: str, statistic: str, region: tuple[float, float], measure: Callable, scope: str
) -> Claim:
    """Return a claim of the paper, with what is ours in its test."""
    return Claim(id, text, f"{PAPER}, {source}", statistic, region, measure, scope=scope)
