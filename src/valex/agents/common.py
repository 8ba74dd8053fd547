"""What agents have in common: how they see observations, the critics' step, the actor's starts, the minimum over critics."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import normalize
from valex.expansion import Expansion
from valex.losses import gradient_norm, gradient_param_std, td_loss
from valex.networks import Network
from valex.settings import DDQNConfig, LearnerConfig
from valex.targets import target_metrics
from valex.types import ActorSide, Array, CriticRows, EnvSpec, PyTree, Transition


def need_actions(spec: EnvSpec, config: LearnerConfig) -> None:
    """Raise ValueError if the actions of `spec` are not of the kind that the learner takes."""
    if spec.num_actions and not isinstance(config, DDQNConfig):
        raise ValueError(
            f"agent.name: {config.name} needs continuous actions, {spec.name} has {spec.num_actions} discrete ones; take a "
            "preset of ddqn, or model-grid for a model alone"
        )
    if not spec.num_actions and isinstance(config, DDQNConfig):
        raise ValueError(f"agent.name: ddqn needs discrete actions, those of {spec.name} are continuous; take sac")


def first_rows(batch: Transition) -> Transition:
    """Return the first step of stored sequences, leaves [T, B, ...] to [B, ...]."""
    return jax.tree.map(lambda x: x[0], batch)


class Observations(NamedTuple):
    """How an agent looks at observations; its state has a field `normalizer`."""

    init: Callable  # () -> RunningStats
    norm: Callable  # (state) -> (obs) -> what the networks read
    observe: Callable  # (state, obs) -> state


def make_observations(config: LearnerConfig, spec: EnvSpec) -> Observations:
    """Build what normalises observations by running statistics, or leaves them: where it is off, and on a grid of flags."""
    if not config.normalize_obs or spec.grid:
        return Observations(lambda: normalize.init(0), lambda state: lambda obs: obs, lambda state, obs: state)
    return Observations(
        lambda: normalize.init(spec.obs_dim),
        lambda state: lambda obs: normalize.normalize(state.normalizer, obs),
        lambda state, obs: state._replace(normalizer=normalize.update(state.normalizer, obs)),
    )


def smallest(heads: Array) -> Array:
    """Return the minimum over critics [C, ...], head by head: a minimum over an axis joins what two cores could compute apart."""
    return reduce(jnp.minimum, list(heads))


def critic_loss(critic: PyTree, q: Network, rows: CriticRows) -> tuple[Array, Array]:
    """Return (loss, mean Q) on rows whose targets arrive ready made; their observations are normalised."""
    values = q.apply(critic, rows.obs, rows.action)
    return td_loss(values, rows.target, rows.weight), jnp.mean(values)


def descend(tx: optax.GradientTransformation, grads: PyTree, opt: optax.OptState, params: PyTree) -> tuple[Any, Any]:
    """Return (params, opt) after one optimiser step."""
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt


def critic_step(
    tx: optax.GradientTransformation, q: Network, critic: PyTree, opt: optax.OptState, rows: CriticRows
) -> tuple[PyTree, optax.OptState, dict[str, Array]]:
    """Take one gradient step of the critics on rows; return (critic, opt, metrics of targets and critics)."""
    (loss, mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(critic, q, rows)
    metrics = target_metrics(rows.target) | dict(rows.metrics)
    metrics |= {"critic/loss": loss, "critic/q_mean": mean, "critic/grad_norm": gradient_norm(grads)}
    return *descend(tx, grads, opt, critic), metrics


def actor_starts(expansion: Expansion, batch: Transition, starts: Transition | None) -> Transition:
    """Return where the actor's rollouts start: rows [B, ...] of `starts`, or of the critic's batch; segments as they are."""
    rows = batch if starts is None else starts
    return rows if expansion.start_rows > 1 else first_rows(rows)


def make_actor_side(view: Callable, expansion: Expansion, actor_of: Callable) -> ActorSide:
    """Build what an agent with an actor offers of its gradient; view: (state, actor) -> Bootstrap, actor_of: (state) -> actor."""

    def grads(state: Any, key: Array, batch: Transition, model_params: PyTree) -> PyTree:
        """Return the gradient at the actor of a state."""
        starts = actor_starts(expansion, batch, None)
        return expansion.actor_gradient(partial(view, state), actor_of(state), key, starts, model_params)[0]

    def each(state: Any, key: Array, batch: Transition, model_params: PyTree) -> PyTree:
        """Return the gradient of every sample at the actor of a state, leaves [B, ...]."""
        starts, keys = actor_starts(expansion, batch, None), jax.random.split(key, batch.reward.shape[1])
        return expansion.actor_grads(partial(view, state), actor_of(state), keys, starts, model_params)

    return ActorSide(actor_of, view, grads, each)


def actor_metrics(loss: Array, grads: PyTree) -> dict[str, Array]:
    """Return what every agent with an actor logs of it."""
    return {
        "actor/loss": loss,
        "actor/grad_norm": gradient_norm(grads),
        "actor/grad_param_std": gradient_param_std(grads),
    }
