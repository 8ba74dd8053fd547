"""Trials of policies that are improved while they are tried: OPEX, test-time training, and both over a value that is wrong."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from benches import cell_of, cheap_programs, pendulum_set  # noqa: F401

from valex import trials
from valex.artefacts import Hooks, obtain
from valex.fields import ConfigError
from valex.matrix import work
from valex.settings.offline import OPEXConfig, PerturbationConfig, TTTConfig
from valex.trials import asks, bench_of, cell_name, improved, try_cell

STILL = Hooks(tell=lambda event: pytest.fail("trained again"))


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    """Return (root, path, card) of a dataset of our pendulum."""
    root = tmp_path_factory.mktemp("pendulum")
    return root, root / "data", pendulum_set(root / "data")


def test_opex_is_tried_with_the_same_artefacts(pendulum):
    root, path, card = pendulum
    cell = cell_of(card)
    plain, better = (
        try_cell(root, path, c, Hooks())
        for c in (cell, replace(cell, test_time=OPEXConfig(beta=0.3, scale="grad_norm")))
    )
    assert plain["artefacts"] == better["artefacts"] and plain["returns"] != better["returns"]
    none = try_cell(root, path, replace(cell, test_time=OPEXConfig(steps=0)), Hooks())
    np.testing.assert_allclose(none["returns"], plain["returns"], rtol=1e-5)


def ttt(pendulum, **changes):
    root, path, card = pendulum
    how = TTTConfig(**{"batch_size": 8, "capacity": 64, "max_updates": 15, "lr": 1e-2} | changes)
    return try_cell(root, path, cell_of(card, test_time=how), Hooks())


def test_ttt_moves_the_policy_within_its_budget(pendulum):
    root, path, card = pendulum
    plain = try_cell(root, path, cell_of(card), Hooks())
    for still in ({"max_updates": 0}, {"updates_per_step": 0}):
        np.testing.assert_allclose(ttt(pendulum, **still)["returns"], plain["returns"], rtol=1e-6)
    moved = ttt(pendulum)
    assert moved["artefacts"] == plain["artefacts"]
    assert np.abs(np.subtract(moved["returns"], plain["returns"])).max() > 1e-4
    assert ttt(pendulum, dataset_share=0.5)["returns"] != moved["returns"]


def test_ttt_reads_no_reward(pendulum, monkeypatch):
    """Rewards that are not numbers, of the arena and of the dataset, change nothing."""
    root, path, card = pendulum
    cell = cell_of(card, test_time=TTTConfig(batch_size=8, capacity=64, max_updates=12, dataset_share=0.5))
    bench = bench_of(path, cell)
    artefact = obtain(root, bench.source, asks(cell), Hooks())

    def poisoned(count):
        field = bench.arena.build(count)
        return field._replace(step=lambda a, going: field.step(a, going)._replace(reward=np.full(count, np.nan)))

    nan = bench.source.data._replace(reward=np.nan * bench.source.data.reward)
    blind = bench._replace(arena=bench.arena._replace(build=poisoned))
    monkeypatch.setattr(trials, "rows_of", lambda policy, data, *rest, real=trials.rows_of: real(policy, nan, *rest))
    obs = np.asarray(bench.raw.obs[:20])
    acts = [improved(root, b, artefact, cell, Hooks()) for b in (bench, blind)]
    np.testing.assert_array_equal(acts[0](obs, ()), acts[1](obs, ()))


def test_ttt_learns_from_the_states_it_acted_in(pendulum, monkeypatch):
    """Whatever the encoding: what is remembered is what was seen, not where the lanes went."""
    root, path, card = pendulum
    cell = cell_of(card, encoding="none", test_time=TTTConfig(batch_size=8, capacity=64, max_updates=14))
    bench = bench_of(path, cell)
    visited, acted, make = [], [], trials.make_ttt

    def spied(*arguments):
        ttt = make(*arguments)

        def step(state, key, seen, *rest):
            jax.debug.callback(lambda x: visited.append(np.array(x)), seen.obs)
            return ttt.step(state, key, seen, *rest)

        return ttt._replace(step=step)

    monkeypatch.setattr(trials, "make_ttt", spied)
    real = trials.Lanes.step
    monkeypatch.setattr(trials.Lanes, "step", lambda self, a: (acted.append(self.obs.copy()), real(self, a))[1])
    improved(root, bench, obtain(root, bench.source, asks(cell), Hooks()), cell, Hooks())(bench.raw.obs[:1], ())
    jax.effects_barrier()
    assert len(visited) == len(acted) == 14
    np.testing.assert_allclose(visited, acted, rtol=1e-6)


def test_an_error_put_on_the_value_is_climbed_and_a_size_of_0_is_none(pendulum):
    root, path, card = pendulum
    cell = cell_of(card, test_time=OPEXConfig(beta=0.3, scale="grad_norm"))
    wrong = lambda size, seed=0: replace(cell, perturbation=PerturbationConfig(size, seed))  # noqa: E731
    assert cell_name(wrong(0.0, 5)) == cell_name(cell)
    assert len({cell_name(cell), cell_name(wrong(1.0)), cell_name(wrong(2.0)), cell_name(wrong(1.0, 1))}) == 4
    plain, moved = try_cell(root, path, cell, Hooks()), try_cell(root, path, wrong(5.0), STILL)
    assert moved["artefacts"] == plain["artefacts"] and moved["returns"] != plain["returns"]  # nothing is trained on it
    with pytest.raises(ConfigError, match=r"perturbation\.size: nothing climbs the value"):
        try_cell(root, path, replace(wrong(1.0), test_time=None), Hooks())
    with pytest.raises(ConfigError, match=r"perturbation\.size: -1\.0 is outside"):
        try_cell(root, path, wrong(-1.0), Hooks())


def test_test_time_training_climbs_the_error_too(pendulum):
    how = TTTConfig(batch_size=8, capacity=64, max_updates=15, lr=1e-2)
    root, path, card = pendulum
    cell = cell_of(card, test_time=how)
    moved = try_cell(root, path, replace(cell, perturbation=PerturbationConfig(5.0)), Hooks())
    assert moved["returns"] != try_cell(root, path, cell, Hooks())["returns"]


def test_training_at_test_time_can_be_stopped_and_can_diverge(pendulum, monkeypatch):
    root, path, card = pendulum
    monkeypatch.setattr(trials, "TOLD", 5)
    how, told = TTTConfig(batch_size=8, capacity=64, max_updates=13, lr=1e-2, beta=0.5), []
    try_cell(root, path, cell_of(card, test_time=how, episodes=2), Hooks(tell=told.append))
    assert [(e["grad_steps"], e["total"]) for e in told if e["total"] == 13] == [(5, 13), (10, 13)]
    wild = cell_of(card, test_time=replace(how, lr=1e30, max_updates=60))
    ((state, message),) = work(root, path, [wild], lambda: False, lambda event: None).values()
    assert state == "failed" and "action is not finite; lower test_time.lr or test_time.beta" in message
