"""The legend of a figure: one entry per label over all panels."""

import itertools
from typing import Any

from valex.report.palette import FAINT, colour, line_of
from valex.studies.base import Panel


def rule_styles(panel: Panel) -> list[str]:
    """Return how each reference line of a panel is drawn: those without a label solid, the others told apart."""
    styles = itertools.cycle(("--", ":", "-."))
    return [next(styles) if label else "-" for _, label in panel.rules]


def legend_handles(panels: list[Panel]) -> dict[str, Any]:
    """Return one handle per label over all panels, in the order of the horizon where labels are horizons."""
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    for panel in panels:
        for s in panel.series:
            if s.style == "failed":
                handles.setdefault(s.label, Line2D([], [], color=FAINT, ls="--", marker="x", lw=0.9))
            elif s.label:
                handles.setdefault(s.label, Line2D([], [], color=colour(s.colour), lw=2.0, ms=4.2, **line_of(s)))
        for (_, label), style in zip(panel.rules, rule_styles(panel), strict=True):
            if label:
                handles.setdefault(label, Line2D([], [], color=FAINT, ls=style, lw=1.1))
    horizons = sorted((k for k in handles if k.startswith("H = ")), key=lambda k: int(k[4:]))
    return {k: handles[k] for k in [*horizons, *(k for k in handles if k not in horizons)]}


def legend_columns(labels: list[str], width: float) -> int:
    """Return how many legend entries fit side by side in `width` inches."""
    sizes = [0.62 + 0.078 * len(label) for label in labels] or [width]
    return max(1, len(labels) if sum(sizes) <= width else int(width / max(sizes)))
