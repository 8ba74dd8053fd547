"""Every hyperparameter of values, extractors and test-time improvement from a dataset. Imports no jax.

Two fields are called `alpha`, as in the papers, and they point in OPPOSITE directions: AWR's is an inverse temperature (0 is
behaviour cloning, more is greedier), that of DDPG+BC the strength of cloning (infinity is behaviour cloning, less is greedier).
"""

from dataclasses import dataclass
from typing import Literal, get_args

OfflineActivation = Literal["gelu", "relu"]
SarsaVariant = Literal["qq", "qv"]
PolicyStd = Literal["unit", "shared", "state"]
Behaviour = Literal["gaussian", "mixture", "flow"]
QNorm = Literal["none", "abs_mean", "std"]
StepScale = Literal["raw", "q_abs_mean", "grad_norm"]
QAgg = Literal["min", "mean"]
Mixing = Literal["uniform", "half"]
ValueGoals = Literal["none", "gciql", "hiql", "crl"]
ActorGoals = Literal["none", "navigate", "stitch", "explore"]
GoalReward = Literal["cost", "bonus"]


@dataclass(frozen=True)
class FitConfig:
    """What every phase of training on a dataset has."""

    name: str = ""
    """Which objective; what a subclass is."""
    hidden: tuple[int, ...] = (512, 512, 512)
    """Width of each hidden layer (units)."""
    activation: OfflineActivation = "gelu"
    """Between layers: gelu (its tanh form) or relu."""
    lr: float = 3e-4
    """Adam step size (> 0)."""
    batch_size: int = 1024
    """Rows of an update (>= 1)."""
    steps: int = 1_000_000
    """Gradient steps (>= 0)."""
    seed: int = 0
    """Of initial weights and of what is drawn, in 0 .. 2^32 - 1; apart from the seed of the data."""


@dataclass(frozen=True)
class ValueConfig(FitConfig):
    """What every value objective has. None of them reads a policy."""

    layer_norm: bool = True
    """Normalise what leaves each activation to mean 0 and variance 1."""
    gamma: float = 0.99
    """Discount per control step, in [0, 1)."""
    num_critics: int = 2
    """Critics whose minimum is read (>= 1)."""
    goals: ValueGoals = "none"
    """Goals drawn in hindsight, by the law of `offline/goals.py`; none: the task's own reward and ends."""
    goal_reward: GoalReward = "cost"
    """Of such a goal: cost is -1 until it is reached, then 0; bonus is 0, then 1."""


@dataclass(frozen=True)
class TDValueConfig(ValueConfig):
    """What values learned by bootstrapping have."""

    tau: float = 0.005
    """Target critics: new = tau * online + (1 - tau) * old, in (0, 1]."""


@dataclass(frozen=True)
class IQLConfig(TDValueConfig):
    """Implicit Q-learning (Kostrikov et al. 2022) in OGBench's form: the online V bootstraps, the target Q is what V fits."""

    name: Literal["iql"] = "iql"
    """Objective, one of the table VALUES."""
    expectile: float = 0.9
    """kappa of V's asymmetric squared error, in (0, 1): 0.5 is SARSA, towards 1 the best action in the data."""


@dataclass(frozen=True)
class SARSAConfig(TDValueConfig):
    """The value of the policy that collected the data, as in one-step RL."""

    name: Literal["sarsa"] = "sarsa"
    """Objective, one of the table VALUES."""
    variant: SarsaVariant = "qq"
    """qq: bootstraps with Q at the dataset's next action; qv: with a V fitted to Q, less noise and no next action needed."""


@dataclass(frozen=True)
class CRLConfig(ValueConfig):
    """Contrastive RL (Eysenbach et al. 2022), goal-conditioned: Q is the log-ratio f(s, a, g) itself, not its exponential."""

    name: Literal["crl"] = "crl"
    """Objective, one of the table VALUES."""
    goals: ValueGoals = "crl"
    """Goals drawn in hindsight; log-ratios need some."""
    latent: int = 512
    """Numbers of the representations whose product is f (>= 1)."""


@dataclass(frozen=True)
class PolicyConfig(FitConfig):
    """What every extractor has."""

    std: PolicyStd = "unit"
    """Spread of a Gaussian policy: unit (1, not learned), shared (one number per action dimension), state (a net's output)."""
    goals: ActorGoals = "none"
    """Goals drawn in hindsight, by how the data were collected; apart from the value's, and drawn where those are."""


@dataclass(frozen=True)
class BCConfig(PolicyConfig):
    """Behaviour cloning: no value is read."""

    name: Literal["bc"] = "bc"
    """Extractor, one of the table EXTRACTORS."""
    behaviour: Behaviour = "gaussian"
    """What is fitted: a Gaussian, a mixture of Gaussians, or a flow from noise to actions."""
    components: int = 5
    """Gaussians of a mixture (>= 1)."""
    flow_steps: int = 10
    """Euler steps of a flow (>= 1)."""


