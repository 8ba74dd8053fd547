"""The study of discrete actions on synthetic runs: presets, scores normalised over games, every claim to every verdict."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import World

from valex.config import expansion, horizon, run_id
from valex.statistics import iqm
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.cells import envs, make_grid
from valex.studies.discrete_horizon import (
    DISCRETE_HORIZON,
    QUICK_ARMS,
    QUICK_GAMES,
    RANDOM_RETURNS,
    base,
    normalised,
    over_games,
    paper,
    quick,
    scale,
)
from valex.studies.horizon import grid as make_configs

HORIZONS = (0, 1, 3, 5, 10)
ARMS = ("ce", "mve", "retrace")
ONE = "mve model.num_models=1"  # the learned model of the preset


def world_grid(world, games=("minatar-breakout",), seeds=(1, 2, 3, 4, 5, 6)):
    cells = dict.fromkeys(ARMS, HORIZONS)
    configs = [c for game in games for c in make_configs(base(game, 12_000, 1_000, 1e-3), cells, seeds, ())]
    return make_grid([synthetic.run(world, config) for config in configs])


def verdict(claim, world, **which):
    return synthetic.judged(DISCRETE_HORIZON, claim, world_grid(world, **which))


def by_horizon(values, *arms):
    """A world in which some arms and H = 0 end at `values` by horizon, the others at -200."""
    table = dict(zip(HORIZONS, values, strict=True))
    return World(level=lambda name, h: table[h] if name in (*arms, "base") else -200.0)


RISING, LATE = (-600, -400, -300, -280, -270), (-600, -590, -500, -100, -100)
FLAT = World()
NOISY = replace(FLAT, noise=300.0)
CASES = [
    ("T11a", by_horizon((-400, -300, -250, -240, -240), "ce"), by_horizon((-200, -300, -350, -400, -400), "ce")),
    ("T11b", by_horizon(RISING, "ce"), by_horizon(LATE, "ce")),
    ("T11c", by_horizon(RISING, "ce"), by_horizon((-600, -600, -600, -600, -200), "ce")),
    ("T11d", FLAT, World(level=lambda name, h: -500.0 if name == ONE else -200.0)),
    ("T11e", by_horizon(RISING, ONE), by_horizon(LATE, ONE)),
    ("T11f", FLAT, World(level=lambda name, h: -500.0 if name == "retrace" else -200.0)),
]


@pytest.mark.parametrize("claim, yes, no", CASES, ids=[case[0] for case in CASES])
def test_claims_reach_every_verdict(claim, yes, no):
    assert verdict(claim, yes).verdict == SUPPORTED
    assert verdict(claim, no).verdict == NOT_SUPPORTED
    assert verdict(claim, NOISY).verdict == UNDECIDED
    assert synthetic.undecided_for_few(verdict(claim, yes, seeds=(1, 2, 3, 4)))


def test_every_claim_has_a_case():
    assert [claim.id for claim in DISCRETE_HORIZON.claims] == [case[0] for case in CASES]


def test_counts_of_the_grids():
    found = Counter((c.env.name, expansion(c), horizon(c)) for c in quick())
    cells = 1 + sum(map(len, QUICK_ARMS.values()))
    assert len(found) == cells * len(QUICK_GAMES) and set(found.values()) == {5}
    declared = paper()
    assert {c.env.name for c in declared} == set(RANDOM_RETURNS)
    assert len(declared) == 5 * (1 + 3 * 4) * 9
    learned = [c for c in declared if expansion(c) == "mve"]
    assert learned and {(c.model.name, c.model.termination) for c in learned} == {("grid", "learned")}


def test_scores_lie_between_the_random_policy_and_the_best_cell():
    """Two games whose returns differ a hundredfold count alike."""
    world = World(level=lambda name, h: 100.0 if (name, h) == ("ce", 3) else 50.0, noise=0.1)
    games = ("minatar-breakout", "minatar-space_invaders")
    grid = world_grid(world, games=games)
    assert envs(grid) == list(games)
    for env in games:
        low, high = scale(grid, env)
        assert low == RANDOM_RETURNS[env][0] and high == pytest.approx(100.0, abs=5.0)
    from valex.studies.cells import final

    best, other = normalised(grid, "ce", 3, final), normalised(grid, "retrace", 5, final)
    assert len(best) == len(other) == 2
    assert float(iqm(np.concatenate(best))) == pytest.approx(1.0, abs=0.01)
    assert float(iqm(np.concatenate(other))) == pytest.approx(0.5, abs=0.05)
    plate = over_games(grid)
    assert [panel.title for panel in plate.panels] == ["2 games · area under the curve", "2 games · final return"]
    series = {s.colour: s for s in plate.panels[1].series}
    assert set(series) == {"ce", ONE, "retrace"} and list(series["ce"].x) == list(HORIZONS)
    assert series["ce"].y[2] == pytest.approx(1.0, abs=0.01) and np.all(series["ce"].low <= series["ce"].y)


def test_a_game_that_nobody_learns_has_no_scale():
    grid = world_grid(World(level=lambda name, h: -1000.0))
    assert "beats the random policy" in scale(grid, "minatar-breakout")
    plate = over_games(grid)
    assert not plate.panels and plate.left_out


def test_a_cell_that_a_game_lacks_is_no_point():
    both = world_grid(World(level=lambda name, h: 50.0), games=("minatar-breakout", "minatar-freeway"))
    cells = {key: cell for key, cell in both.cells.items() if key != ("minatar-freeway", "ce", 10)}
    series = {s.colour: s for s in over_games(both._replace(cells=cells)).panels[0].series}
    assert list(series["ce"].x) == [0, 1, 3, 5] and list(series["retrace"].x) == list(HORIZONS)


def test_the_quick_runs_are_part_of_the_longer_study():
    """What quick has trained is not trained again, and every claim of the longer study has the cells that it needs."""
    short, long = ({run_id(c) for c in DISCRETE_HORIZON.presets[name]()} for name in ("quick", "quick-learned"))
    assert short < long and (len(short), len(long)) == (100, 120)
