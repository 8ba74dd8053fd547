"""The report from synthetic run directories: complete, escaped, self-contained, honest about what is missing."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic
from synthetic import World

from valex.report.figures import log_label
from valex.report.html import preset_of, study_of, write_report
from valex.report.palette import colour, line_of
from valex.store import read_runs
from valex.studies.base import Series, with_learners
from valex.studies.combine_horizons import COMBINE_HORIZONS, smoke as combine_smoke
from valex.studies.horizon import HORIZON, quick, smoke
from valex.studies.trust_your_model import TRUST_YOUR_MODEL

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not nest."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The quick preset with one diverged, one interrupted and one missing run."""
    root = tmp_path_factory.mktemp("runs") / "horizon"
    world = World(failed=frozenset({("ce", 3, 2)}), seconds=lambda arm, h: 1e-3 * (1 + h))
    for k, config in enumerate(quick()[:-1]):
        made = synthetic.run(world, config, root)
        synthetic.save(made._replace(status={"state": "interrupted", "message": "stopped"}) if k == 7 else made)
    return root


@pytest.fixture(scope="module")
def index(root):
    return write_report(root)


@pytest.fixture(scope="module")
def parsed(index):
    return Page(index.read_text())


def test_the_page_is_one_file_without_network_or_scripts(parsed):
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe")]
    for _, attributes in parsed.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")) or re.fullmatch(r"\w+\.(png|csv)", value)
    assert "@import" not in "".join(parsed.words) and "url(" not in "".join(parsed.words)


def test_text_from_runs_is_escaped(index, parsed):
    assert "<script>" not in index.read_text() and "on <script>" in "".join(parsed.words)
    assert "valex study --preset <b>" in "".join(parsed.words)


def test_the_page_says_what_was_run_and_what_was_not(parsed):
    words = " ".join(" ".join(parsed.words).split())
    for expected in (
        "quick", "39 (37 finished, 1 interrupted, 1 failed)", "1 more of the preset not started", "cpu (test)", "jax 0.10.2",
        "critic/loss is not finite from env step", "4 (1 diverged)", "4 (1 unfinished)",
        "actor gradient along training: actor expansion (AE) not run in this preset",
    ):  # fmt: skip
        assert expected in words, expected


def test_every_file_of_every_figure_is_there_and_nothing_else(index, parsed):
    drawn = [attributes["id"] for tag, attributes in parsed.tags if tag == "figure"]
    assert drawn == [
        figure.name for figure in HORIZON.figures if figure.name not in ("actor_gradient_training", "gradient_growth")
    ]
    expected = {f"{name}{suffix}" for name in drawn for suffix in (".png", ".csv")}
    assert {p.name for p in index.parent.iterdir()} == expected | {"index.html", "results.csv", "claims.csv"}
    for name in drawn:
        assert (index.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        rows = rows_of(index.parent / f"{name}.csv")
        assert rows and {"panel", "series", "x", "y", "low", "high", "n", "x_label", "y_label"} == set(rows[0])


def test_tables_as_csv(index):
    results = rows_of(index.parent / "results.csv")
    assert [(r["arm"], r["horizon"]) for r in results][:3] == [("base", "0"), ("ce", "1"), ("ce", "3")]
    assert (results[2]["finished"], results[2]["failed"]) == ("4", "1")
    claims = rows_of(index.parent / "claims.csv")
    assert [r["claim"] for r in claims] == [claim.id for claim in HORIZON.claims]
    assert {r["verdict"] for r in claims} <= {"supported", "not supported", "undecided"}
    assert {r["reason"] for r in claims if r["claim"] == "T2"} == {
        "not run in this preset: actor expansion (AE) at 1 ≤ H ≤ 5 and at H ≥ 10"
    }


def test_claims_that_were_not_run_are_folded_away_and_not_counted(index):
    claims, text = rows_of(index.parent / "claims.csv"), index.read_text()
    absent = {r["claim"] for r in claims if r["reason"].startswith("not run in this preset")}
    aside = absent - {r["claim"] for r in claims if r["env"] != "pooled" and not r["reason"].startswith("not run")}
    listed = text.split(f"{len(aside)} claims not run in this preset</summary>")[1].split("</details>")[0]
    assert aside and set(re.findall(r"<b>(\w+)</b>", listed)) == aside
    counted = re.search(r": (\d+) supported, (\d+) not supported, (\d+) undecided; (\d+) claims not run", text)
    assert counted and int(counted[4]) == len(aside)
    assert sum(map(int, counted.groups()[:3])) == sum(r["claim"] not in aside for r in claims)


def test_a_second_report_replaces_the_first_and_drops_stale_figures(root, index, tmp_path):
    again = write_report(root, tmp_path)
    stale = tmp_path / "actor_gradient_training.png"
    stale.write_bytes(b"old")
    assert write_report(root, tmp_path) == again == tmp_path / "index.html"
    assert not stale.exists() and not list(tmp_path.glob("*.part"))
    assert again.read_bytes() == index.read_bytes()  # nothing in it depends on when or where it was written


def test_runs_without_anything_yet(tmp_path):
    for config in smoke():
        made = synthetic.run(World(), config, tmp_path)
        synthetic.save(made)
        for file in made.path.iterdir():
            if file.name != "config.json":
                file.unlink()
    words = " ".join(Page(write_report(tmp_path).read_text()).words)
    assert "No figure has data yet." in words and "6 unknown" in words


def test_a_folder_without_runs_is_one_line_with_the_remedy(tmp_path):
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="no runs here; make some with") as error:
            write_report(root)
        assert str(root) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()


