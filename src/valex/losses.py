"""Losses of learned functions: arrays in, one number out. Targets are received, never computed here."""

from functools import partial

import jax
import jax.numpy as jnp

from valex.types import Array, PyTree


def td_loss(q: Array, target: Array, weight: Array | tuple = ()) -> Array:
    """Return 0.5 mean weight (q - stop_gradient(target))^2 over heads and batch; `q` [num_critics, B], `target` [B].

    `weight` [B] or () for 1. The mean is over all rows, so a row of weight 0 still counts in its denominator.
    """
    error = jnp.square(q - jax.lax.stop_gradient(target))
    return 0.5 * jnp.mean(error if isinstance(weight, tuple) else weight * error)


_dot = partial(jnp.vdot, precision="highest")  # on a CPU several times faster than a sum, which XLA takes one by one


def gradient_norm(grads: PyTree) -> Array:
    """Return the Euclidean norm of a gradient over all its entries."""
    return jnp.sqrt(sum(_dot(leaf, leaf) for leaf in jax.tree.leaves(grads)))


def square_norms(grads: PyTree) -> Array:
    """Return |g_j|^2 of per-sample gradients, leaves [B, ...], as [B]."""
    return sum((jnp.sum(jnp.square(g.reshape(g.shape[0], -1)), axis=1) for g in jax.tree.leaves(grads)), jnp.zeros(()))


def centred(grads: PyTree, counts: Array | None = None) -> tuple[PyTree, PyTree]:
    """Return (mean, deviations) of per-sample gradients, leaves [B, ...]; where counts [B] is 0 a sample deviates by 0."""
    if counts is None:
        mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)
        return mean, jax.tree.map(jnp.subtract, grads, mean)
    keep = lambda g, x: jnp.where(counts.reshape(-1, *(1,) * (g.ndim - 1)) > 0, x, 0.0)  # noqa: E731  g may be NaN
    mean = jax.tree.map(lambda g: jnp.sum(keep(g, g), axis=0) / jnp.maximum(jnp.sum(counts), 1), grads)
    return mean, jax.tree.map(lambda g, m: keep(g, g - m), grads, mean)


def covariance_trace(grads: PyTree) -> Array:
    """Return the trace of the covariance of per-sample gradients, sum_j |g_j - mean|^2 / (n - 1), n = B >= 2."""
    squares = square_norms(centred(grads)[1])
    return jnp.sum(squares) / jnp.maximum(squares.shape[0] - 1, 1)


def gradient_param_std(grads: PyTree) -> Array:
    """Return the standard deviation over all entries of ONE mini-batch gradient.

    What the release of 2412.20537 plots as actor-gradient std; the variance over samples is another number
    (`grad/actor_sample_variance`).
    """
    leaves = jax.tree.leaves(grads)
    n = sum(leaf.size for leaf in leaves)
    mean = sum(_dot(leaf, jnp.ones_like(leaf)) for leaf in leaves) / n
    squares = sum(_dot(leaf, leaf) for leaf in leaves)
    return jnp.sqrt(jnp.maximum(squares / n - jnp.square(mean), 0.0))
