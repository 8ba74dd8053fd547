"""A learner with one environment that is stepped on the host: remember, learn, act, in one compiled call for each step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from valex.datasets.base import NEXT
from valex.datasets.generate.learner import Learner, LearnerState
from valex.types import Array, EnvSpec, Transition


class Outcome(NamedTuple):
    """What one control step on the host returned."""

    obs: np.ndarray  # [obs_dim] float32, the successor
    reward: float
    terminated: bool
    truncated: bool


class World(Protocol):
    """One environment stepped by hand."""

    spec: EnvSpec

    def reset(self) -> np.ndarray:
        """Begin an episode; return the observation [obs_dim] float32."""
        ...

    def step(self, action: np.ndarray) -> Outcome:
        """Take a control step with an action [act_dim] in [-1, 1]."""
        ...

    def simulator(self) -> dict[str, np.ndarray]:
        """Return by name what is kept of a state beside its observation."""
        ...


class Leg(NamedTuple):
    """A stretch of control steps, counted from the start of training; an episode begins and ends with it."""

    first: int
    last: int  # one behind the last step
    warmup: int  # random control steps before the first update
    update_every: int  # control steps between updates
    key: Array  # of all legs; every step folds in its number
    uniform: np.random.Generator  # of random actions


def ignored(row: dict[str, np.ndarray], ends: bool) -> None:
    """Keep nothing of a step."""


def make_drive(learner: Learner, world: World) -> Callable:
    """Build (state, leg, keep) -> state, compiled once for all legs; `keep(row, ends)` is told every step by name."""

    def tick(state: LearnerState, key: Array, step: Transition, obs: Array, learn: bool):
        """Remember a step, learn, and choose the action at `obs`."""
        update_key, act_key = jax.random.split(key)
        state = learner.remember(state, step)
        state = learner.update(state, update_key) if learn else state
        return state, learner.act(state, act_key, obs).action[0]

    ticks = jax.jit(tick, static_argnums=4, donate_argnums=0)
    choose = jax.jit(lambda state, key, obs: learner.act(state, key, obs).action[0])

    def drive(state: LearnerState, leg: Leg, keep: Callable = ignored) -> LearnerState:
        obs = world.reset()
        if leg.first < leg.warmup:
            action = leg.uniform.uniform(-1, 1, world.spec.act_dim).astype(np.float32)
        else:
            key = jax.random.fold_in(jax.random.fold_in(leg.key, leg.first), 1)
            action = np.asarray(choose(state, key, obs[None]))
        for i in range(leg.first, leg.last):
            before = world.simulator()
            out = world.step(action)
            after = {NEXT + name: value for name, value in world.simulator().items()}
            last = out.terminated or out.truncated
            ends = last or i == leg.last - 1
            keep({"obs": obs, "action": action, "next_obs": out.obs} | before | after, ends)
            flags = np.array([out.terminated]), np.array([ends and not out.terminated])
            step: Any = obs[None], action[None], np.full(1, out.reward, np.float32), out.obs[None], *flags
            obs = world.reset() if last else out.obs
            learns = i >= leg.warmup and i % leg.update_every == 0
            state, chosen = ticks(state, jax.random.fold_in(leg.key, i), Transition(*step), obs[None], learns)
            random = i + 1 < leg.warmup
            action = leg.uniform.uniform(-1, 1, world.spec.act_dim).astype(np.float32) if random else np.asarray(chosen)
        return state

    return drive
