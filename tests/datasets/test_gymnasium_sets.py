"""Locomotion of Gymnasium: the task of the card, data that are what they say, a stopped training, the expert, bad input."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from valex import device
from valex.arenas import gymnasium_arena, make_arena
from valex.datasets.card import checksum
from valex.datasets.files import read
from valex.datasets.generate import gymnasium as module
from valex.datasets.generate.collect import Ask
from valex.datasets.generate.run import generate
from valex.experts import describe, expert_of
from valex.fields import ConfigError
from valex.offline.data import check
from valex.settings.datasets import LocomotionSettings

gymnasium = pytest.importorskip("gymnasium", reason="pip install 'valex[offline]'")
CLOCK, STEPS = 25, 450
TINY = LocomotionSettings(
    env="Pendulum-v1", type="all", sigma=0.3, transitions=100, hidden=(8,), train_steps=STEPS, checks=3, collect_envs=2,
    episode_length=CLOCK, reference_episodes=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compile_cache):
    device.set_up_jax()
    folder = tmp_path_factory.mktemp("sets")
    generate("locomotion", TINY, folder)
    return folder


@pytest.fixture(scope="module")
def sets(folder):
    return {path.name: read(path) for path in sorted(folder.glob("Pendulum*"))}


def test_sets_are_what_they_say(sets):
    kinds = ("expert", "medium", "medium-expert", "medium-replay", "noise-0_3", "random")
    assert set(sets) == {f"Pendulum-v1-{kind}-v0" for kind in kinds}
    for name, (data, card) in sets.items():
        check(data)
        assert card.env == {"id": "Pendulum-v1", "kwargs": {"max_episode_steps": CLOCK}}
        assert card.optimality["random_return"] < 0 and card.optimality["expert_return"] < 0
        assert card.versions["gymnasium"] and card.seed == 0 and card.generator["preset"] == "sac"
        assert not data.terminated.any() and data.truncated.sum() == len(data.offsets) - 1
        inside = np.flatnonzero(~data.truncated)
        assert (data.next_obs[inside] == data.obs[inside + 1]).all()
        assert np.diff(data.offsets).max() == CLOCK
        if "replay" not in name:
            assert np.diff(data.offsets).tolist() == [CLOCK] * 4
        angle = np.arctan2(data.obs[:, 1], data.obs[:, 0])
        cost = angle**2 + 0.1 * data.obs[:, 2] ** 2 + 0.001 * (2.0 * data.action[:, 0]) ** 2  # a torque of 2 a
        assert data.reward == pytest.approx(-cost, abs=2e-4)


def test_medium_replay_is_what_training_had_seen(sets):
    data, card = sets["Pendulum-v1-medium-replay-v0"]
    assert card.generator["medium_steps"] % (STEPS // 3) == 0
    seen = prefix_of(card.generator["medium_steps"])
    assert np.diff(data.offsets).tolist() == seen[: len(data.offsets) - 1] and len(data.obs) >= 100
    assert any("150 steps apart" in note for note in card.notes)


def prefix_of(steps: int) -> list[int]:
    """Return the lengths of training's episodes until `steps`; every leg of 150 begins one, and 25 divides it."""
    return [CLOCK] * (steps // CLOCK)


def test_the_arena_of_the_card_is_the_task_that_the_data_come_from(sets):
    data, card = sets["Pendulum-v1-noise-0_3-v0"]
    arena = make_arena(card.env)
    assert arena.dims == (3, 1, 0) and arena.episode_length == CLOCK
    seed = next(module.episode_seeds(TINY.seed + 1))
    field, env = arena.build(1), gymnasium.make("Pendulum-v1")
    obs, theirs = field.reset(0, seed)[0], env.reset(seed=seed)[0]
    for i in range(CLOCK):
        assert (data.obs[i] == obs).all() and (data.obs[i] == theirs).all()
        obs = field.step(data.action[i][None], np.ones(1, bool)).obs[0]
        theirs = env.step(2.0 * data.action[i])[0]


def test_a_training_that_is_stopped_ends_with_the_same_bits(sets, tmp_path, monkeypatch, compile_cache):
    real, calls = module.play, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "play", stopped)
    for type in ("medium", "medium-replay", "expert"):
        chosen = replace(TINY, type=type)
        if type == "medium":
            with pytest.raises(KeyboardInterrupt):
                generate("locomotion", chosen, tmp_path / type)
            assert [p.stem for p in tmp_path.rglob("checkpoints/*.json")] == ["000000000150"]
        (path,) = generate("locomotion", chosen, tmp_path / type)
        data, card = read(path)
        whole, its = sets[f"Pendulum-v1-{type}-v0"]
        assert checksum(data) == checksum(whole) and card.optimality == its.optimality
        assert card.generator == its.generator | {"type": type}
    assert len(calls) == 4  # the second leg again, and the third: trained once for all kinds


