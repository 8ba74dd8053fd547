"""Does a longer rollout horizon pay? Critic expansion, actor expansion and Retrace over a grid of horizons and seeds.

Source of the published grid: "Diminishing Return of Value Expansion Methods" (arXiv 2412.20537) as released with its
ICLR version; see docs/equations.md for the targets. H counts model steps; H = 0 is plain SAC, one cell for all arms.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from valex.config import PRESETS
from valex.settings import (
    DDPGConfig,
    DiagnosticsConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    SACConfig,
    TrainConfig,
)
from valex.studies import stabilisers
from valex.studies.base import Study
from valex.studies.horizon_claims import CLAIMS, REMARKS
from valex.studies.horizon_diagnostics import DIAGNOSTIC_FIGURES
from valex.studies.naming import AE, AE_LEARNED, CE, MVE, ORACLE_OF, RETRACE
from valex.studies.return_figures import RETURN_FIGURES
from valex.studies.stabilisers import EXPLOSION


def at_horizon(base: RunConfig, arm: str, h: int) -> RunConfig:
    """Return `base` with the critic and actor of an arm at horizon h >= 1; learned arms keep its model, others the oracle."""
    oracle = ORACLE_OF.get(arm, arm)
    preset = PRESETS[f"sac-{oracle}"]  # whose critic and actor every learner shares
    base = base if arm in ORACLE_OF else replace(base, model=ModelConfig())
    if oracle == AE:
        return replace(base, actor=replace(preset.actor, horizon=h))
    return replace(base, critic=replace(preset.critic, horizon=h))


def grid(
    base: RunConfig, arms: Mapping[str, tuple[int, ...]], seeds: tuple[int, ...], targets: tuple[int, ...]
) -> list[RunConfig]:
    """Return H = 0 once, then every arm at its horizons, each over all seeds.

    Targets at the horizons `targets` are measured on the final agents of H = 0, one per seed; the split of an update
    is timed on the first seed of each cell. Neither changes what is trained.
    """
    plain = replace(base, model=ModelConfig())
    cells = [plain] + [at_horizon(base, arm, h) for arm, horizons in arms.items() for h in horizons if h > 0]
    return measured(cells, seeds, targets)


def measured(cells: list[RunConfig], seeds: tuple[int, ...], targets: tuple[int, ...]) -> list[RunConfig]:
    """Return cells, the first of them H = 0, over all seeds, with what `grid` has measured on their final agents."""
    return [
        replace(
            config,
            seed=seed,
            diagnostics=replace(
                config.diagnostics,
                target_horizons=targets if config is cells[0] else (),
                overhead=seed == seeds[0],
            ),
        )
        for config in cells
        for seed in seeds
    ]


def smoke_base() -> RunConfig:
    """Return plain SAC for a second or two of training, with the smallest learned model."""
    return RunConfig(
        env=EnvConfig("pendulum"),
        agent=SACConfig(hidden=(32, 32)),
        model=ModelConfig("ensemble", hidden=(32,), pretrain_steps=100),
        train=TrainConfig(env_steps=1_500, warmup_steps=256, batch_size=64),
        eval=EvalConfig(every=250, episodes=4, value_bias_states=4, grad_samples=4),
        diagnostics=DiagnosticsConfig(target_states=32, target_particles=8),
        gamma=0.95,
    )


def smoke() -> list[RunConfig]:
    """Return the least that passes through every part: 2 seeds, 1,500 steps, H in {0, 1}. Settles no claim."""
    return grid(smoke_base(), {CE: (1,), RETRACE: (1,)}, (1, 2), (0, 1))


QUICK_HORIZONS = (0, 1, 3, 5, 10)
QUICK_SEEDS = (1, 2, 3, 4, 5)
QUICK_MODEL = ModelConfig("ensemble", hidden=(128, 128), steps_per_env_step=0.25)  # what two CPU cores can train


def quick_base(env: str = "pendulum") -> RunConfig:
    """Return plain SAC as two CPU cores train it in seconds, with a learned model for the arms that want one."""
    return RunConfig(
        env=EnvConfig(env),
        agent=SACConfig(hidden=(64, 64)),
        model=QUICK_MODEL,
        train=TrainConfig(env_steps=8_000, num_envs=1, warmup_steps=512, batch_size=256),
        eval=EvalConfig(every=500),
        gamma=0.95,
    )


def quick() -> list[RunConfig]:
    """Return the study that two CPU cores finish in minutes: pendulum, 2 x 64 nets, 5 seeds."""
    return grid(quick_base(), {CE: QUICK_HORIZONS, RETRACE: (1, 3, 5)}, QUICK_SEEDS, QUICK_HORIZONS)


def quick_learned() -> list[RunConfig]:
    """Return the same study, and critic expansion with a learned ensemble at the same horizons."""
    arms = {CE: QUICK_HORIZONS, MVE: QUICK_HORIZONS, RETRACE: (1, 3, 5)}
    return grid(quick_base(), arms, QUICK_SEEDS, QUICK_HORIZONS)


PARTICLES = 8


def quick_particles() -> list[RunConfig]:
    """Return critic expansion with one rollout for each target and with the mean of eight: an eighth of the variance."""
    one = grid(quick_base(), {CE: QUICK_HORIZONS}, QUICK_SEEDS, QUICK_HORIZONS)
    many = [replace(c, critic=replace(c.critic, particles=PARTICLES)) for c in one if c.critic.horizon]
    return one + many


def quick_stabilisers() -> list[RunConfig]:
    """Return actor expansion with and without what is meant to keep its gradient from exploding, on pendulum and cart-pole."""
    bases = map(stabilisers.quick_base, ("pendulum", "cartpole"))
    return [c for base in bases for c in measured(stabilisers.cells(base), QUICK_SEEDS, stabilisers.HORIZONS)]


def quick_contacts() -> list[RunConfig]:
    """Return the same on halfcheetah at the horizons where the source sees an explosion."""
    return measured(stabilisers.cells(stabilisers.contact_base(), stabilisers.SHORT), QUICK_SEEDS, stabilisers.SHORT)


class PaperEnv(NamedTuple):
    """One row of the hyper-parameter table of the released sweep."""

    name: str
    env_steps: int  # control steps over all environments, warm-up included
    num_envs: int
    gamma: float
    action_repeat: int
    warmup_steps: int
    batch_size: int
    episode_length: int  # control steps
    every: int  # control steps between evaluations


MILLION = 999_936  # the largest multiple of 128 environments below the 1 M steps of the source
PAPER_ENVS = (
    PaperEnv("inverted_pendulum", 10_000, 1, 0.95, 4, 512, 256, 250, 100),
    PaperEnv("cartpole", 100_000, 1, 0.99, 2, 512, 256, 500, 1_000),
    PaperEnv("hopper", MILLION, 128, 0.99, 2, 65_536, 256, 500, 4_992),
    PaperEnv("walker2d", MILLION, 128, 0.99, 2, 65_536, 256, 500, 4_992),
    PaperEnv("halfcheetah", MILLION, 128, 0.95, 1, 65_536, 512, 1_000, 4_992),
)
PAPER_HORIZONS = (0, 1, 3, 5, 10, 20, 30)
PAPER_SEEDS = tuple(range(1, 10))


PAPER_MODEL = (
    ModelConfig(  # as released, but trained at a rate of gradient steps: an epoch after every step is out of reach
        "ensemble", lr=3e-4, bootstrap="shared", normalize_targets=False, steps_per_env_step=1.0, pretrain_steps=2_000
    )
)


def paper_bases() -> list[RunConfig]:
    """Return plain SAC in each published environment, with the learned model of the source for the arms that want one.

    Values as in the released sweep, except that evaluation is deterministic and counts first episodes only, and that
    the environments are today's Brax ones: orderings and shapes can be compared, absolute returns cannot.
    """
    return [
        RunConfig(
            env=EnvConfig(row.name, action_repeat=row.action_repeat, episode_length=row.episode_length),
            agent=SACConfig(alpha_lr=5e-5),
            model=PAPER_MODEL,
            train=TrainConfig(row.env_steps, row.num_envs, row.warmup_steps, row.batch_size),
            eval=EvalConfig(every=row.every, episodes=128),
            gamma=row.gamma,
        )
        for row in PAPER_ENVS
    ]


def paper() -> list[RunConfig]:
    """Return the published grid with SAC: 5 environments x (1 + 5 arms x 6 horizons) x 9 seeds.

    The arms are critic and actor expansion, each with the oracle and with a learned ensemble, and Retrace.
    """
    arms: dict[str, tuple[int, ...]] = dict.fromkeys((CE, MVE, AE, AE_LEARNED, RETRACE), PAPER_HORIZONS)
    return [config for base in paper_bases() for config in grid(base, arms, PAPER_SEEDS, PAPER_HORIZONS)]


def with_released_density(configs: list[RunConfig]) -> list[RunConfig]:
    """Return runs of DDPG and what the release makes of them (defect B2): Retrace and critic expansion under its density.

    The release folds critic expansion by Retrace too, with a ratio that is 1 but for the defect. Other learners: as they are.
    """
    odd = []
    for config in configs:
        if isinstance(config.agent, DDPGConfig) and config.agent.name == "ddpg" and config.critic.horizon:
            critic = replace(config.critic, rule="retrace", estimator="doubly_robust", lam=1.0)
            odd.append(replace(config, agent=replace(config.agent, density="released"), critic=critic))
    return configs + odd


HORIZON = Study(
    name="horizon",
    title="Does a longer rollout horizon pay?",
    summary=(
        "A learner (soft actor-critic; with --agents also DDPG and TD3) is trained with targets (critic expansion, "
        "Retrace) or objectives (actor expansion) that look H steps further ahead. Model steps come from an oracle, the "
        "simulator itself, so that there is no model error; the presets quick-learned and paper add a learned model."
    ),
    presets={
        "smoke": smoke,
        "quick": quick,
        "paper": paper,
        "quick-learned": quick_learned,
        "quick-particles": quick_particles,
        "quick-stabilisers": quick_stabilisers,
        "quick-contacts": quick_contacts,
    },
    agents=("sac", "ddpg", "td3"),
    adapt=with_released_density,
    figures=(*RETURN_FIGURES, *DIAGNOSTIC_FIGURES, EXPLOSION),
    claims=CLAIMS,
    remarks=REMARKS,
)
