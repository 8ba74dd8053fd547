"""What is known of a dataset before extractors are compared on it, for a rule that picks one (`offline/extraction_rule.py`).

No episode is played: the value, a cloned policy and one of AWR are trained, and looked at on the data.

<root>/facts/<name>.json   the features by their names, null for what is not known; <name> is that of the cell of AWR
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from valex import store
from valex.agents.common import smallest
from valex.artefacts import Hooks, PolicyAsk, obtain
from valex.diagnostics.policy_errors import action_error
from valex.fields import ConfigError
from valex.matrix import attempt, stopping
from valex.offline.coverage import knn_radius
from valex.offline.extraction_rule import FEATURE_NAMES, dataset_features
from valex.settings.bottleneck import Cell
from valex.settings.offline import AWRConfig, BCConfig
from valex.trials import ROWS, actor, asks, bench_of, cell_name, last_metrics, rows_of, seen_rows
from valex.workers import Job

FAILED = "facts/failed"  # what could not be described, one file each: why
NEAREST, STATES = 10, 4_000  # k, and how many states of the data are looked at: half of them ask, half answer


def dataset_facts(root: Path, path: Path, cell: Cell, hooks: Hooks) -> np.ndarray:
    """Return the features of the data that a cell of AWR sees, [F] in the order of `extraction_rule.FEATURE_NAMES`.

    Coverage is the median distance of a state to its 10th nearest of 2,000 others, in standard deviations over sqrt(obs_dim), so
    that tasks can be compared. All extractors of one task share these numbers, whatever their alpha. Raises ConfigError for a
    cell without a value or of another extractor, and as `trials.try_cell`.
    """
    if cell.value is None or not isinstance(cell.policy, AWRConfig):
        raise ConfigError(
            f"policy.name: {cell.policy.name}; what is known of data is read off a cell of awr over a value"
        )
    bench, ask = bench_of(path, cell), asks(cell)
    assert ask.over is not None
    seen = seen_rows(bench, cell)
    fit = {name: getattr(cell.policy, name) for name in ("hidden", "activation", "lr", "batch_size", "steps", "goals")}
    cloned = obtain(root, bench.source, PolicyAsk(cell.policy_size, BCConfig(**fit, seed=cell.seed)), hooks)
    weighted = obtain(root, bench.source, ask, hooks)
    held = rows_of(cell.policy, bench.held_raw, ROWS, cell.seed)
    goal = np.asarray(held.goal) if len(held.goal) else ()
    error = action_error(actor(bench, cloned)(np.asarray(held.obs), goal), np.asarray(held.action)).mse
    value = obtain(root, bench.source, ask.over, hooks)
    rows = rows_of(cell.policy, bench.source.data, ROWS, cell.seed, seen)
    q = smallest(value.parts.q(value.phase.learner, rows.obs, rows.action, rows.goal))
    return dataset_features(
        seen, _radius(bench.raw.obs[:seen], cell.seed), error, last_metrics(weighted.path), float(q.std())
    )


def _radius(obs: np.ndarray, seed: int) -> float:
    """Return how far apart states lie, NaN where there are too few."""
    chosen = np.random.default_rng(seed).permutation(len(obs))[:STATES]
    ask, answer = np.array_split(obs[chosen], 2)
    if len(answer) < NEAREST:
        return float("nan")
    return float(np.median(knn_radius(ask, answer, NEAREST))) / obs.shape[1] ** 0.5


def facts_path(root: Path, cell: Cell) -> Path:
    """Return where the features of the data that a cell of AWR sees lie."""
    return root / "facts" / f"{cell_name(cell)}.json"


def obtain_facts(root: Path, path: Path, cell: Cell, hooks: Hooks) -> np.ndarray:
    """Return the features of `dataset_facts` [F]: read if they are there, else found now and kept. Raises as that does."""
    place = facts_path(root, cell)
    if not store.read_json(place):
        known = zip(FEATURE_NAMES, dataset_facts(root, path, cell, hooks).tolist(), strict=True)
        features = {name: value if math.isfinite(value) else None for name, value in known}
        place.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(place, {"cell": asdict(cell), "features": features})
    return read_facts(root, cell)


def read_facts(root: Path, cell: Cell) -> np.ndarray:
    """Return the features of `dataset_facts` that are kept, [F]; NaN for what is not known. Raises StoreError if damaged."""
    kept = store.read_json(facts_path(root, cell)).get("features", {})
    return np.array([math.nan if kept.get(name) is None else float(kept[name]) for name in FEATURE_NAMES])


def jobs(root: Path, path: Path, cells: Iterable[Cell]) -> list[Job]:
    """Return what is left to describe, a job for each cell, whose shape is that of its trial."""
    return [
        Job(
            (f"facts {cell_name(cell)}",),
            ((str(path), cell.value, cell.policy.goals), 0),
            partial(work, root, path, cell),
        )
        for cell in cells
        if not store.read_json(facts_path(root, cell))
    ]


def work(
    root: Path, path: Path, cell: Cell, stop: Callable[[], bool], progress: Callable[[dict], None]
) -> dict[str, tuple[str, str]]:
    """Describe the data that a cell sees; return a name -> (state, message)."""
    name = cell_name(cell)
    ended = attempt(root / FAILED, name, lambda: obtain_facts(root, path, cell, Hooks(tell=stopping(stop))), stop)
    if ended[0] != "interrupted":
        progress({"run": f"facts {name}", "phase": "cell", "env_steps": 1, "total": 1, "return": None})
    return {f"facts {name}": ended}
