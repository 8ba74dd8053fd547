"""Extractors reach the closed forms of a bandit with a perfect critic, and say what they did to their data."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandit import BEST, CURVATURE, DIMS, UNIT, data, exact_q, exact_value, fit

from valex.distributions import normal_kl, normal_log_prob
from valex.losses import advantage_weights, sample_share
from valex.offline.batch import Batch, Dims
from valex.offline.extraction import choose_best, make_awr, make_bc, make_ddpg_bc, make_sfbc, q_scale
from valex.offline.values import make_iql
from valex.settings.offline import EXTRACTION_CONFIGS, AWRConfig, BCConfig, DDPGBCConfig, IQLConfig, SfBCConfig
from valex.tables import EXTRACTORS, load

FLAT = {"hidden": (), "lr": 3e-3}
SMALL = {"hidden": (32, 32), "activation": "relu", "lr": 3e-3}


@cache
def weighted(clip: float | None):
    """Build AWR on the bandit's 20,000 rows once; alpha is data."""
    mean_q = float(jnp.mean(data(20_000).reward))
    return make_awr(AWRConfig(**FLAT, weight_clip=clip), DIMS, exact_value(mean_q))


@cache
def tethered():
    """Build DDPG+BC on the bandit once; alpha is data."""
    return make_ddpg_bc(DDPGBCConfig(**FLAT, q_norm="none"), DIMS, exact_value(0.0))


def mean_action(policy, state, frozen=()) -> float:
    """Return the deterministic action of the bandit in its own units."""
    return float(policy.mean(state, jnp.zeros(1), (), frozen)[0]) / UNIT


# --------------------------------------------------------------------------------------------------- the numbers of the bandit


@pytest.mark.parametrize(
    ("alpha", "free", "share", "clipped"), [(1, 1.49, 0.19, 1.45), (3, 2.24, 0.037, 0.95), (10, 2.71, 0.009, 0.76)]
)
def test_awr_of_finite_data(alpha, free, share, clipped):
    """Mean action, and ESS / N, over 200 data sets of 1,000: with the bound at 100 a larger alpha is less greedy."""
    action = jnp.asarray(np.random.default_rng(0).normal(size=(200, 1_000)), jnp.float32)
    q = -0.5 * jnp.square(action - BEST)
    advantage = q - jnp.mean(q, axis=1, keepdims=True)

    def over(clip):
        weight = jax.vmap(lambda a: advantage_weights(a, alpha, clip))(advantage)
        return float(jnp.mean(jnp.sum(weight * action, 1) / jnp.sum(weight, 1)))

    assert abs(over(None) - free) < 0.02
    assert abs(over(100.0) - clipped) < 0.02
    shares = jax.vmap(sample_share)(alpha * advantage)
    np.testing.assert_allclose(jnp.mean(shares), share, rtol=0.06)


@pytest.mark.parametrize(("alpha", "clip"), [(0.0, None), (1.0, None), (3.0, None), (3.0, 100.0)])
def test_awr_converges_to_the_weighted_mean(alpha, clip):
    """mu = sum w a / sum w of its very data; alpha 0 is BC, and infinite data give alpha a* / (1 + alpha)."""
    batch, policy = data(20_000), weighted(clip)
    mean_q = float(jnp.mean(batch.reward))
    state, metrics = fit(policy.update, policy.init(jax.random.key(0), alpha), batch, ((),), steps=300)
    exponent = alpha * (np.asarray(batch.reward) - mean_q)
    weight = np.minimum(np.exp(exponent), np.inf if clip is None else clip)
    assert abs(mean_action(policy, state) - np.sum(weight * batch.action[:, 0]) / np.sum(weight) / UNIT) < 0.02
    if clip is None:
        assert abs(mean_action(policy, state) - alpha * BEST / (1 + alpha)) < (0.05 if alpha < 3 else 0.1)
    np.testing.assert_allclose(metrics["policy/mean_weight"], weight.mean(), rtol=1e-3)
    np.testing.assert_allclose(
        metrics["policy/ess_share"], weight.sum() ** 2 / (weight**2).sum() / len(weight), rtol=1e-3
    )
    free = np.exp(exponent - exponent.max())
    np.testing.assert_allclose(
        metrics["policy/ess_share_unclipped"], free.sum() ** 2 / (free**2).sum() / len(free), rtol=1e-3
    )
    np.testing.assert_allclose(
        metrics["policy/clip_share"], np.mean(exponent >= np.log(clip)) if clip else 0.0, atol=1e-4
    )


