"""A dynamics model some of whose components are replaced by the truth: states, their derivatives, rewards."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import tree_where
from valex.models.oracle import make_oracle
from valex.types import Array, Env, Model, PyTree, StepOut


class Truth(NamedTuple):
    """Which components are the simulator's: 1 the simulator's, 0 the model's; numbers, so that one program serves all choices."""

    states: Array | float  # where a step leads, and whether the task ends there
    jacobians: Array | float  # how that depends on state and action
    reward: Array | float  # its value and its derivatives


def swapped(model: Model, env: Env, truth: Truth) -> Model:
    """Return the model with the components that `truth` names taken from the simulator; its state is an observation.

        s' = j + sg[v - j],   v = next observation of the one that gives states, j of the one that gives derivatives
        r  = of the one that gives rewards, at (s, a)

    Both are asked at the same observation, so the simulator is set to observations: `env.invert` has to exist. The model is
    started anew at each of them: with `fixed_model` every step draws a member of its own.
    Raises ValueError where the observation does not tell the state.
    """
    invert = env.invert
    if invert is None:
        raise ValueError(f"env: the observation of {env.spec.name} does not tell its state, so nothing can be swapped")

    def start(params: PyTree, key: Array, obs: Array, sim_state: PyTree) -> Array:
        del params, key, sim_state
        return obs

    def step(params: PyTree, key: Array, obs: Array, action: Array) -> tuple[Array, StepOut]:
        """Ask both, and put the step together."""
        start_key, model_key, env_key = jax.random.split(key, 3)
        state = jax.vmap(invert)(obs)
        inner = model.start(params, start_key, obs, jax.vmap(env.sim_state)(state))
        said = model.step(params, model_key, inner, action)[1]
        real = jax.vmap(env.step)(jax.random.split(env_key, len(action)), state, action)[1]
        take = lambda flag, a, b: tree_where(jnp.asarray(flag) > 0.5, a, b)  # noqa: E731
        value, slope = take(truth.states, real.obs, said.obs), take(truth.jacobians, real.obs, said.obs)
        after = slope + jax.lax.stop_gradient(value - slope)
        ended = take(truth.states, real.terminated, said.terminated)
        return after, StepOut(after, take(truth.reward, real.reward, said.reward), ended)

    return model._replace(start=start, step=step, needs_sim_state=False)


def simulator(env: Env) -> Model:
    """Return the simulator as a model whose state is an observation. Raises ValueError where that does not tell the state."""
    return swapped(make_oracle(env), env, Truth(1.0, 1.0, 1.0))
