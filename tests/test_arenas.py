"""Arenas: an episode is its seed's and nobody else's, its rewards are those of the environment, and what cannot be is said."""

import numpy as np
import pytest

from valex.arenas import drawing, flat, make_arena, without_clock
from valex.fields import ConfigError
from valex.play import play

SPECS = {
    "ours": {"id": "pendulum", "kwargs": {"episode_length": 15}},
    "gymnasium": {"id": "Pendulum-v1", "kwargs": {"max_episode_steps": 15}},
    "dm_control": {"id": "dm_control/cheetah", "kwargs": {"task": "run", "episode_length": 15}},
    "maze": {"id": "pointmaze-medium-v0", "kwargs": {"max_episode_steps": 15}},
}
NEEDS = {"gymnasium": "gymnasium", "dm_control": "dm_control.suite", "maze": "ogbench"}


def arena_named(kind: str):
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind], reason="pip install 'valex[offline]'")
    return make_arena(SPECS[kind], goals=kind == "maze")


def wavy(arena):
    """A policy of its observation alone, another action in every dimension."""
    angle = np.arange(1, arena.dims.act + 1)
    return lambda obs, goal: np.sin(3.0 * np.sum(obs, axis=1, keepdims=True) + angle).astype(np.float32)


@pytest.mark.parametrize("kind", SPECS)
def test_an_episode_depends_on_its_seed_and_the_policy_alone(kind):
    """Alone, behind other episodes, beside them and in another order it is the same."""
    arena = arena_named(kind)
    act = wavy(arena)
    alone = play(arena, act, [7])
    np.random.seed(3)  # noqa: NPY002  a state of the global generator that the second try does not have
    for seeds in ([7, 8, 9], [9, 3, 7, 8, 5]):
        beside = play(arena, act, seeds)
        mine = beside.episode == seeds.index(7)
        np.testing.assert_allclose(beside.obs[mine], alone.obs, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(beside.returns[seeds.index(7)], alone.returns[0], rtol=1e-5)
    again = play(arena, act, [8, 7])
    np.testing.assert_allclose(again.returns[1], alone.returns[0], rtol=1e-5)
    if kind != "maze":  # two seeds are two tasks there
        assert abs(again.returns[0] - again.returns[1]) > 1e-6
    assert not np.array_equal(again.obs[again.episode == 0][0], again.obs[again.episode == 1][0])


def test_returns_of_gymnasium_by_hand_and_its_box():
    """Pendulum asks for torques of up to 2; the policy's 1 is 2 there."""
    gymnasium = pytest.importorskip("gymnasium", reason="pip install 'valex[offline]'")
    arena = arena_named("gymnasium")
    played = play(arena, wavy(arena), [4, 11])
    env = gymnasium.make("Pendulum-v1")
    for place, seed in enumerate((4, 11)):
        obs, total = env.reset(seed=seed)[0], 0.0
        for _ in range(15):
            obs, reward, *_ = env.step(2.0 * wavy(arena)(obs[None], ())[0])
            total += float(reward)
        np.testing.assert_allclose(played.returns[place], total, rtol=1e-5)
    assert arena.dims == (3, 1, 0) and arena.episode_length == 15 and not arena.success
    assert arena.box == ((-2.0,), (2.0,)) and make_arena(SPECS["ours"]).box is None
    assert make_arena({"id": "Pendulum-v1"}).episode_length == 200  # the clock that it is registered with


def test_wrappers_of_an_environment_of_ones_own_stay_and_its_clock_goes():
    gymnasium = pytest.importorskip("gymnasium", reason="pip install 'valex[offline]'")
    from gymnasium import wrappers

    def wrapped(**kwargs):
        env = gymnasium.make("Pendulum-v1", max_episode_steps=3, **kwargs).env  # with the checks inside
        return wrappers.RescaleAction(
            wrappers.TransformObservation(env, lambda o: o[:2], None), np.float32(-1.0), np.float32(1.0)
        )

    gymnasium.register("Wrapped-v0", entry_point=wrapped, max_episode_steps=4)
    try:
        arena = make_arena({"id": "Wrapped-v0"})
        assert arena.dims == (2, 1, 0) and arena.box is None and arena.episode_length == 4
        ones = lambda obs, goal: np.ones((len(obs), 1), np.float32)  # noqa: E731
        plain = make_arena({"id": "Pendulum-v1", "kwargs": {"max_episode_steps": 4}})
        np.testing.assert_allclose(play(arena, ones, [3]).returns, play(plain, ones, [3]).returns, rtol=1e-5)
        env = without_clock(gymnasium.make("Wrapped-v0"))
        kinds = []
        while env is not env.unwrapped:
            kinds.append(type(env).__name__)
            env = env.env
        assert kinds == ["RescaleAction", "TransformObservation"]
    finally:
        del gymnasium.registry["Wrapped-v0"]


def test_returns_of_dm_control_by_hand():
    suite = pytest.importorskip("dm_control.suite", reason="pip install 'valex[offline]'")
    arena = arena_named("dm_control")
    played = play(arena, wavy(arena), [5])
    env = suite.load("cheetah", "run", task_kwargs={"random": np.random.RandomState(5)})
    moment, total = env.reset(), 0.0
    for _ in range(15):
        obs = np.concatenate([np.atleast_1d(part).ravel() for part in moment.observation.values()]).astype(np.float32)
        moment = env.step(wavy(arena)(obs[None], ())[0])
        total += moment.reward
    np.testing.assert_allclose(played.returns[0], total, rtol=1e-5)
    assert arena.dims == (17, 6, 0) and make_arena({"id": "dm_control/cheetah"}).episode_length == 1_000


def test_returns_of_our_pendulum_by_hand():
    arena = arena_named("ours")
    played = play(arena, wavy(arena), [0, 1])
    angle = np.arctan2(played.obs[:, 1], played.obs[:, 0])
    cost = angle**2 + 0.1 * played.obs[:, 2] ** 2 + 0.004 * played.action[:, 0] ** 2
    expected = [-cost[played.episode == e].sum() for e in (0, 1)]
    np.testing.assert_allclose(played.returns, expected, rtol=1e-4)


def test_terminations_end_an_episode_and_the_clock_truncates_it():
    """probe_delay terminates behind two steps, probe_clock never: its clock stops it."""
    still = lambda obs, goal: np.zeros((len(obs), 1), np.float32)  # noqa: E731
    assert play(make_arena({"id": "probe_clock"}), still, [0, 1]).lengths.tolist() == [5, 5]
    ended = play(make_arena({"id": "probe_delay"}), still, [0, 1])
    assert ended.lengths.tolist() == [2, 2] and ended.returns.tolist() == [1.0, 1.0]


def test_a_reward_offset_is_for_critics_and_not_in_returns():
    still = lambda obs, goal: np.zeros((len(obs), 1), np.float32)  # noqa: E731
    moved = make_arena({"id": "probe_clock", "kwargs": {"reward_offset": 8.0}})
    plain = play(make_arena({"id": "probe_clock"}), still, [0]).returns
    np.testing.assert_allclose(play(moved, still, [0]).returns, plain, rtol=1e-6)


def test_a_maze_has_goals_and_says_when_it_is_solved():
    arena = arena_named("maze")
    assert arena.dims == (2, 2, 2) and arena.success
    assert make_arena(SPECS["maze"]).dims.goal == 0
    field = arena.build(2)
    goals = [field.reset(0, seed)[1].tolist() for seed in (0, 1, 5)]
    assert np.linalg.norm(np.subtract(goals[0], goals[1])) > 2.0  # another of the five tasks
    assert np.linalg.norm(np.subtract(goals[0], goals[2])) <= np.hypot(2.0, 2.0) + 1e-5  # the same task, another draw


WRONG = {
    "nothing": ({}, "the dataset's card names none; say which with --env"),
    "unknown": ({"id": "NoSuchThing-v9"}, "NoSuchThing-v9 cannot be built"),
    "ours, kwargs": ({"id": "pendulum", "kwargs": {"episode_length": 0}}, "env.episode_length: got 0"),
    "ours, unknown kwargs": ({"id": "pendulum", "kwargs": {"colour": 1}}, "colour"),
    "ours, discrete": ({"id": "probe_both_discrete"}, "the actions of probe_both_discrete are discrete"),
    "gymnasium, discrete": ({"id": "CartPole-v1"}, "the actions of CartPole-v1 are Discrete"),
    "domain": ({"id": "dm_control/dog"}, "dm_control/dog is not known"),
    "task": ({"id": "dm_control/cheetah", "kwargs": {"task": "fly"}}, "'fly' is no task of cheetah"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_said_in_one_line(what):
    spec, message = WRONG[what]
    pytest.importorskip("dm_control" if "dm_control" in spec.get("id", "") else "gymnasium")
    with pytest.raises(ConfigError) as error:
        make_arena(spec)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["ours", "gymnasium", "dm_control"])
def test_goals_that_are_not_told_are_refused(kind):
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    with pytest.raises(ConfigError, match="tells no goal when it starts; train without goals"):
        make_arena(SPECS[kind], goals=True)


def test_observations_become_flat_and_the_global_generator_is_left_alone():
    assert flat({"observation": np.ones((2, 1)), "desired_goal": np.zeros(1)}).tolist() == [1.0, 1.0]
    assert flat({"b": np.array(2.0), "a": np.array([1.0])}).tolist() == [1.0, 2.0]
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.RandomState(0).uniform(size=2)
    first = np.random.uniform()  # noqa: NPY002
    with drawing(5):
        inside = np.random.uniform()  # noqa: NPY002
    assert inside == np.random.RandomState(5).uniform()
    assert [first, np.random.uniform()] == expected.tolist()  # noqa: NPY002
