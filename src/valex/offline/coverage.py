"""How much of the world a dataset has seen, and how good what it did was: the two axes that data are chosen by."""

import numpy as np

from valex.offline.data import DataError, Dataset

QUERY_ROWS = 256  # rows of states compared at once with the whole reference


def neighbours(
    states: np.ndarray, reference: np.ndarray, k: int = 1, scale: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows [M, k] int, squared distances [M, k]) of the k nearest of `reference` [R, d] to `states` [M, d], unordered.

    `scale` [d] is the unit of each dimension; None: standard deviations of the reference, 1 for a dimension that does not
    move. A state that is itself a reference counts as its own neighbour. Raises DataError where R < k or k < 1.
    """
    if not 1 <= k <= len(reference):
        raise DataError(f"coverage: k = {k} neighbours of {len(reference)} states; allowed: 1..{len(reference)}")
    unit = np.std(np.asarray(reference, np.float64), axis=0) if scale is None else np.asarray(scale, np.float64)
    unit = np.where(unit > 0, unit, 1.0)
    middle = np.mean(np.asarray(reference, np.float64), axis=0)  # differences of large squares lose what is looked for
    x, y = (np.asarray(states, np.float64) - middle) / unit, (np.asarray(reference, np.float64) - middle) / unit
    squares = np.sum(y * y, axis=1)
    rows, found = np.empty((len(x), k), int), np.empty((len(x), k))
    for start in range(0, len(x), QUERY_ROWS):
        part = slice(start, start + QUERY_ROWS)
        distance = np.sum(x[part] * x[part], axis=1)[:, None] + squares - 2.0 * x[part] @ y.T
        rows[part] = np.argpartition(distance, k - 1, axis=1)[:, :k]
        found[part] = np.take_along_axis(distance, rows[part], axis=1)
    return rows, np.maximum(found, 0.0)


def knn_radius(states: np.ndarray, reference: np.ndarray, k: int = 1, scale: np.ndarray | None = None) -> np.ndarray:
    """Return the distance of each of `states` [M, d] to its k-th nearest of `reference` [R, d], [M] float64.

    Small where the data have been close by. `scale` and errors as for `neighbours`.
    """
    return np.sqrt(np.max(neighbours(states, reference, k, scale)[1], axis=1))


def cell_entropy(states: np.ndarray, cell: float | np.ndarray) -> tuple[float, int]:
    """Return (entropy in nats, occupied cells) of `states` [M, d] over a grid with cells of size `cell`.

        - sum_c p_c log p_c,   p_c = share of the states in cell c = floor(s / cell)

    exp(entropy) is how many cells, evenly visited, are as spread out.
    """
    cells = np.floor(np.asarray(states, np.float64) / cell).astype(np.int64)
    share = np.unique(cells, axis=0, return_counts=True)[1] / len(cells)
    return float(-np.sum(share * np.log(share))), len(share)


def coverage(data: Dataset, seed: int, cells: tuple[tuple[int, ...], float] | None = None, most: int = 8_000) -> dict:
    """Return how widely a dataset's states are spread: median k-NN radius, and for `cells` = (dims, size) the occupancy.

    Of at most `most` random states half are the reference, 500 of the others ask for the 10th nearest of them, in the units
    of obs: the wider the states, the larger. It compares sets of one task with equal `knn_reference`; how near a dataset is to
    the states of a policy is `knn_radius` of those states.
    """
    obs = np.asarray(data.obs)
    chosen = np.random.default_rng(seed).permutation(len(obs))[:most]
    half = len(chosen) // 2
    found: dict = {}
    if half >= 10:
        radii = knn_radius(obs[chosen[half:]][:500], obs[chosen[:half]], k=10, scale=np.ones(obs.shape[1]))
        found |= {"knn_radius": float(np.median(radii)), "knn_reference": half}
    if cells is not None:
        dims, size = cells
        entropy, occupied = cell_entropy(obs[:, list(dims)], size)
        found |= {"cell_dims": list(dims), "cell_size": size, "cell_entropy": entropy, "cells_occupied": occupied}
    return found


def trajectory_returns(data: Dataset) -> np.ndarray:
    """Return the undiscounted return of every trajectory, [E] float64."""
    return np.add.reduceat(np.asarray(data.reward, np.float64), np.asarray(data.offsets)[:-1])


def whole_episodes(data: Dataset, clock: int) -> bool:
    """Return whether the trajectories are whole episodes: ended by the task or by its clock, one step of slack.

    One in twenty may be cut, as the last one of a replay buffer is.
    """
    ends = np.asarray(data.offsets)
    whole = np.asarray(data.terminated)[ends[1:] - 1].astype(bool) | (np.diff(ends) >= clock - 1)
    return bool(np.mean(whole) >= 0.95)


def normalised(mean: float, reference: tuple[float, float]) -> float:
    """Return 100 (mean - random) / (expert - random) of a mean return; reference: (random, expert)."""
    random, expert = reference
    return 100.0 * (mean - random) / (expert - random)


def optimality(data: Dataset, reference: tuple[float, float] | None = None) -> dict:
    """Return mean, spread and extremes of the trajectories' returns, and with `reference` = (random, expert) the score.

    normalised = 100 (mean return - random) / (expert - random)
    """
    returns = trajectory_returns(data)
    lengths = np.diff(np.asarray(data.offsets))
    found = {
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "min_return": float(returns.min()),
        "max_return": float(returns.max()),
        "mean_length": float(lengths.mean()),
        "terminated": float(np.mean(np.asarray(data.terminated)[np.asarray(data.offsets)[1:] - 1])),
    }
    if reference is not None:
        random, expert = reference
        found |= {"random_return": random, "expert_return": expert}
        if expert > random:
            found["normalised"] = normalised(found["mean_return"], reference)
    return found
