"""What the trials of a diagnosis add up to: matrices, shares of variance, errors, and where the method falls short."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from valex.bottleneck.alarms import alarms, failures
from valex.bottleneck.plan import Plan, cells_of, policy_name, test_time_name
from valex.datasets.card import Card
from valex.diagnostics.plain import plain
from valex.matrix import block, trials, values_of
from valex.offline.coverage import whole_episodes
from valex.offline.matrix_statistics import direction, variance_shares
from valex.offline.shortfall import ENOUGH, NOTHING, Swap, doubled, shortfall
from valex.settings.bottleneck import Cell
from valex.settings.offline import ExtractionKind, ValueKind
from valex.statistics import mean_over_seeds
from valex.trials import Bench, opened, return_score

Trials = dict[Cell, dict[str, Any]]
BY_METHOD = ("error/train", "error/val", "error/eval", "fit/train", "fit/val", "radius/val", "radius/eval")
TRAINED = ("policy/ess_share", "policy/clip_share", "policy/gradient_ratio")


def of_seeds(found: Trials, plan: Plan, cell: Cell, name: str = "score") -> np.ndarray:
    """Return a number of one method on every seed, [S]."""
    return values_of(found, [replace(cell, seed=seed) for seed in plan.seeds], name)


def matrix_of(found: Trials, plan: Plan, value: ValueKind, policy: ExtractionKind) -> dict[str, Any]:
    """Return the data-scaling matrix of a value and an extractor: scores [S, V, P], their mean and direction."""
    scores = block(found, plan.cell(value, policy), plan.sizes, plan.seeds)
    cells = np.array(
        [[mean_over_seeds(scores[:, v, p]) for p in range(len(plan.sizes))] for v in range(len(plan.sizes))]
    )
    made = {"value": value.name, "policy": policy_name(policy), "scores": scores}
    made |= {"mean": cells[..., 0], "low": cells[..., 1], "high": cells[..., 2], "direction": None}
    if len(plan.sizes) > 1:
        try:
            made["direction"] = direction(scores, plan.sizes, plan.sizes)
        except ValueError as error:
            made["no_direction"] = str(error)
    return made


def shares_of(found: Trials, plan: Plan) -> dict[str, Any] | None:
    """Return the shares of variance over value, extractor and both amounts of data; None where a cell lacks a score.

    A factor of one level is left out.
    """
    reading = [p for p in plan.policies if p.name != "bc"]
    scores = np.array([[block(found, plan.cell(v, p), plan.sizes, plan.seeds) for p in reading] for v in plan.values])
    levels = {"value": len(plan.values), "extractor": len(reading)}
    levels |= {"value data": len(plan.sizes), "policy data": len(plan.sizes)}
    if not np.isfinite(scores).all():
        return None
    scores = np.moveaxis(scores, 2, -1)  # [value, extractor, V, P, S]
    several = {name: count for name, count in levels.items() if count > 1}
    return variance_shares(scores.reshape(*several.values(), -1), several)._asdict() if several else None


def methods(found: Trials, plan: Plan) -> list[dict[str, Any]]:
    """Return score, errors and state of training of every method on all data, over seeds."""
    rows = []
    asked = [plan.cell(value, p) for value in plan.values for p in (*plan.policies, *plan.others) if p.name != "bc"]
    asked += [plan.cell(None, p) for p in plan.policies if p.name == "bc"]
    asked += [replace(asked[0], test_time=how) for how in plan.test_times]
    for cell in asked:
        row: dict[str, Any] = {"value": cell.value.name if cell.value else "", "policy": policy_name(cell.policy)}
        row |= {"test_time": test_time_name(cell.test_time) if cell.test_time else ""}
        row["score"] = mean_over_seeds(of_seeds(found, plan, cell))
        for name in BY_METHOD:
            row[name] = mean_over_seeds(of_seeds(found, plan, cell, name))
        last = [found.get(replace(cell, seed=seed), {}).get("training", {}) for seed in plan.seeds]
        row |= {name: mean_over_seeds(np.array([one.get(name, np.nan) for one in last], float)) for name in TRAINED}
        rows.append(row)
    return rows


def gaps(found: Trials, plan: Plan) -> list[dict[str, Any]]:
    """Return errors to training and held-out actions, and the ESS of AWR, by amount of data, the same for value and policy."""
    rows = []
    for value, policy in ((v, p) for v in plan.values for p in plan.policies if p.name != "bc"):
        for size in plan.sizes:
            cell = replace(plan.cell(value, policy), value_size=size, policy_size=size)
            row = {"value": value.name, "policy": policy_name(policy), "size": size}
            row |= {name: mean_over_seeds(of_seeds(found, plan, cell, name)) for name in ("fit/train", "fit/val")}
            last = [found.get(replace(cell, seed=seed), {}).get("training", {}) for seed in plan.seeds]
            row["policy/ess_share"] = mean_over_seeds(
                np.array([one.get("policy/ess_share", np.nan) for one in last], float)
            )
            rows.append(row)
    return rows


def swap_cells(plan: Plan) -> dict[str, dict[str, Cell]]:
    """Return what each part of the reference method is replaced by and tried: part -> setting -> cell of seed 0."""
    value, policy = plan.values[0], plan.policies[0]
    method = plan.cell(value, policy)
    readers = (*plan.policies[1:], *plan.others)
    return {
        "value": {f"value {other.name}": plan.cell(other, policy) for other in plan.values[1:]},
        "extraction": {policy_name(p): plan.cell(None if p.name == "bc" else value, p) for p in readers},
        "generalisation": {test_time_name(how): replace(method, test_time=how) for how in plan.test_times},
    }


def swaps_of(found: Trials, plan: Plan, reference: np.ndarray) -> dict[str, list[Swap]]:
    """Return what each part of the reference method was replaced by."""
    parts = {
        part: [Swap(setting, of_seeds(found, plan, cell)) for setting, cell in settings.items()]
        for part, settings in swap_cells(plan).items()
    }
    if len(plan.sizes) > 1 and np.isfinite(reference).sum() >= ENOUGH:  # a slope of fewer seeds is not worth following
        scores = block(found, plan.cell(plan.values[0], plan.policies[0]), plan.sizes, plan.seeds)
        for part, side in (("value", "value"), ("generalisation", "policy")):
            more = doubled(reference, scores, plan.sizes, plan.sizes, side)
            parts[part].append(Swap(f"twice the {side} data, by the fitted slope", more, measured=False))
    return parts


def cell_text(plan: Plan, cell: Cell) -> str:
    """Return what a cell is, with its amounts of data where these are not all."""
    names = [cell.value.name if cell.value else "", policy_name(cell.policy)]
    text = " + ".join(filter(None, [*names, test_time_name(cell.test_time) if cell.test_time else ""]))
    if {cell.policy_size, cell.value_size} <= {0, plan.sizes[-1]}:
        return text
    if cell.value is None or cell.value_size == cell.policy_size:
        return f"{text} on {cell.policy_size:,} transitions"
    return f"{text}, the value on {cell.value_size:,} and the policy on {cell.policy_size:,} transitions"


def best_cell(found: Trials, plan: Plan) -> tuple[Cell, float]:
    """Return the cell, of seed 0, with the best mean score over seeds on any amount of data, and that mean."""
    seen = {cell: mean_over_seeds(of_seeds(found, plan, cell)).value for cell in {replace(c, seed=0): c for c in found}}
    best = max((cell for cell in seen if np.isfinite(seen[cell])), key=lambda cell: seen[cell])
    return best, float(seen[best])


def data_score(plan: Plan, bench: Bench, unit: str) -> float | None:
    """Return what the data's own trajectories score; None where they are no whole episodes or the score is no return."""
    if bench.arena is None or not whole_episodes(opened(plan.path)[0], bench.arena.episode_length):
        return None
    score, theirs = return_score(plan.card, bench.arena, plan.card.optimality["mean_return"])
    return score if theirs == unit else None


