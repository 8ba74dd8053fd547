"""The building blocks of figures: points, bands and their ticks, each a statistic over seeds. Numbers only."""

from collections.abc import Callable, Mapping

import numpy as np

from valex.statistics import Interval, stratified_bootstrap
from valex.store import StoredRun
from valex.studies.base import Panel, Series
from valex.studies.cells import Grid, arms, cell, column, curve, horizons, in_words, shared_curve

INTERVAL = "95 % stratified bootstrap (percentile)"
STEPS = "environment steps"
HORIZON = "horizon H (steps)"  # model steps, or stored steps of Retrace
Statistic = Callable[[np.ndarray], Interval]


def iqm_interval(values: np.ndarray) -> Interval:
    """Return the IQM over seeds [n] with its 95 % bootstrap interval; one seed has none."""
    return stratified_bootstrap([values])


def mean_and_sd(values: np.ndarray) -> Interval:
    """Return the mean over seeds [n], and one standard deviation (n - 1) below and above; NaN for one seed."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    mean = float(np.mean(values))
    return Interval(mean, mean - sd, mean + sd)


def variance(values: np.ndarray) -> Interval:
    """Return the unbiased variance over seeds [n], without an interval; NaN for one seed."""
    return Interval(float(np.var(values, ddof=1)) if len(values) > 1 else np.nan, np.nan, np.nan)


def count_text(counts: list[int]) -> str:
    """Return "n = 5 seeds", or the range where cells differ."""
    counts = [n for n in counts if n] or [0]
    low, high = min(counts), max(counts)
    return f"n = {low} seed{'s' if low != 1 else ''}" if low == high else f"n = {low} to {high} seeds"


def seeds_of(panels: list[Panel]) -> str:
    """Return the number of seeds behind the points of some panels, in words."""
    series = [s for panel in panels for s in panel.series if s.style != "failed"]
    return count_text([n for s in series for n in (s.n if isinstance(s.n, tuple) else (s.n,))])


def points(
    label: str,
    colour: str,
    columns: Mapping[int, np.ndarray],
    style: str = "points",
    statistic: Statistic = iqm_interval,
) -> Series | None:
    """Return a statistic with its interval over the values [n] at each x, or None without any finite one."""
    found = {x: statistic(values) for x, values in columns.items() if len(values)}
    found = {x: i for x, i in found.items() if np.isfinite(i.value)}
    if not found:
        return None
    value, low, high = (np.array([getattr(i, name) for i in found.values()], float) for name in Interval._fields)
    n = tuple(len(columns[x]) for x in found)
    return Series(label, colour, np.array(list(found), float), value, low, high, n, style)


def band(label: str, colour: str, runs: list[StoredRun], key: str) -> Series | None:
    """Return IQM and interval of a metric along training, or None where no run has it."""
    steps, values = shared_curve(runs, key)
    return over_runs((label, colour), steps, values) if len(steps) else None


def over_runs(look: tuple[str, str], x: np.ndarray, values: np.ndarray, style: str = "line") -> Series:
    """Return IQM and interval over runs of values [n, K] at x [K]; look = (label, colour). References have no interval."""
    value, low, high = (np.asarray(array) for array in stratified_bootstrap([values]))
    bounds = (None, None) if style == "reference" else (low, high)
    return Series(*look, x, value, *bounds, len(values), style)


def averaged(label: str, colour: str, curves: list[np.ndarray], style: str = "line") -> Series:
    """Return IQM and interval over runs of curves by k = 1, 2, .., cut to the shortest."""
    most = min(map(len, curves))
    return over_runs((label, colour), np.arange(1.0, most + 1), np.array([c[:most] for c in curves]), style)


def horizon_bands(grid: Grid, env: str, arm: str, key: str, with_failed: bool = False) -> list[Series]:
    """Return one band per horizon of an arm; failed runs as single lines where asked."""
    result = []
    for h in horizons(grid, env, arm):
        found = cell(grid, env, arm, h)
        if found is None:
            continue
        series = band(f"H = {h}", f"H{h}", list(found.finished.values()), key)
        result += [series] if series else []
        for run in found.failed.values() if with_failed else ():
            steps, values = curve(run, key)
            result += [Series("diverged run", f"H{h}", steps, values, n=1, style="failed")] if len(steps) else []
    return result


def by_horizon(grid: Grid, env: str, measure: Callable, statistic: Statistic = iqm_interval) -> list[Series]:
    """Return one series of points per arm: measure(run) against H."""
    series = []
    for arm in arms(grid, env):
        columns = {h: column(grid, env, arm, h, measure) for h in horizons(grid, env, arm)}
        series.append(points(in_words(grid, arm), arm, columns, statistic=statistic))
    return [s for s in series if s]


def horizon_ticks(series: list[Series]) -> tuple[tuple[float, str], ...]:
    """Return ticks at the horizons that occur."""
    return tuple((float(h), f"{h:g}") for h in sorted({h for s in series for h in s.x}))


def spans_decades(series: list[Series]) -> bool:
    """Return whether positive values span more than 1.5 decades, so that only a log axis shows them all."""
    values = np.concatenate([s.y for s in series])
    return bool(np.all(values > 0) and values.max() / values.min() > 30.0)
