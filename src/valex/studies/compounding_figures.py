"""Figures of the study compounding-error: paths on the plane, errors by model steps, arms side by side, spread against error."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from valex.statistics import stratified_bootstrap
from valex.store import StoredRun
from valex.studies.base import Figure, Panel, Plate, Series
from valex.studies.cells import Cell, Grid, envs
from valex.studies.compounding_measures import (
    Kind,
    curve,
    error_at,
    growth,
    kinds,
    labels,
    measured,
    numbers,
    places,
    r2,
    r2_change,
    reference,
    spread_ratio,
    table,
    values,
)
from valex.studies.compounding_table import written
from valex.studies.series import INTERVAL, averaged, points, seeds_of

STEPS = "model steps k"
ERROR = "error (standard deviations)"
COLOURS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
BALL = (
    "x (m)",
    "y (m)",
    "velocity in x (m/s)",
    "velocity in y (m/s)",
)  # the numbers of the ball's observation that move
GRID = 81  # points of the terrain along each axis
NOTHING = "no finished run has diagnostics.model_error_steps"


class Arm(NamedTuple):
    """One arm of one environment, to be drawn."""

    kind: Kind
    name: str
    cell: Cell
    runs: list[StoredRun]
    colour: str


def drawn_arms(grid: Grid, env: str) -> list[Arm]:
    """Return the arms with measured runs, each with its colour."""
    names = labels(grid, env)
    found = [(kind, cell, list(measured(cell).values())) for kind, cell in kinds(grid, env).items()]
    found = [row for row in found if row[2]]
    return [Arm(kind, names[kind], cell, runs, COLOURS[i % len(COLOURS)]) for i, (kind, cell, runs) in enumerate(found)]


def middle(cell: Cell, measure: Callable[[StoredRun], float], decimals: int | None = None) -> str:
    """Return the IQM of a measure over seeds, written."""
    taken = np.array(list(values(cell, measure).values()))
    return written(float(stratified_bootstrap([taken]).value), decimals) if len(taken) else "–"


def one_step_note(arm: Arm) -> str:
    """Return what one step looks like, to stand beside what many look like."""
    return (
        f"one step: R² {middle(arm.cell, r2, 5)}, R² of the change {middle(arm.cell, r2_change, 3)}, "
        f"error {middle(arm.cell, error_at(1))}\n"
        f"last step: error {middle(arm.cell, last_error)}, {middle(arm.cell, growth)} times that of one step"
    )


def last_error(run: StoredRun) -> float:
    """Return e_K."""
    return float(curve(run)[-1])


# --------------------------------------------------------------------------------------------------------- on the plane


def terrain(env: str, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the ball's terrain h(p) = 0.15 |p|^2 + B (cos 3 pi x + cos 3 pi y) over a square; None for another task.

    reach = (middle x, middle y, half the side), in metres.
    """
    if env != "ball":
        return None
    from valex.envs.classic import BUMP

    x, y = (centre + reach[2] * np.linspace(-1.0, 1.0, GRID) for centre in reach[:2])
    across, along = (0.15 * p**2 + BUMP * np.cos(3.0 * np.pi * p) for p in (x, y))
    return x, y, across[None, :] + along[:, None]


def square(path: np.ndarray) -> np.ndarray:
    """Return (middle x, middle y, half the side) of a square around a path [K, 2], with as much room again at its sides."""
    low, high = path.min(axis=0), path.max(axis=0)
    return np.array([*(low + high) / 2.0, max(0.9 * np.max(high - low), 0.1)])


def path_of(run: StoredRun, steps: np.ndarray) -> np.ndarray:
    """Return the start of a stored path, then its steps, in the first two numbers of the observation, [K + 1, 2]."""
    return np.concatenate([numbers(table(run)["path"]["start"])[None], steps])[:, :2]


