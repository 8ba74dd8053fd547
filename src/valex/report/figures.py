"""Draw the plates of a study and write their numbers as CSV. matplotlib is imported on first use (Agg, no display)."""

import csv
import io
import math
from typing import Any, NamedTuple

import numpy as np

from valex.studies.base import Panel, Plate, Series

PANEL_WIDTH = {1: 6.2, 2: 5.4}  # inches, by the number of columns
NARROW = 3.7  # inches, in three columns or more
PANEL_HEIGHT = 2.9  # inches
TITLE_HEIGHT = 0.30  # inches
DPI = 160
INK, FAINT = "#1b1f24", "#8a929c"
PALETTE = {  # Okabe and Ito: told apart with any colour vision
    "sac": "#000000",
    "sac-ce": "#0072b2",
    "sac-ae": "#d55e00",
    "sac-retrace": "#009e73",
    "rollout": "#0072b2",
    "critic": "#e69f00",
    "actor": "#cc79a7",
    "plain": "#0072b2",
    "doubly_robust": "#d55e00",
}
OTHERS = ("#56b4e9", "#cc79a7", "#e69f00", "#666666")
MARKERS = {"sac-ae": "s", "sac-retrace": "^", "doubly_robust": "s", "critic": "s", "actor": "^"}  # else a circle
SCALE = {0: 0.0, 1: 0.02, 3: 0.26, 5: 0.46, 10: 0.62, 20: 0.76, 30: 0.88}  # horizon to place on the colour map


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


def colour(name: str) -> str:
    """Return the colour of a horizon ("H3"), an arm or a part.

    Horizons run along matplotlib's `plasma` from dark to light, which keeps their order with any colour vision and in
    grey; those between the ones of SCALE are interpolated in log(1 + H). H = 0 is black.
    """
    if name in PALETTE:
        return PALETTE[name]
    if name.startswith("H") and name[1:].isdigit():
        import matplotlib

        h = int(name[1:])
        place = float(np.interp(math.log1p(h), np.log1p(list(SCALE)), list(SCALE.values())))
        red, green, blue, _ = matplotlib.colormaps["plasma"](place)
        return "#000000" if h == 0 else f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
    return OTHERS[sum(map(ord, name)) % len(OTHERS)]


def draw_series(axes: Any, series: Series, offset: float) -> None:
    """Draw one series; `offset` moves the points sideways (in points) so that bars do not cover each other."""
    from matplotlib.transforms import ScaledTranslation

    tint = colour(series.colour)
    if series.style == "failed":
        axes.plot(series.x, series.y, "--", color=tint, lw=0.9, alpha=0.8)
        axes.plot(series.x[-1:], series.y[-1:], "x", color=tint, ms=6, mew=1.4)
    elif series.style == "points":
        bars = None
        if series.low is not None and series.high is not None:
            bars = np.nan_to_num(np.abs([series.y - series.low, series.high - series.y]))
        marker = MARKERS.get(series.colour, "o")
        look = {"color": tint, "ms": 4.2, "lw": 1.3, "elinewidth": 1.2, "capsize": 2.2}
        drawn = axes.errorbar(series.x, series.y, bars, fmt=f"-{marker}", **look)
        aside = axes.transData + ScaledTranslation(offset / 72.0, 0.0, axes.figure.dpi_scale_trans)
        for artist in drawn.get_children():
            artist.set_transform(aside)
    else:
        baseline = series.colour == "H0"
        axes.plot(series.x, series.y, color=tint, lw=2.1 if baseline else 1.5, zorder=3 if baseline else 2)
        if series.low is not None and series.high is not None and np.all(np.isfinite(series.low)):
            axes.fill_between(series.x, series.low, series.high, color=tint, alpha=0.13, lw=0)


