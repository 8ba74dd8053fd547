"""The figures of the study offline-bottleneck. Numbers only; `valex.report` draws them."""

from functools import partial

import numpy as np

from valex.offline.matrix_statistics import SATURATED, direction, variance_shares
from valex.settings.offline import ExtractionKind, ValueKind
from valex.statistics import mean_over_seeds
from valex.studies.base import Figure, Matrix, Panel, Plate, Series
from valex.studies.bottleneck_error_figures import error_plate, online_plate, sweep_plate
from valex.studies.bottleneck_measures import (
    BC,
    EXTRACTORS,
    SIGNS,
    VALUES,
    at_test_time,
    compared,
    factorial,
    knob,
    knob_text,
    matrices,
    numbers,
    per_seed,
    plan_of,
    settings_of,
)
from valex.studies.bottleneck_panels import MEANS, kind_text, plate, points, present, size_text, unit_of
from valex.studies.bottleneck_policies import TESTS
from valex.studies.bottleneck_robust_figures import ROBUST_FIGURES
from valex.studies.offline import Board, DataPlan, is_default

# ----------------------------------------------------------------------------------------------------------------- matrices


def matrix_panel(board: Board, name: str, value: ValueKind, extractor: str) -> Panel | str:
    """Return a data-scaling matrix at the tuned alpha, with its direction."""
    found, sizes = compared(board, name, value, (extractor,)), plan_of(board, name).matrix.sizes
    if isinstance(found, str):
        return f"{name}, {VALUES[value.name]}, {EXTRACTORS[extractor]}: {found}"
    scores = found.scores[extractor]
    where, spread = direction(scores, sizes, sizes), mean_over_seeds(scores)
    labels = tuple(map(size_text, sizes))
    matrix = Matrix(
        spread.value.T,
        labels,
        labels,
        unit_of(board, name),
        spread.low.T,
        spread.high.T,
        len(scores),
        None if where.kind == SATURATED else tuple(where.angle),
    )
    note = f"{kind_text(where)}; best at {knob_text(found.chosen[extractor]).split(', ')[-1]}, n = {len(scores)}"
    title = f"{EXTRACTORS[extractor]} over {VALUES[value.name]}"
    return Panel(title, "value data", "policy data", [], note=note, matrix=matrix)


def matrix_plate(board: Board, name: str) -> Plate:
    """Return the matrices of a dataset, values downwards, extractors to the right."""
    plan = plan_of(board, name)
    found = [matrix_panel(board, name, value, e) for value in plan.matrix.values for e in EXTRACTORS]
    panels = [panel for panel in found if not isinstance(panel, str)]
    note = f"{unit_of(board, name)}, mean over seeds, alpha and N chosen on other seeds. Dial: where it rises, with its 95 % arc."
    return plate(panels, len(EXTRACTORS), note, [line for line in found if isinstance(line, str)])


# ------------------------------------------------------------------------------------------------------------- one number each


def alpha_panel(board: Board, plan: DataPlan, extractor: str) -> Panel:
    """Return the score of an extractor against its setting, mean over the matrix, with cloning as a line."""
    settings = settings_of(plan, extractor)
    ticks = tuple((float(k), f"{knob(p):g}") for k, p in enumerate(settings))
    series = [
        points(
            VALUES[value.name],
            value.name,
            [float(k) for k in range(len(settings))],
            [per_seed(numbers(board, plan.name, value, policy)) for policy in settings],
        )
        for value in plan.matrix.values
    ]
    cloned = [numbers(board, plan.name, None, p).mean() for p in plan.matrix.policies if p.name == BC]
    rules = tuple((float(y), "behaviour cloning") for y in cloned[:1] if np.isfinite(y))
    greedy = {"awr": "greedier to the right", "ddpg_bc": "greedier to the left", "sfbc": "greedier to the right"}
    title, xlabel = f"{plan.name}: {EXTRACTORS[extractor]}", f"{SIGNS[extractor]} ({greedy[extractor]})"
    return Panel(title, xlabel, unit_of(board, plan.name), present(series), "category", ticks, rules=rules)


