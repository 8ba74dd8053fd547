"""What one update on data reads, and the sizes of its arrays."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from valex.types import Array


class Dims(NamedTuple):
    """How many numbers an observation, an action and a goal have."""

    obs: int
    act: int
    goal: int = 0  # 0: there are no goals


class Batch(NamedTuple):
    """B rows of data. With goals, `reward` and `terminated` are those of the goal and not of the task."""

    obs: Array  # [B, obs_dim]
    action: Array  # [B, act_dim] in [-1, 1]
    reward: Array  # [B] per control step
    next_obs: Array  # [B, obs_dim] the true successor
    terminated: Array  # [B] bool, or 0. and 1. (1 - mask): no bootstrap
    next_action: Array  # [B, act_dim] what the data did at next_obs; anything finite where there is no such row
    has_next: Array  # [B] bool, there is such a row: False at the end of a trajectory
    goal: Any = ()  # [B, goal_dim]; () where the task has one goal


def with_goal(obs: Array, goal: Any) -> Array:
    """Return what a net reads: obs [..., obs_dim], with a goal [..., goal_dim] appended unless it is ()."""
    return obs if isinstance(goal, tuple) else jnp.concatenate([obs, goal], axis=-1)
