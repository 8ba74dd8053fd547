"""Coverage and optimality: numbers that can be worked out by hand."""

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree
from trajectories import numbered

from valex.offline.coverage import cell_entropy, coverage, knn_radius, optimality, trajectory_returns
from valex.offline.data import DataError


@pytest.mark.parametrize("k", [1, 3])
def test_radius_is_that_of_a_tree(k):
    rng = np.random.default_rng(0)
    states, reference = rng.normal(50.0, 2.0, (300, 5)), rng.normal(50.0, 2.0, (400, 5))
    unit = reference.std(axis=0)
    found = cKDTree(reference / unit).query(states / unit, k=[k])[0][:, 0]
    assert knn_radius(states, reference, k) == pytest.approx(found)


def test_radius_by_hand_and_a_dimension_that_does_not_move():
    reference = np.array([[0.0, 7.0], [1.0, 7.0], [3.0, 7.0]])
    assert knn_radius(np.array([[2.5, 7.0]]), reference, 2, scale=np.ones(2)) == pytest.approx([1.5])
    assert np.isfinite(knn_radius(np.array([[2.5, 9.0]]), reference)).all()
    with pytest.raises(DataError, match=r"k = 4 neighbours of 3"):
        knn_radius(reference, reference, 4)


def test_entropy_of_evenly_visited_cells_is_the_log_of_their_number():
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), axis=-1).reshape(-1, 2) * 2.0 - 3.0
    assert cell_entropy(grid + 0.5, 2.0) == (pytest.approx(math.log(12)), 12)
    assert cell_entropy(np.array([[0.1], [0.2], [0.3], [5.0]]), 1.0)[0] == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )


def test_wider_data_have_higher_entropy_and_are_closer_to_strangers():
    rng = np.random.default_rng(0)
    narrow, wide, strangers = (
        rng.normal(0, 0.1, (2_000, 2)),
        rng.uniform(-1, 1, (2_000, 2)),
        rng.uniform(-1, 1, (200, 2)),
    )
    one = np.ones(2)
    assert np.median(knn_radius(strangers, wide, 5, one)) < 0.3 * np.median(knn_radius(strangers, narrow, 5, one))
    assert cell_entropy(wide, 0.2)[0] > cell_entropy(narrow, 0.2)[0] + 1.0


def test_returns_and_scores_by_hand():
    data = numbered()
    assert trajectory_returns(data) == pytest.approx([0.75, 1.0, 6.375, 19.875])
    found = optimality(data, (2.0, 12.0))
    assert found["mean_return"] == pytest.approx(7.0)
    assert found["normalised"] == pytest.approx(50.0)
    assert found["terminated"] == 0.5
    assert "normalised" not in optimality(data)


def test_coverage_of_a_dataset_names_its_cells():
    data = numbered((50,) * 10, ())
    found = coverage(data, 0, ((0,), 1.0))
    assert found["cells_occupied"] == 10
    assert found["cell_entropy"] == pytest.approx(math.log(10))
    assert found["knn_radius"] > 0
    wider = data._replace(obs=3 * data.obs)
    assert coverage(wider, 0)["knn_radius"] == pytest.approx(3 * found["knn_radius"])  # in the units of obs
    assert found == coverage(data, 0, ((0,), 1.0))
