"""Boards of known shape for the tests of offline studies: what a folder would hold if scores followed a formula."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from valex.offline.extraction_rule import FEATURE_NAMES
from valex.settings.bottleneck import Cell, MatrixConfig, Robustness
from valex.settings.datasets import ExplorationSettings, PointMazeSettings
from valex.settings.offline import OPEXConfig, TTTConfig
from valex.studies.base import Verdict
from valex.studies.bottleneck_claims import CLAIMS
from valex.studies.bottleneck_plans import Followed, Grid, Nets, goal_values, one_task, policies, task_values
from valex.studies.bottleneck_robust_plans import described, robust
from valex.studies.offline import Board, DataPlan, cells_of, judge

NETS = Nets((8,), 32, 50)
GRID = Grid(awr=(1.0, 3.0), ddpg_bc=(0.03, 0.3, 3.0), sfbc=(4, 32), behaviour="mixture")
SEEDS = (1, 2, 3, 4, 5)
MAZE = MatrixConfig(
    sizes=(1_000, 10_000, 100_000),
    values=goal_values(NETS, latent=8),
    policies=policies(NETS, GRID, "navigate"),
    seeds=SEEDS,
    test_times=(OPEXConfig(beta=0.1), OPEXConfig(beta=0.3), TTTConfig()),
)
TASK = replace(MAZE, values=task_values(NETS), policies=policies(NETS, GRID))


def sweep(sigma: float) -> DataPlan:
    """Return a dataset of a sweep over noise."""
    most = replace(MAZE, sizes=MAZE.sizes[-1:], test_times=())
    made = PointMazeSettings(sigma=sigma)
    return DataPlan(f"sigma{sigma:g}", "a", "b", "pointmaze", made, most, sweep="over sigma", tested=())


PLANS = (
    DataPlan("maze", "gc-antmaze-large", "the ant", "pointmaze", PointMazeSettings(), MAZE, encodings=("steps",)),
    DataPlan("explored", "exorl-cheetah", "length", "exploration", ExplorationSettings(), TASK),
    sweep(0.1),
    sweep(0.5),
    replace(one_task(NETS, PointMazeSettings(), SEEDS, Followed(2, 4_000, 1_000, 5)), name="online"),
)


ROBUST = (
    replace(robust(PLANS[0]), name="maze-robust"),
    replace(robust(PLANS[1]), name="explored-robust"),
    *(replace(described(PLANS[0]), name=f"set{k}") for k in range(6)),
)


def usual(cell: Cell) -> float:
    """Return a score as the paper would have it: DDPG+BC above SfBC above AWR, policy data above value data."""
    level = {"bc": 5.0, "awr": 10.0, "sfbc": 30.0, "ddpg_bc": 50.0}[cell.policy.name]
    rise = 6.0 * np.log10(cell.policy_size / 1_000) + 0.5 * np.log10(max(cell.value_size, 1_000) / 1_000)
    return level + rise + (40.0 if cell.test_time else 0.0) + (20.0 if cell.encoding == "steps" else 0.0)


def act(cell: Cell, score: float, noise: Callable[[], float]) -> dict[str, float]:
    """Return measures that go with a score: the error on visited states falls with it, the others do not."""
    wide, fits = cell.policy.name == "ddpg_bc", 1.0 if cell.policy.name == "ddpg_bc" else 3.0
    found = {"action/max": 0.9 if wide else 0.3, "action/outside": 0.5 if wide else 0.05}
    found |= {"fit/train": 0.1, "fit/val": 0.1 * fits, "error/eval": 1.0 - score / 200.0}
    found = {name: value * np.exp(0.02 * noise()) for name, value in found.items()}
    return found | {"error/train": 0.3 + 0.02 * noise(), "error/val": 0.3 + 0.02 * noise()}


def followed(seed: int) -> dict[str, Any]:
    """Return the record of a policy whose error on visited states falls online, and the others do not."""
    rng, rows = np.random.default_rng(seed), []
    for check in range(7):  # one before the first update, two offline, four online
        steps = max(0, check - 2) * 1_000
        row = {
            "check": check,
            "phase": "online" if check > 2 else "offline",
            "env_steps": steps,
            "grad_steps": 10 * check,
        }
        row |= {
            "unit": "success (%)",
            "score": 20.0 + steps / 100.0,
            "error/eval": 0.8 - 1e-4 * steps + 0.01 * rng.normal(),
        }
        rows.append(row | {f"error/{which}": 0.3 + 0.01 * rng.normal() for which in ("train", "val")})
    return {"rows": rows}


@dataclass(frozen=True)
class World:
    """What every trial of a synthetic board looks like."""

    score: Callable[[Cell], float] = usual
    measures: Callable = act
    noise: float = 0.5  # sd over cells of the score
    gain: Callable[[DataPlan, Cell], float] = lambda plan, cell: 0.0  # of a dataset
    failed: Callable[[Cell], bool] = lambda cell: False
    unit: Callable[[DataPlan], str] = lambda plan: "success (%)"
    facts: Callable[[DataPlan], float] = lambda plan: float(plan.name[-1] in "0123")  # each of them
    plans: tuple[DataPlan, ...] = field(default_factory=lambda: PLANS)


def make_board(world: World = World()) -> Board:
    """Return a board of a world; noise follows from the cell."""
    cells = {plan.name: cells_of(plan, plan.name, "{}") for plan in world.plans}
    found, failed = {}, {}
    for plan in world.plans:
        for cell in cells[plan.name]:
            if world.failed(cell):
                failed[cell] = "policy/loss is not finite; lower policy.lr"
                continue
            rng = np.random.default_rng(zlib.crc32(repr(cell).encode()))
            score = world.score(cell) + world.gain(plan, cell) + world.noise * rng.standard_normal()
            measures = world.measures(cell, score, rng.standard_normal)
            found[cell] = {"score": float(score), "unit": world.unit(plan), "measures": measures}
    notes = {plan.name: "1,000 transitions" for plan in world.plans}
    continued = {
        plan.name: [(one, followed(seed)) for one in plan.continuations for seed in plan.matrix.seeds]
        for plan in world.plans
    }
    known = {
        plan.name: np.full((len(plan.matrix.seeds), len(FEATURE_NAMES)), world.facts(plan))
        for plan in world.plans
        if isinstance(plan.robustness, Robustness)
    }
    return Board(world.plans, cells, found, failed, notes, [], continued, facts=known)


def verdicts(board: Board, id: str) -> dict[str, Verdict]:
    """Return the verdicts on a claim by dataset."""
    return {v.env: v for v in judge(next(claim for claim in CLAIMS if claim.id == id), board)}
