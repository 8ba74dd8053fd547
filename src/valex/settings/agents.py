"""Every hyperparameter of a learner, declared once: one frozen dataclass per learner. Imports no jax."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Density = Literal["exploration", "released"]
Policy = Literal["greedy", "boltzmann"]
Layers = Literal["none", "paper", "release", "all"]
Cap = Literal["hard", "soft"]


@dataclass(frozen=True)
class SpectralConfig:
    """Spectral normalisation of a net's layers (Miyato et al. 2018)."""

    layers: Layers = "none"
    """Which: none, all, paper (policy all, model all but the last), release (policy neither first nor last, model as paper)."""
    coefficient: float = 1.0
    """c, the largest singular value that a layer is brought to (> 0)."""
    cap: Cap = "hard"
    """hard: W c / sigma; soft: only where sigma is above c."""


@dataclass(frozen=True)
class LearnerConfig:
    """What every learner has."""

    name: str = ""
    """Learner, one of `valex list agents`."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of actor and critics (units)."""
    critic_lr: float = 3e-4
    """Adam step size of the critics (> 0)."""
    tau: float = 0.005
    """Target critic: new = tau * online + (1 - tau) * old, in (0, 1]."""
    num_critics: int = 2
    """Critics whose minimum bootstraps (>= 1)."""
    normalize_obs: bool = True
    """Divide observations by running statistics, clipped to +-5; grids of flags are left as they are."""


@dataclass(frozen=True)
class SACConfig(LearnerConfig):
    """Soft actor-critic (Haarnoja et al. 2018) with twin critics and a learned temperature."""

    name: Literal["sac"] = "sac"
    """Learner, one of `valex list agents`."""
    actor_lr: float = 3e-4
    """Adam step size of the actor (> 0)."""
    alpha_lr: float = 3e-4
    """Adam step size of the log temperature (>= 0; 0 keeps alpha fixed)."""
    init_alpha: float = 1.0
    """Entropy temperature at the start (> 0)."""
    target_entropy_per_dim: float = -0.5
    """Target entropy in nats for each action dimension."""


@dataclass(frozen=True)
class RPGConfig(SACConfig):
    """Reparameterisation policy gradient (2310.19927): a soft actor-critic whose actor climbs the value along a model."""

    name: Literal["rpg"] = "rpg"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Learner, one of `valex list agents`."""
    final_target_entropy_per_dim: float | None = None
    """Target entropy at the end of its schedule, in nats for each action dimension; None: as at its start."""
    entropy_decay: float = 1.0
    """p of the schedule final + (start - final) (1 - updates / entropy_updates)^p (> 0)."""
    entropy_updates: int = 100_000
    """Updates over which the target entropy moves (>= 1)."""
    model_free_updates: int = 0
    """Updates of the actor with H = 0 before the first along the model (>= 0)."""
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    """Spectral normalisation of the policy's layers."""


@dataclass(frozen=True)
class DDPGConfig(LearnerConfig):
    """Deep deterministic policy gradient (Lillicrap et al. 2016); with two critics that of 2412.20537, with one the original."""

    name: Literal["ddpg"] = "ddpg"
    """Learner, one of `valex list agents`."""
    actor_lr: float = 3e-4
    """Adam step size of the actor (> 0)."""
    tau_actor: float = 0.005
    """Target actor: new = tau_actor * online + (1 - tau_actor) * old, in (0, 1]."""
    exploration_noise: float = 0.1
    """Standard deviation of the Gaussian noise added before the tanh when exploring (> 0)."""
    density: Density = "exploration"
    """What Retrace takes for log pi and log mu: exploration (the noise really added), or released (deviation D23)."""


@dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Twin delayed DDPG (Fujimoto et al. 2018)."""

    name: Literal["td3"] = "td3"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Learner, one of `valex list agents`."""
    policy_delay: int = 2
    """Critic updates between updates of the actor and of both targets (>= 1)."""
    target_noise: float = 0.2
    """Standard deviation of the noise on target actions (>= 0), in units of the action."""
    noise_clip: float = 0.5
    """Bound of that noise (>= 0), in units of the action."""


@dataclass(frozen=True)
class DDQNConfig(LearnerConfig):
    """Double DQN (van Hasselt et al. 2016), duelling optional; sizes of the net as for MinAtar (Young and Tian 2019)."""

    name: Literal["ddqn"] = "ddqn"
    """Learner, one of `valex list agents`."""
    hidden: tuple[int, ...] = (128,)
    """Width of each hidden layer behind the torso (units)."""
    filters: int = 16
    """Filters of the 3 x 3 convolution that reads a grid (>= 1); a vector has none."""
    num_critics: int = 1
    """Critics whose minimum acts and bootstraps (>= 1)."""
    dueling: bool = False
    """Q = V + A - mean A, with a head for each."""
    double: bool = True
    """The online net chooses the action that the target net judges; False: the target net does both (DQN)."""
    target_every: int = 1
    """Updates between moves of the target net (>= 1); DQN's hard copy is tau 1 every 1,000 or so."""
    epsilon_start: float = 1.0
    """Share of random actions after the warm-up, in [0, 1]."""
    epsilon_end: float = 0.05
    """Share of random actions at the end of the schedule, in [0, 1]."""
    epsilon_steps: int = 4_000
    """Control steps over which the share falls linearly, counted from the first (>= 1)."""
    policy: Policy = "greedy"
    """What rollouts and targets follow: greedy, or boltzmann with pi ~ exp(Q / temperature)."""
    temperature: float = 0.1
    """Of the Boltzmann policy (> 0), in units of return."""


AgentConfig = SACConfig | RPGConfig | DDPGConfig | TD3Config | DDQNConfig
AGENT_CONFIGS: dict[str, type[AgentConfig]] = {cls().name: cls for cls in get_args(AgentConfig)}
