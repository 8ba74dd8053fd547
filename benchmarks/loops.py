"""Compiled loops of the parts of an update, timed alone: what the benchmarks of expansion share."""

import time
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from common import serve

from valex import device, launch, replay as replays
from valex.config import PRESETS
from valex.settings import EnvConfig, RunConfig, SACConfig, TrainConfig
from valex.train import Parts, TrainState, make_program

BATCH, BATCH_DISCRETE = 256, 32  # rows of an update: the presets' own


def batch_of(parts: Parts) -> int:
    """Return the rows of an update of these parts."""
    return BATCH_DISCRETE if parts.env.spec.num_actions else BATCH


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
        batch = replays.sample_sequences(state.replay, sample_key, batch_of(parts), parts.window)
        return parts.agent.update(agent_state, key, batch, state.model)[0]

    return timer(loop(body, count), state.agent, count)


def policy_loop(parts: Parts, state: TrainState, count: int) -> Callable[[], float]:
    """Time one sample of the policy with its log-probability for a whole batch of observations."""
    bootstrap = parts.agent.bootstrap(state.agent)
    batch = replays.sample_sequences(state.replay, jax.random.key(2), batch_of(parts), 1)

    def body(i, carry):
        obs, total = carry
        sample = bootstrap.act(jax.random.fold_in(jax.random.key(4), i), obs)
        total += sample.log_prob + jnp.sum(sample.action.reshape(len(obs), -1), axis=1)  # reads the sample
        return jnp.where(total[:, None] > 1e30, jnp.zeros_like(obs), obs), total

    return timer(loop(body, count), (batch.obs[0], jnp.zeros(batch_of(parts))), count)


def serve_program(config: RunConfig, updates_of: Callable) -> None:
    """Answer numbers of control steps with seconds and updates, as `common.Worker` asks: the program that `valex train` runs.

    updates_of (agent state) -> updates taken so far. The evaluation at the end of a chunk is measured apart and taken off.
    """
    device.set_up_jax("cpu", launch.threads_of(config))
    program = make_program(config)
    state = program.start(jnp.uint32(0))

    def timed(steps: int) -> float:
        nonlocal state
        begin = time.perf_counter()
        state, *metrics = program.chunk(state, jnp.int32(steps))
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin

    def answer(steps: int) -> dict:
        before = int(updates_of(state.agent))
        seconds = timed(steps) - timed(0)
        return {"seconds": seconds, "updates": int(updates_of(state.agent)) - before}

    timed(100)
    serve({"version": f"jax {jax.__version__}, {device.cpu_threads()} threads"}, answer)


def base_config(task: str) -> RunConfig:
    """Return plain SAC for env:widths, or plain double DQN for a game."""
    name, text = task.split(":")
    hidden = tuple(int(x) for x in text.split(","))
    if name.startswith("minatar"):
        usual = PRESETS["ddqn"]
        train = replace(usual.train, env_steps=4_000, warmup_steps=2_000)
        return replace(usual, env=EnvConfig(name), agent=replace(usual.agent, hidden=hidden), train=train)
    return RunConfig(EnvConfig(name), SACConfig(hidden=hidden), train=TrainConfig(env_steps=4_000, warmup_steps=2_000))


def sized(make: Callable, own: Parts, state: TrainState, seconds: float) -> Callable[[], float]:
    """Return the timer that `make(own, state, count)` builds for as many turns as take about `seconds`."""
    return make(own, state, max(1, round(seconds / make(own, state, 2)())))
