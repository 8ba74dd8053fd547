"""Whether a predicted step ends the task: the environment's own function, or a classifier learned beside the prediction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from valex.types import Array, Env


def known_termination(env: Env) -> Callable:
    """Return (obs, action, next_obs), each [B, ...] -> terminated [B] bool, the environment's termination function.

    Raises ValueError naming the field if the environment has none.
    """
    if env.terminated is None:
        raise ValueError(
            f"model.termination: {env.spec.name} has no termination function; set --model.termination learned"
        )
    return jax.vmap(env.terminated)


def learned_termination(logit: Array) -> Array:
    """Return whether a step more likely ends the task than not: logit > 0."""
    return logit > 0.0


def termination_loss(logit: Array, terminated: Array) -> Array:
    """Return the cross-entropy -[ d log p + (1 - d) log(1 - p) ], p = sigmoid(logit), elementwise, in nats."""
    return optax.sigmoid_binary_cross_entropy(logit, terminated.astype(jnp.float32))
