"""The oracle of a maze: shortest paths, the same as OGBench's, and it arrives."""

import jax
import numpy as np
import pytest

from valex.offline.oracle import cell_of, cells_from, centre_of, make_maze, oracle_action

WALLS = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]]) == 1
MAZE = make_maze(WALLS, 2.0, 3.0)


def cell(i, j):
    return i * 5 + j


def test_steps_and_next_cells_by_hand():
    assert cells_from(WALLS, (3, 1)).tolist() == [
        [-1, -1, -1, -1, -1], [-1, 2, 3, 4, -1], [-1, 1, -1, 5, -1], [-1, 0, -1, -1, -1], [-1, -1, -1, -1, -1],
    ]  # fmt: skip
    way = [cell(2, 3)]
    while way[-1] != cell(3, 1):
        way.append(int(MAZE.following[way[-1], cell(3, 1)]))
    assert way == [cell(2, 3), cell(1, 3), cell(1, 2), cell(1, 1), cell(2, 1), cell(3, 1)]


def test_cells_and_centres_are_inverse():
    cells = np.arange(25)
    assert (cell_of(MAZE, centre_of(MAZE, cells)) == cells).all()
    assert centre_of(MAZE, np.array(cell(3, 1))).tolist() == [-1.0, 3.0]  # x by column, y by row
    assert cell_of(MAZE, np.array([-4.0 + 1e-9, 99.0])) == cell(4, 0)


def test_it_walks_to_the_goal_along_a_shortest_path():
    goal, place, steps = np.array([-1.4, 3.3]), centre_of(MAZE, np.array(cell(2, 3))), 0
    while np.linalg.norm(place - goal) > 0.1:
        place, steps = place + 0.1 * oracle_action(MAZE, place, goal), steps + 1
        assert not WALLS.ravel()[cell_of(MAZE, place)]
        assert steps < 130
    assert steps >= 4 * 2.0 / 0.1  # five cells apart, less what it cuts off corners by


def test_numbers_of_jax_and_numpy_agree_compiled():
    rng = np.random.default_rng(0)
    obs, goal = (rng.uniform(-3.9, 5.9, (200, 2)).astype(np.float32) for _ in range(2))
    here = oracle_action(MAZE, obs, goal)
    there = jax.jit(lambda o, g: oracle_action(MAZE, o, g))(obs, goal)
    assert np.asarray(there) == pytest.approx(here, abs=1e-5)
    assert np.linalg.norm(here, axis=1) == pytest.approx(1.0, abs=1e-4)
