"""Reparameterisation policy gradient (arXiv 2310.19927, algorithm 1): a soft actor-critic that climbs the value along a model.

    model     by its own loss (`model.*`), whose length does not depend on the horizon
    critic    by temporal difference, or by whatever rule `critic.*` names
    actor     along h = `actor.horizon` model steps: RP-DP (`actor.gradient` dp, eq. 4.1), RP-DR (dr, eq. 4.2), or past it (lr)
    starts    s_0 ~ mu: replay as released, or zeta, nu and their mixture (`actor.starts`)
    policy    its layers normalised by their spectral norm (`agent.spectral`)

It differs from SAC with actor expansion by a warm-up along no model, by a schedule of the target entropy and by spectral
normalisation: with none of them and h = 0 it is SAC, RP(0) in the text. h counts model steps: the release's `horizon` is h + 1.
"""

import jax
import jax.numpy as jnp

from valex.agents.sac import Own, make_soft
from valex.expansion import Expansion
from valex.networks import gaussian_actor
from valex.settings import RPGConfig
from valex.spectral import spectral_norm
from valex.types import Agent, Array, EnvSpec


def target_entropy(config: RPGConfig, updates: Array) -> Array:
    """Return final + (start - final) (1 - updates / entropy_updates)^p, nats for each action dimension; final from there on."""
    start, final = config.target_entropy_per_dim, config.final_target_entropy_per_dim
    final = start if final is None else final
    left = jnp.maximum(1.0 - updates / config.entropy_updates, 0.0)
    return final + (start - final) * left**config.entropy_decay


def make_rpg(config: RPGConfig, spec: EnvSpec, expansion: Expansion) -> Agent:
    """Build RP-PGM for `spec`. Raises ValueError if the actions of `spec` are discrete."""

    def actor_gradient(updates: Array, *at) -> tuple:
        """Return the gradient along the model, or along none before `model_free_updates`."""
        if not config.model_free_updates:
            return expansion.actor_gradient(*at)
        view, *rest = at
        free = lambda *x: expansion.model_free_gradient(view, *x)  # noqa: E731
        along = lambda *x: expansion.actor_gradient(view, *x)  # noqa: E731
        return jax.lax.cond(updates < config.model_free_updates, free, along, *rest)

    own = Own(
        policy=spectral_norm(gaussian_actor(spec.obs_dim, spec.act_dim, config.hidden), config.spectral, "policy"),
        target_entropy=lambda updates: target_entropy(config, updates) * spec.act_dim,
        actor_gradient=actor_gradient,
        counts=True,
    )
    return make_soft(config, spec, expansion, own)
