"""Draw the plates of a study and write their numbers as CSV. matplotlib is imported on first use (Agg, no display)."""

import csv
import io
import math
import textwrap
from typing import Any, NamedTuple

import numpy as np

from valex.report.heatmap import (
    BAR_WIDTH,
    DIAL,
    MATRIX_WIDTH,
    Scale,
    colour_bar,
    draw_dial,
    draw_matrix,
    matrix_height,
    matrix_rows,
    room_around,
    scale_of,
)
from valex.report.legend import legend_columns, legend_handles, rule_styles
from valex.report.palette import FAINT, INK, SOFT, colour, line_of
from valex.studies.base import Panel, Plate, Series

PANEL_WIDTH = {1: 6.2, 2: 5.4}  # inches, by the number of columns
NARROW = 3.7  # inches, in three columns or more
PANEL_HEIGHT = 2.9  # inches
TITLE_HEIGHT = 0.30  # inches
ROW_HEIGHT = 0.19  # inches, of a named row
DOT_EVERY = 10  # points of a path in a plane
PLANE_SIDE = 3.9  # inches, of a panel that shows a plane
PLANE_TEXT = 0.5  # inches that the text above such a panel takes more than that on its left
NOTE_LINE = 11.0  # points, of the note of a panel
AXIS_ROOM, TITLE_LETTER, NOTE_LETTER = 0.75, 0.078, 0.058  # inches: beside the axes, of a letter of a title, of a note
CONTOUR_STEP = 0.04  # between contour lines, in the unit of the height
DPI = 160


class Picture(NamedTuple):
    """One drawn figure."""

    png: bytes  # with its title, to stand alone
    untitled: bytes  # without, to stand under a heading
    width: float  # inches


STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "text.color": INK,
}


def draw_series(axes: Any, series: Series, offset: float, rows: bool = False) -> None:
    """Draw one series; `offset` moves its points (in points) aside, so that bars do not cover each other.

    With `rows` the places of a series run down the y axis and its values along x.
    """
    from matplotlib.transforms import ScaledTranslation

    tint = colour(series.colour)
    if series.style == "failed":
        axes.plot(series.x, series.y, "--", color=tint, lw=0.9, alpha=0.8)
        axes.plot(series.x[-1:], series.y[-1:], "x", color=tint, ms=6, mew=1.4)
    elif series.style == "path":
        truth = series.colour == "true"
        axes.plot(series.x, series.y, color=tint, lw=2.2 if truth else 1.1, zorder=2 if truth else 3)
        axes.plot(series.x[::DOT_EVERY], series.y[::DOT_EVERY], "o", color=tint, ms=3.6 if truth else 2.6, zorder=3)
        axes.plot(series.x[:1], series.y[:1], "o", mfc="none", mec=INK, ms=9, zorder=4)
    elif series.style == "reference":
        axes.plot(series.x, series.y, "--", color=tint, lw=1.2, zorder=1.5)
    elif series.style in ("points", "marks"):
        bars = None
        if series.low is not None and series.high is not None:
            bars = np.nan_to_num(np.abs([series.y - series.low, series.high - series.y]))
        look = {"color": tint, "ms": 4.2, "lw": 1.3, "elinewidth": 1.2, "capsize": 2.2}
        numbers = {"x": series.y, "y": series.x, "xerr": bars} if rows else {"x": series.x, "y": series.y, "yerr": bars}
        drawn = axes.errorbar(**numbers, **look, **line_of(series))
        shift = (0.0, -offset / 72.0) if rows else (offset / 72.0, 0.0)
        aside = axes.transData + ScaledTranslation(*shift, axes.figure.dpi_scale_trans)
        for artist in drawn.get_children():
            artist.set_transform(aside)
    else:
        baseline = series.colour == "H0"
        look = {"color": tint, "lw": 2.1 if baseline else 1.5, "zorder": 3 if baseline else 2}
        axes.plot(series.x, series.y, **look, **line_of(series))
        if series.low is not None and series.high is not None and np.all(np.isfinite(series.low)):
            axes.fill_between(series.x, series.low, series.high, color=tint, alpha=0.13, lw=0)


def log_label(value: float, _: int = 0) -> str:
    """Return the label of a tick on a log axis: a plain number near 1, a power of ten elsewhere."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return (f"{mantissa}·" if mantissa != "1" else "") + f"$10^{{{int(exponent)}}}$"


def set_log(axes: Any, panel: Panel, values: str = "y", along: str = "y") -> None:
    """Give an axis, `along`, of `values` of the series a log scale: ticks at 1, 2, 5 where it spans less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    numbers = np.concatenate([getattr(s, values) for s in panel.series])
    numbers = numbers[numbers > 0]
    near = len(numbers) > 0 and numbers.max() < 100.0 * numbers.min()
    scaled = getattr(axes, f"{along}axis")
    getattr(axes, f"set_{along}scale")("log")
    scaled.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if near else (1.0,)))
    scaled.set_major_formatter(FuncFormatter(log_label))
    scaled.set_minor_formatter(NullFormatter())


