"""OGBench's mazes, whatever walks in them: starts, goals, the way between them, and the reward of one goal.

    a = clip(mu(s, z) + N(0, sigma^2), -1, 1),   z = unit vector to the next cell on a shortest path

Starts are any free cell, goals any that is no hallway, both moved by up to a quarter of a cell on either axis.
Source: OGBench (Park et al. 2024, arXiv 2410.20092), data_gen_scripts/generate_locomaze.py, as described there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from valex.datasets.base import NEXT, need
from valex.datasets.card import make_card
from valex.datasets.generate.collect import Made, origin
from valex.offline.data import Dataset, from_arrays
from valex.offline.oracle import Maze, cells_from, centre_of, make_maze, oracle_action

STEPS = {"navigate": 1_000, "path": 1_000, "stitch": 200, "explore": 500}
GIANT_STEPS = 2_000  # of navigate and path in the giant maze
STITCH_CELLS = 4  # how far away a goal of `stitch` is, in cells
EXPLORE_STEPS = 10  # how long `explore` keeps a direction
JITTER = 0.25  # of a cell: how far starts and goals are moved from its centre on either axis


class Body(NamedTuple):
    """What walks."""

    kind: str  # generator, and the first word of OGBench's ids
    settle: Callable  # (env, rng, xy [2]) -> None; put it at a start
    mean: Callable  # (qpos, qvel, direction [2]) -> action [act_dim] before the noise
    obs: Callable  # (qpos [N, nq], qvel [N, nv]) -> [N, obs_dim]
    to_goal: bool  # in the goal's own cell it goes to the goal; False: to the centre of the cell, as OGBench's


def make_env(kind: str, maze: str, task: int = 0) -> Any:
    """Build OGBench's environment, without clock and reset wrappers. Raises ConfigError if ogbench is not installed."""
    need("ogbench")
    name = f"{kind}-{maze}-singletask-task{task}-v0" if task else f"{kind}-{maze}-v0"
    return need("gymnasium").make(name).unwrapped


def maze_of(env: Any) -> Maze:
    """Return the map of an environment."""
    return make_maze(env.maze_map == 1, float(env._maze_unit), float(env._offset_x))


def hallway(walls: np.ndarray, i: int, j: int) -> bool:
    """Return whether the free cell (i, j) has free cells on exactly two sides, opposite each other."""
    up, down, left, right = walls[i - 1, j], walls[i + 1, j], walls[i, j - 1], walls[i, j + 1]
    return bool((up and down and not left and not right) or (left and right and not up and not down))


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """Draw a unit vector [2], every direction alike."""
    direction = rng.standard_normal(2)
    return direction / (np.linalg.norm(direction) + 1e-6)


@dataclass
class Walk:
    """One maze, and what is drawn in it."""

    env: Any
    body: Body
    settings: Any  # of a maze's generator, sigma a number
    rng: np.random.Generator
    maze: Maze = field(init=False)
    asked: int = 0  # goals that were walked to
    reached: int = 0  # of them

    def __post_init__(self) -> None:
        self.maze = maze_of(self.env)
        walls = self.maze.walls
        self.free = [(int(i), int(j)) for i, j in zip(*np.nonzero(~walls), strict=True)]
        self.ends = [cell for cell in self.free if not hallway(walls, *cell)]

    @property
    def tolerance(self) -> float:
        """Return how far from the goal still counts as there, m."""
        return float(self.env._goal_tol)

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
        """Walk from a fresh start; return (qpos [steps + 1, nq], qvel [steps + 1, nv], actions [steps, act_dim] float32)."""
        kind, data = self.settings.type, self.env.data
        start = self.pick(self.free)
        goal, waiting = self.near(self.pick(self.ends_of(start))), kind != "explore"
        self.asked += waiting
        self.body.settle(self.env, self.rng, self.near(start))
        positions, velocities, actions = [data.qpos.copy()], [data.qvel.copy()], []
        direction = np.zeros(2)
        for t in range(steps):
            if kind != "explore":
                direction = oracle_action(self.maze, positions[-1], goal, self.body.to_goal)
            elif t % EXPLORE_STEPS == 0:
                direction = random_direction(self.rng)
            mean = self.body.mean(positions[-1], velocities[-1], direction)
            noisy = mean + self.settings.sigma * self.rng.standard_normal(len(mean))
            action = np.clip(noisy, -1.0, 1.0).astype(np.float32)
            self.env.step(action)
            positions.append(data.qpos.copy())
            velocities.append(data.qvel.copy())
            actions.append(action)
            if waiting and np.linalg.norm(positions[-1][:2] - goal) <= self.tolerance:
                self.reached += 1
                waiting = kind == "navigate"
                if waiting:
                    goal = self.near(self.pick(self.ends))
                    self.asked += 1
        return np.stack(positions), np.stack(velocities), np.stack(actions)


