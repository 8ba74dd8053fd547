"""What keeps the gradient of actor expansion from exploding: an ablation of the horizon study (claim T6 with and without each).

The learner is `rpg`, which is SAC where its policy is not normalised (bit for bit), so that spectral normalisation is one of the
arms. Rematerialisation (`jax.checkpoint`) is on beyond `windows.KEPT_STEPS` and no arm: it changes memory, not numbers (tested;
`benchmarks/actor_memory.py`).
"""

import math
from dataclasses import replace
from functools import partial

from valex.settings import (
    ActorConfig,
    DiagnosticsConfig,
    EnvConfig,
    EvalConfig,
    RPGConfig,
    RunConfig,
    SpectralConfig,
    TrainConfig,
)
from valex.studies.base import NOT_RUN, Claim, Component, Figure, Panel, Plate, Series
from valex.studies.cells import Grid, arms, envs, horizons, in_words
from valex.studies.horizon_measures import auc_contrast, gradient_explodes, gradient_growth, together
from valex.studies.naming import AE, AE_LEARNED
from valex.studies.series import INTERVAL, horizon_ticks, points, seeds_of

LIMIT, STEPS = 1.0, 5  # largest norm of a gradient or adjoint; model steps that a truncated gradient passes
STABILISERS = {  # what each is called in an arm, in words
    f"{AE} actor.grad_clip={LIMIT}": "Clipping the gradient",
    f"{AE} actor.normalize_grad=True": "Normalising the gradient",
    f"{AE} actor.truncate={STEPS}": f"Backpropagating through {STEPS} steps at most",
    f"{AE} actor.adjoint_clip={LIMIT}": "Clipping the adjoint",
    f"{AE} agent.spectral.layers=paper": "Spectral normalisation of the policy",
}
HORIZONS = (1, 3, 10, 20)  # of smooth tasks
SHORT = (1, 3)  # of a task with contacts: the source sees an explosion at 3, and every program takes minutes to compile
PARAM_STD, SAMPLE_STD = ("actor/grad_param_std", 1.0), ("grad/actor_sample_variance", 0.5)  # metric, power of a std
SPREADS = {
    "across samples": SAMPLE_STD,
    "over parameters, as optimised": PARAM_STD,
}
TENFOLD = 1.0  # log10: the weakest reading of "orders of magnitude" and of "explodes"


def stabilised(base: RunConfig, h: int) -> list[RunConfig]:
    """Return actor expansion at horizon h without a stabiliser, then with each."""
    agent, plain = base.agent, ActorConfig(h)
    assert isinstance(agent, RPGConfig)  # no other learner has a policy that can be normalised
    own = (
        plain,
        replace(plain, grad_clip=LIMIT),
        replace(plain, normalize_grad=True),
        replace(plain, truncate=STEPS),
        replace(plain, adjoint_clip=LIMIT),
    )
    normalised = replace(base, agent=replace(agent, spectral=SpectralConfig("paper")), actor=plain)
    return [*(replace(base, actor=actor) for actor in own), normalised]


def quick_base(env: str) -> RunConfig:
    """Return the learner along no model as two CPU cores train it in seconds."""
    return RunConfig(
        env=EnvConfig(env),
        agent=RPGConfig(hidden=(64, 64), actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3),
        train=TrainConfig(env_steps=3_000, batch_size=128),
        eval=EvalConfig(every=500, value_bias_states=0, grad_samples=32),
        gamma=0.95,
    )


def contact_base() -> RunConfig:
    """Return the same on halfcheetah, whose feet hit the ground: few and small updates, for every step of it is dear."""
    base = quick_base("halfcheetah")
    return replace(
        base,
        train=TrainConfig(env_steps=640, warmup_steps=256, batch_size=32),
        eval=replace(base.eval, every=128, episodes=2, grad_samples=16),
        diagnostics=DiagnosticsConfig(target_states=16, target_particles=8),
    )


def cells(base: RunConfig, horizons: tuple[int, ...] = HORIZONS) -> list[RunConfig]:
    """Return no expansion, then five stabilisers and none at every horizon, without seeds.

    Truncation is left out where no horizon is long enough for it to cut anything.
    """
    found = [base, *(run for h in horizons for run in stabilised(base, h))]
    return found if max(horizons) > STEPS else [run for run in found if not run.actor.truncate]


