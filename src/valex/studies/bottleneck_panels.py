"""What panels of the study offline-bottleneck share: units, sizes in words, means over seeds as a series."""

import numpy as np

from valex.offline.matrix_statistics import SATURATED, Direction
from valex.statistics import mean_over_seeds
from valex.studies.base import Panel, Plate, Series
from valex.studies.offline import Board

MEANS = "Means over seeds with 95 % expanded bootstrap intervals."


def unit_of(board: Board, name: str) -> str:
    """Return the unit of a dataset's scores."""
    return next((board.found[c]["unit"] for c in board.cells.get(name, ()) if c in board.found), "score")


def size_text(size: int) -> str:
    """Return an amount of data: "1.5k", "400k", "1M"."""
    return f"{size / 1e6:g}M" if size >= 1_000_000 else f"{size / 1e3:g}k" if size >= 1_000 else str(size)


def kind_text(where: Direction) -> str:
    """Return the class of a direction in words: where no slope differs from 0 there is none."""
    return "no slope" if where.kind == SATURATED else where.kind


def points(label: str, colour: str, x: list[float], samples: list[np.ndarray], style: str = "points") -> Series | None:
    """Return a series of means over seeds with their intervals, without the places that have none; None without any."""
    kept = [(place, values[np.isfinite(values)]) for place, values in zip(x, samples, strict=True)]
    kept = [(place, values) for place, values in kept if len(values)]
    if not kept:
        return None
    found = [mean_over_seeds(values) for _, values in kept]
    value, low, high = (np.array([float(getattr(i, part)) for i in found]) for part in ("value", "low", "high"))
    counts = tuple(len(values) for _, values in kept)
    return Series(label, colour, np.array([place for place, _ in kept]), value, low, high, counts, style)


def present(series: list[Series | None]) -> list[Series]:
    """Return the series that there are."""
    return [one for one in series if one is not None]


def plate(panels: list[Panel], columns: int, note: str, left_out: list[str]) -> Plate:
    """Return a plate of the panels that show something."""
    shown = [panel for panel in panels if panel.series or panel.matrix is not None]
    return Plate(shown, columns, note, left_out)
