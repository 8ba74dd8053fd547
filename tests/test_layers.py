"""Imports point down the list of house rooms only; only the outside world touches files."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "valex"
LAYERS = [
    ("tables", "settings", "types"),
    ("targets", "losses", "distributions", "statistics", "normalize"),
    ("networks", "spectral", "replay", "envs", "models"),
    ("windows",),
    ("estimators",),
    ("actor_expansion",),
    ("expansion",),
    ("agents", "offline"),
    ("train", "evaluate", "diagnostics"),
    (
        "checks",
        "checks_offline",
        "arenas",
        "play",
        "experts",
        "trials",
        "matrix",
        "artefacts",
        "together",
        "continuation",
        "facts",
        "fields",
        "finished",
        "config",
        "store",
        "runner",
        "launch",
        "workers",
        "estimate",
        "device",
        "sinks",
        "progress",
        "doctor",
        "arguments",
        "diagnose",
        "cli_diagnose",
        "cli_dataset",
        "offline_study",
        "cli_study",
        "bottleneck",
        "datasets",
        "studies",
        "report",
        "cli",
        "",
    ),
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_rooms(path: Path) -> set[str]:
    """Every valex room named by an import statement, at the top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "valex":
            inner = (node.module or "").split(".")[1:]
            rooms |= {inner[0]} if inner else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("valex.")}
    return {room if room in RANK else "" for room in rooms}


def test_every_room_has_a_layer():
    assert {room_of(path) for path in FILES} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = room_of(path)
    upward = {room for room in imported_rooms(path) if RANK[room] > RANK[own]}
    assert not upward, f"{path} imports upwards: {upward}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_the_outside_world_does_io(path):
    if RANK[room_of(path)] == len(LAYERS) - 1:
        return
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}, f"{path} does I/O below the outside world"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350, path
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1  # pyright: ignore[reportOptionalOperand]
            taken = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
            closures = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n is not node]
            assert length <= (100 if closures else 60), f"{path}:{node.lineno} {node.name} has {length} lines"
            assert taken <= 7, f"{path}:{node.lineno} {node.name} takes {taken} arguments"
            assert node.args.kwarg is None, f"{path}:{node.lineno} {node.name} takes **kwargs"
