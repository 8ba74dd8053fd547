"""The contract of `Env`, on every registered environment.

Brax runs on its default backend; `VALEX_ALL_BACKENDS=1 pytest tests/envs` takes every backend (about 15 minutes).
"""

import importlib.util
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.distributions import random_action
from valex.envs.base import make_env, reset_batch, step_batch
from valex.settings import EnvConfig
from valex.tables import ENVS
from valex.types import Array, Env, StepOut

STEPS, INSTANCES = 40, 8
HALVES = (slice(None, INSTANCES), slice(INSTANCES, None))
ONE_START_GAMES = {"minatar-asterix", "minatar-seaquest", "minatar-space_invaders"}
SAME_START = {
    "probe_constant",
    "probe_delay",
    "probe_action",
    "probe_clock",
} | ONE_START_GAMES  # reset draws from one state
TERMINATES = {
    "inverted_pendulum",
    "inverted_double_pendulum",
    "hopper",
    "probe_constant",
    "probe_obs",
    "probe_delay",
    "probe_action",
    "probe_both",
}
TERMINATES |= ONE_START_GAMES | {"minatar-breakout"}
IMPORTED = {"brax": "brax", "minatar": "pgx"}  # by extra

# Largest |difference| in (obs, reward) between a step and the same step restarted from its sim_state, both in one compiled
# program. Native environments keep their whole state, so theirs is 0. Measured on CPU over 4 keys: 0 for all not named
# here, but hopper 4e-9 (spring), 6e-5 (positional), 9e-7 (generalized), 5e-7 (mjx); halfcheetah 1e-5 (spring);
# inverted_pendulum 2e-7 (spring); walker2d 6e-9. What is allowed leaves room for another compiler's rounding.
# Another kind of CPU gave 1.2e-4 for halfcheetah on spring, where one unit in the last place of the stored state moves the next
# observation by 2.2e-4: that is rounding, and twice that is allowed. It also gave more than is allowed on backends that run only
# under VALEX_ALL_BACKENDS=1: inverted_pendulum 6e-6 (positional), halfcheetah 2e-4 (mjx), walker2d 2.1e-2 (mjx). The last is no
# rounding; it is not explained, and the bounds stay where they were.
REPLAY_TOLERANCE = {
    "inverted_pendulum": {
        "spring": (1e-6, 0.0),
        "positional": (1e-6, 0.0),
        "generalized": (1e-6, 0.0),
        "mjx": (1e-6, 0.0),
    },
    "inverted_double_pendulum": {  # seen: 0 (spring)
        "spring": (1e-5, 1e-5),
        "positional": (1e-5, 1e-5),
        "generalized": (1e-5, 1e-5),
        "mjx": (1e-5, 1e-5),
    },
    "ant": {"spring": (1e-4, 1e-4), "positional": (1e-3, 1e-3), "generalized": (1e-4, 1e-4), "mjx": (1e-4, 1e-4)},
    "hopper": {"spring": (1e-5, 1e-5), "positional": (3e-4, 1e-5), "generalized": (1e-5, 1e-5), "mjx": (1e-5, 1e-5)},
    "walker2d": {"spring": (1e-5, 1e-5), "positional": (1e-4, 1e-5), "generalized": (1e-4, 1e-5), "mjx": (1e-4, 1e-5)},
    "halfcheetah": {
        "spring": (4.5e-4, 1e-5),
        "positional": (1e-3, 1e-4),
        "generalized": (1e-4, 1e-5),
        "mjx": (1e-4, 1e-5),
    },
}

