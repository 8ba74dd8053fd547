"""The qualities of data that agents trained here collect: one task, its agents, and a dataset of each kind.

medium    the first evaluation whose return is a third of the way from random to expert, or further
noise     a = clip(mu(s) + N(0, sigma^2), -1, 1),  mu the expert's mean action
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex.config import PRESETS
from valex.datasets.card import Card, make_card
from valex.datasets.generate.collect import Ask, Made, origin
from valex.datasets.generate.expert import EXPERT, Kept, Recipe, acting_state, obtain
from valex.datasets.generate.run import described
from valex.fields import ConfigError
from valex.offline.coverage import trajectory_returns
from valex.offline.data import Dataset, prefix
from valex.settings import EnvConfig, EvalConfig, RunConfig, TrainConfig
from valex.settings.datasets import LocomotionSettings
from valex.types import ActionSample, Agent, Array, PyTree

MEDIUM = 1 / 3  # of the way from the random to the expert's return
SHOWN = 12  # evaluations that a card lists
MEDIUM_AGENT = "medium"  # as EXPERT, the name of an agent that is kept
ALONE = ("random", "medium", "medium-replay", "expert", "medium-expert", "noise")
EVAL_EPISODES = 16


class Task(NamedTuple):
    """A task on which agents are trained, and how data are collected there."""

    env: dict[str, Any]  # {"id", "kwargs"}, as cards have it
    agent: Agent
    made_of: dict[str, Any]  # of the agents' recipe
    train: Callable  # (folder | None) -> (Kept, seen); seen() -> what training had seen until the medium agent
    seen: Callable  # (folder | None) -> the same, of agents that were kept before
    random: Callable  # ((), ask) -> whole episodes
    sampled: Callable  # (agent's state, ask) -> whole episodes, acting as in training
    noisy: Callable  # ((agent's state, sigma), ask) -> whole episodes of the mean action plus N(0, sigma^2), clipped
    replay_notes: tuple[str, ...] = ()  # on a card of medium-replay


class Source(NamedTuple):
    """What data are collected with."""

    expert: str  # name
    about: dict[str, Any]  # what the agents reach
    states: dict[str, PyTree]  # of the agents, by their names
    seen: Dataset | None  # until the medium agent; None where it was not asked for


def unchecked_config(settings: LocomotionSettings, num_envs: int) -> RunConfig:
    """Return the training run that settings stand for. Raises ConfigError for a preset that is not known."""
    if settings.preset not in PRESETS:
        raise ConfigError(f"preset: {settings.preset!r} is not known; choose sac, ddpg or td3")
    base = PRESETS[settings.preset]
    every = max(1, settings.train_steps // settings.checks // num_envs) * num_envs
    warmup = max(256, min(5_000, settings.train_steps // 10))
    return replace(
        base,
        env=EnvConfig(settings.env, episode_length=settings.episode_length),
        agent=replace(base.agent, hidden=settings.hidden),
        train=TrainConfig(
            settings.train_steps, num_envs, warmup_steps=warmup, replay_capacity=settings.train_steps + num_envs
        ),
        eval=EvalConfig(every=every, episodes=EVAL_EPISODES, value_bias_states=0, grad_samples=0),
        seed=settings.seed,
    )


def reference_ask(settings: LocomotionSettings, episode_length: int) -> Ask:
    """Return how much is collected for a reference score."""
    episodes = settings.reference_episodes
    return Ask(episodes * episode_length, episodes, settings.seed)


def mean_return(data: Dataset) -> float:
    """Return the mean undiscounted return of a dataset's trajectories."""
    return float(trajectory_returns(data).mean())


def first_medium(curve: Sequence[float], random_return: float) -> int:
    """Return which evaluation is the first a third of the way from random to the last one."""
    level = random_return + MEDIUM * (curve[-1] - random_return)
    return next(i for i, score in enumerate(curve) if score >= level or i == len(curve) - 1)


