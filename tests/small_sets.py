"""The smallest settings of every generator of datasets."""

from dataclasses import replace

import pytest

from valex.settings.datasets import (
    AntMazeSettings,
    ExplorationSettings,
    LocomotionSettings,
    ManipulationSettings,
    PointMazeSettings,
)
from valex.tables import GENERATORS, load

LOCOMOTION = LocomotionSettings(
    env="pendulum", type="all", sigma=0.3, transitions=200, hidden=(8,), train_steps=600, train_envs=2, checks=3,
    collect_envs=2, episode_length=25, reference_episodes=2,
)  # fmt: skip
SMALL = {
    "manipulation": ManipulationSettings(episodes=2, steps=25),
    "pointmaze": PointMazeSettings("medium", episodes=4, steps=30),
    "antmaze": AntMazeSettings(
        "medium", episodes=2, steps=30, train_steps=240, hidden=(8,), batch_size=16, warmup_steps=100
    ),
    "locomotion": replace(LOCOMOTION, type="medium"),
    "exploration": ExplorationSettings(
        "pendulum",
        transitions=200,
        hidden=(8,),
        features=4,
        batch_size=16,
        warmup_steps=64,
        num_envs=2,
        episode_length=25,
    ),
}
NEEDS = {
    "pointmaze": "ogbench",
    "antmaze": "ogbench",
    "manipulation": "ogbench",
    "exploration dm_control": "dm_control",
}


def make(kind: str, chosen):
    for package in [NEEDS[name] for name in (kind,) if name in NEEDS]:
        pytest.importorskip(package, reason="pip install 'valex[offline]'")
    return load(GENERATORS, kind)(chosen)
