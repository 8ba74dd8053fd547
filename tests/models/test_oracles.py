"""Every model of the table under one contract, and the oracle whose error is a dial."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid_world import make_grid_world
from linear_system import ring_of

from valex.distributions import random_action
from valex.envs.base import make_env
from valex.models.oracle import make_noisy_oracle, make_oracle, typical_change
from valex.settings import EnvConfig, ModelConfig
from valex.tables import ENVS, MODELS, load
from valex.types import Transition

SETTINGS = {
    "oracle": ModelConfig(),
    "noisy_oracle": ModelConfig("noisy_oracle", noise=0.1, bias=0.05),
    "ensemble": ModelConfig("ensemble", hidden=(8,), num_models=3, pretrain_steps=2, batch_size=8),
    "grid": ModelConfig("grid", hidden=(8,), num_models=3, pretrain_steps=2, batch_size=8, termination="learned"),
}
SUITS = {name: ("pendulum", "cartpole") for name in MODELS} | {
    "oracle": ("pendulum", "cartpole", "grid_world"),
    "grid": ("grid_world",),
}
NATIVE = ("pendulum", "cartpole", "ball")


def collected(env, count: int = 16) -> tuple[Transition, object]:
    """One random step of `count` environments, and where they began."""
    keys = jax.random.split(jax.random.key(1), count)
    state = jax.vmap(env.reset)(keys)
    action = random_action(jax.random.key(2), env.spec, (count,)).action
    after, out = jax.vmap(env.step)(keys, state, action)
    sim = [jax.vmap(env.sim_state)(s) for s in (state, after)]
    rows = (jax.vmap(env.obs)(state), action, out.reward, out.obs, out.terminated, jnp.zeros(count, bool))
    return Transition(*rows, sim_state=sim[0], next_sim_state=sim[1]), state


def test_every_model_is_here():
    assert set(SETTINGS) == set(MODELS)


@pytest.mark.parametrize(("name", "env_name"), [(name, env) for name in MODELS for env in SUITS[name]])
def test_contract(name, env_name):
    """init, observe, update, start and step in one compiled program; a finite gradient through three steps."""
    env = make_grid_world() if env_name == "grid_world" else make_env(EnvConfig(env_name))
    model = load(MODELS, name)(env, SETTINGS[name])
    seen, _ = collected(env)
    ring = ring_of(seen._replace(sim_state=(), next_sim_state=()))

    @jax.jit
    def total(scale):
        params = model.observe(model.init(jax.random.key(0)), seen)
        params, metrics = model.update(params, jax.random.key(1), ring)
        state = model.start(params, jax.random.key(2), seen.obs, seen.sim_state)
        for k in range(3):
            action = scale * seen.action if env.spec.act_dim else seen.action
            state, out = model.step(params, jax.random.key(k), state, action)
        return jnp.mean(out.obs) + jnp.mean(out.reward), (out, metrics)

    if model.differentiable:
        (value, (out, metrics)), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(0.5)
        assert np.isfinite(slope) and slope != 0.0
    else:
        value, (out, metrics) = total(0.5)
    assert out.obs.shape == (16, env.spec.obs_dim) and out.reward.shape == out.terminated.shape == (16,)
    assert out.terminated.dtype == bool and out.obs.dtype == seen.obs.dtype
    assert np.isfinite(value)
    assert all(np.isfinite(x) for x in metrics.values())
    params = model.init(jax.random.key(0))
    assert jax.tree.structure(model.pick(params, 0)) == jax.tree.structure(params)
    if model.opinions is not None:
        said = model.opinions(params, seen.obs[None], seen.action[None])
        assert said.obs.shape == (model.members, 1, 16, env.spec.obs_dim) == said.obs_std.shape
        assert said.reward.shape == (model.members, 1, 16) == said.reward_std.shape


@pytest.mark.parametrize("env_name", NATIVE)
def test_a_dial_at_zero_is_the_oracle(env_name):
    env = make_env(EnvConfig(env_name))
    exact, dialled = make_oracle(env), make_noisy_oracle(env, ModelConfig("noisy_oracle"))
    seen, state = collected(env)
    for model in (exact, dialled):
        params = model.init(jax.random.key(0))
        _, out = model.step(params, jax.random.key(3), model.start(params, None, seen.obs, seen.sim_state), seen.action)
        np.testing.assert_allclose(out.obs, seen.next_obs, atol=1e-6)
        np.testing.assert_allclose(out.reward, seen.reward, atol=1e-6)


@pytest.mark.parametrize("env_name", NATIVE)
@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_noise_is_as_large_as_asked_in_typical_changes(env_name, noise):
    env = make_env(EnvConfig(env_name))
    model = make_noisy_oracle(env, ModelConfig("noisy_oracle", noise=noise))
    params, (seen, state) = model.init(jax.random.key(0)), collected(env, 4000)
    after, _ = jax.jit(model.step)(params, jax.random.key(3), state, seen.action)
    error = jax.tree.map(lambda a, b: jnp.std(a - b, axis=0), jax.vmap(env.sim_state)(after), seen.next_sim_state)
    jax.tree.map(lambda e, u: np.testing.assert_allclose(e, noise * u, rtol=0.06, atol=1e-7), error, params.unit)
    measured = typical_change(env, jax.random.key(9))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.25, atol=1e-7), params.unit, measured)


def test_bias_is_the_same_at_every_step_and_of_one_size():
    env = make_env(EnvConfig("ball"))
    model = make_noisy_oracle(env, ModelConfig("noisy_oracle", bias=0.2))
    params, (seen, state) = model.init(jax.random.key(4)), collected(env)
    shift = []
    for key in (3, 5):
        after, _ = model.step(params, jax.random.key(key), state, seen.action)
        shift.append(jax.tree.map(jnp.subtract, jax.vmap(env.sim_state)(after), seen.next_sim_state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *shift)
    jax.tree.map(
        lambda s, u: np.testing.assert_allclose(np.abs(s), np.broadcast_to(0.2 * u, s.shape), atol=1e-5),
        shift[0],
        params.unit,
    )
    signs = {float(np.sign(x)) for leaf in jax.tree.leaves(params.direction) for x in np.ravel(leaf)}
    assert signs == {-1.0, 1.0}


BRAX = [n for n, e in ENVS.items() if e.extra == "brax"]  # compiled in half a minute to a minute each


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.learning) for n in BRAX])
def test_a_noisy_brax_oracle_stays_finite(name):
    """Errors are added to positions and velocities of the links; quaternions are brought back to length 1."""
    pytest.importorskip("brax", reason="needs valex[brax]")
    env = make_env(EnvConfig(name))
    model = make_noisy_oracle(env, ModelConfig("noisy_oracle", noise=0.1))
    seen, state = collected(env, 4)

    @jax.jit
    def follow(key):
        params = model.init(key)
        state = model.start(params, key, seen.obs, seen.sim_state)
        for k in range(3):
            state, out = model.step(params, jax.random.fold_in(key, k), state, seen.action)
        return out, jax.vmap(env.sim_state)(state)

    out, sim = follow(jax.random.key(0))
    assert np.all(np.isfinite(out.obs)) and np.all(np.isfinite(out.reward))
    np.testing.assert_allclose(jnp.linalg.norm(sim.rotation, axis=-1), 1.0, atol=1e-3)


def test_a_grid_of_flags_takes_no_noise():
    env = make_env(EnvConfig("pendulum"))
    with pytest.raises(ValueError, match="^model.name: noisy_oracle adds small errors .*; set model.name oracle$"):
        make_noisy_oracle(env._replace(spec=env.spec._replace(grid=(1, 1, 3))), SETTINGS["noisy_oracle"])


def test_an_oracle_without_settings_is_an_oracle():
    env = make_env(EnvConfig("pendulum"))
    assert make_oracle(env).members == 1 and make_oracle(env, replace(ModelConfig(), num_models=3)).members == 1
