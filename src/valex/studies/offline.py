"""The records of an offline study: which datasets are made, what is learned from each, and what its report reads.

A plan says how a dataset is made and which cells of a data-scaling matrix are trained on it; a board is what was found of
them. Claims, figures and tables take a board where those of training runs take a grid.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from valex.config import from_dict
from valex.fields import ConfigError
from valex.settings.bottleneck import Cell, Continuation, Encoding, MatrixConfig, Robustness, cells, cells_around
from valex.settings.datasets import GENERATORS
from valex.settings.offline import EXTRACTION_CONFIGS, TEST_TIME_CONFIGS, VALUE_CONFIGS
from valex.studies.base import NOT_RUN, TOGETHER, Claim, Verdict
from valex.studies.judge import judge_in, nothing

ALL = "all datasets"
MATRIX, ROBUSTNESS = "matrix", "robustness"  # parts of a study, by what its datasets are there for


@dataclass(frozen=True)
class DataPlan:
    """A dataset, and what is learned from it."""

    name: str
    """Its folder below <root>/datasets, and what figures call it."""
    stands_for: str
    """The environment of the paper that it stands for."""
    lost: str
    """What is lost on the way."""
    kind: str
    """Generator, one of the table GENERATORS."""
    settings: Any
    """Its settings, of the class in `settings.datasets.GENERATORS`."""
    matrix: MatrixConfig
    """Sizes, values, extractors and seeds."""
    env: str = ""
    """Environment that policies are tried in, as Gymnasium calls it; "" for the one that the data were collected in."""
    clock: int = 0
    """Control steps of a trial's episode, for what Gymnasium knows alone; 0: as the environment has it."""
    sweep: str = ""
    """Datasets of one sweep differ in the noise of their collection (`sigma`) alone; "" for none."""
    encodings: tuple[Encoding, ...] = ()
    """Other encodings that behaviour cloning is tried in."""
    continuations: tuple[Continuation, ...] = ()
    """Policies that are trained on online, for every seed of the matrix; their data, env and seed are filled in."""
    tested: tuple[tuple[str, str], ...] = (("iql", "awr"),)
    """(value, extractor) whose policy, at the default of its config, is improved at test time as the matrix says."""
    robustness: Robustness | None = None
    """What is varied around its matrix, which then is of most data alone and not looked at by itself; None: nothing."""

    @property
    def part(self) -> str:
        """Which claims are judged on it by itself: those of matrices, those of what is varied, or "" for none."""
        if self.robustness is not None:
            return ROBUSTNESS if self.robustness.values or self.robustness.errors else ""
        return MATRIX if self.matrix.values and not self.sweep else ""

    @property
    def alone(self) -> bool:
        """Whether its matrix is looked at by itself."""
        return self.part == MATRIX


class Board(NamedTuple):
    """What was found of the plans of a folder."""

    plans: tuple[DataPlan, ...]
    cells: dict[str, list[Cell]]  # by the name of a dataset; none where it has not been made
    found: dict[Cell, dict[str, Any]]  # the trials
    failed: dict[Cell, str]  # what diverged or could not be, and why
    notes: dict[str, str]  # by dataset: what is in it
    left_out: list[str]
    continued: dict[
        str, list[tuple[Continuation, dict[str, Any]]]
    ] = {}  # by dataset: (as planned, its record), never changed
    floor: bool = False  # True: what failed scores the lowest seen on its dataset; False: it has no score
    facts: dict[str, np.ndarray] = {}  # by dataset: [S, F] features of it as every seed saw it, never changed


class OfflineStudy(NamedTuple):
    """What is learned from which datasets, and what is read off it."""

    name: str
    title: str
    summary: str
    presets: dict[str, Callable[[], tuple[DataPlan, ...]]]
    figures: Callable  # (Board) -> tuple[Figure, ...]: one plate has one unit, so some datasets need their own
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...]
    table: Callable  # (Board) -> Table
    agents: tuple[str, ...] = ()  # there are no learners to choose
    task: str = "Dataset"  # what claims are judged on one by one
    sources: str = "[T] text of the paper, [C] public code, [R] recalled, never a number, [D] ours"