def best_score(plan: Plan, unit: str, tried: tuple[str, float], data: float | None) -> tuple[float, str, bool]:
    """Return (J*, where it comes from, whether that is `tried`): what was stated, else 100 of a percentage, unless beaten.

    tried: the best cell of all and its mean; data: the mean score of the data's own trajectories, None where not known.
    """
    own = -np.inf if data is None else data
    if plan.config.reference is not None:
        return plan.config.reference, "as stated with --reference", False
    if unit.startswith("success"):
        return 100.0, "the most that this score can be", False
    if unit.startswith("normalised") and max(own, tried[1]) <= 100.0:
        return 100.0, "the expert's score", False
    known = "more than the expert's score" if unit.startswith("normalised") else "no best score is known"
    if own > tried[1]:
        return (
            own,
            f"{known}; the mean of the data's own trajectories stands for it, which nothing that was tried reaches",
            False,
        )
    return tried[1], f"{known}; the best mean of all that was tried stands for it: {tried[0]}", True


def verdict_of(found: Trials, plan: Plan, bench: Bench) -> dict[str, Any] | None:
    """Return where the reference method falls short; None without an environment, or where it has no score.

    `by_construction` is [part, setting] where the aim is the score of one of the swaps, and [] elsewhere: the share of that part
    says nothing then, and is left out.
    """
    reference = of_seeds(found, plan, plan.cell(plan.values[0], plan.policies[0]))
    if not plan.env or not np.isfinite(reference).any():
        return None
    unit = next(iter(found.values()))["unit"]
    cell, score = best_cell(found, plan)
    own, name = data_score(plan, bench, unit), cell_text(plan, cell)
    best, origin, from_tried = best_score(plan, unit, (name, score), own)
    told = shortfall(reference, best, swaps_of(found, plan, reference))._asdict()
    parts = {part: values._asdict() for part, values in told["parts"].items()}
    made: list[str] = []
    if from_tried:
        made = [
            word
            for part, cells in swap_cells(plan).items()
            for key in cells
            if cells[key] == cell
            for word in (part, key)
        ]
    if made:
        parts[made[0]]["share"] = NOTHING
    seen = {"tried": {"name": name, "score": score}, "data_score": own, "by_construction": made}
    return told | seen | {"parts": parts, "best_from": origin, "unit": unit}


