"""Statistics of per-sample gradients on made-up gradients whose moments are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.diagnostics.moments import (
    collect_sums,
    heavy_tails,
    released_expectation,
    released_meter,
    side_by_side,
    statistics_of,
    with_intervals,
)
from valex.statistics import jackknife

MEAN = np.array([[1.0, -0.5, 0.0, 2.0], [0.4, 0.3, 1.0, 1.5]])
START, NOISE = np.array([0.7, 0.2, 1.0, 0.0]), np.array([0.3, 0.9, 0.1, 0.5])


def estimator(k: int):
    """g = MEAN[k] + (k + 1) START s + NOISE xi, s shared by all draws of a start."""

    def grads(starts, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
        return {"w": (MEAN[k] + (k + 1) * START * starts + NOISE * noise)[:, :, None]}

    return grads


@pytest.fixture(scope="module")
def sums():
    starts = jax.random.normal(jax.random.key(0), (4096, 4))
    return collect_sums(side_by_side([estimator(0), estimator(1)]), starts, jax.random.key(1), 4, 32)


def test_moments_are_those_of_the_construction(sums):
    def inside(measure, truth):
        found = with_intervals(sums, measure)
        reach = found.high - found.low  # twice the interval, so that no seed has to be chosen
        assert np.all(np.abs(found.value - truth) < reach)
        assert np.all(reach > 0.0)

    inside(lambda f: f.within, np.full(2, np.sum(NOISE**2)))
    inside(lambda f: f.between, np.array([1, 4]) * np.sum(START**2))
    inside(lambda f: f.trace, np.sum(NOISE**2) + np.array([1, 4]) * np.sum(START**2))
    inside(lambda f: f.dots, MEAN @ MEAN.T)
    inside(lambda f: f.bias_square[0, 1], np.sum((MEAN[0] - MEAN[1]) ** 2))
    truth = MEAN @ MEAN.T / np.linalg.norm(MEAN, axis=1) / np.linalg.norm(MEAN, axis=1)[:, None]
    inside(lambda f: f.cosine[0, 1], truth[0, 1])


def test_statistics_are_the_textbook_ones():
    """On 24 starts with 3 draws, written out over all gradients."""
    starts, key = jax.random.normal(jax.random.key(2), (24, 4)), jax.random.key(3)
    sums = collect_sums(side_by_side([estimator(0), estimator(1)]), starts, key, 3, 4)
    keys = jax.random.split(key, (4, 18)).reshape(72)
    grads = np.stack(
        [np.asarray(estimator(k)(jnp.repeat(starts, 3, axis=0), keys)["w"][..., 0], float) for k in (0, 1)]
    )
    grads = grads.reshape(2, 24, 3, 4)
    means, found = grads.mean(2), statistics_of(sums)
    within = grads.var(2, ddof=1).mean(1).sum(-1)
    np.testing.assert_allclose(found.within, within, rtol=1e-4)
    np.testing.assert_allclose(found.trace, within + means.var(1, ddof=1).sum(-1) - within / 3, rtol=1e-4)
    pairs = [(means[0, s] - means[1, s]) @ (means[0, t] - means[1, t]) for s in range(24) for t in range(24) if s != t]
    np.testing.assert_allclose(found.bias_square[0, 1], np.mean(pairs), rtol=1e-3)
    np.testing.assert_allclose(found.bias_square[0, 0], 0.0, atol=1e-9)


def test_what_is_not_finite_is_left_out_and_counted():
    def broken(starts, keys):
        return {"w": jnp.where(starts[:, :1] > 1.0, jnp.nan, estimator(0)(starts, keys)["w"][..., 0])}

    starts = jax.random.normal(jax.random.key(0), (512, 4))
    sums = collect_sums(side_by_side([estimator(0), broken]), starts, jax.random.key(1), 2, 8)
    share = np.mean(np.asarray(starts[:, 0]) > 1.0)
    np.testing.assert_allclose(sums.nonfinite, [0.0, share], atol=1e-6)
    assert int(sums.starts.sum()) == round(512 * (1 - share))
    assert np.all(np.isfinite(statistics_of(sums).trace))


def test_too_few_starts_are_refused():
    starts = jnp.full((4, 4), jnp.nan)
    with pytest.raises(ValueError, match="fewer than two"):
        statistics_of(collect_sums(side_by_side([estimator(0)]), starts, jax.random.key(1), 2, 2))


def test_the_released_meter_mixes_variance_and_signal():
    """3.5 tr + 35 |E g|^2 for 20 samples, over (h + 1)^2; the right meter shows tr (golden test 5)."""
    rng = np.random.default_rng(0)
    mean, std, length = np.array([1.0, -0.5, 0.3]), np.array([0.5, 1.0, 0.2]), 3
    drawn = jnp.asarray(mean + std * rng.normal(size=(20_000, 20, 3)), jnp.float32)
    found = jax.vmap(lambda g: released_meter(g, length))(drawn)
    expected = released_expectation(np.sum(std**2), np.sum(mean**2), 20, length)
    np.testing.assert_allclose(expected * length**2, 3.5 * np.sum(std**2) + 35 * np.sum(mean**2), rtol=1e-12)
    np.testing.assert_allclose(jnp.mean(found), expected, rtol=0.02)
    sums = collect_sums(lambda s, k: s[None], drawn.reshape(-1, 3), jax.random.key(0), 1, 32)
    np.testing.assert_allclose(statistics_of(sums).trace, np.sum(std**2), rtol=0.01)


def test_the_meter_falls_when_the_policy_converges_though_the_variance_stays():
    """The artefact: a vanishing mean gradient, at the same variance, looks like less variance."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(2_000, 20, 3))
    early, late = (jnp.asarray(m + noise, jnp.float32) for m in (2.0, 0.0))
    meter = jax.vmap(lambda g: released_meter(g, 1))
    assert jnp.mean(meter(early)) > 10 * jnp.mean(meter(late))
    for drawn in (early, late):
        sums = collect_sums(lambda s, k: s[None], drawn.reshape(-1, 3), jax.random.key(0), 1, 8)
        np.testing.assert_allclose(statistics_of(sums).trace, 3.0, rtol=0.03)


def test_heavy_tails_show():
    rng = np.random.default_rng(0)
    normal, heavy = np.abs(rng.normal(size=5000)), np.abs(rng.standard_cauchy(5000))
    assert heavy_tails(heavy)["top_share"] > 0.9 > 0.2 > heavy_tails(normal)["top_share"]
    assert heavy_tails(heavy)["max_over_median"] > 100 > heavy_tails(normal)["max_over_median"]
    assert np.isnan(heavy_tails(np.full(3, np.nan))["kurtosis"])


def test_jackknife_of_a_mean_is_the_standard_error():
    x = np.random.default_rng(0).normal(size=12)
    found = jackknife(np.mean(x), np.array([np.mean(np.delete(x, i)) for i in range(12)]))
    np.testing.assert_allclose(found.high - found.value, 2.200985 * x.std(ddof=1) / 12**0.5, rtol=1e-6)
