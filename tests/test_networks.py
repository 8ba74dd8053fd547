"""Networks: shapes, independent heads, positive spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.networks import (
    conv,
    conv_same,
    critic_ensemble,
    gaussian_actor,
    layer_norm,
    mlp,
    normal_policy,
    stacked,
)


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


def lax_conv(x, kernel, pad):
    """What XLA itself makes of it, gradients included."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=layout)


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("axes", [None, (0, 0), (None, 0), (0, None)])
def test_a_convolution_and_its_gradients_are_those_of_xla(axes, pad):
    """Alone, and batched over images, kernels or both."""
    x, kernel = (
        jax.random.normal(jax.random.key(0), (3, 2, 5, 4, 2)),
        jax.random.normal(jax.random.key(1), (3, 3, 3, 2, 6)),
    )
    x, kernel = (v if axes and axis == 0 else v[0] for v, axis in zip((x, kernel), axes or (None, None), strict=True))

    def total(way):
        one = lambda a, b: way(a, b, pad)  # noqa: E731
        return lambda a, b: jnp.sum(jnp.sin((jax.vmap(one, axes) if axes else one)(a, b)))

    found, right = (jax.jit(jax.value_and_grad(total(way), argnums=(0, 1)))(x, kernel) for way in (conv, lax_conv))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, right)


def test_a_grid_keeps_its_size_and_nets_stay_apart():
    """Of two nets the second is the one by itself; a shift of the grid shifts what is inside."""
    one = conv_same(2, (8, 4))
    flat = one._replace(apply=lambda params, x: one.apply(params, x.reshape(-1, 6, 7, 2)))
    net = stacked(flat, 2)
    params = net.init(jax.random.key(0))
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (5, 84)).astype(jnp.float32)
    y = net.apply(params, x)
    assert y.shape == (2, 5, 6, 7, 4)
    second = jax.tree.map(lambda leaf: leaf[1], params)
    np.testing.assert_allclose(y[1], flat.apply(second, x), rtol=1e-5, atol=1e-6)
    moved = one.apply(second, jnp.roll(x.reshape(-1, 6, 7, 2), 1, axis=2))
    np.testing.assert_allclose(moved[:, :, 3:-2], y[1][:, :, 2:-3], rtol=1e-4, atol=1e-5)
    kernel = np.asarray(one.init(jax.random.key(2))["layer_1"]["kernel"])
    assert kernel.shape == (72, 4) and abs(kernel.std() - 72**-0.5) < 0.02


def test_layer_norm_is_flax_s_and_so_is_its_gradient():
    from flax import linen

    module = linen.LayerNorm(use_bias=False, use_scale=False)
    other = lambda x: jnp.asarray(module.apply({}, x))  # noqa: E731
    x, weight = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 7, 64)), jnp.arange(64.0)
    np.testing.assert_allclose(layer_norm(x), other(x), atol=2e-5)
    slopes = [jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x)) * weight))(x) for f in (layer_norm, other)]
    np.testing.assert_allclose(*slopes, rtol=1e-3, atol=1e-3)
    assert not np.any(layer_norm(jnp.full((2, 5), 4.0)))  # no spread: 0, not NaN


def test_a_normalised_mlp_forgets_the_scale_of_its_hidden_layer():
    net = mlp(3, (16,), 1, 0, "relu", layer_norm=True)
    params = net.init(jax.random.key(0))
    larger = params | {"Dense_0": jax.tree.map(lambda x: 7.0 * x, params["Dense_0"])}
    x = jax.random.normal(jax.random.key(1), (9, 3))
    np.testing.assert_allclose(net.apply(larger, x), net.apply(params, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("std", ["unit", "shared", "state"])
def test_the_spread_of_a_normal_policy(std):
    net = normal_policy(3, 2, (8,), "gelu", std)
    params = net.init(jax.random.key(0))
    mean, spread = net.apply(params, jax.random.normal(jax.random.key(1), (5, 3)))
    assert mean.shape == spread.shape == (5, 2) and bool(jnp.all(spread > 0))
    assert ("log_std" in params) == (std == "shared")
    assert (np.ptp(spread, axis=0) > 1e-4).all() == (std == "state")
    if std == "shared":
        tight = params | {"log_std": jnp.full(2, -99.0)}
        np.testing.assert_allclose(net.apply(tight, jnp.ones(3))[1], np.exp(-5.0), rtol=1e-5)
