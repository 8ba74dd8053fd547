"""The figures of a diagnosis of a dataset, described as numbers; `figures.py` draws them."""

from typing import Any

import numpy as np

from valex.report.dataset_terms import unit_words
from valex.report.dataset_words import KINDS, PARTS, best_name, counted, falling, few, method_name, said, shown
from valex.studies.base import Matrix, Panel, Plate, Series

LOOKS = {
    "train": ("training states", "first"),
    "val": ("held-out states", "second"),
    "eval": ("visited states", "third"),
}
Drawn = tuple[str, str, Plate]


def array(values: Any) -> np.ndarray:
    """Return numbers as an array, NaN where JSON holds none."""
    return np.array(values, dtype=float)


def size_name(size: int) -> str:
    """Return an amount of data, short."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{letter}"
    return str(size)


def plates(d: dict[str, Any]) -> tuple[dict[str, Drawn], list[str]]:
    """Return every figure that has data, name -> (title, caption, plate), and why others have none."""
    d = shown(d)
    makers = {"gains": verdict_plate, "matrices": matrices_plate, "errors": error_plate, "fit": fit_plate}
    drawn, left_out = {}, []
    for name, maker in makers.items():
        made = maker(d)
        if isinstance(made, str):
            left_out.append(made)
        else:
            drawn[name] = made
    return drawn, left_out


def drawn_with(d: dict[str, Any]) -> str:
    """Return what the bars of a figure are, "" where few seeds leave none."""
    return "" if few(d) else "; bars 95 % bootstrap intervals"


def ends_of(found: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return (values, low, high) of several numbers; no ends where none has an interval, so that no bars are drawn."""
    y, low, high = (array([one[k] for one in found]) for k in ("value", "low", "high"))
    return (y, low, high) if np.isfinite(low).any() else (y, None, None)


def at(ends: np.ndarray | None, part: slice) -> np.ndarray | None:
    """Return a part of the ends of intervals, if there are any."""
    return None if ends is None else ends[part]


def verdict_plate(d: dict[str, Any]) -> Drawn | str:
    """Return the gain of every swap, part by part."""
    v = d["verdict"]
    if not v:
        return "Gains: without scores of the reference method there are none"
    panels, gained = [], f"gain in {v['unit'] if '%' in v['unit'] else unit_words(v['unit']).split(' (')[0]}"
    for name, part in v["parts"].items():
        rows = [(best_name(part, v["seeds"]), part["gain"]), *part["swaps"].items()]
        rows = [(text, gain) for text, gain in rows if gain["value"] is not None]
        if not rows:
            continue
        y, low, high = ends_of([gain for _, gain in rows])
        places = np.arange(len(rows), dtype=float)
        looks = (("first", slice(0, 1)), ("second", slice(1, None)))
        series = [
            Series("", look, places[part_], y[part_], at(low, part_), at(high, part_), v["seeds"], "marks")
            for look, part_ in looks
        ]
        ticks = tuple(zip(places.tolist(), (text for text, _ in rows), strict=True))
        panels.append(
            Panel(
                PARTS[name],
                "",
                gained,
                series,
                "rows",
                ticks,
                rules=((0.0, ""),),
            )
        )
    if not panels:
        return "Gains: every swap failed"
    panels = one_scale(panels)
    note = (
        f"over {d['about']['method']}, whose shortfall is {said(v['shortfall'], 1)}; mean over {counted(v['seeds'])}, "
        f"paired{drawn_with(d)}"
    )
    caption = (
        "What one part of the reference method, swapped by itself, changes. The first row of each part is the best swap"
    )
    caption += (
        " as chosen on the other half of the seeds: choosing and judging on the same ones would favour luck."
        if v["seeds"] > 1
        else ", chosen and judged on one seed."
    )
    return "What each part of the method costs", caption, Plate(panels, 1, note, [])


def one_scale(panels: list[Panel]) -> list[Panel]:
    """Return panels of named rows that share one scale, so that their values can be compared by eye."""
    told = [values for panel in panels for s in panel.series for values in (s.y, s.low, s.high) if values is not None]
    seen = np.concatenate([*told, [0.0]])
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    room = 0.05 * (high - low) or 1.0
    return [panel._replace(span=(low - room, high + room)) for panel in panels]


