"""Play: lanes go on from episode to episode, whole episodes come back in the order of their seeds."""

import numpy as np
import pytest

from valex.arenas import Arena, Field, Moment, make_arena
from valex.datasets.generate.maze import make_env, maze_of
from valex.offline.batch import Dims
from valex.offline.oracle import oracle_action
from valex.play import LANES, Lanes, play


def counting(length: int = 100) -> Arena:
    """An arena whose observation is (seed, age); an episode of seed s terminates behind s + 1 steps, each pays its age."""

    def build(count: int) -> Field:
        at = np.zeros((count, 2), np.float32)

        def reset(lane: int, seed: int):
            at[lane] = seed, 0
            return at[lane].copy(), np.float32([seed])

        def step(action, going) -> Moment:
            paid = at[:, 1].copy()
            at[going, 1] += 1
            return Moment(at.copy(), paid, at[:, 1] > at[:, 0], at[:, 1] == 2)

        return Field(reset, step)

    return Arena("counting", Dims(2, 1, 1), length, build, True)


still = lambda obs, goal: np.zeros((len(obs), 1), np.float32)  # noqa: E731


def test_whole_episodes_in_the_order_of_their_seeds():
    seeds = [4, 0, 2, 6]
    played = play(counting(), lambda obs, goal: obs[:, :1] / 10 + goal / 100, seeds)
    assert played.lengths.tolist() == [5, 1, 3, 7]
    assert played.returns.tolist() == [10, 0, 3, 21]
    assert played.success.tolist() == [True, False, True, True]  # at some moment, not at the last
    assert played.episode.tolist() == [0] * 5 + [1] + [2] * 3 + [3] * 7
    assert played.obs[:, 1].tolist() == [*range(5), 0, *range(3), *range(7)]
    np.testing.assert_array_equal(played.obs[:, 0], np.asarray(seeds)[played.episode])
    np.testing.assert_array_equal(played.goal[:, 0], played.obs[:, 0])
    np.testing.assert_allclose(played.action[:, 0], played.obs[:, 0] * 0.11, rtol=1e-6)


def test_more_episodes_than_lanes_and_a_clock():
    seeds = range(2 * LANES + 3)
    played = play(counting(length=6), still, seeds)
    assert played.lengths.tolist() == [min(seed + 1, 6) for seed in seeds]


def test_lanes_begin_the_next_seed_where_one_ends_and_tell_ends_apart():
    """The clock is 3: seeds 0 and 1 terminate, the others are truncated; both at once is a termination."""
    lanes = Lanes(counting(length=3), 2, iter([0, 5, 2]))
    steps = []
    while lanes.going.any():
        steps.append(lanes.step(np.zeros((2, 1))))
    told = [(s.episode.tolist(), s.terminated[s.going].tolist(), s.truncated.tolist(), s.going.tolist()) for s in steps]
    assert told == [
        ([0, 5], [True, False], [False, False], [True, True]),
        ([2, 5], [False, False], [False, False], [True, True]),
        ([2, 5], [False, False], [False, True], [True, True]),
        ([2, 5], [True], [False, False], [True, False]),
    ]
    assert steps[0].next_obs[0].tolist() == [0, 1] and steps[1].obs[0].tolist() == [2, 0]  # the true successor


def test_an_endless_row_of_seeds_never_stops():
    lanes = Lanes(counting(), 3, iter(lambda: 1, None))
    for _ in range(9):
        assert lanes.step(np.zeros((3, 1))).going.all()


def test_what_is_no_action_is_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        play(counting(), lambda obs, goal: still(obs, goal) * np.nan, [1])
    with pytest.raises(ValueError, match="at least one episode"):
        play(counting(), still, [])


@pytest.mark.parametrize("task", [0, 3])
def test_the_oracle_solves_the_maze(task):
    """Its five tasks, or one of them."""
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    name = "pointmaze-medium-singletask-task3-v0" if task else "pointmaze-medium-v0"
    arena, env = make_arena({"id": name}, goals=not task), make_env("pointmaze", "medium", task)
    own = np.asarray(env.task_infos[task - 1]["goal_xy"])

    def oracle(obs, goal):
        return oracle_action(maze_of(env), obs.astype(np.float64), own if task else goal)

    played = play(arena, oracle, range(5))
    assert played.success.all() and (played.lengths < 400).all()
    lost = play(arena._replace(episode_length=30), lambda obs, goal: -oracle(obs, goal), range(5))
    assert not lost.success.any() and (lost.lengths == 30).all()
