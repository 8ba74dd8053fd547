"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), trained on whatever target and objective it is given.

    critic_loss   0.5 E (Q_k(s, a) - y)^2 over all heads k; s, a and y come from expansion.critic_rows
    actor_loss    -E J(s); its gradient comes from expansion.actor_gradient, at H = 0 E[min_k Q_k(s, a) - alpha log pi(a|s)]
    alpha_loss    alpha E[-log pi(a|s) - target entropy]
    bootstrap     V(s) = min_k Q_k(s, a) - alpha log pi(a|s) with a ~ pi: all that a target learns of this agent

All three gradients are taken at the old parameters and then applied. Critic targets read the target critic and the
current policy, actor objectives the online critic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import distributions, normalize
from valex.agents.common import (
    actor_metrics,
    actor_starts,
    critic_step,
    descend,
    make_actor_side,
    make_observations,
    need_actions,
    smallest,
)
from valex.expansion import Expansion
from valex.networks import Network, critic_ensemble, gaussian_actor
from valex.settings import SACConfig
from valex.types import ActionSample, Agent, Array, Bootstrap, EnvSpec, PyTree, Transition


class SACState(NamedTuple):
    """Everything that SAC carries from one update to the next."""

    actor: PyTree
    critic: PyTree
    target_critic: PyTree
    log_alpha: Array  # []
    normalizer: normalize.RunningStats
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    alpha_opt: optax.OptState
    updates: Any = ()  # [] int32, kept where something depends on them


class Own(NamedTuple):
    """What a soft actor-critic has of its own; `updates` is () where it does not count them."""

    policy: Network  # obs -> (mean, std)
    target_entropy: Callable  # (updates) -> nats
    actor_gradient: Callable  # (updates, view, actor, key, starts, model_params) -> as `Expansion.actor_gradient`
    counts: bool


def alpha_loss(log_alpha: Array, entropy: Array, target_entropy: float) -> Array:
    """Return alpha * mean(-log pi - target entropy); the entropy gap carries no gradient."""
    return jnp.exp(log_alpha) * jax.lax.stop_gradient(entropy - target_entropy)


def bootstrap(networks: tuple[Network, Network], actor: PyTree, critic: PyTree, alpha: Array, norm) -> Bootstrap:
    """Return the view of SAC that targets read: soft value, entropy bonus, minimum over critics."""
    policy, q_network = networks

    def act(key: Array, obs: Array) -> ActionSample:
        return distributions.tanh_normal_sample(key, *policy.apply(actor, norm(obs)))

    def log_prob(obs: Array, latent: Array) -> Array:
        mean, std = policy.apply(actor, norm(obs))
        return distributions.tanh_normal_log_prob(mean, std, latent)

    def redraw(obs: Array, latent: Array) -> ActionSample:
        mean, std = policy.apply(actor, norm(obs))
        return distributions.tanh_normal_redraw(mean, std, latent)

    def bonus(log_prob: Array) -> Array:
        return -alpha * log_prob

    def heads(obs: Array, action: Array) -> Array:
        return q_network.apply(critic, norm(obs), action)

    def q(obs: Array, action: Array) -> Array:
        return smallest(heads(obs, action))

    def value(key: Array, obs: Array) -> Array:
        sample = act(key, obs)
        return q(obs, sample.action) + bonus(sample.log_prob)

    def draw(key: Array, obs: Array) -> Array:
        return jax.random.normal(key, jax.eval_shape(policy.apply, actor, obs)[0].shape)

    return Bootstrap(act, log_prob, value, bonus, q, heads, redraw=redraw, draw=draw)


def make_sac(config: SACConfig, spec: EnvSpec, expansion: Expansion) -> Agent:
    """Build SAC for `spec`. Raises ValueError if the actions of `spec` are discrete."""
    target_entropy = config.target_entropy_per_dim * spec.act_dim
    own = Own(
        policy=gaussian_actor(spec.obs_dim, spec.act_dim, config.hidden),
        target_entropy=lambda updates: target_entropy,
        actor_gradient=lambda updates, *at: expansion.actor_gradient(*at),
        counts=False,
    )
    return make_soft(config, spec, expansion, own)


