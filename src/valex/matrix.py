"""A data-scaling matrix: every cell trained and tried once, spread over workers, and read back as arrays.

Figure 1 of 2406.09329: a value learned from D_v alone, a policy read off it from D_p alone, for D_v x D_p
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from valex import store
from valex.artefacts import Hooks
from valex.fields import ConfigError
from valex.settings.bottleneck import Cell
from valex.trials import cell_name, trial_path, try_cell
from valex.workers import Job

DIVERGED = "trials/failed"  # what did not end in a trial, one file each: why


class Interrupted(RuntimeError):
    """Training that was asked to stop; everything up to here is saved."""


def jobs(root: Path, path: Path, cells: Iterable[Cell], chunk: int = Hooks.chunk) -> list[Job]:
    """Return what is left to do, as jobs of one value (or of none) and one seed each: its policies share what it learned.

    `chunk` updates are taken between checkpoints.
    """
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        if not store.read_json(trial_path(root, cell)):
            shape = (str(path), cell.value, cell.policy.goals)
            groups.setdefault((shape, cell.value_size, cell.seed), []).append(cell)
    return [
        Job(tuple(map(cell_name, group)), shape, partial(work, root, path, group, chunk=chunk))
        for (shape, _, _), group in groups.items()
    ]


def work(
    root: Path,
    path: Path,
    group: list[Cell],
    stop: Callable[[], bool],
    progress: Callable[[dict], None],
    chunk: int = Hooks.chunk,
) -> dict[str, tuple[str, str]]:
    """Try cells one after the other; return cell name -> (state, message)."""
    ended: dict[str, tuple[str, str]] = {}

    def tell(event: dict) -> None:
        if stop():
            raise Interrupted("stopped by a signal; the same command goes on from here")

    for cell in group:
        name = cell_name(cell)
        if stop():
            ended[name] = "interrupted", ""
            continue
        try:
            try_cell(root, path, cell, Hooks(chunk, tell))
            (root / DIVERGED / f"{name}.json").unlink(missing_ok=True)  # it failed before, for a reason that has gone
            ended[name] = "finished", ""
        except Interrupted:
            ended[name] = "interrupted", ""
        except (store.StoreError, ConfigError) as error:
            ended[name] = "failed", str(error)
            failed = root / DIVERGED
            failed.mkdir(parents=True, exist_ok=True)
            store.write_json(failed / f"{name}.json", {"message": str(error)})
        progress({"run": name, "phase": "cell", "env_steps": 1, "total": 1, "return": None})
    return ended


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