def set_rows(axes: Any, panel: Panel) -> None:
    """Set the named rows of a panel, from top to bottom, and the scale of its values."""
    places, names = zip(*panel.x_ticks, strict=True)
    axes.set_yticks(places, names)
    axes.set_ylim(max(places) + 0.5, -0.5)
    if panel.span is not None:
        axes.set_xlim(*panel.span)
    if panel.log_y:
        set_log(axes, panel, along="x")


def draw_plane(axes: Any, plane: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Draw contour lines behind a panel, which they give one scale for both axes and its limits."""
    x, y, height = plane
    levels = np.arange(np.floor(height.min() / CONTOUR_STEP), np.ceil(height.max() / CONTOUR_STEP) + 1) * CONTOUR_STEP
    axes.contour(x, y, height, levels, colors="#d5dae0", linewidths=0.7, zorder=0)
    axes.grid(False)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")


def make_room(axes: Any, along: str) -> None:
    """Set the limits of the axis `along` which nothing varies."""
    low, high = getattr(axes.dataLim, f"interval{along}")
    if low == high:
        room = room_around(low)
        getattr(axes, f"set_{along}lim")(low - room, high + room)


def set_scales(axes: Any, panel: Panel) -> None:
    """Set scales, ticks and limits of a panel."""
    if panel.series and not panel.log_y:
        make_room(axes, "x" if panel.x_scale == "rows" else "y")
    if panel.plane is not None:
        draw_plane(axes, panel.plane)
    if panel.x_scale == "rows":
        set_rows(axes, panel)
        return
    if panel.x_scale == "horizon":
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.6)
    elif panel.x_scale == "log":
        set_log(axes, panel, "x", "x")
    if panel.x_ticks:
        places, names = zip(*panel.x_ticks, strict=True)
        crowded = panel.x_scale == "linear" and max(places) > 12
        keep = [k for k, p in enumerate(places) if not crowded or p == 0 or p >= 5]
        axes.set_xticks([places[k] for k in keep], [names[k] for k in keep])
        axes.minorticks_off()
    if panel.x_scale == "category":
        axes.set_xlim(-0.5, len(panel.x_ticks) - 0.5)
    if panel.log_y:
        set_log(axes, panel)
    elif panel.ylabel.startswith("share"):
        axes.set_ylim(-0.04, 1.04)
    if not panel.x_ticks and panel.x_scale != "log" and panel.plane is None:
        from matplotlib.ticker import EngFormatter, MaxNLocator

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))


def panel_width(plate: Plate, columns: int) -> float:
    """Return the width of a panel in inches."""
    planes = all(panel.plane is not None for panel in plate.panels)
    matrices = all(panel.matrix is not None for panel in plate.panels)
    return PLANE_SIDE if planes else PANEL_WIDTH.get(columns, MATRIX_WIDTH if matrices else NARROW)


def panel_height(plate: Plate) -> float:
    """Return the height of a panel in inches: more where it has many rows or shows a plane."""
    if any(panel.plane is not None for panel in plate.panels):
        return PLANE_SIDE + PLANE_TEXT
    matrices = [matrix_height(panel.matrix) for panel in plate.panels if panel.matrix is not None]
    rows = max([len(panel.x_ticks) for panel in plate.panels if panel.x_scale == "rows"], default=0)
    return max(PANEL_HEIGHT, ROW_HEIGHT * rows + 0.75, *matrices)


def draw_panel(axes: Any, panel: Panel, width: float, scale: Scale | None = None) -> None:
    """Draw one panel of `width` inches, a matrix in the colours of `scale`."""
    rows, room, note = panel.x_scale == "rows", width - AXIS_ROOM, panel.note
    if panel.matrix is not None and scale is not None:
        draw_matrix(axes, panel.matrix, scale, room)
        if panel.matrix.arrow is not None:
            draw_dial(axes, panel.matrix.arrow)
            room -= DIAL
        note = "\n".join(textwrap.fill(line, int(room / NOTE_LETTER)) for line in note.splitlines())
    else:
        draw_lines(axes, panel)
        set_scales(axes, panel)
    title = textwrap.fill(panel.title, int(room / TITLE_LETTER))
    axes.set_title(title, pad=6.0 + (NOTE_LINE * (note.count("\n") + 1) if note else 0.0))
    if note:
        axes.annotate(note, (0.0, 1.0), (0.0, 3.5), "axes fraction", "offset points", fontsize=8, color=SOFT)
    axes.set_xlabel(panel.ylabel if rows else panel.xlabel)
    axes.set_ylabel(panel.xlabel if rows else panel.ylabel)


def draw_lines(axes: Any, panel: Panel) -> None:
    """Draw reference lines and series; how many values are not positive, and so not shown on a log axis, is written there."""
    rows = panel.x_scale == "rows"
    for (y, _), style in zip(panel.rules, rule_styles(panel), strict=True):
        (axes.axvline if rows else axes.axhline)(y, color=FAINT, lw=1.1, ls=style, zorder=1)
    hidden = 0
    for k, series in enumerate(panel.series):
        if panel.log_y:
            hidden += int(np.sum(~(series.y > 0)))
        aside = 0.0 if panel.x_scale == "log" else 4.0 * (k - (len(panel.series) - 1) / 2)  # a measured x is not moved
        draw_series(axes, series, aside, rows)
    if hidden:
        axes.text(
            0.99, 0.02, f"{hidden} values ≤ 0 not shown", transform=axes.transAxes, ha="right", fontsize=8, color=FAINT
        )


def wrap(text: str, width: float) -> str:
    """Break a line to fit `width` inches at the size of the note."""
    return "\n".join(textwrap.wrap(text, int(width * 15.2)))


def encode(pixels: np.ndarray) -> bytes:
    """Return an RGBA image [height, width, 4] as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "png", dpi=(DPI, DPI))
    return buffer.getvalue()


