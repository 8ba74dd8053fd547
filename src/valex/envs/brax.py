"""Brax tasks (v2): a thin adapter over `brax.envs`, environments and physics only, on any of its four backends.

Brax is imported inside the factory: it takes seconds and may not be installed. `brax.training` is never touched: it
does not run on this JAX. The state between steps is Brax's pipeline state; its obs, metrics and info are dropped.

What a simulator needs to restart exactly differs by backend:
  spring, positional   position and velocity of every link: joints give way a little, by what (q, qd) cannot say
  generalized          (q, qd), and the inverse of the mass matrix, which each step refines from the step before
  mjx                  (q, qd), the solver's warm start, and the torso position, which there lags one substep behind q
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from valex.envs.base import Choices, repeat_action, resolve
from valex.settings import EnvConfig
from valex.types import Array, Env, EnvSpec, StepOut

BACKENDS = ("spring", "positional", "generalized", "mjx")  # the first is the default
DIFFERENTIABLE = ("spring", "positional", "generalized")  # the constraint solver of mjx loops until it converges


class LinkState(NamedTuple):
    """Every link's centre of mass in the world frame (spring, positional): 13 floats, 52 bytes a link."""

    position: Array  # [links, 3] m
    rotation: Array  # [links, 4] unit quaternion
    velocity: Array  # [links, 3] m/s
    angular: Array  # [links, 3] rad/s


class JointState(NamedTuple):
    """Joint coordinates (generalized)."""

    q: Array  # [q_size] m or rad
    qd: Array  # [qd_size] m/s or rad/s
    mass_inverse: Array | tuple[()] = ()  # [qd_size, qd_size] of the mass matrix; () where every step inverts it afresh


class MjxState(NamedTuple):
    """Joint coordinates and what MuJoCo carries over from the step before (mjx)."""

    q: Array  # [q_size] m or rad
    qd: Array  # [qd_size] m/s or rad/s
    warm_start: Array  # [qd_size] m/s^2 or rad/s^2, where the constraint solver begins
    torso: Array  # [3] m, body position as of the last substep's start; the reward measures progress with it


# ------------------------------------------------------------------------------------- known termination, task by task
# (obs, action, next_obs) -> bool, written as the environments write it, so that NaN counts as they count it.


def pendulum_terminated(obs: Array, action: Array, next_obs: Array) -> Array:
    """|pole angle| > 0.2 rad; obs = (cart m, pole rad, m/s, rad/s)."""
    return jnp.abs(next_obs[1]) > 0.2


def hopper_terminated(obs: Array, action: Array, next_obs: Array) -> Array:
    """Not (height > 0.7 m, |pitch| < 0.2 rad, everything else within +-100); obs = (height, pitch, 3 joints, 6 rates).

    The environment also ends at a rate beyond +-100, which no function of the obs can see: it clips rates to +-10. The
    flag of `step` is the environment's own and does see it.
    """
    height, pitch = next_obs[0], next_obs[1]
    return ~((height > 0.7) & (jnp.abs(pitch) < 0.2) & jnp.all(jnp.abs(next_obs[1:]) < 100.0))


def walker_terminated(obs: Array, action: Array, next_obs: Array) -> Array:
    """Not (0.8 < height < 2 m, |pitch| < 1 rad); obs = (height, pitch, 6 joints, 9 rates)."""
    height, pitch = next_obs[0], next_obs[1]
    return ~((height > 0.8) & (height < 2.0) & (jnp.abs(pitch) < 1.0))


def never_terminated(obs: Array, action: Array, next_obs: Array) -> Array:
    """The cheetah runs until the clock stops it."""
    return jnp.zeros((), bool)


def double_pendulum_terminated(obs: Array, action: Array, next_obs: Array) -> Array:
    """Tip at 1 m or below; two poles of 0.6 m, obs = (cart m, sin and cos of pole and of the angle between poles, rates)."""
    _, sin_1, sin_2, cos_1, cos_2 = next_obs[:5]
    return 0.6 * cos_1 + 0.6 * (cos_1 * cos_2 - sin_1 * sin_2) <= 1.0


