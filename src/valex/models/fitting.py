"""Fitting N members, whatever they are: the k-step loss, mini-batches that never cross the end of an episode, and phases.

    z_0 = s_0,  z_{i+1} = mean prediction from (z_i, a_i),   L = sum_i w_i l(z_{i+1}, r_i, end_i; truth) / sum_i w_i

Every member has its own loss, its own gradient and its own optimiser; all are one program over a leading axis [N]. What a
member predicts and what l is stands in its `Kind`: `ensemble.py`, `grid.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import replay as replays
from valex.losses import gradient_norm
from valex.settings import GOLDEN, HOLDOUT_BLOCK, HOLDOUT_CHECK_EVERY, ModelConfig
from valex.types import Array, PyTree, Transition

CHECK_WINDOWS = 2048  # stored windows in a hold-out check, of which the held out ones count
CHECK_GAIN = 0.01  # share by which the hold-out error has to fall to count as a gain
POISSON_CDF = (0.36787944, 0.73575888, 0.91969860, 0.98101184, 0.99634015, 0.99940582)  # P(count <= 0..5), mean 1


class Kind(NamedTuple):
    """What a member predicts and how it errs: all that one learned model has to itself. Members have leaves [N, ...]."""

    normalizes: bool  # `read` divides observations by their running moments, which are kept then
    differentiable: bool  # gradients flow through `outcome`
    init: Callable  # (key) -> members
    units: Callable  # (params) -> what losses are measured in, from the running moments
    read: Callable  # (params, obs [..., obs_dim], action) -> what the nets read, a pair of arrays [..., d]
    say: Callable  # (members, what they read, each [N, B, d] or [B, d]) -> prediction, leaves [N, B, ...]
    outcome: Callable  # (params, key, (obs, action), prediction [B, ...]) -> StepOut; key None: without noise
    believe: Callable  # (params, obs, prediction [N, ...]) -> Opinions
    spread: Callable  # (params, std of the members' means [..., obs_dim]) -> [...] in typical one-step changes
    judge: Callable  # (members, z [N, B, obs_dim], row, units) -> (next z, loss [N, B], squared error [N, B])
    penalty: Callable  # (members, units) -> [N], of the parameters alone
    refresh: Callable = lambda members: members  # (members) -> members after a gradient step, see networks.Network


class Observed(NamedTuple):
    """A mini-batch of one member."""

    rows: Transition  # leaves [k, B, ...]
    weight: Array  # [k, B] of every prediction: 0 beyond the end of an episode and for what is held out


def mix(x: Array) -> Array:
    """Return a hash of uint32 numbers, as numbers in [0, 1): the finaliser of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return (x ^ (x >> 16)).astype(jnp.float32) * 2.0**-32


def poisson_counts(uniform: Array) -> Array:
    """Return Poisson(1) counts by inversion of `uniform` [...] in [0, 1), cut at 6."""
    return jnp.sum(uniform[..., None] >= jnp.array(POISSON_CDF), axis=-1).astype(jnp.float32)


def make_losses(kind: Kind, config: ModelConfig) -> Callable:
    """Build (members, Observed, units) -> (loss, mean squared one-step error), each [N], on mini-batches [N, k, B, ...].

    The mean is fed back k - 1 times; the loss of a step is that of its own prediction. Source of the k-step loss: Botev's talk
    and 2402.03146; k = 1 is the ordinary loss.
    """

    def losses(members: PyTree, seen: Observed, units: PyTree) -> tuple[Array, Array]:
        """Follow every member k steps along its own windows."""
        weights = jnp.array(config.step_weights or (1.0,) * config.loss_steps)
        z = seen.rows.obs[:, 0]
        total, norm, first = 0.0, 0.0, jnp.zeros(())
        for i in range(config.loss_steps):
            row = jax.tree.map(lambda x, i=i: x[:, i], seen.rows)
            after, loss, square = kind.judge(members, z, row, units)
            weight = weights[i] * seen.weight[:, i]
            total += jnp.sum(weight * loss, axis=-1)
            norm += jnp.sum(weight, axis=-1)
            if i == 0:
                counted = jnp.maximum(jnp.sum(seen.weight[:, 0], axis=-1), 1e-8)
                first = jnp.sum(seen.weight[:, 0] * square, axis=-1) / counted
            z = jax.lax.stop_gradient(after) if config.cut_gradient else after
        return total / jnp.maximum(norm, 1e-8) + kind.penalty(members, units), first

    return losses


