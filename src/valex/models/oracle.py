"""The oracle: the environment itself, restarted from a stored simulator state; and one whose error is a dial.

An oracle has nothing to learn: `init` and `update` are empty. It fits where the simulator is at hand, and removes model error
from a study of value expansion altogether (2412.20537). `noisy_oracle` puts back as much error as is asked for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.distributions import random_action
from valex.settings import ModelConfig
from valex.types import Array, Env, Model, PyTree, StepOut

CALIBRATION_ENVS, CALIBRATION_STEPS = 64, 64  # environments and uniformly random control steps that set the dial's unit


def make_oracle(env: Env, config: ModelConfig | None = None) -> Model:
    """Wrap `env` as a batched dynamics model; gradients flow where `env.spec.differentiable` says so.

    `config` is not read: an oracle has no settings.
    """
    del config

    def init(key):
        del key
        return ()

    def start(params, key, obs, sim_state):
        del params, key, obs
        return jax.vmap(env.restart)(sim_state)

    def step(params, key, model_state, action) -> tuple[object, StepOut]:
        del params
        keys = jax.random.split(key, action.shape[0])
        return jax.vmap(env.step)(keys, model_state, action)

    def update(params, key, replay):
        del key, replay
        return params, {}

    return Model(init, start, step, update, needs_sim_state=True, differentiable=env.spec.differentiable)


class Dial(NamedTuple):
    """What the error of a noisy oracle is made of; trees shaped like the simulator state."""

    unit: PyTree  # standard deviation of its one-step change under uniformly random actions, from the reset on
    direction: PyTree  # -1 or 1, drawn once per run


def typical_change(env: Env, key: Array) -> PyTree:
    """Return the standard deviation of the one-step change of every number of the simulator state, random actions."""
    reset_key, walk_key = jax.random.split(key)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, CALIBRATION_ENVS))

    def step(state, key):
        act_key, env_key = jax.random.split(key)
        action = random_action(act_key, env.spec, (CALIBRATION_ENVS,)).action
        after, _ = jax.vmap(env.step)(jax.random.split(env_key, CALIBRATION_ENVS), state, action)
        change = jax.tree.map(jnp.subtract, *(jax.vmap(env.sim_state)(s) for s in (after, state)))
        return after, change

    _, changes = jax.lax.scan(step, state, jax.random.split(walk_key, CALIBRATION_STEPS))
    return jax.tree.map(lambda x: jnp.std(x, axis=(0, 1)), changes)


def make_noisy_oracle(env: Env, config: ModelConfig) -> Model:
    """Wrap `env` as an oracle that is wrong by a known amount at every step.

        x' = step(x, a) + u (noise xi + bias d),   xi ~ N(0, 1) afresh,   d in {-1, 1} drawn once per run

    in every coordinate of the simulator state x, u the standard deviation of its one-step change. So `noise` 1 makes an error
    as large as a typical step, and errors compound as a model's do. The reward is that of the step without the error, the
    termination is judged after it. Both 0 is the oracle. Bias and noise are in one unit, so curves can be laid side by side.
    """
    if env.spec.grid:
        raise ValueError(
            f"model.name: noisy_oracle adds real numbers to the state, {env.spec.name} has flags; set model.name oracle"
        )
    oracle = make_oracle(env)

    def init(key: Array) -> Dial:
        unit_key, sign_key = jax.random.split(key)
        unit = typical_change(env, unit_key)
        leaves, tree = jax.tree.flatten(unit)
        keys = jax.random.split(sign_key, len(leaves))
        signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        return Dial(unit, jax.tree.unflatten(tree, signs))

    def step(params: Dial, key: Array, model_state: PyTree, action: Array) -> tuple[PyTree, StepOut]:
        """Step the simulator, then move its state by noise and bias to the nearest state that can go on."""
        step_key, noise_key = jax.random.split(key)
        before = jax.vmap(env.obs)(model_state)
        after, out = oracle.step((), step_key, model_state, action)
        leaves, tree = jax.tree.flatten(jax.vmap(env.sim_state)(after))
        keys = jax.random.split(noise_key, len(leaves))
        errors = [
            x + unit * (config.noise * jax.random.normal(k, x.shape) + config.bias * sign)
            for k, x, unit, sign in zip(keys, leaves, *map(jax.tree.leaves, params), strict=True)
        ]
        after = jax.vmap(lambda x: env.restart(env.project(x)))(jax.tree.unflatten(tree, errors))
        obs = jax.vmap(env.obs)(after)
        ended = out.terminated if env.terminated is None else jax.vmap(env.terminated)(before, action, obs)
        return after, StepOut(obs, out.reward, ended)

    return oracle._replace(init=init, step=step)