def alpha_plate(board: Board) -> Plate:
    """Return scores by setting: a row for each dataset, a column for each extractor that has several."""
    columns = [e for e in EXTRACTORS if any(len(settings_of(plan, e)) > 1 for plan in matrices(board))]
    panels = [alpha_panel(board, plan, extractor) for plan in matrices(board) for extractor in columns]
    return plate(panels, max(1, len(columns)), f"Score, mean over the matrix. {MEANS}", [])


def fit_panel(board: Board, plan: DataPlan, value: ValueKind) -> Panel:
    """Return training and held-out error to the data's actions against the policy's data, at the fixed alpha."""
    sizes, series = plan.matrix.sizes, []
    for extractor in ("awr", "ddpg_bc"):
        policy = next((p for p in settings_of(plan, extractor) if is_default(p)), None)
        for which, words in (("train", "training"), ("val", "held out")) if policy else ():
            found = numbers(board, plan.name, value, policy, f"fit/{which}")[:, -1]  # pyright: ignore[reportArgumentType]
            colour = extractor if which == "val" else f"{extractor} {which}"
            series.append(points(f"{EXTRACTORS[extractor]}, {words}", colour, list(sizes), list(found.T)))
    ticks = tuple((float(size), size_text(size)) for size in sizes)
    title = f"{plan.name}: over {VALUES[value.name]}"
    return Panel(title, "policy data (transitions)", "squared error per action", present(series), "log", ticks)


def fit_plate(board: Board) -> Plate:
    """Return the fit of policies to actions of the data, by the amount of policy data, at the largest amount of value data."""
    panels = [fit_panel(board, plan, value) for plan in matrices(board) for value in plan.matrix.values]
    note = f"Mean squared error of the policy's mean action to the data's. Default alphas, most value data. {MEANS}"
    return plate(panels, 2, note, [])


def share_panel(board: Board, plan: DataPlan) -> Panel | str:
    """Return the shares of variance of one dataset's scores."""
    whole = factorial(board, plan.name)
    if isinstance(whole, str):
        return f"{plan.name}: {whole}"
    scores, factors, _ = whole
    if np.ptp(scores) == 0.0:
        return (
            f"{plan.name}: every score is {scores.flat[0]:g} {unit_of(board, plan.name)}, so nothing can be told apart"
        )
    shares = variance_shares(scores, factors)
    found = shares.factors | {"interactions": shares.interactions, "seeds": shares.residual}
    y, low, high = (np.array([float(i[k]) for i in found.values()]) for k in range(3))
    series = Series("", "first", np.arange(len(found), dtype=float), y, low, high, scores.shape[-1], "marks")
    ticks = tuple((float(k), name) for k, name in enumerate(found))
    return Panel(plan.name, "", "share of the variance of scores (ε²)", [series], "rows", ticks, rules=((0.0, ""),))


def share_plate(board: Board) -> Plate:
    """Return what the variance of the scores is made of."""
    found = [share_panel(board, plan) for plan in matrices(board)]
    note = "ε², alpha and N chosen on other seeds; 95 % jackknife intervals over seeds. Below 0: less than noise makes."
    return plate([p for p in found if not isinstance(p, str)], 3, note, [p for p in found if isinstance(p, str)])


def action_rows(board: Board, plan: DataPlan, measure: str, label: str) -> Panel:
    """Return a measure of actions for every extractor with every setting, mean over the matrix."""
    policies: list[ExtractionKind] = [p for p in plan.matrix.policies if p.name == BC]
    policies += [p for e in EXTRACTORS for p in settings_of(plan, e)]
    places = [float(k) for k in range(len(policies))]
    series = []
    for value in plan.matrix.values:
        samples = [per_seed(numbers(board, plan.name, None if p.name == BC else value, p, measure)) for p in policies]
        series.append(points(VALUES[value.name], value.name, places, samples, "marks"))
    ticks = tuple((float(k), knob_text(p)) for k, p in enumerate(policies))
    return Panel(plan.name, "", label, present(series), "rows", ticks)


