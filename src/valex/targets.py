"""THE target file: one backward recursion, and the rules that choose its trace.

    G_t = r_t + g_t [ v_t + c_t (G_{t+1} - q_t) ],   G_T = q_{T-1}              (Munos et al. 2016, arXiv 1606.02647)

with rows t = 0..T-1 of a window, g_t = gamma (1 - terminated_t), v_t = V(s_{t+1}), q_t = Q(s_{t+1}, a_{t+1}) and T = H + 1.
Every rule is this recursion with another trace c. A trace is a set of weights over the targets T_0 .. T_H that bootstrap after
h = 0 .. H further steps, and any such set is a trace (derived, tested):

    G_0 = sum_h w_h T_h,    w_h = (1 - c_h) prod_{s<h} c_s,    c_h = sum_{k>h} w_k / sum_{k>=h} w_k

    td          c_t = 0                                      T_0 = r_0 + g_0 V(s_1)
    h_step      c_t = 1[t < H]                               T_H = r_0 + g_0 r_1 + ... + g_0..g_H V(s_{H+1})
    td_lambda   c_t = lambda 1[t < H]                        w_h = (1 - lambda) lambda^h, w_H = lambda^H
    retrace     c_t = lambda min(1, pi/mu) 1[t < H]          the control-variate form, q_t = Q(s_{t+1}, a_{t+1})
    mean        w_h = 1 / (H + 1)
    min         w_h = 1 at the smallest T_h                  pessimistic by itself, on top of a minimum over critics
    steve       w_h ~ 1 / variance of T_h over the samples   members of dynamics and reward, critics

The last row always bootstraps with V. Where `continues` is 0 (an episode ends, a model is no longer trusted) a row bootstraps
too, and the horizons beyond it have no weight.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.types import Array, ReturnInputs

STEVE_FLOOR = 1e-8  # squared units of return, added to a variance before it is inverted (Buckman et al. 2018, release)


def backward_return(reward: Array, discount: Array, value: Array, q: Array, trace: Array) -> Array:
    """Return G_t of every row: G_t = r_t + discount_t [ v_t + c_t (G_{t+1} - q_t) ], G_T = q_{T-1}.

    All arguments and the result are [T, B] or [T, J, B] with J samples; reward, value, q and the result in units of return,
    discount and trace in [0, 1]. Raises AssertionError at trace time if the shapes differ.
    Source: Munos et al. 2016, written with the per-row value and control variate of general off-policy returns.
    """
    chex.assert_rank(reward, {2, 3})
    chex.assert_equal_shape([reward, discount, value, q, trace])

    def step(g_next, row):
        r, d, v, q_, c = row
        g = r + d * (v + c * (g_next - q_))
        return g, g

    return jax.lax.scan(step, q[-1], (reward, discount, value, q, trace), reverse=True)[1]


# ------------------------------------------------------------------------------- windows, horizons, weights and traces


def window_returns(x: ReturnInputs, trace: Array) -> Array:
    """Return G_t of every row of a window under a trace, [T, ..., B]."""
    return backward_return(x.reward, x.discount, x.value, x.q, trace)


def first_target(x: ReturnInputs, trace: Array) -> Array:
    """Return G_0 of windows [T, B] under a trace, or its mean over the samples of windows [T, J, B]; [B]."""
    target = window_returns(x, trace)[0]
    return target if target.ndim == 1 else jnp.mean(target, axis=0)


def horizon_returns(x: ReturnInputs) -> Array:
    """Return T_h for h = 0..T-1, [T, ..., B]: the H-step target of every horizon that the window holds."""
    return jax.vmap(lambda h: window_returns(x, h_step(x, h))[0])(jnp.arange(x.reward.shape[0]))


def reachable(x: ReturnInputs, horizon: Array | int) -> Array:
    """Return 1. for the horizons h <= H before which no row stops (`continues`), else 0., [T, ..., B]."""
    first = jnp.ones_like(x.continues[:1])
    return jnp.concatenate([first, jnp.cumprod(x.continues[:-1], axis=0)]) * _inside(x, horizon + 1)


def trace_of(weights: Array) -> Array:
    """Return the trace c_h = sum_{k>h} w_k / sum_{k>=h} w_k of weights [T, ..., B] >= 0, without gradient."""
    tail = jnp.cumsum(weights[::-1], axis=0)[::-1]
    later = jnp.concatenate([tail[1:], jnp.zeros_like(tail[:1])])
    return jax.lax.stop_gradient(jnp.where(tail > 0.0, later / jnp.where(tail > 0.0, tail, 1.0), 0.0))


def weights_of(trace: Array) -> Array:
    """Return the weights w_h = (1 - c_h) prod_{s<h} c_s of T_0 .. T_{T-1} under a trace [T, ..., B]; they sum to 1."""
    reached = jnp.concatenate([jnp.ones_like(trace[:1]), jnp.cumprod(trace[:-1], axis=0)])
    return reached * (1.0 - trace.at[-1].set(0.0))


def window_of(returns: Array, continues: Array) -> ReturnInputs:
    """Return the window whose T_h are the given ones, [T, ..., B]: its rewards are their increments, nothing is discounted.

    What has been aggregated horizon by horizon is folded by the same rules as any other window.
    """
    ones, zeros = jnp.ones_like(returns), jnp.zeros_like(returns)
    steps = jnp.diff(returns, axis=0, prepend=zeros[:1])
    return ReturnInputs(steps, ones, zeros, zeros, zeros, continues)


def aggregate(x: Array, how: str, axis: int = 0) -> Array:
    """Return the `min`, the `mean` or the `first` of x along an axis: critics (critic_agg) or members (member_agg)."""
    return {"min": jnp.min, "mean": jnp.mean, "first": lambda x, axis: jnp.take(x, 0, axis)}[how](x, axis=axis)


def _inside(x: ReturnInputs, horizon: Array | int) -> Array:
    """Return 1[t < horizon] for the rows of a window, broadcastable to [T, ..., B]."""
    rows = jnp.arange(x.reward.shape[0])
    return 1.0 * (rows < horizon).reshape(-1, *(1,) * (x.reward.ndim - 1))


def _over_samples(x: ReturnInputs, horizon: Array | int) -> tuple[Array, Array, Array]:
    """Return mean and population variance of T_h over the samples and the horizons all of them reach, each [T, B]."""
    returns, reach = horizon_returns(x), reachable(x, horizon)
    if returns.ndim == 2:
        return returns, jnp.zeros_like(returns), reach
    return jnp.mean(returns, axis=1), jnp.var(returns, axis=1), jnp.min(reach, axis=1)


def _shared(x: ReturnInputs, weights: Array) -> Array:
    """Return the trace of weights [T, B] for every sample of a window, [T, ..., B]."""
    trace = trace_of(weights)
    return trace if x.reward.ndim == 2 else jnp.broadcast_to(trace[:, None], x.reward.shape)


# ------------------------------------------------------------------------------------------ the rules, each one a trace


def td(x: ReturnInputs, horizon: Array | int = 0, lam: float = 1.0) -> Array:
    """Return c = 0: the target is r_0 + g_0 V(s_1). `horizon` and `lam` are not read. Source: Sutton 1988."""
    del horizon, lam
    return jnp.zeros_like(x.reward)


def h_step(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return c_t = 1[t < H]: the target is r_0 + g_0 r_1 + ... + g_0 .. g_H V(s_{H+1}).

    `horizon` is H, at most T - 1; it may be traced. `lam` is not read.
    Source: Feinberg et al. 2018 (arXiv 1803.00101) on model rollouts; the uncorrected n-step return on stored ones.
    """
    del lam
    return jax.lax.stop_gradient(_inside(x, horizon) * x.continues)


