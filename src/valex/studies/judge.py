"""The decision rule of every claim.

A claim says that a quantity lies strictly inside a region: (0, inf) "larger", (-inf, 0) "smaller", (-m, m) "the same
up to a margin m" (as in two one-sided tests). Its IQM over seeds gets an expanded percentile bootstrap interval, which
keeps its coverage at 5 to 9 seeds (valex.statistics); k quantities of one claim get intervals at 1 - 0.05/k each, so
that all hold together with 95 % (Bonferroni). Then

    supported       every interval lies inside the region
    not supported   an interval lies wholly outside it
    undecided       anything else, and always below MIN_SEEDS finished (paired) seeds

Where a claim measures something else than one number per seed, its components bring an interval of their own, which is
held against the region alike.

A verdict must not depend on how diverged runs are counted: it is reached twice, without them and with their return set
to the lowest seen in the environment, and is undecided if the two differ.
"""

import math
from typing import Any

import numpy as np

from valex.statistics import Interval, iqm, stratified_bootstrap
from valex.studies.base import EACH, NOT_RUN, NOT_SUPPORTED, SUPPORTED, TOGETHER, UNDECIDED, Claim, Component, Verdict
from valex.studies.cells import Grid, Task, envs
from valex.studies.naming import AGENT_NAMES

MIN_SEEDS = 5
CONFIDENCE = 0.95
RESAMPLES = 10_000  # resolves the outer quantiles of Bonferroni intervals
POOLED = "pooled"


def region_text(region: tuple[float, float]) -> str:
    """Return a region in words: "> 0", "< 0.05", "within ±0.05"."""
    low, high = region
    if math.isinf(low):
        return f"< {high:g}"
    if math.isinf(high):
        return f"> {low:g}"
    return f"within ±{high:g}" if low == -high else f"between {low:g} and {high:g}"


def edge_text(region: tuple[float, float]) -> str:
    """Return the finite ends of a region in words: "0", "−0.05 or 0.05"."""
    return " or ".join(f"{edge:g}".replace("-", "−") for edge in region if math.isfinite(edge))


def interval(strata: list[np.ndarray], confidence: float) -> Interval:
    """Return the IQM over seeds with its expanded stratified bootstrap interval; NaN where there is no value."""
    strata = [values for values in strata if len(values)]
    if not strata:
        return Interval(np.nan, np.nan, np.nan)
    return stratified_bootstrap(strata, iqm, confidence, RESAMPLES, expanded=True)


def slack(found: Interval, region: tuple[float, float]) -> float:
    """Return how far inside the region the interval stays; negative where it leaves it."""
    return float(np.nan_to_num(min(found.low - region[0], region[1] - found.high), nan=-np.inf))


def outside(found: Interval, region: tuple[float, float]) -> bool:
    """Return whether the whole interval lies outside the region."""
    return bool(found.high < region[0] or found.low > region[1])


def decide(claim: Claim, parts: list[tuple[Component, list[np.ndarray]]], env: str) -> Verdict:
    """Apply the rule to components, each with its values per environment; failed runs are not considered here."""
    confidence = 1.0 - (1.0 - CONFIDENCE) / len(parts)
    found = [
        (part, part.estimate(confidence) if part.estimate else interval(strata, confidence)) for part, strata in parts
    ]
    against = [(part, i) for part, i in found if outside(i, claim.region) and not part.unclear]
    open_against = [(part, i) for part, i in against if not part.limit]
    unclear = [(part, i) for part, i in found if part.unclear]
    part, worst = min(open_against or against or unclear or found, key=lambda pair: slack(pair[1], claim.region))
    n = min(sum(len(values) for values in strata) for _, strata in parts)
    smallest = min(len(values) for _, strata in parts for values in strata)
    where = region_text(claim.region)
    if smallest < MIN_SEEDS:
        unit = part.unit.removesuffix("s") if smallest == 1 else part.unit
        verdict, reason = UNDECIDED, f"{smallest} {unit} finished all it compares, {MIN_SEEDS} are needed"
    elif open_against:
        verdict, reason = NOT_SUPPORTED, f"whole interval outside; it says {where}"
    elif against:
        verdict, reason = UNDECIDED, part.limit
    elif unclear:
        verdict, reason = UNDECIDED, part.unclear
    elif slack(worst, claim.region) > 0:
        verdict, reason = SUPPORTED, f"{'every interval' if len(parts) > 1 else 'whole interval'} {where}"
    else:
        verdict, reason = UNDECIDED, f"the interval crosses {edge_text(claim.region)}"
    label = f"{part.label} ({part.detail})" if part.detail else part.label
    numbers = float(worst.value), float(worst.low), float(worst.high)
    return Verdict(claim.id, env, label, *numbers, n, max(p.failed for p, _ in parts), verdict, reason)


