"""A chain of five states with known values: +1 goes right, -1 left (and stays at 0); entering the last pays 1 and ends.

Rows are enumerated with the frequencies of a behaviour policy, so that what a loss converges to is an exact linear system.
"""

import itertools
from functools import cache

import jax.numpy as jnp
import numpy as np

from valex.offline.batch import Batch, Dims

STATES, GAMMA, SHARES = 4, 0.9, (1, 3)  # states that act; of four rows one goes left and three go right
DIMS = Dims(STATES, 1)
ACTIONS = (-1.0, 1.0)


def moves(s: int, a: int) -> tuple[int, float, bool]:
    """Return (s', r, end) of action number a."""
    after = max(s - 1, 0) if a == 0 else s + 1
    return after, float(after == STATES) - 0.1 * (a == 0), after == STATES


def one_hot(states) -> jnp.ndarray:
    """Return observations; the last state, in which nothing is done, has the obs 0."""
    return jnp.eye(STATES + 1)[jnp.asarray(states)][:, :STATES]


@cache
def rows() -> Batch:
    """Return every (s, a, s', a') as often as the behaviour policy meets it from a uniform s."""
    drawn = [a for a in (0, 1) for _ in range(SHARES[a])]
    table = list(itertools.product(range(STATES), drawn, drawn))
    s, a, after = (np.array([row[i] for row in table]) for i in range(3))
    s2, r, end = (np.array(x) for x in zip(*[moves(*row) for row in zip(s, a, strict=True)], strict=True))
    action = lambda numbers: jnp.asarray(np.array(ACTIONS)[numbers][:, None], jnp.float32)  # noqa: E731
    reward, ends = jnp.asarray(r, jnp.float32), jnp.asarray(end)
    return Batch(one_hot(s), action(a), reward, one_hot(s2), ends, action(after), ~ends)


def solve(backup) -> np.ndarray:
    """Iterate Q(s, a) = r + gamma (1 - end) backup(Q)(s') to its fixed point, [STATES, 2]."""
    q = np.zeros((STATES, 2))
    for _ in range(500):
        value = backup(q)
        q = np.array([[r + GAMMA * (not end) * value[min(s2, STATES - 1)] for s2, r, end in (moves(s, a) for a in (0, 1))]
                      for s in range(STATES)])  # fmt: skip
    return q


def linear_solve() -> np.ndarray:
    """Return Q of the behaviour policy by one linear solve, [STATES, 2]."""
    size, share = 2 * STATES, np.array(SHARES) / sum(SHARES)
    matrix, reward = np.eye(size), np.zeros(size)
    for s, a in itertools.product(range(STATES), (0, 1)):
        s2, reward[2 * s + a], end = moves(s, a)
        if not end:
            matrix[2 * s + a, 2 * s2 : 2 * s2 + 2] -= GAMMA * share
    return np.linalg.solve(matrix, reward).reshape(STATES, 2)


def table_of(value, state) -> np.ndarray:
    """Return the learned min_k Q_k of every state and action, [STATES, 2]."""
    obs = one_hot(range(STATES))
    columns = [jnp.min(value.q(state, obs, jnp.full((STATES, 1), a)), axis=0) for a in ACTIONS]
    return np.stack(columns, axis=1)
