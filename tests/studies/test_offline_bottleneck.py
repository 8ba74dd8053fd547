"""The study offline-bottleneck: its plans, its claims on boards with known answers, its figures, and runs that are killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import boards
import jax
import numpy as np
import pytest
import tiny
from boards import World, make_board, verdicts

from valex import offline_study, workers
from valex.continuation import continuation_name
from valex.fields import ConfigError
from valex.report.figures import draw, plate_rows
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.bottleneck_claims import CLAIMS, ranks
from valex.studies.bottleneck_errors import sweeps, wider_data
from valex.studies.bottleneck_measures import settings_of
from valex.studies.bottleneck_table import results, trial_rows
from valex.studies.offline import cells_of, continuations_of, from_dicts, judge, to_dicts
from valex.studies.offline_bottleneck import OFFLINE_BOTTLENECK as STUDY
from valex.trials import cell_name

LITTLE = (
    "jax_disable_most_optimizations"  # programs here are many and small: compiling them costs more than running them
)
PRESETS = tuple(STUDY.presets)
WORDS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED)


@pytest.fixture(scope="module")
def board():
    return make_board()


# ------------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize("preset", PRESETS)
def test_every_plan_can_be_and_its_cells_have_names_of_their_own(preset):
    plans = STUDY.presets[preset]()
    offline_study.check_plans(plans)
    assert len({plan.name for plan in plans}) == len(plans)
    assert all(plan.stands_for and plan.lost for plan in plans)
    for plan in plans:
        few = replace(plan, matrix=replace(plan.matrix, seeds=plan.matrix.seeds[:1]))
        cells = cells_of(few, plan.name, "{}")
        assert len({cell_name(cell) for cell in cells}) == len(cells)
        followed = continuations_of(plan, plan.name, "{}")
        assert len({continuation_name(one) for _, one in followed}) == len(followed)
        assert cells or followed
        assert len(cells_of(plan, plan.name, "{}")) == len(cells) * len(plan.matrix.seeds)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_survives_json(preset):
    plans = STUDY.presets[preset]()
    assert from_dicts(json.loads(json.dumps(to_dicts(plans)))) == plans


def test_a_plan_of_another_version_is_refused():
    rows = json.loads(json.dumps(to_dicts(STUDY.presets["smoke"]())))
    for broken in ({"more": 1}, {"kind": "unheard of"}):
        with pytest.raises(ConfigError, match="another version"):
            from_dicts([rows[0] | broken])


def test_only_the_declared_policy_is_improved_at_test_time():
    plan, _ = STUDY.presets["smoke"]()
    tested = [cell for cell in cells_of(plan, "", "{}") if cell.test_time]
    assert tested and {(c.value and c.value.name, c.policy) for c in tested} == {("iql", settings_of(plan, "awr")[0])}


# ------------------------------------------------------------------------------------------------------------------ claims


def test_what_the_paper_says_is_supported_where_it_is_so(board):
    wanted = [
        "R1a",
        "R1b",
        "R2",
        "R3a",
        "R4",
        "R6a",
        "R6b",
        "R7a",
        "R7b",
        "R8",
        "R9a",
        "R9b",
        "R10a",
        "R10b",
        "R12a",
        "R12b",
    ]
    for id in wanted:
        found = verdicts(board, id)
        assert {v.verdict for v in found.values()} == {SUPPORTED}, (id, found)
    assert set(verdicts(board, "R8")) == {"explored"}
    assert {id: verdicts(board, id)["maze"].verdict for id in ("R13a", "R13b")} == dict.fromkeys(
        ("R13a", "R13b"), SUPPORTED
    )


def test_the_direction_of_awr_is_where_the_score_rises(board):
    assert "class policy" in verdicts(board, "R4")["maze"].statistic
    value = make_board(World(score=lambda cell: 5.0 * np.log10(max(cell.value_size, 1_000))))
    found = verdicts(value, "R4")["maze"]
    assert found.verdict == NOT_SUPPORTED and "class value" in found.statistic
    flat = verdicts(make_board(World(score=lambda cell: 20.0)), "R4")["maze"]
    assert flat.verdict == UNDECIDED


def test_awr_ahead_speaks_against_the_paper():
    found = make_board(World(score=lambda cell: 80.0 if cell.policy.name == "awr" else 20.0))
    assert {verdicts(found, id)["all datasets"].verdict for id in ("R1a", "R1b", "R1c")} <= {NOT_SUPPORTED, UNDECIDED}
    assert verdicts(found, "R1a")["all datasets"].verdict == NOT_SUPPORTED
    assert verdicts(found, "R2")["pooled"].verdict == verdicts(found, "R8")["explored"].verdict == NOT_SUPPORTED


def test_a_sign_test_of_few_settings_decides_nothing(board):
    found = verdicts(board, "R1c")["all datasets"]
    assert found.verdict == UNDECIDED and found.n == 4 and "settings" in found.reason


def test_policies_that_all_fail_support_nothing():
    board = make_board(World(score=lambda cell: 0.0, noise=0.0))
    for id in ("R1a", "R1b", "R1c", "R3b"):
        found = verdicts(board, id)["all datasets"]
        assert (found.verdict, found.n) == (UNDECIDED, 0), id
    assert verdicts(board, "R1a")["all datasets"].reason == "every setting is a tie"
    shares = next(f for f in STUDY.figures(board) if f.name == "shares").plate(board)
    assert not shares.panels and "maze: every score is 0 success (%), so nothing can be told apart" in shares.left_out
    matrix = STUDY.figures(board)[0].plate(board).panels[0]
    assert matrix.matrix.arrow is None and matrix.note.startswith("no slope")
    assert {row[-1] for row in results(board).rows} == {"no slope", "–"}


def test_one_dataset_without_a_score_does_not_count_against_the_others():
    world = World(gain=lambda plan, cell: -boards.usual(cell) if plan.name == "explored" else 0.0, noise=0.0)
    found = {id: verdicts(make_board(world), id)["all datasets"] for id in ("R1a", "R3b")}
    assert "share of 2 settings" in found["R1a"].statistic and "1 of 1" in found["R3b"].statistic


def test_the_value_may_matter_more():
    found = make_board(World(score=lambda cell: 50.0 if cell.value and cell.value.name == "iql" else 10.0))
    assert {verdicts(found, "R3a")[name].verdict for name in ("maze", "explored")} == {NOT_SUPPORTED}


def test_alpha_that_turns_a_matrix():
    """Small alpha of DDPG+BC: value data help; large: policy data. AWR as it is."""

    def score(cell):
        value, policy = (np.log10(max(size, 1_000)) for size in (cell.value_size, cell.policy_size))
        greedy = cell.policy.name == "ddpg_bc" and cell.policy.alpha < 0.1
        return 8.0 * (value if greedy else policy)

    found = make_board(World(score=score))
    turned = verdicts(found, "R5a")["maze"]
    assert turned.verdict == SUPPORTED and turned.value == pytest.approx(90.0, abs=10.0)
    assert verdicts(found, "R5b")["maze"].verdict == SUPPORTED


def test_noise_in_the_data_is_judged_over_a_sweep():
    def gain(plan, cell):
        return 30.0 if plan.name == "sigma0.5" and cell.policy.name == "ddpg_bc" else 0.0

    found = make_board(World(gain=gain))
    assert {verdicts(found, id)["all datasets"].verdict for id in ("R11a", "R11b")} == {SUPPORTED}
    assert verdicts(make_board(), "R11b")["all datasets"].verdict == UNDECIDED
    without = make_board(World(plans=boards.PLANS[:2]))
    assert "not run in this preset" in verdicts(without, "R11a")["all datasets"].reason


def test_a_sweep_compares_each_seed_with_itself():
    """Seeds differ by 10; one that a dataset lost is missing from the gain, and the others stay in their places."""
    plans = tuple(boards.sweep(sigma) for sigma in (0.1, 0.5))

    def gain(plan, cell):
        return 10.0 * cell.seed + (30.0 if plan.name == "sigma0.5" and cell.policy.name == "ddpg_bc" else 0.0)

    def failed(cell):
        return cell.data == "sigma0.1" and cell.seed == 1

    found = wider_data(make_board(World(gain=gain, plans=plans, failed=failed)), "")
    assert not isinstance(found, str) and len(found) == 2
    for part in found:
        np.testing.assert_allclose(part.values, np.full(4, 30.0), atol=3.0)


def test_values_that_lost_different_seeds_are_compared_on_those_they_share():
    """Ranks turn round with the seed; paired by place, the values would contradict each other."""

    def score(cell):
        first = ("awr", "ddpg_bc") if cell.seed % 2 else ("ddpg_bc", "awr")
        return 50.0 + 20.0 * (cell.policy.name == first[0]) - 20.0 * (cell.policy.name == first[1])

    def failed(cell):
        return (
            cell.data == "maze" and cell.value is not None and (cell.value.name, cell.seed) in (("iql", 1), ("crl", 4))
        )

    parts = ranks(make_board(World(score=score, failed=failed)), "maze")
    assert not isinstance(parts, str) and {part.label for part in parts} == {
        "rank of SfBC − rank of DDPG+BC",
        "rank of AWR − rank of SfBC",
    }
    np.testing.assert_allclose([part.values for part in parts], [[1.0, -1.0, -1.0], [1.0, -1.0, -1.0]])


def test_the_sweeps_differ_in_noise_alone():
    for preset, count in (("quick-coverage", 2), ("paper", 1)):
        found = sweeps(make_board(World(plans=STUDY.presets[preset]())))
        assert len(found) == count
        for plans in found.values():
            assert len({plan.settings.sigma for plan in plans}) == len(plans) >= 4
            assert len({(plan.kind, replace(plan.settings, sigma=0.0), plan.matrix) for plan in plans}) == 1
            assert not any(plan.alone or plan.encodings or plan.matrix.test_times for plan in plans)


def test_what_was_not_run_is_said(board):
    without = make_board(World(plans=(boards.PLANS[1],)))
    for id in ("R9a", "R9b", "R11a", "R13a", "R13b", "D1a", "D1b", "D2a", "D2b", "D3"):
        (found,) = verdicts(without, id).values()
        assert found.verdict == UNDECIDED and "not run in this preset" in found.reason


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_four_seeds_decide_nothing_and_an_empty_board_breaks_nothing(claim):
    plans = tuple(replace(p, matrix=replace(p.matrix, seeds=boards.SEEDS[:4])) for p in boards.PLANS)
    few = make_board(World(plans=plans))
    empty = few._replace(found={}, cells={plan.name: [] for plan in plans}, continued={})
    for where in (few, empty):
        found = judge(claim, where)
        assert found and {v.verdict for v in found} == {UNDECIDED}, found
        assert all(v.reason for v in found)


def test_a_diverged_cell_takes_its_seed_along_and_is_counted():
    found = make_board(World(failed=lambda cell: cell.seed == 1 and cell.policy.name == "ddpg_bc"))
    one = verdicts(found, "R8")["explored"]
    assert (one.n, one.failed, one.verdict) == (4, 1, UNDECIDED)


def test_a_verdict_that_hangs_on_diverged_cells_is_none():
    plans = tuple(replace(p, matrix=replace(p.matrix, seeds=(*boards.SEEDS, 6))) for p in boards.PLANS[:2])
    found = make_board(World(failed=lambda c: c.seed == 6 and c.policy.name == "ddpg_bc", plans=plans, noise=0.01))
    one = verdicts(found, "R8")["explored"]
    assert one.failed == 1 and one.verdict in (SUPPORTED, UNDECIDED) and ("diverged" in one.reason or one.n == 5)


# -------------------------------------------------------------------------------------------------------- figures and tables


def test_every_figure_draws():
    board = make_board(World(plans=boards.PLANS + boards.ROBUST))
    found = STUDY.figures(board)
    assert [f.name for f in found[:2]] == ["matrix-maze", "matrix-explored"]
    for figure in found:
        plate = figure.plate(board)
        assert plate.panels and plate_rows(plate), figure.name
        assert draw(figure.title, plate).png.startswith(b"\x89PNG")


def test_figures_of_nothing_are_left_out(board):
    empty = board._replace(found={}, cells={plan.name: [] for plan in board.plans}, continued={})
    for figure in STUDY.figures(empty):
        assert not figure.plate(empty).panels, figure.name


def test_the_matrix_shows_policy_data_upwards(board):
    panel = STUDY.figures(board)[0].plate(board).panels[0]
    assert panel.matrix.values[-1].min() > panel.matrix.values[0].max() + 5.0
    assert 67.5 < panel.matrix.arrow[0] < 112.5


def test_the_table_has_a_row_for_everything_that_was_tuned(board):
    table = results(board)
    assert len(table.rows) == len(table.records) == 4 * (1 + 2 * 3)
    row = next(r for r in table.records if r["dataset"] == "maze" and r["value"] == "iql" and r["extractor"] == "awr")
    assert row["tuned_value"] == pytest.approx(10.0 + 6.0 + 0.5, abs=0.3) and row["direction"] == "policy"
    assert len(trial_rows(board)) == len(board.found)


# -------------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def cheap_programs():
    """Turn most of XLA's optimisations off, as for the tests of offline RL."""
    jax.config.update(LITTLE, True)
    yield
    jax.config.update(LITTLE, False)


