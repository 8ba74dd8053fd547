"""A smooth error put on a value: what improves a policy at test time then climbs what is not there.

    Q'(s, a, g) = Q(s, a, g) + size std_data(Q) f(s, a)
    f = (h - mean_data(h)) / std_data(h),   h(x) = sum_k c_k cos(w_k x + b_k),   x = (s, a) in standard deviations

with c_k ~ N(0, 2 / K), b_k ~ U(0, 2 pi), w_k ~ N(0, 1 / (length^2 d)) for d numbers of (s, a): h is a draw of a Gaussian process
whose correlation over a distance r is exp(-r^2 / (2 length^2 d)). One f for all critics: their minimum keeps its place. V stays
as it is, for nothing that climbs Q reads it. Source: random Fourier features, Rahimi and Recht 2007.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from valex.agents.common import smallest
from valex.offline.batch import Batch
from valex.offline.values import Value, advantage_of
from valex.settings.offline import PerturbationConfig
from valex.types import Array, PyTree

FEATURES = 256  # K


def perturbed(config: PerturbationConfig, value: Value, state: PyTree, rows: Batch) -> Value:
    """Return the value with the error on its Q; `rows` [N] of the data say what is standard, `state` how large Q is there.

    With size 0 it is the value itself.
    """
    if config.size == 0.0:
        return value
    x = jnp.concatenate([rows.obs, rows.action], axis=-1)
    mean, std = jnp.mean(x, axis=0), jnp.std(x, axis=0)
    std = jnp.where(std > 0, std, 1.0)
    wave_key, phase_key, size_key = jax.random.split(jax.random.key(config.seed), 3)
    waves = jax.random.normal(wave_key, (x.shape[1], FEATURES)) / (config.length * math.sqrt(x.shape[1]))
    phases = jax.random.uniform(phase_key, (FEATURES,), maxval=2.0 * math.pi)
    sizes = jax.random.normal(size_key, (FEATURES,)) * math.sqrt(2.0 / FEATURES)

    def rough(obs: Array, action: Array) -> Array:
        seen = (jnp.concatenate([obs, action], axis=-1) - mean) / std
        return jnp.cos(seen @ waves + phases) @ sizes

    drawn = rough(rows.obs, rows.action)
    middle, unit = jnp.mean(drawn), jnp.std(drawn) + 1e-12
    size = config.size * jnp.std(smallest(value.q(state, rows.obs, rows.action, rows.goal)))

    def q(state: PyTree, obs: Array, action: Array, goal: Any = ()) -> Array:
        return value.q(state, obs, action, goal) + size * (rough(obs, action) - middle) / unit

    return value._replace(q=q, advantage=advantage_of(q, value.v))
