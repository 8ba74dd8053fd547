"""Statistics of the actor's gradient over samples and over parameter entries."""

import jax
import jax.numpy as jnp

from valex.losses import centred, gradient_norm, gradient_param_std, square_norms
from valex.types import Agent, Array, PyTree, Transition


def per_sample_statistics(
    agent: Agent, state: PyTree, key: Array, starts: Transition, model_params: PyTree
) -> dict[str, Array]:
    """Return statistics of the per-sample actor gradients g_i at `starts`, leaves [T, B, ...], B >= 2, T rows for each start.

    actor_sample_variance   trace of the covariance, sum_p 1/(B-1) sum_i (g_ip - mean_p)^2, over samples with finite g_i
    actor_param_std         std over the parameter entries of the mean gradient (what the release of 2412.20537 plots)
    actor_mean_norm         norm of the mean gradient
    nonfinite_share         share of samples whose gradient has an entry that is not finite
    """
    assert agent.actor is not None  # an agent without an actor has no such statistics
    batch = starts.reward.shape[1]
    grads = agent.actor.sample_grads(state, key, starts, model_params)
    finite = jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(g.reshape(batch, -1)), axis=1) for g in jax.tree.leaves(grads)]), axis=0
    )
    count = jnp.sum(finite)
    mean, deviations = centred(grads, finite)
    squares = jnp.sum(square_norms(deviations))
    return {
        "grad/actor_sample_variance": jnp.where(count > 1, squares / jnp.maximum(count - 1, 1), jnp.nan),
        "grad/actor_param_std": gradient_param_std(mean),
        "grad/actor_mean_norm": gradient_norm(mean),
        "grad/nonfinite_share": jnp.sum(~finite) / batch,
    }