def test_the_study_from_the_command_line(tmp_path, cheap_programs):
    """The whole of it, then the same command again: nothing is trained or tried twice."""
    command = ("study", "offline-bottleneck", "--preset", "smoke", "--workers", "1", "--quiet", f"out={tmp_path}")
    planned = tiny.valex(*command, "--dry-run")
    assert planned.code == 0 and "76 cells and 0 continuations, 0 done" in planned.out
    done = tiny.valex(*command)
    assert done.code == 0, done.err
    plan, online = STUDY.presets["smoke"]()
    trials = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").glob("*.json")}
    assert len(trials) == len(cells_of(plan, "", ""))
    assert len(list((tmp_path / "continuations").glob("*.json"))) == len(online.matrix.seeds)
    page = (tmp_path / "report" / "index.html").read_text()
    assert STUDY.title in page and str(tmp_path / "report" / "index.html") in done.out
    found = list(csv.DictReader((tmp_path / "report" / "claims.csv").open()))
    assert {row["claim"] for row in found} == {claim.id for claim in CLAIMS}
    assert all(row["verdict"] in WORDS and row["reason"] for row in found)
    assert len(list(csv.DictReader((tmp_path / "report" / "trials.csv").open()))) == len(trials)
    again = tiny.valex(
        "study", "offline-bottleneck", "--preset", "smoke", "--workers", "1", f"out={tmp_path}", "--json"
    )
    assert again.code == 0 and "78 of 78 trials are there already" in again.err
    assert {path: path.stat().st_mtime_ns for path in trials} == trials
    assert tiny.valex("report", str(tmp_path)).code == 0
    other = tiny.valex("study", "offline-bottleneck", "--preset", "quick", f"out={tmp_path}")
    assert other.code == 2 and "name another folder" in other.err


