"""Model error against known answers: exact models, constant biases, known variances, known derivatives."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid_world import CELLS, FLICKER, LAMP_FLAG, make_grid_world

import valex
from valex.diagnostics.model_error import ErrorStudy, measure, model_error
from valex.diagnostics.model_statistics import explained, spread_of_members, summary
from valex.diagnostics.plain import plain
from valex.envs.base import native_env
from valex.envs.classic import PendulumState, make_pendulum
from valex.models.grid import make_grid
from valex.models.oracle import make_noisy_oracle, make_oracle
from valex.settings import LEARNED, EnvConfig, ModelConfig
from valex.train import Parts, TrainState
from valex.types import ActionSample, Agent, EnvSpec, Model, Opinions, StepOut

GAIN, LENGTH = 0.1, 50
STUDY = ErrorStudy(steps=20, starts=64, behaviour="uniform", gamma=0.9)
KEY, K = jax.random.key(3), np.arange(1, 21)


class Wrong(NamedTuple):
    """How wrong each of three members is about the integrator; leaves [3]."""

    bias: tuple = (0.0, 0.0, 0.0)  # added to the observation at every step
    gain: tuple = (1.0, 1.0, 1.0)  # factor of what the action does
    keep: tuple = (1.0, 1.0, 1.0)  # factor of what stays of the state
    reward: tuple = (0.0, 0.0, 0.0)  # added to the reward
    std: tuple = (1.0, 1.0, 1.0)  # predicted standard deviation


@lru_cache
def integrator(noise=0.0, bound=np.inf):
    """x' = x + 0.1 a + noise xi, r = x, and a second number that no step changes; ends at |x| > bound."""
    spec = EnvSpec("integrator", 2, 1, 0, LENGTH, 1, 1.0, "jax", True)

    def step(key, state, action):
        after = state.at[0].add(GAIN * action[0] + noise * jax.random.normal(key))
        return after, StepOut(after, state[0], jnp.abs(after[0]) > bound)

    ended = lambda obs, action, next_obs: jnp.abs(next_obs[0]) > bound  # noqa: E731
    return native_env(
        spec, lambda key: jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1), step, lambda s: s, ended
    )


def opinionated(opinions, members):
    """A model that says `opinions(params, obs, action)`; leaves of params [members]."""

    def step(params, key, obs, action):
        said = opinions(params, obs, action)
        return said.obs[0], StepOut(said.obs[0], said.reward[0], jnp.zeros(said.reward.shape[1:], bool))

    return Model(
        init=lambda key: (),
        start=lambda params, key, obs, sim_state: obs,
        step=step,
        update=lambda params, key, replay: (params, {}),
        needs_sim_state=False,
        differentiable=True,
        members=members,
        pick=lambda params, member: jax.tree.map(lambda x: x[member][None], params),
        opinions=opinions,
    )


def wrong_opinions(params, obs, action):
    """What members say that are wrong in a known way."""
    one = lambda x: x.reshape(-1, *(1,) * (obs.ndim - 1))  # noqa: E731
    x = one(params.keep) * obs[..., 0] + one(params.gain) * GAIN * action[..., 0] + one(params.bias)
    mean = jnp.stack([x, jnp.broadcast_to(obs[..., 1], x.shape)], axis=-1)
    reward = obs[..., 0] + one(params.reward)
    std = jnp.broadcast_to(one(params.std)[..., None], mean.shape)
    return Opinions(mean, jnp.broadcast_to(reward, x.shape), std, jnp.zeros_like(x))


def policy(state, key, obs, explore):
    """Push towards 0.3."""
    action = jnp.tanh(0.3 - obs[..., :1])
    return ActionSample(action, jnp.zeros(obs.shape[:-1]), action)


MEMBERS = opinionated(wrong_opinions, 3)
AGENT = Agent(*[policy] * 5)


