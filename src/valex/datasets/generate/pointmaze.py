"""OGBench's point maze: its environment stepped on the host, its generator's rules, the exact oracle plus Gaussian noise.

a = clip(pi*(s, g) + N(0, sigma^2), -1, 1)
"""

from typing import Any

import numpy as np

from valex.datasets.base import need
from valex.datasets.generate.collect import Made
from valex.datasets.generate.maze import Body, Walk, made, make_env
from valex.datasets.generate.run import described
from valex.settings.datasets import PointMazeSettings


def settle(env: Any, rng: np.random.Generator, xy: np.ndarray) -> None:
    """Put the point at xy [2] m, at rest."""
    need("mujoco").mj_resetData(env.model, env.data)
    env.set_state(xy, np.zeros(2))


POINT = Body(
    "pointmaze",
    settle,
    mean=lambda qpos, qvel, direction: direction,
    obs=lambda qpos, qvel: qpos,
    to_goal=False,
)


def generate(settings: PointMazeSettings) -> Made:
    """Make one dataset; `run.generate` has checked the settings. Raises ConfigError if ogbench is not installed."""
    env = make_env(POINT.kind, settings.maze, settings.task)
    walk = Walk(env, POINT, settings, np.random.default_rng(settings.seed))
    return made(walk, "the exact oracle of the map", described(settings, POINT.kind), [])