def missing(card: Card, plan: Plan, bench: Bench) -> list[str]:
    """Return what the dataset does not say, and what therefore cannot be said of it."""
    lines = []
    if not plan.env:
        lines.append(
            "no environment: no policy was played, so there are no returns, no matrices and no verdict on them"
        )
    elif bench.expert is None:
        lines.append(
            "no optimal policy is declared: instead of errors to it, the remoteness of visited states is a proxy"
        )
    known = card.optimality
    if plan.config.goals == "none" and "normalised" not in known:
        lines.append("no reference scores of a random and an expert policy: returns are not normalised")
    if card.seed is None:
        lines.append("the seed that the data were collected with is not recorded")
    if not card.versions:
        lines.append("the versions of what collected the data are not recorded")
    if len(plan.sizes) < 3:
        lines.append(
            f"{'one amount' if len(plan.sizes) == 1 else 'two amounts'} of data instead of three: too few trajectories, or as "
            "asked for with --sizes"
        )
    return lines


def measure(root: Path, plan: Plan, bench: Bench) -> dict[str, Any]:
    """Return everything that a diagnosis found, from stored trials alone; as JSON can hold it."""
    cells = cells_of(plan)
    found = trials(root, cells)
    reading = [(value, p) for value in plan.values for p in plan.policies if p.name != "bc"]
    rows = methods(found, plan)
    method = f"{plan.values[0].name} + {policy_name(plan.policies[0])}"
    config, card = plan.config, plan.card
    about = {
        "data": card.name, "path": str(plan.path), "env": bench.arena.name if bench.arena else "", "method": method,
        "box": bench.arena.box if bench.arena else None,
        "goals": config.goals, "budget": config.budget, "seeds": config.seeds, "steps": config.steps,
        "hidden": list(config.hidden), "episodes": config.episodes, "gamma": config.gamma, "sizes": list(plan.sizes),
        "batch_size": plan.values[0].batch_size, "lr": plan.values[0].lr, "traded": plan.traded,
        "cells": len(cells), "unit": next((t["unit"] for t in found.values() if t["unit"]), ""),
    }  # fmt: skip
    return plain(
        {
            "about": about,
            "card": {
                "how": card.how, "sizes": card.sizes, "coverage": card.coverage, "optimality": card.optimality,
                "notes": list(card.notes), "sha256": card.sha256,
            },
            "missing": missing(card, plan, bench),
            "matrices": [matrix_of(found, plan, *pair) for pair in reading] if plan.env else [],
            "variance": shares_of(found, plan) if plan.env else None,
            "methods": rows,
            "gaps": gaps(found, plan),
            "expert": bench.expert is not None,
            "alarms": alarms(root, plan, found),
            "failed": failures(root, cells, found),
            "verdict": verdict_of(found, plan, bench),
        }
    )  # fmt: skip