def errors(wrong, env=None, study=STUDY, key=KEY):
    return found(
        Parts(env or integrator(), MEMBERS, AGENT, 1), jax.tree.map(jnp.array, Wrong(*map(list, wrong))), study, key
    )


def found(parts, params, study=STUDY, key=KEY):
    params = Wrong(*map(jnp.array, params)) if isinstance(params, Wrong) else params
    return model_error(parts, TrainState((), params, (), (), jnp.uint32(0), jnp.int32(0)), key, study)  # pyright: ignore


# open loop


def test_a_constant_bias_grows_with_every_step():
    bias, reward = (0.02, -0.01, 0.03), 0.5
    result = errors(Wrong(bias=bias, reward=(reward,) * 3))
    sigma, open_loop = result["sigma"][0], result["open_loop"]
    assert np.isnan(result["sigma"][1])  # nothing is to be predicted there: left out
    average = np.mean(bias) * K / sigma
    for name in ("mean", "median", "q10", "q90", "rms"):
        np.testing.assert_allclose(open_loop["obs"]["members"][name], np.abs(bias)[:, None] * K / sigma, rtol=1e-3)
        np.testing.assert_allclose(open_loop["obs"]["mean"][name], average, rtol=1e-3)
        np.testing.assert_allclose(open_loop["obs"]["rollout"][name], bias[0] * K / sigma, rtol=1e-3)
    np.testing.assert_allclose(result["linear"], average, rtol=1e-3)
    np.testing.assert_allclose(result["growth"]["members"], np.broadcast_to(K, (3, 20)), rtol=1e-3)
    missed = np.cumsum(0.9 ** (K - 1) * (np.mean(bias) * (K - 1) + reward))  # rewards are read off the observation
    np.testing.assert_allclose(open_loop["return"]["mean"]["median"], missed, rtol=1e-3)
    assert np.all(open_loop["count"] == 64)


def test_spread_against_error():
    bias = (0.02, -0.01, 0.03)
    result = errors(Wrong(bias=bias))
    spread = np.sqrt((1.0 + 1.0 / 3.0) * np.var(bias, ddof=1)) * K / result["sigma"][0]
    np.testing.assert_allclose(result["spread"]["spread"]["rms"], spread, rtol=1e-3)
    average = np.mean(bias) * K / result["sigma"][0]
    np.testing.assert_allclose(result["spread"]["error"]["rms"], average, rtol=1e-3)
    np.testing.assert_allclose(result["spread"]["ratio_rms"], spread / average, rtol=1e-3)


def test_persistence_and_the_intrinsic_line_of_an_integrator():
    result = errors(Wrong(bias=(0.02,) * 3))["open_loop"]["obs"]
    first = result["mean"]["median"][0]
    np.testing.assert_allclose(
        result["intrinsic"]["median"], np.full(20, first), rtol=1e-2
    )  # it keeps a distance as it is
    np.testing.assert_allclose(result["intrinsic"]["q90"], result["intrinsic"]["q10"], rtol=1e-2)
    ratio = result["persistence"]["rms"] / np.sqrt(K)  # a walk of independent steps
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.25)


def test_what_leaves_the_numbers_counts_as_a_million():
    result = errors(Wrong(bias=(np.inf, 0.0, 0.0)))["open_loop"]["obs"]["members"]
    assert np.all(result["median"][0] == 1e6) and np.all(result["rms"][1:] < 1e-5)


def test_errors_count_up_to_the_true_end():
    result = errors(Wrong(bias=(0.02,) * 3), integrator(bound=0.25))
    count = result["open_loop"]["count"]
    assert count[0] == 64 and np.all(np.diff(count) <= 0) and 0 < count[-1] < 64
    sigma = result["sigma"][0]
    np.testing.assert_allclose(result["open_loop"]["obs"]["mean"]["q90"], 0.02 * K / sigma, rtol=1e-3)
    assert result["closed_loop"]["count"][-1] < 64  # the policy pushes beyond the bound


