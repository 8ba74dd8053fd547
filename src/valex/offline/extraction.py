"""Policies read off a frozen value (table EXTRACTORS): nothing here changes a value.

    bc        max E_data log pi(a|s)
    awr       max E_data min(exp(alpha A(s, a)), clip) log pi(a|s)                alpha 0 is BC
    ddpg_bc   max E_data Q(s, clip(mu(s))) / norm + alpha log pi(a|s)             alpha infinite is BC; norm `config.q_norm`
    sfbc      argmax over a_1 .. a_N ~ pi_BC(.|s) of Q(s, a_i); trained as BC

Q is the minimum over critics, A = Q - V. Policies are Gaussians on the actions as they are (BC and SfBC also mixtures and flows),
clipped to the box where they act. Sources: Peng et al. 2019 (arXiv 1910.00177), Fujimoto and Gu 2021 (arXiv 2106.06860),
Chen et al. 2023 (arXiv 2209.14548), as compared by 2406.09329 and released in OGBench (impls/agents/gciql.py).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex.agents.common import descend, smallest
from valex.distributions import normal_log_prob
from valex.losses import advantage_weights, gradient_norm, sample_share
from valex.offline.batch import Batch, Dims, with_goal
from valex.offline.behaviour import Fitted, gaussian_net, make_fitted, make_gaussian
from valex.offline.values import Value
from valex.settings.offline import AWRConfig, BCConfig, DDPGBCConfig, PolicyConfig, SfBCConfig
from valex.types import ActionSample, Array, PyTree

Q_FLOOR = 1e-6  # added to what Q is divided by, in units of return


class Policy(NamedTuple):
    """An extractor as pure functions over one state PyTree; `frozen` is the state of the value that it was built with."""

    init: Callable  # (key, alpha | None) -> state; None: the config's alpha
    update: Callable  # (state, key, batch, frozen) -> (state, metrics); the metrics are those before the step
    act: Callable  # (state, key, obs, goal, explore, frozen) -> ActionSample in the box; explore False: without noise
    mean: Callable  # (state, obs, goal, frozen) -> [..., act_dim] in the box: the action that is evaluated, no key
    gaussian: Callable | None = None  # (params, x) -> (mean, std), what test-time training moves; None: no Gaussian


class PolicyState(NamedTuple):
    """Everything that a policy carries from one update to the next."""

    params: PyTree
    opt: optax.OptState
    alpha: (
        Array  # [] the config's alpha, as data: policies of one shape that differ in it share a program; 0 unless read
    )


def box(action: Array) -> Array:
    """Return the action inside [-1, 1]."""
    return jnp.clip(action, -1.0, 1.0)


def q_scale(q: Array, how: str) -> Array:
    """Return what Q [B] is divided by, without gradient: 1 (none), mean |Q| (abs_mean) or its standard deviation (std).

    `abs_mean` does not change with the unit of Q but with its origin, `std` with neither.
    """
    if how == "none":
        return jnp.ones(())
    return jax.lax.stop_gradient((jnp.mean(jnp.abs(q)) if how == "abs_mean" else jnp.std(q)) + Q_FLOOR)


def make_act(mean: Callable, params_draw: Callable) -> Callable:
    """Build `Policy.act` of a policy that acts by `mean`, and explores by a draw (params, key, x) -> ActionSample."""

    def act(
        state: PolicyState, key: Array, obs: Array, goal: Any = (), explore: bool = False, frozen: Any = ()
    ) -> ActionSample:
        if not explore:
            action = mean(state, obs, goal, frozen)
            return ActionSample(action, jnp.zeros(action.shape[:-1]), action)
        sample = params_draw(state.params, key, with_goal(obs, goal))
        return sample._replace(action=box(sample.action))

    return act


def make_policy(config: PolicyConfig, fitted: Fitted, alpha: float, grads_of: Callable) -> Policy:
    """Build a policy that acts as `fitted` does; grads_of: (state, key, batch, frozen) -> (gradient, metrics)."""
    tx = optax.adam(config.lr)

    def init(key: Array, own_alpha: Array | float | None = None) -> PolicyState:
        params = fitted.init(key)
        return PolicyState(params, tx.init(params), jnp.array(alpha if own_alpha is None else own_alpha, jnp.float32))

    def update(
        state: PolicyState, key: Array, batch: Batch, frozen: PyTree = ()
    ) -> tuple[PolicyState, dict[str, Array]]:
        """Take one step of the policy."""
        grads, metrics = grads_of(state, key, batch, frozen)
        params, opt = descend(tx, grads, state.opt, state.params)
        return state._replace(params=params, opt=opt), metrics | {"policy/grad_norm": gradient_norm(grads)}

    def mean(state: PolicyState, obs: Array, goal: Any = (), frozen: Any = ()) -> Array:
        del frozen
        return box(fitted.mode(state.params, with_goal(obs, goal)))

    return Policy(init, update, make_act(mean, fitted.draw), mean)


def clone(fitted: Fitted, state: PolicyState, key: Array, batch: Batch, frozen: Any) -> tuple[PyTree, dict[str, Array]]:
    """Return (gradient, metrics) of behaviour cloning."""
    del frozen
    x = with_goal(batch.obs, batch.goal)
    loss, grads = jax.value_and_grad(fitted.loss)(state.params, key, x, batch.action)
    return grads, {"policy/loss": loss}


def make_bc(config: BCConfig, dims: Dims, value: Value | None = None) -> Policy:
    """Build behaviour cloning; `value` is not read."""
    del value
    fitted = make_fitted(config, dims)
    policy = make_policy(config, fitted, 0.0, partial(clone, fitted))
    return policy._replace(gaussian=gaussian_net(config, dims).apply) if config.behaviour == "gaussian" else policy


def make_weighted(config: AWRConfig | DDPGBCConfig, dims: Dims, grads_of: Callable) -> Policy:
    """Build a Gaussian policy trained by `grads_of`, see `make_policy`."""
    fitted = make_gaussian(BCConfig(hidden=config.hidden, activation=config.activation, std=config.std), dims)
    policy = make_policy(config, fitted, config.alpha, grads_of)
    return policy._replace(gaussian=gaussian_net(config, dims).apply)


def weight_metrics(weight: Array, exponent: Array, clip: float | None) -> dict[str, Array]:
    """Return what tells whether AWR still sees its data: mean weight, share of rows at the bound, ESS / B with it and without.

    `weight` [B] = min(exp(`exponent`), clip).
    """
    bound = math.inf if clip is None else math.log(clip)
    return {
        "policy/mean_weight": jnp.mean(weight),
        "policy/clip_share": jnp.mean(exponent >= bound),
        "policy/ess_share": sample_share(jnp.minimum(exponent, bound)),
        "policy/ess_share_unclipped": sample_share(exponent),
    }


def make_awr(config: AWRConfig, dims: Dims, value: Value) -> Policy:
    """Build advantage-weighted regression."""
    net = gaussian_net(config, dims)

    def grads_of(state: PolicyState, key: Array, batch: Batch, frozen: PyTree) -> tuple[PyTree, dict[str, Array]]:
        del key
        advantage = value.advantage(frozen, batch.obs, batch.action, batch.goal)
        if config.normalize_advantage:
            advantage = advantage / (jnp.std(advantage) + Q_FLOOR)
        weight = advantage_weights(advantage, state.alpha, config.weight_clip)

        def loss(params: PyTree) -> tuple[Array, Array]:
            mean, std = net.apply(params, with_goal(batch.obs, batch.goal))
            log_prob = normal_log_prob(mean, std, batch.action)
            return -jnp.mean(weight * log_prob), -jnp.mean(log_prob)

        (total, bc_loss), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics = {"policy/loss": total, "policy/bc_loss": bc_loss, "policy/advantage_std": jnp.std(advantage)}
        return grads, metrics | weight_metrics(weight, state.alpha * advantage, config.weight_clip)

    return make_weighted(config, dims, grads_of)


def make_ddpg_bc(config: DDPGBCConfig, dims: Dims, value: Value) -> Policy:
    """Build the behaviour-constrained policy gradient; where std is learned, Q is climbed at a drawn action, not at the mean."""
    net = gaussian_net(config, dims)

    def grads_of(state: PolicyState, key: Array, batch: Batch, frozen: PyTree) -> tuple[PyTree, dict[str, Array]]:
        out, pull = jax.vjp(lambda params: net.apply(params, with_goal(batch.obs, batch.goal)), state.params)
        noise = 0.0 if config.std == "unit" else jax.random.normal(key, batch.action.shape)

        def climb(out: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            mean, std = out
            q = smallest(value.q(frozen, batch.obs, box(mean + std * noise), batch.goal))
            scale = q_scale(q, config.q_norm)
            return -jnp.mean(q) / scale, (jnp.mean(q), scale)

        def stay(out: tuple[Array, Array]) -> Array:
            return -jnp.mean(normal_log_prob(*out, batch.action))

        (q_loss, (q, scale)), q_slope = jax.value_and_grad(climb, has_aux=True)(out)
        bc_loss, bc_slope = jax.value_and_grad(stay)(out)
        tether = jax.tree.map(lambda g: state.alpha * g, bc_slope)
        grads = pull(jax.tree.map(jnp.add, q_slope, tether))[0]
        return grads, {
            "policy/loss": q_loss + state.alpha * bc_loss,
            "policy/bc_loss": bc_loss,
            "policy/q": q,
            "policy/q_scale": scale,
            "policy/gradient_ratio": gradient_norm(q_slope[0]) / jnp.maximum(gradient_norm(tether[0]), 1e-12),
            "policy/outside_share": jnp.mean(jnp.abs(out[0]) > 1.0),
        }

    return make_weighted(config, dims, grads_of)


def choose_best(q: Callable, candidates: Array) -> Array:
    """Return of candidates [N, ..., act_dim] the one with the largest q(candidates) [N, ...], for every row by itself."""
    best = jnp.argmax(q(candidates), axis=0)
    return jnp.take_along_axis(candidates, best[None, ..., None], axis=0)[0]


def make_sfbc(config: SfBCConfig, dims: Dims, value: Value) -> Policy:
    """Build selection from behaviour candidates; `mean` draws its candidates from a fixed key.

    Raises ValueError for a Gaussian of spread 1, whose candidates have nothing to do with the data.
    """
    if config.behaviour == "gaussian" and config.std == "unit":
        raise ValueError("policy.std: candidates of a Gaussian need a spread that is fitted; take shared or state")
    fitted = make_fitted(config, dims)
    policy = make_policy(config, fitted, 0.0, partial(clone, fitted))

    def select(state: PolicyState, key: Array, obs: Array, goal: Any, frozen: PyTree) -> Array:
        obs, goal = jax.tree.map(lambda x: jnp.broadcast_to(x, (config.samples, *x.shape)), (obs, goal))
        candidates = box(fitted.draw(state.params, key, with_goal(obs, goal)).action)
        return choose_best(lambda action: smallest(value.q(frozen, obs, action, goal)), candidates)

    def act(
        state: PolicyState, key: Array, obs: Array, goal: Any = (), explore: bool = False, frozen: Any = ()
    ) -> ActionSample:
        del explore  # drawing the candidates is all the noise that there is
        action = select(state, key, obs, goal, frozen)
        return ActionSample(action, jnp.zeros(action.shape[:-1]), action)

    def mean(state: PolicyState, obs: Array, goal: Any = (), frozen: Any = ()) -> Array:
        return select(state, jax.random.key(0), obs, goal, frozen)

    return policy._replace(act=act, mean=mean)
