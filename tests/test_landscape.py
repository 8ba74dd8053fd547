"""The landscape of a policy's value on surfaces whose roughness is known, and the directions that it is seen along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.diagnostics.landscape import HOW, directions, landscape, roughness
from valex.losses import gradient_norm
from valex.networks import mlp
from valex.settings import SpectralConfig
from valex.spectral import spectral_norm

KEY = jax.random.key(0)
THETA = {"w": jnp.full((40, 50), 0.1), "b": jnp.zeros(50), "scale": jnp.array([3.0]), "count": jnp.array(7)}


def surface(f, span: float, count: int) -> np.ndarray:
    steps = np.linspace(-span, span, count)
    return f(steps[:, None], steps[None, :])


def norm(tree) -> float:
    return float(gradient_norm(tree))


def dot(a, b) -> float:
    return float(sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


# ----------------------------------------------------------------------------------------------------------- directions


def test_a_gaussian_direction_is_drawn_and_not_scaled():
    first, second = directions(THETA, KEY)
    both = np.concatenate([np.ravel(d["w"]) for d in (first, second)])
    np.testing.assert_allclose([both.mean(), both.std()], [0.0, 1.0], atol=0.05)
    np.testing.assert_allclose([norm(first), norm(second)], np.sqrt(2051), rtol=0.05)
    assert abs(dot(first, second)) < 0.1 * norm(first) * norm(second)
    assert first["b"].any() and not first["count"] and first["count"].dtype == THETA["count"].dtype


def test_a_filter_direction_has_the_norms_of_the_leaves():
    for direction in directions(THETA, KEY, "filter"):
        for name, leaf in THETA.items():
            wanted = 0.0 if name == "count" else np.linalg.norm(leaf)
            np.testing.assert_allclose(np.linalg.norm(direction[name]), wanted, rtol=1e-5)
    assert float(jnp.std(direction["w"])) > 0.09  # not along theta, whose entries are all alike


def test_the_gradient_is_the_first_direction_and_the_second_stands_on_it():
    gradient = {**jax.tree.map(jnp.zeros_like, THETA), "b": jnp.arange(50.0), "scale": jnp.array([-20.0])}
    plain = directions(THETA, KEY)
    first, second = directions(THETA, KEY, "gradient", gradient)
    np.testing.assert_allclose(norm(first), norm(plain[0]), rtol=1e-5)
    np.testing.assert_allclose(dot(first, gradient), norm(first) * norm(gradient), rtol=1e-5)
    assert abs(dot(first, second)) < 1e-4 * norm(first) * norm(second) < abs(dot(first, plain[1]))
    np.testing.assert_allclose(
        norm(second) ** 2, norm(plain[1]) ** 2 - (dot(first, plain[1]) / norm(first)) ** 2, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("how", "gradient", "field"),
    [
        ("random", None, "how"),
        ("gradient", None, "gradient"),
        ("gradient", jax.tree.map(jnp.zeros_like, THETA), "gradient"),
        ("gradient", {**THETA, "b": jnp.full(50, jnp.nan)}, "gradient"),
    ],
)
def test_directions_that_cannot_be_had_are_refused(how, gradient, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        directions(THETA, KEY, how, gradient)


@pytest.mark.parametrize("how", HOW)
def test_vectors_of_spectral_normalisation_are_not_moved(how):
    network = spectral_norm(mlp(3, (4,), 2), SpectralConfig("all"), "policy")
    params = jax.jit(network.init)(KEY)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, jnp.ones((1, 3))))))(params)
    for direction in directions(params, KEY, how, gradient):
        assert not any(np.any(x) for x in jax.tree.leaves(direction["vectors"]))
        assert np.any(direction["net"]["Dense_0"]["kernel"])


# ------------------------------------------------------------------------------------------------------------ landscape


@pytest.mark.parametrize("batch", [7, 51, 1000])
def test_a_landscape_is_the_value_turned_over(batch):
    """V = -(w - 1)^2 - 3 b along w and then b; theta stands in the middle."""
    theta, along = {"w": jnp.array(0.5), "b": jnp.array(2.0)}, {"w": jnp.array(2.0), "b": jnp.array(0.0)}
    across = {"w": jnp.array(0.0), "b": jnp.array(1.0)}
    value = lambda p: -((p["w"] - 1.0) ** 2) - 3.0 * p["b"]  # noqa: E731
    found = landscape(value, theta, (along, across), 0.5, 11, batch)
    exact = surface(lambda x, y: (0.5 + 2.0 * x - 1.0) ** 2 + 3.0 * (2.0 + y), 0.5, 11)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_allclose(found[5, 5], -value(theta), rtol=1e-6)
    assert found.shape == (11, 11)


def test_whole_numbers_stay_what_they_are():
    def value(theta):
        assert theta["count"].dtype == THETA["count"].dtype
        return 1.0 * theta["count"]

    found = landscape(value, THETA, directions(THETA, KEY), count=3)
    np.testing.assert_array_equal(found, np.full((3, 3), -7.0))


# ------------------------------------------------------------------------------------------------------------ roughness


@pytest.mark.parametrize(("span", "count"), [(1.0, 51), (0.3, 21)])
def test_a_bowl_has_the_roughness_of_its_curvature(span, count):
    """F = a x^2 + b y^2: second differences 2 a and 2 b, variations 2 a span^2 and 2 b span^2, one change of sign a line."""
    a, b, step = 3.0, 0.5, 2 * span / (count - 1)
    found = roughness(surface(lambda x, y: a * x**2 + b * y**2, span, count), span)
    exact = {
        "second_difference": a + b,
        "total_variation": (a + b) * span**2,
        "sign_changes": 1 / (count - 2),
        "largest_slope": a * (2 * span - step),
        "nonfinite": 0.0,
    }
    assert found == pytest.approx(exact, rel=1e-9)


def test_a_plane_is_not_rough():
    found = roughness(surface(lambda x, y: 2.0 * x - 5.0 * y, 1.0, 51))
    exact = {"second_difference": 0.0, "total_variation": 7.0, "sign_changes": 0.0, "largest_slope": 5.0}
    assert found == pytest.approx({**exact, "nonfinite": 0.0}, abs=1e-9)


def test_a_sine_turns_at_its_peaks():
    """sin(2 pi x) over [-2, 2] has 8 peaks along x and none along y: 8 of 2 * 399 neighbours, and 16 up and down."""
    found = roughness(surface(lambda x, y: np.sin(2 * np.pi * x) + 0 * y, 2.0, 401), 2.0)
    np.testing.assert_allclose(found["sign_changes"], 8 / (2 * 399))
    np.testing.assert_allclose(found["total_variation"], 16 / 2)
    np.testing.assert_allclose(found["largest_slope"], 2 * np.pi, rtol=1e-3)
    np.testing.assert_allclose(found["second_difference"], 0.5 * (2 * np.pi) ** 2 * 2 / np.pi, rtol=0.01)


def test_a_flat_spot_hides_no_turn_and_makes_none():
    """An even grid has no cell at the bottom of a bowl; a staircase has no turn."""
    bowl = roughness(surface(lambda x, y: x**2 + y**2, 1.0, 50))
    np.testing.assert_allclose(bowl["sign_changes"], 1 / 48)
    stairs = roughness(surface(lambda x, y: np.floor(4 * x) + 0 * y, 1.0, 51))
    assert stairs["sign_changes"] == 0.0 < stairs["second_difference"]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_cells_without_a_number_are_counted_and_left_out(broken):
    """One in the middle of a plane: the others say what they would have said."""
    values = surface(lambda x, y: 2.0 * x - 5.0 * y, 1.0, 21)
    values[8, 11] = broken
    found = roughness(values)
    assert found["nonfinite"] == pytest.approx(1 / 441)
    assert found["total_variation"] == pytest.approx(7.0, rel=1e-2)
    assert found["second_difference"] == pytest.approx(0.0, abs=1e-9)
    assert found["sign_changes"] == 0.0
    assert found["largest_slope"] == pytest.approx(5.0)


def test_nothing_finite_has_no_roughness():
    found = roughness(np.full((5, 5), np.nan))
    assert found["nonfinite"] == 1.0 and np.isnan(found["second_difference"]) and np.isnan(found["sign_changes"])
    assert np.isnan(found["largest_slope"]) and np.isnan(found["total_variation"])


@pytest.mark.parametrize("shape", [(3, 4), (2, 2), (9,)])
def test_what_is_no_grid_is_refused(shape):
    with pytest.raises(ValueError, match="^surface: "):
        roughness(np.zeros(shape))
