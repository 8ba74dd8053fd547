"""Random network distillation: a state is novel as far as a trained net fails to predict a fixed random one.

Source: Burda et al. 2018, arXiv 1810.12894.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import normalize
from valex.agents.common import descend
from valex.networks import mlp
from valex.types import Array, PyTree


class RNDState(NamedTuple):
    """Everything that is learned or counted."""

    target: PyTree  # of the fixed random net
    predictor: PyTree
    opt: optax.OptState
    obs: normalize.RunningStats
    error: normalize.RunningStats  # of the prediction error, one number


class RND(NamedTuple):
    """Novelty as pure functions."""

    init: Callable  # (key) -> RNDState
    bonus: Callable  # (state, obs [..., obs_dim]) -> [...] in standard deviations of the error seen so far
    update: Callable  # (state, obs [B, obs_dim]) -> RNDState, one step of the predictor


def make_rnd(obs_dim: int, hidden: tuple[int, ...], features: int, lr: float) -> RND:
    """Build the two nets, obs -> [features].

    error(s) = mean_k (f_k(x) - g_k(x))^2,   x = clip((s - mean) / std, -5, 5),   bonus = error / std of all errors so far
    """
    net, tx = mlp(obs_dim, hidden, features), optax.adam(lr)

    def init(key: Array) -> RNDState:
        target, predictor = (net.init(k) for k in jax.random.split(key))
        return RNDState(target, predictor, tx.init(predictor), normalize.init(obs_dim), normalize.init(1))

    def error(state: RNDState, predictor: PyTree, obs: Array) -> Array:
        x = normalize.normalize(state.obs, obs)
        return jnp.mean((net.apply(predictor, x) - net.apply(state.target, x)) ** 2, axis=-1)

    def bonus(state: RNDState, obs: Array) -> Array:
        scale = normalize.scale_shift(state.error)[0][0]
        return error(state, state.predictor, obs) * scale

    def update(state: RNDState, obs: Array) -> RNDState:
        state = state._replace(obs=normalize.update(state.obs, obs))

        def loss(predictor: PyTree) -> tuple[Array, Array]:
            errors = error(state, predictor, obs)
            return jnp.mean(errors), errors

        grads, errors = jax.grad(loss, has_aux=True)(state.predictor)
        predictor, opt = descend(tx, grads, state.opt, state.predictor)
        return state._replace(
            predictor=predictor, opt=opt, error=normalize.update(state.error, jax.lax.stop_gradient(errors)[:, None])
        )

    return RND(init, bonus, update)
