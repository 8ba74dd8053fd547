"""Gradients of a policy's value through a model, or past it: every estimator, one gradient for each sample.

    V_h(s_0; theta) = sum_{i<h} gamma^i (r_i + bonus_i) + gamma^h (Q(s_h, a_h) + bonus_h)
    a_i = pi_theta(s_i, eps_i) for i = 0..h,   s_{i+1} = f(s_i, a_i, xi_i);   no 1 / (h + 1); Q and f are constants

    dp            d V_h / d theta along the model's own predictions       (RP-DP, arXiv 2310.19927, eq. 4.1)
    dr            the same along real segments, with the noises that they imply held constant          (RP-DR, eq. 4.2)
    detach        dp, but the policy passes no gradient on to what it reads                              (as Dreamer does)
    first_action  dp, but theta is a constant in every call of the policy but the first
    lr            sum_i gamma^i grad log pi(a_i|s_i) (G_i - b_i),  G_i the return from step i on     (likelihood ratio)

    ivw                a dp + (1 - a) lr with a = tr_lr / (tr_dp + tr_lr), traces of their covariances (inverse variance)
    alpha_order        ivw within a budget of bias (Suh et al. 2022, arXiv 2202.00817)
    total_propagation  mixes dp and lr at every action inside the backward pass (PIPPS, Parmas et al. 2018)

All of them follow `windows.rollout`. What these gradients say (variance, bias, signal) stands in `diagnostics/moments.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.estimators.likelihood_ratio import ivw_share, likelihood_ratio_grads
from valex.estimators.pathwise import Chain, Upto, one_by_one, pathwise_value
from valex.estimators.total_propagation import propagated_grads
from valex.losses import centred, covariance_trace, gradient_norm, square_norms
from valex.settings import ActorConfig
from valex.types import Array, PyTree, Transition

PATHWISE = ("dp", "dr", "detach", "first_action")
TRACED = ("dp", "detach", "first_action")  # modes whose horizon may be traced
MODES = (*PATHWISE, "lr", "ivw", "alpha_order", "total_propagation")


class Mixing(NamedTuple):
    """What the likelihood ratio and the mixtures can be told."""

    baseline: str | float = "optimal"  # b of lr: optimal (least variance) or mean, both of the OTHER samples; a number
    bias_budget: float = float("inf")  # of alpha_order, a norm of gradients
    failure: float = 0.05  # of alpha_order: probability that lr errs by more than its bound


def mixing_of(config: ActorConfig) -> Mixing:
    """Return what a config tells the mixtures."""
    return Mixing(bias_budget=float("inf") if config.bias_budget is None else config.bias_budget)


def per_sample_grads(
    theta: PyTree,
    chain: Chain,
    starts: Transition,
    keys: Array,
    horizon: int | Upto,
    mode: str,
    mixing: Mixing | None = None,
) -> PyTree:
    """Return the gradient of V_h with respect to theta for every sample, leaves [B, ...]; their mean is to be ASCENDED.

    starts: leaves [B, ...]; of `dr` real segments of h + 1 steps, leaves [h + 1, B, ...], with `latent`. keys [B]: the same
    keys give the same noises in every mode but `dr`. `lr` with a baseline and the mixtures couple the samples. `horizon` may be
    traced (`Upto`) in TRACED. Raises ValueError for an unknown mode, one that a traced horizon is not for, or `dr` where the
    policy cannot be asked for the noise of an action.
    """
    mixing = mixing or Mixing()
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, allowed: {', '.join(MODES)}")
    if isinstance(horizon, Upto) and mode not in TRACED:
        raise ValueError(f"horizon: traced, which {mode} is not for; allowed: {', '.join(TRACED)}")
    if mode == "dr" and chain.view(theta).redraw is None:
        raise ValueError("mode: dr infers the noise of stored actions, which this policy's `redraw` does not offer")
    if mode in PATHWISE:
        grad = jax.grad(lambda th, row, key: pathwise_value(th, chain, row, key, horizon, mode))
        return jax.vmap(grad, in_axes=(None, 0, 0))(theta, one_by_one(starts, mode), keys)
    assert not isinstance(horizon, Upto)
    if mode == "lr":
        return likelihood_ratio_grads(theta, chain, starts, keys, horizon, mixing.baseline)
    if mode == "total_propagation":
        return propagated_grads(theta, chain, starts, keys, horizon)[0]
    rp, lr = (per_sample_grads(theta, chain, starts, keys, horizon, m, mixing) for m in ("dp", "lr"))
    share = ivw_share(rp, lr) if mode == "ivw" else alpha_order_share(rp, lr, mixing)
    return jax.tree.map(lambda a, b: share * a + (1.0 - share) * b, rp, lr)


def alpha_order_share(rp: PyTree, lr: PyTree, mixing: Mixing) -> Array:
    """Return the weight of `rp`: that of ivw, as far as the distance to lr, with lr's own error, stays within the budget.

        a = 0 if eps > budget, else min(a_ivw, (budget - eps) / |g_rp - g_lr|)
        eps = sqrt(2 tr_lr ln((p + 1) / failure) / n) + 2 L ln((p + 1) / failure) / (3 n)

    p numbers in theta, n samples, L the largest |g_lr,j - mean|: a vector Bernstein bound. Source: Suh et al. 2022, their
    equation of the interpolated estimator, with traces of covariances where their release squares them.
    """
    leaves = jax.tree.leaves(lr)
    n, p = leaves[0].shape[0], sum(x[0].size for x in leaves)
    log = jnp.log((p + 1) / mixing.failure)
    spread, largest = covariance_trace(lr), jnp.sqrt(jnp.max(square_norms(centred(lr)[1])))
    error = jnp.sqrt(2.0 * spread * log / n) + 2.0 * largest * log / (3.0 * n)
    apart = gradient_norm(jax.tree.map(lambda a, b: jnp.mean(a - b, axis=0), rp, lr))
    allowed = jnp.where(apart > 0.0, (mixing.bias_budget - error) / jnp.where(apart > 0.0, apart, 1.0), jnp.inf)
    return jnp.where(error > mixing.bias_budget, 0.0, jnp.minimum(ivw_share(rp, lr), allowed))
