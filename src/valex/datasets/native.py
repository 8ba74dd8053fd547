"""Our own store: a folder with arrays.safetensors and card.json. Exact, and read at the speed of the disk."""

import json
from pathlib import Path

import numpy as np

from valex.datasets.base import Format
from valex.datasets.card import Card, checksum, from_json, to_json
from valex.fields import ConfigError
from valex.offline.data import Dataset

ARRAYS, CARD = "arrays.safetensors", "card.json"
EXTRA = "extras."
TYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}  # safetensors' names for numpy's
TYPES |= {f"{sign}{bits}": f"<{sign.lower()}{bits // 8}" for sign in "UI" for bits in (16, 32, 64)}


def looks_like(path: Path) -> bool:
    """Return whether a folder holds the two files."""
    return (path / ARRAYS).is_file() and (path / CARD).is_file()


def mapped(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file without copying them: their pages are the file's until they are written to.

    Eight bytes with the length of a JSON header, the header (type, shape and place of every array), the arrays.
    Raises ValueError, KeyError or TypeError where it is no such file or ends too soon.
    """
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    body = np.asarray(np.memmap(file, np.uint8, mode="c"))[8 + length :]
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            if end > len(body):
                raise ValueError(f"{name} ends behind the end of the file")
            arrays[name] = body[begin:end].view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def read(path: Path) -> tuple[Dataset, Card]:
    """Read a folder. Raises ConfigError, or what `base.naming` turns into one."""
    card = from_json((path / CARD).read_text(), str(path / CARD))
    try:
        arrays = mapped(path / ARRAYS)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path / ARRAYS}: truncated or damaged ({error}); make the dataset again") from error
    extras = {name.removeprefix(EXTRA): value for name, value in arrays.items() if name.startswith(EXTRA)}
    missing = [key for key in Dataset._fields if key != "extras" and key not in arrays]
    if missing:
        raise ConfigError(f"{path / ARRAYS}: {missing[0]} is missing; make the dataset again")
    data = Dataset(**{key: arrays[key] for key in Dataset._fields if key != "extras"}, extras=extras)  # pyright: ignore
    if checksum(data) != card.sha256:
        raise ConfigError(f"{path / ARRAYS}: its sha256 is not that of {CARD}; make the dataset again")
    return data, card  # the arrays are those that were checked when they were written


def write(part: Path, data: Dataset, card: Card, name: str) -> None:
    """Write the folder `part`."""
    from safetensors.numpy import save

    part.mkdir()
    arrays = {key: np.ascontiguousarray(getattr(data, key)) for key in Dataset._fields if key != "extras"}
    arrays |= {EXTRA + key: np.ascontiguousarray(value) for key, value in data.extras.items()}
    (part / ARRAYS).write_bytes(
        save(arrays)
    )  # save_file hides a full disk in an error of its own, and ignores the umask
    (part / CARD).write_text(to_json(card) + "\n")


NATIVE = Format(looks_like, read, write, is_folder=True)
