"""The ant's own task against OGBench's, the way it is told, the reward of a goal, a training that is stopped, and the whole."""

from dataclasses import replace

import numpy as np
import pytest
from small_sets import SMALL, make
from trajectories import same

from valex.datasets.card import checksum
from valex.datasets.generate import ant, antmaze, maze
from valex.datasets.generate.expert import load_expert, obtain
from valex.datasets.generate.run import generate
from valex.offline.data import check, from_arrays
from valex.offline.oracle import centre_of, oracle_action
from valex.settings.datasets import PointMazeSettings

pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
TINY = SMALL["antmaze"]


@pytest.fixture(autouse=True)
def small(compile_cache, monkeypatch):
    """One short evaluation, and a checkpoint every 100 steps."""
    from valex import device

    device.set_up_jax()
    monkeypatch.setattr(ant, "EVAL_EPISODES", 1)
    monkeypatch.setattr(ant, "LEG_STEPS", 100)


def test_reward_and_observation_are_those_of_ogbench():
    from ogbench.online_locomotion.wrappers import GymXYWrapper

    world, rng = ant.make_directed_ant(0), np.random.default_rng(1)
    theirs = GymXYWrapper(ant.make_directed_ant(0).env, resample_interval=ant.RESAMPLE)
    obs = world.reset()
    theirs.reset()
    theirs.unwrapped.set_state(world.env.data.qpos, world.env.data.qvel)
    theirs.z = world.direction
    for _ in range(30):
        assert obs[:27] == pytest.approx(np.concatenate([world.env.data.qpos[2:], world.env.data.qvel]), rel=1e-6)
        assert obs[27:] == pytest.approx(world.direction, rel=1e-6) and np.linalg.norm(obs[27:]) == pytest.approx(1.0)
        action = rng.uniform(-1, 1, 8).astype(np.float32)
        out = world.step(action)
        expected, reward, terminated, _, _ = theirs.step(action)
        assert out.obs == pytest.approx(expected, abs=1e-5)
        assert out.reward == pytest.approx(reward, abs=1e-9) and out.terminated == terminated
        obs = out.obs


def test_the_reward_is_the_way_along_the_direction_in_metres():
    world = ant.make_directed_ant(0)
    world.reset()
    world.direction = np.array([0.6, 0.8])
    before = world.env.data.qpos[:2].copy()
    out = world.step(np.ones(8, np.float32))
    moved = world.env.data.qpos[:2] - before
    assert np.abs(moved).max() > 1e-3
    assert out.reward == pytest.approx(0.6 * moved[0] + 0.8 * moved[1], abs=1e-12)


def test_a_direction_holds_for_a_hundred_steps_and_an_episode_for_a_thousand():
    world = ant.make_directed_ant(3)
    world.env._terminate_when_unhealthy = False
    seen, out = [world.reset()[27:]], None
    for _ in range(1_000):
        out = world.step(np.zeros(8, np.float32))
        seen.append(out.obs[27:])
    turns = np.flatnonzero(np.any(np.diff(np.stack(seen), axis=0) != 0, axis=1)) + 1
    assert turns.tolist() == list(range(100, 1_001, 100))
    assert out is not None and out.truncated and not out.terminated


def test_the_ant_is_pointed_to_the_next_cell():
    env = maze.make_env("antmaze", "medium")
    plan = maze.maze_of(env)
    column = plan.walls.shape[1]
    obs = np.zeros((2, 29))
    obs[:, :2] = centre_of(plan, np.array([6 * column + 1, 1 * column + 1])) + [[0.0, 0.5], [-0.5, 0.0]]
    obs[:, 2:] = np.arange(27)
    goal = centre_of(plan, np.array([1 * column + 6, 1 * column + 2]))
    told = np.asarray(antmaze.towards(lambda x: x, plan)(obs, goal))  # pyright: ignore[reportArgumentType]
    assert told[:, :27] == pytest.approx(obs[:, 2:])
    assert told[0, 27:] == pytest.approx(
        [0.0, -1.0], abs=1e-3
    )  # from (6, 1) by way of (5, 1), which lies towards y = 0
    assert told[1, 27:] == pytest.approx([1.0, 0.0], abs=1e-3)  # from (1, 1) to its neighbour (1, 2)
    assert told[:, 27:] == pytest.approx(oracle_action(plan, obs, goal, antmaze.TO_GOAL), abs=1e-6)