def threshold_text(where: str, found: dict[str, Series | None]) -> list[str]:
    """Return from which horizon on the whole interval of an arm lies above tenfold, in words; [] for none."""
    words = []
    for name, series in found.items():
        above = [] if series is None or series.low is None else series.x[series.low > TENFOLD]
        words += [f"{where}: {name}, from H = {min(above):g}"] if len(above) else []
    return words


def explosion(grid: Grid) -> Plate:
    """Return the growth of both spreads of the gradient with the horizon, one line per arm of actor expansion."""
    panels, left_out, thresholds = [], [], []
    names = [a for a in arms(grid) if a.split(" ")[0] in (AE, AE_LEARNED)]
    for env in envs(grid):
        for title, spread in SPREADS.items():
            found = {}
            for arm in (a for a in names if a in arms(grid, env)):
                grown = {h: gradient_growth(grid, env, spread, arm, h) for h in horizons(grid, env, arm) if h > 1}
                columns = {h: growth.values[0] for h, growth in grown.items() if not isinstance(growth, str)}
                found[in_words(grid, arm)] = points(in_words(grid, arm), arm, columns)
            series = [s for s in found.values() if s]
            if not series:
                left_out.append(
                    f"growth of the gradient, {env}, {title}: no arm of actor expansion at H = 1 and beyond"
                )
                continue
            thresholds += threshold_text(f"{env}, {title}", found)
            rules, ylabel = ((TENFOLD, "tenfold"),), "log10 of the std at H over that at H = 1"
            axes = f"{env} · std {title}", "horizon H (model steps)", ylabel
            panels.append(Panel(*axes, series, "horizon", horizon_ticks(series), False, rules))
    note = (
        f"Means of log10 over training. Point: IQM over {seeds_of(panels)} of ratios paired by seed; bar: {INTERVAL}. "
        f"Whole interval above tenfold: {'; '.join(thresholds) or 'nowhere'}."
    )
    return Plate(panels, 2, note, left_out)


EXPLOSION = Figure(
    "gradient_growth",
    "Growth of the actor's gradient with the horizon",
    "How many decades the spread of actor expansion's gradient grows from H = 1 on, with and without what is meant to stop "
    "it. Left: across samples, of gradients that are neither clipped nor normalised. Right: over the parameter entries of the "
    "gradient that the optimiser gets, which is what the literature plots.",
    explosion,
)


def at_the_longest(grid: Grid, env: str, arm: str) -> list[Component] | str:
    """Return log10 of the across-sample std at the longest horizon of an arm over that at H = 1."""
    longest = max(horizons(grid, env, arm), default=0)
    return gradient_explodes(grid, env, SAMPLE_STD, arm, max(longest, 3))


def pays_at_the_longest(grid: Grid, env: str, arm: str) -> list[Component] | str:
    """Return AUC(arm) - AUC(without a stabiliser) at the longest horizon that both were trained with."""
    longest = max(set(horizons(grid, env, arm)) & set(horizons(grid, env, AE)), default=0)
    if longest < 1:
        return f"{NOT_RUN}: {in_words(grid, arm)} beside {in_words(grid, AE)}"
    weights = {(arm, longest): 1.0, (AE, longest): -1.0}
    return together([auc_contrast(grid, env, "AUC(with) − AUC(without), longest H", weights, f"H = {longest}")])


SOURCE, LEARNERS = "ours [D]", ("rpg",)
UNIT = "log10 ratio of the across-sample std, longest H to H = 1, mean over training"
STABILISER_CLAIMS = (
    Claim(
        "T6d", "Without a stabiliser the gradient of actor expansion explodes here too.", SOURCE, UNIT, (TENFOLD, math.inf),
        partial(at_the_longest, arm=AE), agents=LEARNERS,
    ),
    *(
        Claim(f"T6{letter}", f"{words} keeps it from exploding.", SOURCE, UNIT, (-math.inf, TENFOLD),
              partial(at_the_longest, arm=arm), agents=LEARNERS)
        for letter, (arm, words) in zip("efghi", STABILISERS.items(), strict=True)
    ),
    *(
        Claim(f"T6{letter}", f"{words} pays at a long horizon.", SOURCE,
              "AUC(with) − AUC(without) at the longest H, paired, in return ranges of the environment", (0.0, math.inf),
              partial(pays_at_the_longest, arm=arm), agents=LEARNERS)
        for letter, (arm, words) in zip("klmno", STABILISERS.items(), strict=True)
    ),
)  # fmt: skip
