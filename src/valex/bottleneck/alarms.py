"""What went wrong in training without anybody having said so: values that blow up, policies that no longer see their data.

Every alarm names the number, the threshold and what to change. The thresholds are rules of thumb, ours, but for the first: no
return of rewards up to r in size is larger than r / (1 - gamma).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from valex import store
from valex.bottleneck.plan import Plan, policy_name
from valex.matrix import DIVERGED
from valex.settings.bottleneck import Cell
from valex.trials import cell_name


class Check(NamedTuple):
    """A number that should stay on one side of a threshold."""

    name: str  # as metrics and measures call it
    what: str  # in words, what it means beyond the threshold
    threshold: float
    above: bool  # alarms above the threshold, else below
    remedy: str

    def beyond(self, value: float) -> bool:
        """Return whether a value is beyond the threshold; NaN is not."""
        return value > self.threshold if self.above else value < self.threshold


VALUE_CHECKS = (
    Check(
        "value/q_over_bound", "|Q| is larger than any return of these rewards can be", 1.0, True,
        "lower --lr, or take more data",
    ),
    Check(
        "q_growth", "max |Q| still grew in the last quarter of training", 1.5, True,
        "train longer if it levels off (--steps), else lower --lr",
    ),
)  # fmt: skip
POLICY_CHECKS = (
    Check(
        "policy/ess_share", "AWR in effect sees few rows of a batch", 0.1, False,
        "lower --alpha: weights are exp(alpha x advantage), in the unit of the rewards",
    ),
    Check(
        "policy/clip_share", "weights at the bound: AWR clones whatever is good enough, not the best", 0.1, True,
        "lower --alpha, or scale the rewards down",
    ),
    Check(
        "policy/gradient_ratio", "the value pulls far harder than the data hold", 10.0, True,
        "raise --alpha of --extractor ddpg_bc",
    ),
    Check(
        "policy/gradient_ratio", "the value hardly pulls: this is behaviour cloning", 0.1, False,
        "lower --alpha of --extractor ddpg_bc",
    ),
    Check(
        "policy/outside_share", "mean actions leave the box and are clipped", 0.1, True,
        "raise --alpha of --extractor ddpg_bc",
    ),
    Check(
        "action/outside", "actions beyond all that the data did near there, where Q is a guess", 0.5, True,
        "raise --alpha of --extractor ddpg_bc, lower that of awr, or N of sfbc",
    ),
    Check(
        "fit_gap", "the error to actions of held-out trajectories is well above that of training: it overfits", 1.3, True,
        "more data, a smaller net (--hidden), fewer updates (--steps), or for awr a lower --alpha",
    ),
)  # fmt: skip


def value_folder(root: Path, trial: dict[str, Any]) -> Path | None:
    """Return the folder of the value that a trial's policy was trained on; None where it was trained on none."""
    made_of = store.read_json(root / "policies" / trial["artefacts"]["policy"] / "artefact.json")
    return root / "values" / made_of["value"] if "value" in made_of else None


def value_numbers(folder: Path) -> dict[str, float]:
    """Return the last metrics of a value, and `q_growth`: max |Q| of its last chunk over that of the chunk before."""
    rows = store.read_lines(folder / "metrics.jsonl", "grad_steps")
    if not rows:
        return {}
    sizes = [row.get("value/q_abs_max", np.nan) for row in rows[-2:]]
    growth = {"q_growth": sizes[1] / max(sizes[0], 1e-6)} if len(sizes) == 2 else {}
    return rows[-1] | growth


def policy_numbers(trial: dict[str, Any]) -> dict[str, float]:
    """Return what a trial knows of its policy: metrics of training, measures, and `fit_gap`: held-out over training error."""
    known = trial["training"] | trial["measures"]
    gap = known["fit/val"] / max(known["fit/train"], 1e-9) if known.get("fit/train") is not None else np.nan
    return known | {"fit_gap": gap}


def raised(
    checks: Iterable[Check], groups: dict[tuple, list[dict[str, float]]], describe: Callable
) -> list[dict[str, Any]]:
    """Return an alarm for each group whose mean number is beyond a threshold; groups: key -> the numbers of every seed."""
    found = []
    for check in checks:
        for key, rows in groups.items():
            values = [row[check.name] for row in rows if row.get(check.name) is not None]
            mean = float(np.mean(values)) if values else float("nan")
            if check.beyond(mean):
                side = "above" if check.above else "below"
                where = describe(key) | {"seeds": sum(check.beyond(v) for v in values), "of": len(values)}
                alarm = {"number": check.name, "value": mean, "threshold": check.threshold, "side": side}
                found.append(alarm | where | {"what": check.what, "remedy": check.remedy})
    return found


def alarms(root: Path, plan: Plan, found: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the alarms of values by amount of data, and of policies on all data and on the least."""
    values: dict[tuple, dict[Path, dict[str, float]]] = {}
    policies: dict[tuple, list[dict[str, float]]] = {}
    ends = {plan.sizes[0], plan.sizes[-1]}
    for cell, trial in found.items():
        if cell.test_time is not None:
            continue
        folder = value_folder(root, trial) if cell.value else None
        if cell.value and folder is not None:
            values.setdefault((cell.value.name, cell.value_size), {}).setdefault(folder, value_numbers(folder))
        if cell.policy_size in ends and cell.value_size in (0, cell.policy_size):
            key = (cell.value.name if cell.value else "", policy_name(cell.policy), cell.policy_size)
            policies.setdefault(key, []).append(policy_numbers(trial))
    told = raised(
        VALUE_CHECKS,
        {key: list(rows.values()) for key, rows in values.items()},
        lambda key: {"where": f"value {key[0]}", "size": key[1]},
    )
    return told + raised(
        POLICY_CHECKS,
        policies,
        lambda key: {"where": f"{key[0]} + {key[1]}" if key[0] else key[1], "size": key[2]},
    )


def failures(root: Path, cells: Iterable[Cell], found: dict[Cell, dict[str, Any]]) -> list[dict[str, str]]:
    """Return what did not end in a trial: its name, and why where that is known."""
    missing = [cell_name(cell) for cell in cells if cell not in found]
    said = {name: store.read_json(root / DIVERGED / f"{name}.json").get("message", "not tried") for name in missing}
    return [{"cell": name, "message": message} for name, message in said.items()]
