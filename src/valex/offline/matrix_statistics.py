"""What a grid of scores says: where more data help, which choice matters, and what honest tuning leaves.

A data-scaling matrix is scores [S, V, P]: S seeds, V sizes of the data a value saw, P sizes of the data a policy saw. Read
as in Park et al. 2024 (arXiv 2406.09329): upwards more policy data, to the right more value data. The paper reads the
direction by eye; the statistics are ours. Seeds are resampled whole, with everything that they trained; bootstrap intervals
are expanded for few seeds (`valex.statistics`), and NaN where one seed leaves nothing to resample.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from valex.statistics import RESAMPLES, Interval, jackknife, mean, resample, stratified_bootstrap, tail

CONFIDENCE = 0.95
VALUE, POLICY, BOTH, WORSE, UNCLEAR, SATURATED = "value", "policy", "both", "worse", "unclear", "saturated"
EDGES = (-22.5, 22.5, 67.5, 112.5)  # degrees, between the sectors of the direction
SPLITS = 1000  # ways to halve the seeds: all of them up to 12 seeds, else this many at random


class Direction(NamedTuple):
    """Where the score of a data-scaling matrix rises."""

    value: Interval  # score per decade of value data
    policy: Interval  # score per decade of policy data
    angle: Interval  # degrees from "more value data" towards "more policy data"; value in (-180, 180], low <= value <= high
    kind: str  # VALUE | POLICY | BOTH | WORSE | UNCLEAR | SATURATED
    seeds: int  # that the slopes are a mean of
    left_out: int  # seeds with too few finite scores to fit two slopes


class VarianceShares(NamedTuple):
    """How much of the variance of the scores of a full factorial each factor makes."""

    factors: dict[str, Interval]  # epsilon^2 by name, without bias; below 0 where there is less than noise makes
    interactions: Interval  # all of them together
    residual: Interval  # between seeds of one cell; with the others' values it adds up to 1
    eta: dict[
        str, float
    ]  # eta^2 of the factors, "interactions" and "residual": plain shares, too high for what is noise


class BestAlpha(NamedTuple):
    """The score of the best setting: as chosen on the seeds it is judged on, and as chosen on others."""

    alpha: float  # with the highest mean over all seeds
    optimistic: Interval  # mean score of that setting
    honest: Interval  # mean over seeds of what was chosen without them; NaN for one seed
    optimistic_scores: np.ndarray  # [S, ...]
    honest_scores: np.ndarray  # [S, ...] a matrix for `direction`; NaN for one seed
    chosen: np.ndarray  # [A] share of the halves that chose each setting; of all seeds where there is one
    optimistic_only: bool  # one seed: nothing is left to judge on


def slopes_of(scores: np.ndarray, sizes_v: np.ndarray, sizes_p: np.ndarray) -> np.ndarray:
    """Return (b_v, b_p) of every seed [S, 2], least squares over its finite cells; NaN where these are too few.

    score ~ b_0 + b_v log10 D_v + b_p log10 D_p. `scores` [S, V, P], `sizes_v` [V] and `sizes_p` [P] in transitions; slopes
    in units of the score per decade.
    """
    along_v, along_p = np.meshgrid(np.log10(sizes_v), np.log10(sizes_p), indexing="ij")
    columns = [column.ravel() - np.mean(column) for column in (along_v, along_p)]
    design = np.stack([np.ones(along_v.size), *columns], axis=1)
    slopes = np.full((len(scores), 2), np.nan)
    for s, row in enumerate(scores.reshape(len(scores), -1)):
        seen = np.isfinite(row)
        rise = row[seen] - row[seen][:1]  # scores that are all equal then have slopes of exactly 0, not of rounding
        fitted, _, rank, _ = np.linalg.lstsq(design[seen], rise, rcond=None)
        if rank == 3:
            slopes[s] = fitted[1:]
    return slopes


def smallest_arc(centre: float, angles: np.ndarray, mass: float) -> tuple[float, float]:
    """Return (low, high) of the smallest arc that holds a share `mass` of the angles, extended to hold `centre`.

    All in degrees; low <= centre <= high, so the ends may leave (-180, 180]. An arc across +-180 is one arc.
    """
    turned = np.sort((angles - centre + 180.0) % 360.0 - 180.0)
    n = len(turned)
    keep = min(n, max(1, math.ceil(mass * n)))
    twice = np.concatenate([turned, turned + 360.0])
    start = int(np.argmin(twice[keep - 1 : keep - 1 + n] - twice[:n]))
    low, high = float(twice[start]), float(twice[start + keep - 1])
    if high >= 360.0:
        low, high = low - 360.0, high - 360.0
    if low > 0.0:
        low, high = (0.0, high) if high <= 360.0 - low else (low - 360.0, 0.0)
    return centre + low, centre + max(high, 0.0)


def kind_of(value: Interval, policy: Interval, angle: Interval) -> str:
    """Return the class of a direction from the intervals of both slopes and of the angle.

        saturated   both intervals of the slopes, each at the confidence of its own, hold 0: the angle means nothing
        value       the whole interval of the angle within (-22.5, 22.5): more value data help
        both        within [22.5, 67.5]
        policy      within (67.5, 112.5]: more policy data help
        worse       within (112.5, 337.5]: more data of one kind hurt, by more than tan(22.5) = 0.41 of what the other gains
        unclear     anything else, and where there is no interval

    A negative slope of less than that share is within its neighbour's sector, as a small positive one is.
    """
    if value.low <= 0.0 <= value.high and policy.low <= 0.0 <= policy.high:
        return SATURATED
    turn = 360.0 if angle.value <= EDGES[0] else 0.0
    low, high = angle.low + turn, angle.high + turn
    if EDGES[0] < low and high < EDGES[1]:
        return VALUE
    if EDGES[1] <= low and high <= EDGES[2]:
        return BOTH
    if EDGES[2] < low and high <= EDGES[3]:
        return POLICY
    return WORSE if EDGES[3] < low and high <= EDGES[0] + 360.0 else UNCLEAR


def direction(
    scores: np.ndarray,
    sizes_v: Sequence[float] | np.ndarray,
    sizes_p: Sequence[float] | np.ndarray,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Direction:
    """Return where the score rises: theta = atan2(mean_s b_p, mean_s b_v), with its interval and class.

    b_v, b_p of seed s: score ~ b_0 + b_v log10 D_v + b_p log10 D_p, least squares over the cells that are finite. The
    intervals resample seeds: percentiles (expanded) for the slopes; for the angle the smallest arc that holds the same
    mass. The class is that of `kind_of`. `scores` [S, V, P]; `sizes_v` [V], `sizes_p` [P] transitions, in any order.
    The slopes are per decade, so the angle does not depend on how far either axis reaches. Simulated coverage of the angle:
    75 % with 3 seeds, 94 % with 5, 93 % with 8 (a learning test). Raises ValueError if the shapes
    disagree, a side has fewer than two different sizes, a size is not positive, or no seed can be fitted.
    """
    scores, sizes_v, sizes_p = (np.asarray(x, float) for x in (scores, sizes_v, sizes_p))
    if scores.ndim != 3 or scores.shape[1:] != (len(sizes_v), len(sizes_p)):
        raise ValueError(
            f"direction: scores {scores.shape} are not [seeds, {len(sizes_v)} values, {len(sizes_p)} policies]"
        )
    if min(len(set(sizes_v)), len(set(sizes_p))) < 2 or not (np.all(sizes_v > 0) and np.all(sizes_p > 0)):
        raise ValueError("direction: needs two or more different sizes of either data, all above 0")
    slopes = slopes_of(scores, sizes_v, sizes_p)
    fitted = slopes[np.isfinite(slopes[:, 0])]
    if not len(fitted):
        raise ValueError("direction: no seed has enough finite scores to fit two slopes")
    found = stratified_bootstrap([fitted], mean, confidence, resamples, seed, expanded=True)
    value, policy = (Interval(*(float(part[k]) for part in found)) for k in (0, 1))
    centre = math.degrees(math.atan2(policy.value, value.value))
    angle = Interval(centre, math.nan, math.nan)
    if len(fitted) > 1:
        draws = np.mean(resample(fitted, resamples, np.random.default_rng(seed)), axis=1)  # the same as of the slopes
        mass = 1.0 - 2.0 * tail(confidence, [len(fitted)], expanded=True)
        angle = Interval(centre, *smallest_arc(centre, np.degrees(np.arctan2(draws[:, 1], draws[:, 0])), mass))
    return Direction(value, policy, angle, kind_of(value, policy, angle), len(fitted), len(slopes) - len(fitted))


def sums_of_squares(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (sums of squares, degrees of freedom) [F + 2] of every factor, the interactions, the residual.

    SS_f = sum over all scores of (mean of its level of f - mean of all)^2; interactions: what is between cells beyond the
    factors; residual: within cells. `scores` [S, *levels], one seed per row. Source: Fisher 1925.
    """
    seeds, levels = len(scores), scores.shape[1:]
    cells = np.mean(scores, axis=0) - np.mean(scores)
    others = [tuple(k for k in range(len(levels)) if k != f) for f in range(len(levels))]
    parts = [scores.size / n * np.sum(np.mean(cells, axis=o) ** 2) for n, o in zip(levels, others, strict=True)]
    freedom = [n - 1 for n in levels]
    parts += [seeds * np.sum(cells**2) - sum(parts), np.sum((scores - np.mean(scores, axis=0)) ** 2)]
    return np.array(parts), np.array([*freedom, cells.size - 1 - sum(freedom), cells.size * (seeds - 1)])


