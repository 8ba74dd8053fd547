"""Probe environments: the smallest tasks whose values are known, each of which one kind of mistake gets wrong.

One observation o, one action a in [-1, 1], exact values in the table `PROBES`. `<probe>_discrete` is the same with the five
actions a = -1, -0.5, 0, 0.5, 1, so that the best one is among them. Where an episode ends, the observation
shows nothing of it: a learner that bootstraps where it must not, or does not where it must, finds another value.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import native_env, resolve
from valex.settings import EnvConfig
from valex.types import Array, Env, EnvSpec, StepOut


class Probe(NamedTuple):
    """One probe: its dynamics and what a learner has to find; o and a are scalars."""

    starts: tuple[float, ...]  # observations, one of which a reset draws, all equally likely
    reward: Callable  # (o, a) -> reward
    successor: Callable  # (o) -> next o
    ends: Callable  # (o) -> bool, whether the step taken at o terminates
    episode_length: int  # control steps until the clock truncates
    values: Callable  # (gamma) -> {o: V(o)} of the best policy, entropy bonus left out
    best_action: Callable | None  # (o) -> action in [-1, 1]; None where every action is as good
    checks: str  # what has gone wrong when this one is not learned


def _stay(o):
    return o


def _at_once(o):
    return jnp.ones((), bool)


PROBES = {
    "probe_constant": Probe(
        starts=(0.0,),
        reward=lambda o, a: jnp.ones(()),
        successor=_stay,
        ends=_at_once,
        episode_length=10,
        values=lambda gamma: {0.0: 1.0},
        best_action=None,
        checks="the critic's loss and optimiser; V = 1 / (1 - gamma) if it bootstraps beyond the end",
    ),
    "probe_obs": Probe(
        starts=(-1.0, 1.0),
        reward=lambda o, a: o,
        successor=_stay,
        ends=_at_once,
        episode_length=10,
        values=lambda gamma: {-1.0: -1.0, 1.0: 1.0},
        best_action=None,
        checks="the critic sees the observation that belongs to the reward; V = 0 if rows are mixed up",
    ),
    "probe_delay": Probe(
        starts=(0.0,),
        reward=lambda o, a: o,
        successor=lambda o: jnp.ones(()),
        ends=lambda o: o > 0.5,
        episode_length=10,
        values=lambda gamma: {0.0: gamma, 1.0: 1.0},
        best_action=None,
        checks="one discount per step, and the bootstrap at the next observation",
    ),
    "probe_action": Probe(
        starts=(0.0,),
        reward=lambda o, a: 1.0 - (a - 0.5) ** 2,
        successor=_stay,
        ends=_at_once,
        episode_length=10,
        values=lambda gamma: {0.0: 1.0},
        best_action=lambda o: 0.5,
        checks="the actor climbs the critic",
    ),
    "probe_both": Probe(
        starts=(-1.0, 1.0),
        reward=lambda o, a: o - (a - 0.5 * o) ** 2,
        successor=_stay,
        ends=_at_once,
        episode_length=10,
        values=lambda gamma: {-1.0: -1.0, 1.0: 1.0},
        best_action=lambda o: 0.5 * o,
        checks="actor and critic see the same observation",
    ),
    "probe_clock": Probe(
        starts=(0.0,),
        reward=lambda o, a: jnp.ones(()),
        successor=_stay,
        ends=lambda o: jnp.zeros((), bool),
        episode_length=5,
        values=lambda gamma: {0.0: 1.0 / (1.0 - gamma)},
        best_action=None,
        checks="truncation still bootstraps; V <= 5 if it is taken for termination",
    ),
}


class ProbeState(NamedTuple):
    """The observation, which is all there is."""

    o: Array  # []


NUM_ACTIONS = 5  # of a discrete probe


def make_probe(config: EnvConfig) -> Env:
    """Build the probe that `config.name` names; o' is reached whether or not the step terminates.

    | probe          | reward          | ends        | V                    | best action |
    | probe_constant | 1               | at once     | 1                    | any         |
    | probe_obs      | o = -1 or 1     | at once     | V(o) = o             | any         |
    | probe_delay    | o, first 0      | at o = 1    | V(0) = gamma, V(1) = 1 | any       |
    | probe_action   | 1 - (a - .5)^2  | at once     | 1                    | .5          |
    | probe_both     | o - (a - .5 o)^2 | at once    | V(o) = o             | .5 o        |
    | probe_clock    | 1               | never       | 1 / (1 - gamma)      | any         |

    V is that of the best policy without entropy bonus. Defaults: 10 steps, probe_clock 5. With the suffix `_discrete` action
    i = 0..4 is a = -1 + i / 2.
    Raises ValueError for action_repeat > 1: the values would be others.
    """
    discrete = config.name.endswith("_discrete")
    probe = PROBES[config.name.removesuffix("_discrete")]
    choices = resolve(config, ("jax",), episode_length=probe.episode_length)
    if choices.action_repeat != 1:
        raise ValueError(
            f"env.action_repeat: got {choices.action_repeat}, {config.name} allows: 1, for its values to hold"
        )

    def reset(key):
        return ProbeState(jax.random.choice(key, jnp.array(probe.starts)))

    def obs(state):
        return state.o[None]

    def terminated(obs, action, next_obs):
        return probe.ends(obs[0])

    def step(key, state, action):
        successor = ProbeState(probe.successor(state.o))
        a = action / 2.0 - 1.0 if discrete else action[0]
        return successor, StepOut(obs(successor), probe.reward(state.o, a), probe.ends(state.o))

    spec = EnvSpec(
        name=config.name,
        obs_dim=1,
        act_dim=0 if discrete else 1,
        num_actions=NUM_ACTIONS if discrete else 0,
        episode_length=choices.episode_length,
        action_repeat=1,
        dt=1.0,
        backend=choices.backend,
        differentiable=not discrete,
    )
    return native_env(spec, reset, step, obs, terminated)
