"""The tanh Gaussian: normalised, right at saturation, reparameterised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from valex import distributions as d


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.3), (-0.4, 2.0)])
def test_density_integrates_to_one_over_actions(mean, std):
    def density(action):
        u = np.arctanh(action)
        return float(jnp.exp(d.tanh_normal_log_prob(jnp.array([mean]), jnp.array([std]), jnp.array([u]))))

    total, _ = integrate.quad(density, -1 + 1e-7, 1 - 1e-7, limit=200)
    assert abs(total - 1.0) < 2e-3


def test_log_prob_matches_scipy_in_the_middle():
    mean, std, u = np.array([0.2, -0.5]), np.array([0.7, 1.3]), np.array([0.1, 0.9])
    expected = (stats.norm(mean, std).logpdf(u) - np.log(1 - np.tanh(u) ** 2)).sum()
    np.testing.assert_allclose(d.tanh_normal_log_prob(*map(jnp.asarray, (mean, std, u))), expected, rtol=1e-5)


@pytest.mark.parametrize("u", [6.0, 9.0, 30.0, 1e4])
def test_log_det_is_right_where_float32_tanh_is_one(u):
    """log(1 - tanh(u)^2) = log 4 - 2u + O(exp(-2u)); the naive form is -inf from u = 9 on."""
    np.testing.assert_allclose(d.tanh_log_det(jnp.float32(u)), np.log(4.0) - 2 * u, rtol=1e-5)
    np.testing.assert_allclose(d.tanh_log_det(jnp.float32(-u)), np.log(4.0) - 2 * u, rtol=1e-5)


@pytest.mark.parametrize("loc", [0.0, 8.0, 12.0])
def test_ratio_of_a_policy_to_itself_is_one_at_saturation(loc):
    """Recovering u from a saturated action collapses Retrace to one step (defect B1 of the release); the kept u does not."""
    mean, std = jnp.full((1000, 6), loc), jnp.full((1000, 6), 0.05)
    sample = d.tanh_normal_sample(jax.random.key(0), mean, std)
    ratio = jnp.exp(d.tanh_normal_log_prob(mean, std, sample.latent) - sample.log_prob)
    np.testing.assert_allclose(ratio, 1.0, atol=1e-6)
    if loc == 12.0:
        assert not np.all(np.isfinite(np.arctanh(np.asarray(sample.action))))


def test_sample_is_reparameterised_and_mode_is_its_centre():
    slope = jax.grad(lambda m: d.tanh_normal_sample(jax.random.key(0), m, jnp.ones(1)).action[0])(jnp.zeros(1))
    sample = d.tanh_normal_sample(jax.random.key(0), jnp.zeros(1), jnp.ones(1))
    np.testing.assert_allclose(slope, 1 - sample.action**2, rtol=1e-5)
    np.testing.assert_allclose(d.tanh_normal_mode(jnp.array([0.3])).action, np.tanh(0.3), rtol=1e-6)


def test_uniform_warm_up_has_the_density_it_says():
    sample = d.uniform_sample(jax.random.key(0), (4096, 2))
    assert stats.kstest(np.asarray(sample.action).ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(sample.log_prob, np.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(jnp.tanh(sample.latent), sample.action, atol=1e-6)
    assert np.all(np.isfinite(sample.latent))
