"""Every hyperparameter, declared once: one frozen dataclass per component, those of the learners in `agents.py`.

This module imports neither jax nor a component, so that `--help` answers at once. A field's docstring is its help text.
"""

from dataclasses import dataclass, field
from typing import Literal

from valex.settings.agents import (
    AGENT_CONFIGS as AGENT_CONFIGS,
    AgentConfig,
    Cap as Cap,
    DDPGConfig as DDPGConfig,
    DDQNConfig as DDQNConfig,
    Density as Density,
    Layers as Layers,
    LearnerConfig as LearnerConfig,
    Policy as Policy,
    RPGConfig as RPGConfig,
    SACConfig,
    SpectralConfig,
    TD3Config as TD3Config,
)

Estimator = Literal["plain", "doubly_robust"]
Source = Literal["replay", "model"]
Gradient = Literal["dp", "dr", "detach", "first_action", "lr", "ivw", "alpha_order", "total_propagation"]
Closing = Literal["critic", "target_critic", "nothing"]
Starts = Literal["replay", "zeta", "nu", "mixture"]
CriticAgg = Literal["min", "mean", "first"]
MemberAgg = Literal["sample", "mean", "min"]
Activation = Literal["relu", "silu"]
Propagation = Literal["random_model", "fixed_model", "expectation"]
Termination = Literal["known", "learned"]
Schedule = Literal["rate", "released"]
Resampling = Literal["shared", "own", "poisson"]
WarmupNoise = Literal["uniform", "ou"]

HOLDOUT_BLOCK = (
    32  # consecutive stored steps of one environment that are held out of the dynamics model's training together
)
GOLDEN = 0.6180339887498949  # the golden ratio less 1: its multiples modulo 1 fill [0, 1) evenly
HOLDOUT_CHECK_EVERY = 100  # gradient steps of the dynamics model between hold-out checks of early stopping


@dataclass(frozen=True)
class EnvConfig:
    """Which task, and how its clock runs."""

    name: str = "pendulum"
    """Environment, one of `valex list envs`."""
    backend: str | None = None
    """Physics backend (Brax: spring, positional, generalized, mjx); None takes the environment's default."""
    action_repeat: int | None = None
    """Base steps per control step (>= 1), rewards summed; None takes the environment's default."""
    episode_length: int | None = None
    """Control steps until truncation (>= 1); None takes the environment's default."""
    reward_offset: float = 0.0
    """Added to the reward of every control step in training; evaluation reports the task's own return."""
    sticky_actions: float | None = None
    """Chance that the action before is taken again, in [0, 1]; None takes the environment's default (MinAtar: 0.1)."""
    difficulty_ramping: bool | None = None
    """Whether a game becomes harder as it goes on; None takes the environment's default (MinAtar: on where there is a ramp)."""


@dataclass(frozen=True)
class CriticConfig:
    """How the critic's regression target is made: rule x source x horizon."""

    rule: str = "td"
    """Target rule, one of `valex list rules`."""
    source: Source = "replay"
    """Where the window comes from: stored sequences, or the dynamics model."""
    horizon: int = 0
    """H, model steps (source model) or extra stored steps (source replay) after the real step; 0 is the one-step target."""
    lam: float = 1.0
    """Trace decay lambda of td_lambda and retrace, in [0, 1]."""
    estimator: Estimator = "plain"
    """plain: sum of rewards and entropy bonuses; doubly_robust: adds V - Q at every step (same mean, other variance)."""
    particles: int = 1
    """P, model rollouts averaged before the squared error (>= 1)."""
    critic_agg: CriticAgg = "min"
    """How the critics of a bootstrap become one number; with mean, rule steve takes each for a sample of its own."""
    member_agg: MemberAgg = "sample"
    """sample: one rollout, as model.propagation says; mean, min: each member rolls out alone, T_h is aggregated over them."""
    td_k: bool = False
    """Train the critic on the imagined states too, each with its own target (the TD-k trick of MVE)."""
    max_disagreement: float | None = None
    """Stop a rollout where members disagree by this many typical one-step changes or more (>= 0); None: never."""
    target_min: float | None = None
    """Lower bound of the target, applied after the rule; -1 / (1 - gamma) where rewards are -1 or 0."""
    target_max: float | None = None
    """Upper bound of the target, applied after the rule."""


