"""OGBench's point maze: its environment stepped on the host, its generator's rules, the exact oracle plus Gaussian noise.

    a = clip(pi*(s, g) + N(0, sigma^2), -1, 1)

Starts are any free cell, goals any that is no hallway, both moved by up to a quarter of a cell on either axis.
Source: OGBench (Park et al. 2024, arXiv 2410.20092), data_gen_scripts/generate_locomaze.py, as described there.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from valex.datasets.base import need
from valex.datasets.card import Card, installed_versions, make_card
from valex.datasets.generate.run import described
from valex.offline.data import Dataset, from_arrays
from valex.offline.oracle import Maze, cell_of, cells_from, centre_of, make_maze, oracle_action
from valex.settings.datasets import PointMazeSettings

STEPS = {"navigate": 1_000, "path": 1_000, "stitch": 200, "explore": 500}
STITCH_CELLS = 4  # how far away a goal of `stitch` is, in cells
EXPLORE_STEPS = 10  # how long `explore` keeps a direction
TOLERANCE = 1.0  # m from the goal that count as there
JITTER = 0.25  # of a cell: how far starts and goals are moved from its centre on either axis


def make_env(maze: str, task: int = 0) -> Any:
    """Build OGBench's environment, without clock and reset wrappers. Raises ConfigError if ogbench is not installed."""
    need("ogbench")
    import gymnasium

    name = f"pointmaze-{maze}-singletask-task{task}-v0" if task else f"pointmaze-{maze}-v0"
    return gymnasium.make(name).unwrapped


def maze_of(env: Any) -> Maze:
    """Return the map of an environment."""
    return make_maze(env.maze_map == 1, float(env._maze_unit), float(env._offset_x))


def hallway(walls: np.ndarray, i: int, j: int) -> bool:
    """Return whether the free cell (i, j) has free cells on exactly two sides, opposite each other."""
    up, down, left, right = walls[i - 1, j], walls[i + 1, j], walls[i, j - 1], walls[i, j + 1]
    return bool((up and down and not left and not right) or (left and right and not up and not down))


