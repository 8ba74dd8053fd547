"""A bandit whose extracted policies are known: a ~ N(0, 1), Q = -(a - 3)^2 / 2, in units of UNIT so that it fits into the box.

AWR, infinite data     mu = alpha a* / (1 + alpha)
DDPG+BC                mu = (a* + alpha m) / (1 + alpha),  m the mean of the data's actions
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from valex.offline.batch import Batch, Dims
from valex.offline.values import Value, advantage_of
from valex.types import Array

BEST, UNIT = 3.0, 0.1  # action a lies at UNIT a in the box
DIMS = Dims(1, 1)
CURVATURE = 1.0 / UNIT**2  # of Q in the units of the box: what alpha of DDPG+BC is multiplied by


def exact_q(action: Array) -> Array:
    """Return -(a - 3)^2 / 2 of actions [..., 1] in the box."""
    return -0.5 * jnp.square(action[..., 0] / UNIT - BEST)


def exact_value(mean_q: float, heads: int = 2) -> Value:
    """The perfect critic as a Value: it has no parameters, V is the mean of Q over the data."""
    q = lambda state, obs, action, goal=(): jnp.stack([exact_q(action)] * heads)  # noqa: E731
    v = lambda state, obs, goal=(): jnp.full(obs.shape[:-1], mean_q)  # noqa: E731
    return Value(lambda key: (), lambda state, key, batch: (state, {}), q, v, advantage_of(q, v))


def data(rows: int, seed: int = 0) -> Batch:
    """Draw rows of the bandit: one step, one state."""
    action = UNIT * jnp.asarray(np.random.default_rng(seed).normal(size=(rows, 1)), jnp.float32)
    zeros, yes = jnp.zeros((rows, 1)), jnp.ones(rows, bool)
    return Batch(zeros, action, exact_q(action), zeros, yes, jnp.zeros_like(action), ~yes)


@cache
def program(update):
    """Compile updates on one and the same batch, their number traced."""

    def run(state, batch, frozen, steps):
        one = lambda i, state: update(state, jax.random.fold_in(jax.random.key(7), i), batch, *frozen)  # noqa: E731
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0, state)[1])
        return jax.lax.fori_loop(0, steps, lambda i, carry: one(i, carry[0]), (state, none))

    return jax.jit(run)


def fit(update, state, batch, frozen=(), steps: int = 600):
    """Take `steps` updates on one and the same batch; return (state, the last metrics)."""
    return program(update)(state, batch, frozen, steps)