def test_the_preset_is_recognised_by_its_runs(root, tmp_path):
    assert preset_of(HORIZON, read_runs(root)) == ("quick", 1)
    assert study_of(root) is HORIZON and study_of(tmp_path) is HORIZON
    odd = synthetic.run(World(), replace(quick()[0], gamma=0.5))
    assert preset_of(HORIZON, [odd]) == ("", 0)


def test_runs_of_another_learner_belong_to_the_preset_too():
    """A folder of DDPG alone lacks nothing of SAC; what lacks is counted within the learners that are there."""
    declared = with_learners(HORIZON, "quick", ("ddpg",))
    assert len(declared) == 40 + 35  # and critic expansion and Retrace with the released density
    runs = [synthetic.run(World(), config) for config in declared]
    assert preset_of(HORIZON, runs) == ("quick", 0) and preset_of(HORIZON, runs[1:]) == ("quick", 1)
    assert study_of(Path("mine"), runs) is HORIZON


def test_a_study_is_recognised_by_its_folder_or_by_its_runs(tmp_path):
    assert study_of(tmp_path / "trust-your-model-quick") is TRUST_YOUR_MODEL
    assert study_of(tmp_path / "combine-horizons") is COMBINE_HORIZONS
    assert study_of(tmp_path / "horizontal") is HORIZON and study_of(tmp_path / "mine") is HORIZON
    runs = [synthetic.run(World(), config) for config in combine_smoke()]
    assert study_of(tmp_path / "mine", runs) is COMBINE_HORIZONS
    assert study_of(tmp_path / "horizon-again", runs) is HORIZON


@pytest.mark.parametrize("study", [TRUST_YOUR_MODEL, COMBINE_HORIZONS], ids=lambda study: study.name)
def test_reports_of_studies_with_learned_models(study, tmp_path):
    for config in study.presets["smoke"]():
        synthetic.save(synthetic.run(World(seconds=lambda arm, h: 1e-3 * (1 + h)), config, tmp_path / study.name))
    index = write_report(tmp_path / study.name)
    page = Page(index.read_text())
    assert {a["id"] for tag, a in page.tags if tag == "figure"} == {figure.name for figure in study.figures}
    assert "critic expansion, oracle (OVE)" in page.words and "critic expansion, learned (MVE)" in page.words


def look(name):
    """Return what a series of marks of an arm looks like."""
    line = line_of(Series("", name, np.zeros(1), np.zeros(1), style="points"))
    return colour(name), line["ls"], line["marker"], "mfc" in line


def test_a_learned_model_has_the_hue_of_the_oracle_lighter_dashed_and_hollow():
    for learned, oracle in (("mve", "ce"), ("ae_learned", "ae"), ("mve_min", "ce_min")):
        (tint, line, marker, hollow), (dark, solid, same, filled) = look(learned), look(oracle)
        assert (line, solid, hollow, filled) == ("--", "-", True, False) and marker == same
        mixed = [(int(dark[k : k + 2], 16) + 255) / 2 - int(tint[k : k + 2], 16) for k in (1, 3, 5)]
        assert all(m >= 0 for m in mixed) and tint != dark  # between the oracle's and half way to white


def test_arms_of_one_panel_are_told_apart():
    rules = ["base", "ce", "ce_mean", "ce_min", "ce_steve"]
    rules += [f"ce_td_lambda critic.lam={lam}" for lam in (0.25, 0.75)]
    variants = ["base", "ce", "ce critic.td_k=True", "ce critic.max_disagreement=0.2"]
    variants += ["ce model.num_models=1", "ce model.loss_steps=4"]
    for names in (rules, variants, ["first", "second", "third", "fourth"]):
        assert len({colour(name) for name in names}) == len(names)
    models = ["base", "ce", "mve", "ae", "ae_learned", "retrace"]
    assert len({look(name) for name in models}) == len(models)


def test_horizons_keep_one_colour_and_their_order():
    tints = [colour(f"H{h}") for h in (0, 1, 2, 3, 5, 7, 10, 20, 30, 100)]
    assert tints[0] == "#000000" and len(set(tints[:-1])) == len(tints) - 1
    light = [sum(w * int(t[k : k + 2], 16) for w, k in ((0.2126, 1), (0.7152, 3), (0.0722, 5))) for t in tints[1:-1]]
    assert light == sorted(light)  # dark to light, also in grey


def test_labels_of_log_axes():
    assert [log_label(v) for v in (500.0, 0.01, 1e-4, 2e7)] == ["500", "0.01", "$10^{-4}$", "2·$10^{7}$"]
