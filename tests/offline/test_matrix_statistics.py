"""Statistics of grids of scores: planes with known slopes, sums of squares by hand, noise that must not win."""

import math

import numpy as np
import pytest
from scipy import stats

from valex.offline import matrix_statistics as ms
from valex.offline.matrix_statistics import (
    best_alpha,
    direction,
    epsilon_squared,
    eta_squared,
    halves,
    share_difference,
    smallest_arc,
    variance_shares,
)

SIZES_V, SIZES_P = np.array([1e4, 1e5, 1e6]), np.array([1e3, 3e3, 1e4, 3e4])


def plane(b_v, b_p, seeds=6, noise=0.01):
    """Return scores with these slopes per decade, each seed with a level and small slopes of its own."""
    rng = np.random.default_rng(0)
    own = np.array([b_v, b_p]) + noise * rng.normal(size=(seeds, 2))
    level = rng.normal(size=(seeds, 1, 1))
    return level + own[:, 0, None, None] * np.log10(SIZES_V)[:, None] + own[:, 1, None, None] * np.log10(SIZES_P)


@pytest.mark.parametrize(
    "b_v, b_p, angle, kind",
    [
        (1.0, 0.0, 0.0, ms.VALUE),
        (1.0, -0.2, -11.31, ms.VALUE),
        (0.0, 2.0, 90.0, ms.POLICY),
        (-0.2, 1.0, 101.31, ms.POLICY),
        (1.0, math.sqrt(3.0), 60.0, ms.BOTH),
        (-1.0, 1.0, 135.0, ms.WORSE),
        (-1.0, 0.0, 180.0, ms.WORSE),
        (0.0, -1.0, -90.0, ms.WORSE),
        (1.0, -1.0, -45.0, ms.WORSE),
        (1.0, math.tan(math.radians(22.5)), 22.5, ms.UNCLEAR),
        (math.tan(math.radians(-22.5)), 1.0, 112.5, ms.UNCLEAR),
    ],
)
def test_direction_of_planes(b_v, b_p, angle, kind):
    found = direction(plane(b_v, b_p), SIZES_V, SIZES_P)
    assert found.value.low <= b_v <= found.value.high and found.policy.low <= b_p <= found.policy.high
    assert abs((found.angle.value - angle + 180.0) % 360.0 - 180.0) < 1.0
    assert found.angle.low <= found.angle.value <= found.angle.high < found.angle.low + 8.0
    assert (found.kind, found.seeds, found.left_out) == (kind, 6, 0)


def test_noise_is_saturated_and_one_seed_unclear():
    noise = np.random.default_rng(1).normal(size=(8, 3, 4))
    assert direction(noise, SIZES_V, SIZES_P).kind == ms.SATURATED
    assert direction(np.full((3, 3, 4), 0.1), SIZES_V, SIZES_P).kind == ms.SATURATED
    one = direction(plane(1.0, 0.0, seeds=1), SIZES_V, SIZES_P)
    assert one.kind == ms.UNCLEAR and np.isnan(one.angle.low) and abs(one.angle.value) < 2.0


def test_direction_is_that_of_regression_and_knows_no_order_of_sizes():
    scores = np.random.default_rng(2).normal(size=(5, 3, 4)) + plane(1.0, 1.0, 5)
    design = np.stack([np.ones(12), np.repeat(np.log10(SIZES_V), 4), np.tile(np.log10(SIZES_P), 3)], axis=1)
    expected = np.linalg.lstsq(design, scores.mean(axis=0).ravel(), rcond=None)[0]
    found = direction(scores, SIZES_V, SIZES_P)
    np.testing.assert_allclose([found.value.value, found.policy.value], expected[1:])
    turned = direction(scores[:, ::-1], SIZES_V[::-1], SIZES_P)
    np.testing.assert_allclose(turned.angle, found.angle)
    scaled = direction(100.0 * scores, SIZES_V, SIZES_P)
    np.testing.assert_allclose(scaled.angle, found.angle)


def test_failed_cells_are_left_out_of_the_fit():
    scores = plane(1.0, math.sqrt(3.0))
    whole = direction(scores, SIZES_V, SIZES_P)
    scores[0, 0, 0] = scores[3, 2, 1] = np.nan
    np.testing.assert_allclose(direction(scores, SIZES_V, SIZES_P).angle, whole.angle)
    scores[1, 1:] = np.nan  # one size of value data has no slope along it
    found = direction(scores, SIZES_V, SIZES_P)
    assert (found.seeds, found.left_out, found.kind) == (5, 1, ms.BOTH)
    with pytest.raises(ValueError, match="no seed"):
        direction(scores[1:2], SIZES_V, SIZES_P)


