"""Transitions of valex's own environments as a dataset: whole episodes of a policy, or what a replay holds."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex import replay as replays
from valex.datasets.card import Card, installed_versions
from valex.envs.base import VecState, reset_batch
from valex.fields import ConfigError
from valex.offline.data import ROWS, Dataset, from_arrays
from valex.train import collect
from valex.types import Array, Env, PyTree, Transition

STEPS_AT_ONCE = 1_000  # control steps of all environments in one compiled call


class Ask(NamedTuple):
    """How much of a policy is wanted."""

    transitions: int  # at least, in whole episodes
    num_envs: int
    seed: int


def stacked(steps: dict[str, np.ndarray], quota: int | None) -> Dataset:
    """Return time-major steps [T, B, ...] as a dataset, environment after environment.

    Of each environment whole episodes are taken until there are `quota` steps; None: all steps, an episode that is still
    going on counts as truncated. Raises DataError where there are none.
    """
    done = steps["terminated"] | steps["truncated"]
    parts: dict[str, list[np.ndarray]] = {key: [] for key in ROWS}
    lengths: list[int] = []
    for b in range(done.shape[1]):
        ends = np.flatnonzero(done[:, b]) + 1
        if quota is not None:
            ends = ends[: np.searchsorted(ends, quota) + 1]
        elif len(ends) == 0 or ends[-1] < len(done):
            ends = np.append(ends, len(done))
        if len(ends):
            lengths += np.diff(ends, prepend=0).tolist()
            for key in ROWS:
                parts[key].append(steps[key][: ends[-1], b])
    flat = {key: np.concatenate(values) for key, values in parts.items()}
    flat["action"] = np.clip(flat["action"], -1.0, 1.0)
    return from_arrays(flat, np.concatenate([[0], np.cumsum(lengths)]), {})


def as_steps(steps: Transition) -> dict[str, np.ndarray]:
    """Return the fields of a dataset's rows on the host."""
    return {key: np.asarray(getattr(steps, key)) for key in ROWS}


def make_walk(env: Env, choose: Callable) -> Callable:
    """Compile (params, envs, keys [T]) -> (envs, T steps) of `choose(params, key, obs) -> ActionSample`, for any params."""

    def walk(params: PyTree, envs: VecState, keys: Array) -> tuple[VecState, Transition]:
        def step(envs, key):
            envs, out = collect(env, partial(choose, params), key, envs)
            kept = Transition(*(getattr(out, key) for key in ROWS))
            return envs, kept._replace(reward=out.reward - env.spec.reward_offset)

        return jax.lax.scan(step, envs, keys)

    return jax.jit(walk)


def whole_episodes(env: Env, walk: Callable, params: PyTree, ask: Ask) -> Dataset:
    """Collect whole episodes of a walk with `params` until there are `ask.transitions` steps.

    Each environment goes on until it has its share and then ends its episode, so that none is cut short; rewards are the
    task's own. Stepped together, in compiled calls of a thousand steps.
    """
    quota = -(-ask.transitions // ask.num_envs)
    reset_key, run_key = jax.random.split(jax.random.key(ask.seed))
    envs = reset_batch(env, reset_key, ask.num_envs)
    parts: list[dict[str, np.ndarray]] = []
    needed = quota + env.spec.episode_length  # by then the episode that reaches the quota has ended
    for i in range(-(-needed // STEPS_AT_ONCE)):
        envs, steps = walk(params, envs, jax.random.split(jax.random.fold_in(run_key, i), STEPS_AT_ONCE))
        parts.append(as_steps(steps))
        done = np.concatenate([part["terminated"] | part["truncated"] for part in parts])
        if done[quota - 1 :].any(axis=0).all():
            break
    return stacked({key: np.concatenate([part[key] for part in parts]) for key in ROWS}, quota)


def from_replay(replay: replays.Replay, steps: int) -> Dataset:
    """Return the oldest `steps` control steps (all environments together) of a ring that has not wrapped.

    Raises ConfigError where it has: the first steps are gone.
    """
    capacity, num_envs, _ = replay.words.shape
    rows = min(-(-steps // num_envs), int(replay.size))
    if int(replay.size) == capacity and int(replay.position) != 0:
        raise ConfigError("train_steps: the replay is full and has lost its first steps; raise its capacity")
    slots = jnp.arange(rows * num_envs).reshape(rows, num_envs)
    return stacked(as_steps(replays.gather(replay, slots)), None)


def origin(env: dict, generator: dict, seed: int, notes: list[str]) -> dict:
    """Return what a card says of where the data come from."""
    versions = installed_versions()
    return {"env": env, "generator": generator, "seed": seed, "versions": versions, "notes": tuple(notes)}


Made = list[tuple[Dataset, Card]]
