"""A matrix: its cells, its jobs, what ends how, and its numbers as arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest
from benches import AWR, BC, DDPG, FIT, IQL, cell_of, cheap_programs, pendulum_set  # noqa: F401

from valex import store
from valex.artefacts import Hooks
from valex.matrix import block, jobs, trials, values_of, work
from valex.progress import Progress
from valex.settings.bottleneck import MatrixConfig, cells
from valex.settings.offline import OPEXConfig, SARSAConfig, SfBCConfig, TTTConfig
from valex.trials import cell_name, trial_path, try_cell
from valex.workers import Stop, Summary, do_here


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Return (path, card) of a dataset."""
    path = tmp_path_factory.mktemp("bench") / "data"
    return path, pendulum_set(path)


never, quiet = lambda: False, lambda event: None  # noqa: E731
SFBC = SfBCConfig(**FIT, flow_steps=2, samples=2)


# -------------------------------------------------------------------------------------------------------------------- cells


def test_cells_are_every_combination_once():
    config = MatrixConfig((10, 20), (IQL, SARSAConfig(**FIT)), (AWR, DDPG, SFBC, BC), (0, 1), test_times=(
        OPEXConfig(), TTTConfig()))  # fmt: skip
    found = cells(config, "sha", "env")
    assert len(set(found)) == len(found) == 2 * (2 + 2 * (2 * 3 * 2 + 2 * 2 + 1))
    cloned = [c for c in found if c.policy.name == "bc"]
    assert [(c.value, c.value_size, c.policy_size) for c in cloned] == [(None, 0, 10), (None, 0, 20)] * 2
    tested = [c for c in found if c.test_time]
    assert {(c.value_size, c.policy_size) for c in tested} == {(20, 20)}
    assert {(c.policy.name, c.test_time.name) for c in tested if c.test_time} == {
        ("awr", "opex"), ("awr", "ttt"), ("ddpg_bc", "opex"), ("ddpg_bc", "ttt"), ("sfbc", "opex")}  # fmt: skip


def test_jobs_hold_what_is_left_and_share_a_value(bench, tmp_path):
    path, card = bench
    asked = cells(MatrixConfig((20, 60), (IQL,), (DDPG, BC), (0, 1), episodes=2), card.sha256, cell_of(card).env)
    found = jobs(tmp_path, path, asked)
    assert len(found) == 2 * (1 + 2)  # for each seed: cloning, and either value
    assert sorted(name for job in found for name in job.names) == sorted(map(cell_name, asked))
    assert len({job.shape for job in found}) == 2
    place = trial_path(tmp_path, asked[0])
    place.parent.mkdir(parents=True)
    store.write_json(place, {"score": 1.0})
    left = [name for job in jobs(tmp_path, path, asked) for name in job.names]
    assert len(left) == len(asked) - 1 and cell_name(asked[0]) not in left


# ----------------------------------------------------------------------------------------------------------- how cells end


def test_what_diverges_fails_and_the_others_go_on(bench, tmp_path):
    path, card = bench
    lost, fine = cell_of(card, policy=replace(AWR, lr=1e30)), cell_of(card, policy=AWR)
    refused = cell_of(card, policy_size=10**6)
    told: list[dict] = []
    ended = work(tmp_path, path, [lost, refused, fine], never, told.append)
    assert [ended[cell_name(c)][0] for c in (lost, refused, fine)] == ["failed", "failed", "finished"]
    assert "is not finite after 20 updates; lower policy.lr" in ended[cell_name(lost)][1]
    assert (
        store.read_json(tmp_path / "trials/failed" / f"{cell_name(lost)}.json")["message"] == ended[cell_name(lost)][1]
    )
    assert [event["run"] for event in told] == [cell_name(c) for c in (lost, refused, fine)]
    assert list(trials(tmp_path, [lost, refused, fine])) == [fine]
    again = work(tmp_path, path, [lost], never, quiet)
    assert again[cell_name(lost)][0] == "failed"  # known at once, not trained again


def test_a_failure_is_forgotten_once_the_cell_succeeds(bench, tmp_path):
    path, card = bench
    cell = cell_of(card, policy=AWR)
    assert work(tmp_path, path / "gone", [cell], never, quiet)[cell_name(cell)][0] == "failed"
    assert work(tmp_path, path, [cell], never, quiet) == {cell_name(cell): ("finished", "")}
    assert not list((tmp_path / "trials/failed").iterdir())


def test_a_stop_in_the_middle_of_a_cell_resumes_to_the_same_trial(bench, tmp_path):
    """The signal comes while the value is trained: its chunk is saved, the cells behind it do not begin."""
    path, card = bench
    group = [cell_of(card), cell_of(card, policy=AWR)]
    calls = iter(range(100))
    ended = work(tmp_path / "stopped", path, group, lambda: next(calls) >= 1, quiet)
    assert [state for state, _ in ended.values()] == ["interrupted"] * 2
    (value,) = (tmp_path / "stopped/values").iterdir()
    assert store.read_json(value / "status.json")["state"] == "interrupted" and store.checkpoint_steps(value) == [20]
    assert not trials(tmp_path / "stopped", group)
    assert all(state == "finished" for state, _ in work(tmp_path / "stopped", path, group, never, quiet).values())
    whole = [try_cell(tmp_path / "whole", path, cell, Hooks()) for cell in group]
    assert list(trials(tmp_path / "stopped", group).values()) == whole


def test_jobs_run_here_and_their_summary_has_an_exit_code(bench, tmp_path, capsys):
    path, card = bench
    asked = [cell_of(card, policy=AWR), cell_of(card, policy=replace(AWR, lr=1e30))]
    summary = Summary()
    with Progress("matrix", 2, quiet=False) as progress, Stop() as stop:
        do_here(jobs(tmp_path, path, asked), progress, stop, summary)
    assert sorted(summary.states.values()) == ["failed", "finished"] and summary.exit_code() == 3
    assert capsys.readouterr().err.count("\n") == 2


# ------------------------------------------------------------------------------------------------------------------- arrays


def test_numbers_of_cells_as_arrays():
    """A made-up matrix whose score is 100 seed + 10 value size + policy size; one cell has not been tried."""
    config = MatrixConfig((1, 2, 3), (IQL,), (DDPG, BC), (0, 4))
    asked = cells(config, "sha", json.dumps({"id": "pendulum"}))
    value = lambda c: 100 * c.seed + 10 * c.value_size + c.policy_size  # noqa: E731
    found = {c: {"score": value(c), "measures": {"error/eval": -value(c)}} for c in asked}
    like = next(c for c in asked if c.value)
    missing = replace(like, value_size=3, policy_size=1, seed=4)
    del found[missing]
    table = block(found, like, (1, 2, 3), (0, 4))
    assert table.shape == (2, 3, 3) and table[1, 0, 2] == 413.0 and np.isnan(table[1, 2, 0])
    np.testing.assert_array_equal(block(found, like, (1, 2, 3), (0, 4), "error/eval"), -table)
    cloned = block(found, next(c for c in asked if not c.value), (1, 2, 3), (0,))
    assert (cloned == [[1, 2, 3]] * 3).all()  # the same whatever a value would have seen
    assert np.isnan(values_of(found, [like], "error/none")).all()
