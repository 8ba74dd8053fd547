"""How much maps stretch: linear maps with known singular values, nets of known norm, paths of known growth."""

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
import pytest

from valex.diagnostics import lipschitz
from valex.diagnostics.lipschitz import layer_product, lyapunov, spectral_radius, summary
from valex.losses import covariance_trace
from valex.networks import critic_ensemble, mlp, stacked
from valex.settings import SpectralConfig
from valex.spectral import spectral_norm
from valex.types import Array

KEY = jax.random.key(0)
local = jax.jit(lipschitz.local, static_argnums=(0, 3))
adversarial = jax.jit(lipschitz.adversarial, static_argnums=(0, 3))
products = jax.jit(lipschitz.products, static_argnums=(0, 2))


def with_sigmas(sigmas, rows: int, seed: int = 0) -> jnp.ndarray:
    """A matrix [rows, len(sigmas)] that has these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (rows, len(sigmas)))
    return jnp.asarray(left[:, : len(sigmas)] * np.array(sigmas) @ right, jnp.float32)


def largest(matrix) -> np.ndarray:
    return np.linalg.svd(np.asarray(matrix, float), compute_uv=False).max(-1)


# ------------------------------------------------------------------------------------------------------- layers of nets


@pytest.mark.parametrize(("cap", "coefficient", "scale"), [("hard", 0.5, 1.0), ("hard", 2.0, 5.0), ("soft", 0.7, 9.0)])
def test_the_layer_product_of_a_normalised_net_is_its_coefficient_to_the_layers(cap, coefficient, scale):
    config = SpectralConfig("all", coefficient, cap)
    network = spectral_norm(mlp(5, (16, 16), 3), config, "policy")
    params = jax.jit(network.init)(KEY)
    params = {**params, "net": jax.tree.map(lambda x: scale * x, params["net"])}
    params = jax.jit(lambda p: jax.lax.fori_loop(0, 400, lambda _, p: network.refresh(p), p))(params)
    found = layer_product(params, config)
    np.testing.assert_allclose(found.product, coefficient**3, rtol=1e-4)
    assert layer_product(params["net"]).product > 1.5 * coefficient**3  # the kernels before they are divided


def test_the_layer_product_is_that_of_the_kernels():
    params = mlp(5, (16,) * 10, 3).init(KEY)
    found = layer_product(params)
    assert list(found.sigmas) == [f"Dense_{i}" for i in range(11)]
    truth = [largest(params[name]["kernel"]) for name in found.sigmas]
    np.testing.assert_allclose(list(found.sigmas.values()), truth, rtol=1e-5)
    np.testing.assert_allclose(found.product, np.prod(truth), rtol=1e-5)


def test_layers_left_free_count_as_they_are():
    config = SpectralConfig("release")
    params = spectral_norm(mlp(5, (16, 16, 16), 3), config, "policy").init(KEY)
    sigmas = layer_product(params, config).sigmas
    for free in ("Dense_0", "Dense_3"):
        np.testing.assert_allclose(sigmas[free], largest(params["net"][free]["kernel"]), rtol=1e-5)
    assert 1.0 - 1e-5 < float(sigmas["Dense_1"]) < 1.1  # divided by an estimate that is never above the truth


@pytest.mark.parametrize("config", [SpectralConfig(), SpectralConfig("all", 0.5)])
def test_members_are_measured_one_by_one(config):
    network = spectral_norm(stacked(mlp(4, (8,), 2), 3), config, "model")
    params = jax.jit(network.init)(KEY)
    found = layer_product(params, config)
    for i in range(3):
        one = layer_product(jax.tree.map(lambda x, i=i: x[i], params), config)
        np.testing.assert_allclose(found.product[i], one.product, rtol=1e-5)
    assert found.product.shape == (3,)


@pytest.mark.parametrize(
    ("params", "config", "field"),
    [
        (spectral_norm(mlp(3, (4,), 1), SpectralConfig("all"), "policy").init(KEY), None, "spectral"),
        (spectral_norm(mlp(3, (4,), 1), SpectralConfig("all"), "policy").init(KEY), SpectralConfig(), "spectral"),
        (critic_ensemble(3, 1, (4,), 2).init(KEY), None, "params"),
        ({"layer_0": {"kernel": jnp.ones((9, 4))}}, None, "params"),
    ],
)
def test_what_is_no_chain_of_known_layers_is_refused(params, config, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        layer_product(params, config)


# ---------------------------------------------------------------------------------------------------------------- local


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_local_is_the_largest_singular_value(scale):
    """Also where its square is out of the range of float32."""
    matrix = with_sigmas([3.0, 1.0, 0.5, 0.1], 6)
    found = local(lambda x: scale * (matrix @ x) + 7.0, jnp.zeros((5, 4)), KEY)
    np.testing.assert_allclose(found, np.full(5, 3.0 * scale), rtol=1e-5)


def test_local_depends_on_the_point_and_knows_trees():
    """J of (3 a^2 / 2, sin b) is diag(3 a, cos b); counters and keys have no derivative."""

    def f(x):
        return {"b": jnp.sin(x["b"]), "a": 1.5 * x["a"] ** 2, "count": x["count"] + 1}

    points = {
        "a": jnp.array([[0.1], [2.0]]),
        "b": jnp.array([0.5, 0.0]),
        "count": jnp.arange(2),
        "key": jax.random.split(KEY, 2),
    }
    np.testing.assert_allclose(local(f, points, KEY, 60), [np.cos(0.5), 6.0], rtol=1e-5)
    with pytest.raises(ValueError, match="^points: "):
        local(f, {"a": jnp.arange(2)}, KEY)


def test_local_comes_from_below():
    matrix = with_sigmas([1.0, 0.99, 0.98], 3)
    found = [float(local(lambda x: matrix @ x, jnp.zeros((1, 3)), KEY, k)[0]) for k in (0, 20, 1000)]
    assert found == sorted(found) and found[0] < 0.9999
    np.testing.assert_allclose(found[-1], 1.0, rtol=1e-5)


def test_no_stretch_and_no_number_are_told_apart():
    found = local(jnp.sqrt, jnp.array([[4.0], [-1.0]]), KEY)
    np.testing.assert_allclose(found, [0.25, np.nan])
    np.testing.assert_array_equal(local(lambda x: 0.0 * x, jnp.ones((2, 3)), KEY), np.zeros(2))


def test_summary():
    found = summary(jnp.append(jnp.arange(101.0), jnp.nan))
    assert found == pytest.approx({"mean": 50.0, "p95": 95.0, "max": 100.0, "nonfinite": 1 / 102})
    assert np.isnan(summary(jnp.full(2, jnp.inf))["max"])


# ---------------------------------------------------------------------------------------------------------- adversarial


def test_ascent_finds_the_corner_of_the_box():
    """sigma of x_0 x_1 is |x|; the box reaches to (1.1, 2.5)."""
    found = adversarial(lambda x: x[0] * x[1], jnp.array([[1.0, 0.5]]), KEY, 10, jnp.array([0.1, 2.0]))
    np.testing.assert_allclose(found, [np.hypot(1.1, 2.5)], rtol=1e-5)


def test_ascent_finds_a_maximum_inside_and_one_on_the_edge():
    """sigma of sin is |cos|; the last step is a hundredth of the radius."""
    starts = {"x": jnp.array([1.0, 0.3]), "count": jnp.arange(2)}
    found = adversarial(lambda x: jnp.sin(x["x"]), starts, KEY, 100, 0.5)
    np.testing.assert_allclose(found, [np.cos(0.5), 1.0], atol=2e-5)
    found = adversarial(lambda x: jnp.sin(x["x"]), starts, KEY, 100, {"x": 0.2, "count": 0})
    np.testing.assert_allclose(found, [np.cos(0.8), np.cos(0.1)], atol=1e-5)


def test_ascent_never_ends_below_its_start():
    """A narrow peak at the start, which the first steps leave behind."""
    points = jnp.linspace(-0.05, 0.05, 11)[:, None]
    f = lambda x: jnp.tanh(50.0 * x)  # noqa: E731
    start, found = local(f, points, KEY), adversarial(f, points, KEY, 3, 10.0)
    np.testing.assert_array_less(start * (1 - 1e-6), found)
    np.testing.assert_allclose(found[5], 50.0, rtol=1e-5)


def test_ascent_moves_where_sigma_is_flat():
    """A net of ReLU is piecewise linear, so that sigma has no slope: 1 below the kink and 6 above it."""
    f = lambda x: x + 5.0 * jax.nn.relu(x - 0.3)  # noqa: E731
    points = jnp.zeros((20, 1))
    np.testing.assert_array_equal(local(f, points, KEY), np.ones(20))
    np.testing.assert_allclose(adversarial(f, points, KEY, 20, 1.0), np.full(20, 6.0), rtol=1e-6)
    np.testing.assert_allclose(adversarial(f, points, KEY, 20, 0.2), np.ones(20), rtol=1e-6)


def test_ascent_comes_back_from_where_there_is_no_number():
    """J of (1 - x^2)^(3/2) is -3 x (1 - x^2)^(1/2), at most 3/2 and NaN from |x| = 1 on, where the first steps lead."""
    found = adversarial(lambda x: (1.0 - x**2) ** 1.5, jnp.full((1, 1), 0.1), KEY, 100, 2.0)
    np.testing.assert_allclose(found, [1.5], rtol=2e-3)


# ------------------------------------------------------------------------------------------------- products along paths


def test_a_rotation_and_a_scale_have_the_exponent_of_the_scale():
    """1e3 at every step: 30 steps reach 1e90."""
    turn = jnp.array([[jnp.cos(0.7), -jnp.sin(0.7)], [jnp.sin(0.7), jnp.cos(0.7)]])
    points = jax.random.normal(KEY, (4, 2)) * 1e-30
    for scale in (1e3, 0.9, 1e-4):
        found = products(lambda x, scale=scale: scale * turn @ x, points, 30)
        np.testing.assert_allclose(found.per_step, np.full((30, 4), scale), rtol=1e-5)
        np.testing.assert_allclose(lyapunov(found.log_total), np.full((30, 4), np.log(scale)), rtol=1e-5)


def test_products_are_those_of_the_closed_loop():
    """A - B K: neither the product of the norms nor that of the spectral radii."""
    step, p = lq.model().step, lq.theta()

    def loop(x):
        return step((), KEY, x[None], -x[None] @ p.T)[0][0]

    closed = lq.A - lq.B @ lq.K
    points = lq.starts(3).obs
    found = products(loop, points, 8)
    powers = [largest(np.linalg.matrix_power(closed, k)) for k in range(1, 9)]
    np.testing.assert_allclose(found.log_total, np.log(powers)[:, None] * np.ones(3), atol=1e-5)
    np.testing.assert_allclose(found.per_step, np.full((8, 3), powers[0]), rtol=1e-5)
    np.testing.assert_allclose(spectral_radius(loop, points[0]), max(abs(np.linalg.eigvals(closed))), rtol=1e-5)
    assert powers[-1] < 0.9 * powers[0] ** 8
    np.testing.assert_allclose(local(loop, points, KEY, 100), found.per_step[0], rtol=1e-4)


def test_products_are_ordered_and_follow_the_path():
    """x' = (x_0 + x_1^2, 2 x_1) from (3, 1): J_0 = [[1, 2], [0, 2]], J_1 at (4, 2) is [[1, 4], [0, 2]]."""

    def f(x):
        return {"x": jnp.array([x["x"][0] + x["x"][1] ** 2, 2.0 * x["x"][1]]), "count": x["count"] + 1}

    found = products(f, {"x": jnp.array([[3.0, 1.0]]), "count": jnp.zeros(1, int)}, 2)
    np.testing.assert_allclose(found.per_step[:, 0], [largest([[1, 2], [0, 2]]), largest([[1, 4], [0, 2]])], rtol=1e-6)
    np.testing.assert_allclose(np.exp(found.log_total[1, 0]), largest([[1, 10], [0, 4]]), rtol=1e-6)
    one_way = products(lambda x: jnp.array([x[1], 0.0 * x[0]]), jnp.ones((1, 2)), 3)
    np.testing.assert_array_equal(one_way.log_total[:, 0], [0.0, -np.inf, -np.inf])


