"""dm_control on the host: flat observations, the physics state of every step, rewards worked out again from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from valex.datasets.base import need
from valex.datasets.generate.host import Outcome
from valex.fields import ConfigError
from valex.types import EnvSpec

DOMAINS = ("walker", "cheetah")


@dataclass
class World:
    """One environment of dm_control, stepped by hand."""

    env: Any
    spec: EnvSpec
    names: tuple[str, ...]  # of the entries of its observation, in their order
    steps: int = 0

    def reset(self) -> np.ndarray:
        """Begin an episode; return the observation [obs_dim] float32."""
        self.steps = 0
        return self._flat(self.env.reset())

    def step(self, action: np.ndarray) -> Outcome:
        """Take a control step; no task here terminates."""
        self.steps += 1
        moment = self.env.step(action)
        clock = bool(moment.last()) or self.steps >= self.spec.episode_length
        return Outcome(self._flat(moment), float(moment.reward), False, clock)

    def simulator(self) -> dict[str, np.ndarray]:
        """Return positions and velocities, `physics` [n] float64."""
        return {"physics": self.env.physics.get_state()}

    def _flat(self, moment: Any) -> np.ndarray:
        parts = [np.atleast_1d(np.asarray(moment.observation[name], np.float32)).ravel() for name in self.names]
        return np.concatenate(parts)


def make_world(domain: str, task: str, seed: int, episode_length: int | None = None) -> World:
    """Build a task of dm_control; its observation is flattened in its own order, positions before velocities.

    Raises ConfigError if dm_control is not installed, or has no such task.
    """
    if domain not in DOMAINS:
        raise ConfigError(f"env: dm_control/{domain} is not known; choose one of {', '.join(DOMAINS)}")
    suite = need("dm_control.suite")
    try:
        env = suite.load(domain, task, task_kwargs={"random": seed})
    except ValueError as error:
        tasks = sorted(name for of, name in suite.BENCHMARKING if of == domain)
        raise ConfigError(f"task: {task!r} is no task of {domain}; choose one of {', '.join(tasks)}") from error
    shapes = env.observation_spec()
    obs_dim = sum(int(np.prod(shape.shape)) for shape in shapes.values())
    length = round(env._step_limit) if episode_length is None else episode_length
    dt, act_dim = env.control_timestep(), env.action_spec().shape[0]
    spec = EnvSpec(f"dm_control/{domain}", obs_dim, act_dim, 0, length, 1, dt, "mujoco", False)
    return World(env, spec, tuple(shapes))


def relabelled(world: World, physics: np.ndarray) -> np.ndarray:
    """Return the reward of the world's task for having come to each of `physics` [N, n], [N] float32.

    Those rewards of dm_control's walker and cheetah depend on the successor alone. The world is left as it was.
    """
    env = world.env
    before = env.physics.get_state()
    rewards = np.empty(len(physics), np.float32)
    for i, state in enumerate(physics):
        with env.physics.reset_context():
            env.physics.set_state(state)
        rewards[i] = env.task.get_reward(env.physics)
    with env.physics.reset_context():
        env.physics.set_state(before)
    return rewards
