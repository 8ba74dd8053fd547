"""Trials: made once and read again, scored as the task says, with the errors that they name, or refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from benches import AWR, BC, DDPG, FIT, IQL, PENDULUM, cell_of, cheap_programs, maze_set, pendulum_set  # noqa: F401

from valex import facts, store, trials
from valex.arenas import make_arena
from valex.artefacts import Hooks, obtain
from valex.experts import describe, env_of, expert_of
from valex.facts import dataset_facts
from valex.fields import ConfigError
from valex.matrix import differences, trials as trials_of
from valex.offline.coverage import optimality
from valex.offline.data import prefix_rows
from valex.offline.extraction_rule import FEATURE_NAMES
from valex.play import play
from valex.settings.offline import OPEXConfig, SfBCConfig, TTTConfig
from valex.trials import asks, bench_of, cell_name, measures, score_of, trial_path, try_cell

STILL = Hooks(tell=lambda event: pytest.fail("trained again"))
GOALS = {"value": replace(IQL, goals="gciql"), "policy": replace(DDPG, goals="navigate")}


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    """Return (root, path, card) of a dataset of our pendulum."""
    root = tmp_path_factory.mktemp("pendulum")
    return root, root / "data", pendulum_set(root / "data")


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """Return (root, path, card) of walks through a maze without rewards."""
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    root = tmp_path_factory.mktemp("maze")
    return root, root / "data", maze_set(root / "data")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Return (root, path, card) of the same walks with the reward of one task."""
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    root = tmp_path_factory.mktemp("task")
    return root, root / "data", maze_set(root / "data", task=1)


# --------------------------------------------------------------------------------------------------------------- made once


def test_a_trial_is_made_once_and_read_afterwards(pendulum):
    root, path, card = pendulum
    cell = cell_of(card)
    made = try_cell(root, path, cell, Hooks())
    assert trial_path(root, cell).exists() and json.loads(trial_path(root, cell).read_text()) == made
    assert try_cell(root, root / "no such dataset", cell, STILL) == made  # nothing else is read
    assert made["lengths"] == [12, 12, 12] and len(made["returns"]) == 3 and made["success"] == [0, 0, 0]
    assert made["unit"] == "return" and made["score"] == pytest.approx(np.mean(made["returns"]))
    assert made["training"]["grad_steps"] == 20 and "policy/bc_loss" in made["training"]
    assert (root / "policies" / made["artefacts"]["policy"]).is_dir()
    names = set(made["measures"])
    remote = {"radius/val", "radius/eval"}
    assert (
        names == {"action/max", "action/outside", "fit/train", "fit/val"} | remote
    )  # nobody declared an optimal policy
    assert all(made["measures"][name] >= 0.0 for name in names)


def test_a_trial_is_that_of_the_policy_by_hand(pendulum):
    """Its episodes are those of the artefact's mean action, on observations in units of the training data."""
    root, path, card = pendulum
    cell = cell_of(card, policy=AWR)
    made = try_cell(root, path, cell, Hooks())
    bench = bench_of(path, cell)
    artefact = obtain(root, bench.source, asks(cell), STILL)
    mean, std = bench.raw.obs.mean(0), bench.raw.obs.std(0) + 1e-3

    def act(obs, goal):
        return np.asarray(
            artefact.parts.mean(artefact.phase.learner, np.float32((obs - mean) / std), (), artefact.frozen)
        )

    played = play(make_arena(PENDULUM), act, range(trials.EPISODES, trials.EPISODES + 3))
    np.testing.assert_allclose(made["returns"], played.returns, rtol=1e-4)
    assert len(bench.raw.obs) + len(bench.held_raw.obs) == 120 and len(bench.held_raw.obs) == 24
    shared = {tuple(row) for row in bench.raw.obs} & {tuple(row) for row in bench.held_raw.obs}
    assert not shared  # nothing is trained on what is held out


def test_names_tell_cells_apart(pendulum):
    card = pendulum[2]
    cell = cell_of(card)
    changes = {"value_size": 24, "policy_size": 24, "seed": 1, "policy": replace(DDPG, alpha=1.0), "episodes": 4,
               "val_share": 0.3, "encoding": "none", "test_time": OPEXConfig(), "value": replace(IQL, expectile=0.7),
               "env": json.dumps({"id": "pendulum", "kwargs": {}})}  # fmt: skip
    names = [cell_name(cell), *(cell_name(replace(cell, **{field: value})) for field, value in changes.items())]
    assert len(set(names)) == len(names)
    assert names[0].startswith("iql60__ddpg_bca0.3_60__s0__")
    assert cell_name(cell) == cell_name(replace(cell, policy=replace(DDPG, lr=0.001)))


