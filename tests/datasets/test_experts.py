"""Experts that are kept: asked later, shared between datasets, and refused in one line where they are not what they were."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_sets import LOCOMOTION, make
from trajectories import numbered, same

from valex import device
from valex.config import PRESETS
from valex.datasets.card import make_card
from valex.datasets.files import read, write
from valex.datasets.generate import locomotion
from valex.datasets.generate.collect import Ask, whole_episodes
from valex.datasets.generate.expert import ABOUT, ARRAYS, Kept, acting, acting_state, load_expert, read_expert
from valex.datasets.generate.learner import make_agent
from valex.datasets.generate.run import generate
from valex.fields import ConfigError
from valex.train import make_program
from valex.types import EnvSpec

SPEC = EnvSpec("any", 29, 8, 0, 1_000, 1, 0.1, "mujoco", False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, compile_cache):
    device.set_up_jax()
    folder = tmp_path_factory.mktemp("sets")
    (path,) = generate("locomotion", replace(LOCOMOTION, type="noise", sigma=0.0), folder / "calm")
    return path


def test_the_expert_of_a_dataset_is_the_one_that_made_it(kept):
    data, card = read(kept)
    expert = load_expert(kept)
    assert np.asarray(expert(data.obs)) == pytest.approx(data.action, abs=1e-5)
    assert expert.about["expert_return"] == card.optimality["expert_return"]
    assert (
        expert.made_of["env"] == "pendulum"
        and card.generator["expert"] == next((kept.parent / "experts").iterdir()).name
    )


def test_data_of_our_own_environments_are_those_of_their_compiled_walks(kept):
    parts = make_program(locomotion.run_config(LOCOMOTION)).parts
    state = acting_state(parts.agent, read_expert(kept / "expert")[1])
    walk = locomotion.make_walks(parts.env, parts.agent).noisy
    again = whole_episodes(parts.env, walk, (state, 0.0), Ask(LOCOMOTION.transitions, LOCOMOTION.collect_envs, 1))
    assert same(read(kept)[0], again)


def test_kept_agents_serve_other_kinds_without_training(kept, monkeypatch):
    fresh = make("locomotion", replace(LOCOMOTION, type="medium"))[0]
    monkeypatch.setattr(locomotion, "train", lambda *unused: pytest.fail("trained again"))
    (path,) = generate("locomotion", replace(LOCOMOTION, type="medium"), kept.parent / "medium")
    data, card = read(path)
    assert same(data, fresh[0]) and card == fresh[1]


@pytest.mark.parametrize("preset", ["sac", "ddpg", "td3"])
def test_what_acts_of_every_learner_is_kept(preset):
    agent = make_agent(replace(PRESETS[preset], agent=replace(PRESETS[preset].agent, hidden=(8,))), SPEC)
    obs, key = 3.0 + jax.random.normal(jax.random.key(1), (5, 29)), jax.random.key(2)
    state = agent.observe(agent.init(jax.random.key(0)), obs)
    rebuilt = acting_state(agent, Kept(acting(state), {}))
    for explore in (False, True):
        assert (agent.act(rebuilt, key, obs, explore).action == agent.act(state, key, obs, explore).action).all()


def test_a_set_that_was_copied_alone_brings_its_expert(kept, tmp_path):
    import shutil

    shutil.copytree(kept, tmp_path / "moved")
    obs = read(kept)[0].obs[:3]
    assert (np.asarray(load_expert(tmp_path / "moved")(obs)) == np.asarray(load_expert(kept)(obs))).all()


def test_what_holds_no_expert_is_refused(kept, tmp_path):
    plain = write(tmp_path / "plain", numbered(), make_card(numbered(), "set", "by hand"), "native")
    refused(plain, "its card names no expert")
    data, card = read(kept)
    alone = write(tmp_path / "alone.npz", data, card, "ogbench")
    refused(alone, "the expert of alone.npz is not there")
    refused(tmp_path / "nowhere", "there is nothing")


def test_a_damaged_expert_is_refused(kept, tmp_path):
    import shutil

    for name, change in ((ARRAYS, lambda b: b[:-8]), (ABOUT, lambda b: b[:-40]), (ABOUT, lambda b: b"{}")):
        shutil.copytree(kept, tmp_path / "set", dirs_exist_ok=True)
        file = tmp_path / "set" / "expert" / name
        file.write_bytes(change(file.read_bytes()))
        refused(tmp_path / "set", "damaged")
    shutil.copytree(kept, tmp_path / "set", dirs_exist_ok=True)
    file = tmp_path / "set" / "expert" / ABOUT
    file.write_text(file.read_text().replace('"obs_dim": 3', '"obs_dim": 4'))
    refused(tmp_path / "set", "does not fit this version")


def refused(path, words):
    with pytest.raises(ConfigError) as error:
        load_expert(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(locomotion, "train", lambda *unused: pytest.fail("trained"))
    (tmp_path / "experts").write_text("taken")
    with pytest.raises(ConfigError) as error:
        generate("locomotion", replace(LOCOMOTION, type="expert"), tmp_path / "set")
    assert "experts" in str(error.value) and "\n" not in str(error.value)


def test_a_training_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fails(*unused):
        raise ConfigError("train_steps: pendulum by sac was not finite; try another seed")

    monkeypatch.setattr(locomotion, "train", fails)
    with pytest.raises(ConfigError, match="not finite"):
        generate("locomotion", replace(LOCOMOTION, type="expert"), tmp_path / "set")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