# Bytes one stored state costs. Native: 4 a number; spring and positional: 52 a link; generalized: (q, qd) + an inverse.
# MinAtar: 4 a counter, 1 a flag (an eighth in replay).
SIM_STATE_BYTES = {
    ("pendulum", "jax"): 8,
    ("cartpole", "jax"): 16,
    ("ball", "jax"): 24,
    ("linear_quadratic", "jax"): 8,
    ("minatar-asterix", "jax"): 4 * (5 + 32 + 4),
    ("minatar-breakout", "jax"): 4 * 7 + 101,
    ("minatar-freeway", "jax"): 4 * (3 + 32),
    ("minatar-seaquest", "jax"): 4 * (8 + 335 + 3) + 2,
    ("minatar-space_invaders", "jax"): 4 * 7 + 300,
    ("inverted_pendulum", "spring"): 104,
    ("inverted_pendulum", "positional"): 104,
    ("inverted_pendulum", "generalized"): 16 + 16,
    ("inverted_pendulum", "mjx"): 36,
    ("inverted_double_pendulum", "spring"): 156,
    ("inverted_double_pendulum", "positional"): 156,
    ("inverted_double_pendulum", "generalized"): 24 + 36,
    ("inverted_double_pendulum", "mjx"): 48,
    ("ant", "spring"): 468,
    ("ant", "positional"): 468,
    ("ant", "generalized"): 60 + 56 + 784,
    ("ant", "mjx"): 60 + 56 + 56 + 12,
    ("hopper", "spring"): 208,
    ("hopper", "positional"): 208,
    ("hopper", "generalized"): 48 + 144,
    ("hopper", "mjx"): 84,
    ("walker2d", "spring"): 364,
    ("walker2d", "positional"): 364,
    ("walker2d", "generalized"): 72 + 324,
    ("walker2d", "mjx"): 120,
    ("halfcheetah", "spring"): 364,
    ("halfcheetah", "positional"): 364,
    ("halfcheetah", "generalized"): 72 + 324,
    ("halfcheetah", "mjx"): 120,
}


def cases():
    """Every environment on its default backend; every Brax backend where asked for."""
    for name, entry in ENVS.items():
        missing = bool(entry.extra) and importlib.util.find_spec(IMPORTED[entry.extra]) is None
        marks = pytest.mark.skipif(missing, reason=f"needs pip install 'valex[{entry.extra}]'")
        every = entry.extra == "brax" and os.environ.get("VALEX_ALL_BACKENDS") == "1"
        for backend in ("spring", "positional", "generalized", "mjx") if every else (None,):
            yield pytest.param((name, backend), marks=marks, id=name if backend is None else f"{name}-{backend}")


class Record(NamedTuple):
    """What random actions saw; leading axes [STEPS, INSTANCES], no reset at the end of an episode."""

    obs: Array
    action: Array
    out: StepOut
    restarted: StepOut  # the same step, taken from restart(sim_state(state))
    restarted_obs: Array  # obs(restart(sim_state(state)))
    known_end: Array  # terminated(obs, action, next_obs)
    alive: Array  # the episode had not ended before this step


def roll(env: Env, key) -> Record:
    """Step `env` under random actions, every state together with its restarted copy in one batch of 2 * INSTANCES."""

    def body(carry, key):
        state, alive = carry
        action = random_action(key, env.spec, (INSTANCES,)).action
        again = jax.vmap(lambda s: env.restart(env.sim_state(s)))(state)
        both = jax.tree.map(lambda *pair: jnp.concatenate(pair), state, again)
        keys = jax.random.split(key, INSTANCES)
        both, out = jax.vmap(env.step)(jnp.concatenate([keys, keys]), both, jnp.concatenate([action, action]))
        stored, restarted = (StepOut(*(leaf[half] for leaf in out)) for half in HALVES)
        obs = jax.vmap(env.obs)(state)
        known_end = jax.vmap(env.terminated)(obs, action, stored.obs) if env.terminated else stored.terminated
        record = Record(obs, action, stored, restarted, jax.vmap(env.obs)(again), known_end, alive)
        return (jax.tree.map(lambda x: x[:INSTANCES], both), alive & ~stored.terminated), record

    reset_key, key = jax.random.split(key)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, INSTANCES))
    return jax.lax.scan(body, (state, jnp.ones(INSTANCES, bool)), jax.random.split(key, STEPS))[1]


