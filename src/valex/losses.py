"""Losses of learned functions: arrays in, one number out. Targets are received, never computed here."""

from functools import partial

import jax
import jax.numpy as jnp

from valex.types import Array, PyTree


def td_loss(q: Array, target: Array) -> Array:
    """Return 0.5 mean (q - stop_gradient(target))^2 over heads and batch; `q` [num_critics, B], `target` [B]."""
    return 0.5 * jnp.mean(jnp.square(q - jax.lax.stop_gradient(target)))


def gradient_metrics(name: str, grads: PyTree) -> dict[str, Array]:
    """Return the norm of a gradient and the standard deviation over all its parameter entries.

    The latter is what the release of 2412.20537 plots as actor-gradient std: a spread over ENTRIES of one mini-batch
    gradient, not a variance over samples (that one is `grad/actor_sample_variance`).
    """
    leaves = jax.tree.leaves(grads)
    n = sum(leaf.size for leaf in leaves)
    dot = partial(jnp.vdot, precision="highest")  # on a CPU several times faster than a sum, which goes one by one
    total = sum(dot(leaf, jnp.ones_like(leaf)) for leaf in leaves)
    squares = sum(dot(leaf, leaf) for leaf in leaves)
    spread = jnp.sqrt(jnp.maximum(squares / n - jnp.square(total / n), 0.0))
    return {f"{name}/grad_norm": jnp.sqrt(squares), f"{name}/grad_param_std": spread}
