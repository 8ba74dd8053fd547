"""Which extractor, from what is known of a dataset before any policy is tried: a threshold on one number, judged on others.

A rule takes DDPG+BC where feature >= threshold (or <= threshold), else AWR; always one of them is a rule, too. It is chosen on
all datasets but one and judged on that one, for each in turn (leave one out), so that nothing it is judged by was read.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from valex.statistics import Interval, mean, stratified_bootstrap

ALWAYS = ("awr", "ddpg_bc")


class Stump(NamedTuple):
    """A threshold on one feature."""

    feature: int  # which, -1: none, always the same extractor
    threshold: float  # in its unit
    above: bool  # DDPG+BC where feature >= threshold; False: where feature <= threshold

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return for features [D, F] whether DDPG+BC is taken, [D] bool."""
        if self.feature < 0:
            return np.full(len(features), self.above)
        x = np.asarray(features, float)[:, self.feature]
        return x >= self.threshold if self.above else x <= self.threshold


class Judged(NamedTuple):
    """How a rule did on datasets that it was not chosen on; regrets in the unit of the scores."""

    stumps: list[Stump]  # [D] the rule that each dataset was judged by
    chosen: np.ndarray  # [D] bool, DDPG+BC
    rule: Interval  # mean regret over datasets to the better of both, with an interval over seeds
    awr: Interval  # the same of always AWR
    ddpg_bc: Interval  # the same of always DDPG+BC


def fit_stump(features: np.ndarray, gain: np.ndarray) -> Stump:
    """Return the stump with the largest sum of gains where it takes DDPG+BC.

    features [D, F], NaN where one is not known (such a dataset is given to AWR by it); gain [D] score of DDPG+BC less that of
    AWR. Thresholds lie half way between two values. The first of equally good ones is taken: always the same extractor before
    any threshold, features in their order.
    """
    features = np.asarray(features, float)
    candidates = [Stump(-1, math.nan, above) for above in (False, True)]
    for column in range(features.shape[1]):
        known = np.unique(features[np.isfinite(features[:, column]), column])
        halves = (known[1:] + known[:-1]) / 2.0
        candidates += [Stump(column, float(half), above) for half in halves for above in (True, False)]
    totals = [float(np.sum(np.asarray(gain, float)[stump(features)])) for stump in candidates]
    return candidates[int(np.argmax(totals))]


def judge_rule(features: np.ndarray, awr: np.ndarray, ddpg_bc: np.ndarray, resamples_seed: int = 0) -> Judged:
    """Return how the stump chosen on the other datasets does on each, against either extractor alone.

    features [D, F]; awr, ddpg_bc [D, S] scores in one unit, S seeds that pair. The regret of x on a dataset and a seed is the
    score there of the extractor that is better there on average, less that of what x takes. The better one is found on the same
    seeds, so regrets are a little too large where both are alike, for every rule alike. Raises ValueError for fewer than three
    datasets or shapes that do not agree.
    """
    features, awr, ddpg_bc = (np.asarray(x, float) for x in (features, awr, ddpg_bc))
    if len(features) < 3 or features.ndim != 2:
        raise ValueError(f"rule: features {features.shape}; at least 3 datasets by one number are needed")
    if awr.shape != ddpg_bc.shape or len(awr) != len(features) or awr.ndim != 2:
        raise ValueError(f"rule: scores {awr.shape} and {ddpg_bc.shape} of {len(features)} datasets; both need [D, S]")
    gain = (ddpg_bc - awr).mean(axis=1)
    others = [np.arange(len(gain)) != d for d in range(len(gain))]
    stumps = [fit_stump(features[rest], gain[rest]) for rest in others]
    chosen = np.array([bool(stump(features[d : d + 1])[0]) for d, stump in enumerate(stumps)])
    best = np.where((gain > 0)[:, None], ddpg_bc, awr)

    def regret(takes: np.ndarray) -> Interval:
        by_seed = (best - np.where(takes[:, None], ddpg_bc, awr)).mean(axis=0)
        return stratified_bootstrap([by_seed], mean, seed=resamples_seed)

    return Judged(stumps, chosen, regret(chosen), regret(np.zeros_like(chosen)), regret(np.ones_like(chosen)))


FEATURE_NAMES = ("log10_transitions", "coverage", "spread", "ess_share", "q_spread")


def dataset_features(
    transitions: int, coverage: float, cloning_error: float, awr_metrics: dict[str, float], q_std: float
) -> np.ndarray:
    """Return what a rule may read, [F] in the order of FEATURE_NAMES; NaN for what is not known.

    coverage: `knn_radius` or `cell_entropy` of a card, one of them for all datasets. cloning_error: `fit/val` of BC, how far
    actions spread around what the state says. awr_metrics: last metrics of AWR at one alpha. q_std: standard deviation of Q over
    the data in units of return.
    """
    return np.array(
        [math.log10(transitions), coverage, cloning_error, awr_metrics.get("policy/ess_share", math.nan), q_std]
    )


def describe_stump(stump: Stump, names: Sequence[str] = FEATURE_NAMES) -> str:
    """Return a rule in words."""
    if stump.feature < 0:
        return f"always {ALWAYS[stump.above]}"
    return f"ddpg_bc where {names[stump.feature]} {'>=' if stump.above else '<='} {stump.threshold:.4g}, else awr"
