"""The results table of the study offline-bottleneck, and its trials as rows of a file."""

from typing import Any

import numpy as np

from valex.offline.matrix_statistics import SATURATED, Direction, direction
from valex.settings.bottleneck import Cell
from valex.statistics import Interval, mean_over_seeds
from valex.studies.base import Table
from valex.studies.bottleneck_measures import (
    BC,
    EXTRACTORS,
    VALUES,
    compared,
    knob,
    knob_text,
    numbers,
    per_seed,
    plan_of,
    settings_of,
)
from valex.studies.bottleneck_panels import kind_text
from valex.studies.offline import Board
from valex.studies.results import interval_text

HEAD = ("Dataset", "Policy", "Seeds", "Tuned to", "Score, tuned", "Score, fixed", "Data that help (°)")
NUMERIC = (False, False, True, True, True, True, True)
NOTE = (
    "Score: mean over the matrix of value data × policy data, then over seeds; success in percent, or return as the figures say, "
    "in units that are the dataset's own. Tuned: at the alpha or N that was best on other seeds (cross-fitting over halves of "
    "them); the setting named is the one that is best over all seeds. Fixed: at the alpha that the config of the extractor "
    "declares. The angle is that of the rise of the tuned scores per decade of data: 0° more value data, 90° more policy data; "
    "there is none where neither slope differs from 0 (saturated in results.csv). Intervals (95 %): expanded bootstrap "
    "percentiles over seeds. Also in results.csv, every trial in trials.csv."
)


def results(board: Board) -> Table:
    """Return the table over all datasets."""
    rows, records = [], []
    for plan in board.plans:
        cloned = [p for p in plan.matrix.policies if p.name == BC]
        for policy in cloned:
            scores = numbers(board, plan.name, None, policy)[:, 0]  # no value, so one row of the matrix
            scores = scores[np.isfinite(scores).all(axis=1)]
            if len(scores):
                found = mean_over_seeds(scores.mean(axis=1))
                rows.append((plan.name, "BC", str(len(scores)), "–", interval_text(found), "–", "–"))
                head = {"dataset": plan.name, "value": "none", "extractor": BC, "seeds": len(scores), "setting": np.nan}
                records.append(head | record(found, None, None))
        for value in plan.matrix.values:
            for extractor in EXTRACTORS:
                one = row(board, plan.name, value, extractor)
                if one is not None:
                    rows.append(one[0])
                    records.append(one[1])
    return Table(HEAD, NUMERIC, 1, rows, NOTE, records)


def row(board: Board, name: str, value: Any, extractor: str) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Return a row of the table and of results.csv, None where an extractor has no seed."""
    tuned, fixed = (compared(board, name, value, (extractor,), which) for which in (False, True))
    if isinstance(tuned, str):
        return None
    scores, sizes = tuned.scores[extractor], plan_of(board, name).matrix.sizes
    found = mean_over_seeds(per_seed(scores))
    plain = None if isinstance(fixed, str) else mean_over_seeds(per_seed(fixed.scores[extractor]))
    where = direction(scores, sizes, sizes) if len(sizes) > 1 else None
    several = len(settings_of(plan_of(board, name), extractor)) > 1
    chosen = tuned.chosen[extractor]
    texts = (
        name,
        f"{EXTRACTORS[extractor]} over {VALUES[value.name]}",
        str(len(scores)) + (f" ({tuned.failed} diverged)" if tuned.failed else ""),
        knob_text(chosen).split(", ")[-1] + ("" if several else " (only one)"),
        interval_text(found),
        interval_text(plain) if plain else "–",
        direction_text(where) if where else "–",
    )
    head = {"dataset": name, "value": value.name, "extractor": extractor, "seeds": len(scores), "setting": knob(chosen)}
    return texts, head | record(found, plain, where)


def direction_text(where: Direction) -> str:
    """Return a class with its angle, of scores without a slope the class alone."""
    angle = "" if where.kind == SATURATED else f", {interval_text(where.angle, 0)}"
    return kind_text(where) + angle


def record(tuned: Interval, fixed: Interval | None, where: Direction | None) -> dict[str, Any]:
    """Return the numbers of a row of results.csv."""
    nothing = Interval(np.nan, np.nan, np.nan)
    found: dict[str, Any] = {"direction": where.kind if where else ""}
    columns = {"tuned": tuned, "fixed": fixed or nothing, "angle": where.angle if where else nothing}
    columns |= {"slope_value": where.value if where else nothing, "slope_policy": where.policy if where else nothing}
    for column, interval in columns.items():
        found |= {f"{column}_{part}": float(x) for part, x in zip(Interval._fields, interval, strict=True)}
    return found


def hidden_text(cell: Cell) -> str:
    """Return the hidden layers of a cell's value: "64x64", "linear", "" without a value."""
    if cell.value is None:
        return ""
    return "x".join(map(str, cell.value.hidden)) or "linear"


def trial_rows(board: Board) -> list[dict[str, Any]]:
    """Return every trial: its cell, its score and its measures; a measure that it lacks is NaN."""
    rows, names = [], dict.fromkeys(m for trial in board.found.values() for m in trial.get("measures", {}))
    for plan in board.plans:
        for cell in board.cells.get(plan.name, ()):
            if cell not in board.found:
                continue
            trial, how = board.found[cell], cell.test_time
            row = {"dataset": plan.name, "value": cell.value.name if cell.value else "", "value_size": cell.value_size}
            row |= {"extractor": cell.policy.name, "setting": knob(cell.policy), "policy_size": cell.policy_size}
            row |= {"test_time": f"{how.name} beta={how.beta:g}" if how else "", "encoding": cell.encoding}
            row |= {"num_critics": cell.value.num_critics if cell.value else 0, "hidden": hidden_text(cell)}
            row |= {"error_size": cell.perturbation.size if cell.perturbation else 0.0}
            row |= {"seed": cell.seed, "score": trial["score"], "unit": trial.get("unit", "")}
            rows.append(row | {name: trial.get("measures", {}).get(name, float("nan")) for name in names})
    return rows
