"""Artefacts side by side: the same folders and, up to rounding, numbers as one by one; kills, divergence, locks."""

import threading
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from benches import AWR, IQL, cell_of, cheap_programs, pendulum_set  # noqa: F401

from valex import store, together
from valex.artefacts import Hooks, PolicyAsk, ValueAsk, begin, make_recipe, obtain, open_source, say
from valex.fields import ConfigError
from valex.matrix import jobs, trials, work
from valex.offline.data import Dataset, from_arrays
from valex.settings.bottleneck import MatrixConfig, cells
from valex.settings.offline import AWRConfig, BCConfig, IQLConfig
from valex.together import obtain_many

TINY = {"hidden": (4,), "activation": "relu", "batch_size": 8, "steps": 6, "lr": 1e-3}
VALUE = IQLConfig(**TINY, layer_norm=False)
VALUES = [ValueAsk(20, VALUE), ValueAsk(60, replace(VALUE, seed=1))]
POLICIES = [
    PolicyAsk(size, AWRConfig(**TINY, alpha=alpha), value) for size, alpha in ((20, 1.0), (60, 3.0)) for value in VALUES
]
CLONED = PolicyAsk(40, BCConfig(**TINY))
OFTEN = Hooks(chunk=2)


def data() -> Dataset:
    """Ten trajectories of six steps."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(60, 2))
    steps = {"obs": obs, "action": rng.uniform(-1, 1, (60, 1)), "reward": rng.normal(size=60), "next_obs": obs + 0.1}
    return from_arrays(steps | {"terminated": np.arange(60) % 12 == 5}, np.arange(0, 61, 6), {})


SOURCE = open_source(data())
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


class Killed(BaseException):
    """The end of a process."""


def folders(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), a, b)


def lines(path: Path) -> list[dict]:
    return store.read_lines(path / "metrics.jsonl", "grad_steps")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return (root, told, artefacts) of four policies over two values, and a cloned one."""
    root, told = tmp_path_factory.mktemp("many"), []
    return root, told, obtain_many(root, SOURCE, [*POLICIES, CLONED], replace(OFTEN, tell=told.append))


def test_many_are_one_by_one(many, tmp_path):
    root, told, made = many
    alone = [obtain(tmp_path, SOURCE, ask, OFTEN) for ask in [*POLICIES, CLONED]]
    assert folders(root) == folders(tmp_path)
    for one, other in zip(made, alone, strict=True):
        assert one.path.name == other.path.name
        close(one.phase, other.phase)
        close(one.frozen, other.frozen)
        assert store.read_json(one.path / "artefact.json") == store.read_json(other.path / "artefact.json")
        for mine, theirs in zip(lines(one.path), lines(other.path), strict=True):
            assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-4)
    values, policies = {v.name for v in map(lambda a: make_recipe(SOURCE, a), VALUES)}, {a.path.name for a in made[:4]}
    steps = lambda names: [e["grad_steps"] for e in told if e["artefact"] in names]  # noqa: E731
    assert steps(values) == [2] * 2 + [4] * 2 + [6] * 2 and steps(policies) == [2] * 4 + [4] * 4 + [6] * 4  # together
    assert float(made[1].phase.learner.alpha) == 1.0 and float(made[2].phase.learner.alpha) == 3.0


def test_what_is_there_is_loaded(many):
    root, _, made = many
    silent = Hooks(tell=lambda event: pytest.fail("trained again"))
    again = obtain_many(root, SOURCE, [*POLICIES[::-1], POLICIES[0]], silent)
    for one, other in zip(again, [*made[:4][::-1], made[0]], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.phase, other.phase)
    alone = obtain(root, SOURCE, POLICIES[2], silent)
    jax.tree.map(np.testing.assert_array_equal, alone.phase, made[2].phase)
    assert obtain_many(root, SOURCE, []) == []


def test_a_kill_loses_nothing_behind_the_last_chunk(many, tmp_path):
    """One of four stands at another step: three go on together, it by itself; the end is that without a kill."""
    _, _, whole = many
    obtain_many(tmp_path, SOURCE, VALUES, OFTEN)
    with pytest.raises(Killed):
        obtain(tmp_path, SOURCE, POLICIES[3], replace(OFTEN, chunk=4, tell=raising(1)))
    with pytest.raises(Killed):
        obtain_many(tmp_path, SOURCE, POLICIES[:3], replace(OFTEN, tell=raising(2)))
    paths = [make_recipe(SOURCE, ask).path(tmp_path) for ask in POLICIES]
    assert [store.checkpoint_steps(path)[0] for path in paths] == [2, 2, 2, 4]  # all were saved before one was told
    assert {store.read_json(path / "status.json")["state"] for path in paths} == {"interrupted"}
    told = []
    ended = obtain_many(tmp_path, SOURCE, POLICIES, replace(OFTEN, tell=told.append))
    assert sorted(e["grad_steps"] for e in told) == [4, 4, 4, 6, 6, 6, 6]
    for one, other in zip(ended, whole, strict=False):
        close(one.phase, other.phase)
        assert [line["grad_steps"] for line in lines(one.path)][-1] == 6
    assert {store.read_json(path / "status.json")["state"] for path in paths} == {"finished"}


