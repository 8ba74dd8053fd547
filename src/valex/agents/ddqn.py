"""Double DQN (van Hasselt et al. 2016, arXiv 1509.06461) for discrete actions, trained on whatever target it is given.

    critic_loss   0.5 E (Q_k(s, a) - y)^2 over all heads k; s, a and y come from expansion.critic_rows
    bootstrap     V(s) = Q'(s, argmax_a Q(s, a)), no bonus; Q' the target net, Q the online one (`double`) or Q' itself (DQN)
    boltzmann     pi ~ exp(Q / temperature), V(s) = sum_a pi(a|s) Q'(s, a)

The policy of a target is also that of the rollouts of critic expansion. It is what Retrace corrects for: the greedy one gives
c = lambda min(1, 1[a = argmax Q] / mu(a|s)), the cut of Watkins' Q(lambda). mu is the epsilon-greedy policy that collected.
There is no actor: its expansion is refused (`checks.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import distributions, normalize
from valex.agents.common import critic_step, make_observations, need_actions, smallest
from valex.expansion import Expansion
from valex.networks import Network, q_ensemble
from valex.settings import DDQNConfig
from valex.types import ActionSample, Agent, Array, Bootstrap, EnvSpec, PyTree, Transition


class DDQNState(NamedTuple):
    """Everything that DDQN carries from one update to the next."""

    online: PyTree
    target: PyTree
    normalizer: normalize.RunningStats
    opt: optax.OptState
    steps: Array  # [] int32, control steps seen, warm-up included
    updates: Array  # [] int32


def epsilon(config: DDQNConfig, steps: Array) -> Array:
    """Return the share of random actions after `steps` control steps: linear from epsilon_start to epsilon_end."""
    done = jnp.minimum(steps / config.epsilon_steps, 1.0)
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * done


def at(values: Array, action: Array) -> Array:
    """Return values [..., num_actions] at action [...] int; a product with flags, whose gradient needs no scatter."""
    return jnp.sum(values * jax.nn.one_hot(action, values.shape[-1]), axis=-1)


def judged(q_network: Network) -> Network:
    """Return the network as (params, obs, action) -> q [C, ...], as the critic's loss and a `Bootstrap` ask for it."""
    return Network(q_network.init, lambda params, obs, action: at(q_network.apply(params, obs), action))


def bootstrap(q_network: Network, nets: tuple[PyTree, PyTree], norm: Callable, config: DDQNConfig) -> Bootstrap:
    """Return the view of DDQN that targets read; nets = (the one that chooses, the one that judges)."""
    chooser, judge = nets

    def preferences(obs: Array) -> Array:
        return smallest(q_network.apply(chooser, norm(obs)))

    def log_policy(obs: Array) -> Array:
        """Return log pi(a|s) of every action, [..., num_actions]."""
        values = preferences(obs)
        if config.policy == "boltzmann":
            return jax.nn.log_softmax(values / config.temperature)
        return jnp.log(jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1]))

    def act(key: Array, obs: Array) -> ActionSample:
        values = preferences(obs)
        if config.policy == "boltzmann":
            return distributions.categorical_sample(key, values / config.temperature)
        return distributions.categorical_mode(values)

    def log_prob(obs: Array, latent: Array) -> Array:
        return jnp.take_along_axis(log_policy(obs), latent[..., None], axis=-1)[..., 0]

    def heads(obs: Array, action: Array) -> Array:
        return judged(q_network).apply(judge, norm(obs), action)

    def q(obs: Array, action: Array) -> Array:
        return smallest(heads(obs, action))

    def value(key: Array, obs: Array) -> Array:
        if config.policy == "greedy":
            return q(obs, act(key, obs).action)
        return jnp.sum(jnp.exp(log_policy(obs)) * smallest(q_network.apply(judge, norm(obs))), axis=-1)

    return Bootstrap(act, log_prob, value, jnp.zeros_like, q, heads)


def make_ddqn(config: DDQNConfig, spec: EnvSpec, expansion: Expansion) -> Agent:
    """Build DDQN for `spec`. Raises ValueError if the actions of `spec` are continuous."""
    need_actions(spec, config)
    q_network = q_ensemble(spec, config.filters, config.hidden, config.num_critics, config.dueling)
    tx, seen = optax.adam(config.critic_lr), make_observations(config, spec)

    def view(state: DDQNState) -> Bootstrap:
        chooser = state.online if config.double else state.target
        return bootstrap(q_network, (chooser, state.target), seen.norm(state), config)

    def init(key: Array) -> DDQNState:
        online = q_network.init(key)
        target = jax.tree.map(jnp.copy, online)  # two names for one buffer could not both be donated
        return DDQNState(online, target, seen.init(), tx.init(online), jnp.int32(0), jnp.int32(0))

    def observe(state: DDQNState, obs: Array) -> DDQNState:
        return seen.observe(state._replace(steps=state.steps + obs.shape[0]), obs)

    def act(state: DDQNState, key: Array, obs: Array, explore: bool) -> ActionSample:
        values = smallest(q_network.apply(state.online, seen.norm(state)(obs)))
        if not explore:
            return distributions.categorical_mode(values)
        return distributions.epsilon_greedy_sample(key, values, epsilon(config, state.steps))

    def update(
        state: DDQNState, key: Array, batch: Transition, model_params: PyTree, starts: Transition | None = None
    ) -> tuple[DDQNState, dict]:
        """Take one step of the critics, and move the target net when its turn has come; there is no actor to start."""
        del starts
        rows = expansion.critic_rows(view(state), key, batch, model_params)
        rows = rows._replace(obs=seen.norm(state)(rows.obs))
        online, opt, metrics = critic_step(tx, judged(q_network), state.online, state.opt, rows)
        updates = state.updates + 1
        tau = config.tau if config.target_every == 1 else config.tau * (updates % config.target_every == 0)
        target = optax.incremental_update(online, state.target, tau)
        metrics["explore/epsilon"] = epsilon(config, state.steps)
        return DDQNState(online, target, state.normalizer, opt, state.steps, updates), metrics

    return Agent(init, observe, act, update, view)
