"""Generators: the same data for the same seed, data that are what their card says, and settings that cannot be."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_sets import LOCOMOTION, SMALL, make
from tiny import valex
from trajectories import same

from valex import device
from valex.datasets.card import checksum
from valex.datasets.files import read
from valex.datasets.generate.run import generate
from valex.fields import ConfigError
from valex.offline.coverage import trajectory_returns
from valex.offline.data import check
from valex.settings import datasets as settings
from valex.settings.datasets import (
    AntMazeSettings,
    ExplorationSettings,
    ManipulationSettings,
    PointMazeSettings,
)
from valex.tables import GENERATORS, load


@pytest.fixture(scope="module", autouse=True)
def cached_programs(compile_cache):
    """The same generator with another seed is the same program: it is compiled once."""
    device.set_up_jax()


@pytest.fixture(scope="module")
def locomotion():
    return {card.name: (data, card) for data, card in load(GENERATORS, "locomotion")(LOCOMOTION)}


@pytest.fixture(scope="module")
def explored():
    return make("exploration", replace(SMALL["exploration"], seed=5))[0]


def test_every_generator_has_settings_and_a_small_set():
    assert set(settings.GENERATORS) == set(GENERATORS) == set(SMALL)


@pytest.fixture(autouse=True)
def short_look_at_the_ant(monkeypatch):
    """How well a small ant walks is of no interest."""
    monkeypatch.setattr("valex.datasets.generate.ant.EVAL_EPISODES", 1)


@pytest.mark.parametrize("kind", ["pointmaze", "antmaze", "exploration", "manipulation"])
def test_the_same_seed_makes_the_same_data_and_another_does_not(kind, request):
    chosen = replace(SMALL[kind], seed=5)
    data, card = request.getfixturevalue("explored") if kind == "exploration" else make(kind, chosen)[0]
    again, its = make(kind, chosen)[0]
    other, _ = make(kind, replace(SMALL[kind], seed=6))[0]
    assert same(data, again) and card == its
    assert checksum(data) != checksum(other)
    check(data)
    assert card.seed == 5 and card.generator["kind"] == kind and card.versions["valex"]
    assert card.sha256 == checksum(data)


def test_one_kind_of_locomotion_is_the_same_alone_as_among_all(locomotion):
    data, card = make("locomotion", SMALL["locomotion"])[0]
    assert same(data, locomotion["pendulum-medium"][0])
    assert card == locomotion["pendulum-medium"][1]


def test_locomotion_sets_are_what_they_say(locomotion):
    kinds = ("random", "medium", "medium-replay", "expert", "medium-expert", "noise-0.3")
    assert list(locomotion) == [f"pendulum-{kind}" for kind in kinds]
    for name, (data, card) in locomotion.items():
        check(data)
        if name != "pendulum-medium-replay":
            assert np.diff(data.offsets).tolist() == [25] * (len(data.obs) // 25)  # whole episodes
            assert len(data.obs) >= 200
        assert card.optimality["mean_return"] == pytest.approx(trajectory_returns(data).mean())
        assert card.optimality["random_return"] == locomotion["pendulum-random"][1].optimality["random_return"]
    halves = locomotion["pendulum-medium-expert"][0]
    assert same_rows(halves, locomotion["pendulum-medium"][0]) and not same_rows(
        halves, locomotion["pendulum-expert"][0]
    )
    seen = locomotion["pendulum-medium-replay"]
    assert len(seen[0].obs) <= seen[1].generator["medium_steps"] <= 600


def same_rows(data, other):
    """Return whether both begin with the same episode."""
    return (data.obs[:25] == other.obs[:25]).all()


def test_rewards_of_collected_data_are_those_of_the_task(locomotion):
    data = locomotion["pendulum-random"][0]
    angle, rate = np.arctan2(data.obs[:, 1], data.obs[:, 0]), data.obs[:, 2]
    expected = -(angle**2 + 0.1 * rate**2 + 0.004 * data.action[:, 0] ** 2)
    assert data.reward == pytest.approx(expected, abs=2e-4)


def test_episodes_of_replay_follow_each_other_in_time(locomotion):
    data = locomotion["pendulum-medium-replay"][0]
    inside = ~np.asarray(data.truncated | data.terminated)
    rows = np.flatnonzero(inside)
    assert (data.next_obs[rows] == data.obs[rows + 1]).all()
    assert np.diff(data.offsets).max() == 25


def test_medium_is_the_first_a_third_of_the_way(monkeypatch):
    from valex.datasets.generate import locomotion as module

    scores = iter([-90.0, -70.0, -50.0, -10.0])

    class Program:
        parts = None

        @staticmethod
        def start(seed):
            return State(None, 0, None)

        @staticmethod
        def chunk(state, n):
            score = next(scores)
            return State(score, state.iterations + n, None), {"eval/episode_return": score}, {}

    from collections import namedtuple

    State = namedtuple("State", "agent iterations replay")
    monkeypatch.setattr(module, "make_program", lambda config: Program)
    config = module.run_config(replace(LOCOMOTION, checks=4, train_steps=8_000, train_envs=1))
    config = replace(config, eval=replace(config.eval, every=2_000), train=replace(config.train, warmup_steps=256))
    trained = module.train(config, -100.0)
    assert (trained.medium, trained.expert) == (-70.0, -10.0)  # -100 + 90 / 3 = -70
    assert trained.medium_steps == 256 + 4_000


@pytest.mark.parametrize("type", ["navigate", "stitch", "explore", "path"])
def test_point_maze_types(type):
    data, card = make("pointmaze", PointMazeSettings("medium", type, sigma=0.0, episodes=3, steps=40))[0]
    assert np.diff(data.offsets).tolist() == [40] * 3 and data.truncated.sum() == 3
    assert (data.obs == data.extras["qpos"].astype(np.float32)).all()
    moved = np.linalg.norm(data.next_obs - data.obs, axis=1)
    assert moved.max() <= 0.2 + 2e-3  # the environment moves the point by 0.2 a; a wall may push it
    assert np.linalg.norm(data.action, axis=1) == pytest.approx(1.0, abs=1e-3)
    if type == "explore":
        turns = np.flatnonzero(np.any(np.diff(data.action[:40], axis=0) != 0, axis=1)) + 1
        assert turns.tolist() == [10, 20, 30]
    assert card.coverage["cells_occupied"] >= 3


def test_the_point_follows_ogbench_oracle():
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    from valex.datasets.generate.maze import make_env, maze_of
    from valex.offline.oracle import centre_of, oracle_action

    env = make_env("pointmaze", "large")
    maze, rng = maze_of(env), np.random.default_rng(0)
    free = np.flatnonzero(~maze.walls.ravel())
    for _ in range(60):
        here, goal = (centre_of(maze, rng.choice(free)) + rng.uniform(-1.9, 1.9, 2) for _ in range(2))
        theirs = env.get_oracle_subgoal(here, goal)[0] - here
        ours = oracle_action(maze, here, goal, to_goal=False)
        assert ours == pytest.approx(theirs / (np.linalg.norm(theirs) + 1e-6), abs=1e-9)


def test_a_single_task_ends_at_its_goal_and_loses_no_row():
    base = PointMazeSettings("medium", episodes=6, steps=400)
    free, single = (make("pointmaze", replace(base, task=task))[0][0] for task in (0, 4))
    assert (free.obs == single.obs).all() and (free.action == single.action).all()
    goal = np.array([(1 - 1) * 4.0, (6 - 1) * 4.0])  # task 4 of the medium maze ends in cell (6, 1)
    there = np.linalg.norm(single.obs - goal, axis=1) <= 1.0
    assert there.any()
    assert (single.terminated == there).all()
    assert (single.reward == np.where(there, 0.0, -1.0)).all()


@pytest.mark.parametrize(("domain", "dims"), [("walker", 24), ("cheetah", 17)])
def test_dm_control_rewards_are_worked_out_from_physics(domain, dims):
    pytest.importorskip("dm_control", reason="pip install 'valex[offline]'")
    from valex.datasets.generate.control import make_world, relabelled

    world, other = make_world(domain, "run", 3), make_world(domain, "stand", 3) if domain == "walker" else None
    rng, physics, rewards, obs = np.random.default_rng(0), [], [], [world.reset()]
    for _ in range(60):
        moment = world.env.step(rng.uniform(-1, 1, 6))
        physics.append(world.simulator()["physics"])
        rewards.append(moment.reward)
        obs.append(world._flat(moment))
    assert relabelled(world, np.stack(physics)) == pytest.approx(np.array(rewards), abs=1e-5)
    assert np.stack(obs).shape == (61, dims)
    if other is not None:
        assert np.abs(relabelled(other, np.stack(physics)) - rewards).max() > 0.01


def test_dm_control_explored_on_the_host():
    pytest.importorskip("dm_control", reason="pip install 'valex[offline]'")
    small = replace(SMALL["exploration"], env="dm_control/cheetah", transitions=130, episode_length=50, warmup_steps=60)
    (data, card), (again, its) = (load(GENERATORS, "exploration")(small)[0] for _ in range(2))
    assert same(data, again) and card == its
    assert np.diff(data.offsets).tolist() == [50, 50, 30]
    assert set(data.extras) == {"physics", "next_physics"}
    assert data.extras["physics"].dtype == np.float64
    assert any("position, velocity" in note for note in card.notes)


@pytest.mark.parametrize(("env", "dims"), [("cube-single", 28), ("scene", 40)])
def test_scripted_oracles_move_what_they_are_to_move(env, dims):
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    state = np.random.get_state()[1].copy()
    chosen = ManipulationSettings(env, "noisy", sigma=0.1, random_actions=0.1, episodes=1, steps=120, seed=1)
    data, card = load(GENERATORS, "manipulation")(chosen)[0]
    assert (np.random.get_state()[1] == state).all()  # the oracles draw from numpy's global generator
    assert data.obs.shape == (120, dims) and data.action.shape == (120, 5)
    assert set(data.extras) >= {"qpos", "qvel", "next_qpos", "next_qvel"}
    assert ("button_states" in data.extras) == (env == "scene")
    arm = data.extras["qpos"][:, :6]
    assert np.abs(arm[-1] - arm[0]).max() > 0.05
    assert card.env["kwargs"]["mode"] == "data_collection"


def test_the_plan_of_the_cube_carries_it():
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    data = load(GENERATORS, "manipulation")(ManipulationSettings(episodes=1, steps=150, sigma=0.0))[0][0]
    cube = data.extras["qpos"][:, 14:17]
    assert cube[:, 2].max() > cube[0, 2] + 0.05  # lifted, m
    assert np.linalg.norm(cube[-1, :2] - cube[0, :2]) > 0.02


def test_novelty_falls_where_the_explorer_has_been():
    import jax

    from valex.datasets.generate.rnd import make_rnd

    rnd = make_rnd(2, (32,), 8, 1e-2)
    state, rng = rnd.init(jax.random.key(0)), np.random.default_rng(0)
    seen, unseen = rng.normal(0, 0.3, (256, 2)).astype(np.float32), np.float32([[1.0, 1.0], [-1.0, 1.0]])
    update, bonus = jax.jit(rnd.update), jax.jit(rnd.bonus)
    before = float(bonus(update(state, seen), seen).mean())
    for _ in range(300):
        state = update(state, seen)
    assert float(bonus(state, seen).mean()) < 0.2 * before
    assert float(bonus(state, unseen).min()) > 5 * float(bonus(state, seen).mean())
    assert (
        np.asarray(rnd.init(jax.random.key(0)).target["Dense_0"]["kernel"]) == state.target["Dense_0"]["kernel"]
    ).all()


def test_the_explorer_is_blind_to_the_rewards_of_the_task(explored, monkeypatch):
    """Other rewards, the same behaviour."""
    from valex.datasets.generate import exploration
    from valex.envs.base import offset_reward

    plain = explored[0]
    real = exploration.make_env
    monkeypatch.setattr(exploration, "make_env", lambda config: offset_reward(real(config), 7.0))
    other = exploration.generate(replace(SMALL["exploration"], seed=5))[0][0]
    assert (plain.action == other.action).all() and (plain.obs == other.obs).all()
    assert other.reward == pytest.approx(plain.reward + 7.0, abs=1e-4)


WRONG = {
    "sigma": ("pointmaze", PointMazeSettings(sigma=-1.0), "sigma: -1.0 is outside [0, inf)"),
    "task": ("pointmaze", PointMazeSettings(task=6), "task: 6 is outside [0, 5]"),
    "noise": ("antmaze", AntMazeSettings(sigma=-0.1), "sigma: -0.1 is outside [0, inf)"),
    "giant": ("antmaze", AntMazeSettings("huge"), "maze: 'huge' is not known; choose one of medium, large, giant"),  # pyright: ignore
    "too short": ("antmaze", AntMazeSettings(train_steps=9_000), "train_steps: 9000 leave nothing to learn"),
    "preset": ("locomotion", replace(LOCOMOTION, preset="ppo"), "preset: 'ppo' is not known"),
    "discrete": ("locomotion", replace(LOCOMOTION, env="probe_obs_discrete"), "discrete"),
    "env": ("locomotion", replace(LOCOMOTION, env="moon"), "env: moon is none of `valex list envs`"),
    "checks": ("locomotion", replace(LOCOMOTION, checks=1), "checks: 1 is outside [3, "),
    "domain": (
        "exploration",
        ExplorationSettings("dm_control/moon"),
        "dm_control/moon is not known; choose one of walker",
    ),
    "dm task": ("exploration", ExplorationSettings("dm_control/walker", "swim"), "task: 'swim' is no task of walker"),
    "warmup": ("exploration", ExplorationSettings(warmup_steps=3), "warmup_steps: 3 holds no batch"),
    "agent": ("exploration", ExplorationSettings(agent="td3"), "agent: 'td3' is not known"),  # pyright: ignore
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_are_refused(name, tmp_path):
    kind, chosen, message = WRONG[name]
    if name == "dm task":
        pytest.importorskip("dm_control", reason="pip install 'valex[offline]'")
    with pytest.raises(ConfigError) as error:
        generate(kind, chosen, tmp_path / "set")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_kinds_and_formats_are_refused_before_anything_is_computed(tmp_path):
    for kind, format in (("moon", "native"), ("pointmaze", "zarr")):
        with pytest.raises(ConfigError, match="is not known; choose one of"):
            generate(kind, SMALL["pointmaze"], tmp_path / "set", format)


def test_the_command_line_makes_converts_and_describes(tmp_path):
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    out = tmp_path / "maze"
    words = ("pointmaze", "--maze", "medium", "episodes=4", "--steps=20", "--out", str(out), "--json")
    said = valex("dataset", "generate", *words)
    assert said.code == 0, said.err
    assert json.loads(said.out)[str(out)]["sizes"]["transitions"] == 80
    said = valex("dataset", "convert", str(out), str(tmp_path / "m.npz"), "--format", "ogbench", "--val_share", "0.25")
    assert said.code == 0 and "1 of 4 trajectories are the validation set" in said.out
    said = valex("dataset", "card", str(tmp_path / "m-val.npz"))
    assert said.code == 0 and "20 transitions in 1 trajectories" in said.out
    assert valex("dataset", "convert", str(out), str(tmp_path / "m-v0"), "--format=minari").code == 0
    assert read(tmp_path / "m-v0")[1] == read(out)[1]


@pytest.mark.parametrize(("words", "message"), [
    (("card", "nowhere"), "there is nothing"),
    (("card",), "PATH"),
    (("sing",), "dataset: 'sing' is not known; choose one of generate, card, convert"),
    (("generate", "moon"), "kind: 'moon' is not known"),
    (("generate", "pointmaze", "--sigma", "x"), "sigma"),
    (("convert", "a", "b", "--val_share", "0.1"), "take --format ogbench"),
    (("convert", "a", "b", "--val_share", "2"), "val_share: 2 is not in [0, 1)"),
])  # fmt: skip
def test_command_lines_that_cannot_be_end_with_2_and_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = valex("dataset", *words)
    assert said.code == 2
    assert message in said.err and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("--help",), ("generate", "--help"), *(("generate", k, "--help") for k in GENERATORS)]
)
def test_help_explains(words):
    said = valex("dataset", *words)
    assert said.code == 0 and "generate" in said.out


def test_a_card_lists_a_dozen_evaluations_at_most():
    from valex.datasets.generate.qualities import curve_note

    assert curve_note([1.04, 2.0]) == "returns of the evaluations in training: [1.0, 2.0]"
    assert curve_note(list(range(55))) == (
        "returns of 12 of 55 evaluations in training: [0, 5, 10, 15, 20, 25, 29, 34, 39, 44, 49, 54]"
    )
