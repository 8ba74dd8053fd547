"""The optimal policy that a dataset's errors are measured against, where one is declared."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from valex.arenas import Arena
from valex.datasets.card import Card
from valex.datasets.generate.antmaze import towards
from valex.datasets.generate.expert import EXPERT, load_expert
from valex.datasets.generate.maze import make_env, maze_of
from valex.fields import ConfigError
from valex.offline.oracle import oracle_action

MAZES = ("pointmaze", "antmaze")  # generators whose expert is told a goal


def expert_of(path: Path, card: Card, arena: Arena) -> Callable | None:
    """Return pi*: (obs [N, obs_dim], goal [N, goal_dim] or ()) -> [N, act_dim] in [-1, 1], or None where none is declared.

    A point maze has it in closed form, an ant maze by the ant that made the data, for their goals or for the goal of their
    task, and in no other maze than the data's; locomotion, of our environments and of Gymnasium's, has the agent that made
    the data. None also where that agent is not beside the data.
    """
    made = card.generator
    try:
        agent = load_expert(path) if EXPERT in made else None
    except ConfigError:
        return None
    if made.get("kind") in MAZES and arena.name == card.env.get("id"):
        task = made.get("task", 0)
        env = make_env(made["kind"], made["maze"], task)
        maze = maze_of(env)
        own = np.asarray(env.task_infos[task - 1]["goal_xy"] if task else (0.0, 0.0), np.float64)
        act = towards(agent, maze) if agent else partial(oracle_action, maze)

        def pursue(obs: np.ndarray, goal: Any) -> np.ndarray:
            there = goal if arena.dims.goal else np.broadcast_to(own, (len(obs), 2))
            return np.asarray(act(np.asarray(obs, np.float64), np.asarray(there, np.float64)), np.float32)

        return pursue if arena.dims.goal or task else None
    if agent is None or made.get("kind") in MAZES:
        return None
    return lambda obs, goal: np.asarray(agent(np.asarray(obs, np.float32)))


def describe(card: Card) -> str:
    """Return in words which optimal policy a card declares, "" for none."""
    made = card.generator
    if EXPERT in made:
        return "the agent that made the data, its mean action" + (
            " on the map's shortest path" if made["kind"] in MAZES else ""
        )
    return "the exact oracle of the map" if made.get("kind") == "pointmaze" else ""


def env_of(card: Card, env: str | None) -> str:
    """Return the environment that policies are tried in as JSON text: what is named, else the card's; "" for neither."""
    if env is not None:
        return json.dumps({"id": env, "kwargs": {}}, sort_keys=True)
    return json.dumps(card.env, sort_keys=True) if card.env.get("id") else ""