class Case(NamedTuple):
    env: Env
    roll: object  # (key) -> Record, compiled
    record: Record


@pytest.fixture(scope="module", params=list(cases()))
def case(request) -> Case:
    name, backend = request.param
    env = make_env(EnvConfig(name=name, backend=backend))
    compiled = jax.jit(lambda key: roll(env, key))
    return Case(env, compiled, jax.device_get(compiled(jax.random.key(1))))


def test_shapes_and_dtypes(case):
    spec, record = case.env.spec, case.record
    assert record.obs.shape == record.out.obs.shape == (STEPS, INSTANCES, spec.obs_dim)
    assert record.out.reward.shape == record.out.terminated.shape == (STEPS, INSTANCES)
    assert record.obs.dtype == record.out.obs.dtype == (np.bool_ if spec.grid else np.float32)
    assert record.out.reward.dtype == np.float32
    assert not spec.grid or np.prod(spec.grid) == spec.obs_dim
    assert record.out.terminated.dtype == record.known_end.dtype == np.bool_
    assert np.isfinite(record.out.obs).all() and np.isfinite(record.out.reward).all()
    assert spec.dt > 0 and spec.episode_length >= 1 and spec.action_repeat == 1


def test_obs_of_the_state_is_the_obs_of_the_step(case):
    np.testing.assert_array_equal(case.record.obs[1:], case.record.out.obs[:-1])


def test_the_key_determines_everything_and_reset_uses_it(case):
    again = jax.device_get(case.roll(jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, again, case.record)
    starts = np.unique(case.record.obs[0], axis=0)
    if case.env.spec.name.removesuffix("_discrete") in SAME_START:
        assert len(starts) == 1
    else:
        assert len(starts) > 1


def test_restart_replays_the_step(case):
    """The oracle: from sim_state alone the simulator takes the very step that was stored."""
    record, spec = case.record, case.env.spec
    obs_tolerance, reward_tolerance = REPLAY_TOLERANCE.get(spec.name, {}).get(spec.backend, (0.0, 0.0))
    alive = record.alive
    for again, first, tolerance in (
        (record.restarted.obs, record.out.obs, obs_tolerance),
        (record.restarted.reward, record.out.reward, reward_tolerance),
        (record.restarted_obs, record.obs, obs_tolerance),
    ):
        assert np.abs(np.subtract(again, first, dtype=np.float32))[alive].max() <= tolerance
    np.testing.assert_array_equal(record.restarted.terminated[alive], record.out.terminated[alive])


def test_sim_state_is_as_small_as_declared(case):
    env = case.env
    shapes = jax.eval_shape(lambda key: env.sim_state(env.reset(key)), jax.random.key(0))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    default = 4 if env.spec.name.startswith("probe") else None
    assert size == SIM_STATE_BYTES.get((env.spec.name, env.spec.backend), default)


def test_the_known_termination_is_the_step_s_own(case):
    np.testing.assert_array_equal(case.record.known_end, case.record.out.terminated)
    if case.env.spec.name.removesuffix("_discrete") in TERMINATES:
        assert case.record.out.terminated.any(), "no episode ended: this test has nothing to say"


def test_steps_in_a_batch_with_clock_and_reset(case):
    """Traced, not compiled: both branches of the reset agree in structure, shapes and dtypes, also within a scan."""
    env = case.env

    def collect(key):
        def body(vec, key):
            return step_batch(env, key, vec, random_action(key, env.spec, (INSTANCES,)).action)

        return jax.lax.scan(body, reset_batch(env, key, INSTANCES), jax.random.split(key, STEPS))

    vec, outcome = jax.eval_shape(collect, jax.random.key(0))
    assert vec.steps.shape == (INSTANCES,) and vec.steps.dtype == jnp.int32
    assert outcome.next_obs.shape == (STEPS, INSTANCES, env.spec.obs_dim)
    assert outcome.truncated.dtype == jnp.bool_