# ------------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_in_the_unit_of_the_task(pendulum, maze):
    bench = bench_of(pendulum[1], cell_of(pendulum[2]))
    played = play(make_arena(PENDULUM), lambda obs, goal: np.zeros((len(obs), 1)), [0, 1])
    played = played._replace(returns=np.array([10.0, 30.0]), success=np.array([True, False]))
    assert score_of(bench, played) == (20.0, "return")
    known = optimality(bench.raw, (0.0, 40.0))
    score, unit = score_of(bench._replace(card=replace(bench.card, optimality=known)), played)
    assert score == 50.0 and unit.startswith("normalised return")
    flat = bench._replace(card=replace(bench.card, optimality=optimality(bench.raw, (40.0, 0.0))))
    assert score_of(flat, played)[1] == "return"  # an expert below random is none
    control = bench._replace(arena=bench.arena._replace(name="dm_control/cheetah-run"))
    assert score_of(control, played) == (2.0, "return / 10 (of 0 .. 100)")
    solved = bench._replace(arena=bench.arena._replace(success=True))
    assert score_of(solved, played) == (50.0, "success (%)")


# ------------------------------------------------------------------------------------------------------------------- errors


def played_by(bench, act, episodes=5):
    return play(bench.arena, act, range(trials.EPISODES, trials.EPISODES + episodes))


@pytest.mark.parametrize("kind", ["goals", "one task"])
def test_the_oracle_has_no_error_and_solves_the_maze(kind, request):
    _, path, card = request.getfixturevalue("maze" if kind == "goals" else "task")
    cell = cell_of(card, env=json.dumps(card.env), **(GOALS if kind == "goals" else {}))
    bench = bench_of(path, cell)
    assert bench.expert is not None
    played = played_by(bench, bench.expert)
    score, unit = score_of(bench, played)
    assert score == 100.0 and unit == "success (%)"
    found = measures(bench, cell, bench.expert, played)
    for name in ("train", "val", "eval"):
        assert found[f"error/{name}"] == pytest.approx(0.0, abs=1e-9)


def test_a_constant_offset_is_the_error_on_all_three_sets(task):
    _, path, card = task
    cell = cell_of(card)
    bench = bench_of(path, cell)
    offset = np.float32([0.03, -0.05])
    # an oracle's action is a unit vector: shrunk, it stays in the box with the offset
    shrunk = bench._replace(expert=lambda obs, goal: 0.9 * bench.expert(obs, goal))
    act = lambda obs, goal: shrunk.expert(obs, goal) + offset  # noqa: E731
    found = measures(shrunk, cell, act, played_by(bench, act, 3))
    for name in ("train", "val", "eval"):
        assert found[f"error/{name}"] == pytest.approx(np.mean(offset**2), rel=1e-3)
        assert found[f"error/{name}_se"] == pytest.approx(0.0, abs=1e-6)


def test_errors_are_measured_on_the_rows_that_each_set_has(task, monkeypatch):
    """A policy that is right on held-out states alone; and one that is right on what it may see alone."""
    _, path, card = task
    cell = cell_of(card, policy_size=40)
    bench = bench_of(path, cell)
    held = {tuple(row) for row in bench.held_raw.obs}
    seen = {tuple(row) for row in bench.raw.obs[: prefix_rows(bench.raw, (40,))[0]]}
    for right, zero, other in ((held, "val", "train"), (seen, "train", "val")):
        act = lambda obs, goal, right=right: np.where(  # noqa: E731
            np.array([tuple(row) in right for row in obs])[:, None], bench.expert(obs, goal), -bench.expert(obs, goal)
        )
        found = measures(bench, cell, act, played_by(bench, act, 2))
        assert found[f"error/{zero}"] == pytest.approx(0.0, abs=1e-9) and found[f"error/{other}"] > 0.5


def test_an_oracle_is_declared_for_the_maze_of_the_data_alone(maze):
    _, path, card = maze
    arena = make_arena(card.env, goals=True)
    assert expert_of(path, card, arena) is not None and describe(card) == "the exact oracle of the map"
    assert expert_of(path, card, arena._replace(name="pointmaze-large-v0")) is None
    assert expert_of(path, card, make_arena(card.env)) is None  # no goal is told, and the data have no task
    assert json.loads(env_of(card, None)) == card.env and json.loads(env_of(card, "x")) == {"id": "x", "kwargs": {}}
    assert env_of(replace(card, env={}), None) == "" and describe(replace(card, generator={})) == ""


# ----------------------------------------------------------------------------------------------------------- what cannot be


