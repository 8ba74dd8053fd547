"""Minari's folder: data/main_data.hdf5 with one group an episode, data/metadata.json beside it. Read straight, in one pass.

observations and infos have T + 1 rows, the last one final; terminations and truncations are apart. Minari's own iterator
makes an object an episode; here every array is read into its place in one flat array (benchmarks/minari_loading.py).
"""

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from valex.datasets.base import (
    CARD_KEY,
    NEXT,
    Format,
    Origin,
    boxed,
    built,
    check_hdf5,
    cut_at_flags,
    finished,
    need,
    new_hdf5,
    with_final,
    without_final,
)
from valex.datasets.card import Card, to_json
from valex.fields import ConfigError
from valex.offline.data import DataError, Dataset

DATA, MAIN, METADATA = "data", "main_data.hdf5", "metadata.json"
WRITTEN_FOR = "0.5.4"  # Minari's version that we say to have written for where it is not installed
FLAGS = ("rewards", "terminations", "truncations")
KEYS = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "observations",
    "terminated": "terminations",
}


class Episodes(NamedTuple):
    """What a file calls its E episodes, and how many steps each has."""

    names: list[str]
    lengths: np.ndarray  # [E] int

    def place(self, row: int, successor: bool) -> str:
        """Return where the file has a row of all steps end to end; that of a successor is the row behind it."""
        ends = np.cumsum(self.lengths)
        e = int(np.searchsorted(ends, row, side="right"))
        return f"row {row - ends[e] + self.lengths[e] + successor} of {self.names[e]}"


def data_folder(path: Path) -> Path:
    """Return the folder that holds the two files: `path`, or data/ below it."""
    return path / DATA if (path / DATA / MAIN).is_file() else path


def looks_like(path: Path) -> bool:
    """Return whether a folder holds main_data.hdf5."""
    return (data_folder(path) / MAIN).is_file()


def read(path: Path) -> tuple[Dataset, Card]:
    """Read one folder. Raises ConfigError, or what `base.naming` turns into one."""
    h5py, folder = need("h5py"), data_folder(path)
    metadata = json.loads((folder / METADATA).read_text())
    notes: list[str] = []
    check_hdf5(folder / MAIN)
    with h5py.File(folder / MAIN, "r") as file:
        names = _names(file)
        arrays, lengths = _episodes(h5py, file, names)
        text, kept = file.attrs.get(CARD_KEY), file.attrs.get("valex_extras")
    data = _dataset(arrays, Episodes(names, lengths), metadata, kept, notes)
    return data, finished(data, path, _origin(metadata), notes, text)


def _origin(metadata: dict) -> Origin:
    """Return the environment and the reference scores that the metadata name, as far as they do."""
    text, low, high = (metadata.get(key) for key in ("env_spec", "ref_min_score", "ref_max_score"))
    spec = json.loads(text) if isinstance(text, str) else {}
    env = {"id": spec["id"], "kwargs": spec.get("kwargs") or {}} if isinstance(spec, dict) and spec.get("id") else {}
    if env and spec.get("max_episode_steps"):
        env["kwargs"] = env["kwargs"] | {"max_episode_steps": spec["max_episode_steps"]}
    scores = all(isinstance(score, int | float) for score in (low, high))
    return Origin("Minari HDF5", env, (float(low), float(high)) if scores and low != high else None)  # pyright: ignore


def _names(file: Any) -> list[str]:
    """Return the names of the episodes in their order."""
    names = sorted((name for name in file if name.startswith("episode_")), key=lambda name: int(name.split("_")[1]))
    if not names:
        raise DataError("episode_0: missing; the file holds no episodes")
    return names