def test_a_step_that_no_start_has_is_not_a_number():
    one = summary(np.ones((2, 3, 4)), np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool))
    assert np.all(np.isfinite(one["rms"][:, :2])) and np.all(np.isnan(one["rms"][:, 2]))


def test_the_horizon_is_cut_to_the_episode():
    parts, study = Parts(integrator(), MEMBERS, AGENT, 1), STUDY._replace(steps=1_000)
    raw = jax.eval_shape(lambda p: measure(parts, study, (), p, KEY), Wrong(*[jnp.zeros(3)] * 5))
    assert raw.predicted.shape == (3, LENGTH, 64, 2)


# closed loop


def test_closed_loop_follows_the_policy_in_both():
    result = errors(Wrong(bias=(0.0, 0.01, 0.01)))
    ours, true, gap = 0.0, 0.0, []
    for _ in K:  # from x = 0; how the policy pulls together hardly depends on where it starts
        ours, true = ours + GAIN * np.tanh(0.3 - ours) + 0.01, true + GAIN * np.tanh(0.3 - true)
        gap.append((ours - true) / result["sigma"][0])
    closed = result["closed_loop"]["obs"]["members"]["median"]
    np.testing.assert_allclose(closed[1], gap, rtol=0.05)
    assert np.all(closed[0] < 1e-5) and closed[1, -1] < 0.9 * result["open_loop"]["obs"]["members"]["median"][1, -1]


# one step and calibration


def test_one_step_r2_of_a_constant_bias():
    result = errors(Wrong(bias=(0.02,) * 3))["one_step"]
    still = result["persistence"]
    assert abs(still["r2_change"]["mean"]) < 0.01 and still["r2_next"]["mean"] > 0.8  # flattering
    share = 0.02**2 / (GAIN**2 / 3.0)  # of the variance of the change
    np.testing.assert_allclose(result["mean"]["r2_change"]["mean"], 1.0 - share, atol=0.01)
    assert result["mean"]["r2_next"]["worst"] > result["mean"]["r2_change"]["worst"]
    assert np.isnan(result["mean"]["r2_next"]["by_dim"][1])


def test_r2_by_dimension_by_hand():
    truth = np.array([[[0.0, 1.0]], [[2.0, 1.0]], [[9.0, 9.0]]])
    miss = np.array([[[0.5, 0.0]], [[0.5, 0.0]], [[9.0, 9.0]]])
    result = explained(miss, truth, np.array([[True], [True], [False]]), np.array([1.0, np.inf]))
    np.testing.assert_allclose(result["by_dim"], [1.0 - 0.5 / 2.0, np.nan])
    assert result["mean"] == result["worst"] == 0.75


def test_a_known_variance_is_calibrated():
    result = errors(Wrong(std=(0.05, 0.05, 0.025)), integrator(noise=0.05))["predicted_variance"]["members"]
    np.testing.assert_allclose(result["square"], [1.0, 1.0, 4.0], rtol=0.15)
    np.testing.assert_allclose(result["within_50"][:2], 0.5, atol=0.05)
    np.testing.assert_allclose(result["within_90"], [0.9, 0.9, 0.589], atol=0.04)  # P(|z| < 1.645 / 2)


def test_a_mixture_adds_the_variance_of_the_means():
    result = errors(Wrong(bias=(-0.06, 0.0, 0.06), std=(0.01,) * 3), integrator(noise=0.05))["predicted_variance"]
    np.testing.assert_allclose(result["mixture"]["square"], 0.05**2 / (0.01**2 + 2.0 / 3.0 * 0.06**2), rtol=0.15)


