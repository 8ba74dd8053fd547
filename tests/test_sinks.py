"""Trackers may be absent or fail; a run says so once and goes on. Progress is told to whom can see it."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import tiny
from tiny import TINY

from valex import progress, runner, sinks, store
from valex.launch import LaunchOptions, launch

ROW = {"env_steps": 80, "critic/loss": 0.5, "critic/bad": float("nan")}


class Failing:
    """A tracker that takes one row and then loses its server."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def write(self, run: Path, row: dict) -> None:
        if self.rows:
            raise ConnectionError("no route to host")
        self.rows.append(row)


class Keeping:
    """A tracker that works."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict]] = []

    def write(self, run: Path, row: dict) -> None:
        self.rows.append((run.name, row))


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(tmp_path, capsys):
    failing, keeping = Failing(), Keeping()
    path = tiny.train(TINY, tmp_path, runner.Hooks(sinks=[failing, keeping]))
    assert tiny.status(path)["state"] == "finished"
    assert capsys.readouterr().err == "warning: Failing is off: ConnectionError: no route to host\n"
    assert len(failing.rows) == 1
    assert [row for _, row in keeping.rows] == store.read_lines(path / "metrics.jsonl")
    assert {name for name, _ in keeping.rows} == {path.name}


@pytest.mark.parametrize("name", sinks.SINKS)
def test_a_tracker_that_is_not_installed_is_said_once(name, tmp_path, monkeypatch, capsys):
    package = {"tensorboard": "tensorboardX", "wandb": "wandb"}[name]
    monkeypatch.setitem(sys.modules, package, None)  # import raises ModuleNotFoundError
    (sink,) = sinks.open_sinks((name,))
    for _ in range(3):
        sink.write(tmp_path, ROW)
    sinks.close_sinks([sink])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"warning: {name} is off: ModuleNotFoundError") and package in said[0]


def test_an_unknown_tracker_is_an_error():
    with pytest.raises(KeyError, match="aim"):
        sinks.open_sinks(("aim",))


class Recorder(ModuleType):
    """Stands for tensorboardX and for wandb; notes what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple] = []

    def SummaryWriter(self, folder: str) -> "Recorder":
        self.told.append(("open", folder))
        return self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))

    def close(self) -> None:
        self.told.append(("close",))

    def init(self, project: str, name: str, id: str, resume: str, dir: str, reinit: str) -> "Recorder":
        self.told.append(("open", name, id, resume))
        return self

    def log(self, row: dict, step: int) -> None:
        self.told.append((row, step))

    def finish(self) -> None:
        self.told.append(("close",))


def test_tensorboard_gets_every_finite_number(tmp_path, monkeypatch):
    fake = Recorder("tensorboardX")
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    opened = sinks.open_sinks(("tensorboard",))
    opened[0].write(tmp_path / "run", ROW)
    opened[0].write(tmp_path / "run", {"env_steps": 120, "critic/loss": 0.25})
    sinks.close_sinks(opened)
    assert fake.told == [
        ("open", str(tmp_path / "run" / "tensorboard")),
        ("env_steps", 80, 80),
        ("critic/loss", 0.5, 80),
        ("env_steps", 120, 120),
        ("critic/loss", 0.25, 120),
        ("close",),
    ]


def test_wandb_gets_one_run_per_run(tmp_path, monkeypatch):
    fake = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    opened = sinks.open_sinks(("wandb",))
    for name in ("a", "b", "a"):
        opened[0].write(tmp_path / name, ROW)
    sinks.close_sinks(opened)
    assert [t for t in fake.told if t[0] == "open"] == [("open", "a", "a", "allow"), ("open", "b", "b", "allow")]
    assert len([t for t in fake.told if t[-1] == 80]) == 3 and fake.told.count(("close",)) == 2


def test_tensorboard_writes_a_file_of_events(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is optional: pip install 'valex[tensorboard]'")
    summary = launch([TINY], tmp_path, LaunchOptions(workers=1, sinks=("tensorboard",)))
    (name,) = summary.states
    assert summary.states[name] == "finished"
    (events,) = (tmp_path / name / "tensorboard").glob("events.*")
    assert events.stat().st_size > 1_000


# ---- progress -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stderr that somebody looks at."""

    def isatty(self) -> bool:
        return True


EVENTS = [
    {"run": "a", "phase": "compiling", "env_steps": 0, "total": 200, "return": None},
    {"run": "a", "phase": "training", "env_steps": 100, "total": 200, "return": -12.34},
    {"run": "a", "phase": "ended", "state": "finished", "message": ""},
    {"run": "b", "phase": "training", "env_steps": 200, "total": 200, "return": -5.0},
    {"run": "b", "phase": "ended", "state": "failed", "message": "why"},
]


def shown(quiet: bool, stream: io.StringIO, monkeypatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.Progress("title", 2, quiet) as tell:
        for event in EVENTS:
            tell(event)
    return stream.getvalue()


def test_no_bars_where_there_is_no_terminal(monkeypatch):
    rows = shown(False, io.StringIO(), monkeypatch).splitlines()
    assert len(rows) == 2 and rows[0].startswith("[1/2") and rows[0].endswith("a: finished")
    assert rows[1].startswith("[2/2") and rows[1].endswith("b: failed")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_is_quiet(stream, monkeypatch):
    assert shown(True, stream(), monkeypatch) == ""


def test_a_terminal_sees_steps_return_and_what_is_left(monkeypatch):
    text = shown(False, Terminal(), monkeypatch)
    assert "title: 2/2 runs" in text and "100%" in text


def test_the_bar_of_all_runs_moves_within_a_run(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.Progress("title", 2, False) as tell:
        assert tell.live is not None
        bars = {}
        for event in EVENTS[:2]:
            tell(event)
            bars = {task.description: task for task in tell.live.tasks}
        assert bars["a"].completed == 100 and bars["a"].fields["note"] == "return -12.3"
        assert bars["title: 0/2 runs"].completed == 0.5
        tell(EVENTS[2])
        assert [task.description for task in tell.live.tasks] == ["title: 1/2 runs"]


def test_two_runs_of_a_group_are_told_under_one_name(tmp_path):
    events = []
    pair = [TINY, replace(TINY, seed=1)]
    group = runner.Group(pair, tmp_path, runner.Hooks(progress=events.append))
    group.reached = 80
    group.tell("training", -3.0)
    assert events == [{"run": group.paths[0].name, "phase": "training", "env_steps": 80, "total": 240, "return": -3.0}]
