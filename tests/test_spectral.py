"""Spectral normalisation against the singular value decomposition, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from valex.networks import gaussian_actor, mlp, stacked
from valex.settings import SpectralConfig
from valex.spectral import Vectors, layer_names, normalised_layers, power_iteration, sigma, spectral_norm


def largest(kernel) -> float:
    return np.linalg.svd(np.asarray(kernel, float), compute_uv=False).max(-1)


def made(layers="all", role="policy", hidden=(32, 32, 32), key=0, **options):
    network = spectral_norm(mlp(7, hidden, 3), SpectralConfig(layers, **options), role)
    return network, network.init(jax.random.key(key))


def settled(network, params, count=400):
    return jax.lax.fori_loop(0, count, lambda _, p: network.refresh(p), params)


def jacobian_norm(network, params, x) -> float:
    return largest(jax.vmap(jax.jacobian(lambda x: network.apply(params, x)))(x))


def test_power_iteration_agrees_with_the_svd():
    kernel = jax.random.normal(jax.random.key(0), (5, 20, 13))
    vectors = Vectors(jax.random.normal(jax.random.key(1), (5, 20)), jnp.zeros((5, 13)))
    for _ in range(300):
        vectors = power_iteration(kernel, vectors)
    np.testing.assert_allclose(sigma(kernel, vectors), largest(kernel), rtol=1e-4)


def test_the_first_vectors_are_already_close():
    """15 iterations before the first use: the estimate is below the truth, by a few percent."""
    _, params = made()
    for name, x in params["vectors"].items():
        ratio = float(sigma(params["net"][name]["kernel"], x) / largest(params["net"][name]["kernel"]))
        assert 0.9 < ratio <= 1.0 + 1e-5


@pytest.mark.parametrize("coefficient", [0.5, 1.0, 2.0])
def test_a_normalised_net_has_the_lipschitz_constant_that_is_asked_for(coefficient):
    network, params = made(coefficient=coefficient)
    params = settled(network, params)
    x = jax.random.normal(jax.random.key(2), (200, 7))
    assert np.max(jacobian_norm(network, params, x)) <= coefficient ** len(params["vectors"]) * (1 + 1e-3)


def test_soft_leaves_small_layers_alone():
    network, params = made(cap="soft", coefficient=100.0)
    plain = mlp(7, (32, 32, 32), 3)
    x = jax.random.normal(jax.random.key(2), (20, 7))
    np.testing.assert_array_equal(network.apply(params, x), plain.apply(params["net"], x))
    network, params = made(cap="soft", coefficient=0.1)
    hard, _ = made(coefficient=0.1)
    np.testing.assert_allclose(network.apply(params, x), hard.apply(params, x), rtol=1e-6)


@pytest.mark.parametrize(
    ("which", "role", "expected"),
    [
        ("paper", "policy", "1111"),
        ("release", "policy", "0110"),
        ("paper", "model", "1110"),
        ("release", "model", "1110"),
        ("all", "model", "1111"),
        ("none", "policy", "0000"),
    ],
)
def test_presets_of_layers(which, role, expected):
    assert "".join(str(int(x)) for x in normalised_layers(which, role, 4)) == expected
    network, params = made(which, role)
    if which == "none":
        assert set(params) == {"Dense_0", "Dense_1", "Dense_2", "Dense_3"}
    else:
        assert [name in params["vectors"] for name in layer_names(params["net"])] == [c == "1" for c in expected]


def test_kernels_start_as_the_network_draws_them():
    network, params = made("release")
    drawn = mlp(7, (32, 32, 32), 3).init(jax.random.split(jax.random.key(0))[0])
    jax.tree.map(np.testing.assert_array_equal, params["net"], drawn)


def test_the_gradient_is_that_of_the_exact_norm():
    """With settled vectors d/dW of W / sigma(W) equals finite differences through the SVD; u and v get none."""
    network, params = made(hidden=(6,))
    params = settled(network, params, 2000)
    x = jax.random.normal(jax.random.key(3), (4, 7))
    loss = lambda p: jnp.sum(jnp.sin(network.apply(p, x)))  # noqa: E731
    grads = jax.grad(loss)(params)
    assert not any(np.any(g) for g in jax.tree.leaves(grads["vectors"]))

    def exact(w0: np.ndarray) -> float:
        k = [np.asarray(params["net"][n]["kernel"], float) for n in ("Dense_0", "Dense_1")]
        b = [np.asarray(params["net"][n]["bias"], float) for n in ("Dense_0", "Dense_1")]
        h = np.maximum(np.asarray(x, float) @ (w0 / largest(w0)) + b[0], 0.0)
        return float(np.sum(np.sin(h @ (k[1] / largest(k[1])) + b[1])))

    w0 = np.asarray(params["net"]["Dense_0"]["kernel"], float)
    for i, j in ((0, 0), (3, 2), (6, 5)):
        push = np.zeros_like(w0)
        push[i, j] = 1e-5
        slope = (exact(w0 + push) - exact(w0 - push)) / 2e-5
        np.testing.assert_allclose(grads["net"]["Dense_0"]["kernel"][i, j], slope, rtol=2e-3, atol=1e-4)


def test_an_optimiser_moves_kernels_and_refresh_the_vectors():
    network, params = made()
    tx = optax.adam(1e-2)
    opt = tx.init(params)
    x, y = jax.random.normal(jax.random.key(3), (64, 7)), jnp.ones((64, 3)) * 0.3
    loss = lambda p: jnp.mean((network.apply(p, x) - y) ** 2)  # noqa: E731

    @jax.jit
    def step(params, opt):
        updates, opt = tx.update(jax.grad(loss)(params), opt, params)
        moved = optax.apply_updates(params, updates)
        return moved, network.refresh(moved), opt

    before = loss(params)
    for _ in range(200):
        old = params["vectors"]
        moved, params, opt = step(params, opt)
        jax.tree.map(np.testing.assert_array_equal, moved["vectors"], old)
    assert loss(params) < 0.5 * before
    for name, v in params["vectors"].items():
        np.testing.assert_allclose(
            sigma(params["net"][name]["kernel"], v), largest(params["net"][name]["kernel"]), rtol=0.02
        )


def test_stacked_nets_are_normalised_one_by_one():
    network = spectral_norm(stacked(mlp(4, (8,), 2), 3), SpectralConfig("all"), "model")
    params = settled(network, network.init(jax.random.key(0)))
    kernel = params["net"]["Dense_0"]["kernel"]
    assert kernel.shape == (3, 4, 8)
    np.testing.assert_allclose(sigma(kernel, params["vectors"]["Dense_0"]), largest(kernel), rtol=1e-3)
    assert network.apply(params, jnp.ones((3, 5, 4))).shape == (3, 5, 2)


def test_policies_can_be_normalised():
    policy = spectral_norm(gaussian_actor(5, 2, (16, 16)), SpectralConfig("paper"), "policy")
    mean, std = policy.apply(policy.init(jax.random.key(0)), jnp.ones((3, 5)))
    assert mean.shape == std.shape == (3, 2)
