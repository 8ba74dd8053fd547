"""What an agent is worth: episode returns, and how far its critic is from Monte-Carlo returns."""

import math

import jax
import jax.numpy as jnp

from valex.models.oracle import make_oracle
from valex.targets import H_STEP, backward_return
from valex.types import Agent, Array, Env, PyTree
from valex.windows import from_model, rollout

MONTE_CARLO_TAIL = 1e-3  # a Monte-Carlo return runs until gamma^T is below this; the rest is bootstrapped


def episode_returns(env: Env, agent: Agent, state: PyTree, key: Array, episodes: int) -> dict[str, Array]:
    """Return the mean undiscounted return and length of `episodes` episodes under the evaluation policy.

    The return is the task's own: an offset of the rewards in training is taken off.
    One environment per episode, and only its first episode counts, so that short episodes are not over-weighted.
    `key` fixes the initial states: the same key gives the same starts at every evaluation.
    """
    reset_key, step_key = jax.random.split(key)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))

    def step(carry, key):
        sim, alive, total, length = carry
        act_key, env_key = jax.random.split(key)
        sample = agent.act(state, act_key, jax.vmap(env.obs)(sim), explore=False)
        sim, out = jax.vmap(env.step)(jax.random.split(env_key, episodes), sim, sample.action)
        total = total + jnp.where(alive, out.reward - env.spec.reward_offset, 0.0)
        return (sim, alive & ~out.terminated, total, length + alive), None

    carry = (start, jnp.ones(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32))
    keys = jax.random.split(step_key, env.spec.episode_length)
    (_, _, total, length), _ = jax.lax.scan(step, carry, keys)
    return {
        "eval/episode_return": jnp.mean(total),
        "eval/episode_return_std": jnp.std(total),
        "eval/episode_length": jnp.mean(length.astype(jnp.float32)),
    }


def monte_carlo_steps(gamma: float) -> int:
    """Return the least T >= 1 with gamma^T < 1e-3."""
    return 1 if gamma <= MONTE_CARLO_TAIL else max(1, math.ceil(math.log(MONTE_CARLO_TAIL) / math.log(gamma)))


def value_bias(
    env: Env, agent: Agent, state: PyTree, key: Array, gamma: float, num: int, states: int = 64
) -> dict[str, Array]:
    """Return the mean of Q(s_t, a_t) - G_t, of Q and of G over the first `states` states of `num` stochastic rollouts.

    G_t = r_t + sum_{k>0} gamma^k (r_{t+k} + bonus_{t+k}) is the Monte-Carlo return that the critic estimates, followed
    without a clock until gamma^T < 1e-3 and closed with gamma^T V. Positive bias is overestimation. Units of return.
    """
    bootstrap, oracle = agent.bootstrap(state), make_oracle(env)
    reset_key, path_key, value_key = jax.random.split(key, 3)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, num))
    obs = jax.vmap(env.obs)(start)
    horizon = states + monte_carlo_steps(gamma)
    path = rollout(oracle, (), bootstrap.act, path_key, (obs, start, jnp.ones(num, bool)), horizon)
    ones = jnp.ones(num)
    window = from_model(bootstrap, value_key, path, (0.0 * ones, ones), gamma, (H_STEP, "plain"))
    trace = jnp.ones_like(window.value).at[-1].set(0.0)
    returns = backward_return(window.reward, window.discount, window.value, window.q, trace)[1 : states + 1]
    returns = returns - bootstrap.bonus(path.log_prob[:states])
    q = bootstrap.q(path.obs[:states], path.action[:states])
    ended = jnp.cumsum(path.terminated[:states], axis=0) - path.terminated[:states]
    weight = (ended == 0) / jnp.sum(ended == 0)
    return {
        "value/bias": jnp.sum(weight * (q - returns)),
        "value/critic": jnp.sum(weight * q),
        "value/mc_return": jnp.sum(weight * returns),
    }
