"""The study of reparameterisation gradients on synthetic runs: its grid, every claim to every verdict, every figure."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from synthetic import World

from valex.checks import check
from valex.config import run_id
from valex.diagnostics.laboratory import QUANTITIES, SINGLE, TRUE
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.cells import arms as arms_of, horizons, make_grid
from valex.studies.judge import judge
from valex.studies.rp_gradients import MEASURED, RP_GRADIENTS, arms, paper, quick, quick_base, smoke
from valex.studies.rp_measures import arm_of, diagnosed, kind

TASK = "linear_quadratic"


def diagnosis(rng, growth: float, sn: bool, shift: float, bias: float, follows: float) -> dict:
    """A stored diagnosis whose log variance grows by `growth` per step; normalised ones are `shift` decades and `bias` off."""
    h = np.array(MEASURED, float)
    jitter = rng.normal(0, 0.02, len(h))
    trace = np.exp(growth * h + jitter) * 10.0 ** (shift * sn)
    relative = 0.5 + bias * sn + rng.normal(0, 0.01, len(h))
    names = ("dp", *SINGLE, TRUE)
    row = lambda values: {"value": list(values), "low": list(0.9 * values), "high": list(1.1 * values)}  # noqa: E731
    values = {"trace": trace, "relative_bias": relative}
    table = {q: {name: row(values.get(q, np.ones(len(h)))) for name in names} for q in QUANTITIES}
    scale = rng.uniform(1.0, 20.0)
    best = (
        min(MEASURED, key=lambda m: abs(m - (scale if follows > 0 else 21.0 - scale)))
        if follows
        else rng.choice(MEASURED)
    )
    surface = np.add.outer(np.linspace(-1, 1, 5) ** 2, np.linspace(-1, 1, 5) ** 2)
    return {
        "horizons": list(MEASURED),
        "quantities": table,
        "recommendation": {"horizon": int(best)},
        "derivatives": {"scale": {"value": scale, "low": scale, "high": scale}},
        "landscape": {"surface": surface.tolist(), "span": 1.0},
    }


def world_grid(seeds=range(1, 8), growth=0.3, shift=-1.0, bias=0.0, follows=1.0, level=None, env=TASK):
    world, runs = World(level=level or (lambda name, h: -200.0)), []
    base = quick_base(env, 1_500)
    for config in [replace(c, seed=s) for c in arms(base, (1, 5, 10), (5,), MEASURED) for s in seeds]:
        run = synthetic.run(world, config)
        if config.diagnostics.gradient_horizons:
            sn = kind(run)[1]
            rng = np.random.default_rng(config.seed + 100 * sn)
            run.diagnostics["gradients"] = diagnosis(rng, growth, sn, shift, bias, follows)
        runs.append(run)
    return make_grid(runs)


def verdict(claim_id, **world):
    claim = next(c for c in RP_GRADIENTS.claims if c.id == claim_id)
    return judge(claim, world_grid(**world))[0].verdict


def test_the_grid_has_every_arm_and_diagnoses_agents_of_one_horizon():
    for preset, tasks, seeds in ((quick, 3, 5), (paper, 5, 10)):
        runs = preset()
        assert len({run_id(c) for c in runs}) == len(runs) == len(runs) // (tasks * seeds) * tasks * seeds
        assert all(check(c) for c in runs)
        measured = [c for c in runs if c.diagnostics.gradient_horizons]
        assert len(measured) == 2 * tasks * seeds and {c.actor.horizon for c in measured} == {5}
        kinds = {(c.actor.gradient, c.agent.spectral.layers != "none") for c in runs if c.actor.horizon}
        assert kinds == {("dp", False), ("dp", True), ("dr", False)}
    assert len(quick()) == 3 * 5 * (1 + 3 + 3 + 1) and len(smoke()) == 2 * 4


def test_arms_are_told_apart_and_named():
    grid = world_grid(seeds=(1, 2))
    plain, normalised, segments = (arm_of(grid, TASK, *k) for k in (("dp", False), ("dp", True), ("dr", False)))
    assert len({plain, normalised, segments}) == 3 == len(arms_of(grid)) and not grid.left_out
    assert horizons(grid, TASK, plain) == [0, 1, 5, 10] and horizons(grid, TASK, segments) == [0, 5]
    assert len(diagnosed(grid, TASK, True)) == 2
    assert arm_of(grid, TASK, "lr") is None and diagnosed(grid, "pendulum", True) == {}


@pytest.mark.parametrize(
    ("claim", "yes", "no"),
    [
        ("RP1", {"growth": 0.3}, {"growth": -0.3}),
        ("RP2", {"shift": -1.0}, {"shift": 1.0}),
        ("RP3", {"bias": 0.0}, {"bias": 0.5}),
        ("RP3b", {"bias": 0.5, "env": "hopper"}, {"bias": 0.0, "env": "hopper"}),
        ("RP4", {"follows": 1.0}, {"follows": -1.0}),
        ("RP5", {"level": lambda name, h: -200.0 if "spectral" in name else -600.0},
                {"level": lambda name, h: -600.0 if "spectral" in name else -200.0}),
    ],
)  # fmt: skip
def test_every_claim_reaches_every_verdict(claim, yes, no):
    assert verdict(claim, **yes) == SUPPORTED
    assert verdict(claim, **no) == NOT_SUPPORTED
    assert verdict(claim, seeds=(1, 2), **yes) == UNDECIDED


def test_a_power_law_is_not_taken_for_an_exponential():
    """tr = h^4 grows, but slower and slower: the second quantity is 0 and the claim is not supported by growth alone."""
    grid = world_grid()
    for found in diagnosed(grid, TASK, False).values():
        table = found.diagnostics["gradients"]["quantities"]["trace"]["dp"]
        noise = np.random.default_rng(found.config.seed).normal(0, 0.1, len(MEASURED))
        table["value"] = list(np.array(MEASURED, float) ** 4 * np.exp(noise))
    claim = next(c for c in RP_GRADIENTS.claims if c.id == "RP1")
    assert judge(claim, grid)[0].verdict != SUPPORTED


def test_what_was_not_measured_is_said():
    grid = world_grid()
    for cell in grid.cells.values():
        for run in cell.finished.values():
            run.diagnostics.pop("gradients", None)
    for claim in (c for c in RP_GRADIENTS.claims if c.id in ("RP1", "RP2", "RP3", "RP4")):
        found = judge(claim, grid)[0]
        assert found.verdict == UNDECIDED and found.reason.startswith("not measured")


def test_every_figure_draws():
    grid = world_grid()
    for figure in RP_GRADIENTS.figures:
        plate = figure.plate(grid)
        assert plate.panels and all(panel.series for panel in plate.panels), figure.name