def single_task(data: Dataset, goal: np.ndarray, tolerance: float) -> Dataset:
    """Return the data with the reward of one goal [2] m: -1, and 0 where s is at the goal, which ends the trajectory.

    The last row of a trajectory may also be its first: whoever starts at the goal is done. The states behind a success begin
    trajectories of their own, so that no row is lost. Judged on s, as OGBench's single-task sets are.
    """
    success = np.linalg.norm(np.asarray(data.extras["qpos"])[:, :2] - goal, axis=1) <= tolerance
    ends = np.union1d(np.asarray(data.offsets)[1:], np.flatnonzero(success) + 1)
    steps = {key: np.asarray(getattr(data, key)) for key in ("obs", "action", "next_obs")}
    steps |= {"reward": success - 1.0, "terminated": success}
    return from_arrays(steps, np.concatenate([[0], ends]), data.extras)


def collected(walk: Walk) -> Dataset:
    """Walk all episodes of the settings; no rewards."""
    settings = walk.settings
    long = GIANT_STEPS if settings.maze == "giant" and settings.type in ("navigate", "path") else STEPS[settings.type]
    steps = settings.steps or long
    positions, velocities, actions = zip(*(walk.episode(steps) for _ in range(settings.episodes)), strict=True)
    extras = {}
    for name, rows in (("qpos", positions), ("qvel", velocities)):
        extras |= {name: np.concatenate([x[:-1] for x in rows]), NEXT + name: np.concatenate([x[1:] for x in rows])}
    nothing = np.zeros(len(extras["qpos"]))
    arrays = {
        "obs": walk.body.obs(extras["qpos"], extras["qvel"]),
        "action": np.concatenate(actions),
        "next_obs": walk.body.obs(extras[NEXT + "qpos"], extras[NEXT + "qvel"]),
        "reward": nothing,
        "terminated": nothing > 0,
    }
    return from_arrays(arrays, np.arange(settings.episodes + 1) * steps, extras)


def made(walk: Walk, who: str, generator: dict[str, Any], notes: list[str]) -> Made:
    """Return the dataset of a walk and its card; `who` acts, `generator` and `notes` are what the card says of it."""
    settings, kind = walk.settings, walk.body.kind
    data = collected(walk)
    if settings.task:
        goal = np.asarray(walk.env.task_infos[settings.task - 1]["goal_xy"], np.float64)
        data = single_task(data, goal, walk.tolerance)
        about = f"trajectories cut where s is within {walk.tolerance:g} m of the goal {goal.tolist()}, judged on s"
    else:
        about = "no rewards: 0 everywhere until goals are drawn in hindsight"
    reached = [f"{walk.reached} of {walk.asked} goals reached within {walk.tolerance:g} m"] if walk.asked else []
    name = f"{kind}-{settings.maze}-{settings.type}" + (f"-task{settings.task}" if settings.task else "")
    how = f"{who} plus N(0, {settings.sigma:g}^2), clipped, by OGBench's rules for {settings.type}"
    if settings.type == "explore":
        how = f"{who} in a random direction for {EXPLORE_STEPS} steps plus N(0, {settings.sigma:g}^2), clipped"
    source = origin({"id": walk.env.spec.id, "kwargs": {}}, generator, settings.seed, [about, *reached, *notes])
    return [(data, make_card(data, name, how, cells=((0, 1), walk.maze.unit), origin=source))]
