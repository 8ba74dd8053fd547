"""The report of an offline study: its trials read, drawn and judged, on the page that every study has."""

from itertools import islice
from pathlib import Path

from valex.offline_study import read_board, stored
from valex.report import page
from valex.report.figures import as_csv
from valex.report.html import Contents, Rendered, Results, draw_figures, provenance, render
from valex.studies.bottleneck_table import trial_rows
from valex.studies.offline import Board, OfflineStudy, judge
from valex.studies.results import table_text
from valex.tables import STUDIES, load
from valex.trials import cell_name

ASKED = 500  # values whose meta.json is read


def facts(study: OfflineStudy, preset: str, board: Board, root: Path) -> list[tuple[str, str]]:
    """Return what was run: study, preset, counts, every dataset and what it stands for, versions and command."""
    total = sum(map(len, board.cells.values()))
    counts = f"{len(board.found)} of {total} tried" + (f", {len(board.failed)} failed" if board.failed else "")
    found = [("study", study.name), ("preset", preset), ("cells", counts)]
    for plan in board.plans:
        made = board.notes.get(plan.name, "not made yet")
        found.append((plan.name, f"{made}. Stands for {plan.stands_for}; lost: {plan.lost}"))
    return found + provenance(islice(sorted((root / "values").glob("*")), ASKED))


def rows(board: Board) -> list[tuple[str, str, str, str]]:
    """Return the datasets with how many of their cells were tried, and every cell that failed."""
    found = []
    for plan in board.plans:
        cells = board.cells[plan.name]
        done = sum(cell in board.found for cell in cells)
        state = "finished" if cells and done == len(cells) else "interrupted"
        found.append((plan.name, state, f"{done} of {len(cells)}", ""))
    return found + [(cell_name(cell), "failed", "", why) for cell, why in board.failed.items()]


def render_offline(root: Path) -> tuple[Rendered, list[str]]:
    """Return the report of a folder and the names of the figures that it may have. Raises StoreError where it is damaged."""
    name, preset, _ = stored(root)
    study: OfflineStudy = load(STUDIES, name)
    board = read_board(root)
    table, figures = study.table(board), study.figures(board)
    verdicts = [verdict for claim in study.claims for verdict in judge(claim, board)]
    drawn, left_out = draw_figures(figures, board)
    shown = Contents(
        study,
        facts(study, preset, board, root),
        Results(page.own_results(table), table_text(table), table.records),
        verdicts,
        drawn,
        page.runs(rows(board), "Cells tried"),
        board.left_out + left_out,
    )
    rendered = render(shown, root)
    trials = {"trials.csv": as_csv(trial_rows(board))}
    return rendered._replace(files=rendered.files | trials), [figure.name for figure in figures]
