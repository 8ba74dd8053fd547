"""What actor-critic agents have in common: the critic's loss, the minimum over critics, one optimiser step."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax

from valex import normalize
from valex.losses import gradient_norm, gradient_param_std, td_loss
from valex.networks import Network
from valex.settings import LearnerConfig
from valex.types import Array, CriticRows, EnvSpec, PyTree, Transition


def need_continuous(spec: EnvSpec, name: str) -> None:
    """Raise ValueError if the actions of `spec` are discrete."""
    if spec.num_actions:
        raise ValueError(
            f"agent.name: {name} needs continuous actions, {spec.name} has {spec.num_actions} discrete ones; take ddqn"
        )


def first_rows(batch: Transition) -> Transition:
    """Return the first step of stored sequences, leaves [T, B, ...] to [B, ...]."""
    return jax.tree.map(lambda x: x[0], batch)


def normalizer(config: LearnerConfig, spec: EnvSpec, stats: normalize.RunningStats) -> Callable:
    """Return (obs) -> what the networks read: normalised by running statistics, or as it is."""
    return (lambda obs: normalize.normalize(stats, obs)) if reads_statistics(config, spec) else (lambda obs: obs)


def reads_statistics(config: LearnerConfig, spec: EnvSpec) -> bool:
    """Return whether running statistics of the observations are kept; a grid of flags needs none."""
    return config.normalize_obs and not spec.grid


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


def critic_metrics(loss: Array, mean: Array, grads: PyTree) -> dict[str, Array]:
    """Return what every agent logs of its critics."""
    return {"critic/loss": loss, "critic/q_mean": mean, "critic/grad_norm": gradient_norm(grads)}


def actor_metrics(loss: Array, grads: PyTree) -> dict[str, Array]:
    """Return what every agent with an actor logs of it."""
    return {
        "actor/loss": loss,
        "actor/grad_norm": gradient_norm(grads),
        "actor/grad_param_std": gradient_param_std(grads),
    }
