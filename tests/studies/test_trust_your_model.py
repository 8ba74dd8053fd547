"""The study trust-your-model on synthetic runs: presets, the dial, figures, and every claim to every verdict."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import World

from valex.config import horizon, run_id
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.cells import arms, make_grid
from valex.studies.horizon import PAPER_HORIZONS, quick_base, quick_learned as horizon_learned
from valex.studies.judge import judge
from valex.studies.naming import TRAINING, arm
from valex.studies.results import as_text, results
from valex.studies.trust_claims import dial_arms, error_by_steps, one_step_error
from valex.studies.trust_your_model import BIAS, NOISE, TRUST_YOUR_MODEL, Dial, paper, quick, trust_grid

SEEDS = (1, 2, 3, 4, 5, 6)
DIAL = Dial(5, NOISE, BIAS, (512, 2_000))
ORDER = ["ce", *(f"ce model.name=noisy_oracle model.noise={x}" for x in NOISE)]


def configs(seeds=SEEDS, dial=DIAL, horizons=PAPER_HORIZONS, env="pendulum"):
    return trust_grid(quick_base(env), horizons, dial, seeds)


def world_grid(world=None, **which):
    return make_grid([synthetic.run(world or World(), config) for config in configs(**which)])


def verdict(claim_id, world, **which):
    return synthetic.judged(TRUST_YOUR_MODEL, claim_id, world_grid(world, **which))


@pytest.mark.parametrize("name", TRUST_YOUR_MODEL.presets)
def test_model_error_is_measured_at_one_horizon(name):
    measured = {horizon(c) for c in TRUST_YOUR_MODEL.presets[name]() if c.diagnostics.model_error_steps}
    assert measured == {1 if name == "smoke" else 5}


def test_counts_of_the_grids():
    cells = Counter((arm(c, TRAINING), horizon(c)) for c in quick())
    assert set(cells.values()) == {5} and len(quick()) == 5 * (1 + 2 * 6 + 4 + 2 + 2)
    assert {h for name, h in cells if name == "mve"} == set(PAPER_HORIZONS) - {0}
    assert {h for name, h in cells if "=" in name} == {5}
    assert len(paper()) == 5 * (13 + 8) * 9


def test_runs_that_the_horizon_study_has_are_the_same_ones():
    ours, theirs = ({run_id(c) for c in preset() if horizon(c) <= 10} for preset in (quick, horizon_learned))
    assert len(ours & theirs) == 5 * (1 + 4 + 4)


def test_the_dial_is_found_in_the_order_of_its_sizes():
    here, dials = dial_arms(world_grid(seeds=(1,)), "pendulum")
    assert here == 5 and dials["noise"] == ORDER
    assert dials["bias"] == ["ce", *(f"ce model.name=noisy_oracle model.bias={x}" for x in BIAS)]
    assert dials["data"] == [*(f"mve model.data_limit={n}" for n in (512, 2000)), "mve"]
    assert dial_arms(make_grid([synthetic.run(World(), horizon_learned()[0])]), "pendulum") == (0, {})


def test_arms_stand_in_the_order_of_their_numbers():
    found = arms(world_grid(seeds=(1,)))
    noise, data = ([name for name in found if mark in name] for mark in ("model.noise=", "model.data_limit="))
    assert found[:2] == ["ce", "mve"]
    assert noise == ORDER[1:] and data == [f"mve model.data_limit={n}" for n in (512, 2000)]


def test_model_errors_are_those_measured_as_rollouts_go():
    made = synthetic.run(World(model_error=lambda name, k: 0.1 * k), next(c for c in configs() if "mve" in arm(c)))
    assert not len(error_by_steps(made)) and np.isnan(one_step_error(made))  # not measured at H = 1
    at_dial = next(c for c in configs() if arm(c, TRAINING) == "mve" and horizon(c) == 5)
    made = synthetic.run(World(model_error=lambda name, k: 0.1 * k), at_dial)
    errors = error_by_steps(made)
    assert len(errors) == 30 and errors[-1] / errors[0] == pytest.approx(30.0)
    assert one_step_error(made) == errors[0]


def test_the_oracle_is_named_beside_the_learned_model():
    text = as_text(results(world_grid(seeds=(1, 2), horizons=(0, 1))))
    assert "critic expansion, oracle (OVE)" in text and "critic expansion, learned (MVE)" in text
    assert "noisy oracle, noise 0.03" in text and "first 512 steps only" in text


# claims: every one to every verdict


def levels(oracle, learned=None, dial=None):
    """Return level(arm, H): tables H -> return of both models, and a function of the arm of a dial; -200 elsewhere."""

    def level(name, h):
        if name == "base":
            return oracle.get(0, -200.0)
        if "model." in name:
            return dial(name) if dial else -200.0
        return (oracle if learned is None or "mve" not in name else learned).get(h, -200.0)

    return level


def noisy(world=None, noise=300.0):
    return replace(world or World(), noise=noise)


RISES = {0: -600.0, 1: -400.0, 3: -300.0, 5: -280.0, 10: -270.0}
FALLS = {0: -200.0, 1: -300.0, 3: -400.0, 5: -600.0, 10: -700.0}
LOSES = {10: -500.0, 20: -600.0, 30: -700.0}
LOSES_EARLY = {h: -500.0 for h in (1, 3, 5)}


def falling(name):
    """Return a return that falls with the model error of the arm."""
    return -200.0 - 4_000.0 * synthetic.one_step(name)


def rising(name):
    return -500.0 + 2_000.0 * synthetic.one_step(name)


WORST = levels({5: -190.0}, {5: -220.0}, falling)
BEST = levels({5: -500.0}, {5: -490.0}, rising)
CASES = [
    ("T12a", World(level=levels(RISES)), World(level=levels(FALLS)), noisy()),
    ("T12b", World(level=levels(RISES)), World(level=levels(FALLS)), noisy()),
    ("T12c", World(level=levels({}, LOSES)), World(level=levels(LOSES, {})), noisy()),
    ("T12d", World(level=levels({}, LOSES)), World(level=levels({}, LOSES_EARLY)), noisy()),
    ("T1d", World(), World(level=levels({}, LOSES_EARLY)), noisy()),
    ("T10", World(), World(model_error=lambda name, k: 0.1 / k), World(model_error=lambda name, k: 0.1)),
    ("T12e", World(level=WORST), World(level=BEST), noisy()),
]


@pytest.mark.parametrize("claim, yes, no, open_", CASES, ids=[case[0] for case in CASES])
def test_claims_reach_every_verdict(claim, yes, no, open_):
    assert verdict(claim, yes).verdict == SUPPORTED
    assert verdict(claim, no).verdict == NOT_SUPPORTED
    assert verdict(claim, open_).verdict == UNDECIDED
    assert synthetic.undecided_for_few(verdict(claim, yes, seeds=(1, 2, 3, 4)))


def test_every_claim_has_a_case():
    assert [case[0] for case in CASES] == [claim.id for claim in TRUST_YOUR_MODEL.claims]


def test_absent_models_are_undecided_with_the_reason():
    grid = make_grid([synthetic.run(World(), c) for c in configs() if "mve" not in arm(c) and "noisy" not in arm(c)])
    reasons = {v.claim: v.reason for claim in TRUST_YOUR_MODEL.claims for v in judge(claim, grid)}
    assert reasons["T12c"] == "not run in this preset: critic expansion, learned (MVE) at H = 10"
    assert reasons["T12d"].startswith("not run in this preset") and reasons["T12e"].endswith("a noisy oracle")
    assert reasons["T10"].startswith("not measured")


def test_a_model_error_that_was_not_measured_is_said():
    runs = [synthetic.run(World(), c)._replace(diagnostics={}) for c in configs()]
    reasons = {v.claim: v.reason for claim in TRUST_YOUR_MODEL.claims for v in judge(claim, make_grid(runs))}
    assert reasons["T12e"].startswith("not measured") and reasons["T10"].startswith("not measured")


# figures


def test_every_figure_draws_panels_that_hold_data():
    grid = world_grid(World(failed=frozenset({("mve", 3, 2)})))
    for figure in TRUST_YOUR_MODEL.figures:
        plate = figure.plate(grid)
        assert plate.panels and not plate.left_out, figure.name
        for panel in plate.panels:
            assert panel.series and panel.xlabel and panel.ylabel
            assert all(len(s.x) == len(s.y) > 0 and np.all(np.isfinite(s.y)) for s in panel.series)
        assert "n = " in plate.note


def test_figures_without_data_are_left_out_with_the_reason():
    grid = make_grid([synthetic.run(World(), c)._replace(diagnostics={}) for c in configs(dial=Dial(5, (), (), ()))])
    plates = {figure.name: figure.plate(grid) for figure in TRUST_YOUR_MODEL.figures}
    for name in ("return_against_error", "error_growth"):
        assert not plates[name].panels and plates[name].left_out, name
    assert plates["learning_curves"].panels


def plate_of(name, grid):
    return next(figure for figure in TRUST_YOUR_MODEL.figures if figure.name == name).plate(grid)


def test_the_gap_is_paired_and_return_is_drawn_against_the_measured_error():
    steady = World(level=levels({10: -200.0}, {10: -300.0}, falling), noise=0.0)
    grid = world_grid(steady)
    final = next(s for s in plate_of("oracle_gap", grid).panels[0].series if s.label == "final return")
    at_ten = dict(zip(final.x, final.y, strict=True))[10.0]
    assert 90.0 < at_ten < 100.0  # the curves have not quite converged
    noise = plate_of("return_against_error", grid).panels[0].series[0]
    assert noise.x == pytest.approx([0.1 * x for x in NOISE], rel=0.05) and np.all(np.diff(noise.y) < 0)
    assert len(plate_of("return_against_error", grid).panels[0].rules) == 2  # the oracle has no place on a log axis


def test_mean_and_variance_over_seeds_stand_beside_the_iqm():
    grid = world_grid(noisy())
    iqm, mean, variance = (panel.series[0] for panel in plate_of("seed_statistics", grid).panels[:3])
    assert np.all(variance.y > 0) and not np.allclose(iqm.y, mean.y)
    np.testing.assert_allclose((mean.high - mean.y) ** 2, variance.y)
