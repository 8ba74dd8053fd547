"""Pendulum, cart-pole and ball against independent transcriptions in numpy, and their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.envs import classic
from valex.envs.base import make_env
from valex.settings import EnvConfig
from valex.tables import ENVS

NATIVE = [name for name, entry in ENVS.items() if not entry.extra]


def doubles(*values):
    with jax.enable_x64(True):
        return [jnp.array(value, jnp.float64) for value in values]


def rollout(env, state, actions):
    """Return every StepOut of `actions` [T, act_dim] from `state`, in double precision."""
    with jax.enable_x64(True):
        key = jax.random.key(0)
        return jax.device_get(jax.lax.scan(lambda s, a: env.step(key, s, a), state, jnp.asarray(actions))[1])


def test_pendulum_is_gymnasium_s():
    """50 steps of the loop in gymnasium/envs/classic_control/pendulum.py, from a start that turns over."""
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (50, 1))  # beyond the bounds: both clip
    theta, theta_dot, expected = 1.0, 7.9, []
    for action in actions:
        u = np.clip(2.0 * action, -2.0, 2.0)[0]
        normalized = ((theta + np.pi) % (2 * np.pi)) - np.pi
        costs = normalized**2 + 0.1 * theta_dot**2 + 0.001 * (u**2)
        theta_dot = theta_dot + (3 * 10.0 / (2 * 1.0) * np.sin(theta) + 3.0 / (1.0 * 1.0**2) * u) * 0.05
        theta_dot = np.clip(theta_dot, -8, 8)
        theta = theta + theta_dot * 0.05
        expected.append([np.cos(theta), np.sin(theta), theta_dot, -costs])
    out = rollout(make_env(EnvConfig(name="pendulum")), classic.PendulumState(*doubles(1.0, 7.9)), actions)
    np.testing.assert_allclose(np.column_stack([out.obs, out.reward]), expected, atol=1e-9)
    assert theta > 2 * np.pi and np.abs(np.array(expected)[:, 2]).max() == 8.0, "the start was to test wrap and clip"


def test_pendulum_starts_anywhere():
    states = jax.vmap(make_env(EnvConfig(name="pendulum")).reset)(jax.random.split(jax.random.key(0), 4000))
    for values, bound in ((states.theta, math.pi), (states.theta_dot, 1.0)):
        assert np.abs(values).max() <= bound and np.std(values) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_angle_wraps_with_slope_one():
    theta = jnp.array([-7.0, -math.pi, 0.0, 3.0, 3.2, 9.5])
    wrapped = classic.wrap_angle(theta)
    turn = 2 * math.pi
    np.testing.assert_allclose(wrapped, [-7 + turn, -math.pi, 0, 3, 3.2 - turn, 9.5 - 2 * turn], atol=2e-6)
    np.testing.assert_array_equal(jax.vmap(jax.grad(classic.wrap_angle))(theta), np.ones(6))


def test_cartpole_obeys_lagrange():
    """The accelerations solve the coupled equations of motion, written as a 2 x 2 system with the mass matrix."""
    rng = np.random.default_rng(1)
    cart, pole, half, g = 1.0, 0.1, 0.5, 9.81
    for _ in range(20):
        x, theta, x_dot, theta_dot, force = rng.normal(size=5) * [1, 3, 2, 4, 6]
        coupling = pole * half * np.cos(theta)
        mass_matrix = [[cart + pole, coupling], [coupling, pole * half**2 * 4 / 3]]
        forces = [force + pole * half * theta_dot**2 * np.sin(theta), pole * g * half * np.sin(theta)]
        state = classic.CartpoleState(*map(jnp.float32, (x, theta, x_dot, theta_dot)))
        found = classic.cartpole_acceleration(state, jnp.float32(force))
        np.testing.assert_allclose(np.array(found), np.linalg.solve(mass_matrix, forces), rtol=2e-4, atol=2e-4)


def test_cartpole_step_is_two_semi_implicit_euler_substeps():
    q, qd = np.array([0.1, 2.0]), np.array([0.5, -1.0])
    for _ in range(2):
        coupling = 0.05 * np.cos(q[1])
        forces = [-4.0 + 0.05 * qd[1] ** 2 * np.sin(q[1]), 0.1 * 9.81 * 0.5 * np.sin(q[1])]
        qd = qd + 0.01 * np.linalg.solve([[1.1, coupling], [coupling, 0.1 / 3]], forces)
        q = q + 0.01 * qd
    start = classic.CartpoleState(*doubles(0.1, 2.0, 0.5, -1.0))
    out = rollout(make_env(EnvConfig(name="cartpole")), start, [[-0.4]])
    np.testing.assert_allclose(out.obs[0], [q[0], np.cos(q[1]), np.sin(q[1]), *qd], atol=1e-9)


@pytest.mark.parametrize(
    ("x", "theta", "theta_dot", "action", "reward"),
    [
        (0, 0, 0, 0, 1.0),
        (0, 0, 0, 1, 0.8),
        (2, 0, 0, 0, 0.55),
        (0, 0, 5, 0, 0.55),
        (0, math.pi, 0, 0, 0.0),
        (0, math.pi / 2, 0, 0, 0.5),
    ],
)
def test_cartpole_reward_by_hand(x, theta, theta_dot, action, reward):
    state = classic.CartpoleState(*map(jnp.float32, (x, theta, 0.0, theta_dot)))
    assert float(classic.cartpole_reward(state, jnp.float32(action))) == pytest.approx(reward, abs=1e-6)


def test_cartpole_hangs_at_the_start_and_ends_where_it_arrives():
    env = make_env(EnvConfig(name="cartpole"))
    starts = jax.vmap(env.obs)(jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 100)))
    assert (starts[:, 1] < -0.99).all() and np.abs(starts[:, 0]).max() < 0.05
    for x, x_dot, ends in ((0.99, 2.0, True), (0.99, -2.0, False), (1.01, -2.0, False), (-0.99, -2.0, True)):
        state = classic.CartpoleState(*map(jnp.float32, (x, math.pi, x_dot, 0.0)))
        _, out = env.step(jax.random.key(0), state, jnp.zeros(1))
        assert bool(out.terminated) == ends
        assert bool(env.terminated(env.obs(state), jnp.zeros(1), out.obs)) == ends


def test_ball_is_its_specification():
    """50 steps of the equations of the specification, one number at a time."""
    rng = np.random.default_rng(2)
    actions, expected = rng.uniform(-1, 1, (50, 2)), []
    p, v, goal = np.array([0.7, -0.4]), np.zeros(2), np.array([0.3, 0.1])
    start = classic.BallState(*doubles(p, v, goal))
    for u in actions:
        for _ in range(2):
            for i in range(2):
                slope = 2 * 0.15 * p[i] - 0.02 * 3 * np.pi * np.sin(3 * np.pi * p[i])
                v[i] += 0.02 * (5 / 7 * (1.5 * u[i] - 9.81 * slope) - 0.2 * v[i])
            p = p + 0.02 * v
        expected.append([*p, *v, *goal, -math.hypot(p[0] - goal[0], p[1] - goal[1])])
    out = rollout(make_env(EnvConfig(name="ball")), start, actions)
    np.testing.assert_allclose(np.column_stack([out.obs, out.reward]), expected, atol=1e-9)


def test_terrain_slope_is_the_gradient_of_the_terrain():
    def height(p):
        return 0.15 * p @ p + classic.BUMP * jnp.sum(jnp.cos(3 * jnp.pi * p))

    point = jnp.array([0.31, -0.77])
    np.testing.assert_allclose(classic.terrain_slope(point), jax.grad(height)(point), rtol=1e-5)


def test_distance_has_a_finite_gradient_at_the_goal():
    value, gradient = jax.value_and_grad(classic.distance)(jnp.ones(2), jnp.ones(2))
    assert float(value) == 0.0 and (gradient == 0.0).all()
    value, gradient = jax.value_and_grad(classic.distance)(jnp.array([3.0, 4.0]), jnp.zeros(2))
    assert float(value) == 5.0
    np.testing.assert_allclose(gradient, [0.6, 0.8], rtol=1e-6)


def test_ball_starts_within_its_ranges():
    states = jax.vmap(make_env(EnvConfig(name="ball")).reset)(jax.random.split(jax.random.key(0), 2000))
    assert (states.velocity == 0.0).all()
    for values, bound in ((states.position, 0.9), (states.goal, 0.8)):
        assert np.abs(values).max() <= bound and np.std(values) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(np.corrcoef(states.position[:, 0], states.goal[:, 0])[0, 1]) < 0.1


SMOOTH = [name for name in NATIVE if not name.endswith("_discrete")]  # nothing flows through a discrete action


# Probes refuse action repeat.
@pytest.mark.parametrize(("name", "repeat"), [(name, 1) for name in SMOOTH] + [("cartpole", 3), ("ball", 2)])
def test_gradients_match_finite_differences(name, repeat):
    """d (sum of rewards and of the last obs) / d actions of 6 steps, in double precision."""
    env = make_env(EnvConfig(name=name, action_repeat=repeat))
    assert env.spec.differentiable
    with jax.enable_x64(True):
        actions = jax.random.uniform(jax.random.key(1), (6, env.spec.act_dim), minval=-0.8, maxval=0.8)

        @jax.jit
        def total(actions):
            def body(state, action):
                return env.step(jax.random.key(0), state, action)

            state, out = jax.lax.scan(body, env.reset(jax.random.key(7)), actions)
            return jnp.sum(out.reward) + jnp.sum(jnp.square(env.obs(state)))

        gradient = np.asarray(jax.jit(jax.grad(total))(actions))
        assert gradient.dtype == np.float64
        numeric = np.zeros_like(gradient)
        for index in np.ndindex(*gradient.shape):
            shift = jnp.zeros_like(actions).at[index].set(1e-5)
            numeric[index] = (total(actions + shift) - total(actions - shift)) / 2e-5
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
    if not name.startswith("probe_"):
        assert (gradient != 0.0).all()


def test_the_best_policy_of_the_linear_quadratic_task_is_known_and_within_bounds():
    """The Riccati equation with gamma 0.95 gives K, the value -s'P s and actions that are never clipped."""
    a, b = np.array([[0.95, 0.1], [0.0, 0.9]]), np.array([[0.01], [0.2]])
    q, r, gamma, p = np.diag([10.0, 1.0]), 0.5, 0.95, np.zeros((2, 2))
    for _ in range(2_000):
        k = gamma * b.T @ p @ a / (r + gamma * b.T @ p @ b)
        p = q + r * k.T @ k + gamma * (a - b @ k).T @ p @ (a - b @ k)
    np.testing.assert_allclose(k, [[2.361, 1.472]], atol=1e-3)
    env = make_env(EnvConfig(name="linear_quadratic"))
    start = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2_000))
    assert np.abs(start).max() <= classic.REACH and np.abs(start).max() > 0.99 * classic.REACH

    def step(carry, t):
        state, total, largest = carry
        action = -state @ jnp.asarray(k.T, jnp.float32)
        state, out = jax.vmap(lambda s, u: env.step(jax.random.key(0), s, u))(state, action)
        return (state, total + gamma**t * out.reward, jnp.maximum(largest, jnp.abs(action[:, 0]))), None

    carry = (start, jnp.zeros(2_000), jnp.zeros(2_000))
    (_, total, largest), _ = jax.lax.scan(step, carry, jnp.arange(400.0))
    np.testing.assert_allclose(total, -np.einsum("ni,ij,nj->n", start, p, start), rtol=1e-3, atol=1e-3)
    assert 0.8 < largest.max() < 1.0
