"""What all formats share: errors that name the file, writing that leaves all or nothing, rows with a final observation."""

import errno
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from valex import store
from valex.datasets.card import Card, checksum, from_json, make_card
from valex.fields import ConfigError
from valex.offline.data import BOX_SLACK, DataError, Dataset, from_arrays

DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)  # raised by broken files
CARD_KEY = "valex_card"  # under which other formats carry the card
SIGNATURE = b"\x89HDF\r\n\x1a\n"  # what HDF5 begins with
NEXT = "next_"  # extras of the successor: next_qpos beside qpos, where the final one was recorded as well


class Format(NamedTuple):
    """A way to keep a dataset in files."""

    looks_like: Callable  # (path) -> bool, from names and first bytes alone
    read: Callable  # (path) -> (Dataset, Card)                 raises ConfigError naming file, key and row
    write: Callable  # (part, data, card, name) -> None         into `part`, not there yet, which will be called `name`
    is_folder: bool  # whether a dataset is a folder
    suffix: str = ""  # of the file


def need(module: str) -> Any:
    """Import a package that a format or generator needs. Raises ConfigError with the pip line if it is not installed."""
    warnings.filterwarnings("ignore", message=r".*DISPLAY environment variable is missing")  # nothing is drawn here
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module}: not installed ({error}); pip install 'valex[offline]'") from error


@contextmanager
def naming(path: Path, what: str = "truncated or damaged ({}); mend the file or make it again") -> Iterator[None]:
    """Turn what goes wrong inside into one line that begins with the file, and says `what` where nothing else is known."""
    try:
        yield
    except DataError as error:
        raise ConfigError(f"{path}: {error}") from error
    except PermissionError as error:
        raise ConfigError(f"{path}: permission denied; change its rights or name another path") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; name a file") from error
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: {Path(error.filename or path).name} is not there; name an existing dataset"
        ) from error
    except ConfigError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, str(path)) from error  # a write alone does not name its file
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: {what.format(why)}") from error


def check_hdf5(path: Path) -> None:
    """Raise DataError where a file never was HDF5; one that was cut still begins as it does."""
    with open(path, "rb") as file:
        begins = file.read(len(SIGNATURE)) == SIGNATURE
    if not begins and not need("h5py").is_hdf5(path):
        raise DataError("not an HDF5 file; name a dataset, or get it again")


