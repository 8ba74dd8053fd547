"""Statistics of per-sample gradients of several estimators on the same starts, each with an interval.

    g_sj   gradient at start s with noise j, s = 1..S, j = 1..m;   gbar_s its mean over j
    within   E_s tr Var(g|s) = mean_s [ sum_j |g_sj|^2 - m |gbar_s|^2 ] / (m - 1)                 variance of the noise
    between  tr Var_s E[g|s] = tr Var_s(gbar_s) - within / m                                      variance of the starts
    trace    within + between: the trace of the covariance of one gradient with a start and a noise of its own
    signal   |E g|^2,   dot  E g . E g',   bias^2  |E g - E g'|^2      unbiased: products of DIFFERENT starts only,
             (|sum_s x_s|^2 - sum_s |x_s|^2) / (S (S - 1))
    SNR_N    N signal / trace

Gradients are never kept: only sums over chunks of starts are, and the statistics are functions of those. Intervals are those of
the delete-one-chunk jackknife. Sources: spec 2.3 of 2310.19927; the jackknife: Efron and Tibshirani 1993, chapter 11.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from valex.statistics import Interval, jackknife
from valex.types import Array, PyTree


class Sums(NamedTuple):
    """What is kept of C chunks of starts and K estimators."""

    starts: Array  # [C] starts whose gradients are all finite
    total: Array  # [C, K, P] sum over starts of gbar_s
    products: Array  # [C, K, K] sum over starts of gbar_s . gbar'_s
    squares: Array  # [C, K] sum over starts and noises of |g_sj|^2
    norms: Array  # [K, S, m] |g_sj|
    draws: int  # m
    nonfinite: Array  # [K] share of gradients with an entry that is not finite


def flat(grads: PyTree) -> Array:
    """Return gradients, leaves [B, ...], as one array [B, P]."""
    return jnp.concatenate([g.reshape(g.shape[0], -1) for g in jax.tree.leaves(grads)], axis=1)


def side_by_side(estimators: Sequence[Callable]) -> Callable:
    """Return the bank of K estimators (starts, keys) -> gradients, leaves [B, ...]: (starts, keys) -> [K, B, P]."""
    return lambda starts, keys: jnp.stack([flat(f(starts, keys)) for f in estimators])


def collect_sums(bank: Callable, starts: PyTree, key: Array, draws: int, chunks: int) -> Sums:
    """Evaluate a bank (starts, keys) -> per-sample gradients of K estimators, [K, B, P], on S starts with m noises each.

    starts: leaves [S, ...]; S a multiple of `chunks` >= 2. All estimators get the same starts and the same keys, so what they
    share cancels in their differences. A start at which any gradient is not finite is left out for every estimator.
    """
    number = jax.tree.leaves(starts)[0].shape[0]
    size = number // chunks
    keys = jax.random.split(key, (chunks, size * draws))
    rows = jax.tree.map(lambda x: x.reshape(chunks, size, *x.shape[1:]), starts)

    def chunk(_: None, at: tuple[PyTree, Array]) -> tuple[None, tuple]:
        """Sum up one chunk: every start `draws` times."""
        part, part_keys = at
        repeated = jax.tree.map(lambda x: jnp.repeat(x, draws, axis=0), part)
        found = bank(repeated, part_keys)  # [K, size * m, P]
        finite = jnp.all(jnp.isfinite(found), axis=-1)
        good = jnp.all(finite.reshape(-1, size, draws), axis=(0, 2))  # [size]
        split = found.reshape(*found.shape[:1], size, draws, -1)
        split = jnp.where(good[None, :, None, None], split, 0.0)
        mean = jnp.mean(split, axis=2)  # [K, size, P]
        products = jnp.einsum("ksp,lsp->kl", mean, mean, precision="highest")
        norms = jnp.where(good[None, :, None], jnp.linalg.norm(split, axis=-1), jnp.nan)
        out = jnp.sum(good), jnp.sum(mean, axis=1), products, jnp.sum(jnp.square(split), axis=(1, 2, 3)), norms, finite
        return None, out

    _, (count, total, products, squares, norms, finite) = jax.lax.scan(chunk, None, (rows, keys))
    norms = jnp.moveaxis(norms, 0, 1).reshape(norms.shape[1], number, draws)
    return Sums(count, total, products, squares, norms, draws, 1.0 - jnp.mean(finite, axis=(0, 2)))


class Found(NamedTuple):
    """Statistics of K estimators, none with an interval; arrays of numpy."""

    within: np.ndarray  # [K] variance of the noise
    between: np.ndarray  # [K] variance of the starts; NaN with one draw per start, which cannot tell the two apart
    trace: np.ndarray  # [K] of the covariance of one gradient
    dots: np.ndarray  # [K, K] E g . E g', unbiased; the diagonal is the signal
    bias_square: np.ndarray  # [K, K] |E g - E g'|^2, unbiased: may be below 0
    cosine: np.ndarray  # [K, K] between mean gradients; NaN where a signal is not above 0


def statistics_of(sums: Sums, without: int | None = None) -> Found:
    """Return the statistics of all chunks, or of all but one. Raises ValueError where fewer than two starts are left."""
    parts = [np.asarray(x, float) for x in (sums.starts, sums.total, sums.products, sums.squares)]
    keep = np.arange(len(parts[0])) != (-1 if without is None else without)
    n, total, products, squares = (np.sum(x[keep], axis=0) for x in parts)
    if n < 2:
        raise ValueError("starts: fewer than two have finite gradients")
    gram, own = total @ total.T, np.diagonal(products)
    spread = (own - np.diagonal(gram) / n) / (n - 1)  # tr Var(gbar_s)
    within = (squares - sums.draws * own) / (n * (sums.draws - 1)) if sums.draws > 1 else np.full_like(own, np.nan)
    between = spread - within / sums.draws
    trace = within + between if sums.draws > 1 else spread
    dots = (gram - products) / (n * (n - 1))
    signal = np.diagonal(dots)
    positive = np.where(signal > 0.0, signal, np.nan)
    cosine = dots / np.sqrt(positive[:, None] * positive)
    return Found(within, between, trace, dots, signal[:, None] + signal - 2.0 * dots, cosine)


def with_intervals(sums: Sums, measure: Callable) -> Interval:
    """Return measure(Found) -> array with the interval of the delete-one-chunk jackknife."""
    chunks = [c for c in range(len(sums.starts)) if sums.starts[c] > 0]
    return jackknife(measure(statistics_of(sums)), np.stack([measure(statistics_of(sums, c)) for c in chunks]))


def heavy_tails(norms: np.ndarray) -> dict[str, float]:
    """Return what tells a heavy tail in norms |g| [n]; NaN entries are left out.

    max_over_median    max |g| / median |g|
    kurtosis           E (|g| - mean)^4 / Var^2, 3 for a normal distribution
    top_share          share of sum |g|^2 that the largest 1 % (at least one) of the samples hold
    """
    norms = np.sort(np.ravel(norms)[np.isfinite(np.ravel(norms))])
    if not len(norms):
        return dict.fromkeys(("max_over_median", "kurtosis", "top_share"), np.nan)
    squares, centred = norms**2, norms - np.mean(norms)
    top = max(1, len(norms) // 100)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "max_over_median": float(norms[-1] / np.median(norms)),
            "kurtosis": float(np.mean(centred**4) / np.mean(centred**2) ** 2),
            "top_share": float(np.sum(squares[-top:]) / np.sum(squares)),
        }


def released_meter(grads: Array, length: int) -> Array:
    """Return the gradient variance as the release of 2310.19927 meters it, from gradients [n, P] in the order of sampling.

    The buffer is never cleared, so sample k holds g_1 + .. + g_k, of a loss divided by `length` = h + 1 (deviation D28):

        sum_p Var_k( (g_1 + .. + g_k)_p / length ),   in the mean  [ (n + 1)/6 tr + n (n + 1)/12 |E g|^2 ] / length^2
    """
    return jnp.sum(jnp.var(jnp.cumsum(grads, axis=0), axis=0, ddof=1)) / length**2


def released_expectation(trace: np.ndarray, signal: np.ndarray, samples: int, length: int) -> np.ndarray:
    """Return what `released_meter` gives in the mean where the trace is tr and the signal |E g|^2 (spec 2.2)."""
    return ((samples + 1) / 6 * trace + samples * (samples + 1) / 12 * signal) / length**2


def covariances(sums: Sums) -> np.ndarray:
    """Return tr Cov(gbar_k, gbar_l) over starts of K estimators, [K, K]; with one draw for each start, of the gradients."""
    n, total = np.sum(sums.starts), np.sum(np.asarray(sums.total, float), axis=0)
    return (np.sum(np.asarray(sums.products, float), axis=0) - total @ total.T / n) / (n - 1)


def agreement(sums: Sums, first: int, second: int, projections: int = 32, seed: int = 0) -> dict[str, float]:
    """Return whether two estimators have one mean: t tests over chunks of their difference along random directions.

    largest       largest |t| of C - 1 degrees of freedom over the directions
    p_value       of that, times the number of directions, at most 1 (Bonferroni)
    trace_ratio   trace of the first over that of the second: above 1 the second has the smaller variance
    """
    keep = np.asarray(sums.starts) > 0
    means = np.asarray(sums.total, float)[keep] / np.asarray(sums.starts, float)[keep, None, None]
    apart = means[:, first] - means[:, second]
    directions = np.random.default_rng(seed).normal(size=(projections, apart.shape[1]))
    along = apart @ directions.T
    error = np.std(along, axis=0, ddof=1) / np.sqrt(len(along))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(np.mean(along, axis=0)) / error
    t = np.where(error > 0.0, t, 0.0)
    trace = statistics_of(sums).trace
    p = 2.0 * special.stdtr(len(along) - 1, -np.max(t))
    ratio = float(trace[first] / trace[second]) if trace[second] > 0 else float("nan")
    return {"largest": float(np.max(t)), "p_value": float(min(1.0, projections * p)), "trace_ratio": ratio}