def test_the_ratio_is_one_where_the_truth_is_one_more_draw():
    rng, valid = np.random.default_rng(1), np.ones((3, 4_000), bool)
    members, truth = rng.normal(size=(5, 3, 4_000, 9)), rng.normal(size=(3, 4_000, 9))
    np.testing.assert_allclose(spread_of_members(members, truth, valid, np.ones(9))["ratio_rms"], 1.0, atol=0.03)
    centred = spread_of_members(members, 0.0 * truth, valid, np.ones(9))  # the truth in the middle of the members
    np.testing.assert_allclose(centred["ratio_rms"], np.sqrt(6.0), atol=0.05)
    np.testing.assert_allclose(centred["ratio_member"], 1.0, atol=0.05)


# derivatives


def test_relative_errors_of_derivatives():
    result = errors(Wrong(bias=(0.1, 0.2, 0.0), gain=(1.5, 1.0, 0.5), keep=(0.9, 1.0, 1.1)))["derivatives"]
    np.testing.assert_allclose(result["members"]["action"]["median"], [0.5, 0.0, 0.5], atol=1e-3)
    np.testing.assert_allclose(result["members"]["state"]["median"], [0.1, 0.0, 0.1], atol=1e-3)
    assert result["mean"]["action"]["q90"] < 1e-3 and result["mean"]["state"]["q90"] < 1e-3


@lru_cache
def pendulum():
    return make_pendulum(EnvConfig("pendulum"))


def pendulum_opinions(params, obs, action):
    """What the pendulum does, the state read off the observation."""
    step = lambda o, a: pendulum().step(KEY, PendulumState(jnp.arctan2(o[1], o[0]), o[2]), a)[1]  # noqa: E731
    out = jax.vmap(step)(obs.reshape(-1, 3), action.reshape(-1, 1))
    out = jax.tree.map(lambda x: x.reshape(1, *obs.shape[:-1], *x.shape[1:]), out)
    return Opinions(out.obs, out.reward, jnp.zeros_like(out.obs), jnp.zeros_like(out.reward))


def test_a_model_that_is_the_oracle_makes_no_error():
    result = found(Parts(pendulum(), opinionated(pendulum_opinions, 1), AGENT, 1), ())
    for loop in ("open_loop", "closed_loop"):
        assert max(np.max(result[loop]["obs"][name]["rms"]) for name in ("members", "mean", "rollout")) < 1e-3
        assert np.max(result[loop]["return"]["mean"]["rms"]) < 1e-2
        assert result[loop]["obs"]["persistence"]["median"][-1] > 0.5
    assert np.min(result["one_step"]["members"]["r2_change"]["worst"]) > 0.99999
    for row in result["derivatives"]["mean"].values():
        assert row["q90"] < 0.02
    assert "spread" not in result


def test_simulators_are_followed_by_their_steps():
    env = pendulum()
    model = make_noisy_oracle(env, ModelConfig("noisy_oracle", noise=0.1, bias=0.2))
    dial, parts = model.init(KEY), Parts(env, model, AGENT, 1)
    result = found(parts, dial)
    error, off = result["open_loop"]["obs"]["members"]["rms"], result["open_loop"]["obs"]["intrinsic"]["median"]
    assert error.shape == (1, 20) and "spread" not in result and "predicted_variance" not in result
    assert result["derivatives"]["mean"]["action"]["median"] < 0.05  # an error that is added has next to no derivative
    assert 0.001 < error[0, 0] < 0.2 and error[0, -1] > 2.0 * error[0, 0]
    assert off[0] == pytest.approx(error[0, 0], rel=0.6)
    exact = found(parts, dial._replace(unit=jax.tree.map(jnp.zeros_like, dial.unit)))  # the oracle
    assert np.all(exact["open_loop"]["obs"]["members"]["rms"] < 1e-5)
    assert np.all(exact["closed_loop"]["obs"]["members"]["rms"] < 1e-5)
    assert np.all(exact["open_loop"]["obs"]["intrinsic"]["rms"] < 1e-5)  # an error of 0 moves no start
    assert all(row["q90"][0] < 1e-5 for row in exact["derivatives"]["members"].values())


# flags and discrete actions


