"""Intervals over seeds of what is not one number per seed: shares of settings, turns of a direction, ranks of predictors."""

import numpy as np

from valex.offline.matrix_statistics import slopes_of, smallest_arc
from valex.statistics import RESAMPLES, Interval, rank_correlation, resample, tail


def good_share(arrays: list[np.ndarray], least: float, confidence: float) -> Interval:
    """Return the share of settings in which the second of two has `least` of the first's score or more.

        y_2 >= y_1 - (1 - least) |y_1|,  y the mean over seeds

    arrays: [n, settings, 2] of every dataset. Seeds are resampled within a dataset, all its settings together; expanded
    percentiles; NaN ends where one seed leaves nothing to resample.
    """

    def share(means: list[np.ndarray]) -> np.ndarray:
        good = [m[..., 1] >= m[..., 0] - (1.0 - least) * np.abs(m[..., 0]) for m in means]
        return np.mean(np.concatenate(good, axis=-1), axis=-1)

    value = float(share([array.mean(axis=0) for array in arrays]))
    if min(map(len, arrays)) < 2:
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    draws = share([resample(array, RESAMPLES, rng).mean(axis=1) for array in arrays])
    q = tail(confidence, list(map(len, arrays)), expanded=True)
    low, high = np.quantile(draws, [q, 1.0 - q])
    return Interval(value, float(low), float(high))


def turn(first: np.ndarray, last: np.ndarray, sizes: tuple[int, ...], confidence: float) -> Interval:
    """Return the angle of one matrix less that of another, degrees in (-180, 180] at the value, low <= value <= high.

    first, last [n, V, P], seeds paired; angles as in `matrix_statistics.direction`, seeds resampled, the smallest arc with
    expanded mass.
    """
    slopes = [slopes_of(scores, np.asarray(sizes, float), np.asarray(sizes, float)) for scores in (first, last)]

    def difference(means: list[np.ndarray]) -> np.ndarray:
        a, b = (np.degrees(np.arctan2(m[..., 1], m[..., 0])) for m in means)
        return (b - a + 180.0) % 360.0 - 180.0

    value = float(difference([s.mean(axis=0) for s in slopes]))
    if len(first) < 2:
        return Interval(value, np.nan, np.nan)
    both = resample(np.concatenate(slopes, axis=1), RESAMPLES, np.random.default_rng(0)).mean(axis=1)
    mass = 1.0 - 2.0 * tail(confidence, [len(first)], expanded=True)
    return Interval(value, *smallest_arc(value, difference([both[:, :2], both[:, 2:]]), mass))


def correlations(columns: np.ndarray, seeds: np.ndarray, confidence: float) -> tuple[Interval, np.ndarray]:
    """Return (rank correlation of every row but the last with the last, with its interval; its resamples [R, K]).

    columns [K + 1, n] over cells; cells of one seed are resampled together. Interval ends are [K], NaN below two seeds.
    """
    names = np.unique(seeds)
    rows = [np.flatnonzero(seeds == name) for name in names]

    def found(taken: np.ndarray) -> np.ndarray:
        part = columns[:, taken]
        return rank_correlation(part[:-1], np.broadcast_to(part[-1], part[:-1].shape))

    value = found(np.arange(columns.shape[1]))
    nothing = np.full(len(value), np.nan)
    if len(rows) < 2:
        return Interval(value, nothing, nothing), np.full((1, len(value)), np.nan)
    picked = resample(np.arange(len(rows)), RESAMPLES, np.random.default_rng(0)).astype(int)
    draws = np.array([found(np.concatenate([rows[k] for k in draw])) for draw in picked])
    whole = draws[np.isfinite(draws).all(axis=1)]  # the others drew cells that are all equal
    if not len(whole):
        return Interval(value, nothing, nothing), draws
    q = tail(confidence, [len(rows)], expanded=True)
    low, high = np.quantile(whole, [q, 1.0 - q], axis=0)
    return Interval(value, low, high), draws


def predicts_better(columns: np.ndarray, seeds: np.ndarray, first: int, second: int, confidence: float) -> Interval:
    """Return how much more one error falls with the score than another: -rho_first - (-rho_second), with its interval."""
    found, draws = correlations(columns, seeds, confidence)
    gaps = draws[:, second] - draws[:, first]
    value = float(found.value[second] - found.value[first])
    q = tail(confidence, [len(np.unique(seeds))], expanded=True)
    low, high = np.nanquantile(gaps, [q, 1.0 - q]) if np.isfinite(gaps).any() else (np.nan, np.nan)
    return Interval(value, float(low), float(high))
