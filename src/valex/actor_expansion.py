"""The actor's side of expansion: its objective along H differentiable model steps, and the gradient that it is trained with.

    J = E[ sum_{t<H} gamma^t (r_t + bonus_t) + gamma^H V(s_H) ]          H counts model steps; H = 0 is the ordinary actor loss

How the gradient of J is estimated (`config.gradient`) is a choice of its own: through the model (dp), along real segments (dr),
past it (lr), or mixtures, see `estimators/per_sample.py`.
"""

from collections.abc import Callable
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp

from valex.estimators.pathwise import Chain, pathwise_values, segment_weights
from valex.estimators.per_sample import PATHWISE, mixing_of, per_sample_grads
from valex.losses import gradient_norm
from valex.models.passing import passing
from valex.settings import ActorConfig
from valex.targets import H_STEP
from valex.types import Array, Bootstrap, Model, PyTree, Transition
from valex.windows import drawn_before, from_model, over_particles, rollout


def make_actor_objective(config: ActorConfig, gamma: float, model: Model | None) -> Callable:
    """Build (bootstrap, key, first [B], model_params) -> (J [B], log pi(a_0|s_0) [B]), differentiable in the policy.

    J is divided by H + 1 if config.divide_by_length. Row 0 of the window is a step without reward and discount, so that
    the same recursion serves both sides. Source: spec 1.3 of 2412.20537's release.
    """
    horizon, settings = config.horizon, (H_STEP, config.estimator)

    def one_step(bootstrap: Bootstrap, key: Array, first: Transition) -> tuple[Array, Array]:
        sample = bootstrap.act(key, first.obs)
        return bootstrap.q(first.obs, sample.action) + bootstrap.bonus(sample.log_prob), sample.log_prob

    def objective(bootstrap: Bootstrap, key: Array, first: Transition, model_params: PyTree) -> tuple[Array, Array]:
        """Return J of every row, averaged over particles, and log pi of the first action."""
        chex.assert_rank(first.obs, 2)

        def particle(key: Array) -> tuple[Array, Array]:
            """Return J of one rollout and log pi of its first action."""
            if horizon == 0:
                return one_step(bootstrap, key, first)
            assert model is not None  # make_expansion refuses a rollout without a model
            start_key, path_key, value_key = jax.random.split(key, 3)
            state = model.start(model_params, start_key, first.obs, first.sim_state)
            alive = jnp.ones(first.reward.shape, bool)
            act, noises = drawn_before(bootstrap, path_key, first.obs, horizon)
            path = rollout(model, model_params, act, path_key, (first.obs, state, alive), horizon, noises)
            zero = jnp.zeros_like(first.reward)
            window = from_model(bootstrap, value_key, path, (zero, zero + 1.0), gamma, settings)
            if config.estimator == "doubly_robust":  # s_0 has no control variate: a_0 is the action being judged
                window = window._replace(
                    reward=window.reward.at[0].set(bootstrap.bonus(path.log_prob[0])),
                    value=window.value.at[0].set(0.0),
                    q=window.q.at[0].set(0.0),
                )
            return H_STEP.fold(window, horizon, 1.0), path.log_prob[0]

        value, log_prob = over_particles(particle, key, config.particles)
        return value / (horizon + 1 if config.divide_by_length else 1), log_prob

    return objective