def raising(calls: int):
    left = iter(range(calls))

    def tell(event: dict) -> None:
        if next(left, None) == calls - 1:
            raise Killed

    return tell


def test_one_that_diverges_stops_nobody(many, tmp_path):
    """The product of its alpha and an advantage is not finite; the others end as without it."""
    _, _, whole = many
    wild = PolicyAsk(20, AWRConfig(**TINY, alpha=1e38, weight_clip=100.0), VALUES[0])
    made = obtain_many(tmp_path, SOURCE, [POLICIES[0], wild, POLICIES[2]], OFTEN)
    error = made[1]
    assert isinstance(error, store.StoreError) and "is not finite after 2 updates; lower policy.lr" in str(error)
    assert store.read_json(make_recipe(SOURCE, wild).path(tmp_path) / "status.json")["state"] == "failed"
    for one, other in ((made[0], whole[0]), (made[2], whole[2])):
        close(one.phase, other.phase)
    (again,) = obtain_many(tmp_path, SOURCE, [wild], Hooks(tell=lambda event: pytest.fail("tried again")))
    assert isinstance(again, store.StoreError) and "delete the folder" in str(again)


def test_a_policy_has_the_error_of_its_value(tmp_path):
    """One that diverged before: the policies over it are not begun."""
    recipe = make_recipe(SOURCE, VALUES[0])
    path = recipe.path(tmp_path)
    path.mkdir(parents=True)
    begin(recipe, path, {})
    say(path, "failed", "it diverged")
    made = obtain_many(tmp_path, SOURCE, [POLICIES[0], POLICIES[2]], OFTEN)
    assert all(isinstance(one, store.StoreError) and "it diverged" in str(one) for one in made)
    assert not (tmp_path / "policies").exists()


def test_more_than_fit_are_taken_in_turns(many, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "MOST", 3)
    for one, other in zip(obtain_many(tmp_path, SOURCE, POLICIES, OFTEN), many[2], strict=False):
        close(one.phase, other.phase)


def test_two_that_ask_for_overlapping_sets_do_not_wait_in_a_circle(tmp_path):
    told = []
    hooks = replace(OFTEN, tell=told.append)
    sets = [VALUES, VALUES[::-1], VALUES[1:]]
    threads = [threading.Thread(target=obtain_many, args=(tmp_path, SOURCE, asks, hooks)) for asks in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(e["grad_steps"] for e in told) == [2, 2, 4, 4, 6, 6]  # each was trained once


def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="sizes: "):
        obtain_many(tmp_path, SOURCE, [VALUES[0], VALUES[0]._replace(size=61)])
    with pytest.raises(ConfigError, match="chunk: 0"):
        obtain_many(tmp_path, SOURCE, VALUES, Hooks(chunk=0))
    assert not list(tmp_path.iterdir())


def test_a_matrix_side_by_side_is_the_matrix_cell_by_cell(tmp_path):
    path = tmp_path / "data"
    card = pendulum_set(path)
    asked = cells(MatrixConfig((20, 60), (IQL,), (AWR,), (0,), episodes=1), card.sha256, cell_of(card).env)
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    (job,) = jobs(beside, path, asked, together=True)
    assert len(job.names) == len(asked) == 4 and len(jobs(alone, path, asked)) == 2
    assert {state for state, _ in job.work(lambda: False, lambda event: None).values()} == {"finished"}
    for one in jobs(alone, path, asked):
        one.work(lambda: False, lambda event: None)
    assert folders(alone) == folders(beside)
    for cell, trial in trials(alone, asked).items():
        np.testing.assert_allclose(trials(beside, asked)[cell]["returns"], trial["returns"], rtol=1e-3)
    stopped = work(tmp_path / "stopped", path, asked, lambda: True, lambda event: None, together=True)
    assert {state for state, _ in stopped.values()} == {"interrupted"} and not (tmp_path / "stopped").exists()