@dataclass
class Walk:
    """One maze, and what is drawn in it."""

    env: Any
    settings: PointMazeSettings
    rng: np.random.Generator
    maze: Maze = field(init=False)

    def __post_init__(self) -> None:
        self.maze = maze_of(self.env)
        walls = self.maze.walls
        self.free = [(int(i), int(j)) for i, j in zip(*np.nonzero(~walls), strict=True)]
        self.ends = [cell for cell in self.free if not hallway(walls, *cell)]

    def near(self, cell: tuple[int, int]) -> np.ndarray:
        """Draw a position in `cell`, [2] m."""
        centre = centre_of(self.maze, np.asarray(cell[0] * self.maze.walls.shape[1] + cell[1]))
        return centre + self.rng.uniform(-JITTER, JITTER, 2) * self.maze.unit

    def pick(self, cells: list[tuple[int, int]]) -> tuple[int, int]:
        """Draw one of `cells`."""
        return cells[self.rng.integers(len(cells))]

    def ends_of(self, start: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the cells that a first goal may be in."""
        if self.settings.type != "stitch":
            return self.ends
        steps = cells_from(self.maze.walls, start)
        away = [cell for cell in self.free if steps[cell] == STITCH_CELLS]
        return away or [start]

    def episode(self, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Walk from a fresh start; return (positions and velocities [steps + 1, 2] float64, actions [steps, 2] float32)."""
        start = self.pick(self.free)
        goal = self.near(self.pick(self.ends_of(start)))
        need("mujoco").mj_resetData(self.env.model, self.env.data)
        self.env.set_state(self.near(start), np.zeros(2))
        positions, velocities, actions = [self.env.get_xy()], [np.zeros(2)], []
        direction = np.zeros(2)
        for t in range(steps):
            if self.settings.type != "explore":
                direction = oracle_action(self.maze, positions[-1], goal, to_goal=False)
            elif t % EXPLORE_STEPS == 0:
                direction = self.rng.standard_normal(2)
                direction /= np.linalg.norm(direction) + 1e-6
            noisy = direction + self.settings.sigma * self.rng.standard_normal(2)
            action = np.clip(noisy, -1.0, 1.0).astype(np.float32)
            self.env.step(action)
            positions.append(self.env.get_xy())
            velocities.append(self.env.data.qvel.copy())
            actions.append(action)
            if self.settings.type == "navigate" and np.linalg.norm(positions[-1] - goal) <= TOLERANCE:
                goal = self.near(self.pick(self.ends))
        return np.stack(positions), np.stack(velocities), np.stack(actions)


def single_task(data: Dataset, goal: np.ndarray) -> Dataset:
    """Return the data with the reward of one goal [2] m: -1, and 0 where s is at the goal, which ends the trajectory.

    The last row of a trajectory may also be its first: whoever starts at the goal is done. The states behind a success begin
    trajectories of their own, so that no row is lost. Judged on s, as OGBench's single-task sets are.
    """
    success = np.linalg.norm(np.asarray(data.extras["qpos"])[:, :2] - goal, axis=1) <= TOLERANCE
    ends = np.union1d(np.asarray(data.offsets)[1:], np.flatnonzero(success) + 1)
    steps = {key: np.asarray(getattr(data, key)) for key in ("obs", "action", "next_obs")}
    steps |= {"reward": success - 1.0, "terminated": success}
    return from_arrays(steps, np.concatenate([[0], ends]), data.extras)


def generate(settings: PointMazeSettings) -> list[tuple[Dataset, Card]]:
    """Make one dataset; `run.generate` has checked the settings. Raises ConfigError if ogbench is not installed."""
    walk = Walk(make_env(settings.maze, settings.task), settings, np.random.default_rng(settings.seed))
    steps = settings.steps or STEPS[settings.type]
    positions, velocities, actions = zip(*(walk.episode(steps) for _ in range(settings.episodes)), strict=True)
    before, after = (np.concatenate([rows[part] for rows in positions]) for part in (slice(-1), slice(1, None)))
    slow, fast = (np.concatenate([rows[part] for rows in velocities]) for part in (slice(-1), slice(1, None)))
    nothing = np.zeros(len(before))
    arrays = {"obs": before, "action": np.concatenate(actions), "next_obs": after}
    arrays |= {"reward": nothing, "terminated": nothing > 0}
    extras = {"qpos": before, "next_qpos": after, "qvel": slow, "next_qvel": fast}
    data = from_arrays(arrays, np.arange(settings.episodes + 1) * steps, extras)
    notes = ["no rewards: 0 everywhere until goals are drawn in hindsight"]
    if settings.task:
        goal = np.asarray(walk.env.task_infos[settings.task - 1]["goal_xy"], np.float64)
        data = single_task(data, goal)
        notes = [f"trajectories cut where s is within {TOLERANCE:g} m of the goal {goal.tolist()}, judged on s"]
    name = f"pointmaze-{settings.maze}-{settings.type}" + (f"-task{settings.task}" if settings.task else "")
    origin = {
        "env": {"id": walk.env.spec.id, "kwargs": {}},
        "generator": described(settings, "pointmaze"),
        "seed": settings.seed,
        "versions": installed_versions(),
        "notes": tuple(notes),
    }
    how = (
        f"the exact oracle of the map plus N(0, {settings.sigma:g}^2), clipped, by OGBench's rules for {settings.type}"
    )
    if settings.type == "explore":
        how = f"a random direction for {EXPLORE_STEPS} steps plus N(0, {settings.sigma:g}^2), clipped"
    return [(data, make_card(data, name, how, cells=((0, 1), walk.maze.unit), origin=origin))]


def visited_cells(data: Dataset, maze: Maze) -> np.ndarray:
    """Return how often each cell was visited, [rows, columns] int."""
    rows, columns = maze.walls.shape
    return np.bincount(cell_of(maze, np.asarray(data.obs)), minlength=rows * columns).reshape(rows, columns)