@dataclass(frozen=True)
class ActorConfig:
    """How the actor's objective is made: H differentiable model steps from the replayed observation."""

    horizon: int = 0
    """H, model steps before the bootstrap; 0 is the ordinary actor loss."""
    estimator: Estimator = "plain"
    """plain or doubly_robust, as for the critic."""
    particles: int = 1
    """P, model rollouts averaged (>= 1)."""
    divide_by_length: bool = True
    """Divide the objective by H + 1, as the released code does; recorded with every gradient statistic."""
    gradient: Gradient = "dp"
    """How J is differentiated: dp, dr, detach, first_action (through the model), lr (past it), or mixtures of dp and lr."""
    segment_weight: float | None = 1.0
    """dr: largest importance weight of a stored segment (> 0); None: all count alike, which is biased by old policies."""
    bias_budget: float | None = None
    """alpha_order, which needs it: the largest distance from the likelihood ratio's gradient, a norm of gradients (> 0)."""
    closing: Closing = "critic"
    """What stands for the return behind H steps: the critic, its slowly updated copy (SHAC), or nothing (APG)."""
    starts: Starts = "replay"
    """Where rollouts start: replay (uniform), zeta (first states), nu (discounted visits), mixture (start_mix nu, rest zeta)."""
    start_mix: float = 0.5
    """Share of nu in the mixture, in [0, 1]."""
    grad_clip: float | None = None
    """Largest norm of the batch's gradient (> 0); None: any."""
    normalize_grad: bool = False
    """Divide the batch's gradient by its norm."""
    truncate: int = 0
    """Let no gradient through a model state every so many steps (>= 0; 0: never)."""
    adjoint_clip: float | None = None
    """Largest norm of the gradient with respect to a model state on the way back, for each row (> 0); None: any."""


@dataclass(frozen=True)
class ModelConfig:
    """The dynamics model behind source `model` and behind the actor's rollouts; all but name, noise and bias: LEARNED ones."""

    name: str = "oracle"
    """Dynamics model, one of `valex list models`."""
    num_models: int = 5
    """N, members of the ensemble (>= 1); 1 is a single model."""
    num_elites: int | None = None
    """Members that rollouts use (1 to num_models), those with the smallest hold-out loss, which need a holdout; None: all."""
    hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Width of each hidden layer of a member (units); of `grid`: filters of each 3x3 convolution."""
    activation: Activation = "relu"
    """Between the layers: relu (the release of 2412.20537) or silu (smooth, for gradients through the model)."""
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    """Spectral normalisation of the prediction's layers, `ensemble` only."""
    deterministic: bool = False
    """Predict the mean only, by squared error; else a Gaussian with learned, bounded log-variance. `grid`: draw no flags."""
    propagation: Propagation = "random_model"
    """random_model: each row a new elite at every step; fixed_model: one for a whole rollout; expectation: mean of all."""
    termination: Termination = "known"
    """known: the environment's termination function; learned: a classifier beside the prediction."""
    normalize_targets: bool = True
    """Predict changes and rewards in units of their running standard deviation; inputs always are. `grid`: the reward alone."""
    lr: float = 1e-3
    """Adam step size (> 0)."""
    batch_size: int = 256
    """Stored steps per gradient step and member (>= loss_steps, in windows of loss_steps)."""
    grad_clip: float = 100.0
    """Largest norm of a member's gradient (> 0)."""
    schedule: Schedule = "rate"
    """rate: steps_per_env_step; released: an epoch of the whole replay after every collection step (deviation D16)."""
    steps_per_env_step: float = 0.5
    """Gradient steps per control step (>= 0), due every train_every control steps."""
    train_every: int = 1
    """Control steps between training phases (a multiple of num_envs)."""
    pretrain_steps: int = 1_000
    """Gradient steps before the first update of the agent, on the warm-up (>= 0)."""
    max_steps: int = 10_000
    """Cap on the gradient steps of one phase (>= 1)."""
    loss_steps: int = 1
    """k, steps of the training loss: predictions are fed back k - 1 times (>= 1); independent of every horizon."""
    step_weights: tuple[float, ...] = ()
    """Weight of each of the k steps in the loss (>= 0); empty: equal weights."""
    cut_gradient: bool = False
    """Do not send gradients through the fed-back prediction."""
    bootstrap: Resampling = "own"
    """shared: one mini-batch for all members; own: each draws its own; poisson: each counts a stored step Poisson(1) times."""
    holdout: float = 0.0
    """Share of stored steps kept from training, in blocks of 32 (0 to 0.5)."""
    patience: int = 0
    """End a phase, and go back to each member's best, after this many hold-out checks without gain (0: never)."""
    data_limit: int | None = None
    """Learn from the first so many control steps only; None: from all."""
    noise: float = 0.0
    """noisy_oracle: standard deviation of the error of each model step, in typical one-step changes of the state."""
    bias: float = 0.0
    """noisy_oracle: size of a constant error of each model step in a random direction, in the same unit."""


