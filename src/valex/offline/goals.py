"""Hindsight goals: which state a transition is told it was on the way to, and the reward that goes with it.

States are counted per trajectory: its rows, and behind the last one the final observation. T(i) is that final state, so
goals reach it as in OGBench's compact datasets (impls/utils/datasets.py, GCDataset).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.offline.batch import Batch, batch_at, uniform_rows
from valex.offline.data import DataError, Dataset
from valex.replay import draw_below
from valex.settings.offline import GoalReward, PolicyConfig, ValueConfig
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


def draw_goals(key: Array, law: GoalLaw, rows: Array, offsets: Array, among: Array | int, gamma: float) -> GoalRows:
    """Draw a goal for each of `rows` [B], random ones among the first `among` rows; can be compiled, law and gamma static.

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
    anywhere = draw_below(random_key, len(rows), jnp.int32(among))
    coin = jax.random.uniform(coin_key, rows.shape)
    is_current, is_later = coin < law.current, coin < law.current + law.trajectory
    ends = is_later & ~is_current & (later == final)
    row = jnp.where(is_current, rows, jnp.where(is_later, jnp.minimum(later, final - 1), anywhere))
    return GoalRows(row.astype(jnp.int32), ends)


def goal_obs(data: Dataset, goals: GoalRows) -> Array:
    """Return the observations of goals, [B, obs_dim]."""
    here, after = jnp.asarray(data.obs)[goals.row], jnp.asarray(data.next_obs)[goals.row]
    return jnp.where(goals.final[:, None], after, here)


def make_goal_rows(law: GoalLaw, gamma: float = 0.0, reward: GoalReward = "cost") -> Callable:
    """Build a sampler (dataset, key, batch_size, rows) -> Batch with goals of `law`, and the reward and end that go with them.

        success = 1[idx = i],  judged on s, not on s';   reward = success - 1 (cost) or success (bonus);   terminated = success

    Equal observations at another index are no success; ends of the task are none of the goal's. `rows` have to be whole
    trajectories. Raises DataError for probabilities that cannot be. Source: as `draw_goals`.
    """
    check_law(law)

    def goal_rows(data: Dataset, key: Array, batch_size: int, rows: Array) -> Batch:
        row_key, goal_key = jax.random.split(key)
        here = draw_below(row_key, batch_size, rows)
        goals = draw_goals(goal_key, law, here, data.offsets, rows, gamma)
        success = (goals.row == here) & ~goals.final
        paid = success.astype(jnp.float32)
        return batch_at(data, here)._replace(
            goal=goal_obs(data, goals), reward=paid - 1.0 if reward == "cost" else paid, terminated=success
        )

    return goal_rows


def value_sampler(config: ValueConfig) -> Callable:
    """Return what a value's phase draws by: rows as they are, or with value goals, whose geometric law has the value's gamma."""
    if config.goals == "none":
        return uniform_rows
    return make_goal_rows(VALUE_LAWS[config.goals], config.gamma, config.goal_reward)


def policy_sampler(config: PolicyConfig) -> Callable:
    """Return what a policy's phase draws by: rows as they are, or with actor goals, whose rewards no extractor reads."""
    return uniform_rows if config.goals == "none" else make_goal_rows(ACTOR_LAWS[config.goals])


def desired_goals(data: Dataset) -> Array:
    """Return the goals that were pursued when the data were collected, [N, goal_dim]. Raises DataError if none were kept."""
    if "desired_goal" not in data.extras:
        kept = ", ".join(sorted(data.extras)) or "nothing"
        raise DataError(f"goals: there are no desired_goal extras (there is {kept}); draw goals in hindsight")
    return data.extras["desired_goal"]
