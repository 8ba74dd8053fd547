"""The study combine-horizons on synthetic runs: presets, rows, figures, and every claim to every verdict."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import World

from valex.config import horizon
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.cells import arms, horizons, make_grid, scores
from valex.studies.combine_claims import HARD, MULTI_STEP, SINGLE
from valex.studies.combine_figures import places
from valex.studies.combine_horizons import COMBINE_HORIZONS, EASY, paper, quick
from valex.studies.judge import POOLED, judge
from valex.studies.naming import TRAINING, arm
from valex.studies.results import results


def configs(seeds=(1, 2, 3, 4, 5, 6), env=None):
    cells = [config for config in quick() if config.seed == 1 and env in (None, config.env.name)]
    return [replace(config, seed=seed) for config in cells for seed in seeds]


def world_grid(world=None, **which):
    return make_grid([synthetic.run(world or World(), config) for config in configs(**which)])


def verdict(claim_id, world, env=HARD, **which):
    return synthetic.judged(COMBINE_HORIZONS, claim_id, world_grid(world, env=env, **which))


def test_counts_of_the_grids():
    cells = Counter((c.env.name, arm(c, TRAINING), horizon(c)) for c in quick())
    assert set(cells.values()) == {5}
    assert Counter(env for env, _, _ in cells) == {EASY: 2 + 10 + 13, HARD: 2 + 4 + 9}
    rules = {name for env, name, h in cells if env == EASY and h == 3}
    assert {f"mve{rule}" for rule in ("", "_mean", "_min", "_steve")} | {SINGLE, MULTI_STEP} <= rules
    assert not [name for _, name, _ in cells if "ce" in name and "max_disagreement" in name]
    assert len(paper()) == 5 * (2 + 16 + 22) * 9


def test_the_mean_of_critics_is_an_arm_of_its_own_at_horizon_zero():
    level = lambda name, h: -300.0 if "critic_agg" in name and not h else -200.0  # noqa: E731
    grid = world_grid(World(level=level), env=EASY)
    name = "base critic.critic_agg=mean"
    assert name in arms(grid) and horizons(grid, EASY, name) == [0]
    assert len(scores(grid, EASY, name, 0)) == len(scores(grid, EASY, "mve_min", 0)) == 6
    assert max(scores(grid, EASY, name, 0).values()) < min(scores(grid, EASY, "mve_min", 0).values())
    rows = [(row.arm, row.horizon) for row in results(grid)]
    assert len(rows) == len(set(rows)) and (name, 0) in rows and ("base", 0) in rows


def test_a_rule_has_one_row_for_both_models():
    rows = list(places(world_grid(env=EASY, seeds=(1,)), EASY).values())
    assert rows == [
        "no expansion",
        "no expansion, mean of critics",
        *(f"H = {h}" for h in (1, 2, 3, 5)),
        "mean over horizons",
        "min over horizons",
        "TD(λ), λ = 0.25",
        "TD(λ), λ = 0.75",
        "STEVE",
        "uncertainty-terminated (0.2)",
        "TD-k",
        "4-step loss",
        "single model",
    ]


# claims: every one to every verdict


def levels(**by_arm):
    """Return level(arm, H): a return for an arm, or by its horizon; -200 elsewhere."""
    names = {"single": SINGLE, "multi": MULTI_STEP, "ce": "ce", "mve": "mve", "min_": "mve_min"}
    table = {names[key]: value for key, value in by_arm.items()}

    def level(name, h):
        found = table.get(name, -200.0)
        return found.get(h, -200.0) if isinstance(found, dict) else found

    return level


def world(**by_arm):
    return World(level=levels(**by_arm))


NOISY = World(noise=300.0)
LOW = World(bias=lambda name, h: -20.0 if name.endswith("_min") else 2.0)
HIGH = World(bias=lambda name, h: 20.0 if name.endswith("_min") else 2.0)
MIXED = World(bias=lambda name, h: -20.0 if name == "mve_min" else 2.0)
CASES = [
    ("C6", world(single=-400.0), world(single=-100.0), NOISY),
    ("C7", world(multi=-100.0), world(multi=-400.0), NOISY),
    ("C8", world(mve={1: -400.0}), world(mve={3: -400.0}), replace(world(mve={1: -400.0}), noise=300.0)),
    ("C8o", world(ce={1: -400.0}), world(ce={3: -400.0}), NOISY),
    ("C9", world(min_=-100.0), world(min_=-400.0), NOISY),
    ("C9b", LOW, HIGH, MIXED),
]


@pytest.mark.parametrize("claim, yes, no, open_", CASES, ids=[case[0] for case in CASES])
def test_claims_reach_every_verdict(claim, yes, no, open_):
    assert verdict(claim, yes).verdict == SUPPORTED
    assert verdict(claim, no).verdict == NOT_SUPPORTED
    assert verdict(claim, open_).verdict == UNDECIDED
    assert synthetic.undecided_for_few(verdict(claim, yes, seeds=(1, 2, 3, 4)))


def test_every_claim_has_a_case():
    assert [case[0] for case in CASES] == [claim.id for claim in COMBINE_HORIZONS.claims]


def test_the_minimum_is_judged_on_harder_tasks_only_and_the_rest_everywhere():
    grid = world_grid(LOW)
    found = {claim.id: [v.env for v in judge(claim, grid)] for claim in COMBINE_HORIZONS.claims}
    assert found.pop("C9") == [HARD]
    assert all(set(where) == {EASY, HARD, POOLED} for where in found.values())
    easy = judge(next(c for c in COMBINE_HORIZONS.claims if c.id == "C9"), world_grid(env=EASY))
    assert easy[0].verdict == UNDECIDED and easy[0].reason.startswith("not run in this preset")


def test_bias_is_judged_with_the_models_that_ran_both_rules():
    runs = [synthetic.run(LOW, c) for c in configs(env=HARD) if "ce" not in arm(c)]
    claim = COMBINE_HORIZONS.claims[-1]
    assert judge(claim, make_grid(runs))[0].verdict == SUPPORTED
    none = [r for r in runs if "_min" not in r.path.name]
    assert judge(claim, make_grid(none))[0].reason.startswith("not run in this preset: min over horizons, learned")


# figures


def test_every_figure_draws_panels_that_hold_data():
    grid = world_grid(World(failed=frozenset({("mve", 3, 2)})))
    for figure in COMBINE_HORIZONS.figures:
        plate = figure.plate(grid)
        assert plate.panels, figure.name
        missing = ["learning curves, ball, oracle: none of these was run"] if figure.name == "curves_variants" else []
        assert plate.left_out == missing, figure.name
        for panel in plate.panels:
            assert panel.series and panel.ylabel
            assert all(len(s.x) == len(s.y) > 0 and np.all(np.isfinite(s.y)) for s in panel.series)
        assert "n = " in plate.note


def test_rows_of_a_figure_are_the_rules_that_have_the_quantity():
    plates = {figure.name: figure.plate(world_grid(env=EASY, seeds=(1, 2))) for figure in COMBINE_HORIZONS.figures}
    used = plates["horizon_used"].panels[0]
    assert [name for _, name in used.x_ticks] == ["min over horizons", "STEVE", "uncertainty-terminated (0.2)"]
    assert [s.label for s in used.series] == ["oracle", "learned"]
    returns = plates["returns"].panels[0]
    assert [s.label for s in returns.series] == ["no model", "oracle", "learned"] and len(returns.x_ticks) == 15


def test_learning_curves_show_one_horizon():
    plates = {figure.name: figure.plate(world_grid(env=EASY, seeds=(1, 2))) for figure in COMBINE_HORIZONS.figures}
    labels = [s.label for s in plates["curves_rules"].panels[0].series]
    assert labels[:2] == ["no expansion (H = 0)", "H = 3"] and "STEVE" in labels and "single model" not in labels
    labels = [s.label for s in plates["curves_variants"].panels[0].series]
    assert {"single model", "4-step loss", "TD-k"} <= set(labels) and "STEVE" not in labels
