"""Replay on the device: a ring of [capacity, num_envs] steps, time-ordered for every environment.

Pure functions over one PyTree. A step lies in ONE array, as a row of 32-bit words, so that it is one write and a batch one
gather, and so that XLA writes in place: of two rings it copies one at every step (docs/decisions.md).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.types import Array, PyTree, Transition

WORD = 32  # bits
POOL = 8  # uniform rows for each start that is drawn by its weight


class Layout(NamedTuple):
    """Where the fields of a step lie in its row: numbers first, then the flags, one bit each; hashable, not traced."""

    tree: Any  # structure of a step
    shapes: tuple[tuple[int, ...], ...]  # shape of every leaf, without axes of time and environment
    dtypes: tuple[str, ...]


@partial(jax.tree_util.register_dataclass, data_fields=["words", "position", "size"], meta_fields=["layout"])
@dataclass(frozen=True)
class Replay:
    """The ring and its head."""

    words: Array  # [capacity, num_envs, words of one step] uint32
    position: Array  # [] int32, next row to write
    size: Array  # [] int32, rows written so far, at most capacity
    layout: Layout


def init(example: PyTree, capacity: int, num_envs: int) -> Replay:
    """Allocate a ring of `capacity` rows for `num_envs` environments, shaped like one `example` step without axes.

    Raises ValueError if capacity is below 1 or a field is neither a flag nor made of 32-bit numbers.
    """
    if capacity < 1:
        raise ValueError(f"train.replay_capacity: {capacity} rows of {num_envs} environments; at least 1 is needed")
    leaves, tree = jax.tree.flatten(example)
    layout = Layout(tree, tuple(jnp.shape(x) for x in leaves), tuple(str(jnp.asarray(x).dtype) for x in leaves))
    if wrong := [d for d in layout.dtypes if d != "bool" and jnp.dtype(d).itemsize * 8 != WORD]:
        raise ValueError(f"replay: a field of type {wrong[0]}; 32-bit numbers and booleans can be stored")
    numbers, flags = (sum(math.prod(s) for s, d in zip(*layout[1:], strict=True) if (d == "bool") == b) for b in (0, 1))
    words = jnp.zeros((capacity, num_envs, numbers + -(-flags // WORD)), jnp.uint32)
    return Replay(words, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), layout)


def _pack(layout: Layout, step: PyTree) -> Array:
    """Lay the leaves [N, ...] of a step side by side as words [N, width]."""
    words, flags = [], []
    for leaf, dtype in zip(jax.tree.leaves(step), layout.dtypes, strict=True):
        flat = leaf.astype(dtype).reshape(leaf.shape[0], -1)
        (flags if dtype == "bool" else words).append(flat)
    words = [jax.lax.bitcast_convert_type(x, jnp.uint32) for x in words]
    if flags:
        bits = jnp.concatenate(flags, axis=1).astype(jnp.uint32)
        groups = jnp.pad(bits, ((0, 0), (0, -bits.shape[1] % WORD))).reshape(len(bits), -1, WORD)
        words.append(jnp.sum(groups << jnp.arange(WORD, dtype=jnp.uint32), axis=2, dtype=jnp.uint32))
    return jnp.concatenate(words, axis=1)


def _unpack(layout: Layout, words: Array) -> Transition:
    """Undo `_pack` for words [..., width]."""
    sizes = [math.prod(shape) for shape in layout.shapes]
    number, flag = 0, WORD * sum(n for n, dtype in zip(sizes, layout.dtypes, strict=True) if dtype != "bool")
    leaves = []
    for n, shape, dtype in zip(sizes, layout.shapes, layout.dtypes, strict=True):
        if dtype == "bool":
            first, last = (
                flag // WORD,
                -(-(flag + n) // WORD),
            )  # slices: a gather bit by bit is slow where flags are many
            bits = words[..., first:last, None] >> jnp.arange(WORD, dtype=jnp.uint32) & 1 == 1
            part = bits.reshape(*words.shape[:-1], -1)[..., flag - first * WORD :][..., :n]
            flag += n
        else:
            part = jax.lax.bitcast_convert_type(words[..., number : number + n], jnp.dtype(dtype))
            number += n
        leaves.append(part.reshape(*words.shape[:-1], *shape))
    return jax.tree.unflatten(layout.tree, leaves)


def add(replay: Replay, step: PyTree) -> Replay:
    """Write one step of every environment, leaves [num_envs, ...], over the oldest row once the ring is full."""
    chex.assert_trees_all_equal_structs(jax.tree.unflatten(replay.layout.tree, replay.layout.dtypes), step)
    capacity = replay.words.shape[0]
    words = jax.lax.dynamic_update_index_in_dim(replay.words, _pack(replay.layout, step), replay.position, 0)
    position, size = (replay.position + 1) % capacity, jnp.minimum(replay.size + 1, capacity)
    return Replay(words, position, size, replay.layout)


def draw_below(key: Array, count: int, n: Array) -> Array:
    """Draw `count` numbers uniformly of 0 .. n - 1, int32; n may be traced.

    One draw of 32 bits modulo n: some are likelier than others by a factor of at most 1 + n / 2^32.
    """
    return (jax.random.bits(key, (count,)) % n.astype(jnp.uint32)).astype(jnp.int32)


def sample_windows(replay: Replay, key: Array, batch: int, length: int, oldest: int | None = None) -> Array:
    """Draw `batch` windows of `length` consecutive rows of one environment, uniformly; slots [length, batch] of the ring.

    A window never crosses the write head; it may cross the end of an episode, which its flags show. At least `length`
    rows must have been written: the caller's warm-up sees to that (`checks.check`). `oldest` keeps to the rows of the first
    so many steps.
    """
    capacity, num_envs, _ = replay.words.shape
    size = replay.size if oldest is None else jnp.minimum(replay.size, max(oldest // num_envs, length))
    windows = (size - (length - 1)) * num_envs
    start = draw_below(key, batch, windows)
    age, env = start // num_envs, start % num_envs
    rows = (replay.position - replay.size + age + jnp.arange(length)[:, None]) % capacity
    return rows * num_envs + env


def gather(replay: Replay, slots: Array) -> Transition:
    """Return the steps at `slots`, leaves [*slots.shape, ...]."""
    capacity, num_envs, width = replay.words.shape
    flat = replay.words.reshape(capacity * num_envs, width)
    return _unpack(replay.layout, flat.at[slots].get(mode="promise_in_bounds"))


def sample_sequences(replay: Replay, key: Array, batch: int, length: int) -> Transition:
    """Draw windows as `sample_windows` does; leaves [length, batch, ...]."""
    return gather(replay, sample_windows(replay, key, batch, length))


def sample_starts(replay: Replay, key: Array, shape: tuple[int, int], gamma: float, share: float) -> Transition:
    """Draw windows of shape = (count, T) whose first row is a start of a rollout; leaves [T, count, ...]; reads `age`.

    With probability `share` a state of the discounted visitation nu, P(row) ~ gamma^age; else a first state of an episode, zeta.
    nu is drawn among POOL times as many uniform rows (sampling, importance resampling), so it is that of the policies that
    collected. zeta goes back from a uniform row to the start of its episode, so longer episodes are drawn more often; of an
    episode that has been overwritten in part it takes the oldest row.
    """
    (count, length), (capacity, num_envs, _) = shape, replay.words.shape
    pool_key, nu_key, coin_key = jax.random.split(key, 3)
    slots = sample_windows(replay, pool_key, POOL * count, length)  # [T, POOL * count]
    age = gather(replay, slots[0]).age
    weights = jnp.cumsum(jnp.power(gamma, age - jnp.min(age)))
    chosen = jnp.searchsorted(weights, jax.random.uniform(nu_key, (count,)) * weights[-1])
    row, env = slots[0, :count] // num_envs, slots[0, :count] % num_envs
    since_oldest = (row - (replay.position - replay.size)) % capacity
    back = jnp.minimum(age[:count], since_oldest)
    first = ((row - back + jnp.arange(length)[:, None]) % capacity) * num_envs + env
    from_nu = jax.random.bernoulli(coin_key, share, (count,))
    return gather(replay, jnp.where(from_nu, slots[:, chosen], first))


def num_bytes(tree: PyTree) -> int:
    """Return the bytes that the arrays of `tree` occupy (arrays or their shapes)."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
