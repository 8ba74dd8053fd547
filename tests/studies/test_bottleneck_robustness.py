"""The claims D1 to D3 of offline-bottleneck on boards with known answers, their plans, and one small run."""

from dataclasses import replace
from functools import partial

import boards
import jax
import numpy as np
import pytest
from boards import World, make_board, verdicts

from valex import offline_study
from valex.offline.extraction_rule import FEATURE_NAMES
from valex.settings.bottleneck import Robustness
from valex.settings.offline import OPEXConfig
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.bottleneck_claims import CLAIMS
from valex.studies.bottleneck_robust_plans import CRITICS, ERRORS, robust
from valex.studies.bottleneck_robustness import ROBUSTNESS_CLAIMS, picked, points_per_unit
from valex.studies.bottleneck_table import trial_rows
from valex.studies.offline import cells_of, judge
from valex.studies.offline_bottleneck import OFFLINE_BOTTLENECK as STUDY

IDS = tuple(claim.id for claim in ROBUSTNESS_CLAIMS)
SETS = ("maze-robust", "explored-robust")
varied = partial(World, plans=boards.ROBUST)


def said(world, id: str) -> dict[str, str]:
    return {env: verdict.verdict for env, verdict in verdicts(make_board(world), id).items()}


def everywhere(verdict: str) -> dict[str, str]:
    return dict.fromkeys((*SETS, "pooled"), verdict)


# ------------------------------------------------------------------------------------------------------------------- plans


def test_what_quick_made_is_not_made_again():
    """Same dataset, same cell, where both presets have it."""
    before = {plan.name: plan for plan in STUDY.presets["quick"]()}
    plans = [plan for plan in STUDY.presets["quick-robustness"]() if plan.name in before]
    assert len(plans) == 3
    for plan in plans:
        theirs = before[plan.name]
        assert (plan.kind, plan.settings, plan.clock) == (theirs.kind, theirs.settings, theirs.clock)
        usual = [cell for cell in cells_of(plan, "", "{}") if cell.value in theirs.matrix.values]
        usual = [cell for cell in usual if cell.perturbation is None]
        assert len(usual) == 5 * (2 + 3) and set(usual) <= set(cells_of(theirs, "", "{}"))


def test_values_and_errors_are_varied_one_at_a_time():
    plan = boards.ROBUST[0]
    cells, own = cells_of(plan, "", "{}"), plan.matrix.values[0]
    assert len(cells) == len(set(cells)) == 5 * (3 * 2 + 3 * (1 + len(ERRORS)))
    assert {(c.value.num_critics, bool(c.value.hidden)) for c in cells} == {(2, True), (CRITICS, True), (2, False)}
    wrong = [c for c in cells if c.perturbation]
    assert all(c.value == own and c.test_time and c.perturbation.seed == c.seed for c in wrong)
    assert {c.perturbation.size for c in wrong} == set(ERRORS)


def test_at_least_six_datasets_are_there_for_the_rule():
    for preset in ("quick-robustness", "paper-robustness"):
        plans = STUDY.presets[preset]()
        assert sum(plan.robustness is not None for plan in plans) == len(plans) >= 6
        assert all([p.name for p in plan.matrix.policies] == ["awr", "ddpg_bc"] for plan in plans)


# ------------------------------------------------------------------------------------------------------------------- claims


def test_claims_of_matrices_are_not_judged_here_and_ours_not_there():
    board = make_board(varied())
    for claim in CLAIMS:
        if claim.id not in IDS:
            (found,) = judge(claim, board)
            assert found.verdict == UNDECIDED and "not run in this preset" in found.reason, claim.id


@pytest.mark.parametrize(("gain", "verdict"), [(20.0, SUPPORTED), (-20.0, NOT_SUPPORTED), (0.0, UNDECIDED)])
def test_a_larger_ensemble(gain, verdict):
    def score(cell):
        return 40.0 + gain * (cell.policy.name == "ddpg_bc" and cell.value.num_critics == CRITICS)

    assert said(varied(score=score, noise=0.1 if gain else 2.0), "D1a") == everywhere(verdict)


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, SUPPORTED), (-20.0, NOT_SUPPORTED), (5.0, UNDECIDED)])
def test_a_linear_value(gain, verdict):
    """Both extractors have to be as good: here AWR always is."""

    def score(cell):
        return 40.0 + gain * (cell.policy.name == "ddpg_bc" and not cell.value.hidden)

    found = verdicts(make_board(varied(score=score, noise=0.3)), "D1b")
    assert {env: v.verdict for env, v in found.items()} == everywhere(verdict)
    assert all("DDPG+BC" in v.statistic for v in found.values())


