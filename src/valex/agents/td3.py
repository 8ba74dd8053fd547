"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477): DDPG with three changes.

    smoothing     a = clip(mu(s) + clip(sigma xi, -c, c), -1, 1) wherever a target follows or judges an action of the actor
    twin critics  V(s) = min_k Q_k(s, a) in targets; the actor climbs Q_1 alone
    delay         actor and both targets move once every `policy_delay` updates of the critics

The critics move first and the actor climbs the new Q_1. In a rollout of critic expansion every action is smoothed, the last one
as well as those on the way, so that V and Q of a control variate are those of one policy. Objectives are not smoothed.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex.agents.common import actor_metrics, actor_starts, critic_step, descend, make_actor_side
from valex.agents.ddpg import DDPGState, Params, bootstrap, make_learner
from valex.expansion import Expansion
from valex.settings import TD3Config
from valex.types import Agent, Array, Bootstrap, EnvSpec, PyTree, Transition


class Delay(NamedTuple):
    """What TD3 counts and remembers."""

    updates: Array  # [] int32, of the critics
    metrics: dict  # of the last update of the actor


def smoothed(config: TD3Config, key: Array, action: Array) -> Array:
    """Return clip(a + clip(target_noise xi, -noise_clip, noise_clip), -1, 1) for actions a [..., act_dim]."""
    noise = config.target_noise * jax.random.normal(key, action.shape)
    return jnp.clip(action + jnp.clip(noise, -config.noise_clip, config.noise_clip), -1.0, 1.0)


def make_td3(config: TD3Config, spec: EnvSpec, expansion: Expansion) -> Agent:
    """Build TD3 for `spec`. Raises ValueError if the actions of `spec` are discrete."""
    learner = make_learner(config, spec)

    def init(key: Array) -> DDPGState:
        names = ("actor/loss", "actor/grad_norm", "actor/grad_param_std")
        return learner.init(key)._replace(extra=Delay(jnp.int32(0), {name: jnp.zeros(()) for name in names}))

    def target_view(state: DDPGState) -> Bootstrap:
        return bootstrap(learner, state, state.target, lambda key, action: smoothed(config, key, action))

    def online_view(state: DDPGState, actor: PyTree) -> Bootstrap:
        critic = state.target.critic if expansion.by_target else state.online.critic
        return bootstrap(learner, state, Params(actor, critic), aggregate=lambda heads: heads[0])

    def update(
        state: DDPGState, key: Array, batch: Transition, model_params: PyTree, starts: Transition | None = None
    ) -> tuple[DDPGState, dict]:
        """Take one step of the critics, and every `policy_delay` of them one of the actor and of the targets."""
        target_key, actor_key = jax.random.split(key)
        rows = expansion.critic_rows(target_view(state), target_key, batch, model_params)
        rows, old = rows._replace(obs=learner.seen.norm(state)(rows.obs)), state.online.critic
        critic, critic_opt, metrics = critic_step(learner.critic_tx, learner.q, old, state.critic_opt, rows)
        count = state.extra.updates + 1
        state = state._replace(online=state.online._replace(critic=critic), critic_opt=critic_opt)

        def delayed(state: DDPGState) -> DDPGState:
            """Climb the new first critic, then move both targets."""
            old, rows = state.online.actor, actor_starts(expansion, batch, starts)
            view = partial(online_view, state)
            grads, (loss, _) = expansion.actor_gradient(view, old, actor_key, rows, model_params)
            actor, actor_opt = descend(learner.actor_tx, grads, state.actor_opt, old)
            target = Params(
                optax.incremental_update(actor, state.target.actor, config.tau_actor),
                optax.incremental_update(state.online.critic, state.target.critic, config.tau),
            )
            online, extra = Params(actor, state.online.critic), Delay(count, actor_metrics(loss, grads))
            return state._replace(online=online, target=target, actor_opt=actor_opt, extra=extra)

        def waiting(state: DDPGState) -> DDPGState:
            return state._replace(extra=state.extra._replace(updates=count))

        state = jax.lax.cond(count % config.policy_delay == 0, delayed, waiting, state)
        return state, metrics | state.extra.metrics

    actor_side = make_actor_side(online_view, expansion, lambda state: state.online.actor)
    return Agent(init, learner.seen.observe, learner.act, update, target_view, actor_side)