def test_an_advantage_in_standard_deviations():
    """With normalize_advantage, alpha 1 weighs by exp(A / std A): the unit of the reward does not matter."""
    batch = data(2_000)
    value = exact_value(0.0)
    value = value._replace(advantage=lambda unit, o, a, g=(): unit * (exact_q(a) - jnp.mean(batch.reward)))
    policy = make_awr(AWRConfig(**FLAT, alpha=1.0, normalize_advantage=True), DIMS, value)
    start, means = jax.jit(policy.init)(jax.random.key(0)), []
    for unit in (1.0, 50.0):
        state, metrics = fit(policy.update, start, batch, (unit,), steps=300)
        means.append(mean_action(policy, state))
        np.testing.assert_allclose(metrics["policy/advantage_std"], 1.0, rtol=1e-4)
    np.testing.assert_allclose(*means, atol=0.01)


@pytest.mark.parametrize("rows", [30, 1_000])
@pytest.mark.parametrize(("alpha", "on_average"), [(0.1, 2.73), (0.3, 2.31), (1.0, 1.50)])
def test_ddpg_bc_with_a_perfect_critic(rows, alpha, on_average):
    """mu = (k a* + alpha m) / (k + alpha) whatever the data reach: it leaves their hull where AWR cannot."""
    batch = data(rows)
    m = float(jnp.mean(batch.action)) / UNIT
    exact = (BEST + alpha * m) / (1 + alpha)
    means = [
        float(np.mean((BEST + alpha * np.random.default_rng(i).normal(size=rows).mean()) / (1 + alpha)))
        for i in range(200)
    ]
    assert abs(np.mean(means) - on_average) < 0.03
    policy = tethered()
    state, metrics = fit(policy.update, policy.init(jax.random.key(0), alpha * CURVATURE), batch, ((),), steps=300)
    assert abs(mean_action(policy, state) - exact) < 0.01
    spread = float(
        jnp.sqrt(jnp.mean(jnp.square(batch.action / UNIT - exact)))
    )  # the tether of a row pulls to its own action
    np.testing.assert_allclose(metrics["policy/gradient_ratio"], (BEST - exact) / (alpha * spread), rtol=0.02)
    assert mean_action(policy, state) > float(jnp.max(batch.action)) / UNIT or rows > 30 or alpha == 1.0


def test_the_two_alphas_point_opposite_ways():
    """Both trace the same path on a Gaussian bandit, alpha of AWR being 1 / alpha of DDPG+BC, but for the finite data."""
    batch, awr, ddpg = data(20_000), weighted(None), tethered()
    for alpha in (0.5, 2.0):
        greedy = fit(awr.update, jax.jit(awr.init)(jax.random.key(0), alpha), batch, ((),), steps=300)[0]
        held = fit(ddpg.update, jax.jit(ddpg.init)(jax.random.key(0), CURVATURE / alpha), batch, ((),), steps=300)[0]
        assert abs(mean_action(awr, greedy) - mean_action(ddpg, held)) < 0.1


def test_q_norms():
    q = jnp.array([-3.0, 1.0, 5.0])
    assert float(q_scale(q, "none")) == 1.0
    np.testing.assert_allclose(q_scale(q, "abs_mean"), 3.0, rtol=1e-5)
    np.testing.assert_allclose(q_scale(q, "std"), np.std([-3, 1, 5]), rtol=1e-5)
    np.testing.assert_allclose(q_scale(q + 100.0, "std"), q_scale(q, "std"), rtol=1e-4)
    assert not np.any(jax.grad(lambda x: q_scale(x, "abs_mean"))(q))


@pytest.mark.parametrize("q_norm", ["none", "abs_mean", "std"])
def test_the_unit_of_q_matters_without_a_norm_only(q_norm):
    batch = data(200)
    value = exact_value(0.0)._replace(q=lambda unit, o, a, g=(): unit * jnp.stack([exact_q(a)] * 2))
    policy = make_ddpg_bc(DDPGBCConfig(**FLAT, alpha=CURVATURE, q_norm=q_norm), DIMS, value)
    seen = batch._replace(obs=batch.action)  # at one action for all rows the spread of Q is 0
    start = jax.jit(policy.init)(jax.random.key(0))
    means = [
        np.asarray(policy.mean(fit(policy.update, start, seen, (unit,), steps=300)[0], batch.action))
        for unit in (1.0, 100.0)
    ]
    assert np.allclose(*means, atol=1e-3) == (q_norm != "none")


