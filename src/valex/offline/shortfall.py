"""What a score falls short by, and which part of the method makes it: one part swapped at a time, seeds paired. Arrays only.

    S           = J* - mean_s J_s                           J_s the score of the reference method on seed s
    g_c         = mean_s (J'_{c,s} - J_s)                   J' the best swap of part c, as chosen on the other half of the seeds
    share_c     = g_c / S
    unexplained = S - sum_c max(g_c, 0)

Parts are swapped one at a time, so their gains may overlap and need not add up. The question, where between value, extraction
and generalisation a method loses, is that of 2406.09329; the arithmetic is ours. Intervals resample seeds
(`valex.statistics`), each by itself with the confidence that is asked for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from valex.offline.matrix_statistics import CONFIDENCE, best_alpha, slopes_of
from valex.statistics import Interval, mean, stratified_bootstrap

ENOUGH = 5  # seeds: with fewer, chance alone leaves 0 out too often (all signs equal: 1 in 16 with 5, 1 in 4 with 3)
DOUBLING = math.log10(2.0)  # decades
NOTHING = Interval(math.nan, math.nan, math.nan)


class Swap(NamedTuple):
    """The reference method with one part replaced."""

    setting: str  # what it was replaced by, in words
    scores: np.ndarray  # [S] the same seeds as those of the reference; not finite: that run failed
    measured: bool = True  # False: worked out from a fitted slope


class Part(NamedTuple):
    """What one part of the method costs."""

    gain: Interval  # g_c, in units of the score
    share: Interval  # of the shortfall; NaN where that cannot be told from 0
    setting: str  # the swap that was chosen most often; "" where every swap failed
    known: bool  # whether the interval of the gain leaves out 0, with enough seeds
    swaps: dict[str, Interval]  # setting -> its own gain, chosen or not
    measured: bool = True  # whether the setting was tried, and not worked out from a slope


class Shortfall(NamedTuple):
    """Where the reference method falls short."""

    best: float  # J*
    reference: Interval  # mean_s J_s
    shortfall: Interval  # S
    parts: dict[str, Part]
    unexplained: Interval  # NaN ends below two seeds
    first: str  # the part with the largest gain among those that are known and positive; "" for none
    seeds: int
    left_out: tuple[str, ...]  # swaps with a seed that failed


def doubled(
    reference: np.ndarray, scores: np.ndarray, sizes_v: Sequence[int], sizes_p: Sequence[int], side: str
) -> np.ndarray:
    """Return what every seed would score with twice the data of one side, [S]: J_s + b_s log10(2), by the fitted slope.

    `scores` [S, V, P] of the reference method, `reference` [S] its scores on all data, side "value" or "policy"; slopes as
    `direction` fits them, per decade. NaN where a seed has too few finite cells or a side fewer than two sizes. Scores that
    bend towards a ceiling make it too large.
    """
    slopes = slopes_of(np.asarray(scores, float), np.asarray(sizes_v, float), np.asarray(sizes_p, float))
    return np.asarray(reference, float) + DOUBLING * slopes[:, 0 if side == "value" else 1]


def ratio(values: np.ndarray, axis: int) -> np.ndarray:
    """Return mean gain over mean shortfall of pairs [..., n, 2] along the axis of n."""
    means = np.mean(values, axis=axis)
    return means[..., 0] / means[..., 1]


def rest(values: np.ndarray, axis: int) -> np.ndarray:
    """Return mean shortfall less all positive mean gains, of rows (shortfall, gains ...) [..., n, 1 + C] along the axis of n."""
    means = np.mean(values, axis=axis)
    return means[..., 0] - np.sum(np.maximum(means[..., 1:], 0.0), axis=-1)


def chosen_gains(reference: np.ndarray, swaps: Sequence[Swap]) -> tuple[np.ndarray, int]:
    """Return (gains [S] of the best swap, chosen for every seed on halves without it, which was chosen most often)."""
    found = best_alpha(np.stack([swap.scores for swap in swaps]), np.arange(len(swaps)))
    scores = found.optimistic_scores if found.optimistic_only else found.honest_scores
    return scores - reference, int(np.argmax(found.chosen))


def shortfall(
    reference: np.ndarray, best: float, swaps: Mapping[str, Sequence[Swap]], confidence: float = CONFIDENCE
) -> Shortfall:
    """Return where a method falls short of the score `best`, part by part; `reference` [S], swaps by part.

    Swaps with a score that is not finite are left out and named; seeds on which the reference itself failed are dropped.
    Raises ValueError without a seed, or where a swap has other seeds than the reference.
    """
    reference = np.asarray(reference, float)
    if any(np.shape(swap.scores) != reference.shape for part in swaps.values() for swap in part):
        raise ValueError("shortfall: every swap needs one score for each seed of the reference")
    seen = np.isfinite(reference)
    if not seen.any():
        raise ValueError("shortfall: the reference method has no finite score")
    base = reference[seen]
    over = lambda rows, statistic=mean: Interval(  # noqa: E731
        *map(float, stratified_bootstrap([rows], statistic, confidence, expanded=True))
    )
    missing = best - base
    whole, parts, gains, left_out = over(missing), {}, [], []
    for name, offered in swaps.items():
        taken = [swap._replace(scores=np.asarray(swap.scores, float)[seen]) for swap in offered]
        left_out += [f"{name}: {swap.setting}" for swap in taken if not np.isfinite(swap.scores).all()]
        taken = [swap for swap in taken if np.isfinite(swap.scores).all()]
        if not taken:
            parts[name] = Part(NOTHING, NOTHING, "", False, {})
            continue
        won, place = chosen_gains(base, taken)
        gain, gains = over(won), [*gains, won]
        known = len(base) >= ENOUGH and not gain.low <= 0.0 <= gain.high
        share = over(np.stack([won, missing], axis=1), ratio) if whole.low > 0.0 else NOTHING
        own = {swap.setting: over(swap.scores - base) for swap in taken}
        parts[name] = Part(gain, share, taken[place].setting, known, own, taken[place].measured)
    helpful = [name for name, part in parts.items() if part.known and part.gain.value > 0.0]
    first = max(helpful, key=lambda name: parts[name].gain.value, default="")
    unexplained = over(np.stack([missing, *gains], axis=1), rest)
    return Shortfall(best, over(base), whole, parts, unexplained, first, len(base), tuple(left_out))
