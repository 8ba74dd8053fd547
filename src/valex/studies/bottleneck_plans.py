"""What plans of the study offline-bottleneck are built from: nets, values, extractors, and a policy that is followed online."""

from dataclasses import replace
from typing import Any, NamedTuple

from valex.settings.bottleneck import Continuation, MatrixConfig
from valex.settings.datasets import PointMazeSettings
from valex.settings.offline import (
    ActorGoals,
    AWRConfig,
    BCConfig,
    CRLConfig,
    DDPGBCConfig,
    ExtractionKind,
    IQLConfig,
    SARSAConfig,
    SfBCConfig,
    ValueKind,
)
from valex.studies.offline import DataPlan

EXPECTILE = {"maze": 0.9, "other": 0.7}  # of IQL, as recalled of the paper's tables


class Nets(NamedTuple):
    """What every phase of training on a dataset has."""

    hidden: tuple[int, ...]  # units
    batch_size: int
    steps: int  # gradient steps
    lr: float = 3e-4  # Adam step size


class Grid(NamedTuple):
    """The settings of the extractors that are compared."""

    awr: tuple[float, ...]  # inverse temperatures; 0 is cloning, which has its own cells
    ddpg_bc: tuple[float, ...]  # strengths of cloning
    sfbc: tuple[int, ...]  # candidates
    behaviour: str  # what they are drawn from


def goal_values(nets: Nets, latent: int) -> tuple[ValueKind, ...]:
    """Return the values of goal-conditioned sets: IQL with OGBench's goals, and CRL."""
    shared: dict[str, Any] = nets._asdict()
    iql = IQLConfig(**shared, goals="gciql", expectile=EXPECTILE["maze"])
    return iql, CRLConfig(**shared, latent=latent)


def task_values(nets: Nets, task: str = "other") -> tuple[ValueKind, ...]:
    """Return the values of sets with one task, a maze or another: IQL and SARSA."""
    shared: dict[str, Any] = nets._asdict()
    return IQLConfig(**shared, expectile=EXPECTILE[task]), SARSAConfig(**shared)


def policies(nets: Nets, grid: Grid, goals: ActorGoals = "none") -> tuple[ExtractionKind, ...]:
    """Return every extractor with every setting of the grid, cloning first."""
    shared: dict[str, Any] = nets._asdict() | {"goals": goals}
    found: list[ExtractionKind] = [BCConfig(**shared)]
    found += [AWRConfig(**shared, alpha=alpha) for alpha in grid.awr]
    found += [DDPGBCConfig(**shared, alpha=alpha) for alpha in grid.ddpg_bc]
    found += [SfBCConfig(**shared, behaviour=grid.behaviour, samples=n) for n in grid.sfbc]  # pyright: ignore
    return tuple(found)


class Followed(NamedTuple):
    """How a policy is followed from its training on data to that online."""

    offline_checks: int
    online_steps: int
    check_every: int
    episodes: int  # of a check


def one_task(nets: Nets, maze: PointMazeSettings, seeds: tuple[int, ...], followed: Followed) -> DataPlan:
    """Return the dataset of a point maze with one goal, on which IQL with AWR is trained on online; it has no matrix."""
    shared: dict[str, Any] = nets._asdict()
    value, policy = IQLConfig(**shared, expectile=EXPECTILE["maze"]), AWRConfig(**shared, std="shared")
    return DataPlan(
        f"pointmaze-{maze.maze}-task1",
        "antmaze-medium and -large, trained on online",
        "the ant, and four other tasks of the paper's figure; the optimal policy is the exact oracle of the map",
        "pointmaze",
        replace(maze, task=1),
        MatrixConfig(values=(), policies=(), seeds=seeds),
        continuations=(Continuation("", "", value, policy, 0, **followed._asdict()),),
        tested=(),
    )
