"""What every environment shares: building by name, action repeat, the clock and the automatic reset.

An `Env` is a set of pure functions on ONE instance and knows no clock. Here, and nowhere else, a batch of instances is
stepped together, told when its time is up and started anew.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from valex import tables
from valex.settings import EnvConfig
from valex.types import Array, Env, EnvSpec, PyTree, StepOut


class Choices(NamedTuple):
    """An `EnvConfig` that has been checked and whose every None has been filled in."""

    name: str
    backend: str
    action_repeat: int  # base steps per control step
    episode_length: int  # control steps until the clock truncates
    sticky_actions: float = 0.0  # chance that the action before is taken again
    difficulty_ramping: bool = False  # the game becomes harder as it goes on


class VecState(NamedTuple):
    """N environments and their clocks."""

    state: PyTree  # environment state, leading axis [N]
    steps: Array  # [N] int32, control steps since the reset


class Outcome(NamedTuple):
    """What one control step of N environments leaves to be learned from."""

    obs: Array  # [N, obs_dim] where the action was taken
    reward: Array  # [N] per control step
    next_obs: Array  # [N, obs_dim] the true successor, also where the episode ended
    terminated: Array  # [N] bool, the task ended
    truncated: Array  # [N] bool, the clock ran out and the task had not ended
    sim_state: PyTree  # [N, ...] restarts the simulator at obs
    next_sim_state: PyTree  # [N, ...] restarts it at next_obs, also where the episode ended
    age: Array  # [N] int32 control steps since the reset, at obs


def make_env(config: EnvConfig) -> Env:
    """Build the environment that `config` names, its rewards shifted by `config.reward_offset`.

    Raises ValueError, one line that begins with the field at fault and says what is allowed.
    """
    if config.name not in tables.ENVS:
        raise ValueError(f"env.name: got {config.name!r}, allowed: {', '.join(tables.ENVS)}")
    return offset_reward(tables.load(tables.ENVS, config.name)(config), config.reward_offset)


def resolve(
    config: EnvConfig, backends: tuple[str, ...], episode_length: int, offers: dict[str, Any] | None = None
) -> Choices:
    """Check `config` and fill its Nones: the first of `backends`, action_repeat 1, `episode_length` control steps.

    The default episode is counted in control steps and does not shrink when actions are repeated. `offers` holds the
    defaults of those settings that only some environments have: the others refuse them.
    Raises ValueError, one line that begins with the field at fault and says what is allowed.
    """
    backend = backends[0] if config.backend is None else config.backend
    if backend not in backends:
        raise ValueError(f"env.backend: got {backend!r}, {config.name} allows: {', '.join(backends)}")
    repeat = 1 if config.action_repeat is None else config.action_repeat
    length = episode_length if config.episode_length is None else config.episode_length
    for field, value in (("action_repeat", repeat), ("episode_length", length)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"env.{field}: got {value!r}, allowed: whole numbers >= 1")
    return Choices(config.name, backend, repeat, length, **_optional(config, offers or {}))


def _optional(config: EnvConfig, offers: dict[str, Any]) -> dict[str, Any]:
    """Return `offers` with what `config` asks for instead. Raises ValueError where it asks for what is not offered."""
    asked = {"sticky_actions": config.sticky_actions, "difficulty_ramping": config.difficulty_ramping}
    asked = {field: value for field, value in asked.items() if value is not None}
    for field, value in asked.items():
        if field not in offers:
            raise ValueError(f"env.{field}: got {value!r}, {config.name} has no such setting; leave it out")
    sticky = asked.get("sticky_actions", 0.0)
    if isinstance(sticky, bool) or not 0.0 <= sticky <= 1.0:
        raise ValueError(f"env.sticky_actions: got {sticky!r}, allowed: numbers in [0, 1]")
    return offers | asked


def native_env(spec: EnvSpec, reset: Callable, step: Callable, obs: Callable, terminated: Callable | None) -> Env:
    """Build an environment whose state is so small that the whole of it is its `sim_state`."""
    return Env(
        spec=spec,
        reset=reset,
        step=step,
        obs=obs,
        sim_state=lambda state: state,
        restart=lambda sim_state: sim_state,
        terminated=terminated,
    )


def tree_where(condition: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Choose between two trees; `condition` [] or [N], leaves [...] or [N, ...]."""

    def choose(a, b):
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(choose, on_true, on_false)


