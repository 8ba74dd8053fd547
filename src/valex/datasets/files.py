"""Read and write datasets, whatever their format: read(path) -> (Dataset, Card), write(path, data, card, format)."""

import os
from dataclasses import replace
from pathlib import Path

from valex.datasets.base import Format, naming, write_whole
from valex.datasets.card import Card, checksum
from valex.datasets.ogbench import validation_path
from valex.fields import ConfigError
from valex.offline.data import DataError, Dataset, check, split_trajectories, take_trajectories
from valex.tables import FORMATS, load


def detect(path: Path) -> str:
    """Return the name of the format of what is at `path`, by names and first bytes. Raises ConfigError if it is none."""
    with naming(path):
        if not path.exists():
            raise ConfigError(f"{path}: there is nothing; name an existing dataset")
        if path.is_file() and path.stat().st_size == 0:
            raise ConfigError(f"{path}: the file is empty; get it again")
        if path.is_dir():
            os.listdir(path)  # or say that permission is denied
        for name in FORMATS:
            if load(FORMATS, name).looks_like(path):
                return name
    what = "folder" if path.is_dir() else "file"
    raise ConfigError(f"{path}: this {what} is no dataset; known are {', '.join(FORMATS)}")


def read(path: Path | str) -> tuple[Dataset, Card]:
    """Return the dataset at `path` and its card, which is measured now where the file carries none.

    Raises ConfigError, one line that names file, key and row and says what to do.
    """
    path = Path(path)
    chosen: Format = load(FORMATS, detect(path))
    with naming(path):
        return chosen.read(path)


def write(path: Path | str, data: Dataset, card: Card, format: str = "native") -> Path:
    """Write a dataset whole or not at all; return where it lies.

    Raises ConfigError where the place cannot be written or the format cannot hold the data, OSError if the disk is full.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ConfigError(f"format: {format!r} is not known; choose one of {', '.join(FORMATS)}")
    chosen: Format = load(FORMATS, format)
    if path.exists() and (path.is_dir() != chosen.is_folder or not _may_replace(path)):
        raise ConfigError(f"{path}: is there already and no {format} dataset; name another path")
    if chosen.suffix and path.suffix != chosen.suffix:
        raise ConfigError(f"{path}: a dataset of format {format} is a file that ends in {chosen.suffix}")
    try:
        check(data)
    except DataError as error:
        raise ConfigError(f"{path}: nothing written; {error}") from error
    card = card if card.sha256 == checksum(data) else replace(card, sha256=checksum(data))
    write_whole(path, lambda part: chosen.write(part, data, card, path.name))
    return path


def _may_replace(path: Path) -> bool:
    """Return whether what is at `path` is a dataset, or nothing at all: anything else is not ours to remove."""
    if path.is_dir() and not any(path.iterdir()):
        return True
    return any(load(FORMATS, name).looks_like(path) for name in FORMATS)


def write_pair(path: Path | str, data: Dataset, card: Card, share: float) -> tuple[Path, Path]:
    """Write OGBench's pair, <name>.npz and <name>-val.npz: `share` of the trajectories, drawn by seed 0, are the latter."""
    path = Path(path)
    try:
        train, held = split_trajectories(data, share, 0)
    except DataError as error:
        raise ConfigError(f"{path}: {error}") from error
    parts = [take_trajectories(data, which) for which in (train, held)]
    note = f"{len(held)} of {len(held) + len(train)} trajectories are the validation set"
    cards = [replace(card, sizes=_sizes(part), notes=(*card.notes, note)) for part in parts]
    paths = path, validation_path(path)
    for place, part, its in zip(paths, parts, cards, strict=True):
        write(place, part, its, "ogbench")
    return paths


def _sizes(data: Dataset) -> dict[str, int]:
    sizes = {"transitions": len(data.obs), "trajectories": len(data.offsets) - 1}
    return sizes | {"obs_dim": data.obs.shape[1], "act_dim": data.action.shape[1]}
