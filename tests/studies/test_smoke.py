"""Every study from the command line at its smallest preset: all runs, the report, every claim with a verdict or a reason."""

import csv

import pytest
import tiny

from valex import tables
from valex.config import run_id
from valex.store import read_runs
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED


@pytest.mark.parametrize("name", tables.STUDIES)
def test_a_study_from_the_command_line(name, tmp_path):
    study = tables.load(tables.STUDIES, name)
    done = tiny.valex("study", name, "--preset", "smoke", "--workers", "1", "--quiet", f"out={tmp_path}")
    assert done.code == 0, done.err
    runs = read_runs(tmp_path)
    assert {run.path.name for run in runs} == {run_id(config) for config in study.presets["smoke"]()}
    assert {run.status["state"] for run in runs} == {"finished"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert study.title in page and str(tmp_path / "report" / "index.html") in done.out
    verdicts = list(csv.DictReader((tmp_path / "report" / "claims.csv").open()))
    assert {row["claim"] for row in verdicts} == {claim.id for claim in study.claims}
    assert all(row["verdict"] in (SUPPORTED, NOT_SUPPORTED, UNDECIDED) and row["reason"] for row in verdicts)
    assert list((tmp_path / "report").glob("*.png"))
