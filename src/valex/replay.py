"""Replay on the device: a ring of [capacity, num_envs] steps, time-ordered for every environment.

Pure functions over one PyTree; inside a compiled loop with donated state the ring is written in place.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.types import Array, PyTree, Transition


class Replay(NamedTuple):
    """The ring and its head."""

    data: Transition  # every leaf [capacity, num_envs, ...]
    position: Array  # [] int32, next row to write
    size: Array  # [] int32, rows written so far, at most capacity


def init(example: Transition, capacity: int, num_envs: int) -> Replay:
    """Allocate a ring of `capacity` rows for `num_envs` environments, shaped like one `example` step without axes.

    Raises ValueError if capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"train.replay_capacity: {capacity} rows of {num_envs} environments; at least 1 is needed")
    data = jax.tree.map(lambda x: jnp.zeros((capacity, num_envs, *jnp.shape(x)), jnp.asarray(x).dtype), example)
    return Replay(data, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(replay: Replay, step: Transition) -> Replay:
    """Write one step of every environment, leaves [num_envs, ...], over the oldest row once the ring is full."""
    chex.assert_trees_all_equal_structs(replay.data, step)
    capacity = jax.tree.leaves(replay.data)[0].shape[0]
    data = jax.tree.map(
        lambda ring, x: jax.lax.dynamic_update_index_in_dim(ring, x.astype(ring.dtype), replay.position, 0),
        replay.data,
        step,
    )
    return Replay(data, (replay.position + 1) % capacity, jnp.minimum(replay.size + 1, capacity))


def sample_sequences(replay: Replay, key: Array, batch: int, length: int) -> Transition:
    """Draw `batch` windows of `length` consecutive rows of one environment, uniformly; leaves [length, batch, ...].

    A window never crosses the write head; it may cross the end of an episode, which its flags show. At least `length`
    rows must have been written: the caller's warm-up sees to that (`config.check`).
    """
    capacity, num_envs = jax.tree.leaves(replay.data)[0].shape[:2]
    flat = jax.random.randint(key, (batch,), 0, (replay.size - (length - 1)) * num_envs)
    age, env = flat // num_envs, flat % num_envs
    oldest = replay.position - replay.size
    rows = (oldest + age + jnp.arange(length)[:, None]) % capacity
    return jax.tree.map(lambda ring: ring[rows, env], replay.data)


def num_bytes(tree: PyTree) -> int:
    """Return the bytes that the arrays of `tree` occupy (arrays or their shapes)."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
