"""The report of a diagnosis of a dataset: what the numbers say in sentences, the figures, the tables, one page."""

from pathlib import Path
from typing import Any

from valex.report import page
from valex.report.dataset_figures import plates, size_name
from valex.report.dataset_terms import NUMBERS, box_sentence, unit_words
from valex.report.dataset_words import (
    ENOUGH,
    PARTS,
    best_name,
    construction,
    counted,
    few,
    method_name,
    percent,
    rest_of,
    said,
    sentences,
    shown,
)
from valex.report.diagnosis import write_files
from valex.report.figures import draw
from valex.studies.results import number

FEW = " Too few seeds for intervals, and to tell any gain from chance."
MANY = (
    " Twice the data is worked out from the slope of the score over log10 of the data, not tried; where scores bend towards a "
    "ceiling it is too large. Three parts at 95 % each: where nothing matters, about one report in seven still tells one apart."
)
TITLE = "Where does this dataset's method fall short?"


def rows_of(lines: list[tuple[list[str], bool]], words: int) -> str:
    """Return table rows; the first `words` cells are text, and a line that begins a group is marked."""
    body = ""
    for cells, group in lines:
        kinds = ["words" if i < words else "num" for i in range(len(cells))]
        row = "".join(f"<td class={kind}>{page.text(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
        body += f"<tr{' class=group' if group else ''}>{row}</tr>\n"
    return body


def verdict_table(d: dict[str, Any]) -> str:
    """Return every part with its best swap, then every swap by itself."""
    head = [("Part", False), ("Swapped for", False), ("Gain", True), ("Share of the shortfall", True), ("", False)]
    lines = []
    for name, part in d["verdict"]["parts"].items():
        told = "told apart from 0" if part["known"] else "cannot be told from 0"
        setting = best_name(part, d["verdict"]["seeds"]) if part["setting"] else "every swap failed"
        lines.append(([PARTS[name], setting, said(part["gain"], 1), percent(part["share"]) or "–", told], True))
        lines += [(["", swap, said(gain, 1), "", ""], False) for swap, gain in part["swaps"].items()]
    rest = rest_of(d["verdict"])
    lines.append(([rest[0], "", said(rest[1], 1), "", ""], True))
    note = (
        "Gain: mean over seeds of the score with the swap less that of the reference method, the same seeds in both. Honestly "
        "chosen: for every seed the swap that was best on halves of the seeds without it. Shares only where the shortfall is "
        "above 0."
    )
    note += FEW if few(d) else MANY
    if made := d["verdict"]["by_construction"]:
        note += f" {PARTS[made[0]]}: {construction(made[1])[0].lower()}{construction(made[1])[1:]}"
    return f'<p class="note">{page.text(note)}</p>\n{page.table(head, rows_of(lines, 2))}'


def methods_table(d: dict[str, Any]) -> str:
    """Return every method on all data."""
    part = "error" if d["expert"] else "radius"
    unit = unit_words(d["about"]["unit"])
    head = [("Method on all data", False), (f"Score{f' ({unit})' if unit else ''}", True)]
    head += [("Fit, training", True), ("Fit, held-out", True)]
    names = ("error/train", "error/val", "error/eval") if d["expert"] else ("radius/val", "radius/eval")
    titles = {
        "error/train": "Error, training", "error/val": "held-out", "error/eval": "visited",
        "radius/val": "Remoteness, held-out", "radius/eval": "visited",
    }  # fmt: skip
    head += [(titles[name], True) for name in names] + [("ESS / B", True), ("Gradient ratio", True)]
    lines = []
    for row in d["methods"]:
        cells = [method_name(row), said(row["score"], 1)]
        cells += [said(row[name], 3) for name in ("fit/train", "fit/val", *names)]
        cells += [short(row["policy/ess_share"]), short(row["policy/gradient_ratio"])]
        lines.append((cells, False))
    what = "errors to the optimal policy" if part == "error" else "distance to the 10th nearest training state, in std"
    note = (
        f"Fit: mean squared error to the data's actions. Then {what}. ESS / B: effective sample size of AWR over the batch. "
        "Gradient ratio: the value's pull over the data's, of ddpg_bc. Means over seeds; also in diagnosis.json."
    ) + ("" if few(d) else " Intervals: 95 %.")
    return f'<p class="note">{page.text(note)}</p>\n{page.table(head, rows_of(lines, 1))}'


def short(found: dict[str, Any]) -> str:
    """Return a value without its interval."""
    return "–" if found["value"] is None else number(found["value"])


def direction_table(d: dict[str, Any]) -> str:
    """Return slopes, angle and class of every matrix."""
    head = [("Matrix", False), ("Per decade of value data", True), ("of policy data", True), ("Angle (degrees)", True)]
    head += [("Class", False)]
    lines = []
    for one in d["matrices"]:
        name, found = f"{one['value']} + {one['policy']}", one["direction"]
        if found:
            numbers = [said(found["value"], 1), said(found["policy"], 1), said(found["angle"], 0), found["kind"]]
        else:
            numbers = ["–", "–", "–", "no direction"]
        lines.append(([name, *numbers], False))
    several = len(d["about"]["sizes"]) > 1
    table = page.table(head, rows_of(lines, 1)) if several else "<p>One amount of data has no direction.</p>"
    if few(d):
        table = f"<p>None is told: {counted(d['about']['seeds'])}, at least {ENOUGH} are needed.</p>"
    if not d["variance"]:
        return table
    v = d["variance"]
    eta = v["eta"]
    shares = [*v["factors"].items(), ("interactions", v["interactions"]), ("residual", v["residual"])]
    rows = [
        ([name, f"{100 * eta[name]:.0f} %" if eta[name] is not None else "–", percent(s) or "–"], False)
        for name, s in shares
    ]
    head = [
        ("Share of the variance of all scores", False),
        ("eta²", True),
        ("epsilon² (without what noise adds)", True),
    ]
    return f"{table}\n{page.table(head, rows_of(rows, 1))}"


def alarm_table(d: dict[str, Any]) -> str:
    """Return the alarms, each with its threshold and remedy."""
    if not d["alarms"]:
        return "<p>No number is beyond its threshold.</p>"
    head = [("What", False), ("Where", False), ("Number", False), ("Remedy", False), ("Data", True), ("Value", True)]
    head += [("Threshold", True), ("Seeds", True)]
    lines = [
        (
            [
                a["what"], a["where"], NUMBERS.get(a["number"], a["number"]), a["remedy"], size_name(a["size"]),
                number(a["value"]), f"{a['side']} {a['threshold']:g}", f"{a['seeds']} of {a['of']}",
            ],
            False,
        )
        for a in d["alarms"]
    ]  # fmt: skip
    note = "Means over seeds. Thresholds are rules of thumb, but for |Q| over max |r| / (1 - gamma), which no return can exceed."
    return f'<p class="note">{page.text(note)}</p>\n{page.table(head, rows_of(lines, 4))}'


def card_facts(d: dict[str, Any]) -> str:
    """Return the card as a definition list."""
    card, about = d["card"], d["about"]
    sizes = card["sizes"]
    flat = lambda values: ", ".join(  # noqa: E731
        f"{k} {number(v) if isinstance(v, float) else v}" for k, v in values.items()
    )
    pairs = [
        ("dataset", f"{about['data']}: {card['how']}"),
        ("size", f"{sizes['transitions']:,} transitions in {sizes['trajectories']:,} trajectories"),
        ("dimensions", f"observation {sizes['obs_dim']}, action {sizes['act_dim']}"),
        ("coverage", flat(card["coverage"]) or "too few states to say"),
        ("optimality", flat(card["optimality"])),
        ("sha256", card["sha256"]),
    ]
    return page.facts([(name, str(value)) for name, value in pairs])


def settings_facts(d: dict[str, Any]) -> str:
    """Return what was trained, and what was traded for time."""
    about = d["about"]
    tried = f"{about['episodes']} episodes in {about['env']}" if about["env"] else "nowhere: no environment"
    pairs = [
        ("reference method", about["method"]),
        ("tried on", tried),
        ("goals", about["goals"]),
        ("amounts of data", ", ".join(f"{size:,}" for size in about["sizes"])),
        (
            "training",
            f"{about['steps']:,} updates of {about['batch_size']} rows a phase, lr {about['lr']:g}",
        ),
        ("nets", " x ".join(map(str, about["hidden"])) + " hidden units"),
        ("seeds", f"{about['seeds']}; each draws the order of the trajectories anew"),
        ("cells", f"{about['cells']} (budget {about['budget']})"),
        ("traded for time", about["traded"] or "nothing"),
    ]
    return page.facts([(name, str(value)) for name, value in pairs])


def write_dataset_diagnosis(d: dict[str, Any], out: Path) -> Path:
    """Write index.html, diagnosis.json and a PNG and a CSV per figure into `out`; return the path of the page.

    Each file is replaced at once, the page last. Raises OSError if the folder cannot be written.
    """
    whole, d = d, shown(d)
    described, left_out = plates(d)
    drawn = {name: (title, caption, draw(title, plate), plate) for name, (title, caption, plate) in described.items()}
    figures = [page.figure(name, title, caption, picture) for name, (title, caption, picture, _) in drawn.items()]
    sections = {"": settings_facts(d)}
    if d["verdict"]:
        sections["verdict"] = page.section("verdict", "Verdict", verdict_table(d))
    sections["figures"] = page.section("figures", "Figures", "\n".join(figures))
    sections["alarms"] = page.section("alarms", "Alarms", alarm_table(d))
    if d["matrices"]:
        sections["directions"] = page.section("directions", "Directions and shares of variance", direction_table(d))
    sections["methods"] = page.section("methods", "Methods", methods_table(d))
    box = box_sentence(d["about"]["box"])
    notes = page.bullets(d["card"]["notes"], "Nothing was derived, rescaled, clipped or cut in reading it.")
    notes += f"\n<p>{page.text(box)}</p>" if box else ""
    sections["dataset"] = page.section("dataset", "Dataset", f"{card_facts(d)}\n{notes}")
    failed = [f"{one['cell']}: {one['message']}" for one in d["failed"]]
    sections["left-out"] = page.section(
        "left-out", "Not known and left out", page.bullets([*d["missing"], *left_out, *failed], "Nothing.")
    )
    document = page.document(TITLE, d["about"]["data"], sentences(d), sections)
    return write_files(out, "diagnosis.json", whole, drawn, document)
