"""What is particular to Brax: silence, a missing installation, exact oracle state, gradients."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import valex
from valex.envs.base import Choices, make_env
from valex.envs.brax import BACKENDS, JOINTS, TERMINATED, load_brax, make_brax_env
from valex.settings import EnvConfig
from valex.tables import ENVS

NAMES = [name for name, entry in ENVS.items() if entry.extra == "brax"]
MISSING = importlib.util.find_spec("brax") is None
needs_brax = pytest.mark.skipif(MISSING, reason="needs Brax: pip install 'valex[brax]'")


def test_without_brax_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(ValueError) as error:
        make_env(EnvConfig(name="hopper"))
    assert str(error.value) == "env.name: hopper needs Brax: pip install 'valex[brax]'"


@needs_brax
def test_loading_says_nothing_and_writes_nothing(tmp_path):
    """All four tasks and a step of the talkative backend, in a process of its own."""
    script = f"""
import jax, jax.numpy as jnp
from valex.envs.base import Choices, make_env
from valex.settings import EnvConfig
for name in {NAMES!r}:
    for backend in ("spring", "mjx"):
        env = make_env(EnvConfig(name=name, backend=backend))
state = jax.eval_shape(env.reset, jax.random.key(0))
jax.eval_shape(env.step, jax.random.key(0), state, jnp.zeros(env.spec.act_dim))
"""
    source = str(Path(valex.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@needs_brax
def test_tasks_are_the_registered_ones():
    assert set(TERMINATED) == set(NAMES)


@needs_brax
@pytest.mark.parametrize(
    ("name", "obs_dim", "act_dim", "dt"),
    [
        ("inverted_pendulum", 4, 1, 0.02),
        ("inverted_double_pendulum", 8, 1, 0.02),
        ("ant", 27, 8, 0.05),
        ("hopper", 11, 3, 0.008),
        ("walker2d", 17, 6, 0.008),
        ("halfcheetah", 17, 6, 0.05),
    ],
)
def test_defaults(name, obs_dim, act_dim, dt):
    spec = make_env(EnvConfig(name=name)).spec
    assert (spec.obs_dim, spec.act_dim, spec.num_actions, spec.dt) == (obs_dim, act_dim, 0, pytest.approx(dt))
    assert (spec.backend, spec.episode_length, spec.action_repeat, spec.differentiable) == ("spring", 1000, 1, True)


@needs_brax
def test_only_backends_with_right_gradients_say_so():
    right = {b for b in BACKENDS if make_brax_env(EnvConfig(name="inverted_pendulum", backend=b)).spec.differentiable}
    assert right == {"spring", "positional", "generalized"}


@pytest.mark.parametrize(
    ("name", "next_obs", "ends"),
    [
        ("inverted_pendulum", [0.9, 0.2, 0, 0], False),
        ("inverted_pendulum", [0.0, -0.21, 0, 0], True),
        ("hopper", [0.71, 0.19] + [0] * 9, False),
        ("hopper", [0.7, 0.0] + [0] * 9, True),
        ("hopper", [1.2, -0.2] + [0] * 9, True),
        ("hopper", [1.2, 0.0, 0, 101.0] + [0] * 7, True),
        ("hopper", [float("nan"), 0.0] + [0] * 9, True),
        ("walker2d", [0.81, -0.99] + [0] * 15, False),
        ("walker2d", [0.79, 0.0] + [0] * 15, True),
        ("walker2d", [2.01, 0.0] + [0] * 15, True),
        ("walker2d", [1.2, 1.01] + [0] * 15, True),
        ("halfcheetah", [9.0] * 17, False),
        ("inverted_double_pendulum", [0, 0, 0, 1, 1, 0, 0, 0], False),  # upright, tip at 1.2 m
        ("inverted_double_pendulum", [0, 0.6, 0, 0.8, 1, 0, 0, 0], True),  # both poles at 37 degrees, tip at 0.96 m
        ("inverted_double_pendulum", [0, 0.6, -0.6, 0.8, 0.8, 0, 0, 0], False),  # the upper one straight, 1.08 m
        ("ant", [0.2] + [9.0] * 26, False),
        ("ant", [0.19] + [0.0] * 26, True),
        ("ant", [1.01] + [0.0] * 26, True),
    ],
)
def test_known_termination_at_its_borders(name, next_obs, ends):
    next_obs = jnp.asarray(next_obs, jnp.float32)
    assert bool(TERMINATED[name](jnp.zeros_like(next_obs), jnp.zeros(1), next_obs)) == ends


@needs_brax
@pytest.mark.skipif(os.environ.get("VALEX_ALL_BACKENDS") != "1", reason="costs a compilation: VALEX_ALL_BACKENDS=1")
def test_joint_coordinates_alone_do_not_restart_spring():
    """Why links are stored: the check of `test_restart_replays_the_step` would notice."""
    env = make_env(EnvConfig(name="inverted_pendulum"))
    pipeline = load_brax(Choices("inverted_pendulum", "spring", 1, 1000))

    @jax.jit
    def compare(state, action):
        by_joints = pipeline.pipeline_init(state.q, state.qd)
        by_links = env.restart(env.sim_state(state))
        states = jax.tree.map(lambda *x: jnp.stack(x), state, by_joints, by_links)
        states, out = jax.vmap(env.step, (None, 0, None))(jax.random.key(0), states, action)
        return jax.tree.map(lambda x: x[0], states), out.obs

    state, action = jax.jit(env.reset)(jax.random.key(0)), jnp.ones(1)
    for _ in range(4):
        state, obs = compare(state, action)
    truth, by_joints, by_links = np.asarray(obs)
    assert np.abs(by_links - truth).max() < 1e-6 < 1e-2 < np.abs(by_joints - truth).max()


@needs_brax
def test_gradient_on_spring_is_finite_and_right():
    """d (weighted next obs) / d action of inverted_pendulum against a central difference, in single precision."""
    env = make_env(EnvConfig(name="inverted_pendulum"))
    start = jax.jit(env.reset)(jax.random.key(3))

    @jax.jit
    @jax.value_and_grad
    def value_and_slope(action):
        _, out = env.step(jax.random.key(0), start, action[None])
        return jnp.sum(out.obs * jnp.array([1.0, 2.0, 0.5, 0.5]))

    for action in (-0.5, 0.0, 0.7):
        up, down = (value_and_slope(jnp.float32(action + shift))[0] for shift in (0.05, -0.05))
        slope = float(value_and_slope(jnp.float32(action))[1])
        assert abs(slope) > 1e-2
        assert slope == pytest.approx(float(up - down) / 0.1, rel=0.01)


@needs_brax
@pytest.mark.parametrize("name", JOINTS)
def test_the_simulator_can_be_set_to_an_observation(name):
    """On generalized, while the episode lasts: the state that an obs tells shows that obs, and steps as the true one does."""
    env = make_env(EnvConfig(name=name, backend="generalized"))
    assert env.invert is not None and make_env(EnvConfig(name=name)).invert is None  # spring: links, not joints

    @jax.jit
    def walk(state, key):
        def body(carry, key):
            state, alive = carry
            action = jax.random.uniform(key, (env.spec.act_dim,), minval=-1.0)
            told = env.invert(env.obs(state))
            both = jax.tree.map(lambda *pair: jnp.stack(pair), state, told)
            both, out = jax.vmap(env.step, (None, 0, None))(key, both, action)
            row = jnp.abs(env.obs(told) - env.obs(state)), jnp.abs(out.obs[0] - out.obs[1]), alive
            return (jax.tree.map(lambda x: x[0], both), alive & ~out.terminated[0]), row

        return jax.lax.scan(body, (state, jnp.ones((), bool)), jax.random.split(key, 40))[1]

    shown, stepped, alive = walk(jax.jit(env.reset)(jax.random.key(0)), jax.random.key(1))
    assert int(alive.sum()) >= 5
    assert float(shown[alive].max()) < 1e-5 and float(stepped[alive].max()) < 1e-4


@needs_brax
def test_what_carries_more_than_its_joints_cannot_be_set():
    assert {name for name in NAMES if make_env(EnvConfig(name=name, backend="generalized")).invert} == set(JOINTS)


@needs_brax
def test_where_joints_give_way_the_obs_does_not_tell_where_the_tip_is():
    known = {
        b: make_env(EnvConfig(name="inverted_double_pendulum", backend=b)).terminated is not None for b in BACKENDS
    }
    assert known == {"spring": False, "positional": False, "generalized": True, "mjx": True}
