"""Encodings: one-to-one, continuous, what they say they are, and a copy of what they were given."""

import numpy as np
import pytest
from trajectories import numbered

from valex.offline.data import Dataset, from_arrays
from valex.offline.encoding import ENCODINGS, STEPS, encoded, make_encoding


def data(count: int = 400) -> Dataset:
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (count, 3)) * [10.0, 2.0, 0.5] + [5.0, 0.0, -3.0]
    steps = {"obs": obs, "action": np.zeros((count, 1)), "reward": np.zeros(count), "next_obs": obs[::-1]}
    return from_arrays(steps | {"terminated": np.zeros(count, bool)}, np.array([0, count // 2, count]), {})


def test_known_values():
    obs = np.asarray(data().obs)
    np.testing.assert_array_equal(make_encoding("none", data())(obs), obs)
    standard = make_encoding("standard", data())(obs)
    np.testing.assert_allclose(standard.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(standard.std(axis=0), obs.std(axis=0) / (obs.std(axis=0) + 1e-3), rtol=1e-4)
    steps = make_encoding("steps", data())(obs)
    assert steps.shape == (400, 2 * STEPS + 1) and steps.dtype == np.float32
    low, high = obs[:, 0].min(), obs[:, 0].max()
    centres, width = np.linspace(low, high, STEPS), (high - low + 1e-3) / (STEPS - 1)
    np.testing.assert_allclose(steps[:, :STEPS], np.tanh((obs[:, :1] - centres) / width), atol=1e-4)
    np.testing.assert_allclose(steps[:, -1], standard[:, 2], rtol=1e-5)


@pytest.mark.parametrize("name", ENCODINGS)
def test_one_to_one(name):
    """Every state is found again among its code: the code of each coordinate rises with it, within and beyond the data."""
    encode = make_encoding(name, data())
    for i, (low, high) in enumerate(zip(data().obs.min(0), data().obs.max(0), strict=True)):
        middle = np.broadcast_to(data().obs.mean(0), (200, 3)).astype(np.float64).copy()
        middle[:, i] = np.linspace(low - 0.3 * (high - low), high + 0.3 * (high - low), 200)
        code = encode(middle).astype(np.float64)
        moved = np.diff(code, axis=0)
        assert (moved >= 0).all() and (moved.max(axis=1) > 1e-4).all()
        changed = np.flatnonzero(np.abs(moved).max(axis=0) > 0)
        assert len(changed) == (STEPS if name == "steps" and i < 2 else 1)


def test_steps_put_a_step_between_states_that_were_near():
    """A tenth of the range apart, two states are further apart in their spread than by standard units."""
    obs = np.asarray(data().obs)
    near = obs + np.array([2.0, 0.0, 0.0])
    gap = lambda name: np.linalg.norm(make_encoding(name, data())(near) - make_encoding(name, data())(obs), axis=1)  # noqa: E731
    inside = near[:, 0] < obs[:, 0].max()
    assert np.median(gap("steps")[inside]) > 2.0 * np.median(gap("standard")[inside])


@pytest.mark.parametrize("name", ENCODINGS)
def test_codes_are_copies_of_any_shape(name):
    encode = make_encoding(name, data())
    one = np.array([1.0, 2.0, 3.0], np.float32)
    code = encode(one)
    np.testing.assert_allclose(encode(np.tile(one, (2, 4, 1)))[1, 3], code, rtol=1e-6)
    before = code.copy()
    one[:] = 0.0
    np.testing.assert_array_equal(code, before)


def test_a_dataset_is_encoded_on_both_sides_of_a_step():
    whole = data()
    encode = make_encoding("standard", whole)
    seen = encoded(whole, encode)
    np.testing.assert_array_equal(seen.next_obs, encode(whole.next_obs))
    assert seen.reward is whole.reward and seen.offsets is whole.offsets
    flat = numbered()._replace(obs=np.ones_like(numbered().obs))
    assert np.isfinite(make_encoding("standard", flat)(flat.obs)).all()  # a coordinate that does not move
    assert np.isfinite(make_encoding("steps", flat)(flat.obs)).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="encoding: 'polar' is not known; choose one of none"):
        make_encoding("polar", data())
    with pytest.raises(ValueError, match=r"coordinates \(0, 3\) are not all in 0..2"):
        make_encoding("steps", data(), (0, 3))
