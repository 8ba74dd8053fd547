"""States that an agent's exploring policy visits: where diagnostics start from."""

import jax
import jax.numpy as jnp

from valex.envs.base import VecState, reset_batch
from valex.train import Parts, collect
from valex.types import Array, PyTree, Transition

COLLECTORS = 32  # environments that gather the states
COLLECT_STEPS = 200  # control steps each of them runs, at most its episode length
LAWS = ("visited", "nu", "zeta")


def walk(parts: Parts, state: PyTree, key: Array, envs: VecState, steps: int) -> Transition:
    """Return `steps` control steps of every environment under the exploring policy, leaves [steps, N, ...]."""
    choose = lambda k, obs: parts.agent.act(state, k, obs, explore=True)  # noqa: E731
    return jax.lax.scan(lambda now, k: collect(parts.env, choose, k, now), envs, jax.random.split(key, steps))[1]


def visited_transitions(parts: Parts, state: PyTree, key: Array, count: int) -> Transition:
    """Return `count` transitions drawn uniformly from those the agent's exploring policy visits, with simulator states."""
    reset_key, walk_key, draw_key = jax.random.split(key, 3)
    steps = min(parts.env.spec.episode_length, COLLECT_STEPS)
    seen = walk(parts, state, walk_key, reset_batch(parts.env, reset_key, COLLECTORS), steps)
    rows = jax.random.randint(draw_key, (count,), 0, steps * COLLECTORS)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[rows], seen)


def visited_segments(
    parts: Parts, state: PyTree, key: Array, shape: tuple[int, int], law: str, gamma: float
) -> Transition:
    """Return `count` stretches of `rows` steps in a row, shape = (rows, count), leaves [rows, count, ...].

    The first state follows a law: `zeta` a reset, `visited` uniform over what is visited, `nu` with probability
    proportional to gamma^age. A stretch may run into the next episode: `terminated` and `truncated` say where one ends.
    """
    (rows, count), (reset_key, walk_key, draw_key) = shape, jax.random.split(key, 3)
    if law == "zeta":
        return walk(parts, state, walk_key, reset_batch(parts.env, reset_key, count), rows)
    steps = min(parts.env.spec.episode_length, COLLECT_STEPS)
    seen = walk(parts, state, walk_key, reset_batch(parts.env, reset_key, COLLECTORS), steps + rows - 1)
    age = seen.age[:steps].reshape(-1)
    weight = age * jnp.log(gamma) if law == "nu" else jnp.zeros_like(age, jnp.float32)
    chosen = jax.random.categorical(draw_key, weight, shape=(count,))
    at, lane = chosen // COLLECTORS, chosen % COLLECTORS
    return jax.tree.map(lambda x: x[at + jnp.arange(rows)[:, None], lane], seen)
