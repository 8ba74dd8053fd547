"""The training loop: collect, update and evaluate as one compiled program on one donated state.

    program = make_program(config)                 # compiled once per config shape, whatever the seed
    state = program.start(seed)                    # networks, environments, replay after the random warm-up
    state, metrics = program.chunk(state, steps)   # `steps` control steps with their updates, then one evaluation

Nothing here reads or writes a file; `valex.runner` adds the run directory.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex import distributions, evaluate, replay as replays
from valex.agents.common import need_actions
from valex.diagnostics.gradients import per_sample_statistics
from valex.envs.base import VecState, make_env, reset_batch, step_batch
from valex.expansion import make_expansion
from valex.settings import DiagnosticsConfig, RunConfig, needs_model
from valex.tables import AGENTS, MODELS, RULES, load
from valex.types import Agent, Array, Env, Model, PyTree, Transition

STREAMS = ("init", "warmup", "train", "eval", "diagnostics")  # named random streams drawn from one seed


class TrainState(NamedTuple):
    """Everything a run needs to go on: one PyTree, saved whole."""

    agent: PyTree
    model: PyTree  # parameters of the dynamics model
    replay: replays.Replay
    envs: VecState
    seed: Array  # [] uint32
    iterations: Array  # [] int32 collection steps since warm-up; env_steps = warm-up + iterations * num_envs


class Parts(NamedTuple):
    """The components that a config stands for."""

    env: Env
    model: Model | None
    agent: Agent
    window: int  # rows of stored sequence per update
    start_rows: int = 0  # rows of a stored sequence for each start of the actor's rollouts; 0: the critic's first rows


class Program(NamedTuple):
    """A compiled run."""

    parts: Parts
    start: Callable  # (seed) -> TrainState
    chunk: Callable  # (TrainState, iterations) -> (TrainState, metrics, first_bad); the state passed in is donated


def make_parts(config: RunConfig) -> Parts:
    """Build environment, dynamics model and agent of a config. Raises ValueError naming the field that does not fit."""
    env = make_env(config.env)
    if env.spec.num_actions and config.train.warmup_noise == "ou":
        raise ValueError(f"train.warmup_noise: the actions of {env.spec.name} are discrete; set it to uniform")
    need_actions(env.spec, config.agent)
    model = load(MODELS, config.model.name)(env, config.model) if needs_model(config) else None
    expansion = make_expansion(config.critic, config.actor, config.gamma, model)
    agent = load(AGENTS, config.agent.name)(config.agent, env.spec, expansion)
    return Parts(env, model, agent, expansion.window, expansion.start_rows)


def stream(seed: Array, name: str) -> Array:
    """Return the key of a named random stream of `seed`."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))


def keeps(config: RunConfig, parts: Parts, transition: Transition) -> Transition:
    """Drop the fields of a transition that no part of this config reads back, so that replay does not store them."""
    reads_ratio = config.critic.source == "replay" and config.critic.horizon > 0
    segments = config.actor.gradient == "dr" and config.actor.horizon > 0
    weighs = segments and config.actor.segment_weight is not None
    simulates = parts.model is not None and parts.model.needs_sim_state
    return transition._replace(
        log_prob=transition.log_prob if weighs or (reads_ratio and load(RULES, config.critic.rule).off_policy) else (),
        latent=transition.latent if reads_ratio or segments else (),
        age=transition.age if config.actor.starts != "replay" else (),
        sim_state=transition.sim_state if simulates and config.actor.horizon > 0 else (),
        next_sim_state=(
            transition.next_sim_state
            if simulates and config.critic.source == "model" and config.critic.horizon > 0
            else ()
        ),
    )


def collect(env: Env, choose: Callable, key: Array, envs: VecState) -> tuple[VecState, Transition]:
    """Take one step of every environment with `choose(key, obs) -> ActionSample`; leaves of the result [num_envs, ...]."""
    act_key, env_key = jax.random.split(key)
    sample = choose(act_key, jax.vmap(env.obs)(envs.state))
    envs, out = step_batch(env, env_key, envs, sample.action)
    return envs, Transition(
        obs=out.obs,
        action=sample.action,
        reward=out.reward,
        next_obs=out.next_obs,
        terminated=out.terminated,
        truncated=out.truncated,
        log_prob=sample.log_prob,
        latent=sample.latent,
        sim_state=out.sim_state,
        next_sim_state=out.next_sim_state,
        age=out.age,
    )