@pytest.mark.parametrize("id", ["D2a", "D2b"])
@pytest.mark.parametrize(("left", "verdict"), [(1.0, SUPPORTED), (0.0, UNDECIDED), (-1.0, NOT_SUPPORTED)])
def test_improvement_with_an_error(id, left, verdict):
    """Both pay without an error; what is left of it with one as large as Q decides."""
    which = {"D2a": "opex", "D2b": "ttt"}[id]

    def score(cell):
        if cell.test_time is None:
            return 40.0
        if cell.perturbation is None or cell.test_time.name != which:
            return 60.0
        return 40.0 + 20.0 * left if cell.perturbation.size == 1.0 else 60.0

    found = verdicts(make_board(varied(score=score, noise=0.5)), id)
    assert {env: v.verdict for env, v in found.items()} == everywhere(verdict)
    assert "without an error +2" in found[SETS[0]].statistic or "without an error +1" in found[SETS[0]].statistic


def awr_ahead_on(names):
    """Return a gain that puts AWR ahead on some datasets, DDPG+BC on the others."""

    def gain(plan, cell):
        return 30.0 * (cell.policy.name == ("awr" if plan.name in names else "ddpg_bc"))

    return varied(score=lambda cell: 30.0, gain=gain)


def test_a_rule_that_the_facts_allow():
    """AWR is better on half of the datasets, and all facts tell them apart."""
    board = make_board(awr_ahead_on([f"set{k}" for k in range(4)]))
    found = picked(board)
    assert found.names == [plan.name for plan in boards.ROBUST]
    assert list(found.judged.chosen) == [name[-1] not in "0123" for name in found.names]
    assert found.judged.rule.value == pytest.approx(0.0, abs=1e-9)
    assert found.judged.ddpg_bc.value == pytest.approx(15.0, abs=1.0)
    (said_of,) = verdicts(board, "D3").values()
    assert said_of.verdict == SUPPORTED and said_of.value == pytest.approx(15.0, abs=1.0)
    assert FEATURE_NAMES[0] in said_of.statistic and "maze-robust, explored-robust, set4, set5" in said_of.statistic


def test_a_rule_without_facts_that_matter():
    """One dataset is for AWR: the rule learns always DDPG+BC from the others, or is misled."""
    (found,) = verdicts(make_board(awr_ahead_on(["set0"])), "D3").values()
    assert found.verdict != SUPPORTED
    (same,) = verdicts(make_board(awr_ahead_on([])), "D3").values()
    assert same.verdict == UNDECIDED and same.value == 0.0 and "always ddpg_bc" in same.statistic


def test_few_datasets_make_no_rule():
    (found,) = verdicts(make_board(varied(plans=boards.ROBUST[:5])), "D3").values()
    assert found.verdict == UNDECIDED and "5 datasets" in found.reason


def test_facts_that_are_lacking_leave_a_dataset_out():
    board = make_board(varied(facts=lambda plan: np.nan if plan.name == "set5" else 1.0))
    assert "set5" not in picked(board).names and len(picked(board).names) == 7


@pytest.mark.parametrize("claim", ROBUSTNESS_CLAIMS, ids=IDS)
def test_four_seeds_decide_nothing_and_an_empty_board_breaks_nothing(claim):
    plans = tuple(replace(p, matrix=replace(p.matrix, seeds=boards.SEEDS[:4])) for p in boards.ROBUST)
    few = make_board(varied(plans=plans))
    empty = few._replace(found={}, cells={plan.name: [] for plan in plans}, facts={})
    for where in (few, empty):
        found = judge(claim, where)
        assert found and {v.verdict for v in found} == {UNDECIDED}, found
        assert all(v.reason for v in found)


def test_a_diverged_cell_takes_its_seed_along_and_is_counted():
    world = varied(failed=lambda cell: cell.seed == 1 and cell.value.num_critics == CRITICS)
    one = verdicts(make_board(world), "D1a")["maze-robust"]
    assert (one.n, one.failed, one.verdict) == (4, 1, UNDECIDED)


