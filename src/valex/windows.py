"""Windows: what a model rollout or a stored sequence gives to the rules of targets.py.

A window is H + 1 rows (`ReturnInputs`). Row 0 is the real step for a critic; rows 1..H come from stored sequences
(`from_replay`) or from a dynamics model under the current policy (`rollout`, `from_model`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import tree_where
from valex.targets import Rule, aggregate
from valex.types import Array, Bootstrap, Model, PyTree, ReturnInputs, Step, Transition

KEPT_STEPS = (
    5  # the longest differentiated rollout that keeps what its steps compute: faster, for so many steps' memory
)


class Rollout(NamedTuple):
    """H steps of a model from s_0; rows after a termination repeat the start and carry reward 0."""

    obs: Array  # [H + 1, B, obs_dim] s_0 .. s_H
    action: Array  # [H, B, act_dim] a_0 .. a_{H-1}
    latent: Array  # [H, B, act_dim] as in ActionSample
    log_prob: Array  # [H, B] log pi(a_t | s_t)
    reward: Array  # [H, B] r_t
    terminated: Array  # [H, B] bool


def make_step(model: Model, params: PyTree, act: Callable, start: tuple[Array, PyTree, Array]) -> Callable:
    """Build (carry, (key, given)) -> (carry, row of a `Rollout`): one step of a rollout; carry is shaped like `start`.

    act: (key, obs) -> ActionSample, or (key, obs, given) where `given` is not None. Once a row has terminated it is stepped
    from its start state and its outputs are replaced by constants: masking with the discount alone would leave 0 * inf = NaN
    in the backward pass.
    """
    start_obs, start_state, _ = start

    def step(carry, at):
        (obs, state, alive), (step_key, given) = carry, at
        act_key, model_key = jax.random.split(step_key)
        sample = act(act_key, obs) if given is None else act(act_key, obs, given)
        state, out = model.step(params, model_key, tree_where(alive, state, start_state), sample.action)
        reward = jnp.where(alive, out.reward, 0.0)
        terminated = alive & out.terminated
        alive = alive & ~out.terminated
        next_obs = tree_where(alive | terminated, out.obs, start_obs)
        return (next_obs, state, alive), (next_obs, *sample, reward, terminated)

    return step


def rollout(
    model: Model,
    params: PyTree,
    act: Callable,
    key: Array,
    start: tuple[Array, PyTree, Array],
    horizon: int,
    inputs: PyTree = None,
) -> Rollout:
    """Follow `act` for `horizon` steps of the model from start = (obs [B, obs_dim], model_state, alive [B] bool).

    act: (key, obs) -> ActionSample; with `inputs`, leaves [H, ...], it takes those of its step as a third argument. Beyond
    KEPT_STEPS the way back computes every step again from what it began with, so memory never holds more of them than that.
    """
    step = make_step(model, params, act, start)
    if horizon > KEPT_STEPS:
        step = jax.checkpoint(step, prevent_cse=False)
    return as_rollout(start[0], jax.lax.scan(step, start, (jax.random.split(key, horizon), inputs))[1])


def drawn_before(bootstrap: Bootstrap, key: Array, obs: Array, horizon: int) -> tuple[Callable, PyTree]:
    """Return (act, inputs) for `rollout` under the same `key`: the policy with the noises of all steps drawn at once.

    The numbers are those that `bootstrap.act` draws itself. On a CPU a draw inside the step is made again wherever the step
    reads it, forward and on the way back: a quarter of an update with small nets.
    """
    if bootstrap.draw is None:
        return bootstrap.act, None
    draw = bootstrap.draw
    of_step = lambda k: draw(jax.random.split(k)[0], obs)  # noqa: E731  the key that `make_step` splits off for the action
    return lambda key, obs, noise: bootstrap.act(noise, obs), jax.vmap(of_step)(jax.random.split(key, horizon))


def as_rollout(start_obs: Array, rows: tuple) -> Rollout:
    """Return the rows that `make_step` gave, leaves [H, ...], behind the observation that they began with."""
    obs, action, log_prob, latent, *ends = rows
    return Rollout(jnp.concatenate([start_obs[None], obs]), action, latent, log_prob, *ends)


def real_row(first: Step, gamma: float) -> tuple[Array, Array]:
    """Return (reward, gamma (1 - terminated)) of the real step that a critic's window begins with, each [B]."""
    return first.reward, gamma * (1.0 - first.terminated)


def one_step(first: Step, gamma: float, value: Array) -> ReturnInputs:
    """Return the window of the real step alone, closed by `value` = V(s_1) [B]: every rule folds it to r + g V(s_1)."""
    reward, discount = (row[None] for row in real_row(first, gamma))
    return ReturnInputs(reward, discount, value[None], value[None], jnp.zeros_like(reward), jnp.ones_like(reward))