def refusals(pendulum):
    root, path, card = pendulum
    env = lambda name, **kwargs: json.dumps({"id": name, "kwargs": kwargs})  # noqa: E731
    cloned = {"value": None, "value_size": 0, "policy": BC}
    return {
        "dims": (path, cell_of(card, env=env("probe_clock")), "env: probe_clock has obs 1 and action 1"),
        "env": (path, cell_of(card, env=env("NoSuchThing-v9")), "env: NoSuchThing-v9 cannot be built"),
        "no goals": (path, cell_of(card, **GOALS), "env: pendulum tells no goal when it starts"),
        "missing": (root / "gone", cell_of(card, episodes=9), f"{root / 'gone'}: there is nothing"),
        "another dataset": (path, cell_of(card, data="0" * 64), "is not the one that was asked for"),
        "too much": (path, cell_of(card, policy_size=97), "sizes: (97,) are not all in 1..96"),
        "split": (path, cell_of(card, val_share=1.0), f"{path}: split"),
        "field": (path, cell_of(card, policy=replace(DDPG, alpha=-1.0)), "policy.alpha: -1.0 is outside"),
        "encoding": (path, cell_of(card, encoding="polar"), "encoding: 'polar' is not known"),
        "climbs nothing": (path, cell_of(card, **cloned, test_time=OPEXConfig()), "opex climbs a value and bc is read"),
        "no Gaussian": (path, cell_of(card, policy=SfBCConfig(**FIT, flow_steps=2), test_time=TTTConfig()), "ttt moves"),
        "at test time": (path, cell_of(card, test_time=OPEXConfig(beta=-1.0)), "test_time.beta: -1.0 is outside"),
    }  # fmt: skip


KINDS = ("dims", "env", "no goals", "missing", "another dataset", "too much", "split", "field", "encoding",
         "climbs nothing", "no Gaussian", "at test time")  # fmt: skip


@pytest.mark.parametrize("what", KINDS)
def test_what_cannot_be_is_said_in_one_line(what, pendulum):
    path, cell, message = refusals(pendulum)[what]
    with pytest.raises(ConfigError) as error:
        try_cell(pendulum[0], path, cell, Hooks())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not trial_path(pendulum[0], cell).exists()


def test_a_damaged_dataset_is_named(pendulum, tmp_path):
    path = tmp_path / "torn.npz"
    path.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ConfigError, match=r"torn\.npz: ") as error:
        try_cell(tmp_path, path, cell_of(pendulum[2]), Hooks())
    assert "\n" not in str(error.value)


def test_a_policy_that_diverges_when_acting_is_said_so(pendulum, monkeypatch):
    root, path, card = pendulum
    lost = lambda bench, artefact: lambda obs, goal: np.full((len(obs), 1), np.nan)  # noqa: E731
    monkeypatch.setattr(trials, "actor", lost)
    with pytest.raises(store.StoreError, match=r"s3__.*the policy's action is not finite; lower policy\.lr"):
        try_cell(root, path, cell_of(card, seed=3), Hooks())


# --------------------------------------------------------------------------------------------------- encodings and features


def test_encodings_of_states_reach_goals_too(maze):
    """Cloning towards goals by either encoding, and what is compared: seed by seed, second less first."""
    root, path, card = maze
    cloned = {"value": None, "value_size": 0, "policy": replace(BC, goals="navigate")}
    first, second = ([cell_of(card, seed=s, encoding=e, **cloned) for s in (0, 1)] for e in ("standard", "steps"))
    for cell in (*first, *second):
        try_cell(root, path, cell, Hooks())
    width = lambda cell: bench_of(path, cell).source.data.obs.shape[1]  # noqa: E731
    assert [width(first[0]), width(second[0])] == [2, 16]
    found = trials_of(root, [*first, *second])
    apart = differences(found, first, second)
    assert set(apart) == {"score", "error/eval", "error/train", "error/val"}
    for name, values in apart.items():
        number = lambda cell, name=name: found[cell]["score"] if name == "score" else found[cell]["measures"][name]  # noqa: E731
        np.testing.assert_allclose(values, [number(b) - number(a) for a, b in zip(first, second, strict=True)])
    assert np.isnan(differences({}, first, second)["score"]).all()
    with pytest.raises(ValueError, match="every cell needs its partner"):
        differences(found, first, second[:1])


def test_what_is_known_of_a_dataset(pendulum):
    """Each feature against what it is called, without an episode being played."""
    root, path, card = pendulum
    cell = cell_of(card, policy=AWR)
    known = dict(zip(FEATURE_NAMES, dataset_facts(root, path, cell, Hooks()).tolist(), strict=True))
    bench = bench_of(path, cell)
    seen = trials.seen_rows(bench, cell)
    assert known["log10_transitions"] == pytest.approx(np.log10(seen)) and seen == 60
    assert known["spread"] > 0.25  # actions of the data are uniform, with variance 1/3: nothing predicts them
    assert 0.0 < known["ess_share"] <= 1.0 and known["q_spread"] > 0.0 and 0.1 < known["coverage"] < 2.0
    obs = bench.raw.obs  # the unit of an observation does not matter
    assert facts._radius(1_000.0 * obs, 0) == pytest.approx(facts._radius(obs, 0), rel=1e-3)
    assert np.isnan(facts._radius(obs[:15], 0))
    with pytest.raises(ConfigError, match="read off a cell of awr over a value"):
        dataset_facts(root, path, cell_of(card), Hooks())