def eta_squared(scores: np.ndarray) -> np.ndarray:
    """Return eta^2 = SS / SS_total of (every factor, interactions, residual) [F + 2]; NaN where all scores are equal.

    `scores` [S, *levels]. Adds up to 1. Noise alone gives L levels (L - 1) / (all scores - 1) on average.
    """
    squares, _ = sums_of_squares(scores)
    with np.errstate(invalid="ignore"):
        return squares / np.sum(squares)


def epsilon_squared(scores: np.ndarray) -> np.ndarray:
    """Return epsilon^2 of (every factor, interactions, residual) [F + 2]: eta^2 without what noise adds to it.

        epsilon^2_f = (SS_f - df_f MS) / SS_total,   MS = SS_residual / df_residual

    The residual gets what the others lose, so it adds up to 1. `scores` [S, *levels]; NaN for one seed, which has no MS,
    and where all scores are equal. Source: Kelley 1935.
    """
    squares, freedom = sums_of_squares(scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = squares[-1] / freedom[-1] * freedom
    noise[-1] = -np.sum(noise[:-1])
    with np.errstate(invalid="ignore"):
        return (squares - noise) / np.sum(squares)


def variance_shares(scores: np.ndarray, factors: Mapping[str, int], confidence: float = CONFIDENCE) -> VarianceShares:
    """Return the share of the variance of every factor of a full factorial, of its interactions and of the seeds.

    `factors` names the leading axes of `scores` [*levels, S] with their numbers of levels, in order, for instance
    {"value": 2, "extractor": 3, "value_data": 3, "policy_data": 3}. eta^2 favours the factor with more levels, epsilon^2 does
    not. The intervals are of the delete-one-seed jackknife of epsilon^2, not of a bootstrap of eta^2: a seed that is drawn twice
    adds to the bias of that. NaN ends below
    three seeds. Raises ValueError if the shape is not that of the factors or a score is not finite: a run that failed needs
    a score, or its seed left out. Sources: Fisher 1925; Kelley 1935.
    """
    seeds_first = full_factorial(scores, factors)
    found = jackknifed(seeds_first, epsilon_squared, confidence)
    shares = [Interval(*(float(part[k]) for part in found)) for k in range(len(factors) + 2)]
    eta = dict(zip([*factors, "interactions", "residual"], map(float, eta_squared(seeds_first)), strict=True))
    return VarianceShares(dict(zip(factors, shares, strict=False)), shares[-2], shares[-1], eta)


def share_difference(
    scores: np.ndarray, factors: Mapping[str, int], first: str, second: str, confidence: float = CONFIDENCE
) -> Interval:
    """Return epsilon^2 of one factor less that of another, with its jackknife interval over seeds. As `variance_shares`."""
    names = list(factors)
    a, b = names.index(first), names.index(second)

    def difference(taken: np.ndarray) -> np.ndarray:
        shares = epsilon_squared(taken)
        return shares[a] - shares[b]

    return Interval(*map(float, jackknifed(full_factorial(scores, factors), difference, confidence)))


def full_factorial(scores: np.ndarray, factors: Mapping[str, int]) -> np.ndarray:
    """Return scores [*levels, S] as [S, *levels]; raises ValueError as `variance_shares` says."""
    scores = np.asarray(scores, float)
    if scores.shape[:-1] != tuple(factors.values()) or not scores.size:
        raise ValueError(f"variance_shares: scores {scores.shape} are not {[*factors.values(), 'seeds']}")
    if not np.all(np.isfinite(scores)):
        raise ValueError("variance_shares: every cell needs a finite score of every seed")
    return np.moveaxis(scores, -1, 0)


def jackknifed(rows: np.ndarray, statistic: Callable, confidence: float) -> Interval:
    """Return statistic(rows) with its delete-one interval; NaN ends where that of the others is not known."""
    value = statistic(rows)
    left_out = [statistic(np.delete(rows, k, axis=0)) for k in range(len(rows))] if len(rows) > 2 else []
    return jackknife(value, np.reshape(left_out, (-1, *np.shape(value))), confidence)


def halves(n: int, seed: int = 0) -> np.ndarray:
    """Return ways to halve n seeds [K, n] bool, each with its complement: all while they are few, else SPLITS at random."""
    if math.comb(n, n // 2) <= SPLITS:
        picked = np.array(list(itertools.combinations(range(n), n // 2)))
    else:
        picked = np.argsort(np.random.default_rng(seed).random((SPLITS, n)), axis=1)[:, : n // 2]
    first = np.zeros((len(picked), n), bool)
    np.put_along_axis(first, picked, True, axis=1)
    return np.concatenate([first, ~first])


def best_alpha(
    scores: np.ndarray,
    alphas: Sequence[float] | np.ndarray,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BestAlpha:
    """Return the score of the best of A settings, optimistic and by cross-fitting over halves of the seeds.

        optimistic   max_a mean_s y_{a,s}: too high, as the maximum of noisy means is
        honest       mean_s mean over halves J that hold s of y_{a(J), s},   a(J) = argmax_a mean_{s not in J} y_{a,s}

    y_{a,s} is the mean over all but the first two axes of `scores` [A, S, ...]; `alphas` [A] names the settings, and the first
    of equals is chosen. The honest score is without bias that of a setting chosen on half as many seeds. Its values
    per seed share what they were chosen on, which the interval over seeds leaves out. Raises ValueError if the shapes
    disagree or a score is not finite: a run that failed needs a score, such as the lowest seen.
    """
    scores, alphas = np.asarray(scores, float), np.asarray(alphas, float)
    if scores.ndim < 2 or len(scores) != len(alphas) or not scores.size:
        raise ValueError(f"best_alpha: scores {scores.shape} are not [{len(alphas)} settings, seeds, ...]")
    if not np.all(np.isfinite(scores)):
        raise ValueError("best_alpha: every setting needs a finite score of every seed")
    count, seeds = scores.shape[:2]
    averaged = scores.reshape(count, seeds, -1).mean(axis=2)
    best = int(np.argmax(averaged.mean(axis=1)))
    optimistic = scores[best]
    over = lambda taken: stratified_bootstrap([taken], mean, confidence, resamples, seed, expanded=True)  # noqa: E731
    if seeds < 2:
        nothing = np.full_like(optimistic, np.nan)
        found = Interval(math.nan, math.nan, math.nan)
        return BestAlpha(alphas[best], over(averaged[best]), found, optimistic, nothing, np.eye(count)[best], True)
    judged = halves(seeds, seed)
    chosen = np.eye(count)[np.argmax(~judged @ averaged.T / np.sum(~judged, axis=1, keepdims=True), axis=1)]  # [K, A]
    weight = chosen.T @ judged / np.sum(judged, axis=0)  # [A, S] how often a seed was judged with each setting
    honest = np.einsum("as,as...->s...", weight, scores)
    each = np.sum(weight * averaged, axis=0)
    return BestAlpha(alphas[best], over(averaged[best]), over(each), optimistic, honest, np.mean(chosen, axis=0), False)
