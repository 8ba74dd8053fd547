"""Both phases of training on a dataset that lies on the device: many updates as one program, without I/O.

    value = load(VALUES, config.name)(config, dims)
    learn = make_phase(value.update, value_sampler(config), config.batch_size)
    phase = start_phase(value.init, seed, rows)
    phase, metrics = learn(phase, data, (), 10_000)          # stop here, save `phase` whole, go on: the same bits

The policy's phase is the same with `policy.update`, `policy_sampler` and (the value's state,) in place of ().
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.offline.batch import Batch, uniform_rows
from valex.offline.data import Dataset
from valex.offline.extraction import Policy
from valex.offline.values import Value
from valex.replay import Replay, sample_sequences
from valex.types import Array, PyTree

INIT, TRAIN = 0, 1  # random streams of a phase's seed


class Phase(NamedTuple):
    """Everything that a phase of training needs to go on: one PyTree, saved whole."""

    learner: PyTree
    seed: Array  # [] uint32
    steps: Array  # [] int32 updates taken
    rows: Array  # [] int32, the rows that may be drawn are the first so many of the dataset: whole trajectories


def start_phase(init: Callable, seed: Array | int, rows: Array | int, *more: Array | float | None) -> Phase:
    """Return a phase before its first update. `init` is that of a value or a policy, `more` what it takes behind the key."""
    seed, rows = jnp.array(seed, jnp.uint32), jnp.array(rows, jnp.int32)  # copies: a phase is donated
    learner = init(jax.random.fold_in(jax.random.key(seed), INIT), *more)
    return Phase(learner, seed, jnp.int32(0), rows)


def make_phase(update: Callable, sample: Callable, batch_size: int, cells: bool = False) -> Callable:
    """Build (phase, dataset, frozen, n) -> (phase, metrics): n updates on batches drawn on the device; metrics are means.

    With `cells` the leaves of phase and frozen have an axis of cells in front, as jax.vmap(start_phase) makes it: seeds, alphas
    and amounts of data are then trained side by side by one program. The phase passed in is donated.

    update: (learner, key, batch, *frozen) -> (learner, metrics); sample: (dataset, key, batch_size, rows) -> Batch, where
    goals are relabelled. `n` is traced, so that chunks of any length share one program. Update i draws from its own key
    whatever the chunks are: n updates and then m are n + m, bit for bit.
    """

    def chunk(phase: Phase, data: Dataset, frozen: tuple, n: Array | int) -> tuple[Phase, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(phase.seed), TRAIN)

        def one(learner: PyTree, step: Array) -> tuple[PyTree, dict[str, Array]]:
            sample_key, update_key = jax.random.split(jax.random.fold_in(key, step))
            return update(learner, update_key, sample(data, sample_key, batch_size, phase.rows), *frozen)

        shapes = jax.eval_shape(one, phase.learner, phase.steps)[1]

        def body(i: Array, carry: tuple) -> tuple:
            learner, metrics = one(carry[0], phase.steps + i)
            return learner, jax.tree.map(jnp.add, carry[1], metrics)

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        learner, total = jax.lax.fori_loop(0, n, body, (phase.learner, zeros))
        return phase._replace(learner=learner, steps=phase.steps + n), jax.tree.map(
            lambda x: x / jnp.maximum(n, 1), total
        )

    program = jax.jit(jax.vmap(chunk, in_axes=(0, None, 0, None)) if cells else chunk, donate_argnums=0)
    return lambda phase, data, frozen, n: program(phase, data._replace(extras={}), frozen, n)


# ---------------------------------------------------------------------------------------------------- from offline to online


def online_rows(ring: Replay, key: Array, batch_size: int) -> Batch:
    """Draw rows of what was collected since (`Transition`s); each but the newest, whose next action is not known yet."""
    window = sample_sequences(ring, key, batch_size, 2)
    now, after = (jax.tree.map(lambda x, i=i: x[i], window) for i in (0, 1))
    goes_on = ~(now.terminated | now.truncated)
    return Batch(now.obs, now.action, now.reward, now.next_obs, now.terminated, after.action, goes_on)


def mixed_rows(mixing: str, data: Dataset, ring: Replay, key: Array, batch_size: int) -> Batch:
    """Draw rows of the dataset and of the replay: `uniform` over all of them, or `half` of the batch from either."""
    data_key, ring_key, coin_key = jax.random.split(key, 3)
    total = data.obs.shape[0]
    old = uniform_rows(data, data_key, batch_size, jnp.int32(total))
    new = online_rows(ring, ring_key, batch_size)
    if mixing == "half":
        fresh = jnp.arange(batch_size) >= batch_size - batch_size // 2
    else:
        count = (ring.size - 1) * ring.words.shape[1]
        fresh = jax.random.bernoulli(coin_key, count / (count + total), (batch_size,))
    return jax.tree.map(lambda a, b: jnp.where(fresh.reshape(-1, *(1,) * (a.ndim - 1)), b, a), old, new)


def make_continuation(value: Value, policy: Policy) -> Callable:
    """Build ((value state, policy state), key, batch) -> (both, metrics): the value's step, then the policy's.

    Both read one batch, so this is for tasks of one goal.
    """

    def update(
        states: tuple[PyTree, PyTree], key: Array, batch: Batch
    ) -> tuple[tuple[PyTree, PyTree], dict[str, Array]]:
        value_key, policy_key = jax.random.split(key)
        value_state, metrics = value.update(states[0], value_key, batch)
        policy_state, more = policy.update(states[1], policy_key, batch, value_state)
        return (value_state, policy_state), metrics | more

    return update
