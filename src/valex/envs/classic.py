"""Pendulum, cart-pole, ball and a double integrator: small tasks in plain JAX, differentiable, the whole state their sim_state.

Each is deterministic given the action, so `key` goes unused in `step`. Actions lie in [-1, 1] and are clipped to it.
Units are SI: m, kg, s, rad, N.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import native_env, repeat_action, resolve
from valex.settings import EnvConfig
from valex.types import Array, Env, EnvSpec, StepOut


def _spec(choices, obs_dim: int, act_dim: int, dt: float) -> EnvSpec:
    return EnvSpec(
        name=choices.name,
        obs_dim=obs_dim,
        act_dim=act_dim,
        num_actions=0,
        episode_length=choices.episode_length,
        action_repeat=1,
        dt=dt,
        backend=choices.backend,
        differentiable=True,
    )


def _never(obs, action, next_obs):
    return jnp.zeros((), bool)


# ------------------------------------------------------------------------------------------------------------ pendulum


class PendulumState(NamedTuple):
    """Angle from upright, counted on beyond +-pi, and its rate."""

    theta: Array  # [] rad, 0 is upright
    theta_dot: Array  # [] rad/s, in [-8, 8]


def wrap_angle(theta: Array) -> Array:
    """Bring an angle (rad) into [-pi, pi): theta - 2 pi floor((theta + pi) / (2 pi)); its derivative is 1."""
    return theta - 2 * jnp.pi * jnp.floor((theta + jnp.pi) / (2 * jnp.pi))


def make_pendulum(config: EnvConfig) -> Env:
    """Build the torque-limited pendulum swing-up: the dynamics and the reward of Gymnasium's Pendulum-v1.

        u = 2 a,   r = -(wrap(theta)^2 + 0.1 theta_dot^2 + 0.001 u^2)      of the state the action is taken in
        theta_dot' = clip(theta_dot + (3 g / (2 l) sin theta + 3 u / (m l^2)) dt, -8, 8)
        theta' = theta + theta_dot' dt

    g = 10 m/s^2, m = 1 kg, l = 1 m, dt = 0.05 s; obs (cos theta, sin theta, theta_dot). Reset theta ~ U(-pi, pi),
    theta_dot ~ U(-1, 1). Defaults: 200 steps, no termination.
    Source: gymnasium/envs/classic_control/pendulum.py.
    """
    choices = resolve(config, ("jax",), episode_length=200)
    gravity, mass, length, dt, max_torque, max_speed = 10.0, 1.0, 1.0, 0.05, 2.0, 8.0

    def reset(key):
        bound = jnp.array([jnp.pi, 1.0])
        return PendulumState(*jax.random.uniform(key, (2,), minval=-bound, maxval=bound))

    def obs(state):
        return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])

    def step(key, state, action):
        theta, theta_dot = state
        torque = max_torque * jnp.clip(action[0], -1.0, 1.0)
        reward = -(wrap_angle(theta) ** 2 + 0.1 * theta_dot**2 + 0.001 * torque**2)
        acceleration = 1.5 * gravity / length * jnp.sin(theta) + 3.0 * torque / (mass * length**2)
        theta_dot = jnp.clip(theta_dot + acceleration * dt, -max_speed, max_speed)
        state = PendulumState(theta + theta_dot * dt, theta_dot)
        return state, StepOut(obs(state), reward, jnp.zeros((), bool))

    def invert(obs):
        return PendulumState(jnp.arctan2(obs[1], obs[0]), obs[2])

    env = native_env(_spec(choices, obs_dim=3, act_dim=1, dt=dt), reset, step, obs, _never)._replace(invert=invert)
    return repeat_action(env, choices.action_repeat)


# ------------------------------------------------------------------------------------------------------------ cartpole


class CartpoleState(NamedTuple):
    """Cart position, pole angle and their rates."""

    x: Array  # [] m, 0 is the middle of the track
    theta: Array  # [] rad, 0 is upright
    x_dot: Array  # [] m/s
    theta_dot: Array  # [] rad/s


CART_MASS, POLE_MASS, HALF_LENGTH, GRAVITY = 1.0, 0.1, 0.5, 9.81  # kg, kg, m from pivot to the pole's centre, m/s^2
TRACK_BOUND = 1.0  # m, the cart must not leave [-1, 1]
MAX_FORCE = 10.0  # N


def cartpole_acceleration(state: CartpoleState, force: Array) -> tuple[Array, Array]:
    """Return (x_ddot m/s^2, theta_ddot rad/s^2) of a uniform pole (inertia m l^2 / 3) on a frictionless cart.

        w = (F + m l theta_dot^2 sin theta) / (M + m)
        theta_ddot = (g sin theta - w cos theta) / (l (4/3 - m cos^2 theta / (M + m)))
        x_ddot = w - m l theta_ddot cos theta / (M + m)

    Source: Barto, Sutton & Anderson 1983 without friction, as in Gymnasium's CartPole-v1.
    """
    cos, sin = jnp.cos(state.theta), jnp.sin(state.theta)
    total, moment = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
    w = (force + moment * state.theta_dot**2 * sin) / total
    theta_ddot = (GRAVITY * sin - w * cos) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / total))
    return w - moment * theta_ddot * cos / total, theta_ddot


def cartpole_reward(state: CartpoleState, action: Array) -> Array:
    """Return the reward in [0, 1] of arriving at `state` by `action` (a scalar in [-1, 1]).

        r = (1 + cos theta)/2 * (1 + 0.1^((x/2)^2))/2 * (4 + 1 - a^2)/5 * (1 + 0.1^((theta_dot/5)^2))/2

    upright * centred * small control * small velocity, each a smooth tolerance. Source: dm_control suite/cartpole.py,
    `_get_reward(sparse=False)`.
    """
    upright = (1.0 + jnp.cos(state.theta)) / 2.0
    centred = (1.0 + 0.1 ** jnp.square(state.x / 2.0)) / 2.0
    small_control = (4.0 + 1.0 - action**2) / 5.0
    small_velocity = (1.0 + 0.1 ** jnp.square(state.theta_dot / 5.0)) / 2.0
    return upright * centred * small_control * small_velocity


def make_cartpole(config: EnvConfig) -> Env:
    """Build the cart-pole swing-up: the pole starts hanging down, the cart is pushed by F = 10 a newton.

    Two semi-implicit Euler substeps of 0.01 s make a step (velocities first, then positions with the new velocities);
    physics in `cartpole_acceleration`, reward in `cartpole_reward`. obs (x, cos theta, sin theta, x_dot, theta_dot).
    Terminates when the cart ARRIVES at |x| > 1 m. Reset as in dm_control's swing-up: theta = pi, everything with
    N(0, 0.01^2) noise. Defaults: 500 steps (10 s).
    """
    choices = resolve(config, ("jax",), episode_length=500)
    dt, substeps = 0.01, 2

    def reset(key):
        noise = 0.01 * jax.random.normal(key, (4,))
        return CartpoleState(x=noise[0], theta=jnp.pi + noise[1], x_dot=noise[2], theta_dot=noise[3])

    def obs(state):
        return jnp.stack([state.x, jnp.cos(state.theta), jnp.sin(state.theta), state.x_dot, state.theta_dot])

    def terminated(obs, action, next_obs):
        # The paper's release tests the CURRENT obs in its termination function and the NEXT one in its environment.
        return jnp.abs(next_obs[0]) > TRACK_BOUND

    def step(key, state, action):
        push = jnp.clip(action[0], -1.0, 1.0)
        before = obs(state)
        for _ in range(substeps):
            x_ddot, theta_ddot = cartpole_acceleration(state, MAX_FORCE * push)
            x_dot, theta_dot = state.x_dot + x_ddot * dt, state.theta_dot + theta_ddot * dt
            state = CartpoleState(state.x + x_dot * dt, state.theta + theta_dot * dt, x_dot, theta_dot)
        after = obs(state)
        return state, StepOut(after, cartpole_reward(state, push), terminated(before, action, after))

    def invert(obs):
        return CartpoleState(obs[0], jnp.arctan2(obs[2], obs[1]), obs[3], obs[4])

    env = native_env(_spec(choices, obs_dim=5, act_dim=1, dt=dt * substeps), reset, step, obs, terminated)
    return repeat_action(env._replace(invert=invert), choices.action_repeat)


# ---------------------------------------------------------------------------------------------------------------- ball


class BallState(NamedTuple):
    """A ball on the terrain, and where it is wanted."""

    position: Array  # [2] m
    velocity: Array  # [2] m/s
    goal: Array  # [2] m, fixed within an episode


BUMP = 0.02  # m, amplitude B of the bumps: 0 leaves a plain bowl, 0.04 is hard


def terrain_slope(position: Array) -> Array:
    """Return grad h [2] of the terrain h(p) = 0.15 |p|^2 + B (cos 3 pi x + cos 3 pi y)."""
    return 0.3 * position - 3.0 * jnp.pi * BUMP * jnp.sin(3.0 * jnp.pi * position)


def distance(a: Array, b: Array) -> Array:
    """Return |a - b| of two points [2]; the gradient is 0, not NaN, where they meet."""
    square = jnp.sum((a - b) ** 2)
    apart = square > 0.0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)


def make_ball(config: EnvConfig) -> Env:
    """Build the torque-controlled ball: a solid sphere rolling without slip in a bumpy bowl, wanted at a goal.

        p'' = (5/7) (1.5 u - g grad h(p)) - 0.2 p',   u in [-1, 1]^2,   g = 9.81,   h in `terrain_slope`
        r = -|p - goal|                                  of the state the action leads to

    Two semi-implicit Euler substeps of 0.02 s make a step. obs (x, y, vx, vy, goal_x, goal_y). Reset p ~ U(-.9, .9)^2,
    v = 0, goal ~ U(-.8, .8)^2. Defaults: 200 steps, no termination.
    """
    choices = resolve(config, ("jax",), episode_length=200)
    dt, substeps, torque, gravity, damping = 0.02, 2, 1.5, 9.81, 0.2

    def reset(key):
        position_key, goal_key = jax.random.split(key)
        position = jax.random.uniform(position_key, (2,), minval=-0.9, maxval=0.9)
        goal = jax.random.uniform(goal_key, (2,), minval=-0.8, maxval=0.8)
        return BallState(position, jnp.zeros(2), goal)

    def obs(state):
        return jnp.concatenate(state)

    def step(key, state, action):
        position, velocity, goal = state
        push = torque * jnp.clip(action, -1.0, 1.0)
        for _ in range(substeps):
            acceleration = 5.0 / 7.0 * (push - gravity * terrain_slope(position)) - damping * velocity
            velocity = velocity + acceleration * dt
            position = position + velocity * dt
        state = BallState(position, velocity, goal)
        return state, StepOut(obs(state), -distance(position, goal), jnp.zeros((), bool))

    def invert(obs):
        return BallState(obs[:2], obs[2:4], obs[4:])

    env = native_env(_spec(choices, obs_dim=6, act_dim=2, dt=dt * substeps), reset, step, obs, _never)
    return repeat_action(env._replace(invert=invert), choices.action_repeat)


# ---------------------------------------------------------------------------------------------------- double integrator

REACH = 0.25  # m and m/s, of the starts: small enough that the best linear policy stays within the bounds of the action


def make_linear_quadratic(config: EnvConfig) -> Env:
    """Build a damped double integrator with quadratic costs, whose best policy and values are known in closed form.

        x' = 0.95 x + 0.1 v + 0.01 a,   v' = 0.9 v + 0.2 a,   r = -(10 x^2 + v^2 + 0.5 a^2)      of (x, v) before

    obs (x, v), m and m/s; a step takes 0.1 s. Reset x, v ~ U(-0.25, 0.25). With gamma 0.95 the best action -K s of the Riccati
    equation, K = (2.36, 1.47), stays within [-1, 1] from there on. Defaults: 50 steps, no termination.
    """
    choices = resolve(config, ("jax",), episode_length=50)

    def reset(key):
        return jax.random.uniform(key, (2,), minval=-REACH, maxval=REACH)

    def step(key, state, action):
        x, v = state
        push = jnp.clip(action[0], -1.0, 1.0)
        reward = -(10.0 * x**2 + v**2 + 0.5 * push**2)
        after = jnp.stack([0.95 * x + 0.1 * v + 0.01 * push, 0.9 * v + 0.2 * push])
        return after, StepOut(after, reward, jnp.zeros((), bool))

    same = lambda state: state  # noqa: E731
    env = native_env(_spec(choices, obs_dim=2, act_dim=1, dt=0.1), reset, step, same, _never)._replace(invert=same)
    return repeat_action(env, choices.action_repeat)
