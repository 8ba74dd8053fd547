"""How wrong the derivatives of a dynamics model are: what a policy gradient through the model is made of.

    E = || D_model - D ||_F / || D ||_F        D: columns of derivatives of the next observation, rows in units of sigma

with respect to the action, and along random directions of the simulator state: those move the observation by delta and the next
one by delta', and the model has to say J_obs delta = delta'. So it need not be assumed that the observation is the state.
Simulators are differenced, differentiable or not: the truth then does not hang on what autodiff makes of contacts, and all
differences are one batch of steps. A model with opinions is differentiated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.models.oracle import make_oracle
from valex.types import Array, Env, Model, PyTree, Transition

ACTION_STEP = 0.01  # of central differences; base actions keep twice that from the bounds, where clipping bends them
STATE_STEP = 0.05  # of central differences, in standard deviations of the one-step change of the simulator state
DIRECTIONS = 4  # M, of the simulator state at every start


class Columns(NamedTuple):
    """Derivatives of the next observation at S starts; the model's have an axis of N members behind the first."""

    action: Array  # [act_dim, S, obs_dim] of the simulator
    model_action: Array  # [act_dim, N, S, obs_dim]
    delta: Array  # [M, S, obs_dim] what M directions do to the observation
    after: Array  # [M, S, obs_dim] what they do to the next one
    model_after: Array  # [M, N, S, obs_dim]


def directions(key: Array, sim_state: PyTree) -> PyTree:
    """Draw a direction for every row of a simulator state: N(0, 1) in each number, 0 in what is not a real number."""
    leaves, tree = jax.tree.flatten(sim_state)
    drawn = [
        jax.random.normal(k, x.shape, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros_like(x)
        for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def perturbed(env: Env, sim_state: PyTree, along: PyTree, unit: PyTree, size: Array | float) -> PyTree:
    """Return simulator states [S, ...] moved by size [] or [S] units along a direction, brought back to what can go on.

    x' = project(x + size unit along)        unit: as of `typical_change`, without the axis [S]
    """

    def move(x: Array, direction: Array, one: Array) -> Array:
        scale = jnp.reshape(size, jnp.shape(size) + (1,) * (x.ndim - jnp.ndim(size)))
        return x + (scale * one * direction).astype(x.dtype)

    return jax.vmap(env.project)(jax.tree.map(move, sim_state, along, unit))


def simulated_columns(
    env: Env, model: Model, params: PyTree, key: Array, at: tuple[Transition, PyTree, PyTree]
) -> tuple[Array, Array, Array]:
    """Return (action, delta, after) of a simulator by central differences.

    at = (first rows [S], directions [M, S, ...], units). Both sides of a difference draw the same noise.
    """
    first, along, unit = at
    (number, act_dim), total = first.action.shape, first.action.shape[1] + DIRECTIONS
    pushes = jnp.concatenate([jnp.eye(act_dim), jnp.zeros((DIRECTIONS, act_dim))])[:, None]
    along = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros((act_dim, *x.shape[1:]), x.dtype), x]), along)
    rows = lambda tree: jax.tree.map(lambda x: x.reshape(total * number, *x.shape[2:]), tree)  # noqa: E731

    def side(sign: Array) -> tuple[Array, Array]:
        moved = rows(jax.vmap(lambda d: perturbed(env, first.sim_state, d, unit, sign * STATE_STEP))(along))
        obs = jax.vmap(lambda x: env.obs(env.restart(x)))(moved)
        action = rows(first.action + sign * ACTION_STEP * pushes)
        out = model.step(params, key, model.start(params, key, obs, moved), action)[1]
        return obs.reshape(total, number, -1), out.obs.reshape(total, number, -1)

    before, after = jax.vmap(side)(jnp.array([1.0, -1.0]))
    before, after = before[0] - before[1], after[0] - after[1]
    return after[:act_dim] / (2.0 * ACTION_STEP), before[act_dim:], after[act_dim:]


def derivative_columns(
    env: Env, model: Model, params: PyTree, key: Array, at: tuple[Transition, PyTree]
) -> tuple[Columns, PyTree]:
    """Return the derivatives of simulator and model at S starts, and the directions [M, S, ...] of the simulator state.

    at = (first rows, unit of the simulator state). A model with opinions is differentiated in its mean predictions.
    """
    (first, unit), (direction_key, step_key), opinions = at, jax.random.split(key), model.opinions
    first = first._replace(action=jnp.clip(first.action, -1.0 + 2.0 * ACTION_STEP, 1.0 - 2.0 * ACTION_STEP))
    along = directions(direction_key, jax.tree.map(lambda x: jnp.stack([x] * DIRECTIONS), first.sim_state))
    place = first, along, unit
    action, delta, after = simulated_columns(env, make_oracle(env), (), step_key, place)
    if opinions is None:
        by_action, _, by_state = (x[:, None] for x in simulated_columns(env, model, params, step_key, place))
        return Columns(action, by_action, delta, after, by_state), along

    def slope(tangents: tuple[Array, Array]) -> Array:
        say = lambda obs, action: opinions(params, obs, action).obs  # noqa: E731
        return jax.jvp(say, (first.obs, first.action), tangents)[1]

    pushes = jnp.broadcast_to(jnp.eye(len(action))[:, None], (len(action), *first.action.shape))
    still = jnp.zeros((len(action), *first.obs.shape)), jnp.zeros((DIRECTIONS, *first.action.shape))
    found = jax.vmap(slope)((jnp.concatenate([still[0], delta]), jnp.concatenate([pushes, still[1]])))
    return Columns(action, found[: len(action)], delta, after, found[len(action) :]), along
