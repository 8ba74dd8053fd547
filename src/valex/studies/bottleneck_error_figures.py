"""Figures of the study offline-bottleneck: errors to the optimal policy by cell and along training online, noise of the data."""

import numpy as np

from valex.studies.base import NOT_RUN, Panel, Plate, Series
from valex.studies.bottleneck_errors import AWR, DDPG, ERRORS, errors_of, plain_cells, sweeps
from valex.studies.bottleneck_measures import BC, EXTRACTORS, VALUES, compared, matrices, numbers
from valex.studies.bottleneck_panels import MEANS, plate, points, present, unit_of
from valex.studies.offline import Board, DataPlan

STATES = {"train": "training states", "val": "held-out states", "eval": "visited states"}


def error_plate(board: Board) -> Plate:
    """Return the score of every cell against its three errors."""
    panels, left_out = [], []
    for plan in matrices(board):
        found = errors_of(board, plan.name)
        if isinstance(found, str):
            left_out.append(f"{plan.name}: {found}")
            continue
        columns, _ = found
        kinds = np.array([c.policy.name for c in plain_cells(board, plan.name)])
        for k, which in enumerate(ERRORS):
            series = [
                Series(label, kind, columns[k][kinds == kind], columns[3][kinds == kind], n=1, style="marks")
                for kind, label in ({BC: "BC"} | EXTRACTORS).items()
                if np.any(kinds == kind)
            ]
            xlabel = "squared error per action"
            panels.append(Panel(f"{plan.name}: {STATES[which]}", xlabel, unit_of(board, plan.name), series, "log"))
    note = "One point for each cell: policy, amounts of data and seed. Error against the declared optimal policy."
    return plate(panels, 3, note, left_out)


def online_plate(board: Board) -> Plate:
    """Return the three errors and the score along training on data and on from there online."""
    panels = []
    for plan in board.plans:
        for template in plan.continuations:
            records = [record for key, record in board.continued.get(plan.name, ()) if key == template]
            panels += online_panels(plan, records) if records else []
    note = f"Offline part: checks before 0; online: environment steps. {MEANS}"
    return plate(panels, 2, note, [])


def online_panels(plan: DataPlan, records: list) -> list[Panel]:
    """Return the errors and the score of the continuations of one policy, one record a seed."""
    from valex.continuation import table

    online = table(records, "env_steps")[0]
    before = [row["phase"] for row in records[0]["rows"]].count("offline") - 1
    stride = max(online[-1], 1.0) / max(1, len(online) - 1 - before)
    x = [float(steps) if k > before else (k - before) * stride for k, steps in enumerate(online)]
    errors = [
        points(label, colour, x, list(table(records, f"error/{which}").T), "points")
        for which, label, colour in zip(ERRORS, STATES.values(), ("first", "third", "second"), strict=True)
    ]
    scores = points("score", "seventh", x, list(table(records, "score").T), "points")
    xlabel, unit = "environment steps online", records[0]["rows"][0]["unit"]
    return [
        Panel(f"{plan.name}: errors", xlabel, "squared error per action", present(errors)),
        Panel(f"{plan.name}: score", xlabel, unit, present([scores])),
    ]


def sweep_plate(board: Board) -> Plate:
    """Return scores against the noise that the data were collected with, a panel for each sweep and value."""
    panels, left_out = [], []
    for name, plans in sweeps(board).items():
        places = [float(k) for k in range(len(plans))]
        ticks = tuple((place, f"{plan.settings.sigma:g}") for place, plan in zip(places, plans, strict=True))
        for value in plans[0].matrix.values:
            rows = [compared(board, plan.name, value, (AWR, DDPG)) for plan in plans]
            left_out += [
                f"{p.name}, {VALUES[value.name]}: {row}"
                for p, row in zip(plans, rows, strict=True)
                if isinstance(row, str)
            ]
            samples = {
                extractor: [np.empty(0) if isinstance(row, str) else row.scores[extractor][:, -1, -1] for row in rows]
                for extractor in (AWR, DDPG)
            }
            series = [points(EXTRACTORS[e], e, places, found) for e, found in samples.items()]
            cloned = [p for p in plans[0].matrix.policies if p.name == BC]
            series += [
                points("BC", BC, places, [numbers(board, plan.name, None, p)[:, 0, -1] for plan in plans])
                for p in cloned
            ]
            title, unit = f"{name}: over {VALUES[value.name]}", unit_of(board, plans[0].name)
            panels.append(Panel(title, "σ of the noise on the actions", unit, present(series), "category", ticks))
    left_out = left_out if panels else [f"Noise of the data: {NOT_RUN}"]
    return plate(panels, 2, f"Most data, alpha chosen on other seeds. {MEANS}", left_out)
