"""The value of a policy along a model as a function of the policy's parameters, and its derivatives through the model.

What the modes mean: `per_sample.py`. There is no other rollout than that of `windows.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import tree_where
from valex.models.fitting import same_episode
from valex.models.passing import held
from valex.models.segments import along_segment
from valex.targets import H_STEP
from valex.types import ActionSample, Array, Bootstrap, Model, PyTree, ReturnInputs, Transition
from valex.windows import Rollout, from_model, rollout


class Chain(NamedTuple):
    """What a value is made of as a function of the policy's parameters theta."""

    view: Callable  # (theta) -> Bootstrap: policy, critic and bonus; the critic's parameters are constants
    model: Model  # dynamics and reward
    params: PyTree  # of the model
    gamma: float  # discount per step


class Path(NamedTuple):
    """One rollout, ready to be folded."""

    path: Rollout
    last: ActionSample  # a_h, leaves [B, ...]
    window: ReturnInputs  # [h + 1, B]; row 0 is empty, row 1 + i is step i


class Upto(NamedTuple):
    """A horizon that is traced: one compiled program for all of them up to `most`. Not for `dr`."""

    most: int  # steps that are rolled out
    steps: Array  # [] int32, h


def one_by_one(starts: Transition, mode: str) -> Transition:
    """Return B batches of one row each, leaves [B, 1, ...]; of segments [T, B, ...] leaves [B, T, 1, ...]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None] if mode == "dr" else x[:, None], starts)


def pathwise_values(
    theta: PyTree, chain: Chain, start: Transition, key: Array, horizon: int | Upto, mode: str, calls: Any = None
) -> Array:
    """Return V_h of rows [B, ...] (segments [h + 1, B, ...] of `dr`), [B], with the gradient that `mode` says.

    calls [h + 1]: share of the gradient that every call of the policy lets through to theta, [most + 1] of a traced horizon, the
    last one that of a_h; None: all of it.
    """
    most, steps = horizon if isinstance(horizon, Upto) else (horizon, jnp.int32(horizon))
    if mode == "first_action":
        calls = jnp.zeros(most + 1).at[0].set(1.0).at[-1].max(1.0 * (steps == 0))
    return H_STEP.fold(follow(theta, chain, start, key, horizon, mode, calls).window, steps, 1.0)


def pathwise_value(
    theta: PyTree, chain: Chain, start: Transition, key: Array, horizon: int | Upto, mode: str, calls: Any = None
) -> Array:
    """Return the mean over rows of `pathwise_values`."""
    return jnp.mean(pathwise_values(theta, chain, start, key, horizon, mode, calls))


def segment_weights(view: Bootstrap, segments: Transition, limit: float | None) -> Array:
    """Return w [B], the importance of stored segments [h + 1, B, ...] for the policy of `view`, divided by their mean.

        w = min(limit, prod_i pi(a_i|s_i) / mu(a_i|s_i)),   the product over the actions of one episode; limit None: w = 1

    An action of an older policy implies a noise far in the tail of the present one: without weights `dr` climbs where that policy
    was. They carry no gradient. Source: Heess et al. 2015 (SVG with experience replay).
    """
    if limit is None:
        return jnp.ones(segments.reward.shape[1])
    ratio = view.log_prob(segments.obs, segments.latent) - segments.log_prob
    weight = jnp.minimum(jnp.exp(jnp.sum(same_episode(segments) * ratio, axis=0)), limit)
    return jax.lax.stop_gradient(weight / jnp.maximum(jnp.mean(weight), 1e-12))


def action_grads(theta: PyTree, chain: Chain, starts: Transition, keys: Array, horizon: int) -> PyTree:
    """Return the dp gradient by the call of the policy that it goes through, leaves [B, h + 1, ...]; they add up to dp."""

    def grad(row: Transition, key: Array, calls: Array) -> PyTree:
        return jax.grad(pathwise_value)(theta, chain, row, key, horizon, "dp", calls)

    each = jax.vmap(grad, in_axes=(None, None, 0))
    return jax.vmap(each, in_axes=(0, 0, None))(one_by_one(starts, "dp"), keys, jnp.eye(horizon + 1))


def reward_grads(theta: PyTree, chain: Chain, starts: Transition, keys: Array, horizon: int) -> PyTree:
    """Return the dp gradient by the step whose reward it is of, last that of the critic, leaves [B, h + 1, ...]; they add up."""

    def value(theta: PyTree, row: Transition, key: Array, own: Array) -> Array:
        window = follow(theta, chain, row, key, horizon).window
        reward = window.reward.at[1:].multiply(own[:-1, None])
        return jnp.mean(H_STEP.fold(window._replace(reward=reward, value=window.value * own[-1]), horizon, 1.0))

    each = jax.vmap(jax.grad(value), in_axes=(None, None, None, 0))
    return jax.vmap(each, in_axes=(None, 0, 0, None))(theta, one_by_one(starts, "dp"), keys, jnp.eye(horizon + 1))


def follow(
    theta: PyTree, chain: Chain, start: Transition, key: Array, horizon: int | Upto, mode: str = "dp", calls: Any = None
) -> Path:
    """Roll out h steps from rows [B, ...], or along segments [h + 1, B, ...]; `calls` as in `pathwise_value`.

    Of a traced horizon the window has `most` + 1 rows, and row h bootstraps.
    """
    if isinstance(horizon, Upto):
        still = chain._replace(model=held(chain.model, horizon.steps))
        found = follow(theta, still, start, key, horizon.most, mode, calls)
        value = jnp.zeros_like(found.window.value).at[horizon.steps].set(found.window.value[-1])
        return found._replace(window=found.window._replace(value=value, q=value))
    start_key, path_key, last_key = jax.random.split(key, 3)
    real, model, first, inside = mode == "dr", chain.model, start, None
    if real:
        model, first, inside = along_segment(model, start), jax.tree.map(lambda x: x[0], start), same_episode(start)

    def act(key: Array, obs: Array, given: tuple | None = None) -> ActionSample:
        share, latent, own = given or (None, None, None)
        partly = lambda x: x if share is None else share * x + (1.0 - share) * jax.lax.stop_gradient(x)  # noqa: E731
        boot = chain.view(jax.tree.map(partly, theta))
        sample = boot.act(key, jax.lax.stop_gradient(obs) if mode == "detach" else obs)
        if latent is None or own is None or boot.redraw is None:  # without redraw per_sample_grads has refused
            return sample
        redrawn = boot.redraw(obs, latent)  # past the end of the episode there is no noise to infer
        return tree_where(own > 0, redrawn, sample)

    given = None if calls is None and not real else (calls, start.latent if real else None, inside)
    at = lambda i: None if given is None else jax.tree.map(lambda x: x[i], given)  # noqa: E731
    state = model.start(chain.params, start_key, first.obs, first.sim_state)
    alive = jnp.ones(first.obs.shape[0], bool)
    path = rollout(model, chain.params, act, path_key, (first.obs, state, alive), horizon, at(slice(horizon)))
    if inside is None:
        return closed(chain, theta, path, act(last_key, path.obs[-1], at(horizon)))
    keys = jax.random.split(last_key, horizon + 1)  # of all states: a segment may end before its last row
    return closed(chain, theta, path, jax.vmap(act)(keys, path.obs, given), inside[:horizon])


def closed(chain: Chain, theta: PyTree, path: Rollout, sample: ActionSample, trusted: Array | None = None) -> Path:
    """Return a rollout with V_h of its last states by their `sample` [B], or of all states by theirs [h + 1, B]."""
    boot, zero = chain.view(theta), jnp.zeros(path.obs.shape[1])
    boot = boot._replace(value=lambda key, obs: boot.q(obs, sample.action) + boot.bonus(sample.log_prob))
    window = from_model(boot, jax.random.key(0), path, (zero, zero + 1.0), chain.gamma, (H_STEP, "plain"), trusted)
    last = sample if trusted is None else jax.tree.map(lambda x: x[-1], sample)
    return Path(path, last, window)