def warmup_iterations(config: RunConfig) -> int:
    """Return the collection steps of the warm-up: its control steps over the environments, rounded up."""
    return -(-config.train.warmup_steps // config.train.num_envs)


def total_iterations(config: RunConfig) -> int:
    """Return the collection steps after the warm-up."""
    return config.train.env_steps // config.train.num_envs - warmup_iterations(config)


def uniform_actions(env: Env) -> Callable:
    """Build (key, obs) -> ActionSample, uniform over the action space."""
    return lambda key, obs: distributions.random_action(key, env.spec, obs.shape[:-1])


def empty_replay(config: RunConfig, parts: Parts) -> replays.Replay:
    """Allocate the replay of a run: what its config reads back, for as many steps as it takes, at most replay_capacity."""
    env, train = parts.env, config.train

    def step(key: Array) -> Transition:
        return collect(env, uniform_actions(env), key, reset_batch(env, key, train.num_envs))[1]

    shapes = keeps(config, parts, jax.eval_shape(step, jax.random.key(0)))
    example = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), shapes)
    return replays.init(example, max(1, min(train.replay_capacity, train.env_steps) // train.num_envs), train.num_envs)


def observed(parts: Parts, model_params: PyTree, transition: Transition) -> PyTree:
    """Return the parameters of the dynamics model after it has seen one collected batch; () without a model."""
    return parts.model.observe(model_params, transition) if parts.model else ()


def make_start(config: RunConfig, parts: Parts) -> Callable:
    """Build (seed) -> TrainState: fresh parts, and a replay filled by the random warm-up."""
    env, agent, train = parts.env, parts.agent, config.train
    correlated = train.warmup_noise == "ou"

    def random_actions(z: Array) -> Callable:
        return (lambda key, obs: distributions.ou_sample(key, z)) if correlated else uniform_actions(env)

    def start(seed: Array) -> TrainState:
        """Return the state before the first update."""
        agent_key, model_key, reset_key = jax.random.split(stream(seed, "init"), 3)
        agent_state = agent.init(agent_key)
        model_params = parts.model.init(model_key) if parts.model else ()
        envs = reset_batch(env, reset_key, train.num_envs)

        def step(carry, key):
            agent_state, model_params, replay, envs, z = carry
            envs, transition = collect(env, random_actions(z), key, envs)
            agent_state = agent.observe(agent_state, transition.obs)
            model_params = observed(parts, model_params, transition)
            replay = replays.add(replay, keeps(config, parts, transition))
            return (agent_state, model_params, replay, envs, transition.latent), None

        z = jnp.zeros_like(distributions.random_action(reset_key, env.spec, (train.num_envs,)).latent)
        carry = (agent_state, model_params, empty_replay(config, parts), envs, z)
        keys = jax.random.split(stream(seed, "warmup"), warmup_iterations(config))
        (agent_state, model_params, replay, envs, _), _ = jax.lax.scan(step, carry, keys)
        return TrainState(
            agent_state, model_params, replay, envs, jnp.asarray(seed, jnp.uint32), jnp.zeros((), jnp.int32)
        )

    return start


def starts_of(config: RunConfig, parts: Parts, replay: replays.Replay, key: Array, count: int) -> Transition:
    """Draw where the actor's rollouts start, leaves [T, count, ...], by the law that `config.actor.starts` names."""
    rows, law = max(1, parts.start_rows), config.actor.starts
    if law == "replay":
        return replays.sample_sequences(replay, key, count, rows)
    share = {"zeta": 0.0, "nu": 1.0, "mixture": config.actor.start_mix}[law]
    return replays.sample_starts(replay, key, (count, rows), config.gamma, share)


def make_iteration(config: RunConfig, parts: Parts) -> Callable:
    """Build (TrainState) -> (TrainState, metrics): one step of every environment, the model's phase, utd * num_envs updates."""
    train, agent = config.train, parts.agent

    def iteration(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        """Collect, then train the model, then the agent on what both of them have."""
        key = jax.random.fold_in(stream(state.seed, "train"), state.iterations)
        collect_key, model_key, update_key = jax.random.split(key, 3)
        envs, transition = collect(
            parts.env, lambda k, obs: agent.act(state.agent, k, obs, explore=True), collect_key, state.envs
        )
        replay = replays.add(state.replay, keeps(config, parts, transition))
        agent_state = agent.observe(state.agent, transition.obs)
        model_params, model_metrics = observed(parts, state.model, transition), {}
        if parts.model:
            model_params, model_metrics = parts.model.update(model_params, model_key, replay)

        def update(agent_state, key):
            sample_key, agent_key = jax.random.split(key)
            batch = replays.sample_sequences(replay, sample_key, train.batch_size, parts.window)
            if not parts.start_rows:
                return agent.update(agent_state, agent_key, batch, model_params)
            starts = starts_of(config, parts, replay, jax.random.fold_in(sample_key, 1), train.batch_size)
            return agent.update(agent_state, agent_key, batch, model_params, starts)

        count = train.utd * train.num_envs
        if count == 0:
            metrics = {}
        elif count == 1:
            agent_state, metrics = update(agent_state, update_key)
        else:
            agent_state, stacked = jax.lax.scan(update, agent_state, jax.random.split(update_key, count))
            metrics = jax.tree.map(jnp.mean, stacked)
        new = TrainState(agent_state, model_params, replay, envs, state.seed, state.iterations + 1)
        return new, metrics | model_metrics

    return iteration


def make_evaluation(config: RunConfig, parts: Parts) -> Callable:
    """Build (TrainState) -> metrics: episode returns, value bias and per-sample actor gradients."""
    settings = config.eval

    def evaluation(state: TrainState) -> dict[str, Array]:
        """Measure the agent as it is, from the same starts at every evaluation."""
        starts, bias_key, grad_key = jax.random.split(stream(state.seed, "eval"), 3)
        metrics = evaluate.episode_returns(parts.env, parts.agent, state.agent, starts, settings.episodes)
        if settings.value_bias_states:
            metrics |= evaluate.value_bias(
                parts.env, parts.agent, state.agent, bias_key, config.gamma, settings.value_bias_states
            )
        if settings.grad_samples and parts.agent.actor:
            sample_key, noise_key = jax.random.split(jax.random.fold_in(grad_key, state.iterations))
            starts = starts_of(config, parts, state.replay, sample_key, settings.grad_samples)
            metrics |= per_sample_statistics(parts.agent, state.agent, noise_key, starts, state.model)
        return metrics

    return evaluation


def make_chunk(config: RunConfig, parts: Parts) -> Callable:
    """Build (TrainState, n) -> (TrainState, metrics, first_bad): n iterations, then one evaluation.

    Training metrics are means over the n iterations. first_bad maps each of them to the first iteration of the chunk
    at which it was not finite, or to n. `n` is traced: chunks of any length share one compilation.
    """
    iteration, evaluation = make_iteration(config, parts), make_evaluation(config, parts)

    def chunk(state: TrainState, n: Array) -> tuple[TrainState, dict, dict]:
        """Run n iterations and evaluate; remember for every metric since when it is not finite."""
        names = sorted(jax.eval_shape(iteration, state)[1])

        def body(i, carry):
            state, total, bad = carry
            state, metrics = iteration(state)
            row = jnp.stack([jnp.asarray(metrics[name], jnp.float32) for name in names])
            return state, total + row, jnp.where(jnp.isfinite(row) | (bad < n), bad, i)

        zeros = jnp.zeros(len(names))
        state, total, bad = jax.lax.fori_loop(0, n, body, (state, zeros, jnp.full(len(names), n)))
        means = dict(zip(names, total / n, strict=True)) | evaluation(state)
        return state, means, dict(zip(names, bad, strict=True))

    return chunk


def traceable(config: RunConfig) -> RunConfig:
    """Return the config without what a compiled program does not depend on: seed, storage and final diagnostics."""
    return replace(config, seed=0, store=type(config.store)(), diagnostics=DiagnosticsConfig())


@lru_cache(maxsize=8)
def _compile(config: RunConfig) -> Program:
    parts = make_parts(config)
    start, chunk = jax.jit(make_start(config, parts)), jax.jit(make_chunk(config, parts), donate_argnums=0)
    return Program(parts, start, chunk)


def make_program(config: RunConfig) -> Program:
    """Return the compiled program of a config; configs that differ in seed or storage share it."""
    return _compile(traceable(config))
