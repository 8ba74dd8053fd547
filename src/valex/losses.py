"""Losses of learned functions: arrays in, one number out. Targets are received, never computed here."""

import math
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


def expectile_loss(error: Array, expectile: float) -> Array:
    """Return mean |expectile - 1[u < 0]| u^2 of u = `error`, target minus prediction; any shape, expectile in (0, 1).

    Its minimiser is the expectile of the targets: the mean at 0.5 (the loss is then half the squared error), their maximum
    as it goes to 1. Source: Kostrikov et al. 2022 (IQL, arXiv 2110.06169).
    """
    return jnp.mean(jnp.where(error < 0.0, 1.0 - expectile, expectile) * jnp.square(error))


def contrastive_loss(logits: Array) -> Array:
    """Return the binary cross-entropy of `logits` [E, B, B] against the identity, mean over all E B B entries.

    Row i is a state (and action), column j the goal of row j: entry (i, i) is a positive pair, all others are negatives. Its
    minimiser is log p(g|s, a) / p(g) - log(B - 1), because there are B - 1 negatives for each positive (derived).
    Source: Eysenbach et al. 2022 (arXiv 2206.07568), as in OGBench, impls/agents/crl.py.
    """
    positives = jnp.sum(jnp.diagonal(logits, axis1=-2, axis2=-1)) / logits.size
    return jnp.mean(jax.nn.softplus(logits)) - positives


def advantage_weights(advantage: Array, alpha: Array | float, clip: float | None) -> Array:
    """Return w = min(exp(alpha A), clip) without gradient, [B]; `alpha` >= 0 in 1 / units of A, clip None for no bound.

    Without a bound a float32 overflows beyond alpha A = 88. Source: Peng et al. 2019 (AWR, arXiv 1910.00177).
    """
    exponent = jax.lax.stop_gradient(alpha * advantage)
    return jnp.exp(exponent if clip is None else jnp.minimum(exponent, math.log(clip)))


def sample_share(log_weight: Array) -> Array:
    """Return ESS / B = (sum w)^2 / (B sum w^2) of weights exp(`log_weight`) [B]: 1 for equal weights, 1 / B for a single one."""
    weight = jnp.exp(log_weight - jnp.max(log_weight))
    return jnp.square(jnp.sum(weight)) / (weight.size * jnp.sum(jnp.square(weight)))


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
