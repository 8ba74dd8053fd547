"""An ant that goes where it is pointed: OGBench's directional task, learned here by SAC while MuJoCo steps on the host.

    obs = (qpos without xy [13], qvel [14], unit direction z [2]),   r = (xy' - xy) . z  in m

A new direction for every episode and every 100 control steps in it; the task ends where the torso leaves (0.2, 1) m above the
ground, the clock after 1000 control steps of 0.1 s. Source: OGBench (Park et al. 2024, arXiv 2410.20092), online-ant-xy-v0:
gymnasium's online-ant-v0 in online_locomotion/wrappers.py, trained for 400,000 steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from valex.config import PRESETS
from valex.datasets.base import need
from valex.datasets.generate.expert import Kept, Recipe, acting, built_for, make_mean
from valex.datasets.generate.host import Outcome
from valex.datasets.generate.learner import make_learner
from valex.datasets.generate.legs import Look, Plan, is_finite, train_in_legs
from valex.datasets.generate.maze import random_direction
from valex.fields import ConfigError
from valex.settings import RunConfig
from valex.settings.datasets import AntMazeSettings
from valex.types import Agent, EnvSpec

RESAMPLE = 100  # control steps for which a direction holds
LEG_STEPS = 20_000  # control steps between checkpoints; episodes are cut there, so it is a part of the recipe
INIT_ALPHA = 0.1  # temperature at the start: rewards are tenths of a metre, an entropy of 5 nats at 1 would drown them
RESET_NOISE = 0.1  # of positions, uniform, and of velocities, Gaussian
EVAL_EPISODES = 5
SPEC = EnvSpec("online-ant-xy", 29, 8, 0, 1_000, 1, 0.1, "mujoco", False)


def settle(env: Any, rng: np.random.Generator, xy: np.ndarray | None = None) -> None:
    """Put the ant of a MuJoCo environment into a fresh start, its torso at xy [2] m where that is given."""
    need("mujoco").mj_resetData(env.model, env.data)
    qpos = env.init_qpos + rng.uniform(-RESET_NOISE, RESET_NOISE, env.model.nq)
    if xy is not None:
        qpos[:2] = xy
    env.set_state(qpos, env.init_qvel + RESET_NOISE * rng.standard_normal(env.model.nv))


def directed(qpos: np.ndarray, qvel: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return what the ant's policy reads, [29] float32, of qpos [15], qvel [14] and a unit direction [2]."""
    return np.concatenate([qpos[2:], qvel, direction]).astype(np.float32)


@dataclass
class DirectedAnt:
    """The directional task, stepped by hand."""

    env: Any
    rng: np.random.Generator
    spec: EnvSpec = SPEC
    steps: int = 0
    direction: np.ndarray | None = None

    def reset(self) -> np.ndarray:
        """Begin an episode with a direction of its own; return the observation [29] float32."""
        settle(self.env, self.rng)
        self.steps, self.direction = 0, random_direction(self.rng)
        return self._obs()

    def step(self, action: np.ndarray) -> Outcome:
        """Take a control step; its reward is in m along the direction that the action was chosen for."""
        before = self.env.data.qpos[:2].copy()
        _, _, terminated, _, _ = self.env.step(action)
        self.steps += 1
        reward = float((self.env.data.qpos[:2] - before) @ self.direction)
        if self.steps % RESAMPLE == 0:
            self.direction = random_direction(self.rng)
        return Outcome(self._obs(), reward, bool(terminated), self.steps >= self.spec.episode_length)

    def simulator(self) -> dict[str, np.ndarray]:
        """Return nothing: no row of training is kept."""
        return {}

    def _obs(self) -> np.ndarray:
        assert self.direction is not None
        return directed(self.env.data.qpos, self.env.data.qvel, self.direction)


def make_directed_ant(seed: int) -> DirectedAnt:
    """Build the task. Raises ConfigError if ogbench is not installed."""
    need("ogbench.online_locomotion")
    env = need("gymnasium").make("online-ant-v0").unwrapped
    return DirectedAnt(env, np.random.default_rng(seed))


def run_config(settings: AntMazeSettings) -> RunConfig:
    """Return the config that the ant is trained with."""
    base = PRESETS["sac"]
    agent = replace(base.agent, hidden=settings.hidden, actor_lr=settings.lr, critic_lr=settings.lr)
    agent = replace(agent, alpha_lr=settings.lr, init_alpha=INIT_ALPHA)
    return replace(base, agent=agent, train=replace(base.train, batch_size=settings.batch_size))


def make_recipe(settings: AntMazeSettings) -> Recipe:
    """Return how the ant of the settings is made: of what concerns its training, and of nothing else."""
    config = run_config(settings)
    named = ("train_steps", "warmup_steps", "update_every", "expert_seed")
    made_of = {"kind": "antmaze", **built_for(config.agent, SPEC), "batch_size": settings.batch_size}
    made_of |= {"gamma": config.gamma, "leg_steps": LEG_STEPS, **{name: getattr(settings, name) for name in named}}
    return Recipe(made_of, partial(train, settings))


def make_act(agent: Agent) -> Callable:
    """Compile (agent's state, obs [29]) -> mean action [8] float32, on the host."""
    mean = jax.jit(make_mean(agent))
    return lambda state, obs: np.asarray(mean(state, obs))


def measure(world: DirectedAnt, act: Callable, episodes: int) -> dict[str, float]:
    """Walk `episodes` by act(obs) -> action; return their mean return in m, speed in m/s along z, share that fell."""
    returns, steps, fell = 0.0, 0, 0
    for _ in range(episodes):
        obs, out = world.reset(), None
        while out is None or not (out.terminated or out.truncated):
            out = world.step(act(obs))
            obs, returns, steps = out.obs, returns + out.reward, steps + 1
        fell += out.terminated
    speed = returns / (steps * world.spec.dt)
    return {"episode_return": returns / episodes, "speed": speed, "fell": fell / episodes}


def train(settings: AntMazeSettings, folder: Path | None) -> Kept:
    """Train the ant in legs; with a folder it goes on from the checkpoint there. A checkpoint holds 270 B for each step.

    Raises ConfigError if training diverges.
    """
    world = make_directed_ant(settings.expert_seed)
    learner = make_learner(run_config(settings), SPEC, (settings.train_steps, 1))
    act = make_act(learner.agent)

    def look(state: Any, done: int) -> Look:
        if not is_finite(state):
            raise ConfigError(f"lr: the ant's numbers are not finite after {done} steps; lower it from {settings.lr:g}")
        row = measure(world, partial(act, state), EVAL_EPISODES)
        said = f"ant: {done} of {settings.train_steps} steps, {row['speed']:.2f} m/s along its direction"
        return Look(row, said, {})

    plan = Plan(settings.train_steps, LEG_STEPS, settings.warmup_steps, settings.update_every, settings.expert_seed)
    trained = train_in_legs(learner, world, plan, look, folder)
    about: dict[str, Any] = {"eval_episodes": EVAL_EPISODES, "curve": trained.curve} | trained.curve[-1]
    return Kept(acting(trained.state.agent), about)
