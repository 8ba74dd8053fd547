"""Total propagation: at every action the backward pass mixes the pathwise and the likelihood-ratio gradient.

    lambda_i = d G_i / d s_i, as far as the two can tell
    pathwise          d/d(theta, s_i) [ r_i + bonus_i + gamma lambda_{i+1} s_{i+1} ]      through a_i = pi_theta(s_i, eps_i)
    likelihood ratio  (G_i - b_i) d/d(theta, s_i) log pi(a_i|s_i)  +  d/ds_i [ r_i + gamma lambda_{i+1} s_{i+1} ]   at fixed a_i
    share of the likelihood ratio    k_i = tr V_pathwise / (tr V_lr + tr V_pathwise),   V of d/d theta over the samples

k = 0 everywhere is `dp`, k = 1 is `lr` (tested). Source: PIPPS, Parmas et al. 2018 (arXiv 1902.01240), with the policy's action
as the node at which samples are drawn, so that models without noise can be used too. The weights are best for independent
estimates; these two share their noise, so the mixture can be a little worse than the better of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.estimators.likelihood_ratio import baselines, ivw_share, scored
from valex.estimators.pathwise import Chain, Path, closed, one_by_one
from valex.types import ActionSample, Array, PyTree, Transition
from valex.windows import as_rollout, make_step


class Node(NamedTuple):
    """One action of every sample, leaves [B, ...]; the last one, a_h, is followed by no step."""

    carry: PyTree  # (obs, model state, alive) of the rollout before the action
    start: PyTree  # the carry that the rollout began with
    key: Array
    latent: Array  # [B, 1, act_dim]
    factor: Array  # G_i - b_i
    discount: Array  # gamma^i, 0 after a termination
    decay: Array  # of the step behind: gamma, 0 where it terminates


def numbers(tree: PyTree) -> tuple[list[Array], Callable]:
    """Return the leaves that have derivatives, and what puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

    def rebuild(values: list[Array]) -> PyTree:
        left = iter(values)
        return jax.tree.unflatten(structure, [next(left) if r else x for x, r in zip(leaves, real, strict=True)])

    return [x for x, r in zip(leaves, real, strict=True) if r], rebuild


def step_value(chain: Chain, theta: PyTree, carry: PyTree, node: Node, behind: list[Array], fixed: bool) -> Array:
    """Return r + bonus + decay lambda . s' of one sample, through its action, or r + decay lambda . s' with it `fixed`."""
    boot = chain.view(theta)

    def act(key: Array, obs: Array) -> ActionSample:
        sample = boot.act(key, obs)
        return jax.lax.stop_gradient(sample) if fixed else sample

    step = make_step(chain.model, chain.params, act, node.start)
    after, (_, _, log_prob, _, reward, _) = step(carry, (node.key, None))
    ahead = sum((jnp.vdot(a, b) for a, b in zip(behind, numbers(after)[0], strict=True)), jnp.zeros(()))
    return jnp.sum(reward) + (0.0 if fixed else jnp.sum(boot.bonus(log_prob))) + node.decay * ahead


def last_value(chain: Chain, theta: PyTree, carry: PyTree, node: Node, behind: list[Array], fixed: bool) -> Array:
    """Return Q(s_h, a_h) + bonus of one sample, through its action, or Q alone with it `fixed`."""
    del behind
    boot, obs = chain.view(theta), carry[0]
    sample = boot.act(node.key, obs)
    if fixed:
        return jnp.sum(boot.q(obs, jax.lax.stop_gradient(sample.action)))
    return jnp.sum(boot.q(obs, sample.action) + boot.bonus(sample.log_prob))


