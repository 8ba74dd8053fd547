"""Dynamics models that pass gradients only as far, or as large, as they are told, or that stop after some steps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from valex.envs.base import tree_where
from valex.losses import square_norms
from valex.types import Array, Model, PyTree, StepOut


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def clip_adjoint(rows: list[Array], limit: float) -> list[Array]:
    """Return the arrays [B, ...]; on the way back lambda_b <- lambda_b min(1, limit / |lambda_b|), the norm over all of them."""
    del limit
    return rows


def _clip_forward(rows: list[Array], limit: float) -> tuple[list[Array], None]:
    del limit
    return rows, None


def _clip_backward(limit: float, saved: None, adjoint: list[Array]) -> tuple[list[Array]]:
    del saved
    square = square_norms(adjoint)
    shrink = jnp.where(square > limit**2, limit / jnp.sqrt(jnp.where(square > limit**2, square, 1.0)), 1.0)
    return ([x * shrink.reshape(-1, *(1,) * (x.ndim - 1)) for x in adjoint],)


clip_adjoint.defvjp(_clip_forward, _clip_backward)


def passing(model: Model, truncate: int, adjoint_clip: float | None) -> Model:
    """Return the model with gradients that end every `truncate` steps (0: nowhere) and are no larger than `adjoint_clip`.

    What is clipped is lambda = d objective / d (state and observation after a step), for every row by itself. Both bias the
    gradient. Sources: truncated backpropagation through time, Williams and Peng 1990; clipping of the adjoint, after the
    element-wise one of Graves 2013 (arXiv 1308.0850).
    """
    if not truncate and adjoint_clip is None:
        return model

    def gate(values: PyTree, cut: Array) -> PyTree:
        """Let numbers through; what stands in several places is one number."""
        leaves, tree = jax.tree.flatten(values)
        once = {id(x): x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}
        rows: list[Any] = list(once.values())
        if adjoint_clip is not None:
            rows = clip_adjoint(rows, adjoint_clip)
        if truncate:
            rows = [jnp.where(cut.reshape(-1, *(1,) * (x.ndim - 1)), jax.lax.stop_gradient(x), x) for x in rows]
        through = dict(zip(once, rows, strict=True))
        return jax.tree.unflatten(tree, [through.get(id(x), x) for x in leaves])

    def start(params: PyTree, key: Array, obs: Array, sim_state: PyTree) -> tuple[Array, PyTree]:
        return jnp.zeros(obs.shape[0], jnp.int32), model.start(params, key, obs, sim_state)

    def step(params: PyTree, key: Array, state: tuple[Array, PyTree], action: Array) -> tuple[tuple, StepOut]:
        count, inner = state
        inner, out = model.step(params, key, inner, action)
        count += 1
        inner, obs = gate((inner, out.obs), count % max(truncate, 1) == 0)
        return (count, inner), out._replace(obs=obs)

    return model._replace(start=start, step=step)


def held(model: Model, steps: Array) -> Model:
    """Return the model that stays where it is after `steps` steps ([] int, traced), with reward 0 and without an end.

    A rollout of a fixed length then ends in s_steps, whatever it is: one compiled program serves every horizon up to that length.
    What is not followed is asked at s_steps only, so that a model that explodes later spoils no gradient (0 * inf).
    """

    def start(params: PyTree, key: Array, obs: Array, sim_state: PyTree) -> tuple[Array, Array, PyTree]:
        return jnp.zeros(obs.shape[0], jnp.int32), obs, model.start(params, key, obs, sim_state)

    def step(params: PyTree, key: Array, state: tuple[Array, Array, PyTree], action: Array) -> tuple[tuple, StepOut]:
        count, obs, inner = state
        going = count < steps
        after, out = model.step(params, key, inner, action)
        seen = tree_where(going, out.obs, obs)
        out = StepOut(seen, jnp.where(going, out.reward, 0.0), going & out.terminated)
        return (count + 1, seen, tree_where(going, after, inner)), out

    return model._replace(start=start, step=step)
