"""What holds for every registered study: configs that can run, a light import, and a whole run at its smallest preset."""

import csv
import subprocess
import sys

import pytest
import tiny
from benches import cheap_programs  # noqa: F401

from valex import tables
from valex.checks import check
from valex.config import run_id
from valex.store import read_runs
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Study

TRAINED = [name for name in tables.STUDIES if isinstance(tables.load(tables.STUDIES, name), Study)]  # agents or models
PRESETS = [(name, preset) for name in TRAINED for preset in tables.load(tables.STUDIES, name).presets]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_config_can_run_and_is_trained_once(name, preset):
    declared = tables.load(tables.STUDIES, name).presets[preset]()
    assert [check(config) for config in declared] == declared
    assert len({run_id(config) for config in declared}) == len(declared)


@pytest.mark.parametrize("name", tables.STUDIES)
def test_importing_a_study_does_not_import_jax_or_matplotlib(name):
    module = tables.STUDIES[name].target.split(":")[0]
    code = f"import sys, {module}; print([m for m in ('jax', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


IN_CI = (
    "horizon",
    "compounding-error",
)  # with agents, and without; the others take a minute and a half each: `learning`
SMOKE = [pytest.param(n, marks=() if n in IN_CI else pytest.mark.learning) for n in TRAINED]


@pytest.mark.parametrize("name", SMOKE)
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
