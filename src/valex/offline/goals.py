"""Hindsight goals: which state a transition is told it was on the way to, and the reward that goes with it.

States are counted per trajectory: its rows, and behind the last one the final observation. T(i) is that final state, so
goals reach it as in OGBench's compact datasets (impls/utils/datasets.py, GCDataset).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.offline.data import DataError, Dataset
from valex.types import Array


class GoalLaw(NamedTuple):
    """How a goal is drawn for a row; a random state with what remains of the two probabilities."""

    current: float  # p_cur in [0, 1]: the state itself
    trajectory: float  # p_traj in [0, 1]: a later state of the same trajectory
    geometric: bool  # later by Geom(1 - gamma) steps on {1, 2, ...}; else uniform over what is left


VALUE_LAWS = {
    "gciql": GoalLaw(0.2, 0.5, True),
    "hiql": GoalLaw(0.2, 0.5, False),  # the older code base of goal-conditioned IQL
    "crl": GoalLaw(0.0, 1.0, True),
}
ACTOR_LAWS = {  # by how the data were collected
    "navigate": GoalLaw(0.0, 1.0, False),
    "stitch": GoalLaw(0.0, 0.5, False),
    "explore": GoalLaw(0.0, 0.0, False),
}


class GoalRows(NamedTuple):
    """Where goals stand."""

    row: Array  # [B] int32
    final: Array  # [B] bool, the goal is the successor of that row, the final state of its trajectory


class GoalBatch(NamedTuple):
    """What hindsight adds to a batch of rows."""

    value_goals: Array  # [B, obs_dim] what the value is trained towards
    actor_goals: Array  # [B, obs_dim] what the policy is trained towards, drawn independently
    reward: Array  # [B] of value_goals: -1 or 0, or 0 or 1
    mask: Array  # [B] float32, 0 where the value goal is the state itself: no bootstrap


class GoalSettings(NamedTuple):
    """Both laws, and the reward."""

    value: GoalLaw = VALUE_LAWS["gciql"]
    actor: GoalLaw = ACTOR_LAWS["navigate"]
    gamma: float = 0.99  # per control step, of the geometric law
    negative: bool = True  # reward 0 at the goal and -1 elsewhere; else 1 at the goal and 0 elsewhere


def check_law(law: GoalLaw) -> GoalLaw:
    """Return the law. Raises DataError where its probabilities cannot be."""
    if law.current < 0 or law.trajectory < 0 or law.current + law.trajectory > 1 + 1e-9:
        raise DataError(
            f"goals: p_cur {law.current:g} and p_traj {law.trajectory:g} have to be >= 0 and at most 1 together"
        )
    return law


def last_rows(offsets: Array, rows: Array) -> Array:
    """Return the last row of the trajectory of each of `rows` [B], [B] int32."""
    return jnp.asarray(offsets)[jnp.searchsorted(jnp.asarray(offsets), rows, side="right")] - 1


def draw_goals(key: Array, law: GoalLaw, rows: Array, offsets: Array, gamma: float) -> GoalRows:
    """Draw a goal for each of `rows` [B]; can be compiled, with `law` and `gamma` static.

        s_i with p_cur;  else with p_traj / (1 - p_cur) a later state of the trajectory, else a row of the data, uniformly
        geometric  idx = min(i + k, T),  k ~ Geom(1 - gamma) on {1, 2, ...}
        uniform    idx = round(min(i + 1, T) u + T (1 - u)),  u ~ U[0, 1)      T = T(i), the final state

    Raises DataError for probabilities that cannot be. Source: OGBench, impls/utils/datasets.py, GCDataset.sample_goals.
    """
    check_law(law)
    later_key, random_key, coin_key = jax.random.split(key, 3)
    final = last_rows(offsets, rows) + 1  # T(i), counted on from the rows
    if law.geometric:
        later = jnp.minimum(rows + jax.random.geometric(later_key, 1.0 - gamma, rows.shape), final)
    else:  # counted back from T: in float32 a sum of row numbers beyond 2^23 has no fractions left
        left = (final - jnp.minimum(rows + 1, final)).astype(jnp.float32)
        later = final - jnp.round(left * jax.random.uniform(later_key, rows.shape)).astype(jnp.int32)
    anywhere = jax.random.randint(random_key, rows.shape, 0, offsets[-1], jnp.int32)
    coin = jax.random.uniform(coin_key, rows.shape)
    is_current, is_later = coin < law.current, coin < law.current + law.trajectory
    ends = is_later & ~is_current & (later == final)
    row = jnp.where(is_current, rows, jnp.where(is_later, jnp.minimum(later, final - 1), anywhere))
    return GoalRows(row.astype(jnp.int32), ends)


def goal_obs(data: Dataset, goals: GoalRows) -> Array:
    """Return the observations of goals, [B, obs_dim]."""
    here, after = jnp.asarray(data.obs)[goals.row], jnp.asarray(data.next_obs)[goals.row]
    return jnp.where(goals.final[:, None], after, here)


def relabel(key: Array, data: Dataset, rows: Array, settings: GoalSettings) -> GoalBatch:
    """Draw value goals and actor goals for `rows` [B], and reward the former; can be compiled, `settings` static.

        success = 1[idx = i],  judged on s, not on s';   reward = success - 1 or success;   mask = 1 - success

    Equal observations at another index are no success. Source: as `draw_goals`.
    """
    value_key, actor_key = jax.random.split(key)
    value = draw_goals(value_key, settings.value, rows, data.offsets, settings.gamma)
    actor = draw_goals(actor_key, settings.actor, rows, data.offsets, settings.gamma)
    success = ((value.row == rows) & ~value.final).astype(jnp.float32)
    reward = success - 1.0 if settings.negative else success
    return GoalBatch(goal_obs(data, value), goal_obs(data, actor), reward, 1.0 - success)


def desired_goals(data: Dataset) -> Array:
    """Return the goals that were pursued when the data were collected, [N, goal_dim]. Raises DataError if none were kept."""
    if "desired_goal" not in data.extras:
        kept = ", ".join(sorted(data.extras)) or "nothing"
        raise DataError(
            f"goals: there are no desired_goal extras (there is {kept}); draw goals in hindsight with `relabel`"
        )
    return data.extras["desired_goal"]
