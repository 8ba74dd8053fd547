"""Numeric health of gradients that are right, wrong, imprecise or not numbers, on purpose."""

from functools import partial

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
import pytest

from valex.diagnostics.numerics import Problem, census, evaluate, finite_differences, precision_gap
from valex.distributions import tanh_normal_sample
from valex.estimators.pathwise import pathwise_value
from valex.networks import mlp
from valex.settings import SpectralConfig
from valex.spectral import spectral_norm
from valex.types import Transition


def keys_of(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def problem(value, theta, starts, grads=None, fixed=()) -> Problem:
    """A value (fixed, theta, start, key), and its gradient by autodiff where none is given."""

    def build(fixed):
        at = partial(value, fixed)
        return at, grads or jax.grad(at)

    return Problem(build, theta, fixed, starts, keys_of(jax.tree.leaves(starts)[0].shape[0]))


def square(fixed, theta, start, key):
    return jnp.sum(theta["w"] ** 2) * start


def linear_quadratic(count: int, horizon: int) -> Problem:
    def value(chain_params, theta, start: Transition, key):
        row = jax.tree.map(lambda x: x[None], start)
        return pathwise_value(theta, lq.chain()._replace(params=chain_params), row, key, horizon, "dp")

    return problem(value, lq.theta(), lq.starts(count))


# ------------------------------------------------------------------------------------------------------------ precision


def test_a_good_gradient_has_the_gap_of_float32():
    found = precision_gap(problem(square, {"w": jnp.array([0.1, 0.7])}, jnp.linspace(0.5, 2.0, 16)))
    assert found.max < 2e-7 and found.nonfinite == 0.0 and found.each.shape == (16,)


def test_cancellation_is_found():
    """(c + theta) - c is 0 in float32 where c is 1e8, so that all of the gradient is lost; theta in float64."""
    grads = lambda fixed: lambda theta, start, key: (start + theta) - start  # noqa: E731
    asked = problem(square, jnp.float32(0.3), jnp.array([1.0, 1e8, 1e8]))._replace(
        build=lambda fixed: (None, grads(fixed))
    )
    found = precision_gap(asked)
    np.testing.assert_allclose(found.each, [0.0, 1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(evaluate(asked, gradient, True), np.full(3, np.float64(np.float32(0.3))), rtol=1e-7)
    assert found.median == found.max == 1.0


def gradient(value, grads, theta, start, key):
    return grads(theta, start, key)


def test_the_gap_is_that_of_every_sample():
    """sin^2 + cos^2 - 1 is an error of one size, added to gradients that become smaller by 4."""

    def value(fixed, theta, start, key):
        error = jax.lax.stop_gradient(jnp.sin(theta) * jnp.sin(theta) + jnp.cos(theta) * jnp.cos(theta) - 1.0)
        return theta * (error + start)

    found = precision_gap(problem(value, jnp.float32(0.3), 2.0 ** -jnp.arange(4.0, 20.0, 2.0)))
    np.testing.assert_allclose(found.each[1:] / found.each[:-1], 4.0, rtol=0.01)
    np.testing.assert_allclose([found.median, found.max], [np.median(found.each), found.each[-1]])
    assert found.median < found.p95 < found.max


def test_noise_is_the_same_in_both_precisions():
    """Draws of float64 take other bits of a key; here they are those of float32."""

    def value(fixed, theta, start, key):
        normal_key, uniform_key, choice_key = jax.random.split(key, 3)
        noise = jax.random.normal(normal_key, (2,)) @ theta["w"]
        which = jax.random.categorical(choice_key, jnp.zeros(5)) + jax.random.permutation(choice_key, 7)[0]
        return noise * jax.random.uniform(uniform_key) * (1.0 + which) * start

    found = precision_gap(problem(value, {"w": jnp.array([0.1, 0.7])}, jnp.ones(512)))
    assert found.median < 3e-7 and found.max < 1e-4


def test_normal_draws_agree_in_the_tails_as_well():
    """Without the half step of float32 the worst of these would be off by 0.0017, and their root mean square 9e-6."""
    asked = problem(square, {"w": jnp.ones(1)}, jnp.ones(64))
    draw = lambda value, grads, theta, start, key: jax.random.normal(key, (1024,))  # noqa: E731
    apart = evaluate(asked, draw, False) - evaluate(asked, draw, True)
    assert np.max(np.abs(apart)) < 1e-4 and np.sqrt(np.mean(apart**2)) < 1e-6


def test_estimators_can_be_asked():
    """Through a stochastic policy, ten steps of a model and a critic."""
    found = precision_gap(linear_quadratic(64, 10))
    assert 1e-8 < found.median < 2e-6 and found.max < 1e-4 and found.nonfinite == 0.0


def test_squashed_policies_draw_the_same():
    def value(fixed, theta, start, key):
        sample = tanh_normal_sample(key, theta["w"] * start, jnp.exp(theta["w"]))
        return jnp.sum(sample.action) + sample.log_prob

    assert precision_gap(problem(value, {"w": jnp.array([0.1, -0.7])}, jnp.linspace(-1.0, 1.0, 50))).p95 < 1e-5


def test_samples_without_a_gradient_are_left_out_of_the_gap():
    value = lambda fixed, theta, start, key: jnp.sqrt(start * theta)  # noqa: E731
    found = precision_gap(problem(value, jnp.float32(1.0), jnp.array([1.0, -1.0, 0.0, 4.0])))
    assert found.nonfinite == 0.5 and found.max < 1e-6
    np.testing.assert_array_equal(np.isnan(found.each), [False, True, True, False])
    nothing = precision_gap(problem(value, jnp.float32(1.0), -jnp.ones(2)))
    assert nothing.nonfinite == 1.0 and np.isnan(nothing.median)


def test_a_gradient_of_zero_has_no_gap():
    value = lambda fixed, theta, start, key: 0.0 * theta * start  # noqa: E731
    assert precision_gap(problem(value, jnp.float32(1.0), jnp.ones(3))).max == 0.0


def test_float64_is_what_it_says():
    """All that is passed is cast, and what is cast back on the way is refused, in a loop as well."""
    seen = []

    def value(fixed, theta, start, key):
        seen.append({x.dtype for x in jax.tree.leaves((fixed["p"], theta, start["x"]))})
        assert fixed["n"].dtype == start["i"].dtype == jnp.int32 and start["b"].dtype == bool
        return jnp.sum(theta * fixed["p"]) * start["x"]

    starts = {"x": jnp.ones(3), "i": jnp.arange(3), "b": jnp.ones(3, bool), "none": ()}
    asked = problem(value, jnp.ones(2), starts, fixed={"p": jnp.ones(2), "n": jnp.arange(2)})
    precision_gap(asked)
    assert {frozenset(x) for x in seen} == {frozenset({np.dtype(np.float32)}), frozenset({np.dtype(np.float64)})}

    def narrow(fixed, theta, start, key):
        step = lambda i, x: (x.astype(jnp.float32) * start).astype(x.dtype)  # noqa: E731
        return jax.lax.fori_loop(0, 3, step, theta)

    with pytest.raises(ValueError, match="^build: casts float64 down"):
        precision_gap(problem(narrow, jnp.float32(1.0), jnp.ones(2)))


def test_the_world_is_left_in_float32():
    precision_gap(problem(square, {"w": jnp.ones(2)}, jnp.ones(2)))
    assert jnp.ones(1).dtype == jnp.float32


def test_other_generators_are_refused():
    asked = problem(square, {"w": jnp.ones(2)}, jnp.ones(2))
    with pytest.raises(ValueError, match="^keys: "):
        precision_gap(asked._replace(keys=jax.random.split(jax.random.key(0, impl="rbg"), 2)))


# ---------------------------------------------------------------------------------------------------------- differences


@jax.custom_vjp
def wrong_sine(x):
    return jnp.sin(x)


wrong_sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (1.1 * g * jnp.cos(x),))


def test_differences_agree_with_a_right_gradient():
    value = lambda fixed, theta, start, key: jnp.sum(jnp.sin(theta["w"]) * start)  # noqa: E731
    theta = {"w": jnp.array([0.3, 1.0, 2.0]), "count": jnp.array(3)}
    starts = jax.random.normal(jax.random.key(1), (5, 3))
    found = finite_differences(
        problem(value, theta, starts, lambda th, s, k: {"w": jnp.cos(th["w"]) * s, "count": jnp.array(0)}),
        jax.random.key(0),
        6,
    )
    assert np.all(found.error < 1e-8)
    assert found.errors.shape == (6, 5)
    np.testing.assert_allclose(found.error, found.errors.min(1))
    np.testing.assert_allclose(found.difference, found.slope, rtol=1e-8)
    assert np.all(found.errors[:, 0] > 1e2 * found.error)  # a large step bends: float32 could not tell the two apart


def test_differences_find_a_wrong_gradient():
    value = lambda fixed, theta, start, key: wrong_sine(theta) * start  # noqa: E731
    found = finite_differences(problem(value, jnp.float32(0.3), jnp.linspace(0.5, 1.0, 5)), jax.random.key(0), 4)
    np.testing.assert_allclose(found.error, 0.1 / 1.1, rtol=1e-6)
    np.testing.assert_allclose(found.slope / found.difference, 1.1, rtol=1e-6)


def test_the_best_step_is_the_one_that_is_reported():
    """x^3 at 0: the difference is e^2, so the smallest step wins; |x| at 1e-4: steps that pass the kink lose."""
    cube = lambda fixed, theta, start, key: start * theta + theta**3  # noqa: E731
    found = finite_differences(problem(cube, jnp.float32(0.0), jnp.ones(2)), jax.random.key(0), 3, (1e-1, 1e-2, 1e-3))
    np.testing.assert_array_equal(found.step, np.full(3, 1e-3))
    np.testing.assert_allclose(found.errors[:, 0] / found.errors[:, 1], 100.0, rtol=1e-6)
    kink = lambda fixed, theta, start, key: jnp.abs(theta)  # noqa: E731
    found = finite_differences(problem(kink, jnp.float32(1e-4), jnp.ones(2)), jax.random.key(0), 3, (1.0, 1e-7))
    assert np.all(found.step == 1e-7) and np.all(found.errors[:, 0] > 0.9)


def test_differences_follow_the_estimators():
    found = finite_differences(linear_quadratic(8, 5), jax.random.key(0))
    assert np.all(found.error < 1e-7)


def test_vectors_of_spectral_normalisation_are_not_moved():
    """They get no gradient, so that a difference along them would blame a gradient that is right."""
    network = spectral_norm(mlp(3, (), 2), SpectralConfig("all"), "policy")
    value = lambda fixed, theta, start, key: jnp.sum(jnp.sin(network.apply(theta, start)))  # noqa: E731
    asked = problem(value, jax.jit(network.init)(jax.random.key(0)), jnp.ones((2, 3)))
    assert np.all(finite_differences(asked, jax.random.key(0), 2, (1e-4, 1e-5)).error < 1e-7)


def test_values_that_are_no_numbers_have_no_error_that_could_pass():
    value = lambda fixed, theta, start, key: jnp.where(theta == 1.0, theta, jnp.nan)  # noqa: E731
    found = finite_differences(problem(value, jnp.float32(1.0), jnp.ones(2)), jax.random.key(0), 2)
    assert np.all(np.isinf(found.error))


# --------------------------------------------------------------------------------------------------------------- census


def test_the_trap_of_where_is_found():
    """where(x > 0, sqrt(x), 0): the value is 0 for x <= 0, the gradient 0 * inf at 0 and 0 * NaN below."""
    value = lambda fixed, theta, start, key: jnp.where(start * theta > 0, jnp.sqrt(start * theta), 0.0)  # noqa: E731
    starts = jnp.array([1.0, -1.0, 4.0, 0.0, 2.0, 3.0, -2.0, 5.0])
    found = census(problem(value, jnp.float32(1.0), starts))
    assert found == (3 / 8, 0.0, 3 / 8, 0.0, [1, 3, 6])
    safe = lambda fixed, th, s, key: jnp.where(s * th > 0, jnp.sqrt(jnp.where(s * th > 0, s * th, 1.0)), 0.0)  # noqa: E731
    assert census(problem(safe, jnp.float32(1.0), starts)) == (0.0, 0.0, 0.0, 0.0, [])


def test_infinite_gradients_and_values_are_counted_by_themselves():
    """sqrt has an infinite slope at 0, where its value is finite; below it neither is a number; e^200 has overflowed."""

    def value(fixed, theta, start, key):
        return jnp.sqrt(theta["a"] - start) + jnp.exp(-theta["b"] * start)

    theta = {"a": jnp.float32(1.0), "b": jnp.float32(1.0)}
    found = census(problem(value, theta, jnp.array([1.0, 0.0, -200.0, 2.0, 1.0])), first=3)
    assert found == (pytest.approx(1 / 5), pytest.approx(3 / 5), pytest.approx(2 / 5), pytest.approx(2 / 5), [0, 2, 3])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_change_nothing(batch):
    asked = problem(square, {"w": jnp.array([0.1, 0.7])}, jnp.linspace(0.5, 2.0, 7))
    exact = 2.0 * np.array([0.1, 0.7]) * np.linspace(0.5, 2.0, 7)[:, None]
    np.testing.assert_allclose(evaluate(asked, gradient, False, batch)["w"], exact, rtol=1e-6)
