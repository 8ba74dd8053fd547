"""The yardstick: a SAC update loop written straight down, in one compiled program, without anything around it.

No environment, no observation statistics, no metrics, no ring: batches are gathered from a constant table. What valex
needs beyond this is the price of its loop. Same algorithm: twin critics, tanh Gaussian, learned temperature, all three
gradients at the old parameters, Adam, slowly moving target critic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

OBS, ACT, ROWS, BATCH, GAMMA, TAU = 3, 1, 20_000, 256, 0.99, 0.005


def init_mlp(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Return weights and biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def mlp(params: Any, x: jax.Array) -> jax.Array:
    """ReLU layers, then a linear one."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]


def act(actor: Any, key: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (action, log-probability)."""
    mean, s = jnp.split(mlp(actor, obs), 2, -1)
    std = jax.nn.softplus(s) + 1e-3
    noise = jax.random.normal(key, mean.shape)
    u = mean + std * noise
    log_det = 2.0 * (0.6931472 - u - jax.nn.softplus(-2.0 * u))
    return jnp.tanh(u), jnp.sum(-0.5 * noise**2 - jnp.log(std) - 0.9189385 - log_det, -1)


def q(critic: Any, obs: jax.Array, action: jax.Array) -> list[jax.Array]:
    """Return the values of both critics."""
    x = jnp.concatenate([obs, action], -1)
    return [mlp(params, x)[:, 0] for params in critic]


def make_update(tx: optax.GradientTransformation, table: tuple[jax.Array, ...]) -> Callable:
    """Build (state, key) -> state, one gradient step on a batch drawn from `table`."""

    def step(grads: Any, opt: Any, params: Any) -> tuple[Any, Any]:
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    def update(state: tuple, key: jax.Array) -> tuple:
        """Move critic, actor, temperature and target once."""
        actor, critic, target, log_alpha, actor_opt, critic_opt, alpha_opt = state
        row_key, next_key, now_key = jax.random.split(key, 3)
        rows = jax.random.randint(row_key, (BATCH,), 0, ROWS)
        obs, action, reward, next_obs = (column[rows] for column in table)
        alpha = jnp.exp(log_alpha)
        next_action, next_log_prob = act(actor, next_key, next_obs)
        y = reward + GAMMA * (jnp.minimum(*q(target, next_obs, next_action)) - alpha * next_log_prob)

        def actor_loss(actor):
            action, log_prob = act(actor, now_key, obs)
            return jnp.mean(alpha * log_prob - jnp.minimum(*q(critic, obs, action))), log_prob

        critic_grads = jax.grad(lambda c: sum(0.5 * jnp.mean((v - y) ** 2) for v in q(c, obs, action)))(critic)
        actor_grads, log_prob = jax.grad(actor_loss, has_aux=True)(actor)
        alpha_grad = jax.grad(lambda x: jnp.exp(x) * jax.lax.stop_gradient(jnp.mean(-log_prob + 0.5 * ACT)))(log_alpha)
        actor, actor_opt = step(actor_grads, actor_opt, actor)
        critic, critic_opt = step(critic_grads, critic_opt, critic)
        log_alpha, alpha_opt = step(alpha_grad, alpha_opt, log_alpha)
        target = optax.incremental_update(critic, target, TAU)
        return actor, critic, target, log_alpha, actor_opt, critic_opt, alpha_opt

    return update


def make_loop(hidden: tuple[int, ...]) -> tuple[Callable, tuple]:
    """Return (loop, state) with loop(state, key, n) -> state after n updates; the state passed in is donated."""
    actor_key, *critic_keys, table_key = jax.random.split(jax.random.key(0), 4)
    actor = init_mlp(actor_key, (OBS, *hidden, 2 * ACT))
    critic = tuple(init_mlp(k, (OBS + ACT, *hidden, 1)) for k in critic_keys)
    obs, action, reward, next_obs = (
        jax.random.normal(k, shape)
        for k, shape in zip(
            jax.random.split(table_key, 4), ((ROWS, OBS), (ROWS, ACT), (ROWS,), (ROWS, OBS)), strict=True
        )
    )
    tx, zero = optax.adam(3e-4), jnp.zeros(())
    state = (actor, critic, jax.tree.map(jnp.copy, critic), zero, tx.init(actor), tx.init(critic), tx.init(zero))
    update = make_update(tx, (obs, jnp.tanh(action), reward, next_obs))

    @partial(jax.jit, donate_argnums=0)
    def loop(state, key, n):
        return jax.lax.fori_loop(0, n, lambda i, s: update(s, jax.random.fold_in(key, i)), state)

    return loop, jax.tree.map(jnp.copy, state)
