"""The figures of a diagnosis of a dataset, described as numbers; `figures.py` draws them."""

from typing import Any

import numpy as np

from valex.report.dataset_words import KINDS, PARTS, best_name, counted, method_name, said
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
    makers = {"gains": verdict_plate, "matrices": matrices_plate, "errors": error_plate, "fit": fit_plate}
    drawn, left_out = {}, []
    for name, maker in makers.items():
        made = maker(d)
        if isinstance(made, str):
            left_out.append(made)
        else:
            drawn[name] = made
    return drawn, left_out


def verdict_plate(d: dict[str, Any]) -> Drawn | str:
    """Return the gain of every swap, part by part."""
    v = d["verdict"]
    if not v:
        return "Gains: without scores of the reference method there are none"
    panels, gained = [], f"gain in {v['unit'] if '%' in v['unit'] else v['unit'].split(' (')[0]}"
    for name, part in v["parts"].items():
        rows = [(best_name(part, v["seeds"]), part["gain"]), *part["swaps"].items()]
        rows = [(text, gain) for text, gain in rows if gain["value"] is not None]
        if not rows:
            continue
        y, low, high = (array([gain[k] for _, gain in rows]) for k in ("value", "low", "high"))
        places = np.arange(len(rows), dtype=float)
        looks = (("first", slice(0, 1)), ("second", slice(1, None)))
        series = [
            Series("", look, places[part_], y[part_], low[part_], high[part_], v["seeds"], "marks")
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
    note = (
        f"over {d['about']['method']}, whose shortfall is {said(v['shortfall'], 1)}; mean over {counted(v['seeds'])}, paired; "
        "bars 95 % bootstrap intervals"
    )
    caption = (
        "What one part of the reference method, swapped by itself, changes. The first row of each part is the best swap as "
        "chosen on the other half of the seeds: choosing and judging on the same ones would favour luck."
    )
    return "What each part of the method costs", caption, Plate(panels, 1, note, [])


def matrices_plate(d: dict[str, Any]) -> Drawn | str:
    """Return the data-scaling matrices as heat maps."""
    if not d["matrices"]:
        return "Data-scaling matrices: no policy was played"
    if len(d["about"]["sizes"]) < 2:
        return "Data-scaling matrices: there is one amount of data; the scores are in the table of methods"
    names = tuple(size_name(size) for size in d["about"]["sizes"])
    panels = []
    for one in d["matrices"]:
        found = one["direction"]
        arrow, note = None, "one amount of data: no direction"
        if found:
            angle = found["angle"]
            arrow = None if found["kind"] == "saturated" else tuple(array([angle[k] for k in ("value", "low", "high")]))
            note = f"{found['kind']}: {KINDS[found['kind']]}\nangle {said(angle, 0)}°"
        values, low, high = (array(one[k]).T for k in ("mean", "low", "high"))
        seeds = np.sum(np.isfinite(array(one["scores"])), axis=0).T
        matrix = Matrix(values, names, names, d["about"]["unit"] or "score", low, high, seeds, arrow)
        title = f"{one['value']} + {one['policy']}"
        panels.append(
            Panel(title, "value data (transitions)", "policy data (transitions)", [], note=note, matrix=matrix)
        )
    note = (
        f"mean over {counted(d['about']['seeds'])} of {d['about']['episodes']} episodes each; the arrow points where the score "
        "rises, its sector is the 95 % interval"
    )
    caption = (
        "Each cell: a value learned from so much data, a policy read off it on so much data. To the right more value data, "
        "upwards more policy data. A horizontal arrow: the value is short of data; a vertical one: the policy is."
    )
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
        y, low, high = (array([row[f"{part}/{name}"][k] for row in rows]) for k in ("value", "low", "high"))
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
        Plate([panel], 1, f"mean over {counted(d['about']['seeds'])}; bars 95 % bootstrap intervals", []),
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
            y, low, high = (array([row[f"fit/{part}"][k] for row in rows]) for k in ("value", "low", "high"))
            if np.isfinite(y).any():
                series.append(Series(*LOOKS[part], x, y, low, high, d["about"]["seeds"], "points"))
        if series and name[0] == d["gaps"][0]["value"]:
            ticks = tuple((float(size), size_name(size)) for size in d["about"]["sizes"])
            panels.append(
                Panel(" + ".join(name), "data (transitions)", "error to the data's actions", series, "log", ticks)
            )
    if not panels:
        return "Fit by amount of data: nothing was trained on equal amounts"
    note = f"mean over {counted(d['about']['seeds'])}; bars 95 % bootstrap intervals; mean squared error (action²)"
    caption = (
        "What cloning minimises, not what is wanted: a policy that improves on the data leaves their actions. A gap that closes "
        "with more data is over-fitting."
    )
    return "Fit to the data's actions", caption, Plate(panels, min(3, len(panels)), note, [])
