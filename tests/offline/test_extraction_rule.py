"""The rule between two extractors: a known threshold is found, regrets by hand, and nothing that is judged is read."""

import numpy as np
import pytest

from valex.offline.extraction_rule import (
    FEATURE_NAMES,
    Stump,
    dataset_features,
    describe_stump,
    fit_stump,
    judge_rule,
)

NOISE = np.random.default_rng(0)
SIZE = np.array([3.0, 3.5, 4.0, 5.0, 5.5, 6.0])  # DDPG+BC pays from 4.5 on
FEATURES = np.stack([NOISE.normal(size=6), SIZE], axis=1)
GAIN = np.where(SIZE > 4.5, 10.0, -20.0)


def test_the_threshold_that_made_the_gains_is_found():
    assert fit_stump(FEATURES, GAIN) == Stump(1, 4.5, True)
    assert fit_stump(-FEATURES, GAIN) == Stump(1, -4.5, False)
    assert fit_stump(FEATURES, GAIN)(FEATURES).tolist() == [False] * 3 + [True] * 3


def test_always_the_same_is_a_rule_and_comes_first():
    assert describe_stump(fit_stump(FEATURES, np.ones(6))) == "always ddpg_bc"
    assert describe_stump(fit_stump(FEATURES, -np.ones(6))) == "always awr"
    assert describe_stump(Stump(0, 4.5, True)) == "ddpg_bc where log10_transitions >= 4.5, else awr"


def test_what_is_not_known_goes_to_awr():
    unknown = FEATURES.copy()
    unknown[5, 1] = np.nan
    stump = fit_stump(unknown, GAIN)
    assert stump(unknown)[:5].tolist() == [False] * 3 + [True] * 2
    assert not Stump(1, 4.5, True)(unknown)[5] and not Stump(1, 9.5, False)(unknown)[5]


def test_regrets_by_hand():
    """The rule is right everywhere; always AWR loses 10 on half of the datasets, always DDPG+BC 20 on the other half."""
    awr = np.full((6, 4), 50.0) + np.array([0.0, 1.0, 2.0, 3.0])
    found = judge_rule(FEATURES[:, 1:], awr, awr + GAIN[:, None])
    assert found.chosen.tolist() == (GAIN > 0).tolist() and found.rule == (0.0, 0.0, 0.0)
    assert found.awr.value == pytest.approx(5.0) and found.ddpg_bc.value == pytest.approx(10.0)
    assert found.awr.low == pytest.approx(5.0) and found.awr.high == pytest.approx(5.0)  # seeds agree
    noisy = awr + NOISE.normal(0, 3, awr.shape)
    spread = judge_rule(FEATURES[:, 1:], noisy, awr + GAIN[:, None]).awr
    assert spread.low < spread.value < spread.high


def test_a_dataset_does_not_choose_its_own_rule():
    """Four datasets like AWR, the fifth DDPG+BC: what tells it apart is only known from itself, so the rule misses it."""
    features, gain = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]), np.array([-1.0, -1.0, -1.0, -1.0, 9.0])
    awr = np.zeros((5, 2))
    found = judge_rule(features, awr, awr + gain[:, None])
    assert not found.chosen[4] and found.stumps[4] == fit_stump(features[:4], gain[:4])
    assert found.chosen.tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]  # half way between 3 and 5 is 4, which takes DDPG+BC
    assert found.rule.value == pytest.approx((9.0 + 1.0) / 5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 3 datasets"):
        judge_rule(np.zeros((2, 1)), np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="both need"):
        judge_rule(np.zeros((3, 1)), np.zeros((3, 4)), np.zeros((3, 5)))


def test_features_of_a_dataset():
    found = dataset_features(10_000, 0.5, 0.1, {"policy/ess_share": 0.03}, 2.0)
    assert dict(zip(FEATURE_NAMES, found.tolist(), strict=True)) == {
        "log10_transitions": 4.0, "coverage": 0.5, "spread": 0.1, "ess_share": 0.03, "q_spread": 2.0}  # fmt: skip
    assert np.isnan(dataset_features(10, 0.5, 0.1, {}, 2.0)[3])
