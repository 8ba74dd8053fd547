"""Datasets of agents trained here: random, medium, medium-replay, expert, medium-expert, and the expert with noise.

    medium    the first evaluation whose return is a third of the way from random to expert, or further
    noise     a = clip(mu(s) + N(0, sigma^2), -1, 1),  mu the expert's mean action

The other policies act as they do in training, random ones uniformly. Both reference scores are measured with the data and
stand in the card; they are those of our own agents and environments, and no other set's scores compare with them. Medium and
expert are kept (`expert.py`): the same training serves every kind and sigma. A training that is killed begins anew.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex import replay as replays
from valex.checks import check
from valex.config import PRESETS, to_dict
from valex.datasets.card import Card, make_card
from valex.datasets.generate.collect import Ask, Made, from_replay, make_walk, origin, whole_episodes
from valex.datasets.generate.expert import EXPERT, Kept, Recipe, acting, acting_state, built_for, obtain
from valex.datasets.generate.run import described
from valex.envs.base import make_env
from valex.fields import ConfigError
from valex.offline.coverage import trajectory_returns
from valex.offline.data import Dataset, prefix
from valex.settings import EnvConfig, EvalConfig, RunConfig, TrainConfig
from valex.settings.datasets import LocomotionSettings
from valex.train import make_program, total_iterations, uniform_actions, warmup_iterations
from valex.types import ActionSample, Agent, Array, Env, PyTree

MEDIUM = 1 / 3  # of the way from the random to the expert's return
MEDIUM_AGENT = "medium"  # as EXPERT, the name of an agent that is kept
ALONE = ("random", "medium", "medium-replay", "expert", "medium-expert", "noise")


class Trained(NamedTuple):
    """What training left behind."""

    medium: PyTree  # agent's state at a third of the way
    expert: PyTree  # at the end
    medium_steps: int  # control steps seen by the medium agent, warm-up included
    replay: replays.Replay  # of the whole training
    curve: tuple[float, ...]  # returns of the evaluations


def run_config(settings: LocomotionSettings) -> RunConfig:
    """Return the training run that settings stand for. Raises ConfigError naming the field that cannot be."""
    if settings.preset not in PRESETS:
        raise ConfigError(f"preset: {settings.preset!r} is not known; choose sac, ddpg or td3")
    base, num_envs = PRESETS[settings.preset], settings.train_envs
    every = max(1, settings.train_steps // settings.checks // num_envs) * num_envs
    warmup = max(256, min(5_000, settings.train_steps // 10))
    config = replace(
        base,
        env=EnvConfig(settings.env, episode_length=settings.episode_length),
        agent=replace(base.agent, hidden=settings.hidden),
        train=TrainConfig(
            settings.train_steps, num_envs, warmup_steps=warmup, replay_capacity=settings.train_steps + num_envs
        ),
        eval=EvalConfig(every=every, episodes=16, value_bias_states=0, grad_samples=0),
        seed=settings.seed,
    )
    return check(config)


def train(config: RunConfig, random_return: float) -> Trained:
    """Train an agent and keep it at a third of the way from `random_return` and at the end. Raises ConfigError if it diverges."""
    program = make_program(config)
    state = program.start(config.seed)
    every = config.eval.every // config.train.num_envs
    left, kept = total_iterations(config), []
    while left > 0:
        now = min(every, left)
        state, metrics, bad = program.chunk(state, now)
        left -= now
        if any(int(first) < now for first in bad.values()):
            raise ConfigError(f"train_steps: {config.env.name} by {config.agent.name} was not finite; try another seed")
        seen = (warmup_iterations(config) + int(state.iterations)) * config.train.num_envs
        kept.append((float(metrics["eval/episode_return"]), seen, jax.device_get(state.agent)))
    curve = [score for score, _, _ in kept]
    level = random_return + MEDIUM * (curve[-1] - random_return)
    which = next(i for i, score in enumerate(curve) if score >= level or i == len(curve) - 1)
    return Trained(kept[which][2], kept[-1][2], kept[which][1], state.replay, tuple(curve))


class Walks(NamedTuple):
    """The policies of all kinds, compiled: each takes params, environments and keys."""

    random: Callable  # params: ()
    sampled: Callable  # params: the agent's state; acts as in training
    noisy: Callable  # params: (the agent's state, sigma); the mean action plus N(0, sigma^2), clipped


def make_walks(env: Env, agent: Agent) -> Walks:
    """Build the policies that data are collected by."""

    def noisy(params: PyTree, key: Array, obs: Array) -> ActionSample:
        state, sigma = params
        sample = agent.act(state, key, obs, explore=False)
        noise = sigma * jax.random.normal(key, sample.action.shape)
        return sample._replace(action=jnp.clip(sample.action + noise, -1.0, 1.0))

    return Walks(
        make_walk(env, lambda params, key, obs: uniform_actions(env)(key, obs)),
        make_walk(env, lambda state, key, obs: agent.act(state, key, obs, explore=True)),
        make_walk(env, noisy),
    )


def joined(first: Dataset, second: Dataset) -> Dataset:
    """Return the trajectories of two datasets, end to end."""
    parts = {key: np.concatenate([getattr(first, key), getattr(second, key)]) for key in first._fields[:6]}
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]).astype(np.int32)
    return Dataset(**parts, offsets=offsets, extras={})


def make_recipe(settings: LocomotionSettings, config: RunConfig, env: Env, learn: Callable) -> Recipe:
    """Return how the agents of the settings are made; `learn` () -> Kept."""
    made_of = {"kind": "locomotion", **built_for(config.agent, env.spec), "run": to_dict(config)}
    made_of |= {"reference_episodes": settings.reference_episodes}
    return Recipe(made_of, lambda folder: learn())


def kept(trained: Trained, reference: tuple[float, float]) -> Kept:
    """Return what stays of a training: the medium and the expert agent, as far as they act, and what they reach."""
    arrays = acting(trained.medium, MEDIUM_AGENT) | acting(trained.expert, EXPERT)
    about = {"random_return": reference[0], "expert_return": reference[1]}
    return Kept(arrays, about | {"medium_steps": trained.medium_steps, "curve": list(trained.curve)})


def generate(settings: LocomotionSettings, experts: Path | None = None) -> Made:
    """Make one dataset, or with type `all` every kind. The agents are kept below `experts`, if that is given.

    Agents that are there already are not trained again, except where all that training had seen is wanted, too.
    Raises ConfigError for a preset or environment that cannot be had.
    """
    config = run_config(settings)
    if make_env(config.env).spec.num_actions:
        raise ConfigError(f"env: the actions of {settings.env} are discrete; choose one with continuous actions")
    env, agent = make_program(config).parts.env, make_program(config).parts.agent
    walks = make_walks(env, agent)
    ask = Ask(settings.reference_episodes * env.spec.episode_length, settings.reference_episodes, settings.seed)

    def learn() -> tuple[Kept, replays.Replay]:
        random_return = float(trajectory_returns(whole_episodes(env, walks.random, (), ask)).mean())
        trained = train(config, random_return)
        best = whole_episodes(env, walks.noisy, (trained.expert, 0.0), ask)
        return kept(trained, (random_return, float(trajectory_returns(best).mean()))), trained.replay

    kinds = ALONE if settings.type == "all" else (settings.type,)
    now = learn() if "medium-replay" in kinds else None
    recipe = make_recipe(settings, config, env, lambda: (now or learn())[0])
    agents = obtain(experts, recipe)
    states = {who: acting_state(agent, agents, who) for who in (MEDIUM_AGENT, EXPERT)}
    source = Source(recipe.name, agents.about, states, now and now[1])
    return [_one(replace(settings, type=kind), env, walks, source) for kind in kinds]


class Source(NamedTuple):
    """What data are collected with."""

    expert: str  # name
    about: dict[str, Any]  # what the agents reach
    states: dict[str, PyTree]  # of the agents, by their names
    replay: Any  # of the whole training; None where it was not asked for


def collected(settings: LocomotionSettings, env: Env, walks: Walks, source: Source) -> tuple[Dataset, str]:
    """Return the data of one kind, and in words how they came about."""
    kind, ask = settings.type, Ask(settings.transitions, settings.collect_envs, settings.seed + 1)
    if kind == "random":
        return whole_episodes(env, walks.random, (), ask), "uniformly random actions"
    if kind == "medium-replay":
        data = from_replay(source.replay, source.about["medium_steps"])
        size = min(settings.transitions, len(data.obs))
        return prefix(data, size), f"what training had seen after {source.about['medium_steps']} steps"
    if kind == "noise":
        data = whole_episodes(env, walks.noisy, (source.states[EXPERT], settings.sigma), ask)
        return data, f"the expert's mean action plus N(0, {settings.sigma:g}^2), clipped"
    if kind == "medium-expert":
        half = ask._replace(transitions=-(-ask.transitions // 2))
        parts = [whole_episodes(env, walks.sampled, source.states[who], half) for who in (MEDIUM_AGENT, EXPERT)]
        return joined(*parts), "half medium, half expert, in this order"
    data = whole_episodes(env, walks.sampled, source.states[kind], ask)
    return data, f"the {kind} agent of {settings.preset}, acting as in training"


def _one(settings: LocomotionSettings, env: Env, walks: Walks, source: Source) -> tuple[Dataset, Card]:
    """Return one kind of dataset and its card."""
    data, how = collected(settings, env, walks, source)
    about = source.about
    reference = about["random_return"], about["expert_return"]
    notes = [f"returns of the evaluations in training: {[round(score, 1) for score in about['curve']]}"]
    if reference[1] <= reference[0]:
        notes.append("the agent has not learned: the expert is no better than random, the set is of little use")
    name = f"{settings.env}-{settings.type}" + (f"-{settings.sigma:g}" if settings.type == "noise" else "")
    built = {"episode_length": env.spec.episode_length, "backend": env.spec.backend}
    made = described(settings, "locomotion") | {"medium_steps": about["medium_steps"], EXPERT: source.expert}
    origins = origin({"id": settings.env, "kwargs": built}, made, settings.seed, notes)
    return data, make_card(data, name, how, reference, origin=origins)
