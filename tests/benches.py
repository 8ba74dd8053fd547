"""Small datasets on disk and cells over them, for the tests of everything between a dataset and a trial."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from valex import device
from valex.arenas import Arena, make_arena
from valex.datasets import files
from valex.datasets.card import Card, make_card
from valex.datasets.generate.pointmaze import generate
from valex.offline.data import from_arrays
from valex.play import Lanes
from valex.settings.bottleneck import Cell
from valex.settings.datasets import PointMazeSettings
from valex.settings.offline import AWRConfig, BCConfig, DDPGBCConfig, IQLConfig

FIT = {"hidden": (8,), "activation": "relu", "batch_size": 16, "steps": 20, "lr": 1e-3}
IQL = IQLConfig(**FIT, layer_norm=False)
AWR, DDPG, BC = AWRConfig(**FIT), DDPGBCConfig(**FIT), BCConfig(**FIT)
PENDULUM = {"id": "pendulum", "kwargs": {"episode_length": 12}}


@pytest.fixture(scope="module", autouse=True)
def cheap_programs(compile_cache):
    """Turn most of XLA's optimisations off for a module that imports this, and keep what is compiled: it costs most here."""
    device.set_up_jax()
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the processes that it starts
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def collected(arena: Arena, episodes: int, seed: int = 0):
    """Return a dataset of random actions in an arena whose episodes end by the clock alone."""
    rng, lanes = np.random.default_rng(seed), Lanes(arena, episodes, range(episodes))
    steps = [lanes.step(rng.uniform(-1, 1, (episodes, arena.dims.act))) for _ in range(arena.episode_length)]
    flat = lambda name: np.concatenate([[getattr(s, name)[lane] for s in steps] for lane in range(episodes)])  # noqa: E731
    columns = {name: flat(name) for name in ("obs", "action", "reward", "next_obs", "terminated")}
    return from_arrays(columns, np.arange(episodes + 1) * arena.episode_length, {})


def pendulum_set(path: Path, episodes: int = 10) -> Card:
    """Write random episodes of our pendulum, of twelve steps each; return the card."""
    data = collected(make_arena(PENDULUM), episodes)
    card = make_card(data, "pendulum-random", "random actions", origin={"env": PENDULUM})
    files.write(path, data, card)
    return card


def maze_set(path: Path, task: int = 0, episodes: int = 6, steps: int = 120, sigma: float = 0.5) -> Card:
    """Write walks of the oracle plus noise through OGBench's medium maze; return the card."""
    settings = PointMazeSettings("medium", task=task, episodes=episodes, steps=steps, sigma=sigma)
    ((data, card),) = generate(settings)
    files.write(path, data, card)
    return card


def cell_of(card: Card, **changes) -> Cell:
    """Return a cell over a dataset: IQL and DDPG+BC on half of it, tried three times; of a maze with a short clock."""
    env = {"id": card.env["id"], "kwargs": dict(card.env["kwargs"])}
    if card.name.startswith("pointmaze"):
        env["kwargs"]["max_episode_steps"] = 15
    half = card.sizes["transitions"] // 2
    usual = Cell(card.sha256, json.dumps(env, sort_keys=True), IQL, half, DDPG, half, 0, episodes=3, val_share=0.2)
    return replace(usual, **changes)
