"""The study of compounding errors on synthetic runs: presets, figures, table, and every claim to every verdict."""

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
import tiny

from valex.config import run_id
from valex.report.figures import draw, plate_rows
from valex.report.html import study_of
from valex.settings import RunConfig
from valex.store import StoredRun, read_run
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from valex.studies.cells import condition, make_grid
from valex.studies.compounding_error import COMPOUNDING_ERROR, NUM_ENVS, paper, quick, smoke
from valex.studies.compounding_figures import terrain
from valex.studies.compounding_measures import Kind, kind_of, kinds, label, labels, reference
from valex.studies.judge import judge
from valex.studies.results import table_text

STEPS = 100
ENSEMBLE, MULTI, SINGLE, LITTLE = (
    Kind(5, 1, 20_000, False), Kind(5, 4, 20_000, False), Kind(1, 1, 20_000, True), Kind(5, 1, 2_000, False),
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What the models of a synthetic study are like; functions take the kind of arm."""

    first: Callable[[Kind], float] = lambda kind: 0.003  # error after one step
    power: float = 1.0  # errors grow as k^power
    member: float = 2.0  # error of a member over that of the mean of members
    ratio: Callable[[Kind], float] = lambda kind: 1.0  # spread over error
    miss: float = 1e-4  # 1 - R^2
    noise: float = 0.05  # sd over seeds of the log of errors and ratios
    lost: frozenset = frozenset()  # (kind, seed) of runs that diverged


def numbers(made: Made, config: RunConfig) -> dict:
    """What the diagnostics of a run would hold."""
    kind = kind_of(config)
    rng = np.random.default_rng(zlib.crc32(f"{kind} {config.seed}".encode()))
    wiggle = lambda: math.exp(made.noise * rng.normal())  # noqa: E731
    k = np.arange(1.0, STEPS + 1)
    mean = made.first(kind) * k**made.power * wiggle()
    each = np.array([mean * (made.member if kind.members > 1 else 1.0) * wiggle() for _ in range(kind.members)])
    errors = {"members": each, "mean": mean, "persistence": 0.01 * k, "intrinsic": 0.003 * k**0.1}
    obs = {"obs": {name: {"median": np.asarray(error).tolist()} for name, error in errors.items()}}
    worst = lambda miss: {"worst": [1.0 - miss * wiggle() for _ in range(kind.members)]}  # noqa: E731
    relative = {"median": [0.1 * wiggle() for _ in range(kind.members)]}
    walk = np.cumsum(np.random.default_rng(config.seed).normal(0.0, 0.02, (STEPS, 6)), axis=0)
    found = {
        "steps": list(range(1, STEPS + 1)),
        "open_loop": obs,
        "closed_loop": obs,
        "linear": (made.first(kind) * k).tolist(),
        "one_step": {"members": {"r2_next": worst(made.miss), "r2_change": worst(100.0 * made.miss)}},
        "derivatives": {"members": {"action": relative, "state_change": relative}},
        "path": {"start": [0.0] * 6, "true": walk.tolist(), "members": [(walk * 1.1).tolist()] * kind.members},
    }
    if kind.members > 1:
        ratio = made.ratio(kind) * wiggle() * np.ones(STEPS)
        spread = {"spread": {"median": (ratio * mean).tolist()}, "error": {"median": mean.tolist()}}
        found["spread"] = spread | {"ratio_median": ratio.tolist(), "ratio_member": (0.5 * ratio).tolist()}
    return found


def stored(made: Made, config: RunConfig, root: Path = Path("runs")) -> StoredRun:
    steps = np.array([config.train.env_steps - NUM_ENVS, config.train.env_steps], float)
    failed = (kind_of(config), config.seed) in made.lost
    status = {"state": "failed" if failed else "finished", "env_steps": int(steps[-1]), "message": ""}
    metrics = {"env_steps": steps, "grad_steps": 0.0 * steps, "eval/episode_return": -100.0 + 0.0 * steps}
    diagnostics = {} if failed else {"model_error": numbers(made, config)}
    return StoredRun(root / run_id(config), config, status, metrics, {"env_steps": steps}, diagnostics)


def world_grid(made=None, configs=None):
    return make_grid([stored(made or Made(), config) for config in configs or quick()])


def verdict(claim_id, made, configs=None):
    return synthetic.judged(COMPOUNDING_ERROR, claim_id, world_grid(made, configs))


# presets


@pytest.mark.parametrize("name", COMPOUNDING_ERROR.presets)
def test_configs_differ_in_their_model_and_seed_only(name):
    declared = COMPOUNDING_ERROR.presets[name]()
    assert len({condition(config) for config in declared}) == 1  # or the report would leave some out
    for config in declared:
        train, length = config.train, config.env.episode_length
        assert train.utd == 0 and train.warmup_noise == "ou" and config.diagnostics.model_error_steps <= length
        assert config.model.data_limit % (NUM_ENVS * length) == 0  # whole episodes
        assert config.model.data_limit <= train.warmup_steps  # nothing that an untrained agent did
        assert (
            train.env_steps // NUM_ENVS - train.warmup_steps // NUM_ENVS == 2
        )  # two evaluations, one phase of training


def test_arms_of_the_presets():
    assert Counter(map(kind_of, quick())) == dict.fromkeys((ENSEMBLE, MULTI, SINGLE, LITTLE), 5)
    assert len(set(map(kind_of, smoke()))) == 4 and {c.seed for c in smoke()} == {1, 2}
    full = Counter(map(kind_of, paper()))
    assert set(full.values()) == {9} and {kind.loss_steps for kind in full} == {1, 4, 8} and len(full) == 8
    one = paper()[0].model
    assert (one.pretrain_steps, one.hidden, one.activation, one.lr, one.batch_size) == (
        16_000,
        (128, 128),
        "silu",
        1e-3,
        256,
    )


# arms


def test_arms_by_kind_and_in_words():
    found = kinds(world_grid(), "ball")
    assert list(found) == [ENSEMBLE, MULTI, SINGLE, LITTLE] and reference(found) == ENSEMBLE
    assert list(labels(world_grid(), "ball").values()) == [
        "5 nets, 1-step loss, 100 episodes", "5 nets, 4-step loss, 100 episodes",
        "1 net, 1-step loss, 100 episodes", "5 nets, 1-step loss, 10 episodes",
    ]  # fmt: skip
    assert label(Kind(1, 1, 2_000, False), None) == "1 net (Gaussian), 1-step loss, 2,000 steps"
    assert label(Kind(3, 1, 2_000, True), 200) == "3 nets (mean only), 1-step loss, 10 episodes"
    assert reference([SINGLE, MULTI]) is None


# claims: every one to every verdict


def first(kind, factor):
    """Return an error after one step that is `factor` times as large for one kind of arm."""
    return lambda other: 0.003 * (factor if other == kind else 1.0)


CASES = [
    ("C1a", Made(), Made(miss=1e-2), Made(miss=1e-3, noise=0.3)),
    ("C1b", Made(), Made(power=0.2), Made(power=0.5, noise=0.3)),
    ("T10", Made(), Made(power=-0.5), None),
    ("C6a", Made(first=first(SINGLE, 2.0)), Made(), Made(first=first(SINGLE, 1.26), noise=0.3)),
    ("C6b", Made(), Made(member=1.0), Made(member=1.26, noise=0.8)),
    ("C7", Made(first=first(MULTI, 0.3)), Made(), Made(first=first(MULTI, 0.79), noise=0.3)),
    ("E1a", Made(), Made(ratio=lambda kind: 0.1), Made(ratio=lambda kind: 0.5, noise=0.3)),
    ("E1b", Made(), Made(ratio=lambda kind: 0.1 if kind == LITTLE else 1.0), Made(ratio=lambda kind: 2.0, noise=0.3)),
]


@pytest.mark.parametrize("claim, yes, no, open_", CASES, ids=[case[0] for case in CASES])
def test_claims_reach_every_verdict(claim, yes, no, open_):
    assert verdict(claim, yes).verdict == SUPPORTED
    assert verdict(claim, no).verdict == NOT_SUPPORTED
    if open_:
        assert verdict(claim, open_).verdict == UNDECIDED
    assert synthetic.undecided_for_few(verdict(claim, yes, [config for config in quick() if config.seed < 5]))


def test_claims_about_absent_arms_say_so():
    alone = [config for config in quick() if kind_of(config) == ENSEMBLE]
    reasons = {claim.id: judge(claim, world_grid(configs=alone))[0].reason for claim in COMPOUNDING_ERROR.claims}
    for name in ("C6a", "C7", "E1b"):
        assert reasons[name].startswith("not run in this preset"), name
    nobody = [config for config in quick() if kind_of(config) == SINGLE]
    assert "an ensemble" in verdict("C1a", Made(), nobody).reason


def test_diverged_runs_are_counted():
    found = verdict("C6a", Made(first=first(SINGLE, 2.0), lost=frozenset({(SINGLE, 2)})))
    assert (found.n, found.failed, found.verdict) == (4, 1, UNDECIDED)


# figures and table


def test_every_figure_draws_panels_that_hold_data():
    plates = {figure.name: figure.plate(world_grid()) for figure in COMPOUNDING_ERROR.figures}
    for name, plate in plates.items():
        assert plate.panels and not plate.left_out and "n = " in plate.note, name
        for panel in plate.panels:
            assert panel.series and panel.xlabel and panel.ylabel
            assert all(len(s.x) == len(s.y) > 0 and np.all(np.isfinite(s.y)) for s in panel.series)
        assert plate_rows(plate)
    assert {name: len(plate.panels) for name, plate in plates.items()} == {
        "paths": 4, "curves": 4, "arms": 2, "calibration": 3, "components": 4,
    }  # fmt: skip
    assert all("R² 0.999" in panel.note for name in ("paths", "curves") for panel in plates[name].panels)
    true = [next(s for s in panel.series if s.colour == "true") for panel in plates["paths"].panels]
    assert all(np.array_equal(s.x, true[0].x) for s in true)  # one path in all panels
    assert draw("paths", plates["paths"]).png.startswith(b"\x89PNG")


def test_figures_without_data_are_left_out_with_the_reason():
    bare = make_grid([stored(Made(), config)._replace(diagnostics={}) for config in quick()])
    for figure in COMPOUNDING_ERROR.figures:
        plate = figure.plate(bare)
        assert not plate.panels and plate.left_out, figure.name


def test_contour_lines_are_those_of_the_ball():
    from valex.envs.classic import terrain_slope

    x, y, height = terrain("ball", np.array([0.1, -0.2, 0.7]))
    slope = np.stack(np.gradient(height, y, x), axis=-1)[..., ::-1]
    places = np.stack(np.meshgrid(x, y), axis=-1)
    true = np.array([[terrain_slope(p) for p in row] for row in places[20:23, 20:23]])
    np.testing.assert_allclose(slope[20:23, 20:23], true, atol=5e-3)
    assert terrain("hopper", np.zeros(3)) is None


def test_the_table_is_of_models_and_not_of_returns():
    found = COMPOUNDING_ERROR.table(world_grid(Made(noise=0.0)))
    rows = {row[1:3]: row[3:] for row in found.rows}
    name = "5 nets, 1-step loss, 100 episodes"
    assert rows["error after 100 steps", name] == ("5", "0.600 [0.600, 0.600]")
    assert rows["R² of the next state", name] == ("5", "0.99990 [0.99990, 0.99990]")
    assert rows["growth, 100 steps to 1", name][1].startswith("100 [")
    assert ("spread / error of average, 100", "1 net, 1-step loss, 100 episodes") not in rows  # nothing to spread
    assert all(len(row) == len(found.head) == len(found.numeric) for row in found.rows)
    assert len(found.records) == len(found.rows) and found.records[0]["value"] == pytest.approx(0.9999)
    text = table_text(found)
    assert text.isascii() and "R^2 of the next state" in text and "return" not in text


def test_the_report_of_the_study(tmp_path):
    root = tmp_path / "elsewhere"
    for config in quick():
        if config.seed < 3:
            synthetic.save(stored(Made(), config, root))
    assert study_of(root, [read_run(path) for path in root.iterdir()]) is COMPOUNDING_ERROR  # by its runs
    said = tiny.valex("report", str(root))
    assert said.code == 0 and "R^2 of the next state" in said.out
    page = (root / "report" / "index.html").read_text()
    assert "error after 100 steps" in page and "Final return" not in page and "fewer than two evaluations" not in page
    assert {f"{f.name}.png" for f in COMPOUNDING_ERROR.figures} <= {p.name for p in (root / "report").iterdir()}


# end to end


def test_one_smoke_run_from_data_to_report(tmp_path):
    config = smoke()[0]
    config = replace(config, model=replace(config.model, pretrain_steps=50))
    path = tiny.train(config, tmp_path)
    found = read_run(path).diagnostics["model_error"]
    assert (found["behaviour"], found["members"], found["starts"], len(found["steps"])) == ("ou", 2, 8, 20)
    assert json.loads((path / "status.json").read_text())["state"] == "finished" and tiny.lines(path) == 2
    moving = np.isfinite(np.array(found["sigma"], float))
    assert list(moving) == [True] * 4 + [False] * 2  # the goal never moves within an episode
    errors = np.array(found["open_loop"]["obs"]["members"]["median"], float)
    assert errors.shape == (2, 20) and np.all(errors > 0) and np.mean(errors[:, -1]) > 2.0 * np.mean(errors[:, 0])
    grid = make_grid([read_run(path)])
    assert "error after 20 steps" in table_text(COMPOUNDING_ERROR.table(grid))
    assert all(figure.plate(grid).panels for figure in COMPOUNDING_ERROR.figures)
