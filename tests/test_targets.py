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
GOLDEN = [
    (targets.td, HAND, 0, 1.0, 1 + 0.5 * 10),
    (targets.h_step, PLAIN, 1, 1.0, 1 + 0.5 * 12),
    (targets.h_step, PLAIN, 0, 1.0, 1 + 0.5 * 10),
    (targets.h_step, HAND, 1, 1.0, 1 + 0.5 * (10 + 12 - 8)),
    (targets.td_lambda, PLAIN, 1, 0.25, 1 + 0.5 * (0.75 * 10 + 0.25 * 12)),
    (targets.retrace, HAND, 1, 1.0, 1 + 0.5 * (10 + 0.25 * (12 - 8))),
    (targets.retrace, HAND, 1, 0.5, 1 + 0.5 * (10 + 0.125 * (12 - 8))),
]


@pytest.mark.parametrize(("rule", "x", "horizon", "lam", "expected"), GOLDEN)
def test_golden_numbers(rule, x, horizon, lam, expected):
    np.testing.assert_allclose(rule(x, horizon, lam), [expected], rtol=1e-6)


def test_every_rule_has_a_golden_number():
    assert {load(RULES, name).fold for name in RULES} == {row[0] for row in GOLDEN}


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
    coefficient = {"td": 0.0, "h_step": 1.0, "td_lambda": lam, "retrace": lam * np.minimum(1, np.exp(x.log_rho))}[name]
    trace = (np.arange(5)[:, None] < horizon) * coefficient * np.asarray(x.continues)
    np.testing.assert_allclose(load(RULES, name).fold(x, horizon, lam), loop(x, trace), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_horizon_zero_and_lambda_zero_are_td(name):
    x, fold = random_inputs(), load(RULES, name).fold
    np.testing.assert_allclose(fold(x, 0, 1.0), targets.td(x), rtol=1e-6)
    if name in ("td_lambda", "retrace"):
        np.testing.assert_allclose(fold(x, 4, 0.0), targets.td(x), rtol=1e-6)


def test_on_policy_retrace_is_h_step():
    x = random_inputs()._replace(log_rho=jnp.zeros((5, 9)))
    np.testing.assert_allclose(targets.retrace(x, 4, 1.0), targets.h_step(x, 4), rtol=1e-6)


def test_lambda_weights_are_a_mixture_of_horizons():
    x, lam = random_inputs(), 0.6
    x = x._replace(q=x.value, continues=jnp.ones((5, 9)))
    weights = [(1 - lam) * lam**h for h in range(4)] + [lam**4]
    mixture = sum(w * targets.h_step(x, h) for h, w in enumerate(weights))
    np.testing.assert_allclose(targets.td_lambda(x, 4, lam), mixture, rtol=1e-5)


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
