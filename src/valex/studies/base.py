"""The records that a study is made of. Figures are described here as numbers; `valex.report.figures` draws them."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from valex.settings import AGENT_CONFIGS, RunConfig

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NOT_RUN = "not run in this preset"  # how the reason of a verdict begins that nothing was measured for
POOLED_TOO, EACH, TOGETHER = "each task, then pooled", "each task", "all tasks together"  # what a claim is judged over


def over_seeds(configs: Iterable[RunConfig], seeds: Iterable[int]) -> list[RunConfig]:
    """Return every config with every seed."""
    seeds = tuple(seeds)
    return [replace(config, seed=seed) for config in configs for seed in seeds]


def with_learner(config: RunConfig, name: str) -> RunConfig:
    """Return the config with another learner that keeps what both have: sizes, step sizes, targets, normalisation."""
    cls, ours = AGENT_CONFIGS[name], {f.name for f in fields(config.agent)} - {"name"}
    return replace(config, agent=cls(**{f.name: getattr(config.agent, f.name) for f in fields(cls) if f.name in ours}))


def with_learners(study: "Study", preset: str, agents: Iterable[str] = ()) -> list[RunConfig]:
    """Return the runs of a preset with each of the learners; () for the preset's own.

    Runs that differ in what a learner does not have, such as a normalised policy, are run once.
    """
    configs = study.presets[preset]()
    if not agents:
        return configs
    return [c for a in agents for c in study.adapt(list(dict.fromkeys(with_learner(config, a) for config in configs)))]


class Series(NamedTuple):
    """One line of a panel; arrays all [K]."""

    label: str  # in the legend; "" keeps it out
    colour: str  # "H3" for a horizon, an arm ("ce"), or a part ("rollout"): one colour everywhere
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None  # interval, in the unit of y; drawn as a band (lines) or bars (points)
    high: np.ndarray | None = None
    n: int | tuple[int, ...] = 0  # seeds behind the series, or behind each of its points
    style: str = (
        "line"  # line | points | marks (points without a line) | failed (a run that stopped: ends in a cross) |
    )
    # reference (thin, dashed) | path (in a plane: a ring at the start, a dot every ten points)


class Matrix(NamedTuple):
    """A data-scaling matrix as a heat map: value data to the right, policy data upwards, in the place of series."""

    values: np.ndarray  # [P, V] mean score over seeds, first row at the bottom; NaN where no seed has one (hatched)
    row_labels: tuple[str, ...]  # [P] sizes of policy data
    column_labels: tuple[str, ...]  # [V] sizes of value data
    unit: str  # of the values, beside the colour bar; one for the whole plate
    low: np.ndarray | None = None  # [P, V] interval of the values, in the CSV only
    high: np.ndarray | None = None
    n: int | np.ndarray = 0  # seeds behind every cell, or [P, V]
    arrow: tuple[float, float, float] | None = None  # angle, low, high of `direction` in degrees: 0 right, 90 up


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    xlabel: str  # with unit
    ylabel: str  # with unit
    series: list[Series]
    x_scale: str = (
        "linear"  # linear | log | horizon (0 and a log axis) | category (x_ticks are names) | rows (named, downwards)
    )
    x_ticks: tuple[tuple[float, str], ...] = ()
    log_y: bool = False
    rules: tuple[tuple[float, str], ...] = ()  # horizontal reference lines (y, label)
    plane: tuple[np.ndarray, np.ndarray, np.ndarray] | None = (
        None  # x [X], y [Y], height [Y, X]: contour lines; x, y one scale
    )
    note: str = ""  # numbers that belong beside the curves, written under the title
    matrix: Matrix | None = None  # a heat map instead of series
    span: tuple[float, float] | None = None  # of the values of named rows; None: what these need


class Plate(NamedTuple):
    """The panels of a figure, row by row, and what could not be drawn."""

    panels: list[Panel]
    columns: int
    note: str  # above the panels: statistic, interval, n, estimator
    left_out: list[str]  # what is missing and why, one line each


class Figure(NamedTuple):
    """A figure of a study, drawn from its cells only."""

    name: str  # file name without suffix
    title: str
    caption: str  # how to read it
    plate: Callable  # (Grid) -> Plate; a plate without panels is left out and its reasons are listed


class Component(NamedTuple):
    """One measured quantity of a claim."""

    label: str  # the same in every environment
    values: np.ndarray  # [n] one per seed that finished everything the quantity needs
    failed: int = 0  # seeds lost because a run that the quantity needs diverged
    detail: str = ""  # what is particular to this environment
    limit: str = ""  # why this quantity can support the claim but not speak against it; "" if it can
    estimate: Callable | None = (
        None  # (confidence) -> Interval where it is not the IQM over `values`, which then only count
    )
    unit: str = "seeds"  # what `values` are one of each
    unclear: str = ""  # why it cannot decide whatever its interval is; "" if it can


class Claim(NamedTuple):
    """A statement of the literature with its operational test."""

    id: str  # as in the specification, a letter where a claim has several parts
    text: str
    source: str  # who says so, and whose test this is
    statistic: str  # what is measured per seed
    region: tuple[float, float]  # the claim says that the statistic lies strictly inside
    measure: Callable  # (Grid, env) -> list[Component], or a line of text why there is nothing to measure
    envs: tuple[str, ...] = ()  # environments that the claim is about; () for all
    agents: tuple[str, ...] = ()  # learners that the claim is about; () for all
    scope: str = POOLED_TOO  # POOLED_TOO | EACH | TOGETHER: one measurement over everything
    part: str = "matrix"  # of an offline study: matrix | robustness, what its datasets have to have


class Verdict(NamedTuple):
    """What the runs say about a claim in one environment, or pooled over several."""

    claim: str
    env: str  # "pooled" over environments
    statistic: str  # the component that decided
    value: float  # IQM over seeds, or what its claim measures
    low: float
    high: float
    n: int  # finished seeds (paired), or the unit of its component
    failed: int  # seeds lost because a run diverged
    verdict: str  # SUPPORTED | NOT_SUPPORTED | UNDECIDED
    reason: str


class Table(NamedTuple):
    """The results of a study, ready to print."""

    head: tuple[str, ...]
    numeric: tuple[bool, ...]  # of every column
    groups: int  # leading columns that are written once while they repeat
    rows: list[tuple[str, ...]]
    note: str  # how to read it
    records: list[dict[str, Any]]  # the rows of results.csv, numbers in full


class Study(NamedTuple):
    """What is run, and what is read off it."""

    name: str
    title: str
    summary: str
    presets: dict[str, Callable[[], list[RunConfig]]]
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...] = ()  # what the report says under the claims
    table: Callable | None = None  # (Grid) -> Table; None: final return and area under the curve (results.py)
    agents: tuple[str, ...] = ()  # learners that --agents may take; () where the preset's own are the only ones
    adapt: Callable = list  # (configs of one learner) -> those that are run with it
    task: str = "Environment"  # what claims are judged on one by one
    sources: str = "[P] abstract or introduction, [S] published summary, [T] third parties, [R] its code, [D] ours"