def test_a_goal_pays_within_its_tolerance_and_ends_the_trajectory():
    x = np.array([0.0, 0.4, 0.6, 0.3, 2.0, 0.2])
    qpos = np.stack([x, np.zeros(6)], axis=1)
    steps = {"obs": qpos, "next_obs": qpos, "action": np.zeros((6, 1)), "reward": np.zeros(6)}
    free = from_arrays(steps | {"terminated": np.zeros(6, bool)}, np.array([0, 3, 6]), {"qpos": qpos})
    single = maze.single_task(free, np.array([0.5, 0.0]), 0.15)
    assert single.terminated.tolist() == [False, True, True, False, False, False]
    assert single.reward.tolist() == [-1.0, 0.0, 0.0, -1.0, -1.0, -1.0]
    assert single.offsets.tolist() == [0, 2, 3, 6]
    assert maze.make_env("antmaze", "medium")._goal_tol == 0.5 and maze.make_env("pointmaze", "medium")._goal_tol == 1.0


@pytest.mark.parametrize(("where", "type", "steps"), [("giant", "path", 2_000), ("giant", "stitch", 200)])
def test_episodes_are_as_long_as_those_of_ogbench(where, type, steps):
    data, card = make("pointmaze", PointMazeSettings(where, type, episodes=1))[0]
    assert len(data.obs) == steps and card.name == f"pointmaze-{where}-{type}"
    assert any("of 1 goals reached within 1 m" in note for note in card.notes)


def test_a_training_that_is_stopped_goes_on_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    recipe = ant.make_recipe(TINY)
    whole = obtain(tmp_path / "whole", recipe)
    real, calls = ant.measure, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(ant, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        obtain(tmp_path / "cut", recipe)
    left = tmp_path / "cut" / recipe.name / "checkpoints"
    assert [file.stem for file in left.glob("*.json")] == ["000000000100"]
    resumed = obtain(tmp_path / "cut", recipe)
    assert len(calls) == 4  # the second leg again, and the third
    assert resumed.about == whole.about and [point["env_steps"] for point in whole.about["curve"]] == [100, 200, 240]
    assert all((resumed.arrays[name] == value).all() for name, value in whole.arrays.items())
    assert not left.exists()


def test_the_whole_generator_and_the_ant_that_it_keeps(tmp_path, monkeypatch):
    (path,) = generate("antmaze", replace(TINY, sigma=0.0, type="path", seed=4), tmp_path / "set")
    from valex.datasets.files import read

    data, card = read(path)
    check(data)
    assert data.obs.shape == (60, 29) and data.action.shape == (60, 8) and card.sha256 == checksum(data)
    assert (data.obs == np.concatenate([data.extras["qpos"], data.extras["qvel"]], axis=1).astype(np.float32)).all()
    assert any("m/s along its direction" in note for note in card.notes)
    assert any("of 2 goals reached within 0.5 m" in note for note in card.notes)
    expert = load_expert(path)
    aim = ant.directed(data.extras["qpos"][0], data.extras["qvel"][0], np.zeros(2))
    assert np.linalg.norm(data.action[0] - np.asarray(expert(aim))) < 1.0
    assert _follows(data, expert)
    monkeypatch.setattr(ant, "train", lambda *unused: pytest.fail("trained again"))
    (other,) = generate("antmaze", replace(TINY, type="explore"), tmp_path / "o.npz", "ogbench")
    noisy, its = read(other)
    assert its.generator["sigma"] == 1.0 and its.generator["expert"] == card.generator["expert"]
    assert not same(noisy, data)
    assert (np.asarray(load_expert(other)(aim)) == np.asarray(expert(aim))).all()
    (task,) = generate("antmaze", replace(TINY, task=3), tmp_path / "task")
    single = read(task)[0]
    goal = np.array([(2 - 1) * 4.0, (4 - 1) * 4.0])  # task 3 of the medium maze ends in cell (4, 2)
    there = np.linalg.norm(single.obs[:, :2] - goal, axis=1) <= 0.5
    assert (single.terminated == there).all() and (single.reward == np.where(there, 0.0, -1.0)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experts", "o.npz", "set", "task"]


def _follows(data, expert) -> bool:
    """Return whether without noise every action is the expert's on a way along the maze's cells, for one of all goals."""
    plan = maze.maze_of(maze.make_env("antmaze", "medium"))
    obs, goals = data.obs[:1].astype(np.float64), centre_of(plan, np.flatnonzero(~plan.walls.ravel()))
    act = antmaze.towards(expert, plan)
    ways = np.asarray(act(np.repeat(obs, len(goals), 0), goals))
    return bool((np.abs(ways - data.action[0]).max(axis=1) < 1e-5).any())


def test_an_ant_that_hardly_walks_is_said_to():
    from valex.datasets.generate.expert import Kept

    about = {"env_steps": 5, "speed": 0.1, "fell": 0.4, "eval_episodes": 5}
    said = antmaze.notes(Kept({}, about))
    assert "0.10 m/s" in said[0] and "40%" in said[0] and "hardly learned to walk" in said[1]
    assert len(antmaze.notes(Kept({}, about | {"speed": 1.0}))) == 1
