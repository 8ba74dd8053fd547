"""Statistics against scipy, numbers by hand, and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from valex.statistics import (
    area_under_curve,
    iqm,
    mean,
    mean_over_seeds,
    paired_bootstrap,
    probability_of_improvement,
    rank_correlation,
    sign_test,
    spearman,
    stratified_bootstrap,
    superiority,
    tail,
)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 20])
def test_iqm_is_the_quarter_trimmed_mean(n):
    values = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(iqm(values, axis=0), stats.trim_mean(values, 0.25, axis=0), rtol=1e-12)


def test_iqm_by_hand_drops_the_outer_quarters():
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, -100.0])) == 2.0
    assert iqm(np.array([0.0, 1.0, 3.0, 50.0])) == 2.0


def test_area_is_the_mean_height_in_units_of_return():
    assert area_under_curve(np.array([0.0, 10.0]), np.array([0.0, 4.0])) == 2.0
    assert area_under_curve(np.array([5.0, 6.0, 9.0]), np.array([7.0, 7.0, 7.0])) == 7.0
    uneven = area_under_curve(np.array([0.0, 1.0, 3.0]), np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(uneven, [5.0 / 3.0, 1.0])


@pytest.mark.parametrize(
    "steps, returns, message",
    [
        ([0, 1], [0.0, np.nan], "finite"),
        ([0, 1], [0.0, np.inf], "finite"),
        ([0], [1.0], "2 or more points"),
        ([0, 1, 2], [1.0, 2.0], "2 or more points"),
        ([0, 0], [1.0, 2.0], "rise"),
        ([1, 0], [1.0, 2.0], "rise"),
    ],
)
def test_area_refuses_what_has_none(steps, returns, message):
    with pytest.raises(ValueError, match=message):
        area_under_curve(np.array(steps), np.array(returns))


def test_bootstrap_agrees_with_scipy_on_the_mean():
    values = np.random.default_rng(0).exponential(size=30)
    ours = stratified_bootstrap([values], mean, resamples=20_000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.01)


def test_bootstrap_resamples_within_strata_only():
    one = stratified_bootstrap([np.zeros(6), np.full(6, 10.0)], mean)
    assert (one.low, one.value, one.high) == (5.0, 5.0, 5.0)  # the strata have no spread of their own
    together = stratified_bootstrap([np.concatenate([np.zeros(6), np.full(6, 10.0)])], mean)
    assert together.low < 4.0 < 6.0 < together.high


def test_bootstrap_keeps_trailing_axes_and_is_reproducible():
    values = np.random.default_rng(0).normal(size=(7, 4))
    first, again = stratified_bootstrap([values]), stratified_bootstrap([values])
    assert np.shape(first.value) == np.shape(first.low) == (4,)
    np.testing.assert_array_equal(first.low, again.low)
    assert np.any(stratified_bootstrap([values], seed=1).low != first.low)
    single = stratified_bootstrap([values[:, 2]])
    np.testing.assert_allclose([single.low, single.high], [first.low[2], first.high[2]])  # pyright: ignore


def test_one_value_has_no_interval_and_none_is_refused():
    found = stratified_bootstrap([np.array([3.0])])
    assert found.value == 3.0 and np.isnan(found.low) and np.isnan(found.high)
    with pytest.raises(ValueError, match="stratum"):
        stratified_bootstrap([np.zeros(0)])


def test_tail_of_the_expanded_interval_by_hand():
    assert tail(0.95, [5], expanded=False) == pytest.approx(0.025)
    reach = np.sqrt(5 / 4) * 2.7764451  # t quantile with 4 degrees of freedom
    assert tail(0.95, [5], expanded=True) == pytest.approx(stats.norm.sf(reach), rel=1e-6)
    assert tail(0.95, [2000], expanded=True) == pytest.approx(0.025, rel=2e-2)


@pytest.mark.parametrize(
    "n, expanded, low, high", [(5, False, 0.86, 0.94), (5, True, 0.90, 0.97), (9, True, 0.94, 1.0)]
)
def test_coverage_of_the_iqm_on_normal_data(n, expanded, low, high):
    rng = np.random.default_rng(n)
    hits = [
        found.low <= 0.0 <= found.high
        for _ in range(400)
        if (found := stratified_bootstrap([rng.normal(size=n)], resamples=600, seed=rng, expanded=expanded))
    ]
    assert low <= np.mean(hits) <= high


def test_pairs_share_what_cancels():
    rng = np.random.default_rng(0)
    seed_effect = 100.0 * rng.normal(size=9)
    better, base = seed_effect + 1.0 + 0.1 * rng.normal(size=9), seed_effect
    paired, apart = paired_bootstrap([better], [base]), stratified_bootstrap([better])
    assert 0.8 < paired.low < paired.value < paired.high < 1.2 and apart.high - apart.low > 20.0
    with pytest.raises(ValueError, match="partner"):
        paired_bootstrap([better], [base[:-1]])


def test_probability_of_improvement_by_hand():
    assert superiority(np.array([1.0, 2.0]), np.array([0.0, 2.0])) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    ones, zeros = np.ones(5), np.zeros(5)
    assert probability_of_improvement([ones], [zeros]).value == 1.0
    assert probability_of_improvement([ones, zeros], [zeros, ones]).value == 0.5  # mean over environments
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    u = stats.mannwhitneyu(x, y).statistic / 144
    found = probability_of_improvement([x], [y])
    assert found.value == pytest.approx(u) and found.low < u < found.high
    assert np.isnan(probability_of_improvement([np.ones(1)], [np.zeros(1)]).low)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (6, 9)), rng.normal(size=(6, 9))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(rank_correlation(x, y), expected, atol=1e-12)
    assert rank_correlation([1.0, 2.0, 10.0], [3.0, 2.0, -5.0]) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def test_spearman_resamples_groups_together():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9))
    alone = spearman(x, y)
    assert alone.value == pytest.approx(stats.spearmanr(x, y).statistic) and alone.low < alone.value < alone.high
    copies = [np.repeat(v, 5) for v in (x, y, np.arange(9))]
    np.testing.assert_allclose(spearman(*copies), alone, atol=1e-12)  # copies of a seed are no new evidence
    apart = spearman(*copies[:2])
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)
    uneven = spearman(x, y, np.array([0, 0, 0, 0, 1, 1, 2, 3, 4]))
    assert -1.0 <= uneven.low <= uneven.value <= uneven.high <= 1.0


def test_spearman_without_an_answer():
    assert np.isnan(spearman(np.arange(4.0), np.arange(4.0), np.zeros(4)).low)
    assert all(np.isnan(spearman(np.ones(4), np.arange(4.0))))
    with pytest.raises(ValueError, match="one length"):
        spearman(np.arange(4.0), np.arange(3.0))
    with pytest.raises(ValueError, match="no rank"):
        spearman(np.array([1.0, np.nan]), np.arange(2.0))


def test_sign_test_by_hand():
    found = sign_test(15, 16, "greater")
    assert found.p == pytest.approx(17 / 2**16) and found.share.value == 15 / 16 and found.share.high == 1.0
    assert sign_test(15, 16).p == pytest.approx(2 * 17 / 2**16)
    none = sign_test(0, 10)
    assert none.share.low == 0.0 and none.share.high == pytest.approx(1.0 - 0.025**0.1)
    for wins, n in ((0, 0), (3, 2), (-1, 4)):
        with pytest.raises(ValueError, match="sign_test"):
            sign_test(wins, n)


def test_mean_over_seeds_leaves_out_what_did_not_finish():
    scores = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, 9.0]])
    found = mean_over_seeds(scores)
    np.testing.assert_allclose(found.value, [2.0, 3.0])
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    assert mean_over_seeds(scores[:, 0]).value == 2.0
    assert np.isnan(mean_over_seeds(np.array([np.nan])).value) and np.isnan(mean_over_seeds(scores[:1, 0]).low)
