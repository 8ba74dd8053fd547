"""Does value expansion want a better model? A learned ensemble (MVE) against the oracle (OVE), and models of a chosen error.

Source: "Revisiting Model-based Value Expansion" (arXiv 2203.14660), the precursor of 2412.20537: learned against oracle, H in
{1, 3, 5, 10, 20, 30}, 5 seeds. Ours is the dial: at one horizon the oracle is made wrong by a chosen amount (noise or a constant
bias at each step), and the ensemble learns from the first steps only, so that the return can be drawn against model error.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from valex.settings import DiagnosticsConfig, ModelConfig, RunConfig
from valex.studies.base import Study, over_seeds
from valex.studies.horizon import (
    PAPER_HORIZONS,
    PAPER_SEEDS,
    QUICK_SEEDS,
    at_horizon,
    grid,
    paper_bases,
    quick_base,
    smoke_base,
)
from valex.studies.naming import CE, MVE
from valex.studies.trust_claims import CLAIMS, REMARKS
from valex.studies.trust_figures import FIGURES


class Dial(NamedTuple):
    """Models of a chosen error, all at one horizon."""

    horizon: int
    noise: tuple[float, ...]  # of a noisy oracle, in typical one-step changes of the state; 0 is the oracle itself
    bias: tuple[float, ...]  # likewise
    data: tuple[int, ...]  # control steps that the ensemble learns from


NOISE, BIAS = (0.03, 0.1, 0.3, 1.0), (0.1, 0.3)
ERROR_STEPS = 30  # model steps over which the error of a model is measured


def turned(base: RunConfig, dial: Dial, seeds: Iterable[int]) -> list[RunConfig]:
    """Return critic expansion with each model of a dial."""
    oracle, learned = (at_horizon(base, arm, dial.horizon) for arm in (CE, MVE))
    wrong = [ModelConfig("noisy_oracle", noise=x) for x in dial.noise]
    wrong += [ModelConfig("noisy_oracle", bias=x) for x in dial.bias]
    found = [replace(oracle, model=model) for model in wrong]
    found += [replace(learned, model=replace(base.model, data_limit=steps)) for steps in dial.data]
    return over_seeds(found, seeds)


def trust_grid(base: RunConfig, horizons: tuple[int, ...], dial: Dial, seeds: tuple[int, ...]) -> list[RunConfig]:
    """Return both models at all horizons and the dial; the error of every model is measured at the dial's horizon."""
    runs = grid(base, {CE: horizons, MVE: horizons}, seeds, ()) + turned(base, dial, seeds)
    measured = {run: ERROR_STEPS if run.critic.horizon == dial.horizon else 0 for run in runs}
    return [replace(run, diagnostics=DiagnosticsConfig(model_error_steps=steps)) for run, steps in measured.items()]


def smoke() -> list[RunConfig]:
    """Return the least that passes through every part: 2 seeds, H in {0, 1}, one model of each kind. Settles no claim."""
    return trust_grid(smoke_base(), (0, 1), Dial(1, (0.3,), (0.3,), (300,)), (1, 2))


def quick() -> list[RunConfig]:
    """Return the study for two CPU cores: pendulum, 2 x 64 nets, 5 seeds; 13 cells against H, 8 of the dial at H = 5."""
    return trust_grid(quick_base(), PAPER_HORIZONS, Dial(5, NOISE, BIAS, (512, 2_000)), QUICK_SEEDS)


def paper() -> list[RunConfig]:
    """Return the same over the published environments with the published nets: 5 environments x (13 + 8) cells x 9 seeds.

    The ensemble of the dial learns from the random warm-up only, and from four times as many steps.
    """
    runs = []
    for base in paper_bases():
        warmup = base.train.warmup_steps
        runs += trust_grid(base, PAPER_HORIZONS, Dial(5, NOISE, BIAS, (warmup, 4 * warmup)), PAPER_SEEDS)
    return runs


TRUST_YOUR_MODEL = Study(
    name="trust-your-model",
    title="Does value expansion want a better model?",
    summary=(
        "Soft actor-critic with critic expansion, by a learned ensemble (MVE) and by the oracle (OVE), over horizons; and at one "
        "horizon by models of a chosen error: an oracle with noise or bias, and an ensemble that learns from little data. "
        "Return is drawn against the measured error of the model."
    ),
    presets={"smoke": smoke, "quick": quick, "paper": paper},
    figures=FIGURES,
    claims=CLAIMS,
    remarks=REMARKS,
)
