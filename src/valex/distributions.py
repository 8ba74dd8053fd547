"""Policies as distributions over actions. Log-probabilities always come from the sample before the squashing."""

import jax
import jax.numpy as jnp

from valex.types import ActionSample, Array, EnvSpec

_HALF_LOG_2PI = 0.9189385332046727
_LOG_2 = 0.6931471805599453


def tanh_log_det(latent: Array) -> Array:
    """Return log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)) elementwise; exact where tanh(u) rounds to 1."""
    return 2.0 * (_LOG_2 - latent - jax.nn.softplus(-2.0 * latent))


def _normal_log_density(mean: Array, std: Array, x: Array) -> Array:
    """Return log N(x; mean, std) elementwise."""
    z = (x - mean) / std
    return -0.5 * z * z - jnp.log(std) - _HALF_LOG_2PI


def normal_log_prob(mean: Array, std: Array, x: Array) -> Array:
    """Return sum_d log N(x_d; mean_d, std_d); `mean`, `std` (> 0) and `x` are [..., act_dim], the result [...] in nats."""
    return jnp.sum(_normal_log_density(mean, std, x), axis=-1)


def normal_sample(key: Array, mean: Array, std: Array) -> ActionSample:
    """Draw a = mean + std * noise (reparameterised), not squashed, with its log-probability. Shapes as above."""
    action = mean + std * jax.random.normal(key, mean.shape)
    return ActionSample(action, normal_log_prob(mean, std, action), action)


def normal_kl(mean: Array, std: Array, other_mean: Array, other_std: Array) -> Array:
    """Return KL(p || o) = sum_d [ log(o_d / s_d) + (s_d^2 + (m_d - n_d)^2) / (2 o_d^2) - 1/2 ] in nats, [...].

    p = N(m, s) has `mean` and `std`, o = N(n, o) `other_mean` and `other_std`, all [..., act_dim] and diagonal. With all
    standard deviations 1 it is half the squared distance of the means.
    """
    ratio = jnp.square(std) + jnp.square(mean - other_mean)
    return jnp.sum(jnp.log(other_std / std) + ratio / (2.0 * jnp.square(other_std)) - 0.5, axis=-1)


def tanh_normal_log_prob(mean: Array, std: Array, latent: Array) -> Array:
    """Return log pi(tanh(u)) = sum_d [ log N(u_d; mean_d, std_d) - log(1 - tanh(u_d)^2) ].

    `mean`, `std` (> 0) and `latent` u are [..., act_dim]; the result [...] is in nats. Source: Haarnoja et al. 2018, appendix C.
    """
    return jnp.sum(_normal_log_density(mean, std, latent) - tanh_log_det(latent), axis=-1)


def tanh_normal_sample(key: Array, mean: Array, std: Array) -> ActionSample:
    """Draw u = mean + std * noise (reparameterised), a = tanh(u), with its log-probability. Shapes as above.

    key: a PRNG key, or in its place noise ~ N(0, 1) that has been drawn already, shaped like `mean`.
    """
    drawn = jnp.issubdtype(key.dtype, jnp.floating)
    latent = mean + std * (key if drawn else jax.random.normal(key, mean.shape))
    return ActionSample(jnp.tanh(latent), tanh_normal_log_prob(mean, std, latent), latent)


def tanh_normal_redraw(mean: Array, std: Array, latent: Array) -> ActionSample:
    """Return the draw that gave `latent`, its noise (u - mean) / std held constant: u = mean + std sg[noise], a = tanh(u).

    The values are those of `latent`, the derivatives those of a draw. Shapes as above.
    """
    noise = jax.lax.stop_gradient((latent - mean) / std)
    latent = mean + std * noise
    return ActionSample(jnp.tanh(latent), tanh_normal_log_prob(mean, std, latent), latent)


def tanh_normal_mode(mean: Array) -> ActionSample:
    """Return the deterministic action tanh(mean); its log-probability is 0 by convention."""
    return ActionSample(jnp.tanh(mean), jnp.zeros(mean.shape[:-1]), mean)


def random_action(key: Array, spec: EnvSpec, shape: tuple[int, ...]) -> ActionSample:
    """Draw actions of `spec` uniformly, `shape` [...] of them: the box of `uniform_sample`, or log mu = -log num_actions."""
    if not spec.num_actions:
        return uniform_sample(key, (*shape, spec.act_dim))
    action = jax.random.randint(key, shape, 0, spec.num_actions)
    return ActionSample(action, jnp.full(shape, -jnp.log(float(spec.num_actions))), action)


def uniform_sample(key: Array, shape: tuple[int, ...]) -> ActionSample:
    """Draw a ~ U(-1, 1)^act_dim for `shape` [..., act_dim], with u = atanh(a) and log mu(a) = -act_dim log 2.

    The draw is kept 1e-6 inside the interval so that u is finite.
    """
    action = jax.random.uniform(key, shape, minval=-1.0 + 1e-6, maxval=1.0 - 1e-6)
    return ActionSample(action, jnp.full(shape[:-1], -shape[-1] * _LOG_2), jnp.arctanh(action))


OU_KEEP, OU_SCALE = 0.9, 0.45  # of the exploration noise z <- 0.9 z + 0.45 N(0, 1), stationary standard deviation 1.03


def ou_sample(key: Array, z: Array) -> ActionSample:
    """Draw z' = 0.9 z + 0.45 noise and a = tanh(z') for z [..., act_dim]; `latent` is z', log mu(a) is given z.

    Ornstein-Uhlenbeck noise in discrete time: pushes one way for about ten steps, so that states far from the start are seen.
    """
    return tanh_normal_sample(key, OU_KEEP * z, jnp.full_like(z, OU_SCALE))


def categorical_sample(key: Array, logits: Array) -> ActionSample:
    """Draw a ~ softmax(logits), logits [..., num_actions], with log pi(a) in nats; `latent` is the action itself."""
    action = jax.random.categorical(key, logits)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]
    return ActionSample(action, log_prob, action)


def categorical_mode(values: Array) -> ActionSample:
    """Return argmax_a values [..., num_actions], the first of several; its log-probability is 0 by convention."""
    action = jnp.argmax(values, axis=-1).astype(jnp.int32)
    return ActionSample(action, jnp.zeros(action.shape), action)


def epsilon_greedy_sample(key: Array, values: Array, epsilon: Array) -> ActionSample:
    """Draw argmax_a values, or with probability epsilon uniformly; log mu(a) = log(epsilon / n + (1 - epsilon) 1[argmax])."""
    n = values.shape[-1]
    best = jnp.argmax(values, axis=-1)
    draw_key, coin_key = jax.random.split(key)
    uniform = jax.random.randint(draw_key, best.shape, 0, n)
    action = jnp.where(jax.random.uniform(coin_key, best.shape) < epsilon, uniform, best).astype(jnp.int32)
    return ActionSample(action, jnp.log(epsilon / n + (1.0 - epsilon) * (action == best)), action)