def ant_terminated(obs: Array, action: Array, next_obs: Array) -> Array:
    """Not (0.2 <= height <= 1 m); obs = (height, quaternion, 8 joints, 14 rates)."""
    return (next_obs[0] < 0.2) | (next_obs[0] > 1.0)


TERMINATED: dict[str, Callable] = {
    "inverted_pendulum": pendulum_terminated,
    "inverted_double_pendulum": double_pendulum_terminated,
    "hopper": hopper_terminated,
    "walker2d": walker_terminated,
    "halfcheetah": never_terminated,
    "ant": ant_terminated,
}


FREE = ("ant",)  # floats: Brax adds noise to its quaternion at reset and shows it off its unit length (deviation D38)
BY_THE_TIP = (
    "inverted_double_pendulum",
)  # ends by where a link is: where joints give way (q, qd) are off by a centimetre


# --------------------------------------------------------------------------- from an observation to a state (generalized)
# Joint coordinates (q, qd) that show an obs; what is not shown, the way along, is set to 0. A rate that is clipped stays so.
# Walker, cheetah and ant carry an inverse of the mass matrix that (q, qd) does not tell: their next step would be another one.

HOPPER_HEIGHT = 1.25  # m of the torso where its slide is at 0


def pendulum_joints(obs: Array) -> tuple[Array, Array]:
    """Return (q, qd) of the cart-pole; obs = (cart m, pole rad, rates)."""
    return obs[:2], obs[2:]


def double_pendulum_joints(obs: Array) -> tuple[Array, Array]:
    """Return (q, qd) of the double pendulum; obs = (cart m, sin and cos of pole and of the angle between poles, rates)."""
    return jnp.concatenate([obs[:1], jnp.arctan2(obs[1:3], obs[3:5])]), obs[5:]


def hopper_joints(obs: Array) -> tuple[Array, Array]:
    """Return (q, qd) of the hopper at x = 0; obs = (height, pitch, 3 joints, 6 rates)."""
    return jnp.concatenate([jnp.zeros(1), obs[:1] - HOPPER_HEIGHT, obs[1:5]]), obs[5:]


JOINTS: dict[str, Callable] = {
    "inverted_pendulum": pendulum_joints,
    "inverted_double_pendulum": double_pendulum_joints,
    "hopper": hopper_joints,
}


# ------------------------------------------------------------------------------------------------------------- restart


def restarter(brax_env: Any, backend: str) -> tuple[Callable, Callable]:
    """Return (sim_state, restart) for `backend`: the least that restarts the pipeline, and how it does."""
    from brax import base, com, kinematics

    system = brax_env.sys

    def links_of(state):
        return LinkState(state.x_i.pos, state.x_i.rot, state.xd_i.vel, state.xd_i.ang)

    def from_links(links):
        x_i = base.Transform(pos=links.position, rot=links.rotation)
        xd_i = base.Motion(vel=links.velocity, ang=links.angular)
        x, xd = com.to_world(system, x_i, xd_i)
        j, jd, a_p, a_c = kinematics.world_to_joint(system, x, xd)
        q, qd = kinematics.inverse(system, j, jd)
        # Only the masses are kept of this state: everything that moves is replaced, the inertias by the step itself.
        rest = brax_env.pipeline_init(system.init_q, jnp.zeros(system.qd_size()))
        return rest.replace(x_i=x_i, xd_i=xd_i, x=x, xd=xd, j=j, jd=jd, a_p=a_p, a_c=a_c, q=q, qd=qd)

    # Ten or twenty Newton-Schulz iterations from the inverse of the step before, too few to forget it where they do not
    # converge: the next obs after a restart from (q, qd) alone is off by up to 16 on walker2d and 37 on halfcheetah.
    refined = system.matrix_inv_iterations > 0

    def joints_of(state):
        return JointState(state.q, state.qd, state.mass_mx_inv if refined else ())

    def from_joints(joints):
        state = brax_env.pipeline_init(joints.q, joints.qd)
        return state.replace(mass_mx_inv=joints.mass_inverse) if refined else state

    def from_mjx(stored):
        state = brax_env.pipeline_init(stored.q, stored.qd)
        x = state.x.replace(pos=state.x.pos.at[0].set(stored.torso))
        return state.replace(x=x, qacc_warmstart=stored.warm_start)

    if backend == "generalized":
        return joints_of, from_joints
    if backend == "mjx":
        return lambda state: MjxState(state.q, state.qd, state.qacc_warmstart, state.x.pos[0]), from_mjx
    return links_of, from_links


