"""Why a model that is right for one step is wrong for a hundred: the torque-controlled ball, with dynamics models alone.

Every run fits a model to the same kind of random data (Ornstein-Uhlenbeck torques) and is judged on new episodes; no agent is
trained. Source of the demonstration: Botev's talk (OpenAI 2018); the ball and the protocol are specified by us, since the talk
gives neither.
"""

from collections.abc import Iterable
from dataclasses import replace

from valex.config import PRESETS
from valex.settings import (
    DiagnosticsConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    SACConfig,
    TrainConfig,
)
from valex.studies.base import Study, over_seeds
from valex.studies.compounding_claims import CLAIMS, REMARKS
from valex.studies.compounding_figures import FIGURES
from valex.studies.compounding_table import results

NUM_ENVS = 10  # each runs whole episodes one after the other, so that the first steps of the replay are whole episodes


def fitted(model: ModelConfig, episodes: int, length: int, diagnostics: DiagnosticsConfig) -> RunConfig:
    """Return a run that collects `episodes` of `length` random steps and then fits the model once, in pretrain_steps.

    Two collection steps follow the warm-up, for two evaluations; data_limit keeps them out of the model's data.
    """
    collected = episodes * length
    return replace(
        PRESETS["model"],
        env=EnvConfig("ball", episode_length=length),
        agent=SACConfig(hidden=(32, 32)),
        model=replace(model, steps_per_env_step=0.0, data_limit=collected),
        train=TrainConfig(
            env_steps=collected + 2 * NUM_ENVS,
            num_envs=NUM_ENVS,
            warmup_steps=collected,
            batch_size=32,
            utd=0,
            warmup_noise="ou",
        ),
        eval=EvalConfig(every=NUM_ENVS, episodes=2, value_bias_states=0, grad_samples=0),
        diagnostics=diagnostics,
    )


def variants(model: ModelConfig, loss_steps: Iterable[int]) -> list[ModelConfig]:
    """Return the ensemble with each loss, then the single deterministic net with the one-step loss."""
    single = replace(model, num_models=1, deterministic=True)
    return [replace(model, loss_steps=k) for k in loss_steps] + [single]


def with_data(base: RunConfig, model: ModelConfig, episodes: int) -> RunConfig:
    """Return a run whose model learns from the first so many episodes only."""
    length = base.env.episode_length or 1
    return replace(base, model=replace(model, steps_per_env_step=0.0, data_limit=episodes * length))


def smoke() -> list[RunConfig]:
    """Return the least that passes through every part: 2 seeds, 300 gradient steps, 20 model steps. Settles no claim."""
    model = ModelConfig("ensemble", num_models=2, hidden=(32, 32), batch_size=64, pretrain_steps=300)
    base = fitted(model, 40, 50, DiagnosticsConfig(model_error_steps=20, model_error_starts=8))
    arms = [with_data(base, m, 40) for m in variants(model, (1, 4))]
    return over_seeds([*arms, with_data(base, model, 10)], (1, 2))


def quick() -> list[RunConfig]:
    """Return the study for two CPU cores: 5 seeds, nets of 2 x 128, 10,000 gradient steps of 64, 100 and 10 episodes of data."""
    model = ModelConfig("ensemble", hidden=(128, 128), lr=3e-3, batch_size=64, pretrain_steps=10_000)
    base = fitted(model, 100, 200, DiagnosticsConfig(model_error_steps=100))
    arms = [with_data(base, m, 100) for m in variants(model, (1, 4))]
    return over_seeds([*arms, with_data(base, model, 10)], (1, 2, 3, 4, 5))


def paper() -> list[RunConfig]:
    """Return the specified grid: 9 seeds, silu nets, 16,000 gradient steps of 256; losses over 1, 4 and 8 steps, both data sizes.

    As specified but for Adam's step size, which is constant here, and the arms with observation noise, which no environment has.
    """
    model = ModelConfig("ensemble", hidden=(128, 128), activation="silu", batch_size=256, pretrain_steps=16_000)
    base = fitted(model, 100, 200, DiagnosticsConfig(model_error_steps=100, model_error_starts=256))
    arms = [with_data(base, m, episodes) for episodes in (100, 10) for m in variants(model, (1, 4, 8))]
    return over_seeds(arms, range(1, 10))


COMPOUNDING_ERROR = Study(
    name="compounding-error",
    title="Does a model that is right for one step stay right?",
    summary=(
        "Dynamics models of a torque-controlled ball are fitted to random episodes and followed for a hundred steps on new ones: "
        "one-step against multi-step losses, ensembles against a single net, much data against little. No agent is trained."
    ),
    presets={"smoke": smoke, "quick": quick, "paper": paper},
    figures=FIGURES,
    claims=CLAIMS,
    remarks=REMARKS,
    table=results,
)