SCRIPT = """
import json, sys
from pathlib import Path
from valex import device
device.set_up_jax("cpu", threads=1)
from valex.offline_study import Work, run
from valex.studies.offline import from_dicts
root = Path(sys.argv[1])
summary = run(Work(root, from_dicts(json.loads((root / "plan.json").read_text())), [], lambda event: None))
sys.exit(summary.exit_code())
"""


def small_plan(root: Path) -> Path:
    """Write a plan of sixteen cells into a folder."""
    plan, _ = STUDY.presets["smoke"]()
    kept = [p for p in plan.matrix.policies if p.name in ("bc", "awr")]
    config = replace(plan.matrix, values=plan.matrix.values[:1], policies=tuple(kept), test_times=())
    plan = replace(plan, encodings=())
    root.mkdir()
    (root / "plan.json").write_text(json.dumps(to_dicts((replace(plan, matrix=config),))))
    return root


def start(root: Path) -> subprocess.Popen:
    environment = dict(os.environ) | {LITTLE.upper(): "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], env=environment, stderr=subprocess.PIPE)


def tried(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "trials").glob("*.json")}


def test_a_run_that_is_killed_or_stopped_goes_on_and_ends_with_the_same_trials(tmp_path):
    """SIGKILL, then SIGTERM, then the same command to the end; beside it one that nothing disturbed."""
    whole, broken = small_plan(tmp_path / "whole"), small_plan(tmp_path / "broken")
    process = start(whole)
    assert process.wait(300) == 0, process.communicate()
    for number, least, code in ((signal.SIGKILL, 2, -signal.SIGKILL), (signal.SIGTERM, 6, workers.EXIT["interrupted"])):
        process = start(broken)
        tiny.wait_until(lambda least=least: len(tried(broken)) >= least, process)
        process.send_signal(number)
        assert process.wait(300) == code
        assert len(tried(broken)) < len(tried(whole)) == 12
    process = start(broken)
    assert process.wait(300) == 0, process.communicate()
    assert tried(broken) == tried(whole)


def test_a_dataset_made_in_another_way_is_refused(tmp_path):
    plan, _ = STUDY.presets["smoke"]()
    few = replace(plan, settings=replace(plan.settings, episodes=2, steps=20))
    assert offline_study.make_data(tmp_path, few, lambda: False, lambda event: None) == {plan.name: ("finished", "")}
    with pytest.raises(ConfigError, match="another episodes"):
        offline_study.card_of(tmp_path, plan)
    with pytest.raises(ConfigError, match="another seed"):
        offline_study.card_of(tmp_path, replace(few, settings=replace(few.settings, seed=1)))


def test_a_signal_ends_the_making_of_a_dataset_at_once(tmp_path):
    stop = workers.Stop()
    with pytest.raises(offline_study.Interrupted), stop, offline_study.ending_at_once():
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not felt")
    assert stop.signal == signal.SIGTERM