def from_model(
    bootstrap: Bootstrap,
    key: Array,
    path: Rollout,
    first: tuple[Array, Array],
    gamma: float,
    settings: tuple[Rule, str],
    trusted: Array | None = None,
) -> ReturnInputs:
    """Turn a rollout of H steps from s_1 into a window of H + 1 rows, behind row 0 = first = (reward [B], discount [B]).

    settings = (rule, estimator). `plain` adds the bonus of a_t to row t and subtracts nothing (q = v);
    `doubly_robust` leaves the bonus to V and subtracts Q(s_t, a_t): the same mean, another variance. Where the rule
    reads the last value only, the others are left at 0, which is exact because they cancel. `trusted` [H, B] says which
    model steps may be followed: the row before the first that may not bootstraps.
    """
    rule, estimator = settings
    robust = estimator == "doubly_robust"
    reward, discount = first
    if robust or rule.mixes_values or trusted is not None:
        value = bootstrap.value(key, path.obs)
    else:
        value = jnp.zeros(path.obs.shape[:2]).at[-1].set(bootstrap.value(key, path.obs[-1]))
    q = jnp.concatenate([bootstrap.q(path.obs[:-1], path.action), value[-1:]]) if robust else value
    rewards = path.reward if robust else path.reward + bootstrap.bonus(path.log_prob)
    discounts = gamma * (1.0 - path.terminated)
    continues = jnp.ones_like(value)
    log_rho = jnp.zeros_like(value)
    if rule.off_policy and bootstrap.own_log_rho is not None:  # a density that is not that of what is done (D23)
        log_rho = bootstrap.own_log_rho(path.obs)
    return ReturnInputs(
        reward=jnp.concatenate([reward[None], rewards]),
        discount=jnp.concatenate([discount[None], discounts]),
        value=value,
        q=q,
        log_rho=log_rho,
        continues=continues if trusted is None else continues.at[:-1].set(trusted),
    )


def _shifted(rows: Array) -> Array:
    """Return what the next row holds, [T, ...]; the last row, whose next one is not known, keeps its own."""
    return jnp.concatenate([rows[1:], rows[-1:]])


def from_replay(
    bootstrap: Bootstrap, key: Array, batch: Transition, gamma: float, settings: tuple[Rule, str]
) -> ReturnInputs:
    """Turn stored sequences, leaves [H + 1, B, ...], into a window of H + 1 rows. settings = (rule, estimator).

    A sequence may cross the end of an episode: termination zeroes the discount of its row, truncation ends the trace
    there, so that the row bootstraps with V at its true next observation. log_rho needs stored log_prob and latent.
    What the next row did is judged at next_obs, which is its obs unless an episode ends between them, and then nothing reads
    it: so nets that V has evaluated there are not evaluated again.
    """
    rule, estimator = settings
    robust = estimator == "doubly_robust"
    value = bootstrap.value(key, batch.next_obs)
    q, reward, log_rho = value, batch.reward, jnp.zeros_like(value)
    if batch.reward.shape[0] > 1:
        log_pi = jnp.zeros(())
        if rule.off_policy or not robust:
            log_pi = bootstrap.log_prob(batch.next_obs, _shifted(batch.latent))[:-1]
        if robust:
            q = jnp.concatenate([bootstrap.q(batch.next_obs, _shifted(batch.action))[:-1], value[-1:]])
        else:
            reward = reward.at[1:].add(bootstrap.bonus(log_pi))
        if rule.off_policy:
            log_rho = log_rho.at[:-1].set(log_pi - batch.log_prob[1:])
    return ReturnInputs(
        reward=reward,
        discount=gamma * (1.0 - batch.terminated),
        value=value,
        q=q,
        log_rho=log_rho,
        continues=1.0 - (batch.terminated | batch.truncated),
    )


def over_particles(estimate: Callable, key: Array, particles: int) -> PyTree:
    """Average `estimate(key)` over independent keys; one particle costs nothing extra."""
    if particles == 1:
        return estimate(key)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(estimate)(jax.random.split(key, particles)))


def with_critic_agg(bootstrap: Bootstrap, how: str) -> Bootstrap:
    """Return the bootstrap with its critics aggregated as `how` says; `min` is how agents do it themselves.

    V(s) = agg_k Q_k(s, a) + bonus, a ~ pi.
    """
    if how == "min":
        return bootstrap

    def q(obs: Array, action: Array) -> Array:
        return aggregate(bootstrap.heads(obs, action), how)

    def value(key: Array, obs: Array) -> Array:
        sample = bootstrap.act(key, obs)
        return q(obs, sample.action) + bootstrap.bonus(sample.log_prob)

    return bootstrap._replace(q=q, value=value)


def one_critic(bootstrap: Bootstrap, k: Array) -> Bootstrap:
    """Return the bootstrap of critic `k` alone; vmapped over k all critics are evaluated once."""
    return with_critic_agg(bootstrap._replace(heads=lambda obs, action: bootstrap.heads(obs, action)[k][None]), "first")
