"""Improvement at test time: steps by hand on a quadratic value, and training that stops where Q and the tether balance."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandit import BEST, CURVATURE, DIMS, UNIT, exact_value

from valex import replay
from valex.distributions import normal_kl
from valex.offline.batch import Dims
from valex.offline.extraction import make_bc, make_sfbc
from valex.offline.testtime import Visited, make_ttt, opex, with_opex
from valex.offline.values import Value, advantage_of, make_iql
from valex.settings.offline import TEST_TIME_CONFIGS, BCConfig, IQLConfig, OPEXConfig, SfBCConfig, TTTConfig

CENTRE, WEIGHT = jnp.array([0.5, -0.25]), jnp.array([1.0, 3.0])
A = jnp.array([[0.0, 0.0], [-0.5, 0.75]])
LINEAR = BCConfig(hidden=(), lr=3e-3)


def quadratic(action):
    """Two critics, Q_0 = -1/2 sum w (a - c)^2 - 1 and one that is 2 higher and half as steep."""
    q = -0.5 * jnp.sum(WEIGHT * jnp.square(action - CENTRE), axis=-1) - 1.0
    return jnp.stack([q, 0.5 * q + 2.0])


@pytest.mark.parametrize("agg", ["min", "mean"])
@pytest.mark.parametrize("scale", ["raw", "q_abs_mean", "grad_norm"])
def test_steps_by_hand(scale, agg):
    config, a = OPEXConfig(beta=0.1, steps=3, scale=scale, q_agg=agg), np.asarray(A, np.float64)
    steep = 1.0 if agg == "min" else 0.75
    for _ in range(3):
        q = -0.5 * (np.asarray(WEIGHT) * (a - np.asarray(CENTRE)) ** 2).sum(-1) - 1.0
        q = q if agg == "min" else 0.75 * q + 1.0
        slope = -steep * np.asarray(WEIGHT) * (a - np.asarray(CENTRE))
        by = {"raw": 1.0, "q_abs_mean": np.abs(q).mean(), "grad_norm": np.linalg.norm(slope, axis=-1, keepdims=True)}
        a = np.clip(a + 0.1 * slope / by[scale], -1, 1)
    np.testing.assert_allclose(opex(config, quadratic, A), a, atol=1e-5)


def test_opex_ascends_to_the_best_action_and_stays_in_the_box():
    many = OPEXConfig(beta=0.2, steps=60)
    np.testing.assert_allclose(opex(many, quadratic, A), jnp.broadcast_to(CENTRE, (2, 2)), atol=1e-4)
    outside = lambda action: quadratic(action - jnp.array([2.0, 0.0]))  # noqa: E731  its best action is (2.5, -0.25)
    np.testing.assert_allclose(opex(many, outside, A), jnp.array([[1.0, -0.25]] * 2), atol=1e-4)
    np.testing.assert_array_equal(opex(replace(many, beta=0.0), quadratic, A), A)
    np.testing.assert_array_equal(opex(replace(many, steps=0), quadratic, A), A)
    flat = opex(OPEXConfig(scale="grad_norm"), lambda action: 0.0 * quadratic(action), A)
    np.testing.assert_array_equal(flat, A)  # no direction: no step, not NaN


def test_one_row_does_not_depend_on_the_others_but_for_q_abs_mean():
    alone = lambda scale: opex(OPEXConfig(scale=scale), quadratic, A[1:])[0]  # noqa: E731
    for scale in ("raw", "grad_norm"):
        np.testing.assert_allclose(opex(OPEXConfig(scale=scale), quadratic, A)[1], alone(scale), rtol=1e-6)


def test_a_policy_with_opex():
    """Every action is that of the policy, climbed; the update stays the policy's own."""
    dims = Dims(3, 2, 1)
    value = make_iql(IQLConfig(hidden=(8,), layer_norm=False), dims)  # smooth: a short step ascends for certain
    frozen, config = jax.jit(value.init)(jax.random.key(1)), OPEXConfig(beta=0.05, steps=2, q_agg="mean")
    policy = make_sfbc(SfBCConfig(hidden=(8,), samples=4, flow_steps=2), dims, value)
    better = with_opex(config, policy, value)
    state, obs, goal = jax.jit(policy.init)(jax.random.key(0)), jnp.ones((5, 3)), jnp.ones((5, 1))
    plain = policy.act(state, jax.random.key(2), obs, goal, False, frozen).action
    climbed = better.act(state, jax.random.key(2), obs, goal, False, frozen).action
    np.testing.assert_allclose(climbed, opex(config, lambda a: value.q(frozen, obs, a, goal), plain), atol=1e-6)
    q = lambda a: jnp.mean(value.q(frozen, obs, a, goal), axis=0)  # noqa: E731
    assert bool(jnp.all(q(climbed) >= q(plain) - 1e-6)) and bool(jnp.any(climbed != plain))
    assert better.update is policy.update


# --------------------------------------------------------------------------------------------------------------------- TTT


@cache
def ttt_program(config: TTTConfig, std: str):
    """Return a policy for the bandit, its first state, and training of it with beta and the budget traced."""
    policy, value = make_bc(replace(LINEAR, std=std), DIMS), exact_value(0.0)
    start = jax.jit(policy.init)(jax.random.key(0))

    def run(beta, budget, keys):
        learner = make_ttt(replace(config, beta=beta, max_updates=budget), DIMS, policy, value)
        visit = Visited(jnp.zeros((1, 1)))
        return jax.lax.scan(lambda s, key: learner.step(s, key, visit, ()), learner.start(start), keys)

    return policy, start, jax.jit(run)