@pytest.mark.parametrize(("samples", "mean"), [(4, 1.0), (16, 1.75), (64, 2.33), (256, 2.73)])
def test_sfbc_of_the_bandit(samples, mean):
    """The best of N draws of the behaviour itself, 4,000 observations at once, each choosing for itself."""
    candidates = UNIT * jax.random.normal(jax.random.key(0), (samples, 4_000, 1))
    chosen = choose_best(exact_q, candidates)
    assert abs(float(jnp.mean(chosen)) / UNIT - mean) < 0.05
    np.testing.assert_array_equal(chosen[7], candidates[int(jnp.argmax(exact_q(candidates[:, 7]))), 7])


def test_sfbc_fits_its_behaviour_and_acts_by_the_best_candidate():
    batch, value = data(2_000), exact_value(0.0)
    policy = make_sfbc(SfBCConfig(**FLAT, behaviour="gaussian", std="shared", samples=16), DIMS, value)
    state, _ = fit(policy.update, jax.jit(policy.init)(jax.random.key(0)), batch, ((),), steps=2_000)
    obs = jnp.zeros((4_000, 1))
    drawn = policy.act(state, jax.random.key(1), obs, (), True, ()).action
    assert abs(float(jnp.mean(drawn)) / UNIT - 1.75) < 0.1
    np.testing.assert_array_equal(drawn, policy.act(state, jax.random.key(1), obs, (), False, ()).action)
    np.testing.assert_array_equal(policy.mean(state, obs, (), ()), policy.mean(state, obs, (), ()))
    with pytest.raises(ValueError, match="shared or state"):
        make_sfbc(SfBCConfig(behaviour="gaussian", std="unit"), DIMS, value)


# ------------------------------------------------------------------------------------------------------------------ behaviours


def test_kl_of_diagonal_gaussians():
    at = lambda *x: [jnp.full(1, v) for v in x]  # noqa: E731
    np.testing.assert_allclose(normal_kl(*at(0.3, 0.5, -0.2, 0.8)), 0.360629, atol=1e-6)
    one = jnp.ones(2)
    np.testing.assert_allclose(normal_kl(jnp.array([1.0, 2.0]), one, jnp.array([0.0, -1.0]), one), 0.5 * (1 + 9))
    assert float(normal_kl(one, one, one, one)) == 0.0


def test_log_prob_of_a_gaussian():
    from scipy.stats import norm

    x, mean, std = np.array([0.3, -2.0]), np.array([0.1, 0.4]), np.array([0.5, 2.0])
    np.testing.assert_allclose(
        normal_log_prob(*map(jnp.asarray, (mean, std, x))), norm.logpdf(x, mean, std).sum(), rtol=1e-5
    )


@pytest.mark.parametrize("std", ["shared", "state"])
def test_a_gaussian_fits_mean_and_spread(std):
    batch = data(5_000)
    policy = make_bc(BCConfig(**FLAT, std=std), DIMS)
    state, _ = fit(policy.update, jax.jit(policy.init)(jax.random.key(0)), batch, steps=2_000)
    drawn = policy.act(state, jax.random.key(1), jnp.zeros((5_000, 1)), explore=True).action
    assert abs(float(jnp.std(drawn)) / UNIT - 1.0) < 0.05
    assert abs(mean_action(policy, state) - float(jnp.mean(batch.action)) / UNIT) < 0.02


@pytest.mark.parametrize("behaviour", ["gaussian", "mixture", "flow"])
def test_two_modes_are_told_apart_by_mixture_and_flow(behaviour):
    """Half the data at 0.2, half at -0.7: a Gaussian's candidates lie between, those of the others do not."""
    modes = jnp.where(jnp.arange(300) % 2 == 0, 0.2, -0.7)
    noise = 0.03 * jnp.asarray(np.random.default_rng(0).normal(size=300), jnp.float32)
    batch = data(300)._replace(action=(modes + noise)[:, None])
    policy = make_bc(BCConfig(**SMALL, behaviour=behaviour, std="shared", components=2), DIMS)
    state, _ = fit(policy.update, jax.jit(policy.init)(jax.random.key(0)), batch, steps=1_500)
    drawn = policy.act(state, jax.random.key(1), jnp.zeros((2_000, 1)), explore=True).action
    near = float(jnp.mean(jnp.minimum(jnp.abs(drawn - 0.2), jnp.abs(drawn + 0.7)) < 0.15))
    assert near < 0.5 if behaviour == "gaussian" else near > 0.85, near
    assert 0.4 < float(jnp.mean(drawn > -0.25)) < 0.6


