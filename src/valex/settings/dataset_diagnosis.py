"""What a diagnosis of a dataset can be told, and what its budgets stand for. Imports no jax."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from valex.settings.offline import ActorGoals

Budget = Literal["quick", "full"]
Extractor = Literal["awr", "ddpg_bc", "sfbc"]
ValueName = Literal["iql", "sarsa", "crl"]


@dataclass(frozen=True)
class DatasetDiagnosisConfig:
    """What is trained on a dataset to find out where a method falls short, and on how much of it; 0 and () take the budget's."""

    goals: ActorGoals = "none"
    """Goals drawn in hindsight, by how the data were collected; none: the rewards of the dataset."""
    budget: Budget = "quick"
    """quick: some ten minutes on 2 cores; full: nets, updates and seeds as in papers, for an accelerator."""
    value: ValueName = "iql"
    """Value of the reference method, whose shortfall is taken apart: iql, sarsa or, with goals, crl."""
    extractor: Extractor = "awr"
    """How the reference method reads its policy off the value."""
    alpha: float = 3.0
    """Alpha of that extractor (>= 0); N, the number of candidates, for sfbc (>= 1)."""
    reference: float | None = None
    """Aim, in the unit of the scores; None: the best mean of all that was tried and of the data, for percentages at least 100."""
    gamma: float = 0.99
    """Discount per control step, in [0, 1)."""
    seeds: int = 0
    """Repetitions: each draws the order of the trajectories and all of training anew (>= 0; below 5 nothing is told apart)."""
    steps: int = 0
    """Gradient steps of each phase (>= 0)."""
    hidden: tuple[int, ...] = ()
    """Width of each hidden layer (units)."""
    lr: float = 0.0
    """Adam step size of every net (>= 0)."""
    episodes: int = 0
    """Episodes that a policy is tried on (>= 0)."""
    sizes: tuple[int, ...] = ()
    """Amounts of data, in transitions (>= 1); the largest is what the method is judged on."""


class Preset(NamedTuple):
    """What a budget stands for."""

    seeds: int
    steps: int  # gradient steps of each phase
    hidden: tuple[int, ...]
    episodes: int
    batch_size: int
    lr: float
    shares: tuple[float, ...]  # of the training trajectories
    every_alpha: bool  # whether the second alpha of an extractor is tried on every amount of data, too
    test_time_updates: int
    traded: str  # what was given up to be done in time


BUDGETS = {
    "quick": Preset(
        5, 3_000, (64, 64), 20, 256, 1e-3, (1 / 16, 1 / 4, 1.0), False, 1_000,
        "small nets and few updates; the second alpha of awr and ddpg_bc is tried on all data alone",
    ),
    "full": Preset(8, 100_000, (256, 256, 256), 50, 1024, 3e-4, (1 / 64, 1 / 16, 1 / 4, 1.0), True, 10_000, ""),
}  # fmt: skip
