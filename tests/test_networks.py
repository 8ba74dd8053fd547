"""Networks: shapes, independent heads, positive spread."""

import jax
import jax.numpy as jnp
import numpy as np

from valex.networks import critic_ensemble, gaussian_actor, mlp


def test_mlp_matches_numpy():
    net = mlp(3, (5,), 2)
    params = net.init(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    first, last = params["Dense_0"], params["Dense_1"]
    hidden = np.maximum(x @ np.asarray(first["kernel"]) + np.asarray(first["bias"]), 0)
    np.testing.assert_allclose(
        net.apply(params, x), hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"]), rtol=1e-4, atol=1e-5
    )


def test_heads_are_independent_and_axes_lead():
    net = critic_ensemble(3, 2, (8, 8), 3)
    q = net.apply(net.init(jax.random.key(0)), jnp.ones((5, 7, 3)), jnp.ones((5, 7, 2)))
    assert q.shape == (3, 5, 7)
    assert len(np.unique(np.asarray(q[:, 0, 0]))) == 3


def test_actor_spread_is_positive():
    net = gaussian_actor(3, 2, (8,))
    mean, std = net.apply(net.init(jax.random.key(0)), -100.0 * jnp.ones((4, 3)))
    assert mean.shape == std.shape == (4, 2) and np.all(np.asarray(std) >= 1e-3)


def test_initial_weights_are_lecun_normal():
    params = mlp(100, (400,), 50).init(jax.random.key(0))
    kernel = np.asarray(params["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel.std(), 100**-0.5, rtol=0.02)
    assert np.abs(kernel).max() <= 2.0 / 0.8796 / 10 + 1e-4 and not np.any(params["Dense_0"]["bias"])
    np.testing.assert_allclose(np.asarray(params["Dense_1"]["kernel"]).std(), 400**-0.5, rtol=0.02)
