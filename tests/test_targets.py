"""Targets: numbers worked out by hand, an independent loop, limits, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex import targets
from valex.tables import RULES, load
from valex.types import ReturnInputs

# Two rows (H = 1): r = 1, 2; gamma = 0.5; V = 10, 20; Q(s_1, a_1) = 8; log rho = log 0.25; no end inside.
HAND = ReturnInputs(
    reward=jnp.array([[1.0], [2.0]]),
    discount=jnp.array([[0.5], [0.5]]),
    value=jnp.array([[10.0], [20.0]]),
    q=jnp.array([[8.0], [20.0]]),
    log_rho=jnp.log(jnp.array([[0.25], [1.0]])),
    continues=jnp.ones((2, 1)),
)
PLAIN = HAND._replace(q=HAND.value)
# G_1 = 2 + 0.5 * 20 = 12
# T_0 = 1 + 0.5 * 10 = 6, T_1 = 1 + 0.5 * 12 = 7
SAMPLES = (
    PLAIN._replace(  # two samples: V(s_1) 10 and 14, V(s_2) 20 and 20: T_0 = 6, 8 (variance 1), T_1 = 7, 7.5 (1 / 16)
        **{
            name: jnp.stack([getattr(PLAIN, name)] * 2, axis=1)
            for name in ("reward", "discount", "log_rho", "continues")
        },
        value=jnp.array([[[10.0], [14.0]], [[20.0], [22.0]]]),
        q=jnp.array([[[10.0], [14.0]], [[20.0], [22.0]]]),
    )
)
GOLDEN = [
    ("td", HAND, 0, 1.0, 1 + 0.5 * 10),
    ("h_step", PLAIN, 1, 1.0, 1 + 0.5 * 12),
    ("h_step", PLAIN, 0, 1.0, 1 + 0.5 * 10),
    ("h_step", HAND, 1, 1.0, 1 + 0.5 * (10 + 12 - 8)),
    ("td_lambda", PLAIN, 1, 0.25, 1 + 0.5 * (0.75 * 10 + 0.25 * 12)),
    ("retrace", HAND, 1, 1.0, 1 + 0.5 * (10 + 0.25 * (12 - 8))),
    ("retrace", HAND, 1, 0.5, 1 + 0.5 * (10 + 0.125 * (12 - 8))),
    ("mean", PLAIN, 1, 1.0, (6 + 7) / 2),
    ("mean", HAND, 1, 1.0, (6 + 8) / 2),  # doubly robust: T_1 = 1 + 0.5 (10 + 12 - 8) = 8
    ("mean", SAMPLES, 1, 1.0, (7 + 7.25) / 2),
    ("min", PLAIN, 1, 1.0, 6),
    ("min", PLAIN._replace(value=jnp.array([[10.0], [10.0]]), q=jnp.array([[10.0], [10.0]])), 1, 1.0, 1 + 0.5 * 7),
    ("min", SAMPLES, 1, 1.0, 7),  # of the means 7 and 7.25
    ("steve", PLAIN, 1, 1.0, (6 + 7) / 2),  # one sample: equal weights
    ("steve", SAMPLES, 1, 1.0, (7 * 1 + 7.25 * 16) / 17),
]


@pytest.mark.parametrize(("rule", "x", "horizon", "lam", "expected"), GOLDEN)
def test_golden_numbers(rule, x, horizon, lam, expected):
    np.testing.assert_allclose(load(RULES, rule).fold(x, horizon, lam), [expected], rtol=1e-6)


def test_every_rule_has_a_golden_number():
    assert set(RULES) == {row[0] for row in GOLDEN}


def random_inputs(rows=5, batch=9, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: rng.normal(size=(rows, batch))  # noqa: E731
    ends = (rng.random((rows, batch)) < 0.8).astype(float)
    return ReturnInputs(*(jnp.asarray(v) for v in (draw(), 0.9 * ends, draw(), draw(), draw(), ends)))


def loop(x, trace):
    """The recursion as a reader would write it, one number at a time."""
    x = ReturnInputs(*(np.asarray(v, np.float64) for v in x))
    rows, batch = x.reward.shape
    result = np.zeros((rows + 1, batch))
    result[rows] = x.q[-1]
    for b in range(batch):
        for t in reversed(range(rows)):
            inner = x.value[t, b] + trace[t, b] * (result[t + 1, b] - x.q[t, b])
            result[t, b] = x.reward[t, b] + x.discount[t, b] * inner
    return result[0]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("horizon", [0, 2, 4])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_against_an_independent_loop(name, horizon, lam):
    x = random_inputs()
    found = load(RULES, name).fold(x, horizon, lam)
    if name in ("mean", "min", "steve"):
        np.testing.assert_allclose(found, chosen(x, horizon, name), rtol=1e-5, atol=1e-6)
        return
    coefficient = {"td": 0.0, "h_step": 1.0, "td_lambda": lam, "retrace": lam * np.minimum(1, np.exp(x.log_rho))}[name]
    trace = (np.arange(5)[:, None] < horizon) * coefficient * np.asarray(x.continues)
    np.testing.assert_allclose(found, loop(x, trace), rtol=1e-5, atol=1e-6)


def every_horizon(x, horizon):
    """T_0 .. T_H as loops, and whether the window goes on that far; each [H + 1, B]."""
    rows = np.arange(x.reward.shape[0])[:, None]
    returns = np.stack([loop(x, (rows < h) * np.asarray(x.continues)) for h in range(horizon + 1)])
    reached = np.cumprod(np.concatenate([np.ones((1, x.reward.shape[1])), np.asarray(x.continues)]), axis=0)
    return returns, reached[: horizon + 1] > 0


def chosen(x, horizon, name):
    """What a user expects of a rule that combines horizons, one window at a time."""
    returns, reached = every_horizon(x, horizon)
    pick = min if name == "min" else np.mean
    return [pick(returns[reached[:, b], b]) for b in range(returns.shape[1])]


def test_steve_weighs_horizons_by_inverse_variance_over_samples():
    x = random_inputs(batch=7 * 9)
    x = x._replace(q=x.value, continues=jnp.ones((5, 63)))
    returns = every_horizon(x, 3)[0].reshape(4, 7, 9)
    weights = 1.0 / (returns.var(1) + targets.STEVE_FLOOR)
    expected = (weights * returns.mean(1)).sum(0) / weights.sum(0)
    samples = jax.tree.map(lambda v: v.reshape(5, 7, 9), x)
    np.testing.assert_allclose(targets.STEVE.fold(samples, 3), expected, rtol=1e-5)


def test_a_trace_is_a_set_of_weights_over_horizons():
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.ones(5), size=9).T
    weights[2:4, :3] = 0.0
    weights[:-1, 4] = 0.0
    weights = jnp.asarray(weights / weights.sum(0))
    trace = targets.trace_of(weights)
    np.testing.assert_allclose(targets.weights_of(trace), weights, atol=1e-6)
    x = random_inputs()._replace(continues=jnp.ones((5, 9)))
    found = targets.window_returns(x, trace)[0]
    np.testing.assert_allclose(found, jnp.sum(weights * targets.horizon_returns(x), axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_a_window_of_aggregated_returns_is_folded_like_any_other(name):
    x, rule = random_inputs()._replace(log_rho=jnp.zeros((5, 9))), load(RULES, name)
    remade = targets.window_of(targets.horizon_returns(x), x.continues)
    np.testing.assert_allclose(rule.fold(remade, 4, 0.6), rule.fold(x, 4, 0.6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "min", "steve", "td_lambda"])
def test_a_combination_lies_between_its_horizons(name):
    x = random_inputs(batch=200)
    returns, reached = every_horizon(x, 4)
    low = np.where(reached, returns, np.inf).min(0)
    high = np.where(reached, returns, -np.inf).max(0)
    found = np.asarray(load(RULES, name).fold(x, 4, 0.7))
    assert np.all(found >= low - 1e-5) and np.all(found <= high + 1e-5)
    if name == "min":
        np.testing.assert_allclose(found, low, rtol=1e-5, atol=1e-6)


def test_horizon_metrics_say_how_far_a_target_looks():
    x = random_inputs()._replace(continues=jnp.ones((5, 9)).at[2, 0].set(0.0))
    for name, expected in (("td", 0.0), ("h_step", (8 * 4 + 2) / 9), ("mean", (8 * 2 + 1) / 9)):
        rule = load(RULES, name)
        said = targets.horizon_metrics(x, rule.trace(x, 4), rule.fold(x, 4))
        np.testing.assert_allclose(said["target/horizon"], expected, rtol=1e-6)
    trace = targets.MIN.trace(x, 4)
    said = targets.horizon_metrics(x, trace, targets.MIN.fold(x, 4))
    assert said["target/gap"] > 0
    np.testing.assert_allclose(said["target/model_use"], 1 - np.mean(targets.weights_of(trace)[0]), rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_horizon_zero_and_lambda_zero_are_td(name):
    x, fold = random_inputs(), load(RULES, name).fold
    np.testing.assert_allclose(fold(x, 0, 1.0), targets.TD.fold(x, 0), rtol=1e-6)
    if name in ("td_lambda", "retrace"):
        np.testing.assert_allclose(fold(x, 4, 0.0), targets.TD.fold(x, 0), rtol=1e-6)


def test_on_policy_retrace_is_h_step():
    x = random_inputs()._replace(log_rho=jnp.zeros((5, 9)))
    np.testing.assert_allclose(targets.RETRACE.fold(x, 4, 1.0), targets.H_STEP.fold(x, 4), rtol=1e-6)


def test_lambda_weights_are_a_mixture_of_horizons():
    x, lam = random_inputs(), 0.6
    x = x._replace(q=x.value, continues=jnp.ones((5, 9)))
    weights = [(1 - lam) * lam**h for h in range(4)] + [lam**4]
    mixture = sum(w * targets.H_STEP.fold(x, h) for h, w in enumerate(weights))
    np.testing.assert_allclose(targets.TD_LAMBDA.fold(x, 4, lam), mixture, rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_jit_vmap_and_traced_horizon_agree(name):
    x, fold = random_inputs(), load(RULES, name).fold
    expected = fold(x, 3, 0.9)
    np.testing.assert_allclose(jax.jit(fold)(x, jnp.int32(3), 0.9), expected, rtol=1e-6)
    both = jax.vmap(lambda y: fold(y, 3, 0.9))(jax.tree.map(lambda v: jnp.stack([v, 2 * v]), x))
    np.testing.assert_allclose(both[0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_traces_carry_no_gradient_from_the_ratio(name):
    x, fold = random_inputs(), load(RULES, name).fold
    grads = jax.grad(lambda log_rho: jnp.sum(fold(x._replace(log_rho=log_rho), 4, 0.9)))(x.log_rho)
    assert not np.any(grads)


def test_shapes_are_checked_at_trace_time():
    x = random_inputs()
    with pytest.raises(AssertionError):
        targets.backward_return(x.reward, x.discount[:-1], x.value, x.q, x.continues)


@pytest.mark.parametrize("size", [1, 2, 7, 101, 256])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 1e6])
def test_target_metrics_match_numpy(size, shift):
    y = (np.random.default_rng(0).normal(size=size) + shift).astype(np.float32)
    y[size // 2] = -0.0
    found = targets.target_metrics(jnp.asarray(y))
    expected = (y.mean(), y.var(), *np.quantile(y, [0.05, 0.5, 0.95]))
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-5, atol=1e-6)
