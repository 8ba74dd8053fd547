"""Compiled loops of the parts of an update, timed alone: what the benchmarks of expansion share."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from valex import replay as replays
from valex.settings import EnvConfig, RunConfig, SACConfig, TrainConfig
from valex.train import Parts, TrainState

BATCH = 256


def loop(body: Callable, count: int) -> Callable:
    """Compile `count` turns of carry -> body(i, carry) into one program."""
    return jax.jit(lambda carry: jax.lax.fori_loop(0, count, body, carry))


def timer(function: Callable, carry: object, count: int) -> Callable[[], float]:
    """Return a function that measures the seconds of one turn."""
    compiled = function.lower(carry).compile()  # pyright: ignore[reportFunctionMemberAccess]
    jax.block_until_ready(compiled(carry))

    def seconds() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(compiled(carry))
        return (time.perf_counter() - begin) / count

    return seconds


def update_loop(parts: Parts, state: TrainState, count: int) -> Callable[[], float]:
    """Time one update: draw a batch, then every gradient and optimiser step of the agent."""

    def body(i, agent_state):
        sample_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
        batch = replays.sample_sequences(state.replay, sample_key, BATCH, parts.window)
        return parts.agent.update(agent_state, key, batch, state.model)[0]

    return timer(loop(body, count), state.agent, count)


def policy_loop(parts: Parts, state: TrainState, count: int) -> Callable[[], float]:
    """Time one sample of the policy with its log-probability for a whole batch of observations."""
    bootstrap = parts.agent.bootstrap(state.agent)
    batch = replays.sample_sequences(state.replay, jax.random.key(2), BATCH, 1)

    def body(i, carry):
        obs, total = carry
        sample = bootstrap.act(jax.random.fold_in(jax.random.key(4), i), obs)
        return obs + 1e-6 * sample.action[:, :1], total + sample.log_prob

    return timer(loop(body, count), (batch.obs[0], jnp.zeros(BATCH)), count)


def base_config(task: str) -> RunConfig:
    """Return plain SAC for env:widths."""
    name, text = task.split(":")
    hidden = tuple(int(x) for x in text.split(","))
    return RunConfig(EnvConfig(name), SACConfig(hidden=hidden), train=TrainConfig(env_steps=4_000, warmup_steps=2_000))


def sized(make: Callable, own: Parts, state: TrainState, seconds: float) -> Callable[[], float]:
    """Return the timer that `make(own, state, count)` builds for as many turns as take about `seconds`."""
    return make(own, state, max(1, round(seconds / make(own, state, 2)())))
