"""The report: read the stored runs, draw, judge, and write one self-contained page beside its PNG and CSV files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from valex.config import run_id
from valex.report import page
from valex.report.figures import Picture, as_csv, draw, plate_rows
from valex.store import StoredRun, read_json, read_runs, write_bytes
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Figure, Plate, Study, Verdict, with_learners
from valex.studies.cells import Grid, make_grid
from valex.studies.judge import judge
from valex.studies.naming import arm_name
from valex.studies.results import Row, as_text, results, table_text
from valex.tables import STUDIES, load

ORDER = {"failed": 0, "interrupted": 1, "running": 2, "finished": 3}  # of the list of runs


class NoRunsError(ValueError):
    """A folder without a run that can be read."""


class Drawn(NamedTuple):
    """One figure, drawn."""

    name: str
    title: str
    caption: str
    picture: Picture
    plate: Plate


def study_of(root: Path, runs: Sequence[StoredRun] = ()) -> Study:
    """Return the study that a folder is named after ("horizon", "horizon-quick"), else the one that declares most runs.

    Without either it is the horizon study, which can read any runs.
    """
    name = root.resolve().name
    trained = [study for study in STUDIES if isinstance(load(STUDIES, study), Study)]
    named = [study for study in trained if f"{name}-".startswith(f"{study}-")]
    if named:
        return load(STUDIES, max(named, key=len))
    declared = {study: most_declared(load(STUDIES, study), runs)[1] for study in trained if runs}
    return load(STUDIES, max(declared, key=lambda study: declared[study], default="horizon"))


@cache
def declared_by(study: str, preset: str) -> dict[str, frozenset[str]]:
    """Return the names of the runs of a preset by learner; a published grid has over a thousand, and every study is asked."""
    chosen, names = load(STUDIES, study), {}
    own = with_learners(chosen, preset)
    for config in own + with_learners(chosen, preset, chosen.agents):
        names.setdefault(config.agent.name, set()).add(run_id(config))
    return {agent: frozenset(found) for agent, found in names.items()}


def most_declared(study: Study, runs: Sequence[StoredRun]) -> tuple[str, int, int]:
    """Return (preset, runs it declares of those present, runs it still lacks) of the preset that declares most of them."""
    present = {run_id(run.config) for run in runs}
    found = {}
    for preset in study.presets:
        groups = [names for names in declared_by(study.name, preset).values() if names & present]
        found[preset] = (sum(len(names & present) for names in groups), sum(len(names - present) for names in groups))
    best = max(found, key=lambda name: found[name][0])
    return best, *found[best]


def preset_of(study: Study, runs: Sequence[StoredRun]) -> tuple[str, int]:
    """Return (preset, runs it still lacks): the one that declares most of the runs; ("", 0) where none declares any."""
    name, here, lacking = most_declared(study, runs)
    return (name, lacking) if here else ("", 0)


def draw_figures(figures: Iterable[Figure], grid: Any) -> tuple[list[Drawn], list[str]]:
    """Return the figures that have data, and why the rest is left out."""
    drawn, left_out = [], []
    for figure in figures:
        plate = figure.plate(grid)
        left_out += plate.left_out
        if plate.panels:
            drawn.append(Drawn(figure.name, figure.title, figure.caption, draw(figure.title, plate), plate))
    return drawn, left_out


def facts(study: Study, runs: list[StoredRun]) -> list[tuple[str, str]]:
    """Return what was run: study, preset, counts, and what meta.json says of versions, device, commit and command."""
    preset, missing = preset_of(study, runs)
    states = Counter(run.status.get("state", "unknown") for run in runs)
    found = [("study", study.name), ("preset", preset or "none of this study's presets")]
    counts = ", ".join(
        f"{states[state]} {state}" for state in sorted(states, key=lambda s: ORDER.get(s, 2), reverse=True)
    )
    lacking = f"; {missing} more of the preset not started" if missing else ""
    found.append(("runs", f"{len(runs)} ({counts}){lacking}"))
    return found + provenance(run.path for run in runs)


def provenance(folders: Iterable[Path]) -> list[tuple[str, str]]:
    """Return what meta.json says in several folders of command, versions, device, threads and commit."""
    seen: dict[str, list[str]] = {}
    found = []
    for folder in folders:
        for key, value in read_json(folder / "meta.json").items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            seen.setdefault(key, []).append(text)
    for key in ("command", "versions", "device", "threads", "commit"):
        texts = [text for text, _ in Counter(seen.get(key, [])).most_common()]
        if texts:
            found.append((key, " | ".join(texts[:3]) + (f" | and {len(texts) - 3} more" if len(texts) > 3 else "")))
    return found


def message(run: StoredRun) -> str:
    """Return what a run's status says."""
    return str(run.status.get("message", ""))


def result_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the results table as rows of results.csv (units of return)."""
    return [
        {"env": r.env, "agent": r.agent, "arm": r.arm, "horizon": r.horizon}
        | {"finished": r.finished, "failed": r.failed, "unfinished": r.unfinished}
        | {
            f"{name}_{part}": float(value)
            for name, found in (("final_iqm", r.final), ("auc_iqm", r.auc), ("p_auc_above_h0", r.better))
            for part, value in zip(("value", "low", "high"), found, strict=True)
        }
        for r in rows
    ]


def claim_dicts(study: Any, verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts as rows of claims.csv."""
    texts = {claim.id: claim for claim in study.claims}
    return [
        {
            "claim": v.claim,
            "text": texts[v.claim].text,
            "source": texts[v.claim].source,
            "statistic": texts[v.claim].statistic,
            "env": v.env,
            "quantity": v.statistic,
            "value": v.value,
            "low": v.low,
            "high": v.high,
            "seeds": v.n,
            "diverged": v.failed,
            "verdict": v.verdict,
            "reason": v.reason,
        }
        for v in verdicts
    ]


