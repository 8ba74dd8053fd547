"""The ring: ids in every field, wrap-around, windows in order, nothing across the write head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from valex import replay
from valex.types import Transition

ENVS, CAPACITY = 3, 10


def step(t: int) -> Transition:
    """Every field carries the id 100 t + env."""
    ids = 100.0 * t + jnp.arange(ENVS)
    return Transition(
        obs=jnp.stack([ids, -ids], 1),
        action=ids[:, None] + 0.25,
        reward=ids + 0.5,
        next_obs=jnp.stack([ids, -ids], 1) + 1,
        terminated=(jnp.arange(ENVS) == t % ENVS),
        truncated=(jnp.arange(ENVS) == (t + 1) % ENVS),
        log_prob=-ids,
        latent=ids[:, None] * 2,
        sim_state={"q": ids[:, None], "n": ids.astype(jnp.int32)},
    )


def filled(steps: int) -> replay.Replay:
    example = jax.tree.map(lambda x: x[0], step(0))
    ring, add = replay.init(example, CAPACITY, ENVS), jax.jit(replay.add)
    for t in range(steps):
        ring = add(ring, step(t))
    return ring


@pytest.mark.parametrize("steps", [5, 10, 23])
@pytest.mark.parametrize("length", [1, 4])
def test_windows_are_consecutive_and_every_field_belongs(steps, length):
    batch = replay.sample_sequences(filled(steps), jax.random.key(0), 500, length)
    ids = np.asarray(batch.obs[..., 0])
    t, env = ids // 100, ids % 100
    assert ids.shape == (length, 500)
    assert np.all(np.diff(t, axis=0) == 1) and np.all(np.diff(env, axis=0) == 0)
    assert t.min() == max(0, steps - CAPACITY) and t.max() == steps - 1
    np.testing.assert_allclose(batch.action[..., 0], ids + 0.25)
    np.testing.assert_allclose(batch.reward, ids + 0.5)
    np.testing.assert_allclose(batch.next_obs[..., 1], -ids + 1)
    np.testing.assert_array_equal(batch.terminated, env == t % ENVS)
    np.testing.assert_array_equal(batch.truncated, env == (t + 1) % ENVS)
    np.testing.assert_allclose(batch.log_prob, -ids)
    np.testing.assert_allclose(batch.latent[..., 0], 2 * ids)
    np.testing.assert_array_equal(batch.sim_state["n"], ids.astype(int))


@pytest.mark.parametrize("steps", [8, 23])
def test_starts_are_uniform(steps):
    batch = replay.sample_sequences(filled(steps), jax.random.key(1), 6000, 3)
    _, counts = np.unique(np.asarray(batch.obs[0, :, 0]), return_counts=True)
    assert len(counts) == (min(steps, CAPACITY) - 2) * ENVS
    assert stats.chisquare(counts).pvalue > 1e-3


def test_size_and_position():
    ring = filled(13)
    assert (int(ring.position), int(ring.size)) == (3, CAPACITY)


def test_fields_that_are_not_stored_cost_nothing():
    lean = jax.tree.map(lambda x: x[0], step(0)._replace(log_prob=(), latent=(), sim_state=()))
    expected = CAPACITY * ENVS * (2 * 4 + 4 + 4 + 2 * 4 + 4) + 8  # the fields, one word of flags, position and size
    assert replay.num_bytes(replay.init(lean, CAPACITY, ENVS)) == expected


def test_more_flags_than_a_word_holds_and_every_bit_of_a_number():
    rng = np.random.default_rng(0)
    flags, bits = rng.random((1, 70)) < 0.5, np.array([[0x7FC00001, 0xFFFFFFFF, 1, 0x80000000]], np.uint32)
    step = {
        "flags": jnp.asarray(flags),
        "odd": jnp.asarray(bits.view(np.float32)),
        "count": jnp.asarray(bits.view(np.int32)),
    }
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], step), 2, 1), step)
    assert ring.words.shape == (2, 1, 4 + 4 + 3)
    found = jax.tree.map(np.asarray, replay.sample_sequences(ring, jax.random.key(0), 5, 1))
    np.testing.assert_array_equal(found["flags"], np.broadcast_to(flags, (1, 5, 70)))
    np.testing.assert_array_equal(found["count"].view(np.uint32), np.broadcast_to(bits, (1, 5, 4)))
    np.testing.assert_array_equal(found["odd"].view(np.uint32), np.broadcast_to(bits, (1, 5, 4)))


def test_wrong_structure_and_empty_ring_are_refused():
    with pytest.raises(AssertionError):
        replay.add(filled(1), step(0)._replace(log_prob=()))
    with pytest.raises(ValueError, match="float16"):
        replay.init({"half": jnp.zeros(3, jnp.float16)}, 2, 1)
    with pytest.raises(ValueError, match="replay_capacity"):
        replay.init(jax.tree.map(lambda x: x[0], step(0)), 0, 1)