def ttt_on_the_bandit(config: TTTConfig, steps: int, std: str = "unit"):
    policy, _, run = ttt_program(replace(config, beta=0.0, max_updates=0), std)
    state, metrics = run(config.beta, config.max_updates, jax.random.split(jax.random.key(1), steps))
    return policy, state, jax.tree.map(lambda x: x[-1], metrics)


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_ttt_stops_where_q_and_the_tether_balance(beta):
    """With spread 1 the KL is |mu - mu_off|^2 / 2: mu = (k a* + beta mu_off) / (k + beta), mu_off = 0."""
    config = TTTConfig(beta=beta * CURVATURE, lr=3e-3, batch_size=8, capacity=16)
    policy, state, metrics = ttt_on_the_bandit(config, 400)
    mean = float(policy.mean(state.policy, jnp.zeros(1))[0]) / UNIT
    assert abs(mean - BEST / (1 + beta)) < 0.02
    np.testing.assert_allclose(metrics["policy/kl"], 0.5 * (mean * UNIT) ** 2, rtol=0.05)


def test_ttt_has_a_budget_and_leaves_the_offline_policy_alone():
    config = TTTConfig(beta=0.0, lr=1e-2, batch_size=4, capacity=16, updates_per_step=3, max_updates=10)
    policy, state, _ = ttt_on_the_bandit(config, 20)
    assert int(state.updates) == 10
    start = ttt_program(replace(config, beta=0.0, max_updates=0), "unit")[1].params
    jax.tree.map(np.testing.assert_array_equal, state.offline, start)
    assert any(
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.policy.params, start)), strict=True)
    )
    _, none, _ = ttt_on_the_bandit(replace(config, max_updates=0), 20)
    jax.tree.map(np.testing.assert_array_equal, none.policy.params, start)


def test_ttt_remembers_the_newest_states_and_mixes_in_the_dataset():
    """What is read shows in Q: the value is the state itself, visited 1, 2, 3, ... and -100 in the dataset."""
    dims = Dims(1, 1)
    q = lambda frozen, obs, action, goal=(): jnp.stack([obs[..., 0] + 0.0 * action[..., 0]] * 2)  # noqa: E731
    v = lambda frozen, obs, goal=(): obs[..., 0]  # noqa: E731
    value = Value(lambda key: (), lambda s, k, b: (s, {}), q, v, advantage_of(q, v))
    policy = make_bc(LINEAR, dims)
    config = TTTConfig(batch_size=64, capacity=4)

    def q_seen(config, dataset=None):
        learner = make_ttt(config, dims, policy, value)
        state, step = learner.start(jax.jit(policy.init)(jax.random.key(0))), jax.jit(learner.step)
        for i in range(1, 8):
            visit = Visited(jnp.full((1, 1), float(i)))
            state, metrics = step(state, jax.random.key(i), visit, (), dataset)
        assert int(state.visited.size) == 4
        rows = replay.gather(state.visited, jnp.arange(4)).obs
        assert sorted(np.asarray(rows)[:, 0].tolist()) == [4.0, 5.0, 6.0, 7.0]
        return float(metrics["policy/q"])

    assert 4.5 < q_seen(config) < 6.5
    data = Visited(jnp.full((10, 1), -100.0))
    np.testing.assert_allclose(q_seen(replace(config, dataset_share=1.0), data), -100.0, rtol=1e-5)
    assert abs(q_seen(replace(config, dataset_share=0.5), data) - (5.5 - 100) / 2) < 1.0
    with pytest.raises(ValueError, match="needs the states"):
        q_seen(replace(config, dataset_share=0.5))


def test_ttt_moves_a_learned_spread_by_the_kl_of_the_offline_policy():
    """With a flat Q the KL of the offline policy to itself is 0, and so, but for rounding, is its gradient."""
    value = exact_value(0.0)
    flat = value._replace(q=lambda s, o, a, g=(): 0.0 * value.q(s, o, a, g))
    policy = make_bc(replace(LINEAR, std="state"), DIMS)
    learner = make_ttt(TTTConfig(batch_size=4, capacity=4), DIMS, policy, flat)
    state = learner.start(jax.jit(policy.init)(jax.random.key(0)))
    _, metrics = jax.jit(learner.step)(state, jax.random.key(1), Visited(jnp.ones((1, 1))), ())
    assert abs(float(metrics["policy/kl"])) < 1e-6 and float(metrics["policy/grad_norm"]) < 1e-6
    slope = jax.grad(lambda m: jnp.sum(normal_kl(jnp.ones(2), jnp.ones(2), m, jnp.ones(2))))(jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(slope, [1.0, 0.0])  # of the second argument: the mode is not sought


def test_ttt_needs_a_gaussian():
    value = exact_value(0.0)
    with pytest.raises(ValueError, match="Gaussian"):
        make_ttt(TTTConfig(), DIMS, make_sfbc(SfBCConfig(hidden=(8,)), DIMS, value), value)


def test_every_test_time_config_is_used_here():
    assert set(TEST_TIME_CONFIGS) == {"opex", "ttt"}
