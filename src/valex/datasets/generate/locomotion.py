"""Datasets of agents trained here: random, medium, medium-replay, expert, medium-expert, and the expert with noise.

On valex's own environments training and collection are compiled programs, of this file; on Gymnasium's the task is stepped
on the host (`gymnasium.py`). What the kinds are is written once for both (`qualities.py`).

The policies but noise act as they do in training, random ones uniformly. Both reference scores are measured with the data and
stand in the card; they are those of our own agents and environments, and no other set's scores compare with them. Medium and
expert are kept (`expert.py`): the same training serves every kind and sigma. A compiled training that is killed begins anew.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from valex import replay as replays
from valex.checks import check
from valex.config import to_dict
from valex.datasets.generate.collect import Made, from_replay, make_walk, whole_episodes
from valex.datasets.generate.expert import EXPERT, Kept, acting, built_for
from valex.datasets.generate.gymnasium import gymnasium_task
from valex.datasets.generate.qualities import (
    MEDIUM_AGENT,
    Task,
    first_medium,
    make_sets,
    mean_return,
    noisy_action,
    reference_ask,
    unchecked_config,
)
from valex.envs.base import make_env
from valex.fields import ConfigError
from valex.offline.data import Dataset
from valex.settings import RunConfig
from valex.settings.datasets import LocomotionSettings
from valex.tables import ENVS
from valex.train import make_program, total_iterations, uniform_actions, warmup_iterations
from valex.types import Agent, Env, PyTree


class Trained(NamedTuple):
    """What training left behind."""

    medium: PyTree  # agent's state at a third of the way
    expert: PyTree  # at the end
    medium_steps: int  # control steps seen by the medium agent, warm-up included
    replay: replays.Replay  # of the whole training
    curve: tuple[float, ...]  # returns of the evaluations


def run_config(settings: LocomotionSettings) -> RunConfig:
    """Return the training run that settings stand for. Raises ConfigError naming the field that cannot be."""
    return check(unchecked_config(settings, settings.train_envs))


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
    which = first_medium(curve, random_return)
    return Trained(kept[which][2], kept[-1][2], kept[which][1], state.replay, tuple(curve))


class Walks(NamedTuple):
    """The policies of all kinds, compiled: each takes params, environments and keys."""

    random: Callable  # params: ()
    sampled: Callable  # params: the agent's state; acts as in training
    noisy: Callable  # params: (the agent's state, sigma); the mean action plus N(0, sigma^2), clipped


def make_walks(env: Env, agent: Agent) -> Walks:
    """Build the policies that data are collected by."""
    return Walks(
        make_walk(env, lambda params, key, obs: uniform_actions(env)(key, obs)),
        make_walk(env, lambda state, key, obs: agent.act(state, key, obs, explore=True)),
        make_walk(env, noisy_action(agent)),
    )


def kept(trained: Trained, reference: tuple[float, float]) -> Kept:
    """Return what stays of a training: the medium and the expert agent, as far as they act, and what they reach."""
    arrays = acting(trained.medium, MEDIUM_AGENT) | acting(trained.expert, EXPERT)
    about = {"random_return": reference[0], "expert_return": reference[1]}
    return Kept(arrays, about | {"medium_steps": trained.medium_steps, "curve": list(trained.curve)})


def own_task(settings: LocomotionSettings) -> Task:
    """Return a task of valex's own. Raises ConfigError for settings that cannot be, and for discrete actions."""
    config = run_config(settings)
    if make_env(config.env).spec.num_actions:
        raise ConfigError(f"env: the actions of {settings.env} are discrete; choose one with continuous actions")
    env, agent = make_program(config).parts.env, make_program(config).parts.agent
    walks, ask = make_walks(env, agent), reference_ask(settings, env.spec.episode_length)

    def learn(folder: Path | None) -> tuple[Kept, Callable]:
        random_return = mean_return(whole_episodes(env, walks.random, (), ask))
        trained = train(config, random_return)
        best = whole_episodes(env, walks.noisy, (trained.expert, 0.0), ask)
        return kept(trained, (random_return, mean_return(best))), lambda: from_replay(
            trained.replay, trained.medium_steps
        )

    def seen(folder: Path | None) -> Dataset:
        return learn(None)[1]()  # what a compiled training had seen is not kept: it trains again

    made_of = {"kind": "locomotion", **built_for(config.agent, env.spec), "run": to_dict(config)}
    made_of |= {"reference_episodes": settings.reference_episodes}
    built = {"episode_length": env.spec.episode_length, "backend": env.spec.backend}
    gather = Walks(*(partial(whole_episodes, env, walk) for walk in walks))
    return Task({"id": settings.env, "kwargs": built}, agent, made_of, learn, seen, *gather)


def generate(settings: LocomotionSettings, experts: Path | None = None) -> Made:
    """Make one dataset, or with type `all` every kind. The agents are kept below `experts`, if that is given.

    Agents that are there already are not trained again, except by a compiled training where what it had seen is wanted,
    too. Raises ConfigError for a preset or environment that cannot be had.
    """
    task = own_task(settings) if settings.env in ENVS else gymnasium_task(settings)
    return make_sets(settings, task, experts)
