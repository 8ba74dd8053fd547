"""Reparameterisation policy gradients: plain against spectral normalisation, DP against DR, over horizons (2310.19927)."""

from collections.abc import Iterable
from dataclasses import replace

from valex.config import PRESETS
from valex.settings import DiagnosticsConfig, EnvConfig, EvalConfig, RPGConfig, RunConfig, TrainConfig
from valex.studies.base import Claim, Study, over_seeds
from valex.studies.return_figures import RETURN_FIGURES
from valex.studies.rp_figures import RP_FIGURES
from valex.studies.rp_measures import (
    best_horizon_follows_errors,
    normalisation_costs_bias,
    normalisation_helps_long,
    normalisation_reduces_variance,
    variance_grows,
)

MEASURED = (1, 3, 5, 10, 15)  # horizons of a diagnosis
DIAGNOSED = 5  # horizon of the agents that are diagnosed
SMOOTH = ("linear_quadratic", "pendulum", "cartpole", "inverted_double_pendulum")


def arms(base: RunConfig, dp: Iterable[int], dr: Iterable[int], measured: tuple[int, ...]) -> list[RunConfig]:
    """Return RP(0), RP-DP with and without spectral normalisation at horizons `dp`, RP-DR at horizons `dr`.

    Agents of RP-DP at h = 5 (or the longest, where that is shorter) are diagnosed at the horizons `measured`.
    """
    spectral = PRESETS["rpg-sn"].model.spectral
    assert isinstance(base.agent, RPGConfig)  # no other learner has a policy that can be normalised
    agent = replace(base.agent, spectral=spectral)
    normalised = replace(base, agent=agent, model=replace(base.model, spectral=spectral))
    dp = tuple(dp)
    chosen = DIAGNOSED if DIAGNOSED in dp else max(dp)
    found = [base]
    for one in (base, normalised):
        for h in dp:
            diagnostics = DiagnosticsConfig(gradient_horizons=measured if h == chosen else ())
            found.append(replace(one, actor=replace(one.actor, horizon=h), diagnostics=diagnostics))
    return found + [replace(base, actor=replace(base.actor, horizon=h, gradient="dr")) for h in dr]


def quick_base(env: str, env_steps: int) -> RunConfig:
    """Return RP(0) as two CPU cores train it in seconds."""
    preset = PRESETS["rpg"]
    return replace(
        preset,
        env=EnvConfig(env),
        agent=RPGConfig(hidden=(64, 64), actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3),
        actor=replace(preset.actor, horizon=0),
        model=replace(preset.model, hidden=(64, 64), steps_per_env_step=0.25),
        train=TrainConfig(env_steps=env_steps),
        eval=EvalConfig(every=500, value_bias_states=0, grad_samples=0),
        gamma=0.95,
    )


def smoke() -> list[RunConfig]:
    """Return the least that passes through every part: 2 seeds, h in {0, 1}. Settles no claim."""
    base = quick_base("linear_quadratic", 600)
    base = replace(
        base,
        agent=replace(base.agent, hidden=(16, 16)),
        model=replace(base.model, hidden=(16,), pretrain_steps=50),
        train=replace(base.train, warmup_steps=256, batch_size=64),
        eval=replace(base.eval, every=150, episodes=4),
    )
    runs = over_seeds(arms(base, (1,), (1,), ()), (1, 2))
    first = next(run for run in runs if run.actor.horizon)  # one of them is diagnosed
    return [replace(r, diagnostics=DiagnosticsConfig(gradient_horizons=(1,))) if r is first else r for r in runs]


def quick() -> list[RunConfig]:
    """Return the study for two CPU cores: three smooth tasks, 2 x 64 nets, 5 seeds."""
    bases = [quick_base("linear_quadratic", 1_500), quick_base("pendulum", 4_000), quick_base("cartpole", 4_000)]
    return over_seeds([run for base in bases for run in arms(base, (1, 5, 10), (5,), MEASURED)], (1, 2, 3, 4, 5))


PAPER_TASKS = {  # (environment, physics) -> control steps; generalized where that lets the bias be measured
    ("inverted_double_pendulum", "generalized"): 100_000,
    ("hopper", "generalized"): 500_000,
    ("walker2d", "spring"): 1_000_000,
    ("halfcheetah", "spring"): 1_000_000,
    ("ant", "spring"): 1_000_000,
}
NON_SMOOTH = ("hopper", "walker2d", "halfcheetah", "ant")  # they touch the ground
PAPER_HORIZONS = (1, 2, 3, 5, 8, 10, 15)


