"""Stored runs sorted into cells (environment, arm, horizon), and the numbers read off one run.

A task is an environment with a learner: "pendulum", or "pendulum · DDPG" where several learners were run in it. An arm is what
is added to the learner with its settings other than the horizon (naming.py); H = 0 is the arm "base" and belongs to every
arm. Runs of one task are compared only if they agree in everything but seed, arm and horizon.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np

from valex.config import horizon
from valex.fields import flatten
from valex.settings import ActorConfig, CriticConfig, DiagnosticsConfig, ModelConfig, RunConfig, StoreConfig
from valex.statistics import area_under_curve
from valex.store import StoredRun
from valex.studies.base import NOT_RUN
from valex.studies.naming import AGENT_NAMES, AGENT_SETTINGS, ARM_NAMES, BASELINE, arm, arm_name, shared_training

RETURN = "eval/episode_return"


class Task(NamedTuple):
    """What a task stands for."""

    env: str  # name of the environment
    agent: str  # name of the learner


class Cell(NamedTuple):
    """The runs of one task, arm and horizon, by seed."""

    env: str  # the task, as it is written
    arm: str
    horizon: int
    finished: dict[int, StoredRun]
    failed: dict[int, StoredRun]  # stopped by a number that was not finite
    unfinished: dict[int, StoredRun]  # running or interrupted

    @property
    def runs(self) -> list[StoredRun]:
        """All of them, the finished ones first."""
        return [run for group in (self.finished, self.failed, self.unfinished) for run in group.values()]


class Grid(NamedTuple):
    """All cells of a report."""

    cells: dict[tuple[str, str, int], Cell]
    left_out: list[str]  # runs that were not compared, and why
    tasks: dict[str, Task]  # by how they are written
    floor: bool = False  # True: a failed run scores the lowest return seen in its task; False: it has no score


def condition(config: RunConfig) -> RunConfig:
    """Return what two runs must share to be compared: everything but seed, arm, horizon, diagnostics and storage."""
    own, plain = {name.split(".")[1] for name in AGENT_SETTINGS}, type(config.agent)()
    usual = {f.name: getattr(plain, f.name) for f in fields(config.agent) if f.name in own}
    return replace(
        config,
        seed=0,
        agent=replace(config.agent, **usual),
        critic=CriticConfig(),
        actor=ActorConfig(),
        model=ModelConfig(),
        diagnostics=DiagnosticsConfig(),
        store=StoreConfig(),
    )


def make_grid(runs: Iterable[StoredRun]) -> Grid:
    """Sort runs into cells. Where a task was run under several conditions, the one with most runs counts."""
    runs, cells, left_out = list(runs), {}, []
    names = {task: name for name, task in make_tasks([run.config for run in runs]).items()}
    count = Counter(condition(run.config) for run in runs)
    best = {}
    for shared, _ in count.most_common():
        best.setdefault(task_of(shared), shared)
    for shared, number in count.items():
        task = task_of(shared)
        if shared != best[task]:
            ours, usual = dict(flatten(shared)), dict(flatten(best[task]))
            differ = ", ".join(f"{k} = {v} (not {usual[k]})" for k, v in ours.items() if v != usual[k])
            left_out.append(f"{number} run(s) in {names[task]} with other settings than the rest: {differ}")
    compared = [run for run in runs if condition(run.config) == best[task_of(run.config)]]
    unsaid = {task: shared_training([run.config for run in compared if task_of(run.config) == task]) for task in best}
    for run in compared:
        task = task_of(run.config)
        key = (names[task], arm(run.config, unsaid[task]), horizon(run.config))
        cell = cells.setdefault(key, Cell(*key, {}, {}, {}))
        state = run.status.get("state", "running")
        group = {"finished": cell.finished, "failed": cell.failed}.get(state, cell.unfinished)
        if state == "finished" and len(evaluations(run)[0]) < 2:
            left_out.append(f"{run.path.name}: fewer than two evaluations, so no learning curve")
            continue
        group[run.config.seed] = run
    return Grid(cells, left_out, {name: task for task, name in names.items()})


def task_of(config: RunConfig) -> Task:
    """Return the task of a run."""
    return Task(config.env.name, config.agent.name)


def make_tasks(configs: Iterable[RunConfig]) -> dict[str, Task]:
    """Return the tasks of runs by how they are written; the learner is named where there are several."""
    found = dict.fromkeys(map(task_of, configs))
    several = len({task.agent for task in found}) > 1
    return {f"{t.env} · {AGENT_NAMES.get(t.agent, t.agent)}" if several else t.env: t for t in found}


def envs(grid: Grid) -> list[str]:
    """Return the tasks, in the order of the runs."""
    return list(dict.fromkeys(env for env, _, _ in grid.cells))


def by_numbers(name: str) -> list[tuple[str, float]]:
    """Return what sorts "noise=0.3" before "noise=1.0" and "2000 steps" behind "512 steps"."""
    return [(text, float(number or 0)) for text, number in re.findall(r"(\D*)(\d*\.?\d*)", name)]


def arms(grid: Grid, env: str | None = None) -> list[str]:
    """Return the arms of one or all environments, known ones first, the others by name and by the numbers in it.

    The baseline is there only if there is nothing else.
    """
    found = dict.fromkeys(a for e, a, _ in grid.cells if env in (None, e))
    ordered = [a for a in ARM_NAMES if a in found] + sorted((a for a in found if a not in ARM_NAMES), key=by_numbers)
    return [a for a in ordered if a != BASELINE] or ordered


def owner(grid: Grid, env: str, arm: str, h: int) -> str:
    """Return the arm whose runs stand at a horizon of an arm: itself, or the baseline for an H = 0 that it lacks."""
    return BASELINE if h == 0 and (env, arm, 0) not in grid.cells else arm


def cell(grid: Grid, env: str, arm: str, h: int) -> Cell | None:
    """Return a cell, H = 0 of any arm being the baseline unless it has one of its own, or None."""
    return grid.cells.get((env, owner(grid, env, arm, h), h))


def finished(grid: Grid, env: str, arm: str, h: int) -> list[StoredRun]:
    """Return the finished runs of a cell; none where there is no such cell."""
    found = cell(grid, env, arm, h)
    return list(found.finished.values()) if found else []


def cell_of(grid: Grid, run: StoredRun) -> Cell:
    """Return the cell that a run lies in. Raises KeyError where it was left out."""
    for found in grid.cells.values():
        if any(run is other for other in found.runs):
            return found
    raise KeyError(f"{run.path.name} is in no cell")


def restrict(grid: Grid, names: Collection[str]) -> Grid:
    """Return the grid of some arms and the baseline, to be drawn by themselves."""
    kept = {key: found for key, found in grid.cells.items() if key[1] in (BASELINE, *names)}
    return grid._replace(cells=kept)


def in_words(grid: Grid, arm: str) -> str:
    """Return an arm of the grid in words."""
    return arm_name(arm, {name for _, name, _ in grid.cells})


def horizons(grid: Grid, env: str, arm: str) -> list[int]:
    """Return the horizons of an arm in rising order, with 0 where the baseline was run."""
    found = {h for e, a, h in grid.cells if e == env and a == arm}
    return sorted(found | ({0} if (env, BASELINE, 0) in grid.cells else set()))


def curve(run: StoredRun, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (env_steps, values) of a metric where it is finite, both [K]."""
    if key not in run.metrics:
        return np.zeros(0), np.zeros(0)
    keep = np.isfinite(run.metrics[key])
    return run.metrics["env_steps"][keep], run.metrics[key][keep]


