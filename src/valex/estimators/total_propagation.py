"""Total propagation: at every action the backward pass mixes the pathwise and the likelihood-ratio gradient.

    lambda_i = d G_i / d s_i, as far as the two can tell
    pathwise          d/d(theta, s_i) [ r_i + bonus_i + gamma lambda_{i+1} s_{i+1} ]      through a_i = pi_theta(s_i, eps_i)
    likelihood ratio  (G_i - b_i) d/d(theta, s_i) log pi(a_i|s_i)  +  d/ds_i [ r_i + gamma lambda_{i+1} s_{i+1} ]   at fixed a_i
    share of the likelihood ratio    k_i = tr V_pathwise / (tr V_lr + tr V_pathwise),   V of d/d theta over the samples

k = 0 everywhere is `dp`, k = 1 is `lr` (tested). Source: PIPPS, Parmas et al. 2018 (arXiv 1902.01240), with the policy's action
as the node at which samples are drawn, so that models without noise can be used too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from valex.estimators.likelihood_ratio import baselines, covariance_trace, scored
from valex.estimators.pathwise import Chain, one_by_one
from valex.types import ActionSample, Array, PyTree, Transition
from valex.windows import make_step


def numbers(tree: PyTree) -> tuple[list[Array], Callable]:
    """Return the leaves that have derivatives, and what puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

    def rebuild(values: list[Array]) -> PyTree:
        left = iter(values)
        return jax.tree.unflatten(structure, [next(left) if r else x for x, r in zip(leaves, real, strict=True)])

    return [x for x, r in zip(leaves, real, strict=True) if r], rebuild


