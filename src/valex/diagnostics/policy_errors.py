"""How far a policy is from a declared optimal one, on the states it was trained on, on held-out ones, and where it really goes.

    train = E_{s ~ D_train} |pi(s) - pi*(s)|^2 / m      val = the same over D_val      eval = over the states that pi visits

pi(s) is the mean action inside the box, m the number of action dimensions. Source: 2406.09329, section 5; the convention (mean
over dimensions, actions clipped) is ours. Optimal policies are not unique: errors to one that did not help to collect the
data mean little.
"""

from typing import NamedTuple

import numpy as np

from valex.offline.coverage import knn_radius, neighbours

NEIGHBOURS = 50  # of a state, whose actions are what the data did there
STATES = 250  # visited states that are looked at
REFERENCE = 10_000  # rows of the data that they are looked up in
CLOSE = 10  # of a state: the neighbour whose distance says how remote it is


class ActionError(NamedTuple):
    """A mean squared error of actions."""

    mse: float  # in units of action^2
    stderr: float  # whole groups taken as independent; NaN below two groups
    count: int  # states


def action_error(action: np.ndarray, wanted: np.ndarray, group: np.ndarray | None = None) -> ActionError:
    """Return mean_i |a_i - b_i|^2 / m over rows [N, m], both clipped to [-1, 1], and its standard error.

    group [N]: which trajectory a row comes from; rows of one move together. None: every row for itself.

        se^2 = G / (G - 1) sum_g (sum_{i in g} (e_i - mse))^2 / N^2
    """
    errors = np.mean((np.clip(action, -1, 1) - np.clip(wanted, -1, 1)).astype(np.float64) ** 2, axis=1)
    mse, which = float(errors.mean()), np.arange(len(errors)) if group is None else group
    _, place = np.unique(which, return_inverse=True)
    sums = np.bincount(place, errors - mse)
    count = len(sums)
    stderr = np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(errors) if count > 1 else float("nan")
    return ActionError(mse, float(stderr), len(errors))


def outside_share(
    obs: np.ndarray, action: np.ndarray, data_obs: np.ndarray, data_action: np.ndarray, seed: int = 0
) -> float:
    """Return the share of actions [N, m] at obs [N, d] that lie, in some dimension, beyond all that the data did near there.

    Near are the 50 nearest states of the data in standard deviations. A policy that averages actions of the data
    stays inside, up to its own error; one that climbs a value need not. Of both at most 250 and 10,000 rows are taken.
    """
    rng = np.random.default_rng(seed)
    mine = rng.permutation(len(obs))[:STATES]
    theirs = rng.permutation(len(data_obs))[:REFERENCE]
    obs, action, reference, did = obs[mine], action[mine], data_obs[theirs], data_action[theirs]
    near, _ = neighbours(obs, reference, min(NEIGHBOURS, len(reference)))
    low, high = did[near].min(axis=1), did[near].max(axis=1)
    return float(np.mean(np.any((action < low) | (action > high), axis=1)))


def remoteness(obs: np.ndarray, data_obs: np.ndarray, seed: int = 0) -> float:
    """Return the median distance of states [N, d] to the 10th nearest of the data's [R, d], in the data's standard deviations.

    Of visited states, against that of held-out ones: a proxy of how much a policy has to generalise where it goes. It sees
    states alone, neither what is done there nor whether that matters. Of both at most 250 and 10,000 rows are taken.
    """
    rng = np.random.default_rng(seed)
    mine, theirs = rng.permutation(len(obs))[:STATES], rng.permutation(len(data_obs))[:REFERENCE]
    return float(np.median(knn_radius(obs[mine], data_obs[theirs], min(CLOSE, len(theirs)))))
