"""The likelihood-ratio gradient on the samples of a model, with its baselines, and its weight beside another estimate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.estimators.pathwise import Chain, Path, follow, one_by_one
from valex.losses import covariance_trace, square_norms
from valex.targets import H_STEP, window_returns
from valex.types import Array, PyTree, Transition


class Scored(NamedTuple):
    """What the likelihood ratio reads of the rollouts of B samples, without gradient; node i is a_i, the last one a_h."""

    obs: Array  # [h + 1, B, obs_dim]
    latent: Array  # [h + 1, B, act_dim]
    returns: Array  # [h + 1, B] G_i, from node i on
    discount: Array  # [h + 1, B] gamma^i, 0 after a termination
    decay: Array  # [h, B] of the step behind node i: gamma, 0 where it terminates


def scored(each: Path, horizon: int) -> Scored:
    """Sum up what comes after each action of the rollouts of B samples, one row each: leaves [B, T, 1, ...]."""
    flat = lambda x: jnp.moveaxis(x[:, :, 0], 0, 1)  # noqa: E731  [B, T, 1, ...] -> [T, B, ...]
    window = jax.tree.map(flat, each.window)
    returns = window_returns(window, H_STEP.trace(window, horizon, 1.0))
    latent = jnp.concatenate([flat(each.path.latent), jnp.moveaxis(each.last.latent, 1, 0)])
    after = jnp.concatenate([returns[1:], window.value[-1:]])
    discount = jnp.cumprod(window.discount, axis=0)
    return jax.lax.stop_gradient(Scored(flat(each.path.obs), latent, after, discount, window.discount[1:]))


def baselines(returns: Array, weight: Array) -> Array:
    """Return b [T, B]: the mean of returns over the OTHER samples under weights >= 0, so that lr stays unbiased; 0 of one."""
    total = jnp.sum(weight * returns, axis=1, keepdims=True) - weight * returns
    weights = jnp.sum(weight, axis=1, keepdims=True) - weight
    return jnp.where(weights > 0.0, total / jnp.where(weights > 0.0, weights, 1.0), 0.0)


def likelihood_ratio_grads(
    theta: PyTree, chain: Chain, starts: Transition, keys: Array, horizon: int, baseline: str | float = "optimal"
) -> PyTree:
    """Return sum_i gamma^i grad log pi(a_i|s_i) (G_i - b_i) of every sample, leaves [B, ...].

    baseline `optimal`: b_i = E[|score_i|^2 G_i] / E[|score_i|^2] over the other samples, for every i by itself.
    """
    each = jax.vmap(lambda row, key: follow(theta, chain, row, key, horizon))(one_by_one(starts, "lr"), keys)
    seen = scored(each, horizon)
    log_prob = lambda th, obs, latent: chain.view(th).log_prob(obs, latent)  # noqa: E731
    weight = seen.discount**2
    if baseline == "optimal":
        score = jax.vmap(jax.grad(log_prob), in_axes=(None, 0, 0))
        weight *= jax.lax.map(lambda node: square_norms(score(theta, *node)), (seen.obs, seen.latent))
    b = baselines(seen.returns, weight) if isinstance(baseline, str) else baseline
    factor = seen.discount * (seen.returns - b)

    def surrogate(theta: PyTree, obs: Array, latent: Array, factor: Array) -> Array:
        return jnp.sum(factor * log_prob(theta, obs, latent))

    return jax.vmap(jax.grad(surrogate), in_axes=(None, 1, 1, 1))(theta, seen.obs, seen.latent, factor)


def ivw_share(rp: PyTree, lr: PyTree) -> Array:
    """Return the weight of `rp` that minimises the variance of the mixture: tr_lr / (tr_rp + tr_lr); 0.5 where both are 0."""
    rp_trace, lr_trace = covariance_trace(rp), covariance_trace(lr)
    share = lr_trace / (rp_trace + lr_trace)
    return jnp.where(jnp.isfinite(share), share, jnp.where(jnp.isfinite(rp_trace), 0.5, 0.0))