def _episodes(h5py: Any, file: Any, names: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return every array of the file, episodes end to end, and the number of steps of each episode [E]."""
    leaves: list[str] = []
    file[names[0]].visititems(lambda name, item: leaves.append(name) if isinstance(item, h5py.Dataset) else None)
    for key in ("actions", *FLAGS):
        if key not in leaves:
            raise DataError(f"{key}: missing in {names[0]}, which holds {', '.join(leaves) or 'nothing'}")
    if not any(leaf.split("/")[0] == "observations" for leaf in leaves):
        raise DataError(f"observations: missing in {names[0]}, which holds {', '.join(leaves)}")
    found = _opened(h5py, file, names, leaves)
    arrays = {leaf: _column(h5py, names, leaf, found[leaf]) for leaf in leaves}
    lengths = arrays["rewards"][1]
    for leaf, (_, counts) in arrays.items():
        expected = lengths + (leaf.split("/")[0] in ("observations", "infos"))
        wrong = np.flatnonzero(counts != expected)
        if len(wrong):
            e = wrong[0]
            raise DataError(
                f"{leaf}: {counts[e]} rows in {names[e]}, {expected[e]} are needed for {lengths[e]} rewards"
            )
    short = np.flatnonzero(lengths < 1)
    if len(short):
        raise DataError(f"rewards: {names[short[0]]} is empty; leave the episode out")
    return {leaf: values for leaf, (values, _) in arrays.items()}, lengths


def _opened(h5py: Any, file: Any, names: list[str], leaves: list[str]) -> dict[str, list]:
    """Return every leaf of every episode, opened by HDF5's own calls; each episode is looked up once."""
    found: dict[str, list] = {leaf: [] for leaf in leaves}
    for name in names:
        group = h5py.h5g.open(file.id, name.encode())
        for leaf, sets in found.items():
            try:
                sets.append(h5py.h5d.open(group, leaf.encode()))
            except KeyError:
                raise DataError(f"{leaf}: missing in {name}") from None
    return found


def _column(h5py: Any, names: list[str], leaf: str, sets: list) -> tuple[np.ndarray, np.ndarray]:
    """Return one leaf of all episodes end to end, read into one array, and its rows in each."""
    shapes = [s.shape for s in sets]
    odd = [i for i, shape in enumerate(shapes) if shape[1:] != shapes[0][1:] or not shape]
    if odd:
        raise DataError(f"{leaf}: shape {shapes[odd[0]]} in {names[odd[0]]}, {shapes[0]} in {names[0]}")
    if not leaf.startswith("infos/") and sets[0].dtype.kind not in "biuf":
        raise DataError(f"{leaf}: of dtype {sets[0].dtype} in {names[0]}; allowed: numbers")
    counts = np.array([shape[0] for shape in shapes])
    values = np.empty((counts.sum(), *shapes[0][1:]), sets[0].dtype)
    start = 0
    for one, count in zip(sets, counts, strict=True):
        if count:
            one.read(h5py.h5s.ALL, h5py.h5s.ALL, values[start : start + count])
        start += count
    return values, counts


def _dataset(arrays: dict, episodes: Episodes, metadata: dict, kept: str | None, notes: list[str]) -> Dataset:
    """Build the dataset of episodes end to end."""
    final = np.cumsum(episodes.lengths + 1) - 1
    infos = {name.removeprefix("infos/"): rows for name, rows in arrays.items() if name.startswith("infos/")}
    infos = {name: rows for name, rows in infos.items() if np.issubdtype(rows.dtype, np.number) or rows.dtype == bool}
    observations = {name: rows for name, rows in arrays.items() if name.split("/")[0] == "observations"}
    obs, goals = _flat_observations(observations, notes)
    extras = {}
    for name, rows in (infos | goals).items():
        extras[name], extras[NEXT + name] = without_final(rows, final)
    if kept is not None:
        extras = {name: value for name, value in extras.items() if name in json.loads(kept)}
    steps = dict(zip(("obs", "next_obs"), without_final(obs, final), strict=True))
    terminated, cut = arrays["terminations"].astype(bool), arrays["truncations"].astype(bool)
    steps |= {"action": arrays["actions"], "reward": arrays["rewards"], "terminated": terminated}
    if steps["action"].ndim == 1:
        raise DataError("actions: a single number each, so discrete; allowed: a Box of actions, [T, act_dim]")
    _rescale(steps, metadata, notes)
    offsets = np.concatenate([[0], np.cumsum(episodes.lengths)])
    open_ends = int(np.sum(~(terminated | cut)[offsets[1:] - 1]))
    if open_ends:
        notes.append(f"{open_ends} episodes end without a flag and count as truncated")
    return built(steps, cut_at_flags(offsets, terminated | cut, notes), extras, KEYS, episodes.place)


def _flat_observations(leaves: dict[str, np.ndarray], notes: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return (observations [N + E, d], goals by name): of a dict the entry `observation`, or all entries by name."""
    if list(leaves) == ["observations"]:
        return leaves["observations"], {}
    parts = {name.removeprefix("observations/"): rows for name, rows in leaves.items()}
    if {"observation", "desired_goal"} <= set(parts):
        notes.append("of the dict of observations, `observation` is obs; achieved_goal and desired_goal are extras")
        return parts["observation"], {name: rows for name, rows in parts.items() if name.endswith("_goal")}
    notes.append(f"obs is the dict of observations end to end, by name: {', '.join(sorted(parts))}")
    return np.concatenate([parts[name].reshape(len(parts[name]), -1) for name in sorted(parts)], axis=1), {}


def _rescale(steps: dict[str, np.ndarray], metadata: dict, notes: list[str]) -> None:
    """Bring actions from the box that the metadata names into [-1, 1], in place; say so in `notes`."""
    space = json.loads(metadata["action_space"]) if isinstance(metadata.get("action_space"), str) else {}
    if space.get("type") == "Box":
        low, high = np.asarray(space["low"], np.float64), np.asarray(space["high"], np.float64)
        bounded = np.isfinite(low).all() and np.isfinite(high).all() and bool((high > low).all())
        if bounded and not (np.all(low == -1.0) and np.all(high == 1.0)):
            notes.append(f"actions rescaled from [{low.tolist()}, {high.tolist()}] to [-1, 1]")
            steps["action"] = (2.0 * (steps["action"] - low) / (high - low) - 1.0).astype(np.float32)
    boxed(steps, notes)


def write(part: Path, data: Dataset, card: Card, name: str) -> None:
    """Write the folder `part`, which `minari.load_dataset(name)` opens where MINARI_DATASETS_PATH is its parent."""
    if not re.fullmatch(r"[-_\w]+-v\d+", name):
        right = re.sub(r"[^-_\w]", "_", re.sub(r"-v\d+$", "", name))
        raise ConfigError(
            f"{name}: Minari's names are letters, digits, - and _, then a version; name the folder {right}-v0"
        )
    rows, final = with_final(data)
    (part / DATA).mkdir(parents=True)
    offsets = np.asarray(data.offsets)
    starts = np.concatenate([[0], final[:-1] + 1])
    infos = {key: value for key, value in rows.items() if key not in ("obs", "action", "reward", "terminated")}
    flags = {"terminations": data.terminated, "truncations": data.truncated, "rewards": data.reward}
    with new_hdf5(part / DATA / MAIN) as file:
        for e, (begin, end) in enumerate(zip(starts, final + 1, strict=True)):
            group, steps = file.create_group(f"episode_{e}"), slice(offsets[e], offsets[e + 1])
            group.attrs["id"], group.attrs["total_steps"] = e, int(offsets[e + 1] - offsets[e])
            group["observations"] = rows["obs"][begin:end]
            group["actions"] = np.asarray(data.action)[steps]
            for key, value in flags.items():
                group[key] = np.asarray(value)[steps]
            for key, value in infos.items():
                group[f"infos/{key}"] = value[begin:end]
        file.attrs[CARD_KEY], file.attrs["valex_extras"] = to_json(card), json.dumps(sorted(data.extras))
    (part / DATA / METADATA).write_text(json.dumps(_metadata(part, data, card, name)))


def _metadata(part: Path, data: Dataset, card: Card, name: str) -> dict[str, Any]:
    """Return what Minari asks of metadata.json."""
    try:
        minari_version = version("minari")
    except PackageNotFoundError:
        minari_version = WRITTEN_FOR

    def box(dim: int, bound: float) -> str:
        low, high = [-bound] * dim, [bound] * dim
        return json.dumps({"type": "Box", "dtype": "float32", "shape": [dim], "low": low, "high": high})

    return {
        "dataset_id": name,
        "minari_version": minari_version,
        "data_format": "hdf5",
        "jpeg_encoding": True,
        "total_episodes": len(data.offsets) - 1,
        "total_steps": len(data.obs),
        "dataset_size": (part / DATA / MAIN).stat().st_size / 1e6,
        "observation_space": box(data.obs.shape[1], float("inf")),
        "action_space": box(data.action.shape[1], 1.0),
        "description": card.how,
        "algorithm_name": str(card.generator.get("kind", "")),
    }


MINARI = Format(looks_like, read, write, is_folder=True)
