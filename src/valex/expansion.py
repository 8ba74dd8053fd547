"""What agents receive: the rows their critic is regressed on, and the actor's gradient (`actor_expansion.py`).

Windows (windows.py) are folded by a rule (targets.py). H counts MODEL steps: a critic's window ends at s_{H+1}, an actor's
at s_H (2412.20537). Critics, members of a learned model and horizons are combined in that order, each by a switch of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from valex.actor_expansion import make_actor_gradient, model_free
from valex.settings import ActorConfig, CriticConfig
from valex.tables import RULES, load
from valex.targets import first_target, horizon_metrics, horizon_returns, window_of, window_returns
from valex.types import Array, Bootstrap, CriticRows, Model, PyTree, ReturnInputs, Transition
from valex.windows import (
    Rollout,
    from_model,
    from_replay,
    one_critic,
    over_particles,
    real_row,
    rollout,
    with_critic_agg,
)


class Expansion(NamedTuple):
    """What an agent is built with; it never computes a target itself."""

    critic_rows: Callable  # (bootstrap, key, batch [T, B], model_params) -> CriticRows, without gradient
    actor_gradient: Callable  # (view, actor, key, starts, model_params) -> (gradient, (loss, log pi(a_0|s_0) [B]))
    model_free_gradient: Callable  # the same with H = 0, whatever H is
    actor_grads: Callable  # (view, actor, keys [B], starts, model_params) -> gradient of every sample, leaves [B, ...]
    window: int  # T, rows of stored sequence that critic_rows reads
    start_rows: int  # rows of a stored sequence for each of the actor's starts; 0: the critic's first row is one
    by_target: bool = False  # the critic that closes the actor's objective is the slowly updated one


class _Imagination(NamedTuple):
    """What one rollout from the real successors gave."""

    path: Rollout
    window: ReturnInputs  # [H + 1, B], or [H + 1, J, B] with J samples


def _imagine(
    config: CriticConfig, gamma: float, model: Model, bootstrap: Bootstrap, key: Array, real: tuple[Transition, PyTree]
) -> _Imagination:
    """Roll the model out from real = (first [B], model_params), one member per row and step as it propagates."""
    first, model_params = real
    start_key, path_key, value_key = jax.random.split(key, 3)
    state = model.start(model_params, start_key, first.next_obs, first.next_sim_state)
    start = (first.next_obs, state, ~first.terminated)
    path = rollout(model, model_params, bootstrap.act, path_key, start, config.horizon)
    trusted = None
    if config.max_disagreement is not None:
        spread = jnp.zeros_like(path.reward)
        if model.disagreement is not None:
            spread = model.disagreement(model_params, path.obs[:-1], path.action)
        trusted = 1.0 * (spread < config.max_disagreement)
    settings = (load(RULES, config.rule), config.estimator)
    window = from_model(bootstrap, value_key, path, real_row(first, gamma), gamma, settings, trusted)
    return _Imagination(path, window)


def _imagine_members(
    config: CriticConfig, gamma: float, model: Model, bootstrap: Bootstrap, key: Array, real: tuple[Transition, PyTree]
) -> ReturnInputs:
    """Let every member of the model follow the policy by itself; returns windows of J samples, [H + 1, J, B].

    J = N, or for a rule that reads their spread N dynamics x N rewards x C critics (with critic_agg `mean`; another
    aggregate makes one of the critics). All share one key, so that samples differ by what the members believe and not by the
    noise of the policy. member_agg `min` takes the smallest T_h over the members; the critics remain samples.
    """
    rule, (first, params) = load(RULES, config.rule), real
    spread = rule.reads_spread
    by_head = spread and config.critic_agg == "mean"
    rewards = model.members if spread and model.opinions is not None else 1
    num_heads = jax.eval_shape(bootstrap.heads, first.obs, first.action).shape[0] if by_head else 1

    def of_member(member: Array) -> ReturnInputs:
        """Roll one member out; with `spread` judge its path by every member's rewards and every critic."""
        own = model.pick(params, member)
        path, window = _imagine(config, gamma, model, bootstrap, key, (first, own))
        if not spread:
            return jax.tree.map(lambda x: x[None, None], window)
        value_key = jax.random.split(key, 3)[2]
        believed = path.reward[None]
        if model.opinions is not None:
            ended = jnp.cumsum(path.terminated, axis=0) - path.terminated
            believed = jnp.where(ended == 0, model.opinions(params, path.obs[:-1], path.action).reward, 0.0)

        def sample(reward: Array, k: Array) -> ReturnInputs:
            boot = one_critic(bootstrap, k) if by_head else bootstrap
            own_path = path._replace(reward=reward)
            made = from_model(boot, value_key, own_path, real_row(first, gamma), gamma, (rule, config.estimator))
            return made._replace(continues=window.continues)

        over_heads = jax.vmap(sample, in_axes=(None, 0))
        return jax.vmap(over_heads, in_axes=(0, None))(believed, jnp.arange(num_heads))

    windows = jax.vmap(of_member)(jnp.arange(model.members))  # leaves [N, rewards, heads, T, B]
    shape = (model.members * rewards, num_heads)
    windows = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(*shape, *x.shape[3:]), 2, 0), windows
    )  # [T, members, heads, B]
    if config.member_agg == "min":
        flat = jax.tree.map(lambda x: x.reshape(x.shape[0], -1, x.shape[-1]), windows)
        returns = horizon_returns(flat).reshape(-1, *shape, first.reward.shape[0])
        return window_of(jnp.min(returns, axis=1), jnp.min(windows.continues, axis=1))
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, x.shape[-1]), windows)