def paper_base(env: EnvConfig, env_steps: int) -> RunConfig:
    """Return RP(0) with the nets and step sizes of the release; its warm-up along no model is 10,000 updates, or none."""
    preset, warmup = PRESETS["rpg"], 0 if env.name == "inverted_double_pendulum" else 10_000
    return replace(
        preset,
        env=env,
        agent=RPGConfig(
            hidden=(512,) * 4, actor_lr=1e-4, critic_lr=1e-4, alpha_lr=1e-4, init_alpha=0.1, model_free_updates=warmup
        ),
        actor=replace(preset.actor, horizon=0),
        model=replace(
            preset.model, hidden=(256,) * 6, batch_size=512, steps_per_env_step=4.0, grad_clip=1.0, loss_steps=2
        ),
        train=TrainConfig(env_steps=env_steps, warmup_steps=1_024, batch_size=1_024),
        eval=EvalConfig(every=5_000, episodes=10),
        gamma=0.99,
    )


def paper() -> list[RunConfig]:
    """Return the grid at the release's scale on its tasks, as Brax has them today, 10 seeds; bias where obs tell the state."""
    bases = [paper_base(EnvConfig(*task), steps) for task, steps in PAPER_TASKS.items()]
    return over_seeds([run for base in bases for run in arms(base, PAPER_HORIZONS, (3,), MEASURED)], range(1, 11))


CLAIMS = (
    Claim(
        "RP1",
        "Without spectral normalisation the variance of the gradient grows exponentially with the unroll length.",
        "2310.19927 [S]; test [D]",
        "growth of log tr Cov with h on agents of RP-DP, and what of it no power of h explains",
        (0.0, float("inf")),
        variance_grows,
    ),
    Claim(
        "RP2",
        "Spectral normalisation reduces the variance of the gradient.",
        "2310.19927 [A]; test [D]",
        "log10 of the variance of normalised agents over that of plain ones, paired seeds",
        (-float("inf"), 0.0),
        normalisation_reduces_variance,
    ),
    Claim(
        "RP3",
        "On smooth dynamics spectral normalisation costs little bias.",
        "2310.19927 [M]; margin [D]",
        "difference of bias² / |g|² between normalised and plain agents, paired seeds",
        (-float("inf"), 0.1),
        normalisation_costs_bias,
        envs=SMOOTH,
    ),
    Claim(
        "RP3b",
        "On non-smooth dynamics it costs more than that.",
        "2310.19927 [M]; margin [D]",
        "difference of bias² / |g|² between normalised and plain agents, paired seeds",
        (0.1, float("inf")),
        normalisation_costs_bias,
        envs=NON_SMOOTH,
    ),
    Claim(
        "RP4",
        "The best unroll length grows with the critic's error relative to the model's.",
        "2310.19927 [S] (proposition 5.7); test [D]",
        "rank correlation over agents of the horizon of least relative MSE with eps_v / (eps_f + eps_v)",
        (0.0, float("inf")),
        best_horizon_follows_errors,
    ),
    Claim(
        "RP5",
        "With long unrolls spectral normalisation pays in return.",
        "2310.19927 [M]; test [D]",
        "AUC(normalised) − AUC(plain) at the longest horizon, paired, in return ranges of the environment",
        (0.0, float("inf")),
        normalisation_helps_long,
    ),
)

REMARKS = (
    "No number of any figure of the source is known to us; its claims are tested on our tasks. Diagnoses are of final agents "
    "trained at h = 5, at every horizon with the same policy, critic and model: the training length of the model does not change "
    "with h, as it does in the release.",
    "Non-smooth tasks, where the source expects normalisation to cost more bias, are in the preset paper. Only hopper has a "
    "simulator that can be set to an observation (backend generalized); of the others' bias nothing is measured.",
)

RP_GRADIENTS = Study(
    name="rp-gradients",
    title="What limits a policy gradient through a model?",
    summary=(
        "A soft actor-critic whose actor climbs its value along h steps of a learned model: backpropagated through predictions "
        "(RP-DP), along stored segments (RP-DR), with and without spectral normalisation of policy and model; h = 0 is SAC. "
        "Final agents are taken apart: variance, bias and where it comes from, on simulators that can be differentiated."
    ),
    presets={"smoke": smoke, "quick": quick, "paper": paper},
    figures=(*RETURN_FIGURES[:3], *RP_FIGURES),
    claims=CLAIMS,
    remarks=REMARKS,
)