def matrices_plate(d: dict[str, Any]) -> Drawn | str:
    """Return the data-scaling matrices as heat maps."""
    if not d["matrices"]:
        return "Data-scaling matrices: no policy was played"
    if len(d["about"]["sizes"]) < 2:
        return "Data-scaling matrices: there is one amount of data; the scores are in the table of methods"
    names = tuple(size_name(size) for size in d["about"]["sizes"])
    arrows = any(one["direction"] and one["direction"]["kind"] != "saturated" for one in d["matrices"])
    panels = []
    for one in d["matrices"]:
        found = one["direction"]
        arrow, note = None, "" if few(d) else "no direction can be fitted"
        if found:
            angle = found["angle"]
            arrow = None if found["kind"] == "saturated" else tuple(array([angle[k] for k in ("value", "low", "high")]))
            note = f"{found['kind']}: {KINDS[found['kind']]}\nangle {said(angle, 0)}°"
        values = array(one["mean"]).T
        low, high = (None, None) if few(d) else (array(one[k]).T for k in ("low", "high"))
        seeds = np.sum(np.isfinite(array(one["scores"])), axis=0).T
        matrix = Matrix(values, names, names, unit_words(d["about"]["unit"]) or "score", low, high, seeds, arrow)
        title = f"{one['value']} + {one['policy']}"
        panels.append(
            Panel(title, "value data (transitions)", "policy data (transitions)", [], note=note, matrix=matrix)
        )
    note = f"mean over {counted(d['about']['seeds'])} of {d['about']['episodes']} episodes each" + (
        "; the arrow points where the score rises, its sector is the 95 % interval" if arrows else ""
    )
    caption = (
        "Each cell: a value learned from so much data, a policy read off it on so much data. To the right more value data, "
        "upwards more policy data."
    )
    if arrows:
        caption += (
            " An arrow to the right: the value is short of data; upwards: the policy is; left or down: data hurt."
        )
    if falls := falling(d["matrices"]):
        caption += f" For {falls}."
    columns = min(3, len(panels) // 2 if len(panels) > 3 else len(panels))
    return "Data-scaling matrices", caption, Plate(panels, max(1, columns), note, [])


def error_plate(d: dict[str, Any]) -> Drawn | str:
    """Return the three errors of every method where an optimal policy is declared, else how remote visited states are."""
    part, names = ("error", ("train", "val", "eval")) if d["expert"] else ("radius", ("val", "eval"))
    rows = [row for row in d["methods"] if any(row[f"{part}/{name}"]["value"] is not None for name in names)]
    if not d["about"]["env"] or not rows:
        return "Errors where policies go: no policy was played"
    places = np.arange(len(rows), dtype=float)
    series = []
    for name in names:
        y, low, high = ends_of([row[f"{part}/{name}"] for row in rows])
        series.append(Series(*LOOKS[name], places, y, low, high, d["about"]["seeds"], "marks"))
    ticks = tuple(zip(places.tolist(), map(method_name, rows), strict=True))
    if d["expert"]:
        title, unit = "Errors to the optimal policy", "mean squared error (action²)"
        caption = (
            "On states it was trained on, on held-out ones, and where it really goes. A visited error far above the held-out one "
            "is a failure to generalise."
        )
    else:
        title, unit = "How remote visited states are: a proxy", "distance to the 10th nearest training state (std)"
        caption = (
            "No optimal policy is declared, so errors are not known. Median distance of visited and of held-out states to the "
            "training data: far-off visited states ask the policy to generalise, which says nothing about whether it does."
        )
    panel = Panel("methods on all data", "", unit, series, "rows", ticks)
    return (
        title,
        caption,
        Plate([panel], 1, f"mean over {counted(d['about']['seeds'])}{drawn_with(d)}", []),
    )


def fit_plate(d: dict[str, Any]) -> Drawn | str:
    """Return errors to the data's actions by amount of data, training against held-out, for values and policies alike."""
    panels = []
    if len(d["about"]["sizes"]) < 2:
        return "Fit by amount of data: there is one amount of data; the errors are in the table of methods"
    for name in dict.fromkeys((row["value"], row["policy"]) for row in d["gaps"]):
        rows = [row for row in d["gaps"] if (row["value"], row["policy"]) == name]
        x = array([row["size"] for row in rows])
        series = []
        for part in ("train", "val"):
            y, low, high = ends_of([row[f"fit/{part}"] for row in rows])
            if np.isfinite(y).any():
                series.append(Series(*LOOKS[part], x, y, low, high, d["about"]["seeds"], "points"))
        if series and name[0] == d["gaps"][0]["value"]:
            ticks = tuple((float(size), size_name(size)) for size in d["about"]["sizes"])
            panels.append(
                Panel(" + ".join(name), "data (transitions)", "error to the data's actions", series, "log", ticks)
            )
    if not panels:
        return "Fit by amount of data: nothing was trained on equal amounts"
    note = f"mean over {counted(d['about']['seeds'])}{drawn_with(d)}; mean squared error (action²)"
    caption = (
        "What cloning minimises, not what is wanted: a policy that improves on the data leaves their actions. A gap that closes "
        "with more data is over-fitting."
    )
    return "Fit to the data's actions", caption, Plate(panels, min(3, len(panels)), note, [])