def walk_right(state, key, obs, explore):
    """Action 3 in every state."""
    action = jnp.full(obs.shape[:-1], 3)
    return ActionSample(action, jnp.zeros(obs.shape[:-1]), action)


def test_errors_of_flags_are_those_of_what_cannot_be_known():
    """A simulator that is followed twice differs in the lamp alone: sqrt(2) standard deviations of a lamp that is redrawn."""
    env = make_grid_world(peril=0.0)
    parts = Parts(env, make_oracle(env), AGENT._replace(act=walk_right), 1)
    result = found(parts, (), STUDY._replace(steps=10))
    assert set(result["left_out"]) == {"derivatives", "intrinsic", "predicted_variance"} and "derivatives" not in result
    moves, sigma = np.isfinite(result["sigma"]), result["sigma"]
    assert moves[LAMP_FLAG] and np.sum(moves) > 15 and not np.any(moves[1::3])  # the food stays where it is
    np.testing.assert_allclose(sigma[LAMP_FLAG], np.sqrt(FLICKER * (1.0 - FLICKER)), atol=0.02)
    rms = result["open_loop"]["obs"]["members"]["rms"][0]
    np.testing.assert_allclose(rms, np.sqrt(2.0 / np.sum(moves)), rtol=0.3)
    np.testing.assert_allclose(result["open_loop"]["obs"]["again"]["rms"], rms)
    assert np.all(result["closed_loop"]["obs"]["members"]["rms"] == 0.0)  # there both draw the same noise
    assert np.max(result["open_loop"]["return"]["mean"]["rms"]) < 1e-5
    r2 = result["one_step"]["mean"]["r2_next"]["by_dim"]
    assert r2[LAMP_FLAG] < 0.0 and np.nanmin(np.delete(r2, LAMP_FLAG)) == 1.0


def test_a_learned_model_of_flags_is_measured():
    """Untrained: it holds everything, so that its mean is about persistence; every number can be written as JSON."""
    env = make_grid_world()
    model = make_grid(env, ModelConfig(**vars(LEARNED["grid"]) | {"num_models": 2, "hidden": (4,)}))
    parts = Parts(env, model, AGENT._replace(act=walk_right), 1)
    result = found(parts, model.init(KEY), STUDY._replace(steps=10))
    assert result["path"]["members"].shape == (2, 10, CELLS) and result["spread"]["spread"]["rms"].shape == (10,)
    first = result["one_step"]
    ratio = first["mean"]["error"]["rms"] / first["persistence"]["error"]["rms"]
    assert 0.8 < ratio < 1.2 and "predicted_variance" not in result
    assert plain(result)["left_out"]["derivatives"] == "flags have no derivatives"
    with pytest.raises(ValueError, match="behaviour: .*grid_world are discrete"):
        found(parts, model.init(KEY), STUDY._replace(behaviour="ou"))


def test_discrete_actions_alone_leave_derivatives_out():
    env = valex.make_env(EnvConfig("probe_both_discrete"))
    parts = Parts(env, make_oracle(env), AGENT._replace(act=walk_right), 1)
    result = found(parts, (), STUDY._replace(steps=2))
    assert set(result["left_out"]) == {"derivatives", "intrinsic"} and "derivatives" not in result


# as users call it


def test_repeats_from_its_key_is_compiled_once_and_says_what_it_cannot_do():
    wrong, before = Wrong(bias=(0.01, 0.02, 0.0)), measure._cache_size()
    first, second, other = errors(wrong), errors(wrong), errors(wrong, key=jax.random.key(4))
    assert measure._cache_size() <= before + 1
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(first["path"]["true"], other["path"]["true"])
    parts = Parts(integrator(), MEMBERS, AGENT, 1)
    with pytest.raises(ValueError, match="no dynamics model"):
        valex.model_error(parts._replace(model=None), found, KEY, STUDY)
    with pytest.raises(ValueError, match="behaviour: got 'wild'"):
        errors(wrong, study=STUDY._replace(behaviour="wild"))