def make_soft(config: SACConfig, spec: EnvSpec, expansion: Expansion, own: Own) -> Agent:
    """Build a soft actor-critic with what is its own. Raises ValueError if the actions of `spec` are discrete."""
    need_actions(spec, config)
    policy = own.policy
    q_network = critic_ensemble(spec.obs_dim, spec.act_dim, config.hidden, config.num_critics)
    actor_tx, critic_tx, alpha_tx = (optax.adam(lr) for lr in (config.actor_lr, config.critic_lr, config.alpha_lr))
    seen = make_observations(config, spec)

    def view(state: SACState, actor: PyTree, critic: PyTree) -> Bootstrap:
        return bootstrap((policy, q_network), actor, critic, jnp.exp(state.log_alpha), seen.norm(state))

    def online_view(state: SACState, actor: PyTree) -> Bootstrap:
        return view(state, actor, state.target_critic if expansion.by_target else state.critic)

    def init(key: Array) -> SACState:
        actor_key, critic_key = jax.random.split(key)
        actor, critic = policy.init(actor_key), q_network.init(critic_key)
        log_alpha = jnp.log(jnp.asarray(config.init_alpha, jnp.float32))
        target_critic = jax.tree.map(jnp.copy, critic)  # two names for one buffer could not both be donated
        optimizers = actor_tx.init(actor), critic_tx.init(critic), alpha_tx.init(log_alpha)
        updates = jnp.int32(0) if own.counts else ()
        return SACState(actor, critic, target_critic, log_alpha, seen.init(), *optimizers, updates)

    def act(state: SACState, key: Array, obs: Array, explore: bool) -> ActionSample:
        mean, std = policy.apply(state.actor, seen.norm(state)(obs))
        return distributions.tanh_normal_sample(key, mean, std) if explore else distributions.tanh_normal_mode(mean)

    def update(
        state: SACState, key: Array, batch: Transition, model_params: PyTree, starts: Transition | None = None
    ) -> tuple[SACState, dict]:
        """Take one step of critic, actor and temperature, all from gradients at the old parameters."""
        target_key, actor_key = jax.random.split(key)
        rows = expansion.critic_rows(view(state, state.actor, state.target_critic), target_key, batch, model_params)
        rows = rows._replace(obs=seen.norm(state)(rows.obs))
        critic, critic_opt, metrics = critic_step(critic_tx, q_network, state.critic, state.critic_opt, rows)
        starts = actor_starts(expansion, batch, starts)
        a_grads, (a_loss, log_prob) = own.actor_gradient(
            state.updates, partial(online_view, state), state.actor, actor_key, starts, model_params
        )
        entropy = -jnp.mean(log_prob)
        t_loss, t_grad = jax.value_and_grad(alpha_loss)(state.log_alpha, entropy, own.target_entropy(state.updates))
        actor, actor_opt = descend(actor_tx, a_grads, state.actor_opt, state.actor)
        actor = policy.refresh(actor)
        log_alpha, alpha_opt = descend(alpha_tx, t_grad, state.alpha_opt, state.log_alpha)
        target_critic = optax.incremental_update(critic, state.target_critic, config.tau)
        metrics |= actor_metrics(a_loss, a_grads)
        metrics |= {"actor/entropy": entropy, "alpha/loss": t_loss, "alpha/value": jnp.exp(state.log_alpha)}
        updates = state.updates + 1 if own.counts else ()
        optimizers = actor_opt, critic_opt, alpha_opt
        return SACState(actor, critic, target_critic, log_alpha, state.normalizer, *optimizers, updates), metrics

    actor_side = make_actor_side(online_view, expansion, lambda state: state.actor)._replace(refresh=policy.refresh)
    return Agent(init, seen.observe, act, update, lambda s: view(s, s.actor, s.target_critic), actor_side)
