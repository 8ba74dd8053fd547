"""Aggregates over seeds and environments with their uncertainty; numpy and scipy only.

Sources: interquartile mean, stratified percentile bootstrap and probability of improvement as in Agarwal et al. 2021,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). Expanded percentile interval
as in Hesterberg 2015, "What Teachers Should Know About the Bootstrap" (arXiv 1411.5279).

Coverage of a nominal 95 % interval of the IQM, simulated on normal data (tests/test_statistics.py repeats 5 and 9):
n = 5: percentile 90 %, expanded 93 %; n = 9: percentile 93 %, expanded 97 %; n = 15: 95 % and 97 %.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

RESAMPLES = 2000


class Interval(NamedTuple):
    """A statistic and its bootstrap interval, in the unit of the data."""

    value: Any  # [...] float: the statistic of the data itself
    low: Any  # [...] lower end; NaN where fewer than two values leave nothing to resample
    high: Any  # [...] upper end


class SignTest(NamedTuple):
    """How often one of two won, against chance."""

    share: Interval  # of the comparisons that were won; exact (Clopper-Pearson), one-sided where the test is
    p: float  # probability of what was seen or more extreme at a chance of one half


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the interquartile mean along `axis`: the mean of what is left after floor(n/4) values at either end go.

    IQM = 1/(n - 2k) sum_{i=k+1}^{n-k} x_(i), k = floor(n/4), x_(i) the i-th smallest; equals
    scipy.stats.trim_mean(values, 0.25). n < 4 is the plain mean. Agarwal et al. 2021.
    """
    values = np.sort(np.asarray(values, float), axis=axis)
    n = values.shape[axis]
    return np.mean(np.take(values, range(n // 4, n - n // 4), axis=axis), axis=axis)


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the arithmetic mean along `axis`."""
    return np.mean(np.asarray(values, float), axis=axis)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of x and y [..., n] along the last axis, in [-1, 1]; equal values share a rank.

    NaN where all values of either are equal. Source: Spearman 1904.
    """
    from scipy import stats  # here: half a second that the commands which rank nothing need not wait

    ranks = (stats.rankdata(np.asarray(v, float), axis=-1) for v in (x, y))
    a, b = (r - np.mean(r, axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=-1) / np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))


def spearman(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return Spearman's rank correlation of x and y [n] with an expanded percentile bootstrap interval.

    `groups` [n] holds an id per pair; pairs of one id, such as the checkpoints of a seed, are resampled together, and each
    pair alone without it. Resamples in which x or y is constant are left out. NaN ends with fewer than two groups. Raises
    ValueError if the lengths differ or a value is not finite. Sources: Spearman 1904; Hesterberg 2015.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    ids = np.arange(len(x)) if groups is None else np.asarray(groups)
    if not (x.shape == y.shape == ids.shape and x.ndim == 1):
        raise ValueError(f"spearman: x {x.shape}, y {y.shape} and groups {ids.shape} must be of one length")
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise ValueError("spearman: values that are not finite have no rank")
    value = float(rank_correlation(x, y))
    rows = [np.flatnonzero(ids == name) for name in np.unique(ids)]
    if len(rows) < 2:
        return Interval(value, np.nan, np.nan)
    picked = resample(np.arange(len(rows)), resamples, np.random.default_rng(seed)).astype(int)
    taken = (np.concatenate([rows[k] for k in draw]) for draw in picked)
    draws = np.array([rank_correlation(x[t], y[t]) for t in taken])
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(value, np.nan, np.nan)
    q = tail(confidence, [len(rows)], expanded=True)
    low, high = np.quantile(draws, [q, 1.0 - q])
    return Interval(value, float(low), float(high))


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Return 1/(x_T - x_1) integral of y dx by trapezoids: the mean height of a learning curve, in units of return.

    `steps` [T] rising (environment steps), `returns` [..., T]; result [...]. Raises ValueError where fewer than two
    points, steps that do not rise, or values that are not finite make the area meaningless.
    """
    steps, returns = np.asarray(steps, float), np.asarray(returns, float)
    if steps.ndim != 1 or len(steps) < 2 or returns.shape[-1] != len(steps):
        raise ValueError(f"area_under_curve: needs 2 or more points, got {steps.shape} steps, {returns.shape} returns")
    if not np.all(np.diff(steps) > 0):
        raise ValueError("area_under_curve: steps must rise")
    if not np.all(np.isfinite(returns)):
        raise ValueError("area_under_curve: returns that are not finite have no area")
    return np.trapezoid(returns, steps, axis=-1) / (steps[-1] - steps[0])


def tail(confidence: float, sizes: Sequence[int], expanded: bool) -> float:
    """Return the quantile level q of an interval [q, 1 - q] of a bootstrap distribution.

    Percentile: q = (1 - confidence)/2. Expanded: q = Phi(-sqrt(n/(n-1)) t_{nu, (1+confidence)/2}), which undoes the
    narrowness of the bootstrap at small n (the resampling variance is (n-1)/n of the unbiased one, and normal instead
    of t quantiles). n is the smallest stratum, nu = sum(n_e - 1). Hesterberg 2015.
    """
    upper = 0.5 * (1.0 + confidence)
    n, freedom = min(sizes), sum(size - 1 for size in sizes)
    if not expanded or n < 2:
        return 1.0 - upper
    return float(special.ndtr(-np.sqrt(n / (n - 1)) * special.stdtrit(freedom, upper)))


def resample(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows of `values` [n, ...] drawn with replacement, [resamples, n, ...]."""
    n = len(values)
    return np.asarray(values, float)[rng.integers(0, n, (resamples, n))]


def stratified_bootstrap(
    strata: Sequence[np.ndarray],
    statistic: Callable = iqm,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int | np.random.Generator = 0,
    expanded: bool = False,
) -> Interval:
    """Return statistic(all values) with a stratified bootstrap interval (percentile, or expanded percentile).

    `strata` holds one array [n_e, ...] per environment: n_e seeds, any equal trailing axes (steps of a learning
    curve). Seeds are drawn with replacement WITHIN each environment, pooled, and `statistic(values, axis)` is taken
    over the pool; values of several environments must share a scale. One value per stratum gives no interval (NaN).
    Raises ValueError on an empty stratum. Agarwal et al. 2021.
    """
    strata = [np.asarray(values, float) for values in strata]
    if not strata or min(len(values) for values in strata) == 0:
        raise ValueError("stratified_bootstrap: every stratum needs a value")
    value = statistic(np.concatenate(strata), axis=0)
    if max(len(values) for values in strata) < 2:
        nothing = np.full(np.shape(value), np.nan)
        return Interval(value, nothing, nothing)
    rng = np.random.default_rng(seed)
    draws = statistic(np.concatenate([resample(values, resamples, rng) for values in strata], axis=1), axis=1)
    q = tail(confidence, [len(values) for values in strata], expanded)
    low, high = np.quantile(draws, [q, 1.0 - q], axis=0)
    return Interval(value, low, high)


def mean_over_seeds(values: np.ndarray) -> Interval:
    """Return the mean over the seeds [S, ...] that are finite, with its expanded bootstrap interval; NaN where none is."""
    values = np.asarray(values, float)
    seen = values[np.isfinite(values).reshape(len(values), -1).all(axis=1)]
    if not len(seen):
        return Interval(*(np.full(values.shape[1:], np.nan)[()] for _ in Interval._fields))
    return Interval(*(part[()] for part in map(np.asarray, stratified_bootstrap([seen], mean, expanded=True))))


def paired_bootstrap(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    statistic: Callable = iqm,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
    expanded: bool = False,
) -> Interval:
    """Return statistic(first - second), seed by seed, with its stratified bootstrap interval.

    Both hold one array [n_e] per environment in the same order of seeds; pairs are resampled together, so what the
    seeds share cancels. Raises ValueError if the shapes differ.
    """
    pairs = list(zip(first, second, strict=True))
    if any(np.shape(a) != np.shape(b) for a, b in pairs):
        raise ValueError("paired_bootstrap: every value needs its partner of the same seed")
    differences = [np.asarray(a, float) - np.asarray(b, float) for a, b in pairs]
    return stratified_bootstrap(differences, statistic, confidence, seed=seed, expanded=expanded)


def jackknife(value: np.ndarray, left_out: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return a statistic with its delete-one jackknife interval; value [...], left_out [C, ...] without each of C parts.

        value +- t_{C-1} sqrt( (C - 1) / C sum_c (left_out_c - mean)^2 )

    NaN where fewer than two parts leave nothing to compare. Source: Efron and Tibshirani 1993, chapter 11.
    """
    value, left_out = np.asarray(value, float), np.asarray(left_out, float)
    count = len(left_out)
    if count < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    error = np.sqrt((count - 1) / count * np.sum((left_out - np.mean(left_out, axis=0)) ** 2, axis=0))
    reach = special.stdtrit(count - 1, 0.5 * (1.0 + confidence)) * error
    return Interval(value, value - reach, value + reach)


def superiority(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return mean_{ij} [1(x_i > y_j) + 1/2 1(x_i = y_j)] over the last axes of x [..., n], y [..., m]."""
    x, y = np.asarray(x, float)[..., :, None], np.asarray(y, float)[..., None, :]
    return np.mean((x > y) + 0.5 * (x == y), axis=(-2, -1))


def probability_of_improvement(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int | np.random.Generator = 0,
) -> Interval:
    """Return P(X > Y) = 1/E sum_e mean_{ij} [1(x_i > y_j) + 1/2 1(x_i = y_j)] with a percentile bootstrap interval.

    `first` and `second` hold one array of seeds per environment, [n_e] and [m_e]; seeds need not pair. 0.5 is no
    improvement. Seeds of both are resampled within each environment. Agarwal et al. 2021.
    """
    rng = np.random.default_rng(seed)
    pairs = list(zip(first, second, strict=True))
    value = float(np.mean([superiority(x, y) for x, y in pairs]))
    if max(min(len(x), len(y)) for x, y in pairs) < 2:
        return Interval(value, np.nan, np.nan)
    draws = [superiority(resample(x, resamples, rng), resample(y, resamples, rng)) for x, y in pairs]
    low, high = np.quantile(np.mean(draws, axis=0), [0.5 * (1 - confidence), 0.5 * (1 + confidence)])
    return Interval(value, float(low), float(high))


def sign_test(wins: int, n: int, alternative: str = "two-sided", confidence: float = 0.95) -> SignTest:
    """Return the share of wins among n comparisons (ties left out by the caller) and its exact binomial p-value.

    p = P(as extreme as `wins` | Binomial(n, 1/2)). `alternative`: "two-sided", "greater" or "less"; the interval is of the same
    kind, [low, 1] for "greater". Raises ValueError if n < 1 or not 0 <= wins <= n. Source: Clopper and Pearson 1934.
    """
    if n < 1 or not 0 <= wins <= n:
        raise ValueError(f"sign_test: {wins} wins of {n} comparisons")
    from scipy import stats  # here, as in rank_correlation

    found = stats.binomtest(wins, n, 0.5, alternative)
    bounds = found.proportion_ci(confidence, "exact")
    return SignTest(Interval(wins / n, float(bounds.low), float(bounds.high)), float(found.pvalue))
