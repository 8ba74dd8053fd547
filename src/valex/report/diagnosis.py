"""The report of a gradient diagnosis: what the numbers say in sentences, the figures, the tables, one page."""

from pathlib import Path
from typing import Any

import numpy as np

from valex.report import page
from valex.report.diagnosis_figures import plates
from valex.report.diagnosis_words import at, mode_name, said, sentences
from valex.report.figures import as_csv, draw, plate_rows
from valex.store import write_bytes, write_json
from valex.studies.results import number


def quantity_table(d: dict[str, Any]) -> str:
    """Return variance, signal and error of every mode at every horizon."""
    shown = [("trace", "Trace"), ("between", "of starts"), ("within", "of noise"), ("snr", "SNR of a batch")]
    if d["about"]["truth"]:
        shown += [("relative_bias", "Bias² / |g|²"), ("relative_mse", "Relative MSE")]
    head = [
        ("Gradient", False),
        ("h", True),
        *((title, True) for _, title in shown),
        ("Largest / median", True),
        ("Not finite", True),
    ]
    body = ""
    for name in d["names"]:
        for k, h in enumerate(d["horizons"]):
            cells = [said(at(d["quantities"][q][name], k)) for q, _ in shown]
            tail = d["tails"][name]
            largest, bad = (np.nan if tail[s][k] is None else tail[s][k] for s in ("max_over_median", "nonfinite"))
            cells += [number(largest), f"{100 * bad:.0f} %"]
            row = "".join(f"<td class=num>{page.text(c)}</td>" for c in (h, *cells))
            label = page.text(mode_name(name)) if k == 0 else ""
            body += f"<tr{' class=group' if k == 0 else ''}><td class=words>{label}</td>{row}</tr>\n"
    return page.table(head, body)


def cells_table(d: dict[str, Any]) -> str:
    """Return the oracle swap table."""
    head = [(name, False) for name in ("States", "Jacobians", "Reward", "Critic")]
    head += [(name, True) for name in ("Bias² / |g|²", "Relative MSE", "Expected cosine", "Trace")]
    body = ""
    for row in d["cells"].values():
        who = "".join(f"<td>{'true' if flag else 'learned'}</td>" for flag in row["true"])
        numbers = "".join(
            f"<td class=num>{page.text(said(row[q]))}</td>"
            for q in ("relative_bias", "relative_mse", "cosine", "trace")
        )
        body += f"<tr>{who}{numbers}</tr>\n"
    return page.table(head, body)


DERIVATIVES = {
    "model_by_state": "model, rms |ds'/ds - that of the simulator|",
    "model_by_action": "model, rms |ds'/da - that of the simulator|",
    "critic_by_state": "critic, rms |dQ/ds - that of the return|",
    "critic_by_action": "critic, rms |dQ/da - that of the return|",
    "eps_f": "eps_f, the two of the model together",
    "eps_v": "eps_v, the two of the critic together",
    "prediction": "for comparison: rms error of a step that the model takes",
    "scale": "h'* = eps_v / ((1 - gamma) (eps_f + eps_v)), steps",
}


def derivative_table(d: dict[str, Any]) -> str:
    """Return the errors of derivatives, each with its interval."""
    rows = (
        f"<tr><td>{page.text(title)}</td><td class=num>{page.text(said(d['derivatives'][name]))}</td></tr>\n"
        for name, title in DERIVATIVES.items()
    )
    return page.table([("Error", False), ("Value", True)], "".join(rows))


def missing(d: dict[str, Any]) -> list[str]:
    """Return what could not be measured, and why."""
    lines = []
    if not d["about"]["truth"]:
        lines.append("bias and what it comes from: no differentiable simulator that can be set to an observation")
    if "agreement" not in d:
        lines.append("pathwise against likelihood ratio: asks for modes dp and lr, and for a policy with a likelihood")
    if "numerics" in d and d["numerics"]["doubt"]:
        lines.append(f"float64: {d['numerics']['doubt']}")
    return lines


def write_diagnosis(d: dict[str, Any], out: Path | str) -> Path:
    """Write index.html, gradients.json and a PNG and a CSV per figure into `out`; return the path of the page.

    Each file is replaced at once, the page last. Raises OSError if the folder cannot be written.
    """
    shown, left_out = plates(d)
    drawn = {name: (title, caption, draw(title, plate), plate) for name, (title, caption, plate) in shown.items()}
    figures = [page.figure(name, title, caption, picture) for name, (title, caption, picture, _) in drawn.items()]
    facts = [(str(k), str(v)) for k, v in d["about"].items()]
    sections = {
        "": page.facts(facts),
        "figures": page.section("figures", "Figures", "\n".join(figures)),
        "numbers": page.section("numbers", "Numbers", quantity_table(d)),
    }
    if "cells" in d:
        said_of = f"Every combination at h = {d['about']['chosen']}: which of its parts were the simulator's."
        sections["swap-table"] = page.section("swap-table", "Oracle swap table", f"<p>{said_of}</p>{cells_table(d)}")
    if "derivatives" in d:
        sections["derivatives"] = page.section("derivatives", "Errors of derivatives", derivative_table(d))
    sections["left-out"] = page.section("left-out", "Left out", page.bullets(left_out + missing(d), "Nothing."))
    found = sentences(d)
    document = page.document("Why is this policy gradient as it is?", d["about"].get("name", ""), found, sections)
    return write_files(Path(out), "gradients.json", d, drawn, document)


def write_files(out: Path, name: str, numbers: dict[str, Any], drawn: dict[str, tuple], document: str) -> Path:
    """Write numbers, figures and last the page of a diagnosis into `out`; return where the page lies. Raises OSError.

    drawn: figure's name -> (title, caption, Picture, Plate).
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / name, numbers)
    for figure, (_, _, picture, plate) in drawn.items():
        write_bytes(out / f"{figure}.png", picture.png)
        write_bytes(out / f"{figure}.csv", as_csv(plate_rows(plate)))
    write_bytes(out / "index.html", document.encode())
    return out / "index.html"
