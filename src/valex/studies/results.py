"""The results table: one row per environment, arm and horizon."""

from typing import NamedTuple

import numpy as np

from valex.statistics import Interval, probability_of_improvement, stratified_bootstrap
from valex.studies.base import Table
from valex.studies.cells import BASELINE, Grid, arms, auc, cell, column, envs, final, horizons, owner
from valex.studies.naming import arm_name

NAN = Interval(np.nan, np.nan, np.nan)


class Row(NamedTuple):
    """One cell; intervals are 95 % stratified percentile bootstrap, in units of return."""

    task: str  # as it is written
    env: str
    agent: str
    arm: str  # its key
    horizon: int
    finished: int  # seeds behind the numbers
    failed: int  # diverged; not in the numbers
    unfinished: int
    final: Interval  # IQM of the last evaluation
    auc: Interval  # IQM of the area under the curve over its length
    better: Interval  # probability that a seed has a larger AUC than one at H = 0


def _interval(values: np.ndarray) -> Interval:
    return stratified_bootstrap([values]) if len(values) else NAN


def make_row(grid: Grid, env: str, arm: str, h: int) -> Row:
    """Return the row of a cell."""
    found = cell(grid, env, arm, h)
    if found is None:
        raise KeyError(f"no runs of {arm} at H = {h} in {env}")
    finals, areas, base = (column(grid, env, *which) for which in ((arm, h, final), (arm, h, auc), (BASELINE, 0, auc)))
    better = probability_of_improvement([areas], [base]) if h and len(areas) and len(base) else NAN
    counts = (len(found.finished), len(found.failed), len(found.unfinished))
    return Row(env, *grid.tasks[env], found.arm, h, *counts, _interval(finals), _interval(areas), better)


def results(grid: Grid) -> list[Row]:
    """Return the rows by environment, H = 0 once, then arm by arm with rising H."""
    rows = []
    for env in envs(grid):
        pairs = [(arm, h) for arm in arms(grid, env) for h in horizons(grid, env, arm)]
        cells = dict.fromkeys((owner(grid, env, arm, h), h) for arm, h in pairs)
        rows += [make_row(grid, env, arm, h) for arm, h in cells]
    return rows


def number(value: float, digits: int | None = None) -> str:
    """Return a number with `digits` behind the point, by default as many as make four significant ones; – for NaN."""
    if not np.isfinite(value):
        return "–"
    if digits is None:
        digits = 0 if abs(value) >= 999.5 else 1 if abs(value) >= 99.95 else 2 if abs(value) >= 9.995 else 3
    return f"{value:,.{digits}f}".replace("-", "−")


def interval_text(found: Interval, digits: int | None = None) -> str:
    """Return "value [low, high]"."""
    value, low, high = (number(float(x), digits) for x in found)
    return f"{value} [{low}, {high}]" if np.isfinite(found.low) else value


def seeds_text(row: Row) -> str:
    """Return the seeds behind a row, and in parentheses those that are not in it."""
    lost = [f"{n} {what}" for n, what in ((row.failed, "diverged"), (row.unfinished, "unfinished")) if n]
    return f"{row.finished} ({', '.join(lost)})" if lost else str(row.finished)


def as_text(rows: list[Row]) -> str:
    """Return the table in ASCII for a terminal; diverged and unfinished runs are counted behind the seeds."""
    head = ("env", "arm", "H", "seeds", "final return (IQM) [95 % CI]", "AUC (IQM) [95 % CI]", "P(AUC > H=0)")
    body, beside = [], {r.arm for r in rows}
    for r in rows:
        numbers = (interval_text(r.final), interval_text(r.auc), number(float(r.better.value), 2))
        body.append((r.task, arm_name(r.arm, beside), str(r.horizon), seeds_text(r), *numbers))
    return aligned(head, body)


def aligned(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """Return a table in ASCII, its columns below each other."""
    widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
    table = [head, tuple("-" * width for width in widths), *body]
    lines = ("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in table)
    return "\n".join(lines).replace("−", "-").replace("–", "-").replace("²", "^2")


def table_text(table: Table) -> str:
    """Return the table of a study in ASCII for a terminal, names written once while they repeat."""
    body, previous = [], ()
    for row in table.rows:
        new, previous = row[: table.groups] != previous, row[: table.groups]
        body.append(row if new else ("",) * table.groups + row[table.groups :])
    return aligned(table.head, body)