# -------------------------------------------------------------------------------------------------------------------- scale


def test_points_of_100():
    """Success and normalised return are points as they are; elsewhere the better extractor's mean is 100."""

    def board(unit, awr, ddpg):
        score = lambda cell: awr if cell.policy.name == "awr" else ddpg  # noqa: E731
        return make_board(varied(score=score, noise=0.0, unit=lambda plan: unit))

    for unit in ("success (%)", "normalised return (%)"):
        assert points_per_unit(board(unit, 3.0, 8.0), "set0") == 1.0
    tenth = "return / 10 (of 0 .. 100)"
    assert points_per_unit(board(tenth, 3.0, 8.0), "set0") == pytest.approx(100.0 / 8.0)
    assert points_per_unit(board("return", -2.0, 8.0), "set0") == pytest.approx(10.0)
    assert points_per_unit(board("return", -25.0, -5.0), "set0") == pytest.approx(5.0)
    assert np.isnan(points_per_unit(board("return", 0.0, 0.0), "set0"))


def test_verdicts_do_not_hang_on_the_unit():
    def score(cell):
        return 0.5 + 0.2 * (cell.policy.name == "ddpg_bc" and not cell.value.hidden)

    found = verdicts(make_board(varied(score=score, noise=1e-3, unit=lambda plan: "return")), "D1b")
    assert {v.verdict for v in found.values()} == {NOT_SUPPORTED}
    assert found["maze-robust"].value == pytest.approx(40.0, abs=2.0)


# --------------------------------------------------------------------------------------------------------- figures and tables


def test_figures_show_what_was_varied():
    figures = {figure.name: figure for figure in STUDY.figures(make_board(varied()))}
    board = make_board(varied())
    values, errors, rule = (figures[name].plate(board) for name in ("robust-values", "robust-errors", "rule"))
    assert [panel.title for panel in values.panels] == [panel.title for panel in errors.panels] == list(SETS)
    assert [text for _, text in values.panels[0].x_ticks] == ["2 critics", f"{CRITICS} critics", "linear"]
    assert [series.label for series in errors.panels[0].series] == ["none", "OPEX", "TTT"]
    assert [text for _, text in errors.panels[0].x_ticks] == ["0", "0.3", "1", "3"]
    assert [text for _, text in rule.panels[1].x_ticks] == ["rule", "always AWR", "always DDPG+BC"]


def test_trials_say_what_was_varied():
    rows = [row for row in trial_rows(make_board(varied())) if row["dataset"] == SETS[0]]
    assert {(row["num_critics"], row["hidden"]) for row in rows} == {(2, "8"), (10, "8"), (2, "linear")}
    assert {row["error_size"] for row in rows} == {0.0, *ERRORS}


# -------------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture
def cheap_programs():
    """Turn most of XLA's optimisations off, as for the tests of offline RL."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_small_run_finds_cells_and_facts_and_ends_where_it_began(tmp_path, cheap_programs):
    plan = robust(STUDY.presets["smoke"]()[0])
    config = replace(plan.matrix, sizes=(1_000,), seeds=(1,), episodes=1, test_times=(OPEXConfig(),))
    around = Robustness(plan.robustness.values[1:], (1.0,))
    plan = replace(plan, matrix=config, robustness=around, clock=20)
    work = offline_study.Work(tmp_path, (plan,), [], lambda event: None)
    assert offline_study.left(tmp_path, (plan,))[1:] == (7, 0)
    done = offline_study.run(work)
    assert done.exit_code() == 0, done.messages
    assert offline_study.left(tmp_path, (plan,)) == ([], 7, 7)
    assert "6 cells and 0 continuations and 1 facts, 7 done" in offline_study.plan_text(tmp_path, (plan,))
    offline_study.declare(tmp_path, STUDY._replace(presets={"smoke": lambda: (plan,)}), "smoke")
    board = offline_study.read_board(tmp_path)
    assert board.plans == (plan,) and len(board.found) == 6 and not board.left_out
    (row,) = board.facts[plan.name]
    assert row.shape == (len(FEATURE_NAMES),) and np.isfinite(row).all()
    (tmp_path / "facts").rename(tmp_path / "gone")
    lacking = offline_study.read_board(tmp_path)
    assert np.isnan(lacking.facts[plan.name]).all() and "have not described the data" in lacking.left_out[0]
