"""Errors of policies: constant offsets, the box, whole trajectories as one, and actions beyond what the data did."""

import numpy as np
import pytest

from valex.diagnostics.policy_errors import action_error, outside_share, remoteness

RNG = np.random.default_rng(0)


def test_a_constant_offset_has_its_square_as_error():
    wanted = RNG.uniform(-0.5, 0.5, (200, 3))
    found = action_error(wanted + np.array([0.1, -0.2, 0.3]), wanted)
    assert found.mse == pytest.approx((0.01 + 0.04 + 0.09) / 3) and found.count == 200
    assert found.stderr == pytest.approx(0.0, abs=1e-12)


def test_both_are_clipped_to_the_box():
    assert action_error(np.array([[3.0, -7.0]]), np.array([[1.0, -1.0]])).mse == 0.0
    assert action_error(np.array([[1.0]]), np.array([[-5.0]])).mse == 4.0


def test_standard_error_of_rows_and_of_groups():
    """Rows alone: the textbook's s / sqrt(N); groups of equal size: s of their means / sqrt(G), whatever N is."""
    error = RNG.uniform(0, 1, 60)
    action, wanted = np.sqrt(error)[:, None], np.zeros((60, 1))
    assert action_error(action, wanted).stderr == pytest.approx(error.std(ddof=1) / np.sqrt(60))
    group = np.repeat(np.arange(6), 10)
    means = error.reshape(6, 10).mean(axis=1)
    assert action_error(action, wanted, group).stderr == pytest.approx(means.std(ddof=1) / np.sqrt(6))
    doubled = action_error(np.repeat(action, 2, 0), np.repeat(wanted, 2, 0), np.repeat(group, 2))
    assert doubled.stderr == pytest.approx(action_error(action, wanted, group).stderr)  # no news in a row seen twice
    order = RNG.permutation(60)
    assert action_error(action[order], wanted, group[order] * 7 - 3).stderr == pytest.approx(
        action_error(action, wanted, group).stderr
    )


def test_standard_error_of_unequal_groups_by_the_formula():
    error, group = RNG.uniform(0, 1, 10), np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    sums = [np.sum(error[group == g] - error.mean()) for g in range(3)]
    expected = np.sqrt(3 / 2 * np.sum(np.square(sums))) / 10
    assert action_error(np.sqrt(error)[:, None], np.zeros((10, 1)), group).stderr == pytest.approx(expected)
    assert np.isnan(action_error(np.ones((4, 1)), np.zeros((4, 1)), np.zeros(4)).stderr)


def test_actions_outside_what_the_data_did_near_there():
    """The data turn left where x < 0 and right where x > 0, by 0.2 to 0.4."""
    x = RNG.uniform(-1, 1, (3_000, 1))
    x = x[np.abs(x[:, 0]) > 0.2]
    did = np.sign(x) * RNG.uniform(0.2, 0.4, x.shape)
    inside, beyond, across = np.sign(x) * 0.3, np.sign(x) * 0.5, -np.sign(x) * 0.3
    assert outside_share(x, inside, x, did) == 0.0
    assert outside_share(x, beyond, x, did) == 1.0
    assert outside_share(x, across, x, did) == 1.0  # the data did that, but not there
    half = np.where(np.arange(len(x))[:, None] % 2 == 0, inside, beyond)
    assert outside_share(x, half, x, did) == pytest.approx(0.5, abs=0.07)
    assert outside_share(x[:20], beyond[:20], x[:7], did[:7]) <= 1.0  # fewer rows than neighbours


def test_remoteness_is_the_distance_to_the_tenth_nearest_in_standard_deviations():
    data = np.repeat([[-2.0, 5.0], [2.0, 5.0]], 50, axis=0)  # deviation 2 along the first, none along the second
    assert remoteness(np.array([[6.0, 5.0]] * 3), data) == pytest.approx(2.0)
    assert remoteness(data, data) == pytest.approx(0.0, abs=1e-6)
    few = np.array([[0.0], [1.0], [3.0]])
    assert remoteness(np.array([[0.0]]), few) == pytest.approx(3.0 / few.std())  # fewer than ten: the farthest
