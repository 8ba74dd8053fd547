"""A linear system with known noise, as an Env: what a learned model should find is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np

from valex import replay
from valex.envs.base import native_env
from valex.types import EnvSpec, StepOut, Transition

A = jnp.array([[0.9, 0.2], [-0.1, 0.8]])
B = jnp.array([[0.3], [0.5]])


def make_linear(noise: float = 0.0, edge: float = 1e9):
    """x' = A x + B u + noise xi, r = x_0' - 0.5 x_1', over when |x_0'| > edge."""
    spec = EnvSpec("linear", 2, 1, 0, 25, 1, 1.0, "jax", True)

    def step(key, x, action):
        after = A @ x + B @ action + noise * jax.random.normal(key, (2,))
        return after, StepOut(after, after[0] - 0.5 * after[1], jnp.abs(after[0]) > edge)

    return native_env(
        spec,
        lambda key: jax.random.normal(key, (2,)),
        step,
        lambda x: x,
        lambda obs, action, next_obs: jnp.abs(next_obs[0]) > edge,
    )


def rows(noise: float = 0.0, edge: float = 1e9, count: int = 4000, seed: int = 0) -> Transition:
    """Episodes of 25 random steps of one environment, in order; leaves [count, ...]."""
    rng = np.random.default_rng(seed)
    x, rest, found = rng.normal(size=2), 25, []
    for _ in range(count):
        u = rng.uniform(-1, 1, 1)
        after = np.asarray(A) @ x + np.asarray(B) @ u + noise * rng.normal(size=2)
        rest -= 1
        end = abs(after[0]) > edge
        cut = rest == 0 and not end
        found.append((x, u, after[0] - 0.5 * after[1], after, end, cut))
        x, rest = (rng.normal(size=2), 25) if end or cut else (after, rest)
    columns = [np.stack(c) for c in zip(*found, strict=True)]
    numbers = [jnp.asarray(c, jnp.float32) for c in columns[:4]]
    return Transition(*numbers, jnp.asarray(columns[4]), jnp.asarray(columns[5]))


def ring_of(steps: Transition, num_envs: int = 1) -> replay.Replay:
    """A replay that holds the steps, `num_envs` at a time."""
    count = len(steps.reward) // num_envs
    ring = replay.init(jax.tree.map(lambda x: x[0], steps), count, num_envs)
    stacked = jax.tree.map(lambda x: x[: count * num_envs].reshape(num_envs, count, *x.shape[1:]).swapaxes(0, 1), steps)
    return jax.jit(lambda r, s: jax.lax.scan(lambda r, row: (replay.add(r, row), None), r, s)[0])(ring, stacked)
