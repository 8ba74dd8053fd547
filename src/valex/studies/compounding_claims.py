"""The claims of the study compounding-error: C1, C6 and C7 of Botev's talk as the specification words them, T10, and calibration.

Every quantity is a logarithm to the base 10, one value per seed, paired by seed where two arms are compared: 0 is "no
difference", 0.1 is a quarter more. Margins are ours [D] and were declared before any run.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from valex.store import StoredRun
from valex.studies.base import NOT_RUN, Claim, Component
from valex.studies.cells import Cell, Grid
from valex.studies.compounding_measures import (
    Kind,
    curve,
    error_at,
    growth,
    kinds,
    labels,
    measured,
    nines,
    places,
    reference,
    spread_ratio,
    values,
)

NINES = 3.0  # -log10(1 - R^2): R^2 above 0.999 looks near perfect
TENFOLD = 1.0  # the weakest reading of "diverges"
MARGIN = 0.1  # a quarter: smaller ratios of errors count as no difference
FACTOR_TWO = math.log10(2.0)  # a spread within a factor of two of the error tells it
TALK = "Botev, OpenAI 2018 (talk) [S]"


def arms(grid: Grid, env: str) -> tuple[dict[Kind, Cell], Kind] | str:
    """Return the cells and the ordinary ensemble, or why there is none."""
    found = {kind: cell for kind, cell in kinds(grid, env).items() if measured(cell) or cell.failed}
    usual = reference(found)
    return (found, usual) if usual else f"{NOT_RUN}: an ensemble with a one-step loss whose model error was measured"


def single_arm(grid: Grid, env: str, quantities: Callable[[Cell], dict[str, Callable]]) -> list[Component] | str:
    """Return components of the ordinary ensemble; quantities(cell) -> {label: measure(run)}."""
    found = arms(grid, env)
    if isinstance(found, str):
        return found
    cell = found[0][found[1]]
    detail = labels(grid, env)[found[1]]
    taken = {name: values(cell, measure) for name, measure in quantities(cell).items()}
    return [Component(name, np.array(list(v.values())), len(cell.failed), detail) for name, v in taken.items()]


def near_perfect(grid: Grid, env: str) -> list[Component] | str:
    """Return -log10(1 - R^2) of the number of the next state that is predicted worst."""
    return single_arm(grid, env, lambda cell: {"−log10(1 − R²)": nines})


def diverges(grid: Grid, env: str) -> list[Component] | str:
    """Return log10(e_K / e_1) in open loop."""

    def quantities(cell: Cell) -> dict[str, Callable]:
        last = places(measured(cell).values())[-1:]
        return {f"log10 e({k}) / e(1)": lambda run: math.log10(growth(run)) for k in last}

    return single_arm(grid, env, quantities)


def grows_with_steps(grid: Grid, env: str) -> list[Component] | str:
    """Return log10(e_b / e_a) between neighbouring numbers of steps."""

    def ratio(a: int, b: int, run: StoredRun) -> float:
        errors = curve(run)
        return math.log10(errors[b - 1] / errors[a - 1])

    def quantities(cell: Cell) -> dict[str, Callable]:
        at = places(measured(cell).values())
        return {f"log10 e({b}) / e({a})": partial(ratio, a, b) for a, b in zip(at, at[1:], strict=False)}

    return single_arm(grid, env, quantities)


def log_ratio(label: str, first: tuple[Cell, Callable], second: tuple[Cell, Callable], detail: str) -> Component:
    """Return log10(first / second) over the seeds that both have; each is (cell, measure)."""
    a, b = (values(*pair) for pair in (first, second))
    seeds = sorted(set(a) & set(b))
    lost = (set(first[0].failed) | set(second[0].failed)) - set(seeds)
    return Component(label, np.array([math.log10(a[seed] / b[seed]) for seed in seeds]), len(lost), detail)


def single_is_worse(grid: Grid, env: str) -> list[Component] | str:
    """Return log10(error of a single net / error of the ensemble's mean prediction) after K steps."""
    found = arms(grid, env)
    if isinstance(found, str):
        return found
    cells, usual = found
    single = next((k for k in cells if k.members == 1 and (k.loss_steps, k.data) == (1, usual.data)), None)
    if single is None:
        return f"{NOT_RUN}: a single net with as much data as the ensemble"
    last = places([*measured(cells[usual]).values(), *measured(cells[single]).values()])[-1:]
    pair = lambda k: ((cells[single], error_at(k)), (cells[usual], error_at(k, "mean")))  # noqa: E731
    return [log_ratio(f"log10 e({k}), single / ensemble", *pair(k), labels(grid, env)[single]) for k in last]


def member_is_worse(grid: Grid, env: str) -> list[Component] | str:
    """Return log10(error of one member / error of the mean of all members) after K steps: the averaging alone."""
    found = arms(grid, env)
    if isinstance(found, str):
        return found
    cell, detail = found[0][found[1]], labels(grid, env)[found[1]]
    last = places(measured(cell).values())[-1:]
    return [
        log_ratio(f"log10 e({k}), member / mean", (cell, error_at(k)), (cell, error_at(k, "mean")), detail)
        for k in last
    ]


def multi_step_is_better(grid: Grid, env: str) -> list[Component] | str:
    """Return log10(error of the one-step loss / error of a longer loss) after 10 and K steps, for every longer loss."""
    found = arms(grid, env)
    if isinstance(found, str):
        return found
    cells, usual = found
    longer = [k for k in cells if k.loss_steps > 1 and (k.members, k.data) == (usual.members, usual.data)]
    if not longer:
        return f"{NOT_RUN}: an ensemble with a multi-step loss and as much data"
    at = [k for k in places([r for kind in (usual, *longer) for r in measured(cells[kind]).values()]) if k >= 10]
    return (
        [
            log_ratio(
                f"log10 e({k}), 1-step / {kind.loss_steps}-step loss",
                (cells[usual], error_at(k)),
                (cells[kind], error_at(k)),
                labels(grid, env)[kind],
            )
            for kind in longer
            for k in dict.fromkeys((at[0], at[-1]))
        ]
        if at
        else f"{NOT_RUN}: 10 model steps"
    )


def spread_tells(grid: Grid, env: str, little: bool) -> list[Component] | str:
    """Return log10(spread of the members / error of their average) by steps; `little`: of the ensemble with least data."""
    found = arms(grid, env)
    if isinstance(found, str):
        return found
    cells, usual = found
    kind = min((k for k in cells if k.members > 1 and k.loss_steps == 1), key=lambda k: k.data)
    if little and kind == usual:
        return f"{NOT_RUN}: an ensemble with less data"
    cell, kind = (cells[kind], kind) if little else (cells[usual], usual)

    def logged(k: int, run: StoredRun) -> float:
        return math.log10(spread_ratio(k)(run))

    found = {k: values(cell, partial(logged, k)) for k in places(measured(cell).values())}
    detail = labels(grid, env)[kind]
    return [Component(f"k = {k}", np.array(list(v.values())), len(cell.failed), detail) for k, v in found.items()]


ALIKE = (-FACTOR_TWO, FACTOR_TWO)

CLAIMS = (
    Claim(
        "C1a", "A one-step model looks near perfect: R² of the next state is above 0.999 in every number of it.",
        f"{TALK}; threshold [D]", "−log10(1 − R²) of next states, the worst predicted number, one-step loss",
        (NINES, math.inf), near_perfect,
    ),
    Claim(
        "C1b", "Unrolled on its own predictions the same model diverges.", f"{TALK}; tenfold [D]",
        "log10(e_K / e_1) in open loop, medians over starts", (TENFOLD, math.inf), diverges,
    ),
    Claim(
        "T10", "The error of a learned model grows with every further step of a rollout.",
        "2412.20537 shows it [S]; test [D]", "log10 ratio of open-loop errors between neighbouring numbers of steps",
        (0.0, math.inf), grows_with_steps,
    ),
    Claim(
        "C6a", "A single dynamics model is not enough: an ensemble's mean prediction is better after K steps.",
        f"{TALK}, of value expansion; test on errors and margin [D]",
        "log10(e_K of one net by squared error / e_K of the ensemble's mean), open loop",
        (MARGIN, math.inf), single_is_worse,
    ),
    Claim(
        "C6b", "Averaging is why: one member of the ensemble is worse than the mean of all.", "ours; margin [D]",
        "log10(e_K of a member / e_K of the mean), open loop", (MARGIN, math.inf), member_is_worse,
    ),
    Claim(
        "C7", "A multi-step loss is needed: it makes smaller errors than a one-step loss at equal cost.",
        f"{TALK}; test and margin [D]", "log10(e_k of the one-step loss / e_k of a longer loss), open loop",
        (MARGIN, math.inf), multi_step_is_better,
    ),
    Claim(
        "E1a", "The spread of the members tells their error, within a factor of two.",
        "what weighting by disagreement takes for granted (STEVE); margin [D]",
        "log10(spread / error of the average), medians over starts", ALIKE, partial(spread_tells, little=False),
    ),
    Claim(
        "E1b", "It does so with little data too.", "as E1a [D]",
        "log10(spread / error of the average), medians over starts", ALIKE, partial(spread_tells, little=True),
    ),
)  # fmt: skip

REMARKS = (
    "Errors are in standard deviations of the held-out observations, over the numbers that change within an episode. K is the "
    "longest rollout measured, 100 steps except in smoke. Over starts the median is taken, over members the mean.",
    "Ensembles predict normal distributions and are fitted by likelihood, a single net predicts means and is fitted by squared "
    "error, unless its name says otherwise. Both have nets of the same size.",
    "C6 and C7 of the talk are about policies trained with value expansion. Here only the model is judged; a model can be worse "
    "and as good to learn from.",
    "One-step and multi-step losses see equal data at equal cost: model.batch_size counts stored steps per gradient step, in "
    "windows of model.loss_steps. Observation noise, under which longer losses are said to pay, is not part of this study: the "
    "environments have none.",
    f"Margins are ours and were fixed before any run: R² = 0.999 is near perfect, tenfold is divergence, ratios of errors below "
    f"{10**MARGIN:.2f} are no difference, a spread within a factor of two of the error tells it.",
)
