"""The run directory: config, metadata, metrics, checkpoints. Every write is atomic or append-only.

config.json        the resolved config
meta.json          versions, device, git commit, command
status.json        state: running | finished | failed | interrupted, with a message
metrics.jsonl      one line per evaluation; bit-identical for equal config, seed, machine and number of threads
time.jsonl         wall-clock figures, kept apart because they never repeat
diagnostics.json   what was measured once, on the final agent
checkpoints/       the whole state: <steps>.safetensors with <steps>.json, which holds its checksum; empty once finished
final.safetensors  agent and dynamics model of a finished run
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from valex.config import from_dict
from valex.fields import ConfigError
from valex.settings import DiagnosticsConfig, RunConfig


def explained(error: Exception) -> str:
    """Return in one line what went wrong, with the remedy where it is known; the kind of error where its text may be bare."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: {error.filename}; free some space and run the same command again"
    why = (str(error).strip().splitlines() or ["no message"])[0]
    return why if isinstance(error, StoreError) else f"{type(error).__name__}: {why}"


class StoreError(RuntimeError):
    """A run directory that cannot be used: one line with the file and the remedy."""


class StoredRun(NamedTuple):
    """What a run left behind."""

    path: Path
    config: RunConfig
    status: dict
    metrics: dict[str, np.ndarray]  # columns; NaN where a line lacks the key
    time: dict[str, np.ndarray]
    diagnostics: dict


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write a file or folder to; then put it there at once: a reader sees the old or the new.

    A folder replaces a folder through a short-lived second name. Raises OSError; leaves no part.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        for file in [part] if part.is_file() else [f for f in part.rglob("*") if f.is_file()]:
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if part.is_dir() and path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(part, path)
            shutil.rmtree(old)
        else:
            os.replace(part, path)
    finally:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once. Raises OSError; leaves no part file."""
    try:
        with replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk is named with its file


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by indented JSON, at once."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict:
    """Return the JSON object in `path`, {} if there is none. Raises StoreError if it is damaged."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"{path}: not JSON ({error}); delete the run directory") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: not a JSON object; delete the run directory")
    return value


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the run directory alone; the lock goes with the process.

    If another process has it, raises StoreError, or with `wait` stands by until it is free.
    """
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StoreError(
                f"{path}: another process is training in this directory; wait for it or stop it"
            ) from error
        yield


def tidy(path: Path) -> None:
    """Remove what a kill in the middle of a write left in a run directory that this process has locked."""
    for part in (*path.glob(".*.part"), *(path / "checkpoints").glob(".*.part")):
        part.unlink()


def append_line(path: Path, row: dict[str, float]) -> None:
    """Append one JSON line, on the disk before any later checkpoint; numbers that are not finite become null."""
    clean = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in row.items()}
    try:
        with open(path, "a") as file:
            file.write(json.dumps(clean) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_lines(path: Path, by: str = "env_steps") -> list[dict]:
    """Return the rows of a JSONL file, each with an entry `by`, up to the first that cannot be read, such as a torn line."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or by not in row:
            break
        rows.append(row)
    return rows


def _rows_said(path: Path) -> list[dict]:
    """Return the rows of a JSONL file; say so on stderr where more is lost than a last line torn by a kill."""
    rows = read_lines(path)
    if path.exists() and path.read_bytes().count(b"\n") > len(rows) + 1:
        print(f"warning: {path}: line {len(rows) + 1} is damaged; the rest is not read", file=sys.stderr, flush=True)
    return rows


def has_row(path: Path, steps: int, by: str = "env_steps") -> bool:
    """Return whether a JSONL file holds the row at `steps`, with nothing unreadable before it."""
    return any(row[by] == steps for row in read_lines(path, by))


def truncate_lines(path: Path, steps: int, by: str = "env_steps") -> None:
    """Drop the rows after `steps`: they were written after the checkpoint that training resumes from."""
    if path.exists():
        kept = [row for row in read_lines(path, by) if row[by] <= steps]
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def columns(rows: list[dict]) -> dict[str, np.ndarray]:
    """Return rows as columns, NaN where a row lacks a key or holds null."""
    names = sorted({name for row in rows for name in row})
    return {n: np.array([np.nan if row.get(n) is None else row[n] for row in rows], float) for n in names}


def _encoded(arrays: dict[str, np.ndarray]) -> bytes:
    """Return named arrays as the bytes of a safetensors file."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(value).reshape(value.shape) for name, value in arrays.items()})


def save_final(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save what stays of a finished run as final.safetensors. Raises OSError."""
    write_bytes(path / "final.safetensors", _encoded(arrays))