def plane_panel(env: str, arm: Arm, seed: int) -> Panel:
    """Return the true path and that of every member of one run, from above."""
    run = measured(arm.cell)[seed]
    true = path_of(run, numbers(table(run)["path"]["true"]))
    series = [Series("true path", "true", *true.T, n=1, style="path")]
    for j, member in enumerate(numbers(table(run)["path"]["members"])):
        shown = path_of(run, member)
        name = f"member {j + 1}" if arm.kind.members > 1 else "member 1"
        series.append(Series(name, COLOURS[j % len(COLOURS)], *shown.T, n=1, style="path"))
    ends = curve(run)[[0, -1]]
    after = " → ".join(written(float(error), None) for error in ends)
    note = f"this run: one-step R² {written(r2(run), 5)},\nmedian error of the first → last step {after}"
    return Panel(arm.name, "x (m)", "y (m)", series, plane=terrain(env, square(true)), note=note)


def shared_seed(arms: list[Arm]) -> int | None:
    """Return the first seed that every arm has: its episodes are the same in all of them."""
    return min(set.intersection(*(set(measured(arm.cell)) for arm in arms)), default=None) if arms else None


def paths(grid: Grid) -> Plate:
    """Return true and predicted paths from one start, one panel per arm."""
    panels, left_out, length = [], [], 0
    for env in envs(grid):
        arms = drawn_arms(grid, env)
        seed = shared_seed(arms)
        if env != "ball":
            left_out.append(f"paths, {env}: only the ball lives on a plane")
        elif seed is None:
            left_out.append(f"paths, {env}: {NOTHING}")
        else:
            panels += [plane_panel(env, arm, seed) for arm in arms]
            length = len(panels[0].series[0].x) - 1
    note = (
        f"One start of one held-out episode, the first of the first seed, not chosen; {length} steps with the recorded actions. "
        "Ring: start; a dot every 10 steps; grey: contour lines of the terrain, 0.04 m apart. "
        "n = 1 run per panel; the numbers under its title are over all its starts."
    )
    return Plate(panels, 2 if len(panels) <= 4 else 3, note, left_out)


def components(grid: Grid) -> Plate:
    """Return every number of the observation against k: the truth, and the members' mean with their range."""
    panels, left_out = [], []
    for env in envs(grid):
        arms = drawn_arms(grid, env)
        usual, seed = reference(arm.kind for arm in arms), shared_seed(arms)
        if env != "ball" or usual is None or seed is None:
            left_out.append(f"numbers of the observation, {env}: no ensemble on the ball was measured")
            continue
        arm = next(arm for arm in arms if arm.kind == usual)
        found = table(measured(arm.cell)[seed])["path"]
        start, true, members = (numbers(found[name]) for name in ("start", "true", "members"))
        k = np.arange(len(true) + 1.0)
        for d, name in enumerate(BALL):
            shown = np.concatenate([np.full((len(members), 1), start[d]), members[:, :, d]], axis=1)
            said = Series("members: mean and range", "first", k, shown.mean(0), shown.min(0), shown.max(0), n=1)
            truth = Series("true path", "true", k, np.concatenate([start[d : d + 1], true[:, d]]), n=1)
            panels.append(Panel(f"{env} · {name}", STEPS, name, [truth, said]))
    note = "The start of the paths above, the ordinary ensemble, n = 1 run. Band: from the least to the largest member."
    return Plate(panels, 2, note, left_out)


# -------------------------------------------------------------------------------------------------------- by model steps


def curves(grid: Grid) -> Plate:
    """Return the open-loop error against k with persistence, intrinsic divergence and linear growth, one panel per arm."""
    panels, left_out = [], []
    for env in envs(grid):
        for arm in drawn_arms(grid, env):
            series = [averaged("model: a member", "first", [curve(run) for run in arm.runs])]
            if arm.kind.members > 1:
                series.append(averaged("mean of members", "third", [curve(run, "mean") for run in arm.runs]))
            for name, words in (
                ("persistence", "standing still"),
                ("intrinsic", "simulator, start off by e(1) of the mean"),
            ):
                series.append(averaged(words, name, [curve(run, name) for run in arm.runs], "reference"))
            linear = [numbers(table(run)["linear"]) for run in arm.runs]
            series.append(averaged("k · e(1) of the mean", "linear", linear, "reference"))
            panels.append(Panel(arm.name, STEPS, ERROR, series, log_y=True, note=one_step_note(arm)))
        if not drawn_arms(grid, env):
            left_out.append(f"error by model steps, {env}: {NOTHING}")
    note = (
        f"Median over starts, then IQM over {seeds_of(panels)}; band: {INTERVAL}. Recorded actions, new episodes. "
        "Under each title IQM of R² (of the number of the state that is predicted worst) and of errors."
    )
    return Plate(panels, 2, note, left_out)


