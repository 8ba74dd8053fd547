"""Values learned from data alone (table VALUES): no objective here reads a policy, so one value serves every extractor.

    sarsa, qq   Q_k <- r + g min_k Qbar_k(s', a')          a' the dataset's next action; rows that have none weigh 0
    sarsa, qv   Q_k <- r + g V(s'),  V <- mean of min_k Qbar_k(s, a) over the data's actions: iql with expectile 0.5
    iql         Q_k <- r + g V(s'),  V <- expectile kappa of min_k Qbar_k(s, a)         V is the online one, Qbar moves slowly
    crl         f_e(s, a, g) = phi_e(s, a)' psi_e(g) / sqrt(d), f_V(s, g) likewise; cross-entropy over the B x B pairs

with g = gamma (1 - terminated). That is OGBench's IQL; HIQL's has a target V and fits it to the online Q, another algorithm.
Sources: Brandfonbrener et al. 2021 (arXiv 2106.08909), Kostrikov et al. 2022 (IQL, arXiv 2110.06169), Eysenbach et al. 2022 (CRL,
arXiv 2206.07568), as compared by 2406.09329 and released in OGBench (impls/agents).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex.agents.common import descend, smallest
from valex.losses import contrastive_loss, expectile_loss, gradient_norm, td_loss
from valex.networks import critic_ensemble, mlp
from valex.offline.batch import Batch, Dims, with_goal
from valex.settings.offline import CRLConfig, IQLConfig, SARSAConfig, TDValueConfig
from valex.targets import TD
from valex.types import Array, PyTree
from valex.windows import one_step


class Value(NamedTuple):
    """A value objective as pure functions over one state PyTree. A goal is () where the task has one."""

    init: Callable  # (key) -> state
    update: Callable  # (state, key, batch) -> (state, metrics); the metrics are those before the step
    q: Callable  # (state, obs, action, goal) -> [C, ...] every critic by itself
    v: Callable  # (state, obs, goal) -> [...]
    advantage: Callable  # (state, obs, action, goal) -> [...] min_k Q_k - V


class ValueState(NamedTuple):
    """Everything that a value carries from one update to the next."""

    params: PyTree
    target: PyTree  # slow copy of the critics; () where nothing bootstraps
    opt: optax.OptState
    reward_max: Array  # [] largest |r| seen so far


def advantage_of(q: Callable, v: Callable) -> Callable:
    """Build (state, obs, action, goal) -> min_k Q_k(s, a) - V(s), [...]."""

    def advantage(state: ValueState, obs: Array, action: Array, goal: Any = ()) -> Array:
        return smallest(q(state, obs, action, goal)) - v(state, obs, goal)

    return advantage


def divergence_metrics(heads: Array, bound: Array) -> dict[str, Array]:
    """Return how large |Q| is, and over `bound` [] = max |r| / (1 - gamma): above 1 no return of these rewards is that large."""
    largest = jnp.max(jnp.abs(heads))
    return {
        "value/q_mean": jnp.mean(heads),
        "value/q_abs_max": largest,
        "value/q_bound": bound,
        "value/q_over_bound": largest / jnp.maximum(bound, 1e-6),
    }


def make_td_value(config: TDValueConfig, dims: Dims, expectile: float, next_action: bool) -> Value:
    """Build Q and V that bootstrap: with Q at the dataset's next action, or with V; V is an expectile of Q over the data.

    All gradients are taken at the old parameters and applied by one Adam, which treats every number by itself.
    """
    nets = config.hidden, config.num_critics, config.activation, config.layer_norm
    q_net = critic_ensemble(dims.obs + dims.goal, dims.act, *nets)
    v_net = mlp(dims.obs + dims.goal, config.hidden, 1, 0, config.activation, config.layer_norm)
    tx = optax.adam(config.lr)

    def init(key: Array) -> ValueState:
        q_key, v_key = jax.random.split(key)
        params = {"q": q_net.init(q_key), "v": v_net.init(v_key)}
        target = jax.tree.map(jnp.copy, params["q"])  # two names for one buffer could not both be donated
        return ValueState(params, target, tx.init(params), jnp.zeros(()))

    def q(state: ValueState, obs: Array, action: Array, goal: Any = ()) -> Array:
        return q_net.apply(state.params["q"], with_goal(obs, goal), action)

    def v(state: ValueState, obs: Array, goal: Any = ()) -> Array:
        return v_net.apply(state.params["v"], with_goal(obs, goal))[..., 0]

    def after(state: ValueState, batch: Batch) -> Array:
        """Return what bootstraps at next_obs, [B]."""
        if next_action:
            return smallest(q_net.apply(state.target, with_goal(batch.next_obs, batch.goal), batch.next_action))
        return v(state, batch.next_obs, batch.goal)

    def loss(params: PyTree, state: ValueState, batch: Batch) -> tuple[Array, tuple]:
        x = with_goal(batch.obs, batch.goal)
        target = TD.fold(one_step(batch, config.gamma, after(state, batch)), 0)
        weight = jnp.maximum(batch.has_next, batch.terminated).astype(jnp.float32) if next_action else ()
        heads = q_net.apply(params["q"], x, batch.action)
        fitted = smallest(q_net.apply(state.target, x, batch.action))
        value = v_net.apply(params["v"], x)[..., 0]
        q_loss, v_loss = td_loss(heads, target, weight), expectile_loss(fitted - value, expectile)
        return q_loss + v_loss, (
            heads,
            {"value/q_loss": q_loss, "value/v_loss": v_loss, "value/v_mean": jnp.mean(value)},
        )

    def update(state: ValueState, key: Array, batch: Batch) -> tuple[ValueState, dict[str, Array]]:
        """Take one step of Q and V; nothing is drawn from the key."""
        del key
        grads, (heads, metrics) = jax.grad(loss, has_aux=True)(state.params, state, batch)
        params, opt = descend(tx, grads, state.opt, state.params)
        reward_max = jnp.maximum(state.reward_max, jnp.max(jnp.abs(batch.reward)))
        metrics |= divergence_metrics(heads, reward_max / (1.0 - config.gamma)) | {
            "value/grad_norm": gradient_norm(grads)
        }
        target = optax.incremental_update(params["q"], state.target, config.tau)
        return ValueState(params, target, opt, reward_max), metrics

    return Value(init, update, q, v, advantage_of(q, v))


def make_iql(config: IQLConfig, dims: Dims) -> Value:
    """Build implicit Q-learning."""
    return make_td_value(config, dims, config.expectile, next_action=False)


def make_sarsa(config: SARSAConfig, dims: Dims) -> Value:
    """Build the value of the policy that collected the data; its V, in both variants, is the mean of Q over the data."""
    return make_td_value(config, dims, 0.5, next_action=config.variant == "qq")


def make_crl(config: CRLConfig, dims: Dims) -> Value:
    """Build contrastive values, log-ratios that bootstrap nothing: rewards, ends and `gamma` are not read here.

        f -> log p+(g|s, a) / p+(g) - log(B - 1),   f_V -> log p+(g|s) / p+(g) - log(B - 1)

    p+ is the law of the goals in the batch: `gamma` acts where they are drawn. The shift by log(B - 1), 6.9 at B = 1024, is that
    of one positive to B - 1 negatives; it cancels in f - f_V, not in |f|, so the alpha of DDPG+BC under `abs_mean` depends on
    the batch. Raises ValueError without goals.
    """
    if not dims.goal:
        raise ValueError("value.name: crl needs goals; take iql or sarsa for a task of one goal")
    shape = config.hidden, config.latent
    net = lambda inputs, copies: mlp(inputs, *shape, copies, config.activation, config.layer_norm)  # noqa: E731
    sizes = {"phi": dims.obs + dims.act, "psi": dims.goal, "phi_v": dims.obs, "psi_v": dims.goal}
    nets = {name: net(size, 1 if name.endswith("_v") else config.num_critics) for name, size in sizes.items()}
    tx, scale = optax.adam(config.lr), config.latent**-0.5

    def init(key: Array) -> ValueState:
        keys = jax.random.split(key, len(nets))
        params = {name: nets[name].init(k) for name, k in zip(nets, keys, strict=True)}
        return ValueState(params, (), tx.init(params), jnp.zeros(()))

    def features(params: PyTree, name: str, x: Array) -> Array:
        return jnp.stack([nets[name].apply(p, x) for p in params[name]])

    def product(params: PyTree, names: tuple[str, str], x: Array, goal: Array) -> Array:
        return scale * jnp.sum(features(params, names[0], x) * features(params, names[1], goal), axis=-1)

    def pairs(params: PyTree, names: tuple[str, str], x: Array, goal: Array) -> Array:
        return scale * features(params, names[0], x) @ features(params, names[1], goal).swapaxes(-1, -2)

    def q(state: ValueState, obs: Array, action: Array, goal: Any) -> Array:
        return product(state.params, ("phi", "psi"), jnp.concatenate([obs, action], axis=-1), goal)

    def v(state: ValueState, obs: Array, goal: Any) -> Array:
        return product(state.params, ("phi_v", "psi_v"), obs, goal)[0]

    def loss(params: PyTree, batch: Batch) -> tuple[Array, dict[str, Array]]:
        logits = pairs(params, ("phi", "psi"), jnp.concatenate([batch.obs, batch.action], axis=-1), batch.goal)
        bare = pairs(params, ("phi_v", "psi_v"), batch.obs, batch.goal)
        q_loss, v_loss = contrastive_loss(logits), contrastive_loss(bare)
        own = jnp.diagonal(logits, axis1=1, axis2=2)
        return q_loss + v_loss, {
            "value/q_loss": q_loss,
            "value/v_loss": v_loss,
            "value/q_mean": jnp.mean(own),
            "value/q_abs_max": jnp.max(jnp.abs(own)),
            "value/accuracy": jnp.mean(jnp.argmax(logits, axis=2) == jnp.arange(len(batch.obs))),
        }

    def update(state: ValueState, key: Array, batch: Batch) -> tuple[ValueState, dict[str, Array]]:
        """Take one step of both contrastive nets; nothing is drawn from the key."""
        del key
        grads, metrics = jax.grad(loss, has_aux=True)(state.params, batch)
        params, opt = descend(tx, grads, state.opt, state.params)
        return state._replace(params=params, opt=opt), metrics | {"value/grad_norm": gradient_norm(grads)}

    return Value(init, update, q, v, advantage_of(q, v))
