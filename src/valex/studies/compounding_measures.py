"""Numbers read off runs that trained a dynamics model alone: their arms, and errors by the number of model steps.

Errors are root mean squares over the numbers of the observation, in standard deviations of the held-out ones. Over starts the
median is taken, over members the mean: a model is one member that follows its own mean predictions.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from valex.settings import RunConfig
from valex.store import StoredRun
from valex.studies.cells import Cell, Grid

PLACES = (1, 10, 50, 100)  # model steps at which numbers are given


class Kind(NamedTuple):
    """What distinguishes the arms of this study."""

    members: int
    loss_steps: int
    data: int  # control steps that the model may learn from
    deterministic: bool


def kind_of(config: RunConfig) -> Kind:
    """Return the kind of model that a config trains."""
    model = config.model
    return Kind(model.num_models, model.loss_steps, model.data_limit or config.train.warmup_steps, model.deterministic)


def label(kind: Kind, episode_length: int | None) -> str:
    """Return an arm in words; data in episodes where their length is known. What is usual stays unsaid: see REMARKS."""
    nets = f"{kind.members} nets" if kind.members > 1 else "1 net"
    sort = "" if kind.deterministic == (kind.members == 1) else " (mean only)" if kind.deterministic else " (Gaussian)"
    data = f"{kind.data // episode_length} episodes" if episode_length else f"{kind.data:,} steps"
    return f"{nets}{sort}, {kind.loss_steps}-step loss, {data}"


def kinds(grid: Grid, env: str) -> dict[Kind, Cell]:
    """Return the cells of runs that trained a model alone: most data first, ensembles first, then by steps of the loss."""
    found = {}
    for (name, _, _), cell in grid.cells.items():
        if name == env and cell.runs and cell.runs[0].config.train.utd == 0:
            found[kind_of(cell.runs[0].config)] = cell
    return dict(sorted(found.items(), key=lambda pair: (-pair[0].data, -pair[0].members, pair[0].loss_steps)))


def labels(grid: Grid, env: str) -> dict[Kind, str]:
    """Return the arms in words."""
    return {kind: label(kind, cell.runs[0].config.env.episode_length) for kind, cell in kinds(grid, env).items()}


def reference(found: Iterable[Kind]) -> Kind | None:
    """Return the ordinary ensemble: one-step loss, most members, most data; None where no ensemble has that loss."""
    ordinary = [kind for kind in found if kind.loss_steps == 1 and kind.members > 1]
    return max(ordinary, key=lambda kind: (kind.data, kind.members), default=None)


def measured(cell: Cell) -> dict[int, StoredRun]:
    """Return the finished runs of a cell whose model error was measured, by seed."""
    return {seed: run for seed, run in sorted(cell.finished.items()) if run.diagnostics.get("model_error")}


def table(run: StoredRun) -> dict:
    """Return what `valex.diagnostics.model_error` found."""
    return run.diagnostics["model_error"]


def numbers(values: object) -> np.ndarray:
    """Return stored numbers as an array, NaN for what is not one."""
    return np.array(values, float)


def curve(run: StoredRun, who: str = "members", loop: str = "open_loop") -> np.ndarray:
    """Return the median error after 1..K steps [K]; of members their mean."""
    errors = numbers(table(run)[loop]["obs"][who]["median"])
    return errors.mean(axis=0) if errors.ndim == 2 else errors


def steps(run: StoredRun) -> int:
    """Return K."""
    return len(table(run)["steps"])


def places(runs: Iterable[StoredRun]) -> list[int]:
    """Return the numbers of steps that every run was measured over, K itself among them."""
    most = min((steps(run) for run in runs), default=0)
    return sorted({k for k in (*PLACES, most) if 0 < k <= most})


def error_at(k: int, who: str = "members", loop: str = "open_loop") -> Callable[[StoredRun], float]:
    """Build (run) -> error after k steps; NaN where it was not measured that far."""
    return lambda run: float(curve(run, who, loop)[k - 1]) if k <= steps(run) else math.nan


def growth(run: StoredRun) -> float:
    """Return e_K / e_1."""
    errors = curve(run)
    return float(errors[-1] / errors[0])


def r2(run: StoredRun, of: str = "r2_next") -> float:
    """Return R^2 of the number that is predicted worst; of: r2_next or r2_change. Mean over members."""
    return float(np.mean(numbers(table(run)["one_step"]["members"][of]["worst"])))


def r2_change(run: StoredRun) -> float:
    """Return R^2 of the worst predicted number's change, which persistence does not flatter."""
    return r2(run, "r2_change")


def nines(run: StoredRun) -> float:
    """Return -log10(1 - R^2) of next states: 3 is R^2 = 0.999."""
    return -math.log10(max(1.0 - r2(run), 1e-12))


def spread_ratio(k: int, to: str = "median") -> Callable[[StoredRun], float]:
    """Build (run) -> spread of the members / error of their average (`to` member: of one) after k steps; NaN for a single net."""

    def ratio(run: StoredRun) -> float:
        found = table(run).get("spread")
        return float(numbers(found[f"ratio_{to}"])[k - 1]) if found and k <= steps(run) else math.nan

    return ratio


def derivative_error(of: str) -> Callable[[StoredRun], float]:
    """Build (run) -> relative error of derivatives, mean over members; of: action, state or state_change."""
    return lambda run: float(np.mean(numbers(table(run)["derivatives"]["members"][of]["median"])))


def values(cell: Cell, measure: Callable[[StoredRun], float]) -> dict[int, float]:
    """Return measure(run) by seed where it is finite."""
    found = {seed: measure(run) for seed, run in measured(cell).items()}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}
