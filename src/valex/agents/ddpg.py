"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971), trained on whatever target it is given.

    critic_loss   0.5 E (Q_k(s, a) - y)^2 over all heads k; s, a and y come from expansion.critic_rows
    actor_loss    -E J(s); its gradient comes from expansion.actor_gradient, at H = 0 E[min_k Q_k(s, mu(s))]
    bootstrap     V(s) = min_k Q_k(s, mu(s)), no bonus: all that a target learns of this agent

mu(s) = tanh(l(s)). Noise is added before the tanh, a = tanh(l(s) + sigma xi), so that the density of what was done is known:
Retrace compares the densities of that noise around the behaviour's l and around that of the target actor. Two critics and
their minimum are the release of 2412.20537 (TD3 without delay and smoothing); one critic is the original. Both gradients are
taken at the old parameters and then applied. Targets read the target actor and critics, objectives the online ones.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import distributions, normalize
from valex.agents.common import (
    Observations,
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
from valex.networks import Network, critic_ensemble, gaussian_actor, mlp
from valex.settings import DDPGConfig
from valex.types import ActionSample, Agent, Array, Bootstrap, EnvSpec, PyTree, Transition

# softplus(0.1) + 0.001: what the release takes for the spread of noise whose spread is 0.1
RELEASED_STD = 0.7453966600733570


class Params(NamedTuple):
    """The nets that are trained, or their slow copies."""

    actor: PyTree
    critic: PyTree


class DDPGState(NamedTuple):
    """Everything that DDPG carries from one update to the next."""

    online: Params
    target: Params
    normalizer: normalize.RunningStats
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    extra: Any = ()  # what TD3 counts and remembers


class Learner(NamedTuple):
    """The networks and optimisers of a deterministic actor-critic, and what it does before its update."""

    density: str  # what Retrace is given: exploration, released
    policy: Network  # obs -> (l, standard deviation of the density), each [..., act_dim]
    q: Network
    actor_tx: optax.GradientTransformation
    critic_tx: optax.GradientTransformation
    seen: Observations
    init: Callable  # (key) -> DDPGState
    act: Callable  # (state, key, obs, explore) -> ActionSample


def deterministic_actor(spec: EnvSpec, config: DDPGConfig) -> Network:
    """Build obs [..., obs_dim] -> (l, std of the density that Retrace is given), each [..., act_dim].

    density `exploration`: std = exploration_noise. density `released`: std is a head of the net that nothing trains.
    """
    if config.density == "released":
        return gaussian_actor(spec.obs_dim, spec.act_dim, config.hidden)
    trunk = mlp(spec.obs_dim, config.hidden, spec.act_dim)

    def apply(params: PyTree, obs: Array) -> tuple[Array, Array]:
        mean = trunk.apply(params, obs)
        return mean, jnp.full_like(mean, config.exploration_noise)

    return Network(trunk.init, apply)


def bootstrap(
    learner: Learner, state: DDPGState, params: Params, smooth: Callable | None = None, aggregate: Callable = smallest
) -> Bootstrap:
    """Return the view of the agent that targets and objectives read, at `params`: mean action, no bonus.

    `smooth` (key, action) -> action perturbs every action that is followed or judged; None: the action of the actor.
    """
    norm = learner.seen.norm(state)

    def act(key: Array, obs: Array) -> ActionSample:
        sample = distributions.tanh_normal_mode(learner.policy.apply(params.actor, norm(obs))[0])
        return sample if smooth is None else sample._replace(action=smooth(key, sample.action))

    def log_prob(obs: Array, latent: Array) -> Array:
        mean, std = learner.policy.apply(params.actor, norm(obs))
        return distributions.tanh_normal_log_prob(mean, std, latent)

    def redraw(obs: Array, latent: Array) -> ActionSample:
        mean, std = learner.policy.apply(params.actor, norm(obs))
        return distributions.tanh_normal_redraw(mean, jax.lax.stop_gradient(std), latent)

    def released_log_rho(obs: Array) -> Array:
        std = learner.policy.apply(params.actor, norm(obs))[1]
        return jnp.sum(jnp.log(RELEASED_STD) - jnp.log(std), axis=-1)

    def heads(obs: Array, action: Array) -> Array:
        return learner.q.apply(params.critic, norm(obs), action)

    def q(obs: Array, action: Array) -> Array:
        return aggregate(heads(obs, action))

    def value(key: Array, obs: Array) -> Array:
        return q(obs, act(key, obs).action)

    own_log_rho = released_log_rho if learner.density == "released" else None
    return Bootstrap(act, log_prob, value, jnp.zeros_like, q, heads, own_log_rho, redraw)


def make_learner(config: DDPGConfig, spec: EnvSpec) -> Learner:
    """Build what DDPG and TD3 share. Raises ValueError if the actions of `spec` are discrete."""
    need_actions(spec, config)
    policy = deterministic_actor(spec, config)
    q = critic_ensemble(spec.obs_dim, spec.act_dim, config.hidden, config.num_critics)
    actor_tx, critic_tx = optax.adam(config.actor_lr), optax.adam(config.critic_lr)
    seen = make_observations(config, spec)

    def init(key: Array) -> DDPGState:
        actor_key, critic_key = jax.random.split(key)
        online = Params(policy.init(actor_key), q.init(critic_key))
        target = jax.tree.map(jnp.copy, online)  # two names for one buffer could not both be donated
        return DDPGState(online, target, seen.init(), actor_tx.init(online.actor), critic_tx.init(online.critic))

    def act(state: DDPGState, key: Array, obs: Array, explore: bool) -> ActionSample:
        mean, _ = policy.apply(state.online.actor, seen.norm(state)(obs))
        if not explore:
            return distributions.tanh_normal_mode(mean)
        sample = distributions.tanh_normal_sample(key, mean, jnp.full_like(mean, config.exploration_noise))
        if config.density == "exploration":
            return sample
        said = distributions.tanh_normal_log_prob(mean, jnp.full_like(mean, RELEASED_STD), sample.latent)
        return sample._replace(log_prob=said)

    return Learner(config.density, policy, q, actor_tx, critic_tx, seen, init, act)


def make_ddpg(config: DDPGConfig, spec: EnvSpec, expansion: Expansion) -> Agent:
    """Build DDPG for `spec`. Raises ValueError if the actions of `spec` are discrete."""
    learner = make_learner(config, spec)

    def target_view(state: DDPGState) -> Bootstrap:
        return bootstrap(learner, state, state.target)

    def online_view(state: DDPGState, actor: PyTree) -> Bootstrap:
        critic = state.target.critic if expansion.by_target else state.online.critic
        return bootstrap(learner, state, Params(actor, critic))

    def update(
        state: DDPGState, key: Array, batch: Transition, model_params: PyTree, starts: Transition | None = None
    ) -> tuple[DDPGState, dict]:
        """Take one step of critic and actor, both from gradients at the old parameters, then move the targets."""
        target_key, actor_key = jax.random.split(key)
        rows = expansion.critic_rows(target_view(state), target_key, batch, model_params)
        rows, old = rows._replace(obs=learner.seen.norm(state)(rows.obs)), state.online
        critic, critic_opt, metrics = critic_step(learner.critic_tx, learner.q, old.critic, state.critic_opt, rows)
        starts = actor_starts(expansion, batch, starts)
        a_grads, (loss, _) = expansion.actor_gradient(
            partial(online_view, state), old.actor, actor_key, starts, model_params
        )
        actor, actor_opt = descend(learner.actor_tx, a_grads, state.actor_opt, old.actor)
        target = Params(
            optax.incremental_update(actor, state.target.actor, config.tau_actor),
            optax.incremental_update(critic, state.target.critic, config.tau),
        )
        new = DDPGState(Params(actor, critic), target, state.normalizer, actor_opt, critic_opt)
        return new, metrics | actor_metrics(loss, a_grads)

    actor_side = make_actor_side(online_view, expansion, lambda state: state.online.actor)
    return Agent(learner.init, learner.seen.observe, learner.act, update, target_view, actor_side)
