"""THE target file: one backward recursion, and the rules that choose its trace.

    G_t = r_t + g_t [ v_t + c_t (G_{t+1} - q_t) ],   G_T = q_{T-1}              (Munos et al. 2016, arXiv 1606.02647)

with rows t = 0..T-1 of a window, g_t = gamma (1 - terminated_t), v_t = V(s_{t+1}), q_t = Q(s_{t+1}, a_{t+1}) and T = H + 1.
Every rule is this recursion with another trace c:

    td          c_t = 0                                      r_0 + g_0 V(s_1)
    h_step      c_t = 1[t < H]                               r_0 + g_0 r_1 + ... + g_0..g_H V(s_{H+1})
    td_lambda   c_t = lambda 1[t < H]                        sum_h w_h T_h, w_h = (1 - lambda) lambda^h, w_H = lambda^H
    retrace     c_t = lambda min(1, pi/mu) 1[t < H]          the control-variate form, q_t = Q(s_{t+1}, a_{t+1})

The last row always bootstraps with V. A row that ends its episode (`continues` 0) bootstraps there too.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.types import Array, ReturnInputs


def backward_return(reward: Array, discount: Array, value: Array, q: Array, trace: Array) -> Array:
    """Return G_t of every row: G_t = r_t + discount_t [ v_t + c_t (G_{t+1} - q_t) ], G_T = q_{T-1}.

    All arguments and the result are [T, B]; reward, value, q and the result in units of return, discount and trace in [0, 1].
    Raises AssertionError at trace time if the shapes differ.
    Source: Munos et al. 2016, written with the per-row value and control variate of general off-policy returns.
    """
    chex.assert_rank(reward, 2)
    chex.assert_equal_shape([reward, discount, value, q, trace])

    def step(g_next, row):
        r, d, v, q_, c = row
        g = r + d * (v + c * (g_next - q_))
        return g, g

    return jax.lax.scan(step, q[-1], (reward, discount, value, q, trace), reverse=True)[1]


def _trace(x: ReturnInputs, horizon: Array | int, coefficient: Array | float) -> Array:
    """Return coefficient * 1[t < H] * continues_t as [T, B], without gradient."""
    inside = jnp.arange(x.reward.shape[0])[:, None] < horizon
    return jax.lax.stop_gradient(inside * coefficient * x.continues)


def td(x: ReturnInputs, horizon: Array | int = 0, lam: float = 1.0) -> Array:
    """Return the one-step target r_0 + g_0 V(s_1), [B]. `horizon` and `lam` are not read. Source: Sutton 1988."""
    del horizon, lam
    return x.reward[0] + x.discount[0] * x.value[0]


def h_step(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return r_0 + g_0 r_1 + ... + g_0 .. g_H V(s_{H+1}), [B].

    `horizon` is H, at most T - 1; it may be traced. `lam` is not read.
    Source: Feinberg et al. 2018 (arXiv 1803.00101) on model rollouts; the uncorrected n-step return on stored ones.
    """
    del lam
    return backward_return(x.reward, x.discount, x.value, x.q, _trace(x, horizon, 1.0))[0]


def td_lambda(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return sum_h w_h T_h over h = 0..H with w_h = (1 - lambda) lambda^h and w_H = lambda^H, [B]. Source: Sutton 1988."""
    return backward_return(x.reward, x.discount, x.value, x.q, _trace(x, horizon, lam))[0]


def retrace(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return the Retrace target, c_t = lambda min(1, exp(log_rho_t)), [B]. Source: Munos et al. 2016 (arXiv 1606.02647)."""
    ratio = jnp.exp(jnp.minimum(x.log_rho, 0.0))
    return backward_return(x.reward, x.discount, x.value, x.q, _trace(x, horizon, lam * ratio))[0]


class Rule(NamedTuple):
    """A row of the rules: the fold, and what it reads, so that nothing else is computed."""

    fold: Callable  # (ReturnInputs, horizon, lam) -> target [B]
    mixes_values: bool  # reads V and Q at every row, not only at the last one
    off_policy: bool  # reads log_rho: the window may come from another policy
    multi_step: bool  # a horizon above 0 means something


TD = Rule(td, mixes_values=False, off_policy=False, multi_step=False)
H_STEP = Rule(h_step, mixes_values=False, off_policy=False, multi_step=True)
TD_LAMBDA = Rule(td_lambda, mixes_values=True, off_policy=False, multi_step=True)
RETRACE = Rule(retrace, mixes_values=True, off_policy=True, multi_step=True)


def _quantiles(x: Array, at: Sequence[float]) -> list[Array]:
    """Return quantiles of x [B] float32, interpolated linearly.

    Floats are ordered as the integers that share their bits: XLA sorts integers several times faster on a CPU.
    """
    flip = lambda bits: jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # noqa: E731  negative floats count backwards
    order = jnp.sort(flip(jax.lax.bitcast_convert_type(x, jnp.int32)), stable=False)
    ranked = jax.lax.bitcast_convert_type(flip(order), jnp.float32)
    places = [p * (x.shape[0] - 1) for p in at]
    ends = [(ranked[math.floor(place)], ranked[math.ceil(place)], place % 1.0) for place in places]
    return [low + (high - low) * part for low, high, part in ends]


def target_metrics(target: Array) -> dict[str, Array]:
    """Return mean, variance and the 5, 50 and 95 % quantiles of a batch of targets [B] (units of return)."""
    q05, q50, q95 = _quantiles(target, (0.05, 0.5, 0.95))
    return {
        "target/mean": jnp.mean(target),
        "target/variance": jnp.var(target),
        "target/q05": q05,
        "target/q50": q50,
        "target/q95": q95,
    }
