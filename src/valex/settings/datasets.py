"""What the generators of datasets can be told: one frozen dataclass each. Imports no jax."""

from dataclasses import dataclass
from typing import Literal

Maze = Literal["medium", "large", "giant"]
Visits = Literal["navigate", "stitch", "explore", "path"]
Quality = Literal["random", "medium", "medium-replay", "expert", "medium-expert", "noise", "all"]
Explorer = Literal["ddpg", "sac"]
Table = Literal["cube-single", "scene"]
Script = Literal["play", "noisy"]


@dataclass(frozen=True)
class PointMazeSettings:
    """OGBench's point maze, driven by the exact oracle of its map."""

    maze: Maze = "large"
    """Which map."""
    type: Visits = "navigate"
    """navigate: goal after goal; path: one goal; stitch: one goal 4 cells away; explore: a new direction every 10 steps."""
    sigma: float = 0.5
    """Standard deviation of the Gaussian noise on the oracle's unit direction, actions then clipped (>= 0)."""
    episodes: int = 1_000
    """Trajectories before any cut (>= 1)."""
    steps: int = 0
    """Transitions of each (>= 0); 0: 1000 for navigate and path, 2000 in the giant maze, 200 for stitch, 500 for explore."""
    task: int = 0
    """0: goal-conditioned, no rewards; 1 to 5: reward -1, or 0 and terminated at the goal of that task of OGBench."""
    seed: int = 0
    """Seed of everything that is drawn (>= 0)."""


@dataclass(frozen=True)
class AntMazeSettings:
    """OGBench's ant maze, walked by an ant of our own that was trained to go where it is pointed."""

    maze: Maze = "large"
    """Which map."""
    type: Visits = "navigate"
    """navigate: goal after goal; path: one goal; stitch: one goal 4 cells away; explore: a new direction every 10 steps."""
    sigma: float | None = None
    """Standard deviation of the Gaussian noise on the ant's mean action, then clipped (>= 0); None: 0.2, explore 1."""
    episodes: int = 1_000
    """Trajectories before any cut (>= 1)."""
    steps: int = 0
    """Transitions of each (>= 0); 0: 1000 for navigate and path, 2000 in the giant maze, 200 for stitch, 500 for explore."""
    task: int = 0
    """0: goal-conditioned, no rewards; 1 to 5: reward -1, or 0 and terminated at the goal of that task of OGBench."""
    seed: int = 0
    """Seed of everything that is drawn in the maze (>= 0)."""
    train_steps: int = 400_000
    """Control steps until the ant is an expert (>= 1), more than the warm-up; equal training settings share one ant."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of the ant's actor and critics (units)."""
    lr: float = 3e-4
    """Adam step size of actor, critics and temperature (> 0)."""
    batch_size: int = 256
    """Transitions per update (>= 1)."""
    warmup_steps: int = 10_000
    """Random control steps before the first update (>= batch_size)."""
    update_every: int = 1
    """Control steps between updates (>= 1)."""
    expert_seed: int = 0
    """Seed of the ant's training (>= 0)."""


@dataclass(frozen=True)
class LocomotionSettings:
    """An agent of our own, at the quality that is asked for, on one of our environments or of Gymnasium's."""

    env: str = "hopper"
    """Environment with continuous actions: one of `valex list envs`, or a Gymnasium id (Hopper-v5), stepped on the host."""
    type: Quality = "medium"
    """random; medium: a third of the way to expert; medium-replay: all seen until then; noise: expert + N(0, sigma^2)."""
    sigma: float = 0.0
    """Standard deviation of the noise on the policy's mean action, `noise` only, actions then clipped (>= 0)."""
    transitions: int = 1_000_000
    """Transitions at least, in whole episodes (>= 1); of medium-replay at most what there was."""
    preset: str = "sac"
    """Preset of `valex train` that the agent is trained with; H = 0. With a Gymnasium id: sac, ddpg or td3."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of actor and critics (units)."""
    train_steps: int = 1_000_000
    """Control steps until the expert (>= 1)."""
    train_envs: int = 8
    """Environments stepped together in training, valex environments only (>= 1); one of Gymnasium's learns at every step."""
    checks: int = 40
    """Evaluations in training, evenly spaced: the medium agent is one of them (>= 3)."""
    collect_envs: int = 64
    """Environments stepped together in collection (>= 1)."""
    episode_length: int | None = None
    """Control steps until truncation (>= 1); None: the environment's default."""
    reference_episodes: int = 64
    """Episodes behind each reference score, random and expert (>= 1)."""
    seed: int = 0
    """Seed of training and collection (>= 0)."""


@dataclass(frozen=True)
class ExplorationSettings:
    """Novelty alone: an agent rewarded by random network distillation, the task's reward put on afterwards."""

    env: str = "dm_control/walker"
    """dm_control/walker, dm_control/cheetah, or an environment with continuous actions of `valex list envs`."""
    task: str = "run"
    """Task whose reward is put on, dm_control only."""
    agent: Explorer = "ddpg"
    """Learner that chases the novelty."""
    transitions: int = 1_000_000
    """Transitions in all (>= 1)."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of actor, critics and of the distilled nets (units)."""
    features: int = 64
    """Outputs of the distilled nets (>= 1)."""
    lr: float = 1e-4
    """Adam step size of actor, critics and predictor (> 0)."""
    batch_size: int = 256
    """Transitions per update (>= 1)."""
    warmup_steps: int = 4_000
    """Random control steps before the first update (>= batch_size)."""
    update_every: int = 2
    """Control steps between updates (>= 1)."""
    num_envs: int = 1
    """Environments stepped together, valex environments only (>= 1)."""
    episode_length: int | None = None
    """Control steps until truncation (>= 1); None: the environment's default."""
    seed: int = 0
    """Seed of everything that is drawn (>= 0)."""


@dataclass(frozen=True)
class ManipulationSettings:
    """OGBench's robot arm, worked by OGBench's own scripted oracles."""

    env: Table = "cube-single"
    """What stands on the table: one cube; scene: a cube, two buttons, a drawer and a window."""
    type: Script = "play"
    """play: plans with correlated noise; noisy: a closed loop with noise on its actions."""
    sigma: float = 0.1
    """Level of the noise, of a plan or, drawn up to it for each episode, of the actions (>= 0)."""
    random_actions: float = 0.0
    """Share of actions that are uniformly random, in [0, 1]."""
    episodes: int = 1_000
    """Trajectories (>= 1)."""
    steps: int = 1_000
    """Transitions of each (>= 1)."""
    seed: int = 0
    """Seed of everything that is drawn (>= 0)."""


GENERATORS: dict[str, type] = {
    "pointmaze": PointMazeSettings,
    "antmaze": AntMazeSettings,
    "locomotion": LocomotionSettings,
    "exploration": ExplorationSettings,
    "manipulation": ManipulationSettings,
}
"""The settings of every generator, by its name in `tables.GENERATORS`."""