def test_another_seed_is_another_set(sets, tmp_path):
    other = module.gymnasium_task(replace(TINY, seed=3))
    data = other.random((), Ask(100, 2, 4))
    assert checksum(data) != checksum(sets["Pendulum-v1-random-v0"][0])
    assert checksum(data) == checksum(other.random((), Ask(100, 2, 4)))


def test_the_expert_is_declared_for_the_three_errors(folder, sets):
    path = folder / "Pendulum-v1-noise-0_3-v0"
    data, card = sets[path.name]
    act = expert_of(path, card, make_arena(card.env))
    assert act is not None and "mean action" in describe(card)
    action = act(data.obs, ())
    assert action.shape == data.action.shape and (np.abs(action) <= 1.0).all()
    free = np.abs(data.action) < 1.0
    assert np.std((data.action - action)[free]) == pytest.approx(0.3, abs=0.1)


def test_termination_is_the_tasks_and_its_successor_is_kept():
    pytest.importorskip("mujoco", reason="pip install 'valex[offline]'")
    arena = gymnasium_arena("InvertedPendulum-v5", {"max_episode_steps": 8})
    push = lambda params, key, obs: np.array([[1.0], [0.0]])[: len(obs)]  # noqa: E731
    data = module.host_episodes(arena, push, (), Ask(16, 2, 0))
    check(data)
    ends = data.offsets[1:] - 1
    fell = np.abs(data.next_obs[ends, 1]) > 0.2
    assert (data.terminated[ends] == fell).all() and fell.any() and (~fell).any()
    assert (np.diff(data.offsets)[~fell] == 8).all() and (np.diff(data.offsets)[fell] <= 8).all()


class Picture(gymnasium.Env):
    """Observations of two axes."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4, 4))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((4, 4), np.float32), {}


gymnasium.register("Picture-v0", Picture)
WRONG = {
    "unknown": ({"env": "NoSuchThing-v9"}, "env: NoSuchThing-v9 is none of `valex list envs`, and NoSuchThing-v9 cannot"),
    "discrete": ({"env": "CartPole-v1"}, "env: CartPole-v1 is none of `valex list envs`, and the actions of CartPole-v1"),
    "axes": ({"env": "Picture-v0"}, "env: the observations of Picture-v0 are Box(4, 4); allowed: a Box of one axis"),
    "preset": ({"preset": "sac-mve"}, "preset: 'sac-mve' with Pendulum-v1; allowed: sac, ddpg, td3"),
    "short": ({"train_steps": 100}, "train_steps: 100 leave nothing to learn in"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_are_refused(name, tmp_path):
    changed, message = WRONG[name]
    with pytest.raises(ConfigError) as error:
        generate("locomotion", replace(TINY, **changed), tmp_path / "set")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_gymnasium_that_is_missing_is_named_with_env(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ConfigError) as error:
        generate("locomotion", TINY, tmp_path / "set")
    text = str(error.value)
    assert text.startswith("env: Pendulum-v1 is none of `valex list envs`, and gymnasium: not installed")
    assert "pip install 'valex[offline]'" in text and "\n" not in text