def run_rows(runs: list[StoredRun]) -> list[tuple[str, str, str, str]]:
    """Return (run, state, env steps reached, message) of every run, those that did not finish first."""
    rows = []
    for run in sorted(runs, key=lambda run: (ORDER.get(run.status.get("state", ""), 2), run.path.name)):
        steps = run.metrics.get("env_steps", np.zeros(0))
        reached = f"{int(steps[-1]):,} of {run.config.train.env_steps:,}" if len(steps) else "none logged"
        rows.append((run.path.name, str(run.status.get("state", "unknown")), reached, message(run)))
    return rows


class Results(NamedTuple):
    """The results table of a study, its own or that of returns."""

    page: str  # as a part of the page
    text: str  # for a terminal
    records: list[dict[str, Any]]  # rows of results.csv


def results_of(study: Study, grid: Grid) -> Results:
    """Return the results of a study in all their forms."""
    if study.table:
        found = study.table(grid)
        return Results(page.own_results(found), table_text(found), found.records)
    rows = results(grid)
    shown = page.results(rows, partial(arm_name, beside={row.arm for row in rows}))
    return Results(shown, as_text(rows), result_dicts(rows))


class Rendered(NamedTuple):
    """A report, not yet written."""

    page: str
    files: dict[str, bytes]  # beside it, name to content
    text: str  # the results table for a terminal


class Contents(NamedTuple):
    """What a report shows, whatever kind of study it is about."""

    study: Any  # Study or OfflineStudy
    facts: list[tuple[str, str]]
    table: Results
    verdicts: list[Verdict]
    drawn: list[Drawn]
    runs: str  # as a part of the page
    left_out: list[str]


def contents(study: Study, runs: list[StoredRun]) -> Contents:
    """Return what is shown of a study of training runs."""
    grid = make_grid(runs)
    verdicts = [verdict for claim in study.claims for verdict in judge(claim, grid)]
    drawn, left_out = draw_figures(study.figures, grid)
    listed = page.runs(run_rows(runs))
    return Contents(
        study, facts(study, runs), results_of(study, grid), verdicts, drawn, listed, grid.left_out + left_out
    )


def render(shown: Contents, root: Path) -> Rendered:
    """Return the page, the files beside it, and the results as text."""
    study, verdicts = shown.study, shown.verdicts
    files = {"results.csv": as_csv(shown.table.records), "claims.csv": as_csv(claim_dicts(study, verdicts))}
    for figure in shown.drawn:
        files |= {f"{figure.name}.png": figure.picture.png, f"{figure.name}.csv": as_csv(plate_rows(figure.plate))}
    figures = [page.figure(f.name, f.title, f.caption, f.picture) for f in shown.drawn]
    sections = {
        "": page.facts(shown.facts),
        "results": page.section("results", "Results", shown.table.page),
        "claims": page.section("claims", "Claims", page.claims(study, verdicts)),
        "figures": page.section("figures", "Figures", "\n".join(figures) or "<p>No figure has data yet.</p>"),
        "runs": page.section("runs", "Runs", shown.runs),
        "left-out": page.section("left-out", "Left out", page.bullets(shown.left_out, "Nothing.")),
    }
    aside = page.not_run(verdicts)
    counts = Counter(v.verdict for v in verdicts if v.claim not in aside)
    counted = ", ".join(f"{counts.get(name, 0)} {name}" for name in (SUPPORTED, NOT_SUPPORTED, UNDECIDED))
    counted += f"; {len(aside)} claims not run in this preset" if aside else ""
    lead = [study.summary, f"Verdicts, counted per claim and {study.task.lower()}: {counted}."]
    document = page.document(study.title, root.resolve().name, lead, sections)
    return Rendered(document, files, shown.table.text)


def write_report(root: Path | str, out: Path | None = None) -> Path:
    """Write the report of the runs directly below `root`; return the path of its page. As `make_report`."""
    return make_report(root, out)[1]


def make_report(root: Path | str, out: Path | None = None) -> tuple[str, Path]:
    """Write `out`/index.html (default: root/report) with a PNG and a CSV per figure, results.csv and claims.csv.

    Reads the run directories directly below `root`, or the trials of an offline study there, and nothing else. Each file is
    replaced at once, the page last; files of figures that no longer have data are removed.
    Raises NoRunsError if there are no runs, OSError if the folder cannot be written.
    """
    root = Path(root)
    out = root / "report" if out is None else Path(out)
    if (root / "study.json").is_file():
        from valex.report.offline import render_offline  # here: it imports jax

        rendered, names = render_offline(root)
    else:
        runs = read_runs(root)
        if not runs:
            raise NoRunsError(f"{root}: no runs here; make some with `valex study horizon --preset smoke --out {root}`")
        study = study_of(root, runs)
        rendered, names = render(contents(study, runs), root), [figure.name for figure in study.figures]
    return rendered.text, write(rendered, names, out)


def write(rendered: Rendered, figures: list[str], out: Path) -> Path:
    """Write a report; return its page. Of `figures` those that are not in it are removed."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in rendered.files.items():
        write_bytes(out / name, content)
    for figure in figures:
        for suffix in (".png", ".csv"):
            if figure + suffix not in rendered.files:
                (out / (figure + suffix)).unlink(missing_ok=True)
    index = out / "index.html"
    write_bytes(index, rendered.page.encode())
    return index
