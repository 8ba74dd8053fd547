"""The optimal policy that a dataset's errors are measured against, where one is declared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from valex.arenas import Arena
from valex.datasets.card import Card
from valex.datasets.generate.pointmaze import make_env, maze_of
from valex.offline.oracle import oracle_action


def expert_of(path: Path, card: Card, arena: Arena) -> Callable | None:
    """Return pi*: (obs [N, obs_dim], goal [N, goal_dim] or ()) -> [N, act_dim] in [-1, 1], or None where none is declared.

    A point maze has it in closed form, for its goals or for the goal of its task, and in no other maze than the data's.
    """
    made = card.generator
    if made.get("kind") == "pointmaze" and arena.name == card.env.get("id"):
        env = make_env(made["maze"], made.get("task", 0))
        maze, task = maze_of(env), made.get("task", 0)
        own = np.asarray(env.task_infos[task - 1]["goal_xy"], np.float64) if task else None

        def towards(obs: np.ndarray, goal: Any) -> np.ndarray:
            there = goal if arena.dims.goal else np.broadcast_to(own, (len(obs), 2))
            return np.asarray(
                oracle_action(maze, np.asarray(obs, np.float64), np.asarray(there, np.float64)), np.float32
            )

        return towards if arena.dims.goal or task else None
    return None


def describe(card: Card) -> str:
    """Return in words which optimal policy a card declares, "" for none."""
    return "the exact oracle of the map" if card.generator.get("kind") == "pointmaze" else ""


def env_of(card: Card, env: str | None) -> str:
    """Return the environment that policies are tried in as JSON text: what is named, else the card's; "" for neither."""
    if env is not None:
        return json.dumps({"id": env, "kwargs": {}}, sort_keys=True)
    return json.dumps(card.env, sort_keys=True) if card.env.get("id") else ""