def test_direction_refuses_what_has_none():
    with pytest.raises(ValueError, match="3 values, 4 policies"):
        direction(np.zeros((2, 4, 3)), SIZES_V, SIZES_P)
    for sizes in ([1e3] * 4, [0.0, 1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="different sizes"):
            direction(np.zeros((2, 3, 4)), SIZES_V, sizes)


@pytest.mark.parametrize(
    "centre, angles, mass, expected",
    [
        (180.0, [170.0, 175.0, -175.0, -170.0], 1.0, (170.0, 190.0)),
        (-175.0, [170.0, 175.0, -175.0, -170.0], 1.0, (-190.0, -170.0)),
        (5.0, [0.0, 1.0, 2.0, 9.0], 0.75, (0.0, 5.0)),  # extended to the centre
        (0.0, [0.0, 90.0, 10.0, 20.0], 0.75, (0.0, 20.0)),
        (0.0, [150.0, 170.0, -170.0], 1.0, (0.0, 190.0)),  # the shorter way round
        (3.0, [3.0, 3.0], 0.95, (3.0, 3.0)),
    ],
)
def test_smallest_arc_by_hand(centre, angles, mass, expected):
    np.testing.assert_allclose(smallest_arc(centre, np.array(angles), mass), expected, atol=1e-9)


def test_shares_by_hand():
    a, seed = np.array([1.0, -1.0]), np.array([1.0, -1.0])
    scores = a[:, None, None] + np.zeros((2, 2, 1)) + seed  # SS of a = 8 of 16; MS of the residual = 8 / 4
    rows = np.moveaxis(scores, -1, 0)
    np.testing.assert_allclose(eta_squared(rows), [0.5, 0.0, 0.0, 0.5])
    np.testing.assert_allclose(epsilon_squared(rows), [6 / 16, -2 / 16, -2 / 16, 14 / 16])
    found = variance_shares(scores, {"a": 2, "b": 2})
    assert found.factors["a"].value == 6 / 16 and np.isnan(found.factors["a"].low)
    assert found.eta == pytest.approx({"a": 0.5, "b": 0.0, "interactions": 0.0, "residual": 0.5})


def test_shares_are_those_of_the_analysis_of_variance():
    scores = np.random.default_rng(0).normal(size=(7, 4))
    squares, freedom = ms.sums_of_squares(scores)
    f = squares[0] / freedom[0] / (squares[-1] / freedom[-1])
    assert f == pytest.approx(stats.f_oneway(*scores.T).statistic)


def test_an_interaction_is_one_and_names_follow_the_axes():
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(2, 3, 4, 5))
    sign, steps = np.array([1.0, -1.0])[:, None, None, None], np.arange(3.0)[None, :, None, None]
    crossed = variance_shares(sign * (steps - 1.0) + noise, {"value": 2, "extractor": 3, "data": 4})
    assert crossed.interactions.value > 0.99 and abs(crossed.factors["value"].value) < 0.01
    main = variance_shares(steps + noise, {"value": 2, "extractor": 3, "data": 4})
    assert main.factors["extractor"].low > 0.99
    parts = [*main.factors.values(), main.interactions, main.residual]
    assert sum(part.value for part in parts) == pytest.approx(1.0) == sum(main.eta.values())
    found = share_difference(steps + noise, {"value": 2, "extractor": 3, "data": 4}, "extractor", "value")
    assert found.low > 0.98 and found.value == pytest.approx(parts[1].value - parts[0].value)


def test_noise_has_no_share_without_bias_and_the_intervals_hold_the_truth():
    rng, hits, values, plain = np.random.default_rng(0), [], [], []
    effect = np.array([-1.0, 0.0, 1.0])  # variance 2/3, noise 1
    for _ in range(200):
        found = variance_shares(effect[:, None] + rng.normal(size=(2, 3, 6)), {"nothing": 2, "something": 3})
        values.append(found.factors["nothing"].value)
        plain.append(found.eta["nothing"])
        hits.append(found.factors["something"].low <= 0.4 <= found.factors["something"].high)
    assert abs(np.mean(values)) < 0.005 < 0.01 < np.mean(plain)
    assert 0.88 <= np.mean(hits) <= 0.99