def nothing(claim: Claim, env: str, reason: str) -> Verdict:
    """Return the verdict on a claim that nothing was measured for."""
    return Verdict(claim.id, env, "", math.nan, math.nan, math.nan, 0, 0, UNDECIDED, reason)


def _combine(claim: Claim, measured: dict[str, list[Component]], label: str) -> Verdict:
    """Return the verdict over what was measured in some environments, quantities of the same label taken together."""
    labels = [part.label for part in next(iter(measured.values()))]
    labels = [name for name in labels if all(name in [p.label for p in parts] for parts in measured.values())]
    if not labels:
        return nothing(claim, label, "the environments share no horizon")
    parts = []
    for name in labels:
        same = [next(p for p in components if p.label == name) for components in measured.values()]
        limit = next((p.limit for p in same if p.limit), "")
        detail = f"{len(measured)} environments" if label == POOLED else same[0].detail
        failed = sum(p.failed for p in same)
        one = same[0]._replace(failed=failed, detail=detail, limit=limit)
        parts.append((one, [p.values for p in same]))
    return decide(claim, parts, label)


def _judge(claim: Claim, grid: Any, names: list[str], label: str) -> Verdict:
    """Return the verdict over some environments, counting failed runs as the grid says."""
    measured = {env: claim.measure(grid, env) for env in names}
    good = {env: parts for env, parts in measured.items() if not isinstance(parts, str)}
    if label == POOLED:
        good = {env: parts for env, parts in good.items() if min(len(p.values) for p in parts) >= MIN_SEEDS}
        if len(good) < 2:
            return nothing(claim, label, f"fewer than two environments with {MIN_SEEDS} finished seeds")
    return _combine(claim, good, label) if good else nothing(claim, label, next(iter(measured.values())))


def _judge_twice(claim: Claim, grid: Any, names: list[str], label: str) -> Verdict:
    """Return the verdict, undecided if it hangs on how failed runs are counted."""
    verdict = _judge(claim, grid, names, label)
    if verdict.failed == 0 or verdict.n < MIN_SEEDS:
        return verdict
    counted = _judge(claim, grid._replace(floor=True), names, label).verdict
    if counted == verdict.verdict:
        return verdict
    reason = f"{verdict.verdict} without the diverged seeds, {counted} with them at the lowest return seen"
    return verdict._replace(verdict=UNDECIDED, reason=reason)


def about(claim: Claim, task: Task) -> bool:
    """Return whether a claim is about a task."""
    return (not claim.envs or task.env in claim.envs) and (not claim.agents or task.agent in claim.agents)


def judge_in(claim: Claim, grid: Any, names: list[str]) -> list[Verdict]:
    """Return the verdicts of a claim on named tasks: one each, then pooled where there are several and it may be."""
    verdicts = [_judge_twice(claim, grid, [name], name) for name in names]
    pools = len(names) > 1 and claim.scope not in (EACH, TOGETHER)
    return verdicts + ([_judge_twice(claim, grid, names, POOLED)] if pools else [])


def judge(claim: Claim, grid: Grid) -> list[Verdict]:
    """Return the verdicts of a claim: one per task it is about, then pooled where there are several."""
    names = [name for name in envs(grid) if about(claim, grid.tasks[name])]
    if not names:
        lacking = ", ".join((*claim.envs, *(AGENT_NAMES[agent] for agent in claim.agents)))
        return [nothing(claim, lacking, f"{NOT_RUN}: {lacking}")]
    return judge_in(claim, grid, names)