def evaluations(run: StoredRun) -> tuple[np.ndarray, np.ndarray]:
    """Return (env_steps, episode_return) of every evaluation."""
    return curve(run, RETURN)


def shared_curve(runs: Iterable[StoredRun], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the env_steps [K] that all runs with this metric logged, and its values [n, K]."""
    curves = [c for c in (curve(run, key) for run in runs) if len(c[0])]
    if not curves:
        return np.zeros(0), np.zeros((0, 0))
    steps = curves[0][0]
    for xs, _ in curves[1:]:
        steps = np.intersect1d(steps, xs)
    return steps, np.array([ys[np.isin(xs, steps)] for xs, ys in curves]).reshape(len(curves), len(steps))


def auc(run: StoredRun) -> float:
    """Return the mean height of the learning curve (units of return)."""
    return float(area_under_curve(*evaluations(run)))


def final(run: StoredRun) -> float:
    """Return the LAST evaluation (units of return); never the best."""
    return float(evaluations(run)[1][-1])


def update_seconds(run: StoredRun) -> float:
    """Return the median seconds per update over the run, collection included; NaN if never timed.

    0 stands where a chunk was over before what its evaluation took by itself: too short to be timed.
    """
    seconds = run.time.get("time/update_s", np.zeros(0))
    seconds = seconds[np.isfinite(seconds) & (seconds > 0.0)]
    return float(np.median(seconds)) if len(seconds) else np.nan


def log10_mean(run: StoredRun, key: str) -> float:
    """Return the mean of log10 of a metric over the positive records of a run; NaN without any."""
    values = curve(run, key)[1]
    return float(np.mean(np.log10(values[values > 0]))) if np.any(values > 0) else np.nan


def late_mean(run: StoredRun, key: str) -> float:
    """Return the mean of a metric over the second half of a run, behind the first approach to its values; NaN without any."""
    steps, values = curve(run, key)
    late = values[steps > 0.5 * run.config.train.env_steps]
    return float(np.mean(late)) if len(late) else np.nan


def return_bounds(grid: Grid, env: str) -> tuple[float, float]:
    """Return the lowest and highest evaluation of the finished runs of an environment: floor and scale of scores."""
    groups = [c.finished for (e, _, _), c in grid.cells.items() if e == env]
    seen = np.concatenate([[np.nan], *(evaluations(run)[1] for group in groups for run in group.values())])
    return (float(np.nanmin(seen)), float(np.nanmax(seen))) if np.any(np.isfinite(seen)) else (np.nan, np.nan)


def scores(grid: Grid, env: str, arm: str, h: int, measure: Callable[[StoredRun], float] = auc) -> dict[int, float]:
    """Return measure(run) by seed over the finished runs of a cell; NaN is dropped.

    With grid.floor, failed runs count as well, at the lowest return of a finished one (returns and areas only).
    """
    found = cell(grid, env, arm, h)
    if found is None:
        return {}
    result = {seed: measure(run) for seed, run in found.finished.items()}
    if grid.floor and measure in (auc, final):
        result |= dict.fromkeys(found.failed, return_bounds(grid, env)[0])
    return {seed: value for seed, value in sorted(result.items()) if np.isfinite(value)}


class Paired(NamedTuple):
    """One row per requested cell, one column per seed that every cell has."""

    values: np.ndarray  # [cells, n]
    failed: int  # seeds missing from the columns because one of their runs diverged


def column(grid: Grid, env: str, arm: str, h: int, measure: Callable[[StoredRun], float] = auc) -> np.ndarray:
    """Return `scores` as an array [n], one value per seed."""
    return np.array(list(scores(grid, env, arm, h, measure).values()))


def paired(
    grid: Grid, env: str, cells: list[tuple[str, int]], measure: Callable[[StoredRun], float] = auc
) -> Paired | str:
    """Return measure(run) over cells (arm, horizon) for the seeds that finished in all, or why there is nothing."""
    missing = [f"{in_words(grid, a)} at H = {h}" for a, h in cells if cell(grid, env, a, h) is None]
    if missing:
        return f"{NOT_RUN}: {', '.join(missing)}"
    columns = [scores(grid, env, a, h, measure) for a, h in cells]
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    lost = {seed for a, h in cells if (found := cell(grid, env, a, h)) for seed in found.failed} - set(seeds)
    values = np.array([[column[seed] for seed in seeds] for column in columns]).reshape(len(columns), len(seeds))
    return Paired(values, len(lost))
