"""The records of an offline study: which datasets are made, what is learned from each, and what its report reads.

A plan says how a dataset is made and which cells of a data-scaling matrix are trained on it; a board is what was found of
them. Claims, figures and tables take a board where those of training runs take a grid.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from valex.config import from_dict
from valex.fields import ConfigError
from valex.settings.bottleneck import Cell, MatrixConfig, cells
from valex.settings.datasets import GENERATORS
from valex.settings.offline import EXTRACTION_CONFIGS, TEST_TIME_CONFIGS, VALUE_CONFIGS
from valex.studies.base import TOGETHER, Claim, Verdict
from valex.studies.judge import judge_in, nothing

ALL = "all datasets"


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
    tested: tuple[tuple[str, str], ...] = (("iql", "awr"),)
    """(value, extractor) whose policy, at the default of its config, is improved at test time as the matrix says."""


class Board(NamedTuple):
    """What was found of the plans of a folder."""

    plans: tuple[DataPlan, ...]
    cells: dict[str, list[Cell]]  # by the name of a dataset; none where it has not been made
    found: dict[Cell, dict[str, Any]]  # the trials
    failed: dict[Cell, str]  # what diverged or could not be, and why
    notes: dict[str, str]  # by dataset: what is in it
    left_out: list[str]
    floor: bool = False  # True: what failed scores the lowest seen on its dataset; False: it has no score


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
    return [
        cell
        for cell in cells(plan.matrix, data, env)
        if cell.test_time is None
        or (cell.value is not None and (cell.value.name, cell.policy.name) in plan.tested and is_default(cell.policy))
    ]


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
    matrix = {name: tuple(value) if isinstance(value, list) else value for name, value in row["matrix"].items()}
    for name, kinds in (("values", VALUE_CONFIGS), ("policies", EXTRACTION_CONFIGS), ("test_times", TEST_TIME_CONFIGS)):
        matrix[name] = tuple(from_dict(kind, kinds[kind["name"]]) for kind in matrix[name])
    settings = from_dict(row["settings"], GENERATORS[row["kind"]])
    tested = tuple(map(tuple, row["tested"]))
    return DataPlan(**(row | {"settings": settings, "matrix": MatrixConfig(**matrix), "tested": tested}))


def judge(claim: Claim, board: Board) -> list[Verdict]:
    """Return the verdicts of a claim: one per dataset that is in no sweep, pooled or together as the claim says.

    The `envs` of a claim are kinds of generators here.
    """
    if claim.scope == TOGETHER:
        return judge_in(claim, board, [ALL])
    names = [plan.name for plan in board.plans if not plan.sweep and (not claim.envs or plan.kind in claim.envs)]
    return judge_in(claim, board, names) if names else [nothing(claim, ALL, "not run in this preset")]
