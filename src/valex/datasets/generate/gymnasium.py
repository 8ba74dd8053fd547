"""Locomotion of Gymnasium: an agent of ours learns while the task is stepped on the host, and collects there.

The task is the arena that the card's `env` builds (`arenas.py`): our clock, the task's own termination, actions in [-1, 1] put
into its box. Training goes in legs with an evaluation behind each, and goes on from its checkpoint (`legs.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from valex.arenas import Arena, Field, gymnasium_arena
from valex.checks import check
from valex.config import to_dict
from valex.datasets.base import need
from valex.datasets.card import make_card
from valex.datasets.files import read, write
from valex.datasets.generate.collect import Ask, from_replay, stacked
from valex.datasets.generate.expert import EXPERT, Kept, acting, built_for, make_mean
from valex.datasets.generate.host import Outcome
from valex.datasets.generate.learner import Learner, make_learner
from valex.datasets.generate.legs import Look, Plan, is_finite, train_in_legs
from valex.datasets.generate.qualities import (
    MEDIUM_AGENT,
    Task,
    first_medium,
    mean_return,
    noisy_action,
    reference_ask,
    unchecked_config,
)
from valex.distributions import random_action
from valex.fields import ConfigError
from valex.offline.data import ROWS, Dataset
from valex.play import Lanes, Step, play
from valex.settings import EnvConfig, RunConfig
from valex.settings.datasets import LocomotionSettings
from valex.types import Agent, EnvSpec, PyTree

LEARNERS = ("sac", "ddpg", "td3")  # presets that look no further than one stored step
UPDATE_EVERY = 1  # control steps between updates
SEEN = "seen"  # dataset in an expert's folder: what training had seen until the medium agent
EPISODE_SEEDS = 2**31
ONE_GOING = np.ones(1, bool)


# ------------------------------------------------------------------------------------------------------------------- the task


def task_arena(name: str, episode_length: int | None) -> tuple[Arena, EnvSpec]:
    """Build the arena of a Gymnasium id, and what a learner needs to know of it. Raises ConfigError naming `env`."""
    try:
        arena = gymnasium_arena(name, {"max_episode_steps": episode_length})
    except ConfigError as error:
        raise ConfigError(
            f"env: {name} is none of `valex list envs`, and {str(error).removeprefix('env: ')}"
        ) from error
    env = need("gymnasium").make(name, disable_env_checker=True)
    space, dt = env.observation_space, float(getattr(env.unwrapped, "dt", 1.0))
    env.close()
    if not hasattr(space, "low") or len(space.shape) != 1:
        raise ConfigError(
            f"env: the observations of {name} are {type(space).__name__}{space.shape}; allowed: a Box of one axis"
        )
    if arena.dims.goal or arena.success:
        raise ConfigError(f"env: {name} has goals that its observations do not tell; take pointmaze or antmaze")
    return arena, EnvSpec(name, arena.dims.obs, arena.dims.act, 0, arena.episode_length, 1, dt, "gymnasium", False)


@dataclass
class World:
    """One environment of an arena, stepped by hand; its episodes are seeded by `rng`."""

    field: Field
    spec: EnvSpec
    rng: np.random.Generator
    steps: int = 0

    def reset(self) -> np.ndarray:
        """Begin an episode; return the observation [obs_dim] float32."""
        self.steps = 0
        return self.field.reset(0, int(self.rng.integers(EPISODE_SEEDS)))[0]

    def step(self, action: np.ndarray) -> Outcome:
        """Take a control step with an action [act_dim] in [-1, 1]; the clock is ours."""
        moment = self.field.step(action[None], ONE_GOING)
        self.steps += 1
        clock = self.steps >= self.spec.episode_length
        return Outcome(moment.obs[0], float(moment.reward[0]), bool(moment.terminated[0]), clock)

    def simulator(self) -> dict[str, np.ndarray]:
        """Return nothing: no row of training is kept but in the replay."""
        return {}


# ------------------------------------------------------------------------------------------------------------------ collecting


def episode_seeds(seed: int) -> Iterator[int]:
    """Yield the seeds of the episodes that are collected, in the order in which they begin."""
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.integers(EPISODE_SEEDS))


def host_episodes(arena: Arena, choose: Callable, params: PyTree, ask: Ask) -> Dataset:
    """Collect whole episodes of choose(params, key, obs [B, d]) -> [B, act_dim] until there are `ask.transitions` steps.

    Each environment goes on until it has its share and then ends its episode, as in `collect.whole_episodes`.
    """
    quota = -(-ask.transitions // ask.num_envs)
    lanes, key = Lanes(arena, ask.num_envs, episode_seeds(ask.seed)), jax.random.key(ask.seed)
    steps: list[Step] = []
    over = np.zeros(ask.num_envs, bool)
    while not over.all():
        action = np.asarray(choose(params, jax.random.fold_in(key, len(steps)), lanes.obs))
        steps.append(lanes.step(action))
        if len(steps) >= quota:
            over |= steps[-1].terminated | steps[-1].truncated
    return stacked({name: np.stack([getattr(step, name) for step in steps]) for name in ROWS}, quota)


class Policies(NamedTuple):
    """The policies of all kinds, compiled: (params, key, obs [B, d]) -> action [B, act_dim]."""

    random: Callable
    sampled: Callable
    noisy: Callable


def make_policies(agent: Agent, spec: EnvSpec) -> Policies:
    """Build the policies that data are collected by."""
    noisy = noisy_action(agent)
    return Policies(
        jax.jit(lambda params, key, obs: random_action(key, spec, obs.shape[:-1]).action),
        jax.jit(lambda state, key, obs: agent.act(state, key, obs, explore=True).action),
        jax.jit(lambda params, key, obs: noisy(params, key, obs).action),
    )


# ------------------------------------------------------------------------------------------------------------------- training


def run_config(settings: LocomotionSettings, episode_length: int) -> RunConfig:
    """Return the training run that settings stand for, with one environment. Raises ConfigError naming the field."""
    if settings.preset not in LEARNERS:
        raise ConfigError(f"preset: {settings.preset!r} with {settings.env}; allowed: {', '.join(LEARNERS)}")
    config = unchecked_config(settings, 1)
    if settings.train_steps <= (warmup := config.train.warmup_steps):
        raise ConfigError(
            f"train_steps: {settings.train_steps} leave nothing to learn in behind {warmup} random ones; give more"
        )
    check(replace(config, env=EnvConfig()))  # all but the environment, which is none of ours
    return replace(config, env=EnvConfig(settings.env, episode_length=episode_length))


def make_look(arena: Arena, world: World, learner: Learner, config: RunConfig) -> Callable:
    """Build what is done behind every leg: the mean action's return is measured, and what acts is put aside."""
    mean = jax.jit(make_mean(learner.agent))

    def look(state: PyTree, done: int) -> Look:
        if not is_finite(state):
            raise ConfigError(f"train_steps: {config.env.name} by {config.agent.name} was not finite; try another seed")
        first = int(world.rng.integers(EPISODE_SEEDS))
        played = play(arena, lambda obs, goal: mean(state, obs), range(first, first + config.eval.episodes))
        score = float(played.returns.mean())
        said = f"{config.env.name}: {done} of {config.train.env_steps} steps, return {score:.1f}"
        return Look({"episode_return": score}, said, acting(state, aside_name(done)))

    return look