def held_out(salt: Array, slots: Array, num_envs: int, share: float) -> Array:
    """Return whether stored steps belong to the hold-out set: blocks of 32 rows of one environment, a `share` of them.

    The blocks lie evenly, so that little data has some held out too: of 1.7 / share blocks in a row there is always one.
    """
    block = (slots // num_envs // HOLDOUT_BLOCK) * num_envs + slots % num_envs
    return block.astype(jnp.uint32) * jnp.uint32(GOLDEN * 2.0**32) + salt < jnp.uint32(share * 2.0**32)


def draw(replay: replays.Replay, key: Array, salt: Array, config: ModelConfig) -> Observed:
    """Draw the mini-batch of every member, leaves [N, k, windows, ...]; windows = batch_size / k, at least 1."""
    num, k, windows = config.num_models, config.loss_steps, max(1, config.batch_size // config.loss_steps)
    own = config.bootstrap != "shared"
    slots = replays.sample_windows(replay, key, num * windows if own else windows, k, config.data_limit)
    rows = replays.gather(replay, slots)
    weight = same_episode(rows)
    if config.holdout > 0:
        weight *= ~jnp.any(held_out(salt, slots, replay.words.shape[1], config.holdout), axis=0)
    if own:
        split = lambda x: jnp.moveaxis(x.reshape(k, num, windows, *x.shape[2:]), 1, 0)  # noqa: E731
    else:
        split = lambda x: jnp.broadcast_to(x[None], (num, *x.shape))  # noqa: E731
    seen = Observed(jax.tree.map(split, _needed(rows)), split(weight))
    if config.bootstrap == "poisson":
        name = split(slots)[:, 0].astype(jnp.uint32) * jnp.uint32(num) + jnp.arange(num, dtype=jnp.uint32)[:, None]
        seen = seen._replace(weight=seen.weight * poisson_counts(mix(name ^ ~salt))[:, None])
    return seen


def draw_held_out(replay: replays.Replay, key: Array, salt: Array, config: ModelConfig) -> Observed:
    """Draw windows for a hold-out check, the same for every member; only those that are wholly held out weigh anything."""
    slots = replays.sample_windows(replay, key, CHECK_WINDOWS, config.loss_steps, config.data_limit)
    kept = jnp.all(held_out(salt, slots, replay.words.shape[1], config.holdout), axis=0)
    rows = replays.gather(replay, slots)
    seen = Observed(_needed(rows), same_episode(rows) * kept)
    return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (config.num_models, *x.shape)), seen)


def _needed(rows: Transition) -> Transition:
    """Return rows without what no model reads."""
    return rows._replace(log_prob=(), latent=(), sim_state=(), next_sim_state=())


def same_episode(rows: Transition) -> Array:
    """Return 1. for the rows of windows [k, B] that are still in the episode of the first, else 0."""
    goes_on = 1.0 - (rows.terminated | rows.truncated)
    return jnp.concatenate([jnp.ones_like(goes_on[:1]), jnp.cumprod(goes_on[:-1], axis=0)])


class Fit(NamedTuple):
    """What the loop of one phase carries."""

    steps: Array  # [] int32 gradient steps taken
    members: PyTree  # leaves [N, ...]
    opt: optax.OptState
    best: PyTree  # of the hold-out checks so far; () without early stopping
    best_mse: Array  # [N]
    stale: Array  # [] int32, checks without a gain of any member
    loss: Array  # [N] of the last mini-batch
    mse: Array  # [N]
    grad_norm: Array  # [N]


