"""Replay on the device: a ring of [capacity, num_envs] steps, time-ordered for every environment.

Pure functions over one PyTree. Fields of one type lie side by side in one array, so that a step is one write and a batch
one gather per type, and so that XLA writes in place: of two rings with equal shapes it copies one at every step.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.types import Array, PyTree, Transition


class Layout(NamedTuple):
    """Where the fields of a step lie in the packed arrays; hashable, not traced."""

    tree: Any  # structure of a step
    shapes: tuple[tuple[int, ...], ...]  # shape of every leaf, without axes of time and environment
    dtypes: tuple[str, ...]


@partial(jax.tree_util.register_dataclass, data_fields=["data", "position", "size"], meta_fields=["layout"])
@dataclass(frozen=True)
class Replay:
    """The ring and its head."""

    data: dict[str, Array]  # type -> [capacity, num_envs, numbers of that type in one step]
    position: Array  # [] int32, next row to write
    size: Array  # [] int32, rows written so far, at most capacity
    layout: Layout


def _numbers(shape: tuple[int, ...]) -> int:
    """Return how many numbers an array of this shape holds."""
    count = 1
    for length in shape:
        count *= length
    return count


def init(example: Transition, capacity: int, num_envs: int) -> Replay:
    """Allocate a ring of `capacity` rows for `num_envs` environments, shaped like one `example` step without axes.

    Raises ValueError if capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"train.replay_capacity: {capacity} rows of {num_envs} environments; at least 1 is needed")
    leaves, tree = jax.tree.flatten(example)
    shapes = tuple(tuple(jnp.shape(leaf)) for leaf in leaves)
    dtypes = tuple(str(jnp.asarray(leaf).dtype) for leaf in leaves)
    widths = {dtype: sum(_numbers(s) for s, d in zip(shapes, dtypes, strict=True) if d == dtype) for dtype in dtypes}
    data = {dtype: jnp.zeros((capacity, num_envs, width), dtype) for dtype, width in sorted(widths.items())}
    return Replay(data, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), Layout(tree, shapes, dtypes))


def _pack(layout: Layout, step: Transition) -> dict[str, Array]:
    """Lay the leaves [N, ...] of a step side by side, [N, width] for each type."""
    leaves = zip(jax.tree.leaves(step), layout.dtypes, strict=True)
    flat = [(dtype, leaf.astype(dtype).reshape(leaf.shape[0], -1)) for leaf, dtype in leaves]
    return {dtype: jnp.concatenate([x for d, x in flat if d == dtype], axis=1) for dtype in sorted(set(layout.dtypes))}


def _unpack(layout: Layout, rows: dict[str, Array]) -> Transition:
    """Undo `_pack` for rows [..., width] of each type."""
    start = dict.fromkeys(rows, 0)
    leaves = []
    for shape, dtype in zip(layout.shapes, layout.dtypes, strict=True):
        stop = start[dtype] + _numbers(shape)
        part = rows[dtype][..., start[dtype] : stop]
        leaves.append(part.reshape(*part.shape[:-1], *shape))
        start[dtype] = stop
    return jax.tree.unflatten(layout.tree, leaves)


def add(replay: Replay, step: Transition) -> Replay:
    """Write one step of every environment, leaves [num_envs, ...], over the oldest row once the ring is full."""
    chex.assert_trees_all_equal_structs(jax.tree.unflatten(replay.layout.tree, replay.layout.dtypes), step)
    capacity = next(iter(replay.data.values())).shape[0]
    packed = _pack(replay.layout, step)
    data = {
        dtype: jax.lax.dynamic_update_index_in_dim(ring, packed[dtype], replay.position, 0)
        for dtype, ring in replay.data.items()
    }
    position, size = (replay.position + 1) % capacity, jnp.minimum(replay.size + 1, capacity)
    return Replay(data, position, size, replay.layout)


def sample_sequences(replay: Replay, key: Array, batch: int, length: int) -> Transition:
    """Draw `batch` windows of `length` consecutive rows of one environment, uniformly; leaves [length, batch, ...].

    A window never crosses the write head; it may cross the end of an episode, which its flags show. At least `length`
    rows must have been written: the caller's warm-up sees to that (`config.check`).
    """
    capacity, num_envs = next(iter(replay.data.values())).shape[:2]
    flat = jax.random.randint(key, (batch,), 0, (replay.size - (length - 1)) * num_envs)
    age, env = flat // num_envs, flat % num_envs
    oldest = replay.position - replay.size
    rows = (oldest + age + jnp.arange(length)[:, None]) % capacity
    return _unpack(replay.layout, {dtype: ring[rows, env] for dtype, ring in replay.data.items()})


def num_bytes(tree: PyTree) -> int:
    """Return the bytes that the arrays of `tree` occupy (arrays or their shapes)."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