def td_lambda(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return c_t = lambda 1[t < H]: w_h = (1 - lambda) lambda^h and w_H = lambda^H. Source: Sutton 1988."""
    return lam * h_step(x, horizon)


def retrace(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return c_t = lambda min(1, exp(log_rho_t)) 1[t < H]. Source: Munos et al. 2016 (arXiv 1606.02647)."""
    return jax.lax.stop_gradient(jnp.exp(jnp.minimum(x.log_rho, 0.0))) * td_lambda(x, horizon, lam)


def mean(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return c_t = (H - t) / (H - t + 1): equal weights for all horizons that are reached. `lam` is not read.

    Source: the ablation `mean_k_return` in the release of Buckman et al. 2018 (arXiv 1807.01675).
    """
    del lam
    return trace_of(reachable(x, horizon))


def minimum(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return the trace that stops at the smallest T_h; with samples, at the smallest mean over them. `lam` is not read.

    Independent noise in the T_h biases the minimum down, by 0.56 to 1.59 standard deviations for 2 to 11 horizons
    (`target/gap` logs it). Source: A. Botev, "Investigating Model Based RL for Continuous Control", talk, 2018.
    """
    del lam
    returns, _, reach = _over_samples(x, horizon)
    best = jnp.argmin(jnp.where(reach > 0.0, returns, jnp.inf), axis=0)
    return _shared(x, jax.nn.one_hot(best, len(returns), axis=0, dtype=returns.dtype))


def steve(x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
    """Return the trace of w_h = 1 / (var_h + 1e-8), var_h the population variance of T_h over samples. `lam` is not read.

    Samples [T, J, B] are members of the dynamics x members of the reward x critics; with one sample all weights are equal.
    Source: Buckman et al. 2018 (STEVE, arXiv 1807.01675) and its release.
    """
    del lam
    _, variance, reach = _over_samples(x, horizon)
    weights = reach / (variance + STEVE_FLOOR)
    return _shared(x, weights / jnp.sum(weights, axis=0))


class Rule(NamedTuple):
    """A row of the rules: the trace, and what it reads, so that nothing else is computed."""

    trace: Callable  # (ReturnInputs, horizon, lam) -> c, shaped like the window
    mixes_values: bool  # reads V and Q at every row, not only at the last one
    off_policy: bool  # reads log_rho: the window may come from another policy
    multi_step: bool  # a horizon above 0 means something
    reads_returns: bool = False  # the trace depends on the T_h, so that every row of a window has one of its own
    reads_spread: bool = False  # the trace depends on their variance over samples: without members it is `mean`

    def fold(self, x: ReturnInputs, horizon: Array | int, lam: float = 1.0) -> Array:
        """Return the target of windows under this rule's trace, [B]; see `first_target`."""
        return first_target(x, self.trace(x, horizon, lam))


TD = Rule(td, mixes_values=False, off_policy=False, multi_step=False)
H_STEP = Rule(h_step, mixes_values=False, off_policy=False, multi_step=True)
TD_LAMBDA = Rule(td_lambda, mixes_values=True, off_policy=False, multi_step=True)
RETRACE = Rule(retrace, mixes_values=True, off_policy=True, multi_step=True)
MEAN = Rule(mean, mixes_values=True, off_policy=False, multi_step=True)
MIN = Rule(minimum, mixes_values=True, off_policy=False, multi_step=True, reads_returns=True)
STEVE = Rule(steve, mixes_values=True, off_policy=False, multi_step=True, reads_returns=True, reads_spread=True)


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


def horizon_metrics(x: ReturnInputs, trace: Array, target: Array) -> dict[str, Array]:
    """Return how far a trace looked into windows [T, ..., B] and what that cost against the mean over horizons.

    target/horizon    mean of sum_h w_h h, in model steps; per row it is the horizon at which the target bootstraps
    target/model_use  mean of 1 - w_0, the weight of all that is not the one-step target (STEVE's average_model_use)
    target/gap        mean of (mean_h T_h) - target over the horizons reached, in units of return; positive for `min`
    """
    weights, reach = weights_of(trace), reachable(x, x.reward.shape[0] - 1)
    steps = jnp.arange(len(weights)).reshape(-1, *(1,) * (weights.ndim - 1))
    level = jnp.sum(reach * horizon_returns(x), axis=0) / jnp.sum(reach, axis=0)
    return {
        "target/horizon": jnp.mean(jnp.sum(weights * steps, axis=0)),
        "target/model_use": jnp.mean(1.0 - weights[0]),
        "target/gap": jnp.mean(level) - jnp.mean(target),
    }
