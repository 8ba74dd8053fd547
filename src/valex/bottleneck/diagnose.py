"""diagnose_dataset: train and try what a plan asks for, then say where the method falls short, and write the report."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from valex.bottleneck.numbers import measure
from valex.bottleneck.plan import Plan, cells_of, make_plan
from valex.datasets import files
from valex.datasets.card import checksum, make_card
from valex.experts import env_of
from valex.fields import ConfigError
from valex.matrix import jobs
from valex.offline.data import Dataset
from valex.report.dataset_diagnosis import write_dataset_diagnosis
from valex.report.dataset_words import sentences
from valex.settings.dataset_diagnosis import DatasetDiagnosisConfig
from valex.trials import Bench, arena_of, opened, trial_path
from valex.workers import Stop, Summary, do_all

NO_ENV = "none"
CHUNKS = 4  # checkpoints of a phase of training, at least
LARGEST_CHUNK = 10_000  # updates


class Diagnosed(NamedTuple):
    """How a diagnosis ended."""

    numbers: dict[str, Any]  # {} where it was stopped
    text: list[str]
    page: Path | None
    summary: Summary  # how every cell ended that this call had to make


def prepared(path: Path, env: str | None, config: DatasetDiagnosisConfig) -> tuple[Plan, Bench]:
    """Return the plan of a diagnosis; env: an id, "none", or None for the dataset's own. As `make_plan`."""
    if not path.exists():
        raise ConfigError(f"{path}: there is nothing; name an existing dataset")
    _, card = opened(path)
    where = "" if env == NO_ENV else env_of(card, env)
    if where:
        arena_of(where, config.goals != "none")  # said before the data are split and put on the device
    return make_plan(path, where, config)


def left(plan: Plan, root: Path) -> int:
    """Return how many cells have no trial yet."""
    return sum(not trial_path(root, cell).is_file() for cell in cells_of(plan))


def train(plan: Plan, root: Path, cores: list[list[int]], progress: Callable[[dict], None]) -> Summary:
    """Train and try every cell that has no trial, in one worker for each entry of `cores`, in this process for []."""
    chunk = min(LARGEST_CHUNK, max(1, -(-plan.config.steps // CHUNKS)))
    beside = jax.default_backend() != "cpu"
    todo, summary = jobs(root, plan.path, cells_of(plan), beside, chunk), Summary()
    with Stop() as stop:
        do_all(todo, cores, progress, stop, summary)
    summary.signal = stop.signal
    return summary


def finish(plan: Plan, bench: Bench, root: Path, summary: Summary) -> Diagnosed:
    """Measure and write the report, unless training was stopped. Raises StoreError where a stored trial is damaged, OSError."""
    if summary.exit_code() in (75, 130):
        return Diagnosed({}, [], None, summary)
    numbers = measure(root, plan, bench)
    page = write_dataset_diagnosis(numbers, root / "report")
    return Diagnosed(numbers, sentences(numbers), page.resolve(), summary)


def kept(data: Dataset, out: Path) -> Path:
    """Write a dataset that is in memory below `out`, unless it is there; return where it lies. Raises ConfigError."""
    path = out / "data"
    if not path.exists() or files.read(path)[1].sha256 != checksum(data):
        files.write(path, data, make_card(data, "in-memory", "given as arrays"))
    return path


def diagnose_dataset(
    data: Path | str | Dataset,
    out: Path | str,
    config: DatasetDiagnosisConfig | None = None,
    env: str | None = None,
    cores: list[list[int]] | None = None,
    progress: Callable[[dict], None] = lambda event: None,
) -> Diagnosed:
    """Find out where an offline method falls short on a dataset: its value, its extraction or its generalisation.

    data: a file or folder of any format, or a record of `from_arrays`. out: folder of everything that is trained and of
    report/; the same call again trains nothing. env: an id of Gymnasium, dm_control/<domain> or one of our own, "none" for
    none, None for what the dataset's card names. cores: one worker process for each list of cores, which it may use; None
    does everything in this process, as an environment that only this process has registered needs.

    S = J* - J, and for each part g = J(part swapped) - J, seeds paired (`offline.shortfall`). Scores are percent where the
    task says when it is solved or the card has reference returns, else returns. Raises ConfigError where something cannot be,
    StoreError where stored files are damaged, OSError if the disk cannot be written. Question: 2406.09329; arithmetic: ours.
    """
    root, config = Path(out), config or DatasetDiagnosisConfig()
    path = kept(data, root) if isinstance(data, Dataset) else Path(data)
    plan, bench = prepared(path, env, config)
    return finish(plan, bench, root, train(plan, root, cores or [], progress))


def default_out(path: Path) -> Path:
    """Return where the report of a dataset goes that nobody has named a folder for."""
    return Path("runs/diagnosis") / re.sub(r"\.(npz|hdf5|h5)$", "", path.resolve().name)