def check_numbers(arrays: dict[str, Any], keys: Iterable[str]) -> None:
    """Raise DataError where an array under one of `keys` has no rows or does not hold real numbers."""
    for key in keys:
        values = np.asarray(arrays[key])
        if values.ndim == 0 or len(values) == 0:
            what = "no rows" if values.ndim else "a single value"
            raise DataError(f"{key}: {what}; a dataset needs one row a step and at least one transition")
        if values.dtype.kind not in "biuf":
            first = repr(values.flat[0])[:40] if values.size else "empty"
            raise DataError(f"{key}: row 0 is {first}, of dtype {values.dtype}; allowed: numbers")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(part)` make a file or folder beside `path`, then put it there at once; a kill leaves `path` as it was.

    A dataset that was there is replaced. Raises ConfigError if the place cannot be written or is taken by something that is
    no dataset, OSError if the disk is full.
    """
    with naming(path, "cannot be written ({}); name another path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.replacing(path) as part:
            write(part)
            if path.is_dir() and not part.is_dir():
                raise ConfigError(f"{path}: is a folder; name a file")


@contextmanager
def new_hdf5(path: Path) -> Iterator[Any]:
    """Yield an HDF5 file in memory, episodes and keys in the order in which they are made; then write it to `path`.

    HDF5 must not meet a full disk: it cannot close a file that it could not write, and takes the process down with it.
    """
    with need("h5py").File(path, "w", driver="core", backing_store=False, block_size=2**20, track_order=True) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


def with_final(data: Dataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return (arrays with one row more for each trajectory [N + E, ...], where those final rows stand [E]).

    obs and extras by name: the final row holds the successor where it was recorded (next_obs, extras next_x), else the
    last row again. action, reward and terminated end with a row of zeros. Raises DataError unless next_obs of every row
    is obs of the row behind it: formats that store each observation once cannot hold anything else.
    """
    offsets = np.asarray(data.offsets, np.int64)
    last = offsets[1:] - 1
    inside = np.flatnonzero(~(np.asarray(data.terminated) | np.asarray(data.truncated)))
    stored = {"obs": data.obs, NEXT + "obs": data.next_obs} | data.extras
    arrays = {}
    for name, rows in stored.items():
        rows = np.asarray(rows)
        if name.startswith(NEXT) and name.removeprefix(NEXT) in stored:
            before = np.asarray(stored[name.removeprefix(NEXT)])
            differs = (rows[inside] != before[inside + 1]).any(axis=tuple(range(1, rows.ndim)))
            if differs.any():
                row = inside[np.flatnonzero(differs)[0]]
                raise DataError(
                    f"{name}: row {row} is not what the row behind it begins with; write it as d4rl or native"
                )
            continue
        successor = np.asarray(stored.get(NEXT + name, rows))
        arrays[name] = np.insert(rows, offsets[1:], successor[last].astype(rows.dtype), axis=0)
    for name in ("action", "reward", "terminated"):
        rows = np.asarray(getattr(data, name))
        arrays[name] = np.insert(rows, offsets[1:], np.zeros((1, *rows.shape[1:]), rows.dtype), axis=0)
    return arrays, offsets[1:] + np.arange(len(offsets) - 1)


def without_final(rows: np.ndarray, final: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows that begin a step, rows that follow it), each [N, ...], of rows [N + E, ...] with final ones at `final`."""
    first = np.concatenate([[0], final[:-1] + 1])
    if len(set(np.diff(final, prepend=-1).tolist())) == 1:  # equal lengths: two block copies, four times as fast
        blocks = rows.reshape(len(final), -1, *rows.shape[1:])
        return tuple(block.reshape(-1, *rows.shape[1:]) for block in (blocks[:, :-1], blocks[:, 1:]))  # pyright: ignore
    return np.delete(rows, final, axis=0), np.delete(rows, first, axis=0)


def cut_at_flags(offsets: np.ndarray, flags: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return offsets that also end a trajectory behind every flagged row [N] bool inside one; say so in `notes`."""
    ends = np.union1d(offsets[1:], np.flatnonzero(flags) + 1)
    if added := len(ends) - (len(offsets) - 1):
        notes.append(
            f"{added} episodes went on behind a flagged step and were cut there into trajectories of their own"
        )
    return np.concatenate([[0], ends]).astype(np.int64)


def boxed(steps: dict[str, np.ndarray], notes: list[str], what: str = "actions") -> None:
    """Clip actions that rounding has put beyond [-1, 1], in place; say so in `notes`."""
    action = np.asarray(steps["action"], np.float32)
    over = int(np.sum(np.any(np.abs(action) > 1.0, axis=1))) if action.ndim == 2 else 0
    if over and np.max(np.abs(action)) <= 1.0 + BOX_SLACK:
        notes.append(f"{what} of {over} rows were rounded beyond the box and clipped to it")
        steps["action"] = np.clip(action, -1.0, 1.0)


def built(
    steps: dict[str, np.ndarray],
    offsets: np.ndarray,
    extras: dict[str, np.ndarray],
    keys: dict[str, str],
    place: Callable[[int, bool], str] | None = None,
) -> Dataset:
    """Call `from_arrays`; an error names the keys as the file spells them (`keys`: ours -> the file's).

    place: (row, whether it is of a successor) -> where the file has it, for files whose rows are not counted as ours are.
    """
    try:
        return from_arrays(steps, offsets, extras)
    except DataError as error:
        key, _, rest = str(error).partition(":")
        found = re.match(r" row (\d+) ", rest)
        if place and found:
            there = place(int(found[1]), key.removeprefix("extras.").startswith(NEXT))
            rest = f" {there} {rest[found.end() :]}"
        raise DataError(f"{keys.get(key, key)}:{rest}") from error


class Origin(NamedTuple):
    """What a file without a card says of itself."""

    kind: str  # of file, in words
    env: dict[str, Any] | None = None  # {"id", "kwargs"}; None where it names none
    reference: tuple[float, float] | None = None  # (random, expert) returns


def finished(data: Dataset, path: Path, origin: Origin, notes: list[str], text: str | None) -> Card:
    """Return the card that a file carries as JSON `text`, or measure one for a file without.

    Raises ConfigError where the arrays are not those that the card was written for.
    """
    if text is None:
        known = {"env": origin.env or {}, "versions": {}, "notes": tuple(notes)}
        how = f"not recorded; read from a file of kind {origin.kind}"
        return make_card(data, path.name, how, origin.reference, origin=known)
    card = from_json(text, str(path))
    if card.sha256 != checksum(data):
        raise ConfigError(
            f"{path}: its arrays are not those of its card (sha256); make it again, or delete {CARD_KEY} in it"
        )
    return card