def test_shares_refuse_what_is_not_whole():
    with pytest.raises(ValueError, match="seeds"):
        variance_shares(np.zeros((2, 3, 4)), {"a": 3, "b": 2})
    with pytest.raises(ValueError, match="finite"):
        variance_shares(np.full((2, 3, 4), np.nan), {"a": 2, "b": 3})
    one = variance_shares(np.random.default_rng(0).normal(size=(2, 3, 1)), {"a": 2, "b": 3})
    assert np.isnan(one.factors["a"].value) and sum(one.eta.values()) == pytest.approx(1.0)
    equal = variance_shares(np.ones((2, 3, 4)), {"a": 2, "b": 3})
    assert np.isnan(equal.factors["a"].value) and np.isnan(equal.eta["a"])


def test_best_alpha_by_hand():
    found = best_alpha([[1.0, 3.0], [2.0, 0.0]], [0.1, 1.0])
    assert found.alpha == 0.1 and found.optimistic.value == 2.0
    np.testing.assert_allclose(
        found.honest_scores, [1.0, 0.0]
    )  # seed 1 chooses 0.1 for seed 0, seed 0 chooses 1.0 for seed 1
    assert found.honest.value == 0.5 and not found.optimistic_only
    np.testing.assert_allclose(found.chosen, [0.5, 0.5])


def test_a_clear_winner_costs_nothing_and_matrices_stay_matrices():
    rng = np.random.default_rng(0)
    scores = np.array([0.0, 5.0, 1.0])[:, None, None, None] + rng.normal(size=(3, 5, 2, 4))
    found = best_alpha(scores, [0.03, 0.3, 3.0])
    assert found.alpha == 0.3 and found.honest_scores.shape == (5, 2, 4)
    np.testing.assert_allclose(found.honest_scores, scores[1])
    np.testing.assert_allclose(found.honest, found.optimistic)
    np.testing.assert_allclose(found.chosen, [0.0, 1.0, 0.0])


def test_among_equals_the_honest_score_is_without_bias():
    rng = np.random.default_rng(0)
    found = [best_alpha(rng.normal(size=(5, 8)), np.arange(5.0), resamples=2) for _ in range(300)]
    assert abs(np.mean([f.honest.value for f in found])) < 0.05  # standard error 0.02
    assert np.mean([f.optimistic.value for f in found]) > 0.3


def test_one_seed_has_the_optimistic_score_alone():
    found = best_alpha(np.array([[1.0], [4.0]]), [1.0, 10.0])
    assert found.optimistic_only and found.alpha == 10.0 and found.optimistic.value == 4.0
    assert np.isnan(found.honest.value) and np.all(np.isnan(found.honest_scores))
    with pytest.raises(ValueError, match="finite"):
        best_alpha(np.array([[1.0, np.nan]]), [1.0])
    with pytest.raises(ValueError, match="2 settings"):
        best_alpha(np.zeros((3, 2)), [1.0, 2.0])


@pytest.mark.parametrize("n, count", [(2, 4), (5, 20), (8, 140), (20, 2 * ms.SPLITS)])
def test_every_half_comes_with_its_complement(n, count):
    found = halves(n)
    assert found.shape == (count, n)
    np.testing.assert_array_equal(found[: count // 2], ~found[count // 2 :])
    assert set(found.sum(axis=1)) == {n // 2, n - n // 2}


@pytest.mark.learning  # four hundred matrices for each number of seeds
@pytest.mark.parametrize(("seeds", "stated"), [(3, 0.75), (5, 0.94), (8, 0.93)])
def test_the_interval_of_an_angle_covers_as_often_as_its_docstring_says(seeds, stated):
    """Slopes of 1 and 2 per decade, each seed's own off by a normal number, and noise on every cell."""
    rng, sizes, held = np.random.default_rng(0), np.array([1e3, 1e4, 1e5]), 0
    decades, truth = np.log10(sizes), np.degrees(np.arctan2(2.0, 1.0))
    for k in range(400):
        slopes = np.array([1.0, 2.0]) + 0.5 * rng.normal(size=(seeds, 2))
        scores = slopes[:, :1, None] * decades[None, :, None] + slopes[:, 1:, None] * decades[None, None, :]
        angle = direction(scores + 0.5 * rng.normal(size=scores.shape), sizes, sizes, resamples=500, seed=k).angle
        held += angle.low <= truth <= angle.high
    assert abs(held / 400 - stated) < 0.06
