"""OGBench's cube and scene, worked by OGBench's own scripted oracles: task after task, for a thousand steps.

    play   a plan over key poses with correlated noise, followed without looking back
    noisy  a closed loop with noise on its actions,  a = clip(oracle + N(0, (x, x, x, 3 x, 10 x)^2), -1, 1),
           x ~ U(0, sigma) for an episode, and now and then a uniformly random action

After OGBench (Park et al. 2024, arXiv 2410.20092), data_gen_scripts/generate_manipspace.py. Different: no episode is thrown
away for where its cube ended up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from valex.datasets.base import NEXT, need
from valex.datasets.card import make_card
from valex.datasets.generate.collect import Made, origin
from valex.datasets.generate.run import described
from valex.offline.data import from_arrays
from valex.settings.datasets import ManipulationSettings

OBJECTS = {"cube-single": ("cube",), "scene": ("cube", "button", "drawer", "window")}
NOISE_UNITS = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # of x, y, z, yaw, gripper
SMOOTHING = 0.5  # of the plan's noise, steps
MIN_NORM = 0.4  # least distance that the closed loop takes for its distance to where it goes
SCENE_STEPS = 100  # after which the closed loop gives up a cube in the scene


@contextmanager
def global_numpy(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which the oracles draw from, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def make_oracles(env: Any, settings: ManipulationSettings) -> dict[str, Any]:
    """Build OGBench's oracle of every object, by the object's name."""
    way, name = ("plan", "Plan") if settings.type == "play" else ("markov", "Markov")
    oracles = {}
    for thing in OBJECTS[settings.env]:
        made = getattr(need(f"ogbench.manipspace.oracles.{way}.{thing}_{way}"), f"{thing.title()}{name}Oracle")
        if settings.type == "play":
            oracles[thing] = made(env=env, noise=settings.sigma, noise_smoothing=SMOOTHING)
        elif thing == "cube" and settings.env == "scene":
            oracles[thing] = made(env=env, min_norm=MIN_NORM, max_step=SCENE_STEPS)
        else:
            oracles[thing] = made(env=env, min_norm=MIN_NORM)
    return oracles


def simulator(env: Any) -> dict[str, np.ndarray]:
    """Return what OGBench keeps of a state beside its observation."""
    kept = {"qpos": env._data.qpos.copy(), "qvel": env._data.qvel.copy()}
    if hasattr(env, "_cur_button_states"):
        kept["button_states"] = np.array(env._cur_button_states)
    return kept


def episode(
    env: Any, oracles: dict[str, Any], settings: ManipulationSettings, seed: int
) -> list[dict[str, np.ndarray]]:
    """Work for one episode; return its steps."""
    with global_numpy(seed):
        ob, info = env.reset(seed=seed)
        oracle, rows = oracles[info["privileged/target_task"]], []
        oracle.reset(ob, info)
        loud = np.random.uniform(0, settings.sigma) * NOISE_UNITS
        before = simulator(env)
        for _ in range(settings.steps):
            if np.random.rand() < settings.random_actions:
                action = np.random.uniform(-1, 1, 5)
            else:
                action = np.array(oracle.select_action(ob, info))
                action = action + np.random.normal(0, loud) if settings.type == "noisy" else action
            action = np.clip(action, -1, 1).astype(np.float32)
            following, _, _, _, info = env.step(action)
            after = simulator(env)
            row = {"obs": ob, "action": action, "next_obs": following} | before
            rows.append(row | {NEXT + name: value for name, value in after.items()})
            ob, before = following, after
            if oracle.done:
                now, told = env.set_new_target()
                oracle = oracles[told["privileged/target_task"]]
                oracle.reset(now, told)
        return rows


def generate(settings: ManipulationSettings) -> Made:
    """Make one dataset; `run.generate` has checked the settings. Raises ConfigError if ogbench is not installed."""
    need("ogbench")
    name = f"{settings.env}-v0"
    built = {"terminate_at_goal": False, "mode": "data_collection"}
    env = need("gymnasium").make(name, **built).unwrapped
    oracles = make_oracles(env, settings)
    seeds = np.random.SeedSequence(settings.seed).generate_state(settings.episodes).tolist()
    rows = [row for seed in seeds for row in episode(env, oracles, settings, seed)]
    arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    steps = {key: arrays.pop(key) for key in ("obs", "action", "next_obs")}
    steps |= {"reward": np.zeros(len(rows)), "terminated": np.zeros(len(rows), bool)}
    data = from_arrays(steps, np.arange(settings.episodes + 1) * settings.steps, arrays)
    notes = ["no rewards: 0 everywhere until goals are drawn in hindsight"]
    source = origin({"id": name, "kwargs": built}, described(settings, "manipulation"), settings.seed, notes)
    how = f"OGBench's scripted oracles, {settings.type}, sigma {settings.sigma:g}"
    return [(data, make_card(data, f"{settings.env}-{settings.type}", how, origin=source))]
