"""The results table of the study compounding-error: one row per quantity and arm, IQM over seeds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from valex.statistics import Interval, stratified_bootstrap
from valex.store import StoredRun
from valex.studies.base import Table
from valex.studies.cells import Grid, envs
from valex.studies.compounding_measures import (
    derivative_error,
    error_at,
    growth,
    kinds,
    labels,
    measured,
    places,
    r2,
    r2_change,
    spread_ratio,
    values,
)

NOTE = (
    "Of one model after another, mean over the members of an ensemble: error in standard deviations of the held-out "
    "observations, median over starts, of a member that follows its own mean predictions; R² of the number of the state that is "
    "predicted worst. Spread: standard deviation over members, against the error of their average and of one of them. "
    "Derivatives: relative error of their Frobenius norm. Values are IQM over seeds with 95 % stratified bootstrap intervals "
    "(percentile). Also in results.csv."
)


class Quantity(NamedTuple):
    """One row of the table for every arm."""

    name: str
    measure: Callable[[StoredRun], float]
    decimals: int | None = None  # behind the point; None: three significant digits


def quantities(at: list[int]) -> list[Quantity]:
    """Return the quantities of the table; `at` are the numbers of steps that were measured, K last."""
    last = at[-1]
    return [
        Quantity("R² of the next state", r2, 5),
        Quantity("R² of its change", r2_change, 3),
        *(Quantity(f"error after {k} step{'s' if k > 1 else ''}", error_at(k)) for k in at),
        Quantity(f"growth, {last} steps to 1", growth),
        Quantity(f"error after {last}, mean of members", error_at(last, "mean")),
        Quantity(f"error after {last}, own policy", error_at(last, loop="closed_loop")),
        Quantity(f"error after {last}, standing still", error_at(last, "persistence")),
        *(Quantity(f"spread / error of average, {k}", spread_ratio(k)) for k in (at[0], last)),
        *(Quantity(f"spread / error of a member, {k}", spread_ratio(k, "member")) for k in (at[0], last)),
        Quantity("derivative by action, error", derivative_error("action")),
        Quantity("derivative by state, of change", derivative_error("state_change")),
    ]


def written(value: float, decimals: int | None) -> str:
    """Return a number to so many decimals, or to three significant digits without an exponent."""
    if not np.isfinite(value):
        return "–"
    if decimals is None:
        decimals = int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 6)) if value else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def interval_of(found: Interval, decimals: int | None) -> str:
    """Return "value [low, high]"."""
    value, low, high = (written(float(x), decimals) for x in found)
    return f"{value} [{low}, {high}]" if np.isfinite(found.low) else value


def results(grid: Grid) -> Table:
    """Return the table over all environments."""
    rows, records = [], []
    for env in envs(grid):
        found, names = kinds(grid, env), labels(grid, env)
        at = places(run for cell in found.values() for run in measured(cell).values())
        for quantity in quantities(at) if at else ():
            for kind, cell in found.items():
                taken = np.array(list(values(cell, quantity.measure).values()))
                if not len(taken):
                    continue
                interval = stratified_bootstrap([taken])
                counts = f"{len(taken)}" + (f" ({len(cell.failed)} diverged)" if cell.failed else "")
                rows.append((env, quantity.name, names[kind], counts, interval_of(interval, quantity.decimals)))
                record = {"env": env, "quantity": quantity.name, "arm": names[kind], "run_arm": cell.arm}
                numbers = {name: float(x) for name, x in zip(Interval._fields, interval, strict=True)}
                records.append(record | {"seeds": len(taken), "failed": len(cell.failed)} | numbers)
    head = ("Environment", "Quantity", "Arm", "Seeds", "IQM [95 % CI]")
    return Table(head, (False, False, False, True, True), 2, rows, NOTE, records)
