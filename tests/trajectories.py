"""Datasets whose every number says where it belongs: obs[i] = (trajectory, step), so that a mixed-up row is seen."""

import numpy as np

from valex.offline.data import Dataset, from_arrays

LENGTHS = (4, 1, 3, 6)  # trajectories 0 and 3 are truncated, 1 and 2 terminate


def numbered(lengths: tuple[int, ...] = LENGTHS, terminates: tuple[int, ...] = (1, 2), extras: bool = False) -> Dataset:
    """Return trajectories of `lengths` steps, those in `terminates` ending in a termination."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    trajectory = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(offsets[-1]) - offsets[trajectory]
    obs = np.stack([trajectory, step], axis=1).astype(np.float32)
    terminated = np.isin(trajectory, terminates) & (step == np.asarray(lengths)[trajectory] - 1)
    rng = np.random.default_rng(0)
    steps = {
        "obs": obs,
        "action": rng.uniform(-1, 1, (len(obs), 3)).astype(np.float32),
        "reward": (trajectory + step / 8).astype(np.float32),
        "next_obs": obs + np.array([0.0, 1.0], np.float32),
        "terminated": terminated,
    }
    named = {"qpos": obs.astype(np.float64) / 3, "next_qpos": steps["next_obs"].astype(np.float64) / 3}
    return from_arrays(steps, offsets, named if extras else {})


def same(a: Dataset, b: Dataset) -> bool:
    """Return whether two datasets agree in every name, type, shape and bit."""
    pairs = [(getattr(a, key), getattr(b, key)) for key in Dataset._fields if key != "extras"]
    pairs += [(a.extras[name], b.extras[name]) for name in a.extras if name in b.extras]
    equal = [x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in map(_arrays, pairs)]
    return set(a.extras) == set(b.extras) and all(equal)


def _arrays(pair):
    return tuple(np.asarray(x) for x in pair)