def mixed(
    value: Callable, chain: Chain, theta: PyTree, node: Node, behind: list[Array], share: float | None
) -> tuple[PyTree, list[Array], Array]:
    """Return (gamma^i d/d theta, lambda_i of every sample, k_i) of a node whose `value` is step_value or last_value."""

    def pathwise(theta: PyTree, real: list[Array], node: Node, behind: list[Array]) -> Array:
        return value(chain, theta, numbers(node.carry)[1](real), node, behind, fixed=False)

    def likelihood_ratio(theta: PyTree, real: list[Array], node: Node, behind: list[Array]) -> Array:
        carry = numbers(node.carry)[1](real)
        score = node.factor * jnp.sum(chain.view(theta).log_prob(carry[0], node.latent))
        return score + value(chain, theta, carry, node, behind, fixed=True)

    def grad(f: Callable) -> tuple[PyTree, list[Array]]:
        each = jax.vmap(jax.grad(f, argnums=(0, 1)), in_axes=(None, 0, 0, 0))
        return each(theta, numbers(node.carry)[0], node, behind)

    rp, lr = grad(pathwise), grad(likelihood_ratio)
    alive = 1.0 * (node.discount > 0.0)
    k = 1.0 - ivw_share(scaled(rp[0], alive), scaled(lr[0], alive)) if share is None else jnp.float32(share)
    by_theta, by_carry = jax.tree.map(lambda a, b: (1.0 - k) * a + k * b, rp, lr)
    return scaled(by_theta, node.discount), by_carry, k


def walk(theta: PyTree, chain: Chain, row: Transition, key: Array, horizon: int) -> tuple[Path, tuple, tuple]:
    """Roll one sample out as `pathwise.follow` does, and keep (carry, start, key) of every step [h, ...] and of the end."""
    start_key, path_key, last_key = jax.random.split(key, 3)
    state, boot = chain.model.start(chain.params, start_key, row.obs, row.sim_state), chain.view(theta)
    start, keys = (row.obs, state, jnp.ones(1, bool)), jax.random.split(path_key, horizon)
    step = make_step(chain.model, chain.params, boot.act, start)

    def keeping(carry: PyTree, key: Array) -> tuple[PyTree, tuple]:
        after, out = step(carry, (key, None))
        return after, (carry, out)

    end, (carries, rows) = jax.lax.scan(keeping, start, keys)
    path = closed(chain, theta, as_rollout(row.obs, rows), boot.act(last_key, end[0]))
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (horizon, *x.shape)), start)
    return path, (carries, starts, keys), (end, start, last_key)


def propagated_grads(
    theta: PyTree, chain: Chain, starts: Transition, keys: Array, horizon: int, share: float | None = None
) -> tuple[PyTree, Array]:
    """Return (gradient of V_h of every sample, leaves [B, ...]; share k_i of the likelihood ratio at every node [h + 1]).

    `share` fixes k. The baseline b_i is the mean return of the other samples from node i on.
    """
    one = lambda row, key: walk(theta, chain, row, key, horizon)  # noqa: E731
    path, steps, end = jax.vmap(one)(one_by_one(starts, "lr"), keys)
    seen = scored(path, horizon)
    factor = seen.returns - baselines(seen.returns, seen.discount)
    read = seen.latent[:, :, None], factor, seen.discount, jnp.concatenate([seen.decay, 0.0 * seen.discount[-1:]])
    at = lambda i: jax.tree.map(lambda x: x[i], read)  # noqa: E731
    total, behind, k_last = mixed(last_value, chain, theta, Node(*end, *at(-1)), [], share)
    by_step = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), steps)  # [B, h, ...] -> [h, B, ...]
    nodes = jax.tree.map(lambda x: x[::-1], Node(*by_step, *at(slice(horizon))))  # the last action first

    def back(carry: tuple, node: Node) -> tuple[tuple, Array]:
        """Go back over one action of all samples."""
        behind, total = carry
        own, behind, k = mixed(step_value, chain, theta, node, behind, share)
        return (behind, jax.tree.map(jnp.add, total, own)), k

    (_, total), shares = jax.lax.scan(back, (behind, total), nodes)
    return total, jnp.concatenate([shares[::-1], k_last[None]])


def scaled(grads: PyTree, factor: Array) -> PyTree:
    """Return every sample's gradient, leaves [B, ...], times its factor [B]."""
    return jax.tree.map(lambda g: g * factor.reshape(-1, *(1,) * (g.ndim - 1)), grads)
