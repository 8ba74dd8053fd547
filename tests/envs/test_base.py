"""Building by name, action repeat, the clock and the automatic reset, on a task whose every number can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.envs.base import VecState, make_env, native_env, repeat_action, reset_batch, step_batch
from valex.settings import EnvConfig
from valex.tables import ENVS
from valex.types import EnvSpec, StepOut


def counter(end: float = 1e9, episode_length: int = 4, on_reset=None):
    """A state that counts steps from a random start below 1; the reward is the new count plus the action."""
    spec = EnvSpec("counter", 1, 1, 0, episode_length, 1, 0.5, "jax", True)

    def reset(key):
        if on_reset is not None:
            jax.debug.callback(on_reset)
        return jax.random.uniform(key)

    def step(key, state, action):
        state = state + 1.0
        return state, StepOut(state[None], state + action[0], state > end)

    return native_env(spec, reset, step, lambda s: s[None], lambda obs, action, next_obs: next_obs[0] > end)


# ------------------------------------------------------------------------------------------------------------ make_env


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EnvConfig(name="humanoid"), "env.name: got 'humanoid', allowed: pendulum, cartpole, ball,"),
        (EnvConfig(name="pendulum", backend="spring"), "env.backend: got 'spring', pendulum allows: jax"),
        (EnvConfig(name="probe_obs", backend="mjx"), "env.backend: got 'mjx', probe_obs allows: jax"),
        (EnvConfig(name="hopper", backend="x"), "env.backend: got 'x', hopper allows: spring, positional, generali"),
        (EnvConfig(name="ball", action_repeat=0), "env.action_repeat: got 0, allowed: whole numbers >= 1"),
        (EnvConfig(name="ball", action_repeat=True), "env.action_repeat: got True, allowed: whole numbers >= 1"),
        (EnvConfig(name="hopper", action_repeat=-2), "env.action_repeat: got -2, allowed: whole numbers >= 1"),
        (EnvConfig(name="probe_obs", action_repeat=2), "env.action_repeat: got 2, probe_obs allows: 1"),
        (EnvConfig(name="cartpole", episode_length=0), "env.episode_length: got 0, allowed: whole numbers >= 1"),
        (
            EnvConfig(name="ball", sticky_actions=0.0),
            "env.sticky_actions: got 0.0, ball has no such setting; leave it out",
        ),
        (
            EnvConfig(name="hopper", difficulty_ramping=True),
            "env.difficulty_ramping: got True, hopper has no such setting",
        ),
        (EnvConfig(name="probe_obs", sticky_actions=0.1), "env.sticky_actions: got 0.1, probe_obs has no such setting"),
        (
            EnvConfig(name="minatar-breakout", difficulty_ramping=False),
            "env.difficulty_ramping: got False, minatar-break",
        ),
        (
            EnvConfig(name="minatar-freeway", difficulty_ramping=True),
            "env.difficulty_ramping: got True, minatar-freeway",
        ),
        (
            EnvConfig(name="minatar-seaquest", sticky_actions=1.5),
            "env.sticky_actions: got 1.5, allowed: numbers in [0, 1]",
        ),
        (
            EnvConfig(name="minatar-asterix", sticky_actions=True),
            "env.sticky_actions: got True, allowed: numbers in [0, 1]",
        ),
        (EnvConfig(name="minatar-asterix", backend="spring"), "env.backend: got 'spring', minatar-asterix allows: jax"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(config, message):
    with pytest.raises(ValueError) as error:
        make_env(config)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "length"), [("pendulum", 200), ("cartpole", 500), ("ball", 200), ("probe_clock", 5)])
def test_none_takes_the_documented_default(name, length):
    spec = make_env(EnvConfig(name=name)).spec
    assert (spec.name, spec.backend, spec.action_repeat, spec.episode_length) == (name, "jax", 1, length)


def test_what_is_asked_for_is_built():
    once = make_env(EnvConfig(name="cartpole")).spec
    spec = make_env(EnvConfig(name="cartpole", action_repeat=3, episode_length=7)).spec
    assert (spec.action_repeat, spec.episode_length, spec.dt) == (3, 7, pytest.approx(3 * once.dt))


# ------------------------------------------------------------------------------------------------------- repeat_action


def test_rewards_are_summed_and_time_is_longer():
    env = repeat_action(counter(), 3)
    state, out = env.step(jax.random.key(0), jnp.array(10.0), jnp.array([0.5]))
    assert (env.spec.action_repeat, env.spec.dt) == (3, 1.5)
    assert (float(state), float(out.obs[0]), bool(out.terminated)) == (13.0, 13.0, False)
    assert float(out.reward) == 11.5 + 12.5 + 13.5


@pytest.mark.parametrize(("end", "last"), [(10.5, 11), (11.5, 12), (12.5, 13), (13.5, 14)])
def test_nothing_moves_or_counts_after_the_end(end, last):
    """From 10, the steps arrive at 11, 12, 13, 14; the one that passes `end` counts, the ones after it do not."""
    state, out = repeat_action(counter(end), 4).step(jax.random.key(0), jnp.array(10.0), jnp.zeros(1))
    assert float(state) == float(out.obs[0]) == last
    assert float(out.reward) == sum(range(11, last + 1))
    assert bool(out.terminated)


def test_repeat_equals_steps_taken_by_hand():
    base, env = make_env(EnvConfig(name="pendulum")), make_env(EnvConfig(name="pendulum", action_repeat=3))
    start, action = env.reset(jax.random.key(2)), jnp.array([0.7])
    state, out = env.step(jax.random.key(0), start, action)
    by_hand, rewards = start, []
    for _ in range(3):
        by_hand, one = base.step(jax.random.key(0), by_hand, action)
        rewards.append(float(one.reward))
    np.testing.assert_allclose(jax.tree.leaves(state), jax.tree.leaves(by_hand), rtol=1e-6)
    assert float(out.reward) == pytest.approx(sum(rewards), rel=1e-6)


def test_substeps_draw_from_different_keys():
    env = counter()._replace(step=lambda key, s, a: (s, StepOut(s[None], jax.random.normal(key), s > 1e9)))
    key = jax.random.key(5)
    _, out = repeat_action(env, 2).step(key, jnp.array(0.0), jnp.zeros(1))
    assert float(out.reward) == pytest.approx(sum(float(jax.random.normal(k)) for k in jax.random.split(key, 2)))


def test_once_is_the_environment_itself_and_less_is_refused():
    env = counter()
    assert repeat_action(env, 1) is env
    with pytest.raises(ValueError, match="^env.action_repeat: got 0"):
        repeat_action(env, 0)


def test_gradient_is_right_across_the_end():
    """sqrt(1 - s) has an infinite slope at the end, s = 1; what comes after the end must not poison the gradient."""

    def step(key, state, action):
        slope = jnp.sqrt(jnp.maximum(1.0 - state, 0.0))
        successor = jnp.minimum(state + action[0], 1.0)
        return successor, StepOut(successor[None], action[0] * slope, successor >= 1.0)

    env = repeat_action(counter()._replace(step=step), 4)

    def total(action, start):
        return env.step(jax.random.key(0), start, action)[1].reward

    gradient = jax.grad(total)(jnp.array([0.6]), jnp.array(0.25))
    # Two steps count: r = a sqrt(1 - s) + a sqrt(1 - s - a);  dr/da = sqrt(.75) + sqrt(.15) - .6 / (2 sqrt(.15))
    assert float(gradient[0]) == pytest.approx(0.75**0.5 + 0.15**0.5 - 0.3 / 0.15**0.5, rel=1e-4)


# ---------------------------------------------------------------------------------------------------- clock and resets


def test_the_clock_truncates_and_the_last_observation_is_kept():
    env, actions = counter(episode_length=3), jnp.zeros((2, 1))
    vec = reset_batch(env, jax.random.key(0), 2)
    start = np.asarray(vec.state)
    assert start[0] != start[1]
    for t in range(1, 4):
        before = vec
        vec, out = jax.jit(lambda key, vec: step_batch(env, key, vec, actions))(jax.random.key(t), vec)
        np.testing.assert_array_equal(out.obs[:, 0], before.state)
        np.testing.assert_array_equal(out.sim_state, before.state)
        np.testing.assert_allclose(out.next_obs[:, 0], start + t, rtol=1e-6)
        np.testing.assert_array_equal(out.next_sim_state, out.next_obs[:, 0])
        np.testing.assert_array_equal(out.truncated, [t == 3, t == 3])
        assert not out.terminated.any()
    np.testing.assert_array_equal(vec.steps, [0, 0])
    fresh = np.asarray(vec.state)
    assert (fresh < 1.0).all() and fresh[0] != fresh[1] and not np.isin(fresh, start).any()


def test_only_what_ended_starts_anew_and_termination_outranks_the_clock():
    env = counter(end=10.0, episode_length=5)
    vec = VecState(jnp.array([9.5, 9.5, 5.0, 5.0]), jnp.array([4, 1, 4, 1], jnp.int32))
    after, out = step_batch(env, jax.random.key(0), vec, jnp.zeros((4, 1)))
    np.testing.assert_array_equal(out.terminated, [True, True, False, False])
    np.testing.assert_array_equal(out.truncated, [False, False, True, False])
    np.testing.assert_array_equal(out.next_obs[:, 0], [10.5, 10.5, 6.0, 6.0])
    np.testing.assert_array_equal(after.steps, [0, 0, 0, 2])
    assert (after.state[:3] < 1.0).all() and float(after.state[3]) == 6.0


def test_no_reset_is_computed_while_no_episode_ends():
    calls = []
    env = counter(episode_length=3, on_reset=lambda: calls.append(1))
    vec = reset_batch(env, jax.random.key(0), 2)
    step = jax.jit(lambda vec: step_batch(env, jax.random.key(1), vec, jnp.zeros((2, 1)))[0])
    seen = []
    for _ in range(6):
        jax.effects_barrier()
        calls.clear()
        vec = jax.block_until_ready(step(vec))
        jax.effects_barrier()
        seen.append(len(calls))
    assert seen == [0, 0, 1, 0, 0, 1]


def test_seeds_vmapped_equal_seeds_alone():
    env = make_env(EnvConfig(name="pendulum", episode_length=3))

    def collect(key):
        def body(vec, key):
            return step_batch(env, key, vec, jnp.ones((4, 1)))

        return jax.lax.scan(body, reset_batch(env, key, 4), jax.random.split(key, 8))[1]

    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(collect))(keys)
    for i, key in enumerate(keys):
        alone = jax.jit(collect)(key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), together, alone)  # noqa: B023


def test_every_environment_names_a_factory():
    assert all(entry.target.startswith("valex.envs.") for entry in ENVS.values())


def test_a_reward_offset_moves_the_reward_and_nothing_else():
    base, env = make_env(EnvConfig("cartpole")), make_env(EnvConfig("cartpole", action_repeat=2, reward_offset=-3.0))
    assert base.spec.reward_offset == 0.0 and env.spec.reward_offset == -3.0
    plain = make_env(EnvConfig("cartpole", action_repeat=2))
    state, action = plain.reset(jax.random.key(0)), jnp.array([0.3])
    (_, expected), (_, found) = (e.step(jax.random.key(1), state, action) for e in (plain, env))
    np.testing.assert_allclose(found.reward, expected.reward - 3.0, rtol=1e-6)  # once per control step
    np.testing.assert_array_equal(found.obs, expected.obs)
