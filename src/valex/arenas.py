"""Where a policy is tried: Gymnasium, OGBench and dm_control on the host and our own environments, under one contract.

    arena = make_arena({"id": "pointmaze-large-v0"})                 # as the card of a dataset says it
    played = play(arena, act, seeds=range(50))                       # valex.play: whole episodes

An episode is fixed by its seed and the policy: it does not depend on what else is played beside it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex.datasets.base import need
from valex.datasets.generate.control import make_world
from valex.envs.base import make_env
from valex.fields import ConfigError
from valex.offline.batch import Dims
from valex.settings import EnvConfig
from valex.tables import ENVS
from valex.types import Array, Env, PyTree, StepOut

DM_CONTROL = "dm_control/"
CLOCK = 1_000  # control steps of an episode where an environment names none


class Moment(NamedTuple):
    """What one control step of B environments gives; rows of those that were not stepped are whatever was there."""

    obs: np.ndarray  # [B, obs_dim] float32
    reward: np.ndarray  # [B] per control step
    terminated: np.ndarray  # [B] bool
    success: np.ndarray  # [B] bool, False where the task knows none


class Field(NamedTuple):
    """B environments that have been built."""

    reset: Callable  # (lane, seed) -> (obs [obs_dim] float32, goal [goal_dim] float32 or ())
    step: Callable  # (action [B, act_dim] float32 in [-1, 1], going [B] bool) -> Moment


class Arena(NamedTuple):
    """A task that policies are tried on."""

    name: str
    dims: Dims  # goal 0: the task has one goal
    episode_length: int  # control steps until truncation
    build: Callable  # (B) -> Field
    success: bool = False  # whether the task says when it has been solved
    box: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # low, high that actions are put into; None: [-1, 1]


# ------------------------------------------------------------------------------------------------------------ by their names


def make_arena(env: dict[str, Any], goals: bool = False) -> Arena:
    """Build the arena of a dataset's environment, {"id": ..., "kwargs": {...}} as its card has it.

    id: dm_control/<domain>, one of `valex list envs`, or what Gymnasium knows, OGBench's included. goals: the policy is told
    one. Raises ConfigError where it cannot be built or has no goals.
    """
    name, kwargs = env.get("id"), dict(env.get("kwargs") or {})
    if not isinstance(name, str) or not name:
        raise ConfigError("env: the dataset's card names none; say which with --env ID, as Gymnasium calls it")
    if name.startswith(DM_CONTROL):
        arena = control_arena(name.removeprefix(DM_CONTROL), kwargs)
    elif name in ENVS:
        arena = own_arena(name, kwargs)
    else:
        arena = gymnasium_arena(name, kwargs)
    if goals and not arena.dims.goal:
        raise ConfigError(f"env: {name} tells no goal when it starts; train without goals")
    return arena if goals else arena._replace(dims=arena.dims._replace(goal=0))


def own_arena(name: str, kwargs: dict[str, Any]) -> Arena:
    """Build an arena of one of our own environments, stepped on the device. Raises ConfigError."""
    try:
        env = make_env(EnvConfig(name, **kwargs))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    if env.spec.num_actions:
        raise ConfigError(f"env: the actions of {name} are discrete; values of datasets need continuous ones")
    dims = Dims(env.spec.obs_dim, env.spec.act_dim)
    return Arena(name, dims, env.spec.episode_length, partial(own_field, compiled(env)))


class Compiled(NamedTuple):
    """One of our environments, compiled for any number of copies."""

    env: Env
    start: Callable  # (seed) -> state
    obs: Callable  # (state) -> [obs_dim]
    put: Callable  # (states, lane, state) -> states
    step: Callable  # (seeds [B], ages [B], states, action [B, act_dim]) -> (states, StepOut)


def compiled(env: Env) -> Compiled:
    """Compile an environment; the noise of a step follows from the episode's seed and its age."""

    def step(seeds: Array, ages: Array, states: PyTree, action: Array) -> tuple[PyTree, StepOut]:
        keys = jax.vmap(lambda seed, age: jax.random.fold_in(jax.random.key(seed), age + 1))(seeds, ages)
        return jax.vmap(env.step)(keys, states, action)

    start = jax.jit(lambda seed: env.reset(jax.random.fold_in(jax.random.key(seed), 0)))
    put = jax.jit(lambda states, lane, one: jax.tree.map(lambda x, y: x.at[lane].set(y), states, one))
    return Compiled(env, start, jax.jit(env.obs), put, jax.jit(step))


def own_field(parts: Compiled, count: int) -> Field:
    """Build `count` environments on the device."""
    example = parts.start(0)
    held = {"states": jax.tree.map(lambda x: jnp.stack([x] * count), example)}
    seeds, ages, offset = np.zeros(count, np.uint32), np.zeros(count, np.int32), parts.env.spec.reward_offset

    def reset(lane: int, seed: int) -> tuple[np.ndarray, Any]:
        fresh = parts.start(seed)
        held["states"] = parts.put(held["states"], lane, fresh)
        seeds[lane], ages[lane] = seed, 0
        return np.asarray(parts.obs(fresh)), ()

    def step(action: np.ndarray, going: np.ndarray) -> Moment:
        held["states"], out = parts.step(seeds.copy(), ages.copy(), held["states"], action)
        ages[going] += 1
        reward, none = np.asarray(out.reward) - offset, np.zeros(count, bool)
        return Moment(np.asarray(out.obs), reward, np.asarray(out.terminated), none)

    return Field(reset, step)


