"""The optimal policy of a point in a maze, in closed form: towards the next cell of a shortest path."""

from collections import deque
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))  # (row, column), in the order that settles ties


class Maze(NamedTuple):
    """A grid of cells, row i along y and column j along x, and where each step of a shortest path leads."""

    walls: Any  # [rows, columns] bool
    unit: float  # m, side of a cell
    origin: float  # m, cell (i, j) has its centre at x = unit j - origin, y = unit i - origin
    following: Any  # [cells, cells] int32, the cell after [start] on the way to [goal], cells counted row by row


def cells_from(walls: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Return the steps from `start` to every cell over free cells [rows, columns] int, -1 where there is no way."""
    steps = np.full(walls.shape, -1)
    steps[start] = 0
    queue = deque([start])
    while queue:
        i, j = queue.popleft()
        for di, dj in NEIGHBOURS:
            cell = i + di, j + dj
            inside = 0 <= cell[0] < walls.shape[0] and 0 <= cell[1] < walls.shape[1]
            if inside and not walls[cell] and steps[cell] < 0:
                steps[cell] = steps[i, j] + 1
                queue.append(cell)
    return steps


def make_maze(walls: np.ndarray, unit: float, origin: float) -> Maze:
    """Work out the next cell from every cell to every other by breadth-first search; walls lead to themselves."""
    walls = np.asarray(walls, bool)
    rows, columns = walls.shape
    count = rows * columns
    following = np.tile(np.arange(count, dtype=np.int32)[:, None], (1, count))
    for goal in zip(*np.nonzero(~walls), strict=True):
        steps = cells_from(walls, (int(goal[0]), int(goal[1])))
        for i, j in zip(*np.nonzero(steps > 0), strict=True):
            near = [(i + di, j + dj) for di, dj in NEIGHBOURS if 0 <= i + di < rows and 0 <= j + dj < columns]
            best = min((cell for cell in near if steps[cell] >= 0), key=lambda cell: steps[cell])
            following[i * columns + j, goal[0] * columns + goal[1]] = best[0] * columns + best[1]
    return Maze(walls, unit, origin, following)


def cell_of(maze: Maze, xy: Any) -> Any:
    """Return the cell of positions [..., 2] in m, counted row by row, [...] int32; beyond the grid its nearest cell."""
    rows, columns = maze.walls.shape
    place = ((xy + maze.origin + 0.5 * maze.unit) // maze.unit).astype(np.int32)
    return place[..., 1].clip(0, rows - 1) * columns + place[..., 0].clip(0, columns - 1)


def centre_of(maze: Maze, cell: Any) -> Any:
    """Return the centre of cells [...], [..., 2] in m."""
    xp = jnp if isinstance(cell, jax.Array) else np
    columns = maze.walls.shape[1]
    return xp.stack([cell % columns, cell // columns], axis=-1) * maze.unit - maze.origin


def oracle_action(maze: Maze, obs: Any, goal: Any, to_goal: bool = True) -> Any:
    """Return pi*(obs, goal), the unit vector towards the next cell on a shortest path [..., 2]; obs, goal [..., >= 2] in m.

        a = (c - s) / (|c - s| + 1e-6),   c = centre of the next cell, in the goal's own cell the goal

    to_goal False: there, too, the centre of the cell, as OGBench's generator goes; with goals drawn up to 1 m from it on
    either axis and a tolerance of 1 m, one goal in five is then reached by noise alone.
    Works on numpy arrays, and on jax arrays also when compiled. Source: OGBench 1.2, locomaze/maze.py, get_oracle_subgoal.
    """
    xp = jnp if isinstance(obs, jax.Array) or isinstance(goal, jax.Array) else np
    here, there = obs[..., :2], goal[..., :2]
    start, end = cell_of(maze, here), cell_of(maze, there)
    aim = centre_of(maze, xp.asarray(maze.following)[start, end])
    if to_goal:
        aim = xp.where((start == end)[..., None], there, aim)
    towards = aim - here
    return towards / (xp.linalg.norm(towards, axis=-1, keepdims=True) + 1e-6)