def load_final(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of final.safetensors. Raises StoreError if the run has not finished or the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = path / "final.safetensors"
    try:
        return load(file.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{file}: there is none; the run has not finished") from error
    except SafetensorError as error:
        raise StoreError(f"{file}: damaged ({error}); delete the run directory and train again") from error


def save_checkpoint(path: Path, steps: int, arrays: dict[str, np.ndarray], keep: int) -> None:
    """Save named arrays as the checkpoint at `steps`, then drop all but the newest `keep`. Raises OSError.

    The manifest is written last: what has no manifest is no checkpoint.
    """
    folder = path / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    data = _encoded(arrays)
    stem = folder / f"{steps:012d}"
    write_bytes(stem.with_suffix(".safetensors"), data)
    manifest = {"steps": steps, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(stem.with_suffix(".json"), manifest)
    _retain(folder, checkpoint_steps(path)[:keep])


def _retain(folder: Path, steps: list[int]) -> None:
    """Remove every checkpoint of a folder but those at `steps`, manifests first, and arrays without a manifest."""
    for suffix in (".json", ".safetensors"):
        for old in folder.glob(f"*{suffix}"):
            if old.stem.isdigit() and int(old.stem) not in steps:
                old.unlink(missing_ok=True)


def forget_after(path: Path, steps: int, keep: int) -> None:
    """Remove the checkpoints after `steps`, damaged ones that must not push good ones out, and all but `keep`."""
    _retain(path / "checkpoints", [step for step in checkpoint_steps(path) if step <= steps][:keep])


def checkpoint_steps(path: Path) -> list[int]:
    """Return the steps of the checkpoints of a run, newest first; damaged ones included."""
    return sorted((int(p.stem) for p in (path / "checkpoints").glob("*.json") if p.stem.isdigit()), reverse=True)


def load_checkpoint(path: Path, steps: int) -> dict[str, np.ndarray] | None:
    """Return the arrays saved at `steps`, or None if the file is missing, truncated or altered."""
    from safetensors.numpy import load

    stem = path / "checkpoints" / f"{steps:012d}"
    try:
        manifest = json.loads(stem.with_suffix(".json").read_text())
        data = stem.with_suffix(".safetensors").read_bytes()
        if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            return None
        return load(data)
    except (OSError, ValueError, KeyError):
        return None


def read_config(path: Path) -> RunConfig:
    """Return the config of a run directory. Raises StoreError if there is none, or one of another version."""
    config = read_json(path / "config.json")
    if not config:
        raise StoreError(f"{path}: no config.json; this is not a run directory")
    try:
        return from_dict(config)
    except ConfigError as error:
        raise StoreError(f"{path / 'config.json'}: {error}") from error


def read_run(path: Path) -> StoredRun:
    """Read one run directory. Raises StoreError naming a damaged file."""
    config = read_config(path)
    metrics, time = (columns(_rows_said(path / name)) for name in ("metrics.jsonl", "time.jsonl"))
    diagnostics = read_json(path / "diagnostics.json")
    return StoredRun(path, config, read_json(path / "status.json"), metrics, time, diagnostics)


LATER = {  # diagnostics that can be measured on a finished run: what turns one on, and its settings
    "target_horizons": ("target_horizons", "target_states", "target_particles"),
    "model_error_steps": ("model_error_steps", "model_error_starts"),
    "gradient_horizons": ("gradient_horizons", "gradient_starts"),
}


def unmeasured(path: Path, asked: DiagnosticsConfig) -> tuple[DiagnosticsConfig, DiagnosticsConfig] | None:
    """Return (what of `asked` a finished run lacks, what it will then hold), or None if it lacks nothing.

    The split of an update is left out: it needs the replay, which a finished run has no more. Raises StoreError.
    """
    if not any(getattr(asked, name) for name in LATER):
        return None
    had = read_config(path).diagnostics
    lacking, holds = DiagnosticsConfig(), had
    for name, settings in LATER.items():
        wanted = {setting: getattr(asked, setting) for setting in settings}
        if wanted[name] and wanted != {setting: getattr(had, setting) for setting in settings}:
            lacking, holds = replace(lacking, **wanted), replace(holds, **wanted)
    return (lacking, holds) if holds != had else None


def read_runs(root: Path | str) -> list[StoredRun]:
    """Read every run directly below `root`, ordered by name. A damaged one is named on stderr and left out."""
    runs = []
    for file in sorted(Path(root).glob("*/config.json")):
        try:
            runs.append(read_run(file.parent))
        except StoreError as error:
            print(f"warning: left out: {error}", file=sys.stderr, flush=True)
    return runs


def write_parquet(root: Path, out: Path) -> None:
    """Collect the metrics of all runs below `root` into one Parquet table with a run column."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    runs = read_runs(root)
    names = sorted({name for run in runs for name in run.metrics})
    table: dict[str, list] = {"run": [], **{name: [] for name in names}}
    for run in runs:
        length = len(run.metrics.get("env_steps", ()))
        table["run"] += [run.path.name] * length
        for name in names:
            table[name] += list(run.metrics.get(name, np.full(length, np.nan)))
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    write_bytes(out, buffer.getvalue())