def unit_rotations(sim_state: Any) -> Any:
    """Return a simulator state whose quaternions have length 1 again after an error was added (spring, positional)."""
    if not isinstance(sim_state, LinkState):
        return sim_state
    rotation = sim_state.rotation / jnp.linalg.norm(sim_state.rotation, axis=-1, keepdims=True)
    return sim_state._replace(rotation=rotation)


# ------------------------------------------------------------------------------------------------------------- factory


def load_brax(choices: Choices) -> Any:
    """Import Brax and return its environment without wrappers; ValueError where Brax is not installed.

    Silent: without Warp, importing mjx prints two lines; Brax warns that it is no longer maintained; MuJoCo writes what
    it warns of to MUJOCO_LOG.TXT in the working directory.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mujoco: Any = import_module("mujoco")
            from brax import envs
        except ModuleNotFoundError as error:
            raise ValueError(f"env.name: {choices.name} needs Brax: pip install 'valex[brax]'") from error
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            return envs.get_environment(choices.name, backend=choices.backend)
        finally:
            mujoco.set_mju_user_warning(before)


def make_brax_env(config: EnvConfig) -> Env:
    """Build one of the tasks of TERMINATED on `config.backend`.

    Obs, reward, reset and termination are those of `brax.envs`; see its docstrings. Actions lie in [-1, 1].
    Defaults: backend spring, 1000 control steps. How long a step lasts can differ by backend: see `spec.dt`.
    Reverse-mode gradients match finite differences except on mjx, where they raise. Contacts make them stiff: on
    halfcheetah they grow by orders of magnitude within a few steps. They are zero with respect to a rate that the obs
    of hopper or walker2d clips, at +-10. `invert` exists on generalized, for the tasks of JOINTS.
    Raises ValueError, one line that begins with the field at fault.
    """
    choices = resolve(config, BACKENDS, episode_length=1000)
    brax_env = load_brax(choices)
    from brax.envs import State

    sim_state, restart = restarter(brax_env, choices.backend)

    def reset(key):
        state = brax_env.reset(key).pipeline_state
        return restart(sim_state(state)) if choices.name in FREE else state

    def step(key, state, action):
        # Only `done` is read of what goes in, and only by the cheetah, which passes it on.
        nothing = jnp.zeros(())
        after = brax_env.step(State(state, nothing, reward=nothing, done=nothing), action)
        reward = jnp.asarray(after.reward, jnp.float32)
        return after.pipeline_state, StepOut(after.obs, reward, jnp.asarray(after.done > 0.5))

    spec = EnvSpec(
        name=choices.name,
        obs_dim=jax.eval_shape(brax_env.reset, jax.random.key(0)).obs.shape[0],
        act_dim=brax_env.action_size,
        num_actions=0,
        episode_length=choices.episode_length,
        action_repeat=1,
        dt=float(brax_env.dt),
        backend=choices.backend,
        differentiable=choices.backend in DIFFERENTIABLE,
    )
    invert = None
    if choices.backend == "generalized" and choices.name in JOINTS:
        invert = lambda obs: brax_env.pipeline_init(*JOINTS[choices.name](obs))  # noqa: E731
    gives_way = choices.backend in ("spring", "positional")
    terminated = None if gives_way and choices.name in BY_THE_TIP else TERMINATED[choices.name]
    env = Env(spec, reset, step, brax_env._get_obs, sim_state, restart, terminated, unit_rotations, invert)
    return repeat_action(env, choices.action_repeat)
