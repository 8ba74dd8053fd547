"""Running statistics equal the statistics of everything seen."""

import jax.numpy as jnp
import numpy as np

from valex import normalize


def test_batches_equal_the_whole():
    rng = np.random.default_rng(0)
    rows = rng.normal(3.0, [1.0, 10.0, 0.1], size=(97, 3))
    stats = normalize.init(3)
    for chunk in np.split(rows, [1, 2, 10, 60]):
        stats = normalize.update(stats, jnp.asarray(chunk))
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.m2 / stats.count, rows.var(0), rtol=1e-4)
    expected = np.clip((rows - rows.mean(0)) / rows.std(0), -5, 5)
    np.testing.assert_allclose(normalize.normalize(stats, jnp.asarray(rows)), expected, atol=1e-3)


def test_empty_and_constant_rows_stay_finite():
    assert np.all(np.isfinite(normalize.normalize(normalize.init(2), jnp.ones((4, 2)))))
    stats = normalize.update(normalize.init(2), jnp.full((8, 2), 7.0))
    np.testing.assert_allclose(normalize.normalize(stats, jnp.full((1, 2), 7.0)), 0.0, atol=1e-3)
    assert np.all(np.abs(normalize.normalize(stats, jnp.full((1, 2), 1e9))) <= 5)
