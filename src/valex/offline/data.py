"""THE dataset record: trajectories end to end, as a struct of arrays, and what is drawn from it."""

from typing import NamedTuple

from valex.types import Array


class Dataset(NamedTuple):
    """E trajectories of N transitions in all, in the order in which they were recorded; row i is one step."""

    obs: Array  # [N, obs_dim] float32
    action: Array  # [N, act_dim] float32 in [-1, 1]
    reward: Array  # [N] float32, per control step
    next_obs: Array  # [N, obs_dim] float32, the true successor, also at the end of a trajectory
    terminated: Array  # [N] bool, the task ended: no bootstrap
    truncated: Array  # [N] bool, the last row of a trajectory that did not terminate: bootstrap, but no next action
    offsets: Array  # [E + 1] int32, trajectory e is rows offsets[e] .. offsets[e + 1] - 1
    extras: dict[str, Array]  # [N, ...] by name: what else was recorded of obs (qpos, qvel, physics); {} for nothing