LEARNED = {
    "ensemble": ModelConfig("ensemble"),
    "grid": ModelConfig("grid", hidden=(32, 32), termination="learned", lr=3e-3, batch_size=32),
}
"""The dynamics models that learn, each with its usual settings; every other model has none but its name, noise and bias."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how much is collected, stored and updated."""

    env_steps: int = 8_000
    """Control steps summed over environments, warm-up included (>= warmup_steps)."""
    num_envs: int = 1
    """Environments stepped together (>= 1)."""
    warmup_steps: int = 512
    """Random control steps before the first update (>= batch_size)."""
    batch_size: int = 256
    """Transitions per update (>= 1)."""
    utd: int = 1
    """Updates per control step (>= 0); 0 trains the dynamics model alone, with the policy as it starts."""
    replay_capacity: int = 1_048_576
    """Control steps the replay holds; a run allocates no more than env_steps."""
    warmup_noise: WarmupNoise = "uniform"
    """uniform: independent actions; ou: tanh of z <- 0.9 z + 0.45 N(0, 1), which pushes one way for a while."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation: fixed seeds, deterministic policy, first episode per environment, undiscounted return."""

    every: int = 500
    """Control steps between evaluations, log lines included (a multiple of num_envs)."""
    episodes: int = 16
    """Episodes per evaluation (>= 1)."""
    value_bias_states: int = 16
    """Rollouts that compare the critic with Monte-Carlo returns at each evaluation; 0 turns it off."""
    grad_samples: int = 16
    """Samples of the per-sample actor-gradient variance at each evaluation; 0 turns it off."""


@dataclass(frozen=True)
class DiagnosticsConfig:
    """What is measured once, on the final agent of a run."""

    target_horizons: tuple[int, ...] = ()
    """Horizons whose targets and actor gradients are compared on the final agent with the oracle; empty: none."""
    target_states: int = 256
    """States in that comparison, visited by the final exploring policy (>= 2)."""
    target_particles: int = 32
    """Rollouts per state in that comparison (>= 2)."""
    overhead: bool = False
    """Time one update, split into rollout, critic and actor."""
    model_error_steps: int = 0
    """K, model steps over which the model's error is measured on new episodes, at most their length; 0: not at all."""
    model_error_starts: int = 64
    """Starts of that measurement, each an own episode (>= 2)."""
    gradient_horizons: tuple[int, ...] = ()
    """Horizons at which the actor's gradient through the model is taken apart (`valex diagnose gradients`); empty: none."""
    gradient_starts: int = 128
    """Starts of that measurement (a multiple of 16, >= 32)."""


@dataclass(frozen=True)
class StoreConfig:
    """How often the whole state is saved, and for how long."""

    checkpoint_every: int = 10
    """Evaluations between checkpoints of the whole state (>= 1); the last evaluation is always saved."""
    keep: int = 2
    """Checkpoints kept (>= 2, so that a damaged one has a predecessor)."""
    keep_finished: int = 0
    """Checkpoints that a finished run keeps; its agent stays in final.safetensors, without the replay."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=SACConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    gamma: float = 0.99
    """Discount per control step, in [0, 1)."""
    seed: int = 0
    """Seed from which every random stream of the run is drawn (>= 0)."""


def needs_model(config: RunConfig) -> bool:
    """Return whether a run has a dynamics model: something rolls out, or the model is all that it trains."""
    rolls_out = (config.critic.source == "model" and config.critic.horizon > 0) or config.actor.horizon > 0
    return rolls_out or config.train.utd == 0
