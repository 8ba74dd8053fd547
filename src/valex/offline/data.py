"""THE dataset record: trajectories end to end, as a struct of arrays; its checks, and subsets of whole trajectories.

Rows are transitions. Every trajectory ends in exactly one row that terminated or was truncated, and no other row is
flagged, so that a row is followed by the next one unless it is flagged. Arrays may be of numpy or on the device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Rows = Any  # an array of numpy, or one on the device
BOX_SLACK = 1e-6  # how far beyond [-1, 1] an action may be and still count as rounded
SUBSETS, SPLIT = 8_191, 131_071  # random streams of the permutations, apart from every stream of training


class DataError(ValueError):
    """Data that cannot be: one line that names the key, the row where there is one, and what is allowed."""


class Dataset(NamedTuple):
    """E trajectories of N transitions in all, in the order in which they were recorded; row i is one step."""

    obs: Rows  # [N, obs_dim] float32
    action: Rows  # [N, act_dim] float32 in [-1, 1]
    reward: Rows  # [N] float32, per control step
    next_obs: Rows  # [N, obs_dim] float32, the true successor, also at the end of a trajectory
    terminated: Rows  # [N] bool, the task ended: no bootstrap
    truncated: Rows  # [N] bool, the last row of a trajectory that did not terminate: bootstrap, but no next action
    offsets: Rows  # [E + 1] int32, trajectory e is rows offsets[e] .. offsets[e + 1] - 1
    extras: dict[str, Rows]  # [N, ...] by name: what else was recorded of obs (qpos, qvel, physics); {} for nothing


ROWS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")  # the fields with one entry for every row


def from_arrays(steps: dict[str, np.ndarray], offsets: np.ndarray, extras: dict[str, np.ndarray]) -> Dataset:
    """Build a dataset of flat arrays and check it.

    steps: obs [N, d], action [N, m], reward [N], next_obs [N, d], terminated [N]; what is not terminated at the end of a
    trajectory counts as truncated. Numbers become float32; a reward in float64 is rounded once, here.
    Raises DataError naming key and row.
    """
    for key in ("obs", "action", "reward", "next_obs", "terminated"):
        if key not in steps:
            raise DataError(f"{key}: missing; there are {', '.join(sorted(steps)) or 'no keys'}")
    arrays = {key: np.ascontiguousarray(value) for key, value in steps.items()}
    offsets = check_offsets(np.asarray(offsets), len(arrays["obs"]))
    last = np.zeros(len(arrays["obs"]), bool)
    last[offsets[1:] - 1] = True
    if arrays["terminated"].shape != last.shape:
        raise DataError(
            f"terminated: shape {arrays['terminated'].shape}, obs has {len(last)} rows; allowed: one entry a row"
        )
    arrays["terminated"] = arrays["terminated"].astype(bool)
    numbers = {key: np.asarray(arrays[key], np.float32) for key in ("obs", "action", "reward", "next_obs")}
    data = Dataset(
        **numbers,
        terminated=arrays["terminated"],
        truncated=last & ~arrays["terminated"],
        offsets=offsets,
        extras={name: np.ascontiguousarray(value) for name, value in extras.items()},
    )
    check(data)
    return data


def check_offsets(offsets: np.ndarray, rows: int) -> np.ndarray:
    """Return offsets [E + 1] as int32. Raises DataError where they do not cut 0 .. `rows` into trajectories of a row or more."""
    if rows == 0:
        raise DataError("obs: no rows; a dataset needs at least one transition")
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != rows:
        raise DataError(
            f"offsets: have to run from 0 to the number of rows, {rows}; one entry a trajectory and one more"
        )
    short = np.flatnonzero(np.diff(offsets) < 1)
    if len(short):
        raise DataError(f"offsets: trajectory {short[0]} at row {offsets[short[0]]} is empty; leave it out")
    return offsets.astype(np.int32)


def check(data: Dataset) -> None:
    """Check lengths, shapes, finite numbers, the action box and the flags. Raises DataError naming key and row."""
    rows = len(data.obs)
    for key in ROWS:
        check_rows(key, np.asarray(getattr(data, key)), rows)
    for name, value in data.extras.items():
        check_rows(f"extras.{name}", np.asarray(value), rows)
    discrete = "; discrete actions are not known here, one continuous number a row has shape [N, 1]"
    for key, ndim, hint in (("obs", 2, ""), ("action", 2, discrete), ("reward", 1, "")):
        if np.ndim(getattr(data, key)) != ndim:
            raise DataError(f"{key}: {np.ndim(getattr(data, key))} axes, allowed: {ndim}, flat rows of numbers{hint}")
    if data.next_obs.shape != data.obs.shape:
        raise DataError(f"next_obs: shape {data.next_obs.shape} is not that of obs, {data.obs.shape}")
    beyond = np.flatnonzero(np.any(np.abs(np.asarray(data.action)) > 1.0 + BOX_SLACK, axis=1))
    if len(beyond):
        row = np.asarray(data.action)[beyond[0]]
        largest = float(row[np.abs(row).argmax()])
        raise DataError(
            f"action: row {beyond[0]} is outside [-1, 1] ({largest:g}); actions are kept in [-1, 1], the environment's box; "
            "divide them by its bound"
        )
    check_offsets(np.asarray(data.offsets), rows)
    last = np.zeros(rows, bool)
    last[np.asarray(data.offsets)[1:] - 1] = True
    wrong = np.flatnonzero((np.asarray(data.terminated) | np.asarray(data.truncated)) != last)
    if len(wrong):
        raise DataError(f"terminated: row {wrong[0]} is flagged though its trajectory goes on, or ends without a flag")
    both = np.flatnonzero(np.asarray(data.terminated) & np.asarray(data.truncated))
    if len(both):
        raise DataError(f"truncated: row {both[0]} also terminated; what terminated is not truncated")


def check_rows(key: str, value: np.ndarray, rows: int) -> None:
    """Raise DataError where `value` has another length than `rows`, or numbers that are not finite."""
    if value.ndim == 0 or len(value) != rows:
        length = len(value) if value.ndim else "a single number"
        raise DataError(f"{key}: {length} rows, obs has {rows}; all keys need the same")
    if not np.issubdtype(value.dtype, np.floating):
        return
    bad = np.flatnonzero(~np.isfinite(value).reshape(rows, -1).all(axis=1))
    if len(bad):
        raise DataError(f"{key}: row {bad[0]} is not finite ({len(bad)} such rows); drop those trajectories")


def on_device(data: Dataset) -> Dataset:
    """Return the dataset with every array on the device; extras stay where they are, no training reads them."""
    arrays = jax.tree.map(jnp.asarray, data._replace(extras={}))
    return arrays._replace(extras=data.extras)


# ----------------------------------------------------------------------------------------------------- whole trajectories


def take_trajectories(data: Dataset, which: np.ndarray) -> Dataset:
    """Return the dataset of the trajectories `which` [K] int, end to end in that order. Raises DataError where K is 0."""
    which = np.asarray(which, int)
    if len(which) == 0:
        raise DataError("trajectories: none chosen; a dataset needs at least one")
    offsets = np.asarray(data.offsets)
    lengths = offsets[which + 1] - offsets[which]
    ends = np.cumsum(lengths)
    rows = np.arange(ends[-1]) + np.repeat(offsets[which] - (ends - lengths), lengths)
    parts = {key: np.asarray(getattr(data, key))[rows] for key in ROWS}
    extras = {name: np.asarray(value)[rows] for name, value in data.extras.items()}
    return Dataset(**parts, offsets=np.concatenate([[0], ends]).astype(np.int32), extras=extras)


def permuted(data: Dataset, seed: int) -> Dataset:
    """Return the trajectories in an order drawn by `seed`, in a stream of its own that no training reads.

    Every subset of whole trajectories is then a prefix of rows, each within every larger one, whoever trains on it: a value
    and a policy that are given equally many rows see the same ones. Those rows: `prefix_rows`.
    """
    return take_trajectories(data, shuffled(SUBSETS, seed, len(data.offsets) - 1))


def shuffled(stream: int, seed: int, count: int) -> np.ndarray:
    """Return 0 .. count - 1 in an order drawn by `seed` of a stream, [count] int."""
    return np.random.default_rng([stream, seed]).permutation(count)


def prefix_rows(data: Dataset, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return for every size the rows of the shortest prefix of whole trajectories with at least so many transitions.

    Raises DataError unless all sizes are in 1 .. N.
    """
    ends = np.asarray(data.offsets)[1:]
    if not sizes or min(sizes) < 1 or max(sizes) > ends[-1]:
        raise DataError(f"sizes: {sizes} are not all in 1..{ends[-1]}, the transitions that there are")
    return tuple(int(ends[np.searchsorted(ends, size)]) for size in sizes)


def prefix(data: Dataset, size: int) -> Dataset:
    """Return the dataset of those first trajectories alone. Raises DataError as `prefix_rows`."""
    (rows,) = prefix_rows(data, (size,))
    return take_trajectories(data, np.arange(np.searchsorted(np.asarray(data.offsets), rows)))


def split_trajectories(data: Dataset, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the trajectories of (training, validation), each sorted: a share of them, at least one on either side.

    Raises DataError where there are fewer than two trajectories or `share` is outside (0, 1).
    """
    count = len(data.offsets) - 1
    if count < 2 or not 0.0 < share < 1.0:
        raise DataError(
            f"split: {count} trajectories at a share of {share:g}; at least 2 and a share in (0, 1) are needed"
        )
    held = min(max(1, round(share * count)), count - 1)
    order = shuffled(SPLIT, seed, count)
    return np.sort(order[held:]), np.sort(order[:held])
