"""A dynamics model held to real steps: its values are the data's, its derivatives are its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.types import Array, Model, PyTree, StepOut, Transition


class Held(NamedTuple):
    """Where a held model stands."""

    step: Array  # [B] int32, rows of the segment that lie behind
    obs: Array  # [B, obs_dim]
    inner: PyTree  # state of the model itself


def along_segment(model: Model, segment: Transition) -> Model:
    """Return the model whose next observations and rewards are those of a real segment, leaves [T, B, ...].

        s_{i+1} = m(s_i, a_i) + S(s_i, a_i) sg[xi_i],   xi_i = (s_{i+1} - m) / S     S = 0: m + sg[s_{i+1} - m]
        r_i     = r(s_i, a_i) + sg[r_i - r(s_i, a_i)]

    Derivatives are those of the model at the real states, with the noises xi that the data imply held constant; of an ensemble
    every row follows a member of its own at every step. A simulator (no opinions) is stepped by itself from the first state,
    so it must be deterministic. Terminations are the data's. Source: Heess et al. 2015 (SVG); RP-DR of arXiv 2310.19927.
    """

    def start(params: PyTree, key: Array, obs: Array, sim_state: PyTree) -> Held:
        return Held(jnp.zeros(obs.shape[0], jnp.int32), obs, model.start(params, key, obs, sim_state))

    def step(params: PyTree, key: Array, state: Held, action: Array) -> tuple[Held, StepOut]:
        """Step the model where the data are, and move the outcome to the data."""
        row = jax.tree.map(lambda x: x[state.step, jnp.arange(x.shape[1])], segment)
        inner = state.inner
        if model.opinions is None:
            inner, out = model.step(params, key, state.inner, action)
            obs, reward = held(out.obs, row.next_obs), held(out.reward, row.reward)
        else:
            said = model.opinions(params, state.obs, action)
            member = jax.random.randint(key, action.shape[:1], 0, said.obs.shape[0])
            mean, reward, std, _ = jax.tree.map(lambda x: x[member, jnp.arange(x.shape[1])], said)
            noise = (row.next_obs - mean) / jnp.where(std > 0.0, std, 1.0)
            obs, reward = held(mean + std * jax.lax.stop_gradient(noise), row.next_obs), held(reward, row.reward)
        after = Held(jnp.minimum(state.step + 1, segment.reward.shape[0] - 1), obs, inner)
        return after, StepOut(obs, reward, row.terminated)

    return model._replace(start=start, step=step)


def held(value: Array, data: Array) -> Array:
    """Return `data` with the derivatives of `value`."""
    return value + jax.lax.stop_gradient(data - value)
