"""A small grid of flags whose transition probabilities are known: what a learned model should find is known exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import VecState, reset_batch, step_batch
from valex.types import Array, Env, EnvSpec, StepOut, Transition

ROWS, COLUMNS, CHANNELS = 5, 5, 3  # channels: walker, food, lamp
CELLS = ROWS * COLUMNS * CHANNELS
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
LAMP = (0, 0, 2)  # the flag that flickers
LAMP_FLAG = LAMP[2]  # where it lies in the flat observation
FLICKER = 0.3  # probability that the lamp is lit after a step, whatever went before
PERIL = 0.4  # probability that the last column ends the episode


class World(NamedTuple):
    """Where everything is."""

    walker: Array  # [2] int32
    food: Array  # [2] int32, where it was put at the reset
    lamp: Array  # [] bool


def make_grid_world(flicker: float = FLICKER, peril: float = PERIL) -> Env:
    """A walker is moved by 4 actions, walls hold it; on the food it is paid 1, in the last column the episode may end."""
    spec = EnvSpec("grid_world", CELLS, 0, 4, 20, 1, 1.0, "jax", False, 0.0, (ROWS, COLUMNS, CHANNELS))

    def reset(key):
        keys = jax.random.split(key, 3)
        place = lambda k, width: jax.random.randint(k, (2,), 0, jnp.array([ROWS, width]))  # noqa: E731
        return World(place(keys[0], COLUMNS - 1), place(keys[1], COLUMNS), jax.random.bernoulli(keys[2], flicker))

    def obs(state):
        grid = jnp.zeros((ROWS, COLUMNS, CHANNELS), bool)
        grid = grid.at[(*state.walker, 0)].set(True).at[(*state.food, 1)].set(True)
        return grid.at[LAMP].set(state.lamp).reshape(-1)

    def step(key, state, action):
        lamp_key, end_key = jax.random.split(key)
        walker = jnp.clip(state.walker + jnp.array(MOVES)[action], 0, jnp.array([ROWS - 1, COLUMNS - 1]))
        after = World(walker, state.food, jax.random.bernoulli(lamp_key, flicker))
        end = (walker[1] == COLUMNS - 1) & jax.random.bernoulli(end_key, peril)
        return after, StepOut(obs(after), 1.0 * jnp.all(walker == state.food), end)

    return Env(spec, reset, step, obs, lambda state: state, lambda sim_state: sim_state, None)


def walks(env: Env, steps: int, num_envs: int = 8, seed: int = 0) -> Transition:
    """Random steps of several environments, one after the other; leaves [steps * num_envs, ...]."""
    key = jax.random.key(seed)

    def step(envs: VecState, key):
        act_key, env_key = jax.random.split(key)
        action = jax.random.randint(act_key, (num_envs,), 0, env.spec.num_actions)
        envs, out = step_batch(env, env_key, envs, action)
        states = dict(sim_state=out.sim_state, next_sim_state=out.next_sim_state)
        return envs, Transition(out.obs, action, out.reward, out.next_obs, out.terminated, out.truncated, **states)

    _, rows = jax.jit(lambda e: jax.lax.scan(step, e, jax.random.split(key, steps)))(reset_batch(env, key, num_envs))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), rows)
