"""Running mean and variance of observations, updated at collection (Welford 1962, in Chan's batched form)."""

from typing import NamedTuple

import jax.numpy as jnp

from valex.types import Array

VARIANCE_RANGE = (1e-6, 1e6)
CLIP = 5.0


class RunningStats(NamedTuple):
    """Moments of all rows seen so far."""

    count: Array  # [] rows seen
    mean: Array  # [obs_dim]
    m2: Array  # [obs_dim] sum of squared deviations from the mean


def init(dim: int) -> RunningStats:
    """Return empty statistics for rows of `dim` numbers."""
    return RunningStats(jnp.zeros(()), jnp.zeros(dim), jnp.zeros(dim))


def update(stats: RunningStats, rows: Array) -> RunningStats:
    """Return the statistics after `rows` [B, dim] as well. Source: Chan, Golub and LeVeque 1979, pairwise update."""
    n = rows.shape[0]
    count = stats.count + n
    row_mean = jnp.mean(rows, axis=0)
    delta = row_mean - stats.mean
    mean = stats.mean + delta * (n / count)
    m2 = stats.m2 + jnp.sum((rows - row_mean) ** 2, axis=0) + delta**2 * (stats.count * n / count)
    return RunningStats(count, mean, m2)


def scale_shift(stats: RunningStats) -> tuple[Array, Array]:
    """Return (scale, shift), each [dim], such that the normalised row is clip(row * scale + shift)."""
    variance = jnp.where(stats.count > 1, stats.m2 / jnp.maximum(stats.count, 1.0), 1.0)
    scale = jnp.reciprocal(jnp.sqrt(jnp.clip(variance, *VARIANCE_RANGE)))
    return scale, -stats.mean * scale


def normalize(stats: RunningStats, rows: Array) -> Array:
    """Return clip((rows - mean) / std, -5, 5); variance clipped to [1e-6, 1e6]. `rows` are [..., dim]."""
    scale, shift = scale_shift(stats)
    return jnp.clip(rows * scale + shift, -CLIP, CLIP)
