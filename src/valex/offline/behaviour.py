"""Policies fitted to the actions of a dataset: a Gaussian, a mixture of Gaussians, a flow. No value, no tanh.

    gaussian   -log N(a; m(s), sigma)                    sigma as `config.std` says
    mixture    -log sum_k w_k(s) N(a; m_k(s), sigma_k(s))
    flow       |v(s, x_t, t) - (a - x_0)|^2,  x_t = (1 - t) x_0 + t a,  x_0 ~ N(0, I),  t ~ U(0, 1); actions by Euler steps of v

Sources: flow matching of Lipman et al. 2023 (arXiv 2210.02747), as a policy in Park et al. 2025 (FQL, arXiv 2502.02538).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.distributions import normal_log_prob, normal_sample
from valex.networks import LOG_STD_RANGE, Network, mlp, normal_policy
from valex.offline.batch import Dims
from valex.settings.offline import BCConfig, PolicyConfig
from valex.types import ActionSample, Array, PyTree


class Fitted(NamedTuple):
    """A policy that can be fitted to actions; x [..., obs_dim + goal_dim] is what its net reads, actions are not clipped."""

    init: Callable  # (key) -> params
    loss: Callable  # (params, key, x [B, .], action [B, act_dim]) -> scalar
    draw: Callable  # (params, key, x) -> ActionSample; log_prob 0 where no density is at hand
    mode: Callable  # (params, x) -> [..., act_dim] without noise


def gaussian_net(config: PolicyConfig, dims: Dims) -> Network:
    """Build x -> (mean, std) of the Gaussian that a config asks for."""
    return normal_policy(dims.obs + dims.goal, dims.act, config.hidden, config.activation, config.std)


def make_gaussian(config: BCConfig, dims: Dims) -> Fitted:
    """Build one Gaussian; without noise it acts by its mean."""
    net = gaussian_net(config, dims)

    def loss(params: PyTree, key: Array, x: Array, action: Array) -> Array:
        del key
        mean, std = net.apply(params, x)
        return -jnp.mean(normal_log_prob(mean, std, action))

    def draw(params: PyTree, key: Array, x: Array) -> ActionSample:
        return normal_sample(key, *net.apply(params, x))

    return Fitted(net.init, loss, draw, lambda params, x: net.apply(params, x)[0])


def make_mixture(config: BCConfig, dims: Dims) -> Fitted:
    """Build a mixture with diagonal Gaussians; without noise it acts by the mean of the likeliest component.

    Component k starts around (2 k + 1) / K - 1 in every dimension: alike, they would have the same gradients for good.
    """
    count, width = config.components, dims.act
    centres = ((2.0 * jnp.arange(count) + 1.0) / count - 1.0)[:, None]
    trunk = mlp(dims.obs + dims.goal, config.hidden, count * (1 + 2 * width), activation=config.activation)

    def parts(params: PyTree, x: Array) -> tuple[Array, Array, Array]:
        """Return log weights [..., K], means and standard deviations [..., K, act_dim]."""
        out = trunk.apply(params, x)
        rest = out[..., count:].reshape(*out.shape[:-1], count, 2 * width)
        std = jnp.exp(jnp.clip(rest[..., width:], *LOG_STD_RANGE))
        return jax.nn.log_softmax(out[..., :count]), centres + rest[..., :width], std

    def log_prob(log_weight: Array, mean: Array, std: Array, action: Array) -> Array:
        return jax.nn.logsumexp(log_weight + normal_log_prob(mean, std, action[..., None, :]), axis=-1)

    def pick(rows: Array, which: Array) -> Array:
        return jnp.take_along_axis(rows, which[..., None, None], axis=-2)[..., 0, :]

    def loss(params: PyTree, key: Array, x: Array, action: Array) -> Array:
        del key
        return -jnp.mean(log_prob(*parts(params, x), action))

    def draw(params: PyTree, key: Array, x: Array) -> ActionSample:
        log_weight, mean, std = parts(params, x)
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, log_weight)
        centre = pick(mean, which)
        latent = centre + pick(std, which) * jax.random.normal(noise_key, centre.shape)
        return ActionSample(latent, log_prob(log_weight, mean, std, latent), latent)

    def mode(params: PyTree, x: Array) -> Array:
        log_weight, mean, _ = parts(params, x)
        return pick(mean, jnp.argmax(log_weight, axis=-1))

    return Fitted(trunk.init, loss, draw, mode)


def make_flow(config: BCConfig, dims: Dims) -> Fitted:
    """Build a flow from N(0, I) to the actions; without noise it follows the flow from 0."""
    velocity = mlp(dims.obs + dims.goal + dims.act + 1, config.hidden, dims.act, activation=config.activation)

    def speed(params: PyTree, x: Array, action: Array, t: Array) -> Array:
        return velocity.apply(params, jnp.concatenate([x, action, t], axis=-1))

    def follow(params: PyTree, x: Array, noise: Array) -> Array:
        def step(action: Array, t: Array) -> tuple[Array, None]:
            at = jnp.full((*action.shape[:-1], 1), t)
            return action + speed(params, x, action, at) / config.flow_steps, None

        return jax.lax.scan(step, noise, jnp.arange(config.flow_steps) / config.flow_steps)[0]

    def loss(params: PyTree, key: Array, x: Array, action: Array) -> Array:
        noise_key, time_key = jax.random.split(key)
        noise, t = jax.random.normal(noise_key, action.shape), jax.random.uniform(time_key, (*action.shape[:-1], 1))
        error = speed(params, x, (1.0 - t) * noise + t * action, t) - (action - noise)
        return jnp.mean(jnp.sum(jnp.square(error), axis=-1))

    def draw(params: PyTree, key: Array, x: Array) -> ActionSample:
        action = follow(params, x, jax.random.normal(key, (*x.shape[:-1], dims.act)))
        return ActionSample(action, jnp.zeros(action.shape[:-1]), action)

    return Fitted(velocity.init, loss, draw, lambda params, x: follow(params, x, jnp.zeros((*x.shape[:-1], dims.act))))


def make_fitted(config: BCConfig, dims: Dims) -> Fitted:
    """Build the behaviour that `config.behaviour` names."""
    return {"gaussian": make_gaussian, "mixture": make_mixture, "flow": make_flow}[config.behaviour](config, dims)