def repeat_action(env: Env, n: int) -> Env:
    """Make one control step of `n` steps of `env` under the same action; n = 1 returns `env`.

        reward = sum of r_i up to and including the terminating step,   terminated = any,   state frozen from then on

    `env.terminated` has to depend on next_obs alone: the control step reports the obs of the terminating step.
    Raises ValueError where n < 1.
    """
    if n < 1:
        raise ValueError(f"env.action_repeat: got {n!r}, allowed: whole numbers >= 1")
    if n == 1:
        return env

    def step(key, state, action):
        def substep(carry, key):
            now, total, ended = carry
            # After the end, step from where this control step began: the result is thrown away, but its derivative
            # is multiplied by zero and must be finite, which beyond the end it need not be (0 * inf = NaN).
            successor, out = env.step(key, tree_where(ended, state, now), action)
            now = tree_where(ended, now, successor)
            return (now, total + jnp.where(ended, 0.0, out.reward), ended | out.terminated), None

        start = (state, jnp.zeros(()), jnp.zeros((), bool))
        (state_n, total, ended), _ = jax.lax.scan(substep, start, jax.random.split(key, n))
        return state_n, StepOut(env.obs(state_n), total, ended)

    spec = env.spec._replace(action_repeat=env.spec.action_repeat * n, dt=env.spec.dt * n)
    return env._replace(spec=spec, step=step)


def offset_reward(env: Env, offset: float) -> Env:
    """Add `offset` to the reward of every control step; 0 returns `env`.

    Without terminations all returns move by offset * (1 - gamma^T) / (1 - gamma) and no ordering of policies changes: what
    moves is where they lie from a critic that starts at 0. With terminations a positive offset pays for staying alive.
    """
    if offset == 0.0:
        return env

    def step(key, state, action):
        state, out = env.step(key, state, action)
        return state, out._replace(reward=out.reward + offset)

    return env._replace(spec=env.spec._replace(reward_offset=env.spec.reward_offset + offset), step=step)


def reset_batch(env: Env, key: Array, num_envs: int) -> VecState:
    """Start `num_envs` environments, each from a key of its own, with their clocks at zero."""
    state = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    return VecState(state, jnp.zeros(num_envs, jnp.int32))


def step_batch(env: Env, key: Array, vec: VecState, action: Array) -> tuple[VecState, Outcome]:
    """Step N environments and start those whose episode ended anew, each from a fresh key.

    `action` [N, act_dim], or [N] int where actions are discrete. `Outcome` holds the true successor; the returned
    `VecState` already stands at the first state of the next episode where one ended. Resets are computed only on steps
    on which an episode ends (under vmap, as over seeds, XLA computes them on every step).
    """
    num_envs = len(vec.steps)
    step_key, reset_key = jax.random.split(key)
    state, out = jax.vmap(env.step)(jax.random.split(step_key, num_envs), vec.state, action)
    steps = vec.steps + 1
    truncated = (steps >= env.spec.episode_length) & ~out.terminated
    done = out.terminated | truncated
    outcome = Outcome(
        obs=jax.vmap(env.obs)(vec.state),
        reward=out.reward,
        next_obs=out.obs,
        terminated=out.terminated,
        truncated=truncated,
        sim_state=jax.vmap(env.sim_state)(vec.state),
        next_sim_state=jax.vmap(env.sim_state)(state),
        age=vec.steps,
    )
    ended_here = VecState(state, steps)
    vec = jax.lax.cond(
        jnp.any(done),
        lambda: tree_where(done, reset_batch(env, reset_key, num_envs), ended_here),
        lambda: ended_here,
    )
    return vec, outcome