def is_default(policy: Any) -> bool:
    """Return whether an extractor has the alpha that its config declares: the one chosen without looking at these data."""
    return getattr(policy, "alpha", None) == getattr(type(policy)(), "alpha", None)


def cells_of(plan: DataPlan, data: str, env: str) -> list[Cell]:
    """Return the cells of a plan: those of its matrix, improved at test time only where the plan says so.

    data: sha256 of the dataset. env: JSON text of the environment that policies are tried in.
    """
    found = cells(plan.matrix, data, env)
    found += [replace(cell, encoding=e) for e in plan.encodings for cell in found if cell.policy.name == "bc"]
    kept = [
        cell
        for cell in found
        if cell.test_time is None
        or (cell.value is not None and (cell.value.name, cell.policy.name) in plan.tested and is_default(cell.policy))
    ]
    return kept + (cells_around(plan.robustness, kept) if plan.robustness else [])


def facts_of(found: list[Cell], plan: DataPlan) -> list[Cell]:
    """Return the cells, one a seed, whose data are described for the rule that picks an extractor: AWR's of the matrix."""
    if plan.robustness is None:
        return []
    value, most = plan.matrix.values[0], plan.matrix.sizes[-1]
    plain = [c for c in found if c.policy.name == "awr" and c.value == value and c.policy_size == c.value_size == most]
    return list({cell.seed: cell for cell in plain if cell.test_time is None}.values())


def continuations_of(plan: DataPlan, data: str, env: str) -> list[tuple[Continuation, Continuation]]:
    """Return (as planned, with its data, env and seed) of every continuation."""
    seeds = plan.matrix.seeds
    return [(one, replace(one, data=data, env=env, seed=seed)) for one in plan.continuations for seed in seeds]


def to_dicts(plans: tuple[DataPlan, ...]) -> list[dict[str, Any]]:
    """Return plans as nested plain dicts, ready for JSON."""
    return [asdict(plan) for plan in plans]


def from_dicts(rows: list[dict[str, Any]]) -> tuple[DataPlan, ...]:
    """Rebuild plans from `to_dicts`, or from its JSON. Raises ConfigError where this version does not know a field."""
    try:
        return tuple(map(_plan, rows))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"plan: {error} is not known; written by another version of valex?") from error


def _plan(row: dict[str, Any]) -> DataPlan:
    matrix: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row["matrix"].items()
    }
    for name, kinds in (("values", VALUE_CONFIGS), ("policies", EXTRACTION_CONFIGS), ("test_times", TEST_TIME_CONFIGS)):
        matrix[name] = tuple(from_dict(kind, kinds[kind["name"]]) for kind in matrix[name])
    settings = from_dict(row["settings"], GENERATORS[row["kind"]])
    tested = tuple(map(tuple, row["tested"]))
    lists: dict[str, Any] = {"tested": tested, "encodings": tuple(row.get("encodings", ()))}
    lists["continuations"] = tuple(from_dict(one, Continuation) for one in row.get("continuations", ()))
    if around := row.get("robustness"):
        values = tuple(from_dict(kind, VALUE_CONFIGS[kind["name"]]) for kind in around["values"])
        lists["robustness"] = Robustness(values, tuple(around["errors"]))
    return DataPlan(**(row | {"settings": settings, "matrix": MatrixConfig(**matrix)} | lists))


def judge(claim: Claim, board: Board) -> list[Verdict]:
    """Return the verdicts of a claim: one per dataset that has what it is about, pooled or together as the claim says.

    The `envs` of a claim are kinds of generators here.
    """
    if claim.scope == TOGETHER:
        return judge_in(claim, board, [ALL])
    about = [plan for plan in board.plans if plan.part == claim.part]
    names = [plan.name for plan in about if not claim.envs or plan.kind in claim.envs]
    return judge_in(claim, board, names) if names else [nothing(claim, ALL, NOT_RUN)]
