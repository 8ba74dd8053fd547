"""How are horizons best combined? One horizon against mean, minimum, TD(lambda) and STEVE, and what stabilises a rollout.

Source: A. Botev, "Investigating Model Based RL for Continuous Control", talk, 2018: a single model was not enough, losses over
several model steps were needed, expansion had to go beyond one or two steps, and the minimum over horizons beat the average on
harder tasks. Lineage: Feinberg et al. 2018 (MVE, TD-k), Buckman et al. 2018 (STEVE).

The hard task is `ball`: after 4,500 control steps the quick preset's ensemble, trained at H = 3 (seed 1), errs in one step by
0.065 standard deviations of the observation and explains 66 % of the variance of its changes (mean over numbers and members); on
`cartpole` by 0.015 (97.9 %), on the easy task `pendulum` by 0.005 (99.92 %). The command: docs/results/combine_horizons.md.
"""

from collections.abc import Mapping
from dataclasses import replace

from valex.settings import CriticConfig, ModelConfig, RunConfig
from valex.studies.base import Study, over_seeds
from valex.studies.combine_claims import CLAIMS, HARD, REMARKS
from valex.studies.combine_figures import FIGURES
from valex.studies.horizon import PAPER_SEEDS, QUICK_SEEDS, paper_bases, quick_base, smoke_base

DISAGREEMENT = 0.2  # typical one-step changes; seldom reached on pendulum, by about half of the steps on ball
LOSS_STEPS = 4
ONE, SINGLE, MULTI_STEP, UNCERTAIN = "one", "single", "multi-step", "uncertain"
RULES = {  # what the critic does, at whichever horizon
    ONE: CriticConfig("h_step", "model"),
    "mean": CriticConfig("mean", "model"),
    "min": CriticConfig("min", "model"),
    "lambda25": CriticConfig("td_lambda", "model", lam=0.25),
    "lambda75": CriticConfig("td_lambda", "model", lam=0.75),
    "steve": CriticConfig("steve", "model", critic_agg="mean", member_agg="mean"),
    "td_k": CriticConfig("h_step", "model", td_k=True),
}
LEARNED_RULES = RULES | {
    UNCERTAIN: CriticConfig("h_step", "model", max_disagreement=DISAGREEMENT),
    SINGLE: RULES[ONE],
    MULTI_STEP: RULES[ONE],
}
Arms = Mapping[str, tuple[int, ...]]  # rule to its horizons


def baselines(base: RunConfig) -> list[RunConfig]:
    """Return SAC at H = 0, and with the mean of its critics in place of their minimum, which is what STEVE bootstraps with."""
    plain = replace(base, model=ModelConfig())
    return [plain, replace(plain, critic=CriticConfig(critic_agg="mean"))]


def on_oracle(base: RunConfig, arms: Arms) -> list[RunConfig]:
    """Return arms with the oracle."""
    plain = replace(base, model=ModelConfig())
    return [replace(plain, critic=replace(RULES[name], horizon=h)) for name, hs in arms.items() for h in hs]


def on_ensemble(base: RunConfig, arms: Arms) -> list[RunConfig]:
    """Return arms with the learned model of `base`, or with a single net or a longer loss where that is the arm."""
    models = {
        SINGLE: replace(base.model, num_models=1),
        MULTI_STEP: replace(base.model, loss_steps=LOSS_STEPS),
    }
    return [
        replace(base, critic=replace(LEARNED_RULES[name], horizon=h), model=models.get(name, base.model))
        for name, hs in arms.items()
        for h in hs
    ]


def smoke() -> list[RunConfig]:
    """Return the least that passes through every part: 2 seeds, H = 1, one arm of each kind. Settles no claim."""
    base = smoke_base()
    oracle = on_oracle(base, {ONE: (1,), "min": (1,)})
    learned = on_ensemble(base, {ONE: (1,), "steve": (1,), UNCERTAIN: (1,), SINGLE: (1,)})
    return over_seeds([*baselines(base), *oracle, *learned], (1, 2))


QUICK_MODEL = ModelConfig("ensemble", hidden=(64, 64), steps_per_env_step=0.25)
QUICK_STEPS = 6_000
EASY = "pendulum"


def quick() -> list[RunConfig]:
    """Return the study for two CPU cores: every arm on an easy task, those that the claims need on a harder one; 5 seeds.

    On the harder one there are, to save time, no H = 2 and 5, no lambda = 0.25 and no TD-k, and with the oracle one horizon,
    mean and minimum only.
    """
    runs = []
    for env in (EASY, HARD):
        base = replace(quick_base(env), model=QUICK_MODEL)
        base = replace(base, train=replace(base.train, env_steps=QUICK_STEPS))
        easy = env == EASY
        ones: Arms = {ONE: (1, 2, 3, 5)} if easy else {ONE: (1, 3)}
        fewer = ("mean", "min", "lambda25", "lambda75", "steve", "td_k") if easy else ("mean", "min")
        more = ("mean", "min", "lambda75", "steve", UNCERTAIN, SINGLE, MULTI_STEP)
        more = (*more, "lambda25", "td_k") if easy else more
        oracle = on_oracle(base, {**ones, **dict.fromkeys(fewer, (3,))})
        learned = on_ensemble(base, {**ones, **dict.fromkeys(more, (3,))})
        runs += over_seeds([*baselines(base), *oracle, *learned], QUICK_SEEDS)
    return runs


def paper() -> list[RunConfig]:
    """Return every arm in the environments of the horizon study with its nets: 5 x (2 + 16 + 22) cells x 9 seeds.

    Rules are run at H = 3 and H = 5, a single horizon at 1, 2, 3 and 5.
    """
    runs = []
    for base in paper_bases():
        oracle: Arms = {name: (3, 5) for name in RULES} | {ONE: (1, 2, 3, 5)}
        learned: Arms = {name: (3, 5) for name in LEARNED_RULES} | {ONE: (1, 2, 3, 5)}
        runs += over_seeds([*baselines(base), *on_oracle(base, oracle), *on_ensemble(base, learned)], PAPER_SEEDS)
    return runs


COMBINE_HORIZONS = Study(
    name="combine-horizons",
    title="How are horizons best combined?",
    summary=(
        "Soft actor-critic with targets that look up to H model steps ahead: at one horizon, or at the mean, the minimum, a "
        "TD(λ) or a STEVE average over all of them; with the oracle and with a learned model, an ensemble or a single net, on a "
        "task whose model is easy to learn and on one where it is harder."
    ),
    presets={"smoke": smoke, "quick": quick, "paper": paper},
    figures=FIGURES,
    claims=CLAIMS,
    remarks=REMARKS,
)
