"""A data-scaling matrix: every cell trained and tried once, spread over workers, and read back as arrays.

Figure 1 of 2406.09329: a value learned from D_v alone, a policy read off it from D_p alone, for D_v x D_p
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from valex import store
from valex.artefacts import Hooks
from valex.fields import ConfigError
from valex.settings.bottleneck import Cell
from valex.together import obtain_many
from valex.trials import asks, bench_key, bench_of, cell_name, trial_path, try_cell
from valex.workers import Interrupted, Job

DIVERGED = "trials/failed"  # what did not end in a trial, one file each: why
DIFFERENCES = ("score", "error/eval", "error/train", "error/val")


def jobs(root: Path, path: Path, cells: Iterable[Cell], together: bool = False, chunk: int = Hooks.chunk) -> list[Job]:
    """Return what is left to do, as jobs of one value (or of none) and one seed each: its policies share what it learned.

    together: all amounts of value data in one job, whose artefacts are trained side by side, as an accelerator wants it.
    chunk: updates between checkpoints.
    """
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        if not store.read_json(trial_path(root, cell)):
            shape = (str(path), cell.value, cell.policy.goals)
            groups.setdefault((shape, 0 if together else cell.value_size, cell.seed), []).append(cell)
    how = True if together else None
    return [
        Job(tuple(map(cell_name, group)), shape, partial(work, root, path, group, together=how, chunk=chunk))
        for (shape, _, _), group in groups.items()
    ]


def work(
    root: Path,
    path: Path,
    group: list[Cell],
    stop: Callable[[], bool],
    progress: Callable[[dict], None],
    together: bool | None = None,
    chunk: int = Hooks.chunk,
) -> dict[str, tuple[str, str]]:
    """Try cells one after the other; return cell name -> (state, message).

    together: first train what they need side by side (`together.obtain_many`); None: where jax's default device is no CPU.
    """
    hooks, ended = Hooks(chunk, stopping(stop)), {}
    beside = jax.default_backend() != "cpu" if together is None else together
    if beside and not stop():
        with contextlib.suppress(Interrupted, ConfigError, store.StoreError):  # said again, cell by cell
            for key in dict.fromkeys(map(bench_key, group)):
                part = [cell for cell in group if bench_key(cell) == key]
                obtain_many(root, bench_of(path, part[0]).source, [asks(cell) for cell in part], hooks)
    for cell in group:
        name = cell_name(cell)
        ended[name] = attempt(root / DIVERGED, name, lambda cell=cell: try_cell(root, path, cell, hooks), stop)
        if ended[name][0] == "interrupted":
            continue
        progress({"run": name, "phase": "cell", "env_steps": 1, "total": 1, "return": None})
    return ended


def stopping(stop: Callable[[], bool]) -> Callable[[dict], None]:
    """Build what is told of training: nothing is done with it, but it is ended where `stop` says so."""

    def tell(event: dict) -> None:
        if stop():
            raise Interrupted("stopped by a signal; the same command goes on from here")

    return tell


def attempt(failed: Path, name: str, make: Callable[[], Any], stop: Callable[[], bool]) -> tuple[str, str]:
    """Make something by its name; return how it ended, (state, message). What failed leaves a file in `failed` that says why."""
    if stop():
        return "interrupted", ""
    try:
        make()
    except Interrupted:
        return "interrupted", ""
    except (store.StoreError, ConfigError) as error:
        failed.mkdir(parents=True, exist_ok=True)
        store.write_json(failed / f"{name}.json", {"message": str(error)})
        return "failed", str(error)
    (failed / f"{name}.json").unlink(missing_ok=True)  # it failed before, for a reason that has gone
    return "finished", ""


def trials(root: Path, cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """Return the trial of every cell that has one. Raises StoreError where a file is damaged."""
    found = {cell: store.read_json(trial_path(root, cell)) for cell in cells}
    return {cell: trial for cell, trial in found.items() if trial}


def values_of(found: dict[Cell, dict[str, Any]], cells: list[Cell], name: str = "score") -> np.ndarray:
    """Return one number of each cell in their order, [len(cells)] float64: its score or a measure; NaN where there is none."""

    def one(cell: Cell) -> float:
        trial = found.get(cell, {})
        value = trial.get("score") if name == "score" else trial.get("measures", {}).get(name)
        return float("nan") if value is None else float(value)

    return np.array([one(cell) for cell in cells])


def differences(
    found: dict[Cell, dict[str, Any]], first: list[Cell], second: list[Cell], names: tuple[str, ...] = DIFFERENCES
) -> dict[str, np.ndarray]:
    """Return second - first, cell by cell, of the score and of measures: name -> [len(first)]; NaN where one is missing.

    Cells that differ in one thing (the encoding, say) and share their seed share data, order, initial weights of equal shape
    and episodes, so what they have in common cancels. Raises ValueError unless there are equally many.
    """
    if len(first) != len(second):
        raise ValueError(f"differences: {len(first)} and {len(second)} cells; every cell needs its partner")
    return {name: values_of(found, second, name) - values_of(found, first, name) for name in names}


def block(
    found: dict[Cell, dict[str, Any]], like: Cell, sizes: tuple[int, ...], seeds: tuple[int, ...], name: str = "score"
) -> np.ndarray:
    """Return a number of all cells of one value and extractor, [S, V, P]: seeds, value sizes, policy sizes; NaN where missing."""
    grid = [
        replace(like, value_size=m if like.value else 0, policy_size=n, seed=seed)
        for seed in seeds
        for m in sizes
        for n in sizes
    ]
    return values_of(found, grid, name).reshape(len(seeds), len(sizes), len(sizes))