def make_fit(kind: Kind, tx: optax.GradientTransformation, config: ModelConfig) -> tuple[Callable, Callable]:
    """Build (fit, holdout_mse) for the members of a kind.

    fit(members, opt, data, key, n) -> Fit after up to n gradient steps on data = (replay, units, salt); n is traced.
    holdout_mse(members, data, key) -> [N] mean squared one-step error on what is held out, inf as long as nothing is.
    """

    losses = make_losses(kind, config)

    def holdout_mse(members: PyTree, data: tuple, key: Array) -> Array:
        replay, units, salt = data
        seen = draw_held_out(replay, key, salt, config)
        mse = losses(members, seen, units)[1]
        return jnp.where(jnp.sum(seen.weight[:, 0], axis=-1) > 0.0, mse, jnp.inf)

    def gradient_step(state: Fit, data: tuple, key: Array) -> Fit:
        """Take one clipped step of every member on its own mini-batch."""
        replay, units, salt = data
        seen = draw(replay, key, salt, config)

        def total(members: PyTree) -> tuple[Array, tuple[Array, Array]]:
            found = losses(members, seen, units)
            return jnp.sum(found[0]), found

        grads, (loss, mse) = jax.grad(total, has_aux=True)(state.members)
        norm = jax.vmap(gradient_norm)(grads)  # taken once: to clip, and to be logged
        shrink = jnp.minimum(1.0, config.grad_clip / jnp.maximum(norm, 1e-12))
        grads = jax.tree.map(lambda g: g * shrink.reshape(-1, *(1,) * (g.ndim - 1)), grads)
        updates, opt = jax.vmap(tx.update)(grads, state.opt, state.members)
        members = kind.refresh(optax.apply_updates(state.members, updates))
        return state._replace(members=members, opt=opt, loss=loss, mse=mse, grad_norm=norm, steps=state.steps + 1)

    def check(state: Fit, data: tuple, key: Array) -> Fit:
        """Keep each member's best; count checks in which none gained."""
        mse = holdout_mse(state.members, data, key)
        gained = mse < (1.0 - CHECK_GAIN) * state.best_mse
        keep = lambda new, old: jnp.where(gained.reshape(-1, *(1,) * (new.ndim - 1)), new, old)  # noqa: E731
        best = jax.tree.map(keep, state.members, state.best)
        stale = jnp.where(jnp.any(gained), 0, state.stale + jnp.any(jnp.isfinite(mse)))
        return state._replace(best=best, best_mse=jnp.where(gained, mse, state.best_mse), stale=stale)

    def fit(members: PyTree, opt: optax.OptState, data: tuple, key: Array, n: Array) -> Fit:
        """Run one phase; with patience it may end early, at each member's best hold-out check."""
        early, check_key = config.patience > 0, jax.random.fold_in(key, 2**31 - 1)
        zeros = jnp.zeros(config.num_models)
        best_mse = jnp.full(config.num_models, jnp.inf)
        state = Fit(jnp.int32(0), members, opt, members if early else (), best_mse, jnp.int32(0), zeros, zeros, zeros)

        def body(state: Fit) -> Fit:
            state = gradient_step(state, data, jax.random.fold_in(key, state.steps))
            if early:
                now = state.steps % HOLDOUT_CHECK_EVERY == 0
                state = jax.lax.cond(now, lambda s: check(s, data, check_key), lambda s: s, state)
            return state

        going_on = lambda s: (s.steps < n) & ((s.stale < config.patience) | (not early))  # noqa: E731
        state = jax.lax.while_loop(going_on, body, state)
        if early:
            checked = jnp.isfinite(state.best_mse)
            keep = lambda best, last: jnp.where(checked.reshape(-1, *(1,) * (last.ndim - 1)), best, last)  # noqa: E731
            state = state._replace(members=jax.tree.map(keep, state.best, state.members))
        return state

    return fit, holdout_mse
