"""What a diagnosis says of scores whose answer is known: trials are written by hand, nothing is trained."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from benches import cheap_programs, pendulum_set  # noqa: F401

from valex import store
from valex.bottleneck.alarms import POLICY_CHECKS, VALUE_CHECKS, alarms
from valex.bottleneck.numbers import measure
from valex.bottleneck.plan import amounts, cells_of, extractors, make_plan, objectives, resolved
from valex.fields import ConfigError
from valex.matrix import trials
from valex.report.dataset_diagnosis import write_dataset_diagnosis
from valex.report.dataset_figures import plates
from valex.report.dataset_terms import box_sentence
from valex.report.dataset_words import sentences
from valex.settings.dataset_diagnosis import DatasetDiagnosisConfig
from valex.trials import cell_name, opened, trial_path

SMALL = DatasetDiagnosisConfig(hidden=(4,), episodes=1, steps=4)
NOISE = np.array([-2.0, 1.0, 0.5, -1.0, 1.5, 0.3])
UNIT = "normalised return (%)"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("bottleneck") / "data"
    card = pendulum_set(path, 40)
    return path, json.dumps(card.env, sort_keys=True)


def made_up(root, plan, score, measures=None, training=None):
    """Write a trial of every cell: score (cell) -> float or None for a run that failed."""
    for cell in cells_of(plan):
        value = score(cell)
        if value is None:
            continue
        place = trial_path(root, cell)
        place.parent.mkdir(parents=True, exist_ok=True)
        known = {"fit/train": 0.5, "fit/val": 0.5, "radius/val": 0.1} | (measures or {})
        trial = {"score": value + NOISE[cell.seed], "unit": UNIT, "measures": known, "artefacts": {"policy": "none"}}
        store.write_json(place, trial | {"training": training or {}})


def jitter(cell):
    """Return noise of one cell by itself, the same whenever it is asked for."""
    return float(np.random.default_rng(int(cell_name(cell)[-16:], 16)).normal(0.0, 0.2))


def found(tmp_path, data, score, config=SMALL):
    plan, bench = make_plan(data[0], data[1], config)
    made_up(tmp_path, plan, score)
    return measure(tmp_path, plan, bench)


def test_where_extraction_matters_that_is_said(data, tmp_path):
    d = found(
        tmp_path, data, lambda c: jitter(c) + (70.0 if c.policy.name == "ddpg_bc" and c.policy.alpha == 0.3 else 40.0)
    )
    text = sentences(d)
    said, gain = text[0].split("what can be told to gain most, ")
    assert said == "Try first: ddpg_bc alpha 0.3 (q_norm std); extraction is "
    assert abs(float(gain.split()[0]) - 30.0) < 0.5  # five seeds, each 0.2 away
    assert d["verdict"]["best"] == 100.0 and "50 % of the shortfall" not in text[1]
    share = d["verdict"]["parts"]["extraction"]["share"]
    assert share["low"] < 0.5 < share["high"] + 0.02
    factors = d["variance"]["factors"]
    assert factors["extractor"]["value"] > 0.9 > 0.1 > abs(factors["value"]["value"])
    assert d["matrices"][0]["direction"]["kind"] in ("saturated", "unclear", "worse")


def test_where_value_data_matter_that_is_said(data, tmp_path):
    def score(cell):
        size = cell.value_size or 27
        return 20.0 * np.log10(size) + jitter(cell)

    d = found(tmp_path, data, score)
    own = d["matrices"][0]
    assert (
        own["policy"] == "awr alpha 3"
        and own["direction"]["kind"] == "value"
        and abs(own["direction"]["angle"]["value"]) < 5
    )
    assert d["verdict"]["first"] == "value"
    part = d["verdict"]["parts"]["value"]
    assert part["setting"] == "twice the value data, by the fitted slope" and not part["measured"]
    assert part["gain"]["value"] == pytest.approx(20.0 * np.log10(2.0), abs=0.3)
    assert "worked out from a slope, not tried" in sentences(d)[0]


def test_where_nothing_matters_nothing_is_said(data, tmp_path):
    d = found(tmp_path, data, lambda c: 40.0)
    assert sentences(d)[0] == "Nothing can be told: with 5 seeds no swap gains more than chance; try --seeds 10."
    assert all(part["gain"]["value"] == 0.0 and not part["known"] for part in d["verdict"]["parts"].values())


def test_few_seeds_a_stated_aim_and_failed_runs(data, tmp_path):
    config = replace(SMALL, seeds=2, reference=60.0)
    gone = lambda c: None if c.policy.name == "sfbc" and c.seed == 1 else 40.0  # noqa: E731
    d = found(tmp_path, data, gone, config)
    text = "\n".join(sentences(d))
    assert text.startswith("Nothing can be told: 2 seeds, at least 5 are needed")
    assert d["verdict"]["best"] == 60.0 and "as stated with --reference" in text and "did not end in a score" in text
    assert d["verdict"]["left_out"] == ["extraction: sfbc N 16"] and d["variance"] is None
    everything = found(tmp_path / "none", data, lambda c: None, config)
    assert everything["verdict"] is None and sentences(everything)[0].startswith("No verdict")
    write_dataset_diagnosis(everything, tmp_path / "empty")


def returned(tmp_path, data, score, config=SMALL):
    """Measure made-up scores that are returns."""
    plan, bench = make_plan(data[0], data[1], config)
    made_up(tmp_path, plan, score)
    for path in (tmp_path / "trials").iterdir():
        store.write_json(path, store.read_json(path) | {"unit": "return"})
    return measure(tmp_path, plan, bench)


def test_without_reference_scores_the_best_method_is_the_aim(data, tmp_path):
    d = returned(tmp_path, data, lambda c: 40.0 + 5.0 * (c.policy.name == "bc" and c.policy_size == 432))
    v, text = d["verdict"], sentences(d)
    assert v["best"] == pytest.approx(45.0 + NOISE[:5].mean())
    assert v["best_from"].endswith("stands for it: bc") and "no reference scores" in " ".join(d["missing"])
    assert v["by_construction"] == ["extraction", "bc"] and v["parts"]["extraction"]["share"]["value"] is None
    said = next(line for line in text if line.startswith("Extraction"))
    assert "100 % by construction" in said and "of the shortfall" not in said


def test_the_aim_is_at_least_any_cell_and_the_data_themselves(data, tmp_path):
    small = lambda c: 40.0 + 9.0 * (c.policy.name == "awr" and c.policy_size == 24 and c.value_size == 108)  # noqa: E731
    v = returned(tmp_path / "cell", data, small)["verdict"]
    assert v["best"] == pytest.approx(49.0 + NOISE[:5].mean()) and v["by_construction"] == []
    assert v["best_from"].endswith("the value on 108 and the policy on 24 transitions")
    d = returned(tmp_path / "data", data, lambda c: -9_000.0)
    own = d["card"]["optimality"]["mean_return"]
    assert d["verdict"]["best"] == d["verdict"]["data_score"] == pytest.approx(own) and own > -9_000.0
    assert (
        sentences(d)[0].startswith("EVERY METHOD IS WORSE THAN THE DATA")
        and "own trajectories" in d["verdict"]["best_from"]
    )
    over = found(tmp_path / "over", data, lambda c: 140.0)
    assert over["verdict"]["best"] == pytest.approx(140.0 + NOISE[:5].mean())
    stated = found(tmp_path / "stated", data, lambda c: 70.0, replace(SMALL, reference=60.0))
    assert sentences(stated)[0].startswith("The aim is too low")


def test_the_page_holds_every_part(data, tmp_path):
    d = found(tmp_path, data, lambda c: 40.0 + jitter(c))
    page = write_dataset_diagnosis(d, tmp_path / "report").read_text()
    for anchor in (
        "verdict",
        "figures",
        "gains",
        "matrices",
        "errors",
        "fit",
        "alarms",
        "directions",
        "methods",
        "dataset",
        "left-out",
    ):
        assert page.count(f'id="{anchor}"') == 1, anchor
    assert json.loads((tmp_path / "report" / "diagnosis.json").read_text()) == d
    assert (tmp_path / "report" / "matrices.csv").read_text().count("\n") > 6 * 9


def test_few_seeds_read_like_no_result(data, tmp_path):
    d = found(tmp_path, data, lambda c: 40.0 + jitter(c), replace(SMALL, seeds=2))
    text = " ".join(sentences(d))
    for word in ("Intervals", "degrees", "twice the", "tenfold", "epsilon", "["):
        assert word not in text, word
    assert "2 seeds cannot tell which data help" in text and "too few for intervals" in text
    drawn, _ = plates(d)
    for title, caption, plate in drawn.values():
        assert "bars" not in plate.note and "arrow" not in plate.note + caption and "sector" not in plate.note, title
        assert all(series.low is None for panel in plate.panels for series in panel.series)
        assert all(panel.matrix is None or panel.matrix.arrow is None for panel in plate.panels)
    page = write_dataset_diagnosis(d, tmp_path / "report").read_text()
    assert "twice the" not in page.lower() and "95 %" not in page and "epsilon" not in page
    assert json.loads((tmp_path / "report" / "diagnosis.json").read_text()) == d  # whole


def test_scores_that_fall_with_more_data_are_said_to(data, tmp_path):
    down = lambda c: jitter(c) - 20.0 * np.log10((c.value_size or 27) * c.policy_size)  # noqa: E731
    d = found(tmp_path, data, down)
    assert abs(d["matrices"][0]["direction"]["angle"]["value"]) > 112.5
    said = "the score falls with more data: too few updates for them, or noise"
    assert said in next(line for line in sentences(d) if line.startswith("Data, for iql + awr"))
    assert said in plates(d)[0]["matrices"][1]
    assert said in " ".join(sentences(found(tmp_path / "few", data, down, replace(SMALL, seeds=2))))
    one = found(tmp_path / "one", data, lambda c: jitter(c) - 20.0 * np.log10(c.policy_size))
    assert "the score falls with more policy data" in " ".join(sentences(one))


def test_gains_larger_than_the_shortfall_overlap_and_share_a_scale(data, tmp_path):
    d = found(
        tmp_path,
        data,
        lambda c: 90.0 if c.test_time or c.policy.name == "sfbc" else 40.0,
        replace(SMALL, reference=90.0),
    )
    text = " ".join(sentences(d))
    assert "The gains overlap by 50" in text and "Unexplained" not in text
    page = write_dataset_diagnosis(d, tmp_path / "report").read_text()
    assert "The gains overlap by" in page and "Unexplained" not in page
    panels = plates(d)[0]["gains"][2].panels
    assert len({panel.span for panel in panels}) == 1 and min(panels[0].span or ()) < 0.0 < 50.0 < max(
        panels[0].span or ()
    )


def test_names_units_and_the_box_are_spelled_out(data, tmp_path):
    d = returned(tmp_path, data, lambda c: 40.0)
    where = {"where": "value iql", "size": 432, "seeds": 1, "of": 5, "what": "it overfits", "remedy": "more data"}
    alarm = {"number": "fit_gap", "value": 2.0, "threshold": 1.3, "side": "above"} | where
    d = d | {"alarms": [alarm, alarm | {"what": "other"}], "about": d["about"] | {"box": [[-2.0], [2.0]]}}
    lines = sentences(d)
    text = " ".join(lines)
    assert "return per episode" in text and "units of the observation" in text and "fit_gap" not in text
    assert sum(line.startswith("Alarm: ") for line in lines) == 2
    assert "actions of the data times 2 are what the environment is given" in text
    for name in ("ttt: ", "opex: ", "sfbc: ", "(q_norm std): ", "(grad_norm): ", "iql: ", "awr: "):
        assert name in lines[-1], name
    page = write_dataset_diagnosis(d, tmp_path / "report").read_text()
    assert page.count("times 2 are what") == 2 and "return per episode" in page
    assert "1 put at the lower end" in box_sentence([[-1.0, 0.0], [1.0, 4.0]]) and not box_sentence(None)


def test_alarms_fire_beyond_their_thresholds_alone(data, tmp_path):
    config = replace(SMALL, seeds=1)
    plan, _ = make_plan(data[0], data[1], config)
    training = {"policy/ess_share": 0.05, "policy/clip_share": 0.05}
    made_up(tmp_path, plan, lambda c: 40.0, {"fit/val": 0.9, "action/outside": 0.1}, training)
    policy, value = tmp_path / "policies" / "none", tmp_path / "values" / "one"
    for folder in (policy, value):
        folder.mkdir(parents=True)
    store.write_json(policy / "artefact.json", {"value": "one"})
    rows = [
        {"grad_steps": 1, "value/q_abs_max": 10.0},
        {"grad_steps": 2, "value/q_abs_max": 30.0, "value/q_over_bound": 2.0},
    ]
    (value / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = alarms(tmp_path, plan, trials(tmp_path, cells_of(plan)))
    numbers = {alarm["number"] for alarm in told}
    assert numbers == {"value/q_over_bound", "q_growth", "policy/ess_share", "fit_gap"}
    growth = next(alarm for alarm in told if alarm["number"] == "q_growth")
    assert growth["value"] == pytest.approx(3.0) and growth["threshold"] == 1.5 and growth["remedy"]
    assert {alarm["size"] for alarm in told if alarm["number"] == "fit_gap"} == {plan.sizes[0], plan.sizes[-1]}


def test_remedies_name_options_that_there_are():
    known = {field.name for field in fields(DatasetDiagnosisConfig)}
    for check in (*VALUE_CHECKS, *POLICY_CHECKS):
        assert set(re.findall(r"--(\w+)", check.remedy)) <= known, check.remedy
        assert not re.search(r"\w+\.\w+|\w+_\w+", check.remedy.replace("ddpg_bc", "")), check.remedy


def test_without_an_environment_nothing_is_made_up(data, tmp_path):
    plan, bench = make_plan(data[0], "", SMALL)
    assert all(cell.value is None or cell.value_size == cell.policy_size for cell in cells_of(plan))
    assert not any(cell.test_time for cell in cells_of(plan))
    made_up(tmp_path, plan, lambda c: 1.0, {"fit/val": 1.0})
    for path in (tmp_path / "trials").iterdir():
        store.write_json(path, store.read_json(path) | {"score": None, "unit": ""})
    d = measure(tmp_path, plan, bench)
    text = sentences(d)
    assert d["verdict"] is None and d["matrices"] == [] and d["variance"] is None
    assert "nothing is known of returns" in text[0] and "2.0 times that of training" in text[1]
    page = write_dataset_diagnosis(d, tmp_path / "report").read_text()
    assert "Shares" not in page and 'id="verdict"' not in page and 'id="fit"' in page


def test_budgets_methods_and_amounts(data):
    quick, full = resolved(DatasetDiagnosisConfig()), resolved(DatasetDiagnosisConfig(budget="full", goals="stitch"))
    assert (quick.seeds, quick.hidden, full.seeds) == (5, (64, 64), 8)
    assert [v.name for v in objectives(quick)] == ["iql", "sarsa"] and [v.name for v in objectives(full)] == [
        "iql",
        "crl",
    ]
    assert [v.name for v in objectives(replace(quick, value="sarsa"))] == ["sarsa", "iql"]
    matrix, others = extractors(quick)
    assert [p.name for p in matrix] == ["awr", "ddpg_bc", "sfbc", "bc"] and [p.name for p in others] == [
        "awr",
        "ddpg_bc",
    ]
    matrix, others = extractors(replace(quick, extractor="ddpg_bc", alpha=0.03))
    assert matrix[0].alpha == 0.03 and [p.name for p in others] == ["awr"]
    slow = resolved(DatasetDiagnosisConfig(lr=1e-5))
    assert {kind.lr for kind in (*objectives(slow), *extractors(slow)[0])} == {1e-5} and quick.lr == 1e-3
    with pytest.raises(ConfigError, match="lr: -1.0 is no step size"):
        resolved(DatasetDiagnosisConfig(lr=-1.0))
    assert len(extractors(full)[0]) == 6 and extractors(full)[1] == ()
    rows, _ = opened(data[0])
    assert amounts(rows, quick) == (24, 108, 432)  # 2, 9 and 36 of 36 trajectories of 12 steps
    assert amounts(rows, replace(quick, sizes=(100, 50))) == (50, 100)
    for wrong, message in ((433, "433 is not in 1..432"), (0, "0 is not in 1..432")):
        with pytest.raises(ConfigError, match=message):
            amounts(rows, replace(quick, sizes=(wrong, 50)))
