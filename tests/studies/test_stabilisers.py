"""The ablation of what keeps actor expansion's gradient from exploding: its grid, its claims to every verdict, its figure."""

from collections import Counter

import pytest
import synthetic
from synthetic import World

from valex.checks import check
from valex.config import canonical, run_id
from valex.settings import RPGConfig
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED, with_learners
from valex.studies.cells import arms, horizons, make_grid
from valex.studies.horizon import HORIZON, measured, quick_contacts, quick_stabilisers
from valex.studies.judge import judge
from valex.studies.naming import AE
from valex.studies.stabilisers import HORIZONS, STABILISER_CLAIMS, STABILISERS, cells, explosion, quick_base

KEEPS, PAYS = STABILISER_CLAIMS[1:6], STABILISER_CLAIMS[6:]


def world_grid(seeds=(1, 2, 3, 4, 5, 6), **world):
    return make_grid(
        [synthetic.run(World(**world), c) for c in measured(cells(quick_base("pendulum")), seeds, HORIZONS)]
    )


def explodes(h):
    return 1e-3 * 2.0**h


def verdict(claim, grid):
    return judge(claim, grid)[0].verdict


def test_the_grid_has_every_stabiliser_at_every_horizon():
    runs = quick_stabilisers()
    assert len({run_id(c) for c in runs}) == len(runs) == 2 * 5 * (1 + 4 * 6)
    assert all(check(c) and isinstance(c.agent, RPGConfig) for c in runs)
    changed = Counter(
        (c.actor.grad_clip, c.actor.normalize_grad, c.actor.truncate, c.actor.adjoint_clip, c.agent.spectral.layers)
        for c in runs
        if canonical(c).actor.horizon
    )
    assert set(changed.values()) == {2 * 5 * 4} and len(changed) == 6
    assert all(sum(a != b for a, b in zip(one, (None, False, 0, None, "none"), strict=True)) <= 1 for one in changed)


def test_the_task_with_contacts_has_the_same_arms_but_truncation_that_would_cut_nothing():
    runs = quick_contacts()
    assert len({run_id(c) for c in runs}) == len(runs) == 5 * (1 + 2 * 5) and all(check(c) for c in runs)
    assert not any(c.actor.truncate for c in runs)
    assert {c.env.name for c in runs} == {"halfcheetah"} and {c.actor.horizon for c in runs} == {0, 1, 3}


def test_another_learner_has_no_normalised_policy():
    runs = with_learners(HORIZON, "quick-stabilisers", ["sac"])
    assert len({run_id(c) for c in runs}) == len(runs) == 2 * 5 * (1 + 4 * 5)


def test_every_arm_is_known_by_its_key():
    grid = world_grid(seeds=(1, 2))
    assert set(arms(grid)) == {AE, *STABILISERS} and not grid.left_out
    assert all(horizons(grid, "pendulum", arm) == [0, *HORIZONS] for arm in arms(grid))


def test_an_explosion_is_seen_and_so_is_its_absence():
    exploding, flat, few = world_grid(gradient=explodes), world_grid(), world_grid(seeds=(1, 2), gradient=explodes)
    assert verdict(STABILISER_CLAIMS[0], exploding) == SUPPORTED
    assert verdict(STABILISER_CLAIMS[0], flat) == NOT_SUPPORTED
    assert verdict(STABILISER_CLAIMS[0], few) == UNDECIDED
    for claim in KEEPS:
        assert verdict(claim, exploding) == NOT_SUPPORTED and verdict(claim, flat) == SUPPORTED, claim.id


@pytest.mark.parametrize("arm", STABILISERS)
def test_a_stabiliser_pays_where_its_returns_are_higher(arm):
    claim = dict(zip(STABILISERS, PAYS, strict=True))[arm]
    better = world_grid(level=lambda name, h: -200.0 if name == arm else -600.0)
    worse = world_grid(level=lambda name, h: -900.0 if name == arm else -600.0)
    assert verdict(claim, better) == SUPPORTED and verdict(claim, worse) == NOT_SUPPORTED


def test_the_figure_says_from_where_on_it_explodes():
    plate = explosion(world_grid(gradient=explodes))
    assert len(plate.panels) == 2 and all(len(panel.series) == 6 for panel in plate.panels)
    assert "pendulum, across samples: actor expansion (AE), from H = 10" in plate.note
    assert "above tenfold: nowhere." in explosion(world_grid()).note and not explosion(world_grid(seeds=(1,))).left_out
    assert any(figure.plate is explosion for figure in HORIZON.figures)
