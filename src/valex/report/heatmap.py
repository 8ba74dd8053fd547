"""Draw data-scaling matrices as heat maps: one colour scale for a plate, the number in every cell, a dial for the direction."""

import math
from typing import Any, NamedTuple

import numpy as np

from valex.report.palette import FAINT, INK
from valex.studies.base import Matrix, Panel

COLOURS = "viridis"  # keeps its order with any colour vision and in grey
MATRIX_WIDTH = 3.4  # inches of a panel, in three columns or more
BAR_WIDTH = 0.85  # inches, of the colour bar with its label
DIAL = 0.42  # inches, that the dial takes beside the title
DIAL_SIDE = 24.0  # points
CELL_HEIGHT, FRAME_HEIGHT = 0.34, 1.15  # inches, of a row and of what is above and below all of them
CELL_LETTER = 0.0085  # inches that a digit takes per point of its size
FONT, SMALLEST = 9.5, 6.5  # points, of the numbers
HATCHED = "#b6bdc6"
DARK = 0.179  # luminance at which white and black text contrast equally (WCAG 2.2)


class Scale(NamedTuple):
    """The one colour scale of a plate."""

    low: float  # in `unit`
    high: float
    unit: str
    decimals: int  # of the numbers in the cells


def room_around(value: float) -> float:
    """Return how far limits lie from the only value that there is, so that it does not look like a tiny spread."""
    return 0.5 * abs(value) or 1.0


def scale_of(panels: list[Panel]) -> Scale | None:
    """Return the colour scale over all matrices of a plate, None without one. Raises ValueError if their units differ."""
    matrices = [panel.matrix for panel in panels if panel.matrix is not None]
    if not matrices:
        return None
    units = {matrix.unit for matrix in matrices}
    if len(units) > 1:
        raise ValueError(f"one plate has one colour scale, not {', '.join(sorted(units))}")
    values = np.concatenate([np.ravel(matrix.values) for matrix in matrices])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    largest = max(abs(low), abs(high))
    digits = math.floor(math.log10(largest)) if largest > 0 else 0
    decimals = max(0, 2 - max(digits, 0)) if digits >= -1 else 1 - digits
    room = room_around(low) if high == low else 0.0
    return Scale(low - room, high + room, units.pop(), decimals)


def matrix_height(matrix: Matrix) -> float:
    """Return the inches that a matrix needs."""
    return CELL_HEIGHT * len(matrix.row_labels) + FRAME_HEIGHT


def text_colour(rgba: tuple[float, float, float, float]) -> str:
    """Return white or black, whichever contrasts more with a colour: relative luminance as in WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    return "#ffffff" if np.dot(linear, (0.2126, 0.7152, 0.0722)) < DARK else "#000000"


def cell_text(value: float, decimals: int) -> str:
    """Return the number of a cell, a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    said = f"{value:.{decimals}f}"
    return (said[1:] if float(said) == 0.0 and said.startswith("-") else said).replace("-", "−")


def draw_matrix(axes: Any, matrix: Matrix, scale: Scale, width: float) -> None:
    """Draw the cells of a matrix in `width` inches, first row at the bottom. Raises ValueError if labels and values disagree."""
    import matplotlib
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    rows, columns = len(matrix.row_labels), len(matrix.column_labels)
    if np.shape(matrix.values) != (rows, columns):
        raise ValueError(f"a matrix of {rows} rows and {columns} columns has values {np.shape(matrix.values)}")
    norm, tints = Normalize(scale.low, scale.high), matplotlib.colormaps[COLOURS]
    said = [[cell_text(float(value), scale.decimals) for value in row] for row in matrix.values]
    longest = max(len(text) for row in said for text in row)
    size = float(np.clip(0.86 * width / columns / (CELL_LETTER * longest), SMALLEST, FONT))
    for (p, v), value in np.ndenumerate(matrix.values):
        known = math.isfinite(value)
        tint = tints(norm(value)) if known else (1.0, 1.0, 1.0, 1.0)
        look = {"lw": 1.5, "edgecolor": "white"} if known else {"lw": 0, "edgecolor": HATCHED, "hatch": "////"}
        axes.add_patch(Rectangle((v - 0.5, p - 0.5), 1, 1, facecolor=tint, **look))
        box = None if known else {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ink = text_colour(tint) if known else INK
        axes.text(v, p, said[p][v], ha="center", va="center", size=size, color=ink, bbox=box)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.set_xticks(range(columns), matrix.column_labels)
    axes.set_yticks(range(rows), matrix.row_labels)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def draw_dial(axes: Any, arrow: tuple[float, float, float]) -> None:
    """Draw (angle, low, high) in degrees at the upper right of a panel: an arrow over the arc of its interval.

    Without an interval the arrow is faint.
    """
    from matplotlib.offsetbox import AnnotationBbox, DrawingArea
    from matplotlib.patches import Circle, FancyArrow, Wedge

    angle, low, high = arrow
    known, r = math.isfinite(low) and math.isfinite(high), DIAL_SIDE / 2
    dial = DrawingArea(DIAL_SIDE, DIAL_SIDE)
    dial.add_artist(Circle((r, r), r, facecolor="none", edgecolor=FAINT, lw=0.7))
    if known:
        dial.add_artist(Wedge((r, r), r, low, min(high, low + 360.0), facecolor="#a9bdd4", edgecolor="none"))
    ahead = r * math.cos(math.radians(angle)), r * math.sin(math.radians(angle))
    start = r - 0.75 * ahead[0], r - 0.75 * ahead[1]
    shape = {"width": 1.5, "head_width": 7.0, "head_length": 7.5, "length_includes_head": True, "lw": 0}
    dial.add_artist(FancyArrow(*start, 1.7 * ahead[0], 1.7 * ahead[1], facecolor=INK if known else FAINT, **shape))
    place = {"xycoords": "axes fraction", "boxcoords": "offset points", "box_alignment": (1.0, 0.0)}
    axes.add_artist(AnnotationBbox(dial, (1.0, 1.0), (0.0, 4.0), frameon=False, pad=0.0, **place))


def colour_bar(figure: Any, axes: list[Any], scale: Scale) -> None:
    """Draw the colour bar of a plate on the right of the axes that show matrices."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shades = ScalarMappable(Normalize(scale.low, scale.high), COLOURS)
    bar = figure.colorbar(shades, ax=axes, aspect=32, fraction=0.035, pad=0.015)
    bar.set_label(scale.unit)
    bar.outline.set_visible(False)


def matrix_rows(panel: Panel) -> list[dict[str, Any]]:
    """Return the cells of a panel as rows of its CSV: `series` is the size of the policy data, `x` that of the value data."""
    matrix = panel.matrix
    if matrix is None:
        return []
    nothing = np.full(np.shape(matrix.values), math.nan)
    low, high = (nothing if ends is None else ends for ends in (matrix.low, matrix.high))
    counts = np.broadcast_to(matrix.n, np.shape(matrix.values))
    return [
        {
            "panel": panel.title,
            "series": f"{panel.ylabel}: {matrix.row_labels[p]}",
            "x": matrix.column_labels[v],
            "y": float(value),
            "low": float(low[p, v]),
            "high": float(high[p, v]),
            "n": int(counts[p, v]),
            "x_label": panel.xlabel,
            "y_label": matrix.unit,
        }
        for (p, v), value in np.ndenumerate(matrix.values)
    ]
