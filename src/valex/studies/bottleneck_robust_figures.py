"""The figures of the study offline-bottleneck that go with D1 to D3: values, errors at test time, and the rule."""

import numpy as np

from valex.settings.offline import ValueKind
from valex.statistics import Interval, mean_over_seeds
from valex.studies.base import NOT_RUN, Figure, Panel, Plate, Series
from valex.studies.bottleneck_measures import EXTRACTORS, knob_text, settings_of
from valex.studies.bottleneck_panels import MEANS, plate, points, present, unit_of
from valex.studies.bottleneck_policies import TESTS
from valex.studies.bottleneck_robustness import AWR, DDPG, picked, picked_text, plain, with_error
from valex.studies.offline import ROBUSTNESS, Board, DataPlan


def armed(board: Board) -> list[DataPlan]:
    """Return the plans that something is varied around."""
    return [plan for plan in board.plans if plan.part == ROBUSTNESS]


def value_text(value: ValueKind) -> str:
    """Return a value in words: "10 critics", "linear"."""
    return f"{value.num_critics} critics" if value.hidden else "linear"


def value_panel(board: Board, plan: DataPlan) -> Panel:
    """Return the scores of both extractors over every value."""
    assert plan.robustness is not None
    values = (*plan.matrix.values, *plan.robustness.values)
    places = [float(k) for k in range(len(values))]
    series = [
        points(
            knob_text(settings_of(plan, e)[0]),
            e,
            places,
            [plain(board, plan.name, e, value) for value in values],
            "marks",
        )
        for e in (AWR, DDPG)
    ]
    ticks = tuple(zip(places, map(value_text, values), strict=True))
    return Panel(plan.name, "", unit_of(board, plan.name), present(series), "rows", ticks)


def value_plate(board: Board) -> Plate:
    """Return what an ensemble and a linear value change."""
    panels = [value_panel(board, plan) for plan in armed(board)]
    left_out = [] if panels else [f"Ensembles and linear values: {NOT_RUN}"]
    return plate(panels, 3, f"IQL, most data. {MEANS}", left_out)


def error_panel(board: Board, plan: DataPlan) -> Panel:
    """Return scores against the size of the error, of AWR as it is and with either improvement."""
    assert plan.robustness is not None
    sizes = (0.0, *plan.robustness.errors)
    places = [float(k) for k in range(len(sizes))]
    rows = {"none": [plain(board, plan.name, AWR)] * len(sizes)}
    rows |= {TESTS[how]: [with_error(board, plan.name, how, size) for size in sizes] for how in TESTS}
    series = [points(*pair, places, rows[pair[0]]) for pair in zip(rows, ("eighth", "second", "third"), strict=True)]
    ticks = tuple((place, f"{size:g}") for place, size in zip(places, sizes, strict=True))
    xlabel = "size of the error (standard deviations of Q)"
    return Panel(plan.name, xlabel, unit_of(board, plan.name), present(series), "category", ticks)


def error_plate(board: Board) -> Plate:
    """Return what an error of the value leaves of improvement at test time."""
    panels = [error_panel(board, plan) for plan in armed(board) if plan.matrix.test_times]
    left_out = [] if panels else [f"Errors of the value at test time: {NOT_RUN}"]
    return plate(panels, 3, f"IQL with AWR, most data; settings chosen on other seeds for each size. {MEANS}", left_out)


def marks(label: str, colour: str, places: list[int], found: list[Interval], n: int) -> Series:
    """Return intervals at places."""
    value, low, high = (np.array([float(interval[k]) for interval in found]) for k in range(3))
    return Series(label, colour, np.array(places, float), value, low, high, n, "marks")


def rule_plate(board: Board) -> Plate:
    """Return what DDPG+BC gains on every dataset with what the rule took there, and the regrets."""
    found = picked(board)
    if isinstance(found, str):
        return Plate([], 2, "", [f"The rule that picks an extractor: {found}"])
    n = found.gain.shape[1]
    gains = [mean_over_seeds(gain) for gain in found.gain]
    series = []
    for taken, extractor in enumerate((AWR, DDPG)):
        places = [k for k, chosen in enumerate(found.judged.chosen) if chosen == taken]
        if places:
            words = f"rule takes {EXTRACTORS[extractor]}"
            series.append(marks(words, extractor, places, [gains[k] for k in places], n))
    ticks = tuple((float(k), name) for k, name in enumerate(found.names))
    rules = ((0.0, ""),)
    gained = Panel("", "", "DDPG+BC − AWR (points of 100)", series, "rows", ticks, rules=rules)
    regrets = [found.judged.rule, found.judged.awr, found.judged.ddpg_bc]
    who = tuple((float(k), name) for k, name in enumerate(("rule", "always AWR", "always DDPG+BC")))
    lost = [marks("", "first", [0, 1, 2], regrets, n)]
    regret = Panel("", "", "regret to the best in hindsight (points of 100)", lost, "rows", who, rules=rules)
    note = f"{picked_text(found, places=False)}. 95 % intervals over seeds; what was taken on a dataset was chosen on the others."
    return plate([gained, regret], 2, note, [])


ROBUST_FIGURES = (
    Figure(
        "robust-values",
        "Ensembles and linear values",
        "Where a linear value does as well as a net, what the net learned beyond it is not what policies need.",
        value_plate,
    ),
    Figure(
        "robust-errors",
        "Improvement at test time by a value that is wrong",
        "A smooth random error is put on Q where it is climbed; the policy it starts from was read off the value without it.",
        error_plate,
    ),
    Figure(
        "rule",
        "Which extractor, from facts of the data",
        "A threshold on one fact of the data picks the extractor before any episode; judged on datasets it was not chosen on.",
        rule_plate,
    ),
)