def action_plate(board: Board) -> Plate:
    """Return how far policies reach: the largest part of an action, and the share outside of what the data did nearby."""
    labels = {"action/max": "mean of the largest |a|", "action/outside": "share outside the data's actions"}
    panels = [action_rows(board, plan, *pair) for plan in matrices(board) for pair in labels.items()]
    return plate(panels, 2, f"On the states that policies visit, mean over the matrix. {MEANS}", [])


def test_panel(board: Board, plan: DataPlan) -> Panel:
    """Return scores with and without improvement at test time, at the largest sizes."""
    value = next((v for v in plan.matrix.values if v.name == "iql"), None)
    base = next((p for p in settings_of(plan, "awr") if is_default(p)), None)
    rows: dict[str, np.ndarray] = {}
    if value is not None and base is not None and plan.matrix.test_times:
        rows["AWR, as it is"] = numbers(board, plan.name, value, base)[:, -1, -1]
        rows |= {
            f"{TESTS[how.name]}, β = {how.beta:g}": at_test_time(board, plan.name, value, base, how)
            for how in plan.matrix.test_times
        }
        rows |= {knob_text(p): numbers(board, plan.name, value, p)[:, -1, -1] for p in settings_of(plan, "sfbc")}
    series = points("", "first", [float(k) for k in range(len(rows))], list(rows.values()), "marks")
    ticks = tuple((float(k), name) for k, name in enumerate(rows))
    return Panel(plan.name, "", unit_of(board, plan.name), present([series]), "rows", ticks)


def test_plate(board: Board) -> Plate:
    """Return what improvement at test time changes."""
    panels = [test_panel(board, plan) for plan in matrices(board)]
    return plate(panels, 3, f"IQL with AWR at its default alpha, most data. {MEANS}", [])


SHARED = (
    Figure(
        "alphas",
        "Score by alpha and N",
        "Left and right point in opposite directions for AWR and DDPG+BC: alpha is greed for one and caution for the other.",
        alpha_plate,
    ),
    Figure(
        "shares",
        "What the variance of the scores is made of",
        "A choice that matters takes a large share: the value objective, the extractor, or either amount of data.",
        share_plate,
    ),
    Figure(
        "fit",
        "How policies fit the actions they were trained on, and others",
        "A gap between training and held-out states is over-fitting; DDPG+BC leaves the data's actions on purpose.",
        fit_plate,
    ),
    Figure(
        "errors",
        "Three errors to the optimal policy, and the score",
        "The error that falls with the score most plainly is the one that limits it.",
        error_plate,
    ),
    Figure(
        "online",
        "Errors and score, from data to online",
        "What falls online is what training on data could not lower: an error on states that only acting shows.",
        online_plate,
    ),
    Figure(
        "noise",
        "Score by the noise of the data",
        "Noise makes data worse and wider. A score that rises with it says that coverage was what was missing.",
        sweep_plate,
    ),
    Figure(
        "actions",
        "How far actions reach",
        "AWR averages actions of the data and stays inside; DDPG+BC climbs the value and need not.",
        action_plate,
    ),
    Figure(
        "test-time",
        "Improvement at test time",
        "OPEX moves each action along the value's gradient; TTT goes on training on states that are visited. No reward is read.",
        test_plate,
    ),
    *ROBUST_FIGURES,
)


def figures(board: Board) -> tuple[Figure, ...]:
    """Return the matrices of every dataset, each in its own unit, then what all share."""
    own = [
        Figure(
            f"matrix-{plan.name}",
            f"{plan.name}: which data help",
            f"Stands for {plan.stands_for}. Lost: {plan.lost}. Colours that rise upwards want more policy data, to the right "
            "more value data.",
            partial(matrix_plate, name=plan.name),
        )
        for plan in matrices(board)
    ]
    return (*own, *SHARED)