def _imagined_rows(config: CriticConfig, bootstrap: Bootstrap, first: Transition, seen: _Imagination) -> CriticRows:
    """Return the real row and the H imagined ones with their targets (the TD-k trick), flattened to (H + 1) B.

    Row u is the pair (s_u, a_u) with the target that the rule makes of T_{u,u} .. T_{u,H}; its own bonus is no part of
    Q(s_u, a_u). It weighs as much as it is likely to be reached: 0 after a termination or where the model is not trusted.
    Source: Feinberg et al. 2018, equation of the TD-k trick; for other rules the release of Buckman et al. 2018.
    """
    rule, horizon, (path, window) = load(RULES, config.rule), config.horizon, seen
    if config.estimator == "plain":  # as the first row of a window, a step carries no bonus
        own = jnp.concatenate([jnp.zeros_like(first.reward)[None], bootstrap.bonus(path.log_prob)])
    else:
        own = jnp.zeros_like(window.reward)
    if rule.reads_returns:  # every start chooses among its own horizons
        parts = [jax.tree.map(lambda x, u=u: x[u:], window) for u in range(horizon + 1)]
        targets = jnp.stack([rule.fold(part, horizon - u, config.lam) for u, part in enumerate(parts)])
    else:
        targets = window_returns(window, rule.trace(window, horizon, config.lam))
    alive = jnp.concatenate([~first.terminated[None], ~path.terminated[:-1]])
    weight = jnp.cumprod(alive * window.continues[:-1], axis=0)
    rows = CriticRows(
        obs=jnp.concatenate([first.obs[None], path.obs[:-1]]),
        action=jnp.concatenate([first.action[None], path.action]),
        target=targets - own,
        weight=jnp.concatenate([jnp.ones_like(weight[:1]), weight]),
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)


def make_critic_rows(config: CriticConfig, gamma: float, model: Model | None) -> Callable:
    """Build (bootstrap, key, batch [T, B], model_params) -> CriticRows: where the critic is regressed, and on what.

    With source `model` P rollouts start at batch.next_obs[0] and are averaged BEFORE the squared error. The order is fixed:
    critics (critic_agg), members (member_agg), horizons (rule), particles, then clipping to [target_min, target_max].
    """
    rule = load(RULES, config.rule)
    settings = (rule, config.estimator)
    says = rule.reads_returns or config.max_disagreement is not None  # how far it looked differs from row to row

    def finish(rows: CriticRows) -> CriticRows:
        clipped = rows._replace(target=jnp.clip(rows.target, config.target_min, config.target_max))
        return jax.lax.stop_gradient(clipped if (config.target_min, config.target_max) != (None, None) else rows)

    def rows(bootstrap: Bootstrap, key: Array, batch: Transition, model_params: PyTree) -> CriticRows:
        """Return the rows that the critic is regressed on: the stored ones, or with td_k the imagined ones too."""
        chex.assert_rank([batch.reward, batch.terminated], 2)
        bootstrap = with_critic_agg(bootstrap, config.critic_agg)
        first = jax.tree.map(lambda x: x[0], batch)
        if config.source == "replay" or config.horizon == 0:
            window = from_replay(bootstrap, key, batch, gamma, settings)
            return finish(CriticRows(first.obs, first.action, rule.fold(window, config.horizon, config.lam)))
        assert model is not None  # make_expansion refuses a rollout without a model
        if config.td_k:
            seen = _imagine(config, gamma, model, bootstrap, key, (first, model_params))
            made = _imagined_rows(config, bootstrap, first, seen)
            trace = rule.trace(seen.window, config.horizon, config.lam)
            target = made.target[: len(first.reward)]
            return finish(made._replace(metrics=horizon_metrics(seen.window, trace, target) if says else ()))

        def particle(key: Array) -> tuple[Array, dict]:
            assert model is not None
            if config.member_agg == "sample":
                window = _imagine(config, gamma, model, bootstrap, key, (first, model_params)).window
            else:
                window = _imagine_members(config, gamma, model, bootstrap, key, (first, model_params))
            trace = rule.trace(window, config.horizon, config.lam)
            target = first_target(window, trace)
            return target, horizon_metrics(window, trace, target) if says else {}

        target, metrics = over_particles(particle, key, config.particles)
        return finish(CriticRows(first.obs, first.action, target, metrics=metrics or ()))

    return rows


def make_critic_target(config: CriticConfig, gamma: float, model: Model | None) -> Callable:
    """Build (bootstrap, key, batch [T, B], model_params) -> the targets of `make_critic_rows`, [B]."""
    rows = make_critic_rows(config, gamma, model)
    return lambda bootstrap, key, batch, model_params: rows(bootstrap, key, batch, model_params).target


def make_expansion(critic: CriticConfig, actor: ActorConfig, gamma: float, model: Model | None) -> Expansion:
    """Build the pair that an agent is made with.

    Raises ValueError if a rollout is asked for without a model, or through a model without gradients.
    """
    if model is None and ((critic.source == "model" and critic.horizon > 0) or actor.horizon > 0):
        raise ValueError("model.name: a rollout needs a dynamics model")
    if actor.horizon > 0 and model is not None and not model.differentiable:
        raise ValueError(
            "actor.horizon: gradients do not flow through this backend; use --env.backend spring or positional"
        )
    window = critic.horizon + 1 if critic.source == "replay" else 1
    segments = actor.gradient == "dr" and actor.horizon > 0
    start_rows = actor.horizon + 1 if segments else 1 if actor.starts != "replay" else 0
    gradient, each = make_actor_gradient(actor, gamma, model)
    free = model_free(actor, gamma, segments)
    return Expansion(
        make_critic_rows(critic, gamma, model),
        gradient,
        free,
        each,
        window,
        start_rows,
        actor.closing == "target_critic",
    )