def test_every_row_and_step_has_its_own_noise():
    """x' = x e^noise: the product of S rows is e to the sum of their noises."""
    keys = jax.random.split(KEY, (5, 3))
    found = products(lambda x, key: x * jnp.exp(jax.random.normal(key)), jnp.ones((3, 1)), 5, keys)
    noise = np.asarray(jax.vmap(jax.vmap(jax.random.normal))(keys))
    np.testing.assert_allclose(found.log_total, np.cumsum(noise, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.per_step, np.exp(noise), rtol=1e-5)


@pytest.mark.parametrize(("reward", "times"), [(lambda x: x[0] - x[1], 2), (lambda x: -0.5 * x @ x, 4)])
def test_the_exponent_predicts_how_the_variance_of_the_gradient_grows(reward, times):
    """2 lambda a step for a bounded gradient of the reward, 4 lambda for a linear one, with h^2 in front (spec 1.7)."""
    a, b, gain = (jnp.asarray(x, jnp.float32) for x in (lq.A, lq.B, -3.0 * lq.K))  # away from the origin
    points = lq.starts(256).obs

    def trace(h: int) -> Array:
        last = lambda k, x: jax.lax.fori_loop(0, h, lambda _, x: (a - b @ k) @ x, x)  # noqa: E731
        grads = jax.vmap(jax.grad(lambda k, x: reward(last(k, x))), in_axes=(None, 0))(gain, points)
        return covariance_trace(grads)

    lam = lyapunov(products(lambda x: (a - b @ gain) @ x, points[:1], 20).log_total)[-1, 0]
    near, far = trace(20), trace(40)
    assert lam > 0.1
    np.testing.assert_allclose((np.log(far / near) - 2.0 * np.log(2.0)) / 20, times * lam, rtol=0.05)


def test_a_map_without_numbers_has_no_radius():
    assert np.isnan(spectral_radius(lambda x: x * jnp.nan, jnp.ones(2)))
    turn = jnp.array([[0.0, -2.0], [0.5, 0.0]])  # eigenvalues +- i, norm 2
    np.testing.assert_allclose(spectral_radius(lambda x: turn @ x, jnp.ones(2)), 1.0, rtol=1e-6)
