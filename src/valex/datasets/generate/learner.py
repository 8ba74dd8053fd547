"""What learns while a generator collects: an agent and its replay, rewarded by novelty where that is asked for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from valex import replay as replays
from valex.datasets.generate.rnd import RND
from valex.expansion import make_expansion
from valex.settings import RunConfig
from valex.tables import AGENTS, load
from valex.types import Agent, Array, EnvSpec, PyTree, Transition


class LearnerState(NamedTuple):
    """One learner: one PyTree, its replay included."""

    agent: PyTree
    rnd: Any  # RNDState, () without novelty
    replay: replays.Replay


class Learner(NamedTuple):
    """A learner as pure functions."""

    init: Callable  # (key) -> LearnerState
    act: Callable  # (state, key, obs [B, d]) -> ActionSample, exploring
    remember: Callable  # (state, transition [B]) -> state
    update: Callable  # (state, key) -> state; one step of the agent, and of the predictor, on one batch
    agent: Agent


def make_agent(config: RunConfig, spec: EnvSpec) -> Agent:
    """Build the agent of a config for `spec`. Raises ValueError where it cannot be."""
    return load(AGENTS, config.agent.name)(config.agent, spec, _expansion(config))


def _expansion(config: RunConfig):
    return make_expansion(config.critic, config.actor, config.gamma, None)


def make_learner(config: RunConfig, spec: EnvSpec, ring: tuple[int, int], rnd: RND | None = None) -> Learner:
    """Build agent and replay of ring = (rows, environments); with `rnd` it is rewarded by novelty alone.

    Of the config are read agent, critic, actor, gamma and train.batch_size; no dynamics model is built.
    Raises ConfigError or ValueError where a setting cannot be.
    """
    agent, window = make_agent(config, spec), _expansion(config).window

    def init(key: Array) -> LearnerState:
        agent_key, rnd_key = jax.random.split(key)
        novelty = () if rnd is None else rnd.init(rnd_key)
        return LearnerState(agent.init(agent_key), novelty, replays.init(example_step(spec), *ring))

    def act(state: LearnerState, key: Array, obs: Array):
        return agent.act(state.agent, key, obs, explore=True)

    def remember(state: LearnerState, step: Transition) -> LearnerState:
        return state._replace(agent=agent.observe(state.agent, step.obs), replay=replays.add(state.replay, step))

    def update(state: LearnerState, key: Array) -> LearnerState:
        sample_key, agent_key = jax.random.split(key)
        batch = replays.sample_sequences(state.replay, sample_key, config.train.batch_size, window)
        if rnd is not None:
            state = state._replace(rnd=rnd.update(state.rnd, batch.next_obs[0]))
            batch = batch._replace(reward=rnd.bonus(state.rnd, batch.next_obs))  # the task's reward is not looked at
        return state._replace(agent=agent.update(state.agent, agent_key, batch, ())[0])

    return Learner(init, act, remember, update, agent)


def example_step(spec: EnvSpec) -> Transition:
    """Return one step of zeros, to allocate a replay by."""
    obs, no = jnp.zeros(spec.obs_dim), jnp.zeros((), bool)
    return Transition(obs, jnp.zeros(spec.act_dim), jnp.zeros(()), obs, no, no)