def control_arena(domain: str, kwargs: dict[str, Any]) -> Arena:
    """Build an arena of dm_control, kwargs task and episode_length. Raises ConfigError."""
    task, clock = kwargs.get("task", "run"), kwargs.get("episode_length")
    spec = make_world(domain, task, 0, clock).spec

    def build(count: int) -> Field:
        worlds = [make_world(domain, task, 0, clock) for _ in range(count)]

        def reset(lane: int, seed: int) -> tuple[np.ndarray, Any]:
            worlds[lane].env.task._random = np.random.RandomState(seed)
            return worlds[lane].reset(), ()

        def one(lane: int, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
            outcome = worlds[lane].step(action)
            return outcome.obs, outcome.reward, outcome.terminated, False

        return Field(reset, by_lane(one, spec.obs_dim, count))

    return Arena(f"{DM_CONTROL}{domain}-{task}", Dims(spec.obs_dim, spec.act_dim), spec.episode_length, build)


def gymnasium_arena(name: str, kwargs: dict[str, Any]) -> Arena:
    """Build an arena of what Gymnasium knows under a name, OGBench's and gymnasium-robotics' included. Raises ConfigError."""
    gymnasium = need("gymnasium")
    for package in ("ogbench", "gymnasium_robotics"):  # importing them makes their environments known
        try:
            need(package)
        except ConfigError:
            continue
    clock = kwargs.pop("max_episode_steps", None)

    def make() -> Any:
        try:
            return gymnasium.make(name, disable_env_checker=True, **kwargs)
        except Exception as error:  # what an unknown environment raises is not documented
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"env: {name} cannot be built ({why}); install or name another environment") from error

    example = make()
    space = example.action_space
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or len(space.shape) != 1
        or not np.isfinite([space.low, space.high]).all()
    ):
        raise ConfigError(f"env: the actions of {name} are {space}; allowed: a bounded Box of one axis")
    length = clock or (example.spec.max_episode_steps if example.spec else None) or CLOCK
    obs, goal, solved = _first(example, 0)
    dims = Dims(len(obs), space.shape[0], len(goal))
    ends = tuple(space.low.tolist()), tuple(space.high.tolist())
    box = None if set(ends[0]) == {-1.0} and set(ends[1]) == {1.0} else ends
    return Arena(name, dims, int(length), partial(gymnasium_field, make, space, len(obs)), solved, box)


def without_clock(env: Any) -> Any:
    """Return an environment of `gymnasium.make` without what that adds to all: the clock, which is ours, and checks of its use.

    Wrappers of its own stay, as they make its observations and actions.
    """
    from gymnasium import Wrapper, wrappers

    added = (wrappers.TimeLimit, wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)
    while isinstance(env, added):
        env = env.env
    outer = env
    while isinstance(outer, Wrapper):  # what the caller asks for in a spec lies outside the clock
        while isinstance(outer.env, added):
            outer.env = outer.env.env
        outer = outer.env
    return env


def gymnasium_field(make: Callable, space: Any, obs_dim: int, count: int) -> Field:
    """Build `count` environments of Gymnasium; an action in [-1, 1] is put into the box that they ask for."""
    envs = [without_clock(make()) for _ in range(count)]
    middle, half = (space.high + space.low) / 2.0, (space.high - space.low) / 2.0

    def reset(lane: int, seed: int) -> tuple[np.ndarray, Any]:
        obs, goal, _ = _first(envs[lane], seed)
        return obs, goal

    def one(lane: int, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        env, scaled = envs[lane], (middle + half * action).astype(space.dtype)
        with drawing(int(env.unwrapped.np_random.integers(2**31))) if teleports else nullcontext():
            obs, reward, terminated, _, info = env.step(scaled)
        return flat(obs), float(reward), bool(terminated), bool(info.get("success", info.get("is_success", False)))

    teleports = (
        getattr(envs[0].unwrapped, "_teleport_info", None) is not None
    )  # OGBench draws those from numpy's global generator
    return Field(reset, by_lane(one, obs_dim, count))


def _first(env: Any, seed: int) -> tuple[np.ndarray, Any, bool]:
    """Start an episode; return (obs, goal or (), whether the task knows success). The task is one of five by the seed."""
    tasks = getattr(env.unwrapped, "num_tasks", None)
    options = {"task_id": seed % tasks + 1} if tasks else None
    env.action_space.seed(seed)
    with drawing(seed):
        obs, info = env.reset(seed=seed, options=options)
    goal = info.get("goal", ())
    return flat(obs), np.asarray(goal, np.float32), tasks is not None


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Let environments that draw from numpy's global generator draw by `seed`; that generator is left as it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def by_lane(one: Callable, obs_dim: int, count: int) -> Callable:
    """Build `Field.step` of (lane, action) -> (obs, reward, terminated, success), for the lanes that are going."""

    def step(action: np.ndarray, going: np.ndarray) -> Moment:
        moment = Moment(np.zeros((count, obs_dim), np.float32), np.zeros(count), *(np.zeros(count, bool) for _ in "ts"))
        for lane in np.flatnonzero(going):
            for column, value in zip(moment, one(lane, action[lane]), strict=True):
                column[lane] = value
        return moment

    return step


def flat(obs: Any) -> np.ndarray:
    """Return an observation as readers of datasets have it: of a dict `observation`, or all entries by name, [d] float32."""
    if isinstance(obs, dict):
        parts = [obs["observation"]] if "observation" in obs else [obs[name] for name in sorted(obs)]
        obs = np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])
    return np.asarray(obs, np.float32).ravel()