def log_label(value: float, _: int = 0) -> str:
    """Return the label of a tick on a log axis: a plain number near 1, a power of ten elsewhere."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return (f"{mantissa}·" if mantissa != "1" else "") + f"$10^{{{int(exponent)}}}$"


def set_log(axes: Any, panel: Panel) -> None:
    """Give a panel a log y axis: ticks at 1, 2, 5 where it spans less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = np.concatenate([s.y for s in panel.series])
    values = values[values > 0]
    near = len(values) > 0 and values.max() < 100.0 * values.min()
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if near else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(log_label))
    axes.yaxis.set_minor_formatter(NullFormatter())


def set_scales(axes: Any, panel: Panel) -> None:
    """Set scales, ticks and limits of a panel."""
    if panel.x_scale == "horizon":
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.6)
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
    if not panel.x_ticks:
        from matplotlib.ticker import EngFormatter, MaxNLocator

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))


def draw_panel(axes: Any, panel: Panel) -> None:
    """Draw one panel; on a log axis the number of values that are not positive, and so not shown, is written in it."""
    for y, label in panel.rules:
        axes.axhline(y, color=FAINT, lw=1.1, ls="--" if label else "-", zorder=1)
    hidden = 0
    for k, series in enumerate(panel.series):
        if panel.log_y:
            hidden += int(np.sum(~(series.y > 0)))
        draw_series(axes, series, offset=4.0 * (k - (len(panel.series) - 1) / 2))
    set_scales(axes, panel)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    if hidden:
        axes.text(
            0.99, 0.02, f"{hidden} values ≤ 0 not shown", transform=axes.transAxes, ha="right", fontsize=8, color=FAINT
        )


def legend_handles(panels: list[Panel]) -> dict[str, Any]:
    """Return one handle per label over all panels, in the order of the horizon where labels are horizons."""
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    for panel in panels:
        for s in panel.series:
            if s.style == "failed":
                handles.setdefault(s.label, Line2D([], [], color=FAINT, ls="--", marker="x", lw=0.9))
            elif s.label:
                marker = MARKERS.get(s.colour, "o") if s.style == "points" else ""
                handles.setdefault(s.label, Line2D([], [], color=colour(s.colour), lw=2.0, marker=marker, ms=4.2))
        for _, label in panel.rules:
            if label:
                handles.setdefault(label, Line2D([], [], color=FAINT, ls="--", lw=1.1))
    horizons = sorted((k for k in handles if k.startswith("H = ")), key=lambda k: int(k[4:]))
    return {k: handles[k] for k in [*horizons, *(k for k in handles if k not in horizons)]}


def legend_columns(labels: list[str], width: float) -> int:
    """Return how many legend entries fit side by side in `width` inches."""
    sizes = [0.62 + 0.078 * len(label) for label in labels] or [width]
    return max(1, len(labels) if sum(sizes) <= width else int(width / max(sizes)))


def wrap(text: str, width: float) -> str:
    """Break a line to fit `width` inches at the size of the note."""
    import textwrap

    return "\n".join(textwrap.wrap(text, int(width * 16.5)))


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
    width = columns * PANEL_WIDTH.get(columns, NARROW)
    handles, note = legend_handles(plate.panels), wrap(plate.note, width)
    per_row = legend_columns(list(handles), width)
    legend = 0.22 * math.ceil(len(handles) / per_row)
    head = TITLE_HEIGHT + 0.12 + 0.17 * (note.count("\n") + 1) + legend
    height = PANEL_HEIGHT * rows + head
    left, top = 0.1 / width, lambda inches: 1.0 - inches / height
    with matplotlib.rc_context(STYLE):
        figure = plt.figure(figsize=(width, height), dpi=DPI, layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, top(head)), w_pad=0.08, h_pad=0.06)  # pyright: ignore
        for k, panel in enumerate(plate.panels):
            draw_panel(figure.add_subplot(rows, columns, k + 1), panel)
        figure.text(left, top(0.08), title, weight="bold", size=11.5, va="top")
        figure.text(left, top(TITLE_HEIGHT + 0.05), note, size=8.5, va="top", color="#4a525c", linespacing=1.35)
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
        names = dict(panel.x_ticks) if panel.x_scale == "category" else {}
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
