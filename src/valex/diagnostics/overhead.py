"""Where the time of an update goes: making the target, the actor's gradient, and the rest."""

import statistics
import time
from collections.abc import Callable

import jax

from valex.train import Parts
from valex.types import PyTree, Transition

REPEATS = 15


def median_seconds(function: Callable, *arguments: PyTree, repeats: int = REPEATS) -> float:
    """Return the median seconds of one call of a compiled function, after one call that is not counted."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def update_split(parts: Parts, critic_target: Callable, state: PyTree, batch: Transition, model_params: PyTree) -> dict:
    """Return seconds per update and its split, medians of repeated calls on `batch` [T, B].

    rollout_s   critic_target: window and fold, model steps included
    actor_s     gradient of the actor loss, model steps of actor expansion included; 0 without an actor
    critic_s    the rest: critic gradient, optimisers, target network
    """
    agent, key = parts.agent, jax.random.key(0)
    update = jax.jit(agent.update)
    target = jax.jit(lambda s, k, b, m: critic_target(agent.bootstrap(s), k, b, m))
    timed = [update, target] + ([jax.jit(agent.actor.grads)] if agent.actor else [])
    seconds = [median_seconds(f, state, key, batch, model_params) for f in timed] + [0.0]
    return {
        "update_s": seconds[0],
        "rollout_s": seconds[1],
        "actor_s": seconds[2],
        "critic_s": max(0.0, seconds[0] - seconds[1] - seconds[2]),
        "repeats": REPEATS,
        "device": jax.devices()[0].platform,
    }