def propagated_grads(
    theta: PyTree, chain: Chain, starts: Transition, keys: Array, horizon: int, share: float | None = None
) -> tuple[PyTree, Array]:
    """Return (gradient of V_h of every sample, leaves [B, ...]; share k_i of the likelihood ratio at every node [h + 1]).

    `share` fixes k. The baseline b_i is the mean return of the other samples from node i on.
    """
    seen = scored(theta, chain, starts, keys, horizon)
    factor = seen.returns - baselines(seen.returns, seen.discount)
    rows = one_by_one(starts, "lr")

    def forward(row: Transition, key: Array) -> tuple[tuple, tuple]:
        """Roll one sample out again, keeping what every step began with; returns (the start and every step, the end)."""
        start_key, path_key, last_key = jax.random.split(key, 3)
        state = chain.model.start(chain.params, start_key, row.obs, row.sim_state)
        start = row.obs, state, jnp.ones(1, bool)
        step, step_keys = (
            make_step(chain.model, chain.params, chain.view(theta).act, start),
            jax.random.split(path_key, horizon),
        )
        end, carries = jax.lax.scan(lambda c, k: (step(c, (k, None))[0], c), start, step_keys)
        return (start, carries, step_keys), (end, last_key)

    (start, carries, step_keys), (end, last_key) = jax.vmap(forward)(rows, keys)
    latents = seen.latent[:, :, None]  # [h + 1, B, 1, act_dim]

    def mixed(rp: tuple, lr: tuple, discount: Array) -> tuple[PyTree, list[Array], Array]:
        """Mix (d/d theta, d/d carry) of every sample; returns gamma^i d/d theta, lambda, k."""
        alive = 1.0 * (discount > 0.0)
        k = _share(scaled(rp[0], alive), scaled(lr[0], alive)) if share is None else jnp.float32(share)
        both = jax.tree.map(lambda a, b: (1.0 - k) * a + k * b, rp, lr)
        return scaled(both[0], discount), both[1], k

    def last_node(theta: PyTree, real: list[Array], carry: PyTree, key: Array) -> Array:
        obs = numbers(carry)[1](real)[0]
        boot = chain.view(theta)
        sample = boot.act(key, obs)
        return jnp.sum(boot.q(obs, sample.action) + boot.bonus(sample.log_prob))

    def last_score(theta: PyTree, real: list[Array], carry: PyTree, latent: Array, factor: Array, key: Array) -> Array:
        obs = numbers(carry)[1](real)[0]
        boot = chain.view(theta)
        fixed = jax.lax.stop_gradient(boot.act(key, obs).action)
        return jnp.sum(factor * boot.log_prob(obs, latent) + boot.q(obs, fixed))

    def step_value(theta: PyTree, real: list[Array], at: tuple, behind: list[Array], fixed: bool) -> Array:
        """Return r + bonus + decay lambda . s' of one sample, through the action, or with the action fixed."""
        start, carry, key, latent, decay, _ = at
        boot, carry = chain.view(theta), numbers(carry)[1](real)

        def act(key: Array, obs: Array) -> ActionSample:
            sample = boot.act(key, obs)
            return jax.lax.stop_gradient(sample) if fixed else sample

        after, (_, _, log_prob, _, reward, _) = make_step(chain.model, chain.params, act, start)(carry, (key, None))
        ahead = sum((jnp.vdot(a, b) for a, b in zip(behind, numbers(after)[0], strict=True)), jnp.zeros(()))
        return jnp.sum(reward) + (0.0 if fixed else jnp.sum(boot.bonus(log_prob))) + decay * ahead

    def step_score(theta: PyTree, real: list[Array], at: tuple, behind: list[Array]) -> Array:
        _, carry, _, latent, _, factor = at
        obs = numbers(carry)[1](real)[0]
        score = factor * jnp.sum(chain.view(theta).log_prob(obs, latent))
        return score + step_value(theta, real, at, behind, fixed=True)

    def node(carry: tuple, xs: tuple) -> tuple[tuple, Array]:
        """Go back over one action of all samples."""
        (behind, total), (at, discount) = carry, xs
        real = numbers(at[1])[0]
        grad = lambda f: jax.vmap(jax.grad(f, argnums=(0, 1)), in_axes=(None, 0, 0, 0))(theta, real, at, behind)  # noqa: E731
        rp = grad(lambda th, x, a, b: step_value(th, x, a, b, fixed=False))
        own, behind, k = mixed(rp, grad(step_score), discount)
        return (behind, jax.tree.map(jnp.add, total, own)), k

    real = numbers(end)[0]
    rp = jax.vmap(jax.grad(last_node, argnums=(0, 1)), in_axes=(None, 0, 0, 0))(theta, real, end, last_key)
    score = jax.vmap(jax.grad(last_score, argnums=(0, 1)), in_axes=(None, 0, 0, 0, 0, 0))
    lr = score(theta, real, end, latents[-1], factor[-1], last_key)
    total, behind, k_last = mixed(rp, lr, seen.discount[-1])
    flip = lambda tree: jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[::-1], tree)  # noqa: E731  [B, h] -> [h, B] reversed
    starts_of = jax.tree.map(lambda x: jnp.broadcast_to(x, (horizon, *x.shape)), start)
    back = lambda x: x[:horizon][::-1]  # noqa: E731
    at = (starts_of, flip(carries), flip(step_keys), back(latents), back(seen.decay), back(factor))
    (_, total), shares = jax.lax.scan(node, (behind, total), (at, back(seen.discount)))
    return total, jnp.concatenate([shares[::-1], k_last[None]])


def scaled(grads: PyTree, factor: Array) -> PyTree:
    """Return every sample's gradient, leaves [B, ...], times its factor [B]."""
    return jax.tree.map(lambda g: g * factor.reshape(-1, *(1,) * (g.ndim - 1)), grads)


def _share(rp: PyTree, lr: PyTree) -> Array:
    """Return tr V_rp / (tr V_lr + tr V_rp), 0.5 where both are 0."""
    rp_trace, lr_trace = covariance_trace(rp), covariance_trace(lr)
    share = rp_trace / (rp_trace + lr_trace)
    return jnp.where(jnp.isfinite(share), share, 0.5)