# ----------------------------------------------------------------------------------------------------------------- the contract


def some_batch(goal: int = 2) -> tuple[Batch, Dims]:
    keys = jax.random.split(jax.random.key(3), 4)
    obs, action = jax.random.normal(keys[0], (16, 3)), jax.random.uniform(keys[1], (16, 2), minval=-1.0)
    zeros = jnp.zeros(16)
    goals = jax.random.normal(keys[2], (16, goal)) if goal else ()
    return Batch(obs, action, zeros, obs, zeros > 0, action, zeros == 0, goals), Dims(3, 2, goal)


@cache
def some_value(goal: int = 2):
    """Return a value that knows nothing, and two states of it."""
    value = make_iql(IQLConfig(hidden=(8,), activation="relu", layer_norm=False), some_batch(goal)[1])
    init = jax.jit(value.init)
    return value, init(jax.random.key(9)), init(jax.random.key(10))


KINDS = {
    "bc": [{"std": "state"}, {"behaviour": "mixture"}],
    "awr": [{"std": "shared"}],
    "ddpg_bc": [{"std": "unit"}, {"std": "state", "activation": "gelu"}],
}
CASES = [(name, changes) for name in EXTRACTORS for changes in KINDS.get(name, [{}])]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_every_registered_extractor_keeps_the_contract(name, changes):
    """Shapes, finite metrics, actions in the box, no step for the value, a state of unchanged type, goals that are read."""
    batch, dims = some_batch()
    value, frozen, _ = some_value()
    policy = load(EXTRACTORS, name)(replace(EXTRACTION_CONFIGS[name](**SMALL), hidden=(16,), **changes), dims, value)
    state = jax.jit(policy.init)(jax.random.key(0))
    new, metrics = jax.jit(policy.update)(state, jax.random.key(1), batch, frozen)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), new)
    assert all(bool(jnp.isfinite(x)) for x in metrics.values()) and {"policy/loss", "policy/grad_norm"} <= set(metrics)
    act = jax.jit(policy.act, static_argnums=4)
    sample = act(new, jax.random.key(2), 9.0 * batch.obs, batch.goal, True, frozen)
    assert sample.action.shape == (16, 2) and bool(jnp.all(jnp.abs(sample.action) <= 1.0))
    mean = jax.jit(policy.mean)
    one = mean(new, batch.obs[0], batch.goal[0], frozen)
    if name != "sfbc":  # whose candidates are drawn for all rows together
        np.testing.assert_allclose(one, mean(new, batch.obs, batch.goal, frozen)[0], atol=1e-6)
    assert one.shape == (2,) and not np.array_equal(one, mean(new, batch.obs[0], 5.0 + batch.goal[0], frozen))
    assert (policy.gaussian is not None) == (name != "sfbc" and changes.get("behaviour", "gaussian") == "gaussian")


@pytest.mark.parametrize("name", ["awr", "ddpg_bc"])
def test_no_gradient_reaches_the_value(name):
    """The loss of a policy as a function of the value's parameters: extraction leaves them alone, though it reads them."""
    batch, dims = some_batch(0)
    value, frozen, other = some_value(0)
    policy = load(EXTRACTORS, name)(EXTRACTION_CONFIGS[name](**SMALL), dims, value)
    step = jax.jit(policy.update)
    state, key = jax.jit(policy.init)(jax.random.key(0)), jax.random.key(1)
    a, b = (step(state, key, batch, f)[0].params for f in (frozen, other))
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    if name == "awr":
        slope = jax.grad(
            lambda params: policy.update(state, key, batch, frozen._replace(params=params))[1]["policy/loss"]
        )
        assert not any(np.any(x) for x in jax.tree.leaves(jax.jit(slope)(frozen.params)))


def test_configs_and_table_agree():
    assert set(EXTRACTORS) == set(EXTRACTION_CONFIGS)
