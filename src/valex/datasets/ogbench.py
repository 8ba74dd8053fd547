"""OGBench's npz: flat arrays, T + 1 rows for T steps, `terminals` 1 on the last row, which holds the final observation.

`<name>-val.npz` beside it is its validation set. We add rewards, terminated and the card under keys of our own, which
OGBench's loader does not look at.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from valex.datasets.base import (
    CARD_KEY,
    NEXT,
    Format,
    Origin,
    boxed,
    built,
    check_numbers,
    cut_at_flags,
    finished,
    with_final,
    without_final,
)
from valex.datasets.card import Card, to_json
from valex.offline.data import DataError, Dataset

KEYS = {"obs": "observations", "action": "actions", "reward": "rewards", "next_obs": "observations"}
COLLECTED = ("navigate", "path", "stitch", "explore", "play", "noisy")  # what OGBench calls kinds of data
OURS = ("rewards", "terminated", CARD_KEY, "valex_extras")


def looks_like(path: Path) -> bool:
    """Return whether a file is a zip archive of npy files, or is called one."""
    return path.is_file() and (path.suffix == ".npz" or zipfile.is_zipfile(path))


def validation_path(path: Path) -> Path:
    """Return where the validation set of `path` lies."""
    return path.with_name(f"{path.stem}-val.npz")


def read(path: Path) -> tuple[Dataset, Card]:
    """Read one npz file. Raises ConfigError, or what `base.naming` turns into one."""
    arrays = _arrays(path)
    for key in ("observations", "actions", "terminals"):
        if key not in arrays:
            raise DataError(
                f"{key}: missing; the file holds {', '.join(arrays) or 'nothing'}; is it an OGBench dataset?"
            )
    final = _final_rows(arrays)
    notes: list[str] = []
    data = _dataset(arrays, final, notes)
    if validation_path(path).is_file():
        notes.append(f"validation set beside it: {validation_path(path).name}")
    text = str(arrays[CARD_KEY]) if CARD_KEY in arrays else None
    env = env_of_name(path.stem.removesuffix("-val"))
    if env and text is None:
        notes.append(f"environment {env['id']} taken from the file's name")
    return data, finished(data, path, Origin("OGBench npz", env), notes, text)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file; none is unpickled, which could run anything. Raises DataError where one would need it."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # as every zip archive begins, also one that was cut
            raise DataError("not an npz file; name a dataset, or get it again")
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            try:
                arrays[key] = file[key]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise DataError(f"{key}: of dtype object; allowed: numbers; save it as float32") from error
    return arrays


def env_of_name(name: str) -> dict[str, Any]:
    """Return the environment of a dataset that is called as OGBench calls its own, {} for another name.

    <env>-<how it was collected>-v0 is of <env>-v0.
    """
    parts = name.split("-")
    known = len(parts) > 2 and parts[-2] in COLLECTED and parts[-1].startswith("v")
    return {"id": "-".join([*parts[:-2], parts[-1]]), "kwargs": {}} if known else {}


def _final_rows(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the rows that end a trajectory, [E]. Raises DataError where keys differ in length or a trajectory is empty."""
    check_numbers(arrays, [key for key in ("observations", "actions", "terminals", "rewards") if key in arrays])
    rows = len(arrays["observations"])
    for key, value in arrays.items():
        if key not in OURS and value.shape[:1] != (rows,):
            count = len(value) if value.ndim else "no"
            raise DataError(f"{key}: {count} rows, observations has {rows}; all keys need the same")
    final = np.flatnonzero(arrays["terminals"] > 0)
    if len(final) == 0 or final[-1] != rows - 1:
        raise DataError(
            f"terminals: row {rows - 1}, the last, does not end its trajectory; the file was cut, get it again"
        )
    short = np.flatnonzero(np.diff(final, prepend=-1) < 2)
    if len(short):
        raise DataError(f"terminals: row {final[short[0]]} ends a trajectory without a step; leave it out")
    return final


def _dataset(arrays: dict[str, np.ndarray], final: np.ndarray, notes: list[str]) -> Dataset:
    """Build the dataset of arrays with final rows."""
    obs, next_obs = without_final(arrays["observations"], final)
    zeros = np.zeros(len(arrays["observations"]))
    if "rewards" not in arrays:
        notes.append("the file holds no rewards: 0 everywhere until a task or goals are drawn")
    steps = {"obs": obs, "next_obs": next_obs}
    for key, value in (("action", arrays["actions"]), ("reward", arrays.get("rewards", zeros))):
        steps[key] = np.delete(value, final, axis=0)
    steps["terminated"] = np.delete(arrays.get("terminated", zeros), final) > 0
    boxed(steps, notes)
    extras = {}
    for name in sorted(set(arrays) - {"observations", "actions", "terminals", *OURS}):
        extras[name], extras[NEXT + name] = without_final(arrays[name], final)
    if "valex_extras" in arrays:
        kept = set(arrays["valex_extras"].tolist())
        extras = {name: value for name, value in extras.items() if name in kept}
    offsets = np.concatenate([[0], final + 1 - np.arange(1, len(final) + 1)])

    def place(row: int, successor: bool) -> str:
        return f"row {np.delete(np.arange(final[-1] + 1), final)[row] + successor}"

    return built(steps, cut_at_flags(offsets, steps["terminated"], notes), extras, KEYS, place)


def write(part: Path, data: Dataset, card: Card, name: str) -> None:
    """Write the file `part`."""
    rows, final = with_final(data)
    terminals = np.zeros(len(rows["obs"]), bool)
    terminals[final] = True
    reserved = {"observations", "actions", "terminals", *OURS}
    if taken := reserved & set(data.extras):
        raise DataError(f"extras.{min(taken)}: a key that the format uses itself; rename it")
    arrays: Any = {
        "observations": rows.pop("obs"),
        "actions": rows.pop("action"),
        "terminals": terminals,
        "rewards": rows.pop("reward"),
        "terminated": rows.pop("terminated"),
        "valex_extras": np.array(sorted(data.extras), dtype=np.str_),
        CARD_KEY: np.array(to_json(card)),
    }
    with open(part, "wb") as file:
        np.savez(file, **(arrays | rows))


OGBENCH = Format(looks_like, read, write, is_folder=False, suffix=".npz")