def draw(title: str, plate: Plate) -> Picture:
    """Return a figure: title, note, legend, then the panels row by row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = max(1, min(plate.columns, len(plate.panels)))
    rows = math.ceil(len(plate.panels) / columns)
    side, scale = panel_width(plate, columns), scale_of(plate.panels)
    width = columns * side + (BAR_WIDTH if scale else 0.0)
    handles, note = legend_handles(plate.panels), wrap(plate.note, width)
    per_row = legend_columns(list(handles), width)
    legend = 0.22 * math.ceil(len(handles) / per_row)
    head = TITLE_HEIGHT + 0.12 + 0.17 * (note.count("\n") + 1) + legend
    height = panel_height(plate) * rows + head
    left, top = 0.1 / width, lambda inches: 1.0 - inches / height
    with matplotlib.rc_context(STYLE):
        figure = plt.figure(figsize=(width, height), dpi=DPI, layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, top(head)), w_pad=0.08, h_pad=0.06)  # pyright: ignore
        shown = [figure.add_subplot(rows, columns, k + 1) for k in range(len(plate.panels))]
        for axes, panel in zip(shown, plate.panels, strict=True):
            draw_panel(axes, panel, side, scale)
        if scale:
            colour_bar(figure, [a for a, p in zip(shown, plate.panels, strict=True) if p.matrix is not None], scale)
        figure.text(left, top(0.08), title, weight="bold", size=11.5, va="top")
        figure.text(left, top(TITLE_HEIGHT + 0.05), note, size=8.5, va="top", color=SOFT, linespacing=1.35)
        if handles:
            place = {"loc": "upper left", "bbox_to_anchor": (left, top(head - legend)), "borderaxespad": 0}
            figure.legend(list(handles.values()), list(handles), ncols=per_row, columnspacing=1.4, **place)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())  # pyright: ignore
        plt.close(figure)
    return Picture(encode(pixels), encode(pixels[round(TITLE_HEIGHT * DPI) :]), width)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as CSV with a header; NaN is written as an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return buffer.getvalue().encode()


def plate_rows(plate: Plate) -> list[dict[str, Any]]:
    """Return every point of a plate: panel, series, x, y, interval, n, and the axes' labels with their units."""
    rows = []
    for panel in plate.panels:
        rows += matrix_rows(panel)
        names = dict(panel.x_ticks) if panel.x_scale in ("category", "rows") else {}
        for s in panel.series:
            nothing = np.full(len(s.x), np.nan)
            low, high = (s.low if s.low is not None else nothing), (s.high if s.high is not None else nothing)
            counts = s.n if isinstance(s.n, tuple) else (s.n,) * len(s.x)
            for x, y, lo, hi, n in zip(s.x, s.y, low, high, counts, strict=True):
                row = {"panel": panel.title, "series": s.label, "x": names.get(float(x), float(x)), "y": float(y)}
                rows.append(
                    row
                    | {"low": float(lo), "high": float(hi), "n": n, "x_label": panel.xlabel, "y_label": panel.ylabel}
                )
        for y, label in panel.rules:
            if label:
                row = {"panel": panel.title, "series": label, "x": math.nan, "y": y, "low": math.nan, "high": math.nan}
                rows.append(row | {"n": "", "x_label": panel.xlabel, "y_label": panel.ylabel})
    return rows
