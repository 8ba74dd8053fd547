"""OGBench's ant maze, walked by an ant that was trained here (`ant.py`) and is told the way by the map.

    a = clip(mu(s, z) + N(0, sigma^2), -1, 1),   z = unit vector to the next cell on a shortest path

The ant is trained once for all datasets that ask for the same training, and kept beside them (`expert.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from valex.datasets.generate.ant import SPEC, directed, make_act, make_recipe, run_config, settle
from valex.datasets.generate.collect import Made
from valex.datasets.generate.expert import EXPERT, Expert, Kept, acting_state, obtain
from valex.datasets.generate.learner import make_agent
from valex.datasets.generate.maze import Body, Walk, made, make_env
from valex.datasets.generate.run import described
from valex.offline.oracle import Maze, oracle_action
from valex.settings.datasets import AntMazeSettings

SIGMA, EXPLORE_SIGMA = 0.2, 1.0  # OGBench's noise
XY = 2  # leading numbers of an observation that the ant does not read
TO_GOAL = False  # in the goal's own cell it walks to the centre of the cell, as OGBench's does
WALKS = 0.5  # m/s below which a card warns


def make_body(mean: Callable) -> Body:
    """Return the ant that acts by mean(obs [29]) -> [8]."""
    return Body(
        "antmaze",
        settle,
        mean=lambda qpos, qvel, direction: mean(directed(qpos, qvel, direction)),
        obs=lambda qpos, qvel: np.concatenate([qpos, qvel], axis=1),
        to_goal=TO_GOAL,
    )


def generate(settings: AntMazeSettings, experts: Path | None = None) -> Made:
    """Make one dataset; `run.generate` has checked the settings. The ant is kept below `experts`, if that is given.

    Raises ConfigError if ogbench is not installed or training diverges.
    """
    if settings.sigma is None:
        settings = replace(settings, sigma=EXPLORE_SIGMA if settings.type == "explore" else SIGMA)
    env, recipe = make_env("antmaze", settings.maze, settings.task), make_recipe(settings)
    trained = obtain(experts, recipe)
    agent = make_agent(run_config(settings), SPEC)
    body = make_body(partial(make_act(agent), acting_state(agent, trained)))
    walk = Walk(env, body, settings, np.random.default_rng(settings.seed))
    generator = described(settings, "antmaze") | {EXPERT: recipe.name}
    return made(walk, "our own ant's mean action", generator, notes(trained))


def notes(trained: Kept) -> list[str]:
    """Return what a card says of the ant."""
    about = trained.about
    said = (
        f"the ant after {about['env_steps']} steps of training: {about['speed']:.2f} m/s along its direction, "
        f"{about['fell']:.0%} of {about['eval_episodes']} episodes ended in a fall"
    )
    slow = [f"the ant has hardly learned to walk: below {WALKS:g} m/s"] if about["speed"] < WALKS else []
    return [said, *slow]


def towards(expert: Expert, maze: Maze) -> Callable:
    """Return pi*(obs [..., 29], goal [..., >= 2] in m) -> [..., 8]: the ant's mean action on the way to a goal of the maze."""

    def act(obs: Any, goal: Any) -> Any:
        direction = oracle_action(maze, obs, goal, TO_GOAL)
        return expert(jnp.concatenate([obs[..., XY:], direction], axis=-1))

    return act
