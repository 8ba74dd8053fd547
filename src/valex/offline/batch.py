"""What one update on data reads, drawn from a dataset: THE place where a row meets the one behind it.

A sampler is (dataset, key, batch_size, rows) -> Batch and draws of the first `rows` rows: `uniform_rows`, and with goals those
of `offline/goals.py`.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from valex.offline.data import Dataset
from valex.replay import draw_below
from valex.types import Array


class Dims(NamedTuple):
    """How many numbers an observation, an action and a goal have."""

    obs: int
    act: int
    goal: int = 0  # 0: there are no goals


def dims_of(data: Dataset, goals: bool) -> Dims:
    """Return the sizes that a dataset has, with goals those of observations."""
    return Dims(data.obs.shape[1], data.action.shape[1], data.obs.shape[1] if goals else 0)


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


def batch_at(data: Dataset, rows: Array) -> Batch:
    """Return the rows [B] of a dataset on the device; the last of a trajectory has no next action, whatever stands behind it."""
    take = lambda x: x.at[rows].get(mode="promise_in_bounds")  # noqa: E731
    after = jnp.minimum(rows + 1, data.obs.shape[0] - 1)
    terminated = take(data.terminated)
    return Batch(
        obs=take(data.obs),
        action=take(data.action),
        reward=take(data.reward),
        next_obs=take(data.next_obs),
        terminated=terminated,
        next_action=data.action.at[after].get(mode="promise_in_bounds"),
        has_next=~(terminated | take(data.truncated)),
    )


def uniform_rows(data: Dataset, key: Array, batch_size: int, rows: Array) -> Batch:
    """Draw `batch_size` of the first `rows` rows, uniformly and with replacement."""
    return batch_at(data, draw_below(key, batch_size, rows))
