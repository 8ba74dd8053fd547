"""Where windows come from, and what agents receive: the critic's target and the actor's objective.

A window is H + 1 rows (`ReturnInputs`). Row 0 is the real step for a critic; rows 1..H come from stored sequences
(`from_replay`) or from a dynamics model under the current policy (`from_model`). A rule of targets.py folds it.
H counts MODEL steps: a critic's window ends at s_{H+1}, an actor's at s_H (2412.20537).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.envs.base import tree_where
from valex.settings import ActorConfig, CriticConfig
from valex.tables import RULES, load
from valex.targets import H_STEP, Rule
from valex.types import Array, Bootstrap, Model, PyTree, ReturnInputs, Transition


class Expansion(NamedTuple):
    """What an agent is built with; it never computes a target itself."""

    critic_target: Callable  # (bootstrap, key, batch [T, B], model_params) -> target [B], without gradient
    actor_objective: Callable  # (bootstrap, key, first [B], model_params) -> (objective [B], log pi(a_0|s_0) [B])
    window: int  # T, rows of stored sequence that critic_target reads


class Rollout(NamedTuple):
    """H steps of a model from s_0; rows after a termination repeat the start and carry reward 0."""

    obs: Array  # [H + 1, B, obs_dim] s_0 .. s_H
    action: Array  # [H, B, act_dim] a_0 .. a_{H-1}
    log_prob: Array  # [H, B] log pi(a_t | s_t)
    reward: Array  # [H, B] r_t
    terminated: Array  # [H, B] bool


def rollout(
    model: Model, params: PyTree, act: Callable, key: Array, start: tuple[Array, PyTree, Array], horizon: int
) -> Rollout:
    """Follow `act` for `horizon` steps of the model from start = (obs [B, obs_dim], model_state, alive [B] bool).

    Once a row has terminated it is stepped from its start state and its outputs are replaced by constants: masking
    with the discount alone would leave 0 * inf = NaN in the backward pass. The step is rematerialised in the backward
    pass, which cuts the memory of long differentiable rollouts.
    """
    start_obs, start_state, start_alive = start

    @partial(jax.checkpoint, prevent_cse=False)
    def step(carry, step_key):
        obs, state, alive = carry
        act_key, model_key = jax.random.split(step_key)
        sample = act(act_key, obs)
        state, out = model.step(params, model_key, tree_where(alive, state, start_state), sample.action)
        reward = jnp.where(alive, out.reward, 0.0)
        terminated = alive & out.terminated
        alive = alive & ~out.terminated
        next_obs = tree_where(alive | terminated, out.obs, start_obs)
        return (next_obs, state, alive), (next_obs, sample.action, sample.log_prob, reward, terminated)

    _, (obs, action, log_prob, reward, terminated) = jax.lax.scan(step, start, jax.random.split(key, horizon))
    return Rollout(jnp.concatenate([start_obs[None], obs]), action, log_prob, reward, terminated)


def from_model(
    bootstrap: Bootstrap,
    key: Array,
    path: Rollout,
    first: tuple[Array, Array],
    gamma: float,
    settings: tuple[Rule, str],
) -> ReturnInputs:
    """Turn a rollout of H steps from s_1 into a window of H + 1 rows, behind row 0 = first = (reward [B], discount [B]).

    settings = (rule, estimator). `plain` adds the bonus of a_t to row t and subtracts nothing (q = v);
    `doubly_robust` leaves the bonus to V and subtracts Q(s_t, a_t): the same mean, another variance. Where the rule
    reads the last value only, the others are left at 0, which is exact because they cancel.
    """
    rule, estimator = settings
    robust = estimator == "doubly_robust"
    reward, discount = first
    if robust or rule.mixes_values:
        value = bootstrap.value(key, path.obs)
    else:
        value = jnp.zeros(path.obs.shape[:2]).at[-1].set(bootstrap.value(key, path.obs[-1]))
    q = jnp.concatenate([bootstrap.q(path.obs[:-1], path.action), value[-1:]]) if robust else value
    rewards = path.reward if robust else path.reward + bootstrap.bonus(path.log_prob)
    discounts = gamma * (1.0 - path.terminated)
    return ReturnInputs(
        reward=jnp.concatenate([reward[None], rewards]),
        discount=jnp.concatenate([discount[None], discounts]),
        value=value,
        q=q,
        log_rho=jnp.zeros_like(value),
        continues=jnp.ones_like(value),
    )


def from_replay(
    bootstrap: Bootstrap, key: Array, batch: Transition, gamma: float, settings: tuple[Rule, str]
) -> ReturnInputs:
    """Turn stored sequences, leaves [H + 1, B, ...], into a window of H + 1 rows. settings = (rule, estimator).

    A sequence may cross the end of an episode: termination zeroes the discount of its row, truncation ends the trace
    there, so that the row bootstraps with V at its true next observation. log_rho needs stored log_prob and latent.
    """
    rule, estimator = settings
    robust = estimator == "doubly_robust"
    value = bootstrap.value(key, batch.next_obs)
    q, reward, log_rho = value, batch.reward, jnp.zeros_like(value)
    if batch.reward.shape[0] > 1:
        later_obs = batch.obs[1:]
        log_pi = bootstrap.log_prob(later_obs, batch.latent[1:]) if rule.off_policy or not robust else 0.0
        if robust:
            q = jnp.concatenate([bootstrap.q(later_obs, batch.action[1:]), value[-1:]])
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


def _over_particles(estimate: Callable, key: Array, particles: int) -> PyTree:
    """Average `estimate(key)` over independent keys; one particle costs nothing extra."""
    if particles == 1:
        return estimate(key)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(estimate)(jax.random.split(key, particles)))


def make_critic_target(config: CriticConfig, gamma: float, model: Model | None) -> Callable:
    """Build (bootstrap, key, batch [T, B], model_params) -> target [B] in units of return, without gradient.

    With source `model` P rollouts start at batch.next_obs[0] and are averaged BEFORE the squared error.
    """
    rule = load(RULES, config.rule)
    settings = (rule, config.estimator)

    def target(bootstrap: Bootstrap, key: Array, batch: Transition, model_params: PyTree) -> Array:
        chex.assert_rank([batch.reward, batch.terminated], 2)
        if config.source == "replay" or config.horizon == 0:
            window = from_replay(bootstrap, key, batch, gamma, settings)
            return jax.lax.stop_gradient(rule.fold(window, config.horizon, config.lam))
        first = jax.tree.map(lambda x: x[0], batch)
        discount = gamma * (1.0 - first.terminated)

        def particle(key: Array) -> Array:
            assert model is not None  # make_expansion refuses a rollout without a model
            start_key, path_key, value_key = jax.random.split(key, 3)
            state = model.start(model_params, start_key, first.next_obs, first.next_sim_state)
            start = (first.next_obs, state, ~first.terminated)
            path = rollout(model, model_params, bootstrap.act, path_key, start, config.horizon)
            window = from_model(bootstrap, value_key, path, (first.reward, discount), gamma, settings)
            return rule.fold(window, config.horizon, config.lam)

        return jax.lax.stop_gradient(_over_particles(particle, key, config.particles))

    return target


def make_actor_objective(config: ActorConfig, gamma: float, model: Model | None) -> Callable:
    """Build (bootstrap, key, first [B], model_params) -> (J [B], log pi(a_0|s_0) [B]), differentiable in the policy.

    J = E[ sum_{t<H} gamma^t (r_t + bonus_t) + gamma^H V(s_H) ], divided by H + 1 if config.divide_by_length;
    H = 0 is the ordinary Q(s_0, a_0) + bonus_0. Row 0 of the window is a step without reward and discount, so that
    the same recursion serves both sides. Source: spec 1.3 of 2412.20537's release.
    """
    horizon, settings = config.horizon, (H_STEP, config.estimator)

    def one_step(bootstrap: Bootstrap, key: Array, first: Transition) -> tuple[Array, Array]:
        sample = bootstrap.act(key, first.obs)
        return bootstrap.q(first.obs, sample.action) + bootstrap.bonus(sample.log_prob), sample.log_prob

    def objective(bootstrap: Bootstrap, key: Array, first: Transition, model_params: PyTree) -> tuple[Array, Array]:
        chex.assert_rank(first.obs, 2)

        def particle(key: Array) -> tuple[Array, Array]:
            if horizon == 0:
                return one_step(bootstrap, key, first)
            assert model is not None  # make_expansion refuses a rollout without a model
            start_key, path_key, value_key = jax.random.split(key, 3)
            state = model.start(model_params, start_key, first.obs, first.sim_state)
            alive = jnp.ones(first.reward.shape, bool)
            path = rollout(model, model_params, bootstrap.act, path_key, (first.obs, state, alive), horizon)
            zero = jnp.zeros_like(first.reward)
            window = from_model(bootstrap, value_key, path, (zero, zero + 1.0), gamma, settings)
            if config.estimator == "doubly_robust":  # s_0 has no control variate: a_0 is the action being judged
                window = window._replace(
                    reward=window.reward.at[0].set(bootstrap.bonus(path.log_prob[0])),
                    value=window.value.at[0].set(0.0),
                    q=window.q.at[0].set(0.0),
                )
            return H_STEP.fold(window, horizon, 1.0), path.log_prob[0]

        value, log_prob = _over_particles(particle, key, config.particles)
        return value / (horizon + 1 if config.divide_by_length else 1), log_prob

    return objective


def make_expansion(critic: CriticConfig, actor: ActorConfig, gamma: float, model: Model | None) -> Expansion:
    """Build the pair that an agent is made with.

    Raises ValueError if a rollout is asked for without a model, or through a model without gradients.
    """
    if model is None and ((critic.source == "model" and critic.horizon > 0) or actor.horizon > 0):
        raise ValueError("model.name: a rollout needs a dynamics model")
    if actor.horizon > 0 and model is not None and not model.differentiable:
        raise ValueError(
            "actor.horizon: gradients do not flow through this backend; use --env.backend spring or positional"
        )
    window = critic.horizon + 1 if critic.source == "replay" else 1
    return Expansion(make_critic_target(critic, gamma, model), make_actor_objective(actor, gamma, model), window)