def side_by_side(grid: Grid) -> Plate:
    """Return the errors of all arms at some numbers of steps, in open loop and under the evaluation policy."""
    panels, left_out = [], []
    for env in envs(grid):
        arms = drawn_arms(grid, env)
        at = places(run for arm in arms for run in arm.runs)
        ticks = tuple((float(i), str(k)) for i, k in enumerate(at))
        for loop, words in (("open_loop", "recorded actions"), ("closed_loop", "evaluation policy")):
            series = []
            for arm in arms:
                taken = {i: np.array(list(values(arm.cell, error_at(k, loop=loop)).values())) for i, k in enumerate(at)}
                series.append(points(arm.name, arm.colour, taken))
            shown = [s for s in series if s]
            if shown:
                panels.append(Panel(f"{env} · {words}", STEPS, ERROR, shown, "category", ticks, log_y=True))
            else:
                left_out.append(f"arms side by side, {env}, {words}: {NOTHING}")
    note = f"Point: IQM over {seeds_of(panels)}; bar: {INTERVAL}. Of ensembles the mean over their members."
    return Plate(panels, 2, note, left_out)


def calibration(grid: Grid) -> Plate:
    """Return the spread of the members and the error of their average against k, one panel per ensemble."""
    panels, left_out = [], []
    for env in envs(grid):
        for arm in (arm for arm in drawn_arms(grid, env) if arm.kind.members > 1):
            pairs = (("error", "error of the members' average", "first"), ("spread", "spread of the members", "second"))
            series = [
                averaged(words, tint, [numbers(table(run)["spread"][key]["median"]) for run in arm.runs])
                for key, words, tint in pairs
            ]
            at = places(arm.runs)
            ratios = ", ".join(f"{middle(arm.cell, spread_ratio(k))} at k = {k}" for k in (at[0], at[-1]))
            panels.append(Panel(arm.name, STEPS, ERROR, series, log_y=True, note=f"spread / error: {ratios}"))
        if not any(arm.kind.members > 1 for arm in drawn_arms(grid, env)):
            left_out.append(f"spread against error, {env}: no ensemble was measured")
    note = (
        f"Medians over starts, then IQM over {seeds_of(panels)}; band: {INTERVAL}. Spread: standard deviation over members times "
        "√(1 + 1/N), which equals the error of the average where the truth is like one more member, and is √(N + 1) times as "
        "large where members err independently about the truth."
    )
    return Plate(panels, 3, note, left_out)


FIGURES = (
    Figure(
        "paths",
        "One step is right, a hundred are not",
        "The ball from above. Black is the simulator, every colour is one model that feeds back its own predictions under "
        "the same torques. All panels of a figure show the same true path.",
        paths,
    ),
    Figure(
        "curves",
        "Error against the number of model steps",
        "Solid: the learned model. Dashed: what one would get by standing still at the start, what the simulator itself "
        "makes of a start that is off by the model's one-step error, and what errors that merely add up would give. "
        "Above the line of the simulator the model makes errors, below it the task would.",
        curves,
    ),
    Figure(
        "arms",
        "Losses, ensembles and data side by side",
        "The same errors at a few numbers of steps. Left with the recorded actions, on which the models were trained; right "
        "under the evaluation policy, which nothing has trained here, in the model and in the simulator.",
        side_by_side,
    ),
    Figure(
        "calibration",
        "Does the spread of the members tell their error?",
        "Where the lines lie together, disagreement says how wrong the model is. A spread below the error is over-confident: "
        "the members share what is wrong with them.",
        calibration,
    ),
    Figure(
        "components",
        "The state, number by number",
        "Position and velocity of the ball along the path of the first figure, and what the members say of them.",
        components,
    ),
)
