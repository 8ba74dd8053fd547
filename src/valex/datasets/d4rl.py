"""D4RL's HDF5 or dict: one row a step, terminals and timeouts, infos beside them. The d4rl package is never imported.

A trajectory ends at a terminal, at a timeout, and where next_observations is not the observation of the row behind it by
more than 1e-6. Files without next_observations have lost the successor of a row that timed out: it is left out.
"""

from pathlib import Path
from typing import Any

import numpy as np

from valex.datasets.base import (
    CARD_KEY,
    SIGNATURE,
    Format,
    Origin,
    boxed,
    built,
    check_hdf5,
    check_numbers,
    finished,
    need,
    new_hdf5,
)
from valex.datasets.card import Card, to_json
from valex.offline.data import DataError, Dataset

JUMP = 1e-6  # Euclidean norm of obs[i + 1] - next_obs[i] beyond which another trajectory has begun
KEYS = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminated": "terminals",
}
INFOS = "infos/"


def looks_like(path: Path) -> bool:
    """Return whether a file begins as HDF5 does, or is called so."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE or path.suffix in (".hdf5", ".h5")


def read(path: Path) -> tuple[Dataset, Card]:
    """Read one HDF5 file. Raises ConfigError, or what `base.naming` turns into one."""
    h5py = need("h5py")
    check_hdf5(path)
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("metadata/"):
                arrays[name] = item[()]

        file.visititems(visit)
        text = file.attrs.get(CARD_KEY)
    notes: list[str] = []
    data = from_dict(arrays, notes, flags_only=text is not None)
    return data, finished(data, path, Origin("D4RL HDF5"), notes, text)


def from_dict(arrays: dict[str, Any], notes: list[str], flags_only: bool = False) -> Dataset:
    """Build the dataset of D4RL's dict; what had to be derived goes into `notes`.

    flags_only: trajectories end at terminals and timeouts alone. Raises DataError naming D4RL's key and row.
    """
    for key in ("observations", "actions", "rewards", "terminals"):
        if key not in arrays:
            raise DataError(
                f"{key}: missing; there are {', '.join(sorted(arrays)) or 'no keys'}; is it a D4RL dataset?"
            )
    wanted = [key for key in (*KEYS.values(), "timeouts") if key in arrays]
    check_numbers(arrays, wanted)
    rows = len(arrays["observations"])
    for key in [key for key in arrays if key in wanted or key.startswith(INFOS)]:
        if np.shape(arrays[key])[:1] != (rows,):
            count = len(arrays[key]) if np.ndim(arrays[key]) else "no"
            raise DataError(f"{key}: {count} rows, observations has {rows}; all keys need the same")
    terminals = np.asarray(arrays["terminals"]).reshape(rows).astype(bool)
    ends = terminals | np.asarray(arrays.get("timeouts", np.zeros(rows))).reshape(rows).astype(bool)
    if "timeouts" not in arrays:
        notes.append("the file holds no timeouts: trajectories end at terminals and where observations jump")
    obs = np.asarray(arrays["observations"])
    if "next_observations" in arrays:
        following, kept = np.asarray(arrays["next_observations"]), np.ones(rows, bool)
        if not flags_only and obs.ndim == 2 and obs.shape == following.shape:
            ends[:-1] |= _jumps(obs, following, ends, notes)
    else:
        following = np.where(ends[:, None], obs, np.roll(obs, -1, axis=0)) if obs.ndim == 2 else obs
        kept = ~ends | terminals
        kept[-1] = terminals[-1]
        notes.append(
            f"next_observations derived from the row behind; {rows - int(kept.sum())} rows without a successor left out, "
            "those that terminated (never bootstrapped from) have their own observation as successor"
        )
    ends[-1] = True
    return _cut(arrays, ends, kept, {"next_obs": following, "terminated": terminals}, notes)


def _jumps(obs: np.ndarray, following: np.ndarray, ends: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return which rows but the last, [N - 1] bool, are not followed by their successor though no flag `ends` [N] them.

    Raises DataError where most are: no collection does that, so the column is another one than it is called.
    """
    jumps = (np.linalg.norm(obs[1:] - following[:-1], axis=-1) > JUMP) & ~ends[:-1]
    count, unflagged = int(jumps.sum()), int(np.sum(~ends[:-1]))
    if 2 * count > unflagged:
        raise DataError(
            f"next_observations: row {np.flatnonzero(jumps)[0]} is not the observation of the row behind, nor are {count} "
            f"of {unflagged} rows that no flag ends; is it shifted or normalised? mend it, or leave it out to have it derived"
        )
    if count:
        notes.append(
            f"trajectories end at {int(ends.sum())} rows by terminals and timeouts, and at {count} more whose "
            "next_observations is not the observation of the row behind"
        )
    return jumps


def _cut(arrays: dict, ends: np.ndarray, kept: np.ndarray, known: dict, notes: list[str]) -> Dataset:
    """Build the dataset of the rows `kept` of trajectories that end at `ends`, both [N] bool."""
    trajectory = np.cumsum(ends) - ends  # of every row
    lengths = np.bincount(trajectory[kept], minlength=trajectory[-1] + 1)
    steps = {ours: np.asarray(arrays[theirs]) for ours, theirs in KEYS.items() if theirs in arrays} | known
    steps["reward"] = steps["reward"].reshape(len(ends))
    steps = {key: value[kept] for key, value in steps.items()}
    boxed(steps, notes)
    extras = {key.removeprefix(INFOS): arrays[key][kept] for key in sorted(arrays) if key.startswith(INFOS)}
    offsets = np.concatenate([[0], np.cumsum(lengths[lengths > 0])])
    place = None if kept.all() else lambda row, _: f"row {np.flatnonzero(kept)[row]}"
    return built(steps, offsets, extras, KEYS, place)


def to_dict(data: Dataset) -> dict[str, np.ndarray]:
    """Return D4RL's dict of a dataset; extras are infos."""
    arrays = {theirs: np.asarray(getattr(data, ours)) for ours, theirs in KEYS.items()}
    arrays["timeouts"] = np.asarray(data.truncated)
    return arrays | {INFOS + name: np.asarray(value) for name, value in data.extras.items()}


def write(part: Path, data: Dataset, card: Card, name: str) -> None:
    """Write the file `part`."""
    with new_hdf5(part) as file:
        for key, value in to_dict(data).items():
            file.create_dataset(key, data=value)
        file.attrs[CARD_KEY] = to_json(card)


D4RL = Format(looks_like, read, write, is_folder=False, suffix=".hdf5")