@dataclass(frozen=True)
class AWRConfig(PolicyConfig):
    """Advantage-weighted regression (Peng et al. 2019): cloning, each row weighted by exp(alpha A)."""

    name: Literal["awr"] = "awr"
    """Extractor, one of the table EXTRACTORS."""
    alpha: float = 3.0
    """INVERSE temperature, per unit of advantage (>= 0): 0 is behaviour cloning, more is greedier."""
    weight_clip: float | None = 100.0
    """Largest weight (> 0); None for no bound. A large alpha under a bound is cloning of what is good enough, not of the best."""
    normalize_advantage: bool = False
    """Divide A by its standard deviation in the batch, so that alpha counts standard deviations."""


@dataclass(frozen=True)
class DDPGBCConfig(PolicyConfig):
    """Behaviour-constrained policy gradient, DDPG+BC (Fujimoto and Gu 2021): climb Q, tethered to the data."""

    name: Literal["ddpg_bc"] = "ddpg_bc"
    """Extractor, one of the table EXTRACTORS."""
    alpha: float = 0.3
    """STRENGTH of cloning (>= 0): towards infinity behaviour cloning, 0 climbs Q alone. In units of Q / q_norm per nat."""
    q_norm: QNorm = "abs_mean"
    """What Q is divided by: none (1, as printed in 2406.09329), abs_mean (mean |Q|, as in releases), std (of Q in the batch)."""


@dataclass(frozen=True)
class SfBCConfig(BCConfig):
    """Select from behaviour candidates: the best of N draws of a cloned policy; trained as BC, the value is read when acting."""

    name: Literal["sfbc"] = "sfbc"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Extractor, one of the table EXTRACTORS."""
    behaviour: Behaviour = "flow"
    """What is fitted, as for BC; a Gaussian needs a `std` that is learned."""
    samples: int = 32
    """N, candidates for each observation (>= 1)."""


@dataclass(frozen=True)
class OPEXConfig:
    """Steps along the value's gradient when acting; nothing is trained."""

    name: Literal["opex"] = "opex"
    """Improvement at test time, opex or ttt."""
    beta: float = 0.1
    """Step size (>= 0): in units of action^2 / Q (raw), of action^2 (q_abs_mean), of action (grad_norm)."""
    steps: int = 1
    """Steps for each action (>= 0)."""
    scale: StepScale = "raw"
    """What the gradient is divided by: raw (1), q_abs_mean (mean |Q| over the rows), grad_norm (its own length)."""
    q_agg: QAgg = "min"
    """Which critic is climbed: the minimum over critics, or their mean."""


@dataclass(frozen=True)
class TTTConfig:
    """Go on training the policy on the states it visits, towards Q and not away from the policy it was; reads no reward."""

    name: Literal["ttt"] = "ttt"
    """Improvement at test time, opex or ttt."""
    beta: float = 1.0
    """Strength of the tether KL(offline policy || policy) (>= 0), in units of Q per nat: towards infinity nothing moves."""
    q_norm: QNorm = "none"
    """What Q is divided by, as in DDPG+BC; none as printed in 2406.09329."""
    lr: float = 3e-4
    """Adam step size (> 0)."""
    batch_size: int = 256
    """Visited states of an update (>= 1)."""
    updates_per_step: int = 1
    """Gradient steps for each vector step of the environments (>= 0)."""
    max_updates: int = 1_000_000
    """Budget of gradient steps; after that the policy stays (>= 0)."""
    capacity: int = 100_000
    """Visited states that are kept; the oldest go first (>= 1)."""
    dataset_share: float = 0.0
    """Share of the batch that are states of the dataset, in [0, 1]; 0 for visited states alone."""


@dataclass(frozen=True)
class PerturbationConfig:
    """A smooth error of a value, put on Q where it is climbed at test time."""

    size: float = 0.0
    """Its standard deviation over the data, in standard deviations of Q over the data (>= 0)."""
    seed: int = 0
    """Of the random function, in 0 .. 2^32 - 1."""
    length: float = 1.0
    """Its correlation length (> 0), in root mean square deviations per dimension of (s, a): small is rough."""


ValueKind = IQLConfig | SARSAConfig | CRLConfig
ExtractionKind = BCConfig | AWRConfig | DDPGBCConfig | SfBCConfig
TestTimeKind = OPEXConfig | TTTConfig
VALUE_CONFIGS: dict[str, type[ValueKind]] = {cls().name: cls for cls in get_args(ValueKind)}
EXTRACTION_CONFIGS: dict[str, type[ExtractionKind]] = {cls().name: cls for cls in get_args(ExtractionKind)}
TEST_TIME_CONFIGS: dict[str, type[TestTimeKind]] = {cls().name: cls for cls in get_args(TestTimeKind)}