def make_actor_gradient(config: ActorConfig, gamma: float, model: Model | None) -> tuple[Callable, Callable]:
    """Build the gradients of -E J, each a function of (view, actor, ., starts, model_params) with view: (actor) -> Bootstrap.

    gradient     (., key, .)      -> (gradient of the batch, (-mean J, log pi(a_0|s_0) [B])), clipped or normalised as config says
    each         (., keys [B], .) -> gradient of every sample, leaves [B, ...], as it is
    starts: leaves [B, ...], of `dr` segments [H + 1, B, ...].
    """
    horizon, mode = config.horizon, config.gradient if config.horizon else "dp"
    closes = without_critic if config.closing == "nothing" else lambda view: view
    model = passing(model, config.truncate, config.adjoint_clip) if model is not None else None
    objective = make_actor_objective(config, gamma, model)
    scale = 1.0 / (horizon + 1 if config.divide_by_length else 1)

    def loss(actor: PyTree, view: Callable, key: Array, starts: Transition, params: PyTree) -> tuple[Array, Array]:
        value, log_prob = objective(closes(view)(actor), key, starts, params)
        return -jnp.mean(value), log_prob

    def chain(view: Callable, params: PyTree) -> Chain:
        assert model is not None  # make_expansion refuses a rollout without a model
        return Chain(closes(view), model, params, gamma)

    def along(actor: PyTree, view: Callable, key: Array, starts: Transition, params: PyTree) -> tuple[Array, Array]:
        """Return -mean J with the gradient of a mode that differentiates one rollout, and log pi of a first action."""
        value = pathwise_values(actor, chain(view, params), starts, key, horizon, mode)
        if mode == "dr":
            value, starts = value * weights(view(actor), starts), jax.tree.map(lambda x: x[0], starts)
        return -scale * jnp.mean(value), view(actor).act(key, starts.obs).log_prob

    def weights(view: Bootstrap, segments: Transition) -> Array:
        """Return what every segment counts for: alike where they were not stored with the density of their actions."""
        return segment_weights(view, segments, config.segment_weight)

    def each(view: Callable, actor: PyTree, keys: Array, starts: Transition, params: PyTree) -> PyTree:
        """Return the gradient of every sample."""
        if mode == "dp":
            rows = jax.tree.map(lambda x: x[:, None], starts)
            one = lambda key, row: jax.grad(loss, has_aux=True)(actor, view, key, row, params)[0]  # noqa: E731
            return jax.vmap(one)(keys, rows)
        grads = per_sample_grads(actor, chain(view, params), starts, keys, horizon, mode, mixing_of(config))
        size = -scale * (weights(view(actor), starts) if mode == "dr" else jnp.ones(keys.shape[0]))
        return jax.tree.map(lambda g: g * size.reshape(-1, *(1,) * (g.ndim - 1)), grads)

    def gradient(
        view: Callable, actor: PyTree, key: Array, starts: Transition, params: PyTree
    ) -> tuple[PyTree, tuple[Array, Array]]:
        """Return the gradient that the actor's optimiser gets."""
        if mode in PATHWISE:
            found = jax.value_and_grad(loss if mode == "dp" else along, has_aux=True)(actor, view, key, starts, params)
            return stabilised(config, found[1]), found[0]
        keys = jax.random.split(key, starts.obs.shape[0])
        grads = jax.tree.map(lambda g: jnp.mean(g, axis=0), each(view, actor, keys, starts, params))
        return stabilised(config, grads), loss(actor, view, key, starts, params)

    return gradient, each


def without_critic(view: Callable) -> Callable:
    """Return a view, (actor) -> Bootstrap, in which nothing comes after the last step: V = Q = 0."""
    nothing = lambda obs: jnp.zeros(obs.shape[:-1])  # noqa: E731
    return lambda actor: view(actor)._replace(q=lambda obs, action: nothing(obs), value=lambda key, obs: nothing(obs))


def model_free(config: ActorConfig, gamma: float, segments: bool) -> Callable:
    """Build the gradient of `make_actor_gradient` for H = 0, from starts as H > 0 gets them (`segments`: their first rows)."""
    gradient = make_actor_gradient(replace(config, horizon=0, particles=1), gamma, None)[0]

    def free(view: Callable, actor: PyTree, key: Array, starts: Transition, params: PyTree) -> tuple:
        first = jax.tree.map(lambda x: x[0], starts) if segments else starts
        return gradient(view, actor, key, first, params)

    return free


def stabilised(config: ActorConfig, grads: PyTree) -> PyTree:
    """Return g min(1, grad_clip / |g|), or g / |g| with normalize_grad: sizes of steps, not directions."""
    limit = 1.0 if config.normalize_grad else config.grad_clip
    if limit is None:
        return grads
    factor = limit / jnp.maximum(gradient_norm(grads), 1e-12)
    factor = factor if config.normalize_grad else jnp.minimum(1.0, factor)
    return jax.tree.map(lambda g: g * factor, grads)