def aside_name(done: int) -> str:
    """Return what the agent behind so many steps is called in a checkpoint."""
    return f"{done:012d}"


def renamed(arrays: dict[str, np.ndarray], before: str, after: str) -> dict[str, np.ndarray]:
    """Return the arrays of an agent under another name of it."""
    return {after + n.removeprefix(before): x for n, x in arrays.items() if n.startswith(before + ".")}


def gymnasium_task(settings: LocomotionSettings) -> Task:
    """Return a task of Gymnasium. Raises ConfigError for settings that cannot be."""
    arena, spec = task_arena(settings.env, settings.episode_length)
    config = run_config(settings, arena.episode_length)
    learner = make_learner(config, spec, (settings.train_steps, 1))
    policies, ask = make_policies(learner.agent, spec), reference_ask(settings, arena.episode_length)
    gather = Policies(*(partial(host_episodes, arena, policy) for policy in policies))

    def learn(folder: Path | None) -> tuple[Kept, Callable]:
        random_return = mean_return(gather.random((), ask))
        world = World(arena.build(1), spec, np.random.default_rng(config.seed))
        train, look = config.train, make_look(arena, world, learner, config)
        plan = Plan(train.env_steps, config.eval.every, train.warmup_steps, UPDATE_EVERY, config.seed)
        trained = train_in_legs(learner, world, plan, look, folder)
        curve = [row["episode_return"] for row in trained.curve]
        steps = trained.curve[first_medium(curve, random_return)]["env_steps"]
        arrays = renamed(trained.aside, aside_name(steps), MEDIUM_AGENT)
        about = {"random_return": random_return, "expert_return": 0.0, "medium_steps": steps, "curve": curve}
        about["expert_return"] = mean_return(gather.noisy((trained.state.agent, 0.0), ask))
        data = from_replay(trained.state.replay, steps)
        if folder is not None:
            write(folder / SEEN, data, make_card(data, SEEN, f"what training had seen after {steps} steps"))
        return Kept(arrays | acting(trained.state.agent, EXPERT), about), lambda: data

    def seen(folder: Path | None) -> Dataset:
        return learn(None)[1]() if folder is None else read(folder / SEEN)[0]

    made_of: dict[str, Any] = {"kind": "locomotion", **built_for(config.agent, spec), "run": to_dict(config)}
    made_of |= {"reference_episodes": settings.reference_episodes, "update_every": UPDATE_EVERY}
    env = {"id": settings.env, "kwargs": {"max_episode_steps": arena.episode_length}}
    cut = (
        f"an episode of training is cut, and counts as truncated, at every evaluation: {config.eval.every} steps apart"
    )
    return Task(env, learner.agent, made_of, learn, seen, *gather, (cut,))