def noisy_action(agent: Agent) -> Callable:
    """Return ((agent's state, sigma), key, obs) -> ActionSample: the mean action plus N(0, sigma^2), clipped."""

    def noisy(params: PyTree, key: Array, obs: Array) -> ActionSample:
        state, sigma = params
        sample = agent.act(state, key, obs, explore=False)
        noise = sigma * jax.random.normal(key, sample.action.shape)
        return sample._replace(action=jnp.clip(sample.action + noise, -1.0, 1.0))

    return noisy


def joined(first: Dataset, second: Dataset) -> Dataset:
    """Return the trajectories of two datasets, end to end."""
    parts = {key: np.concatenate([getattr(first, key), getattr(second, key)]) for key in first._fields[:6]}
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]).astype(np.int32)
    return Dataset(**parts, offsets=offsets, extras={})


def make_sets(settings: LocomotionSettings, task: Task, experts: Path | None) -> Made:
    """Make one dataset, or with type `all` every kind; the agents are kept below `experts`, if that is given."""
    kinds = ALONE if settings.type == "all" else (settings.type,)
    wanted, seen = "medium-replay" in kinds, None

    def learn(folder: Path | None) -> Kept:
        nonlocal seen
        agents, look_back = task.train(folder)
        seen = look_back() if wanted else None
        return agents

    recipe = Recipe(task.made_of, learn)
    agents = obtain(experts, recipe)
    if wanted and seen is None:
        seen = task.seen(None if experts is None else experts / recipe.name)
    states = {who: acting_state(task.agent, agents, who) for who in (MEDIUM_AGENT, EXPERT)}
    source = Source(recipe.name, agents.about, states, seen)
    return [_one(replace(settings, type=kind), task, source) for kind in kinds]


def collected(settings: LocomotionSettings, task: Task, source: Source) -> tuple[Dataset, str]:
    """Return the data of one kind, and in words how they came about."""
    kind, ask = settings.type, Ask(settings.transitions, settings.collect_envs, settings.seed + 1)
    if kind == "random":
        return task.random((), ask), "uniformly random actions"
    if kind == "medium-replay":
        assert source.seen is not None
        size = min(settings.transitions, len(source.seen.obs))
        return prefix(source.seen, size), f"what training had seen after {source.about['medium_steps']} steps"
    if kind == "noise":
        data = task.noisy((source.states[EXPERT], settings.sigma), ask)
        return data, f"the expert's mean action plus N(0, {settings.sigma:g}^2), clipped"
    if kind == "medium-expert":
        half = ask._replace(transitions=-(-ask.transitions // 2))
        parts = [task.sampled(source.states[who], half) for who in (MEDIUM_AGENT, EXPERT)]
        return joined(*parts), "half medium, half expert, in this order"
    data = task.sampled(source.states[kind], ask)
    return data, f"the {kind} agent of {settings.preset}, acting as in training"


def curve_note(curve: Sequence[float]) -> str:
    """Return the learning curve in words: every evaluation, or twelve evenly spaced ones, first and last among them."""
    if len(curve) <= SHOWN:
        return f"returns of the evaluations in training: {[round(score, 1) for score in curve]}"
    chosen = [curve[round(i * (len(curve) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    return f"returns of {SHOWN} of {len(curve)} evaluations in training: {[round(score, 1) for score in chosen]}"


def _one(settings: LocomotionSettings, task: Task, source: Source) -> tuple[Dataset, Card]:
    """Return one kind of dataset and its card."""
    data, how = collected(settings, task, source)
    about = source.about
    reference = about["random_return"], about["expert_return"]
    notes = [curve_note(about["curve"])]
    notes += task.replay_notes if settings.type == "medium-replay" else ()
    if reference[1] <= reference[0]:
        notes.append("the agent has not learned: the expert is no better than random, the set is of little use")
    name = f"{settings.env.replace('/', '-')}-{settings.type}"
    name += f"-{settings.sigma:g}" if settings.type == "noise" else ""
    made = described(settings, "locomotion") | {"medium_steps": about["medium_steps"], EXPERT: source.expert}
    origins = origin(task.env, made, settings.seed, notes)
    return data, make_card(data, name, how, reference, origin=origins)
