"""Files: whole or not at all, damage found, what is kept."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import TINY

from valex import store
from valex.config import run_id, to_dict

ARRAYS = {
    "scalar": np.float32(2.5).reshape(()),
    "count": np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::-1],
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "nan": np.array([np.nan, -0.0, np.inf], np.float32),
    "seed": np.array(2**32 - 1, np.uint32),
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_whole(tmp_path):
    store.write_json(tmp_path / "a.json", {"b": 1})
    store.write_json(tmp_path / "a.json", {"b": [1, 2]})
    assert store.read_json(tmp_path / "a.json") == {"b": [1, 2]}
    assert names(tmp_path) == {"a.json"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.json"
    store.write_json(path, {"old": 1})
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left.*a.json"):
        store.write_json(path, {"new": 1})
    assert store.read_json(path) == {"old": 1}
    assert names(tmp_path) == {"a.json"}


@pytest.mark.parametrize("text", ["{", "[1]", "", "nul", "\x00"])
def test_damaged_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(store.StoreError, match="a.json.*delete"):
        store.read_json(tmp_path / "a.json")
    assert store.read_json(tmp_path / "missing.json") == {}


def test_rows_survive_a_round_trip_and_a_torn_end(tmp_path):
    path = tmp_path / "m.jsonl"
    rows = [{"env_steps": i, "x": 0.1 * i, "y": float(np.float32(1) / 3)} for i in range(3)]
    for row in rows:
        store.append_line(path, row)
    store.append_line(path, {"env_steps": 3, "x": float("nan")})
    whole = path.read_bytes()
    last = whole[whole[:-1].rindex(b"\n") + 1 :]
    for cut in range(1, len(last)):
        path.write_bytes(whole[:-cut])
        found = store.read_lines(path)
        assert found[:3] == rows and (len(found) == 3 or cut == 1)
        store.truncate_lines(path, 2)
        assert path.read_bytes() == whole[: -len(last)]
        store.append_line(path, {"env_steps": 3, "x": float("nan")})
        assert path.read_bytes() == whole
    assert store.read_lines(path)[3] == {"env_steps": 3, "x": None}
    assert np.isnan(store.columns(store.read_lines(path))["x"][3])


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"17\n", b"{}\n", b'{"env_steps": 1\n'])
def test_nothing_is_read_beyond_a_damaged_row(tmp_path, damage):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"env_steps": 1}\n' + damage + b'{"env_steps": 2}\n')
    assert store.read_lines(path) == [{"env_steps": 1}]
    assert store.has_row(path, 1) and not store.has_row(path, 2)
    assert not store.has_row(tmp_path / "missing.jsonl", 1)


def test_a_checkpoint_gives_back_every_bit(tmp_path):
    store.save_checkpoint(tmp_path, 40, ARRAYS, keep=2)
    found = store.load_checkpoint(tmp_path, 40)
    assert found is not None and found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(value).tobytes(), name


def test_the_newest_are_kept_and_nothing_else(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "000000000007.safetensors").write_bytes(b"no manifest: a kill came between")
    for step in (10, 20, 30):
        store.save_checkpoint(tmp_path, step, ARRAYS, keep=2)
    assert store.checkpoint_steps(tmp_path) == [30, 20]
    assert names(folder) == {f"0000000000{s}.{end}" for s in (20, 30) for end in ("json", "safetensors")}
    store.forget_after(tmp_path, 20, 2)
    assert store.checkpoint_steps(tmp_path) == [20] and len(names(folder)) == 2
    assert store.load_checkpoint(tmp_path, 20) is not None


@pytest.mark.parametrize("end", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_checkpoint_is_found(tmp_path, end, damage):
    store.save_checkpoint(tmp_path, 40, ARRAYS, keep=2)
    path = tmp_path / "checkpoints" / f"000000000040.{end}"
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"truncate": data[:-1], "flip": data, "empty": b""}[damage])
    assert store.load_checkpoint(tmp_path, 40) is None


def test_a_run_directory_is_held_by_one(tmp_path):
    held, refused = store.locked(tmp_path / "run"), pytest.raises(store.StoreError, match="another process is training")
    with held, refused, store.locked(tmp_path / "run"):
        raise AssertionError("both hold it")
    with store.locked(tmp_path / "run"):
        assert names(tmp_path / "run") == {".lock"}


def test_tidy_removes_part_files_only(tmp_path):
    store.save_checkpoint(tmp_path, 40, ARRAYS, keep=2)
    before = {path for path in tmp_path.rglob("*")}
    (tmp_path / ".status.json.17.part").write_text("{")
    (tmp_path / "checkpoints" / ".000000000050.safetensors.17.part").write_bytes(b"half")
    store.tidy(tmp_path)
    assert {path for path in tmp_path.rglob("*")} == before


def save_run(root: Path, seed: int, rows: list[dict]) -> Path:
    config = replace(TINY, seed=seed)
    path = root / run_id(config)
    path.mkdir(parents=True)
    store.write_json(path / "config.json", to_dict(config))
    for row in rows:
        store.append_line(path / "metrics.jsonl", row)
    return path


def test_runs_are_read_back(tmp_path):
    path = save_run(tmp_path, 1, [{"env_steps": 80, "a": 1.5}, {"env_steps": 120, "b": 2.5}])
    (tmp_path / "report").mkdir()  # not a run
    (run,) = store.read_runs(tmp_path)
    assert run.path == path and run.config == replace(TINY, seed=1) and run.status == {} and run.time == {}
    np.testing.assert_array_equal(run.metrics["a"], [1.5, np.nan])
    np.testing.assert_array_equal(run.metrics["b"], [np.nan, 2.5])
    with pytest.raises(store.StoreError, match="not a run directory"):
        store.read_run(tmp_path / "report")


def test_one_damaged_run_does_not_hide_the_others(tmp_path, capsys):
    whole, torn = (save_run(tmp_path, seed, [{"env_steps": n, "a": 1.0} for n in (80, 120, 160)]) for seed in (1, 2))
    (torn / "config.json").write_text("")
    (run,) = store.read_runs(str(tmp_path))
    assert run.path == whole
    (said,) = capsys.readouterr().err.splitlines()
    assert (
        said.startswith(f"warning: left out: {torn / 'config.json'}: not JSON") and "delete the run directory" in said
    )


@pytest.mark.parametrize(("line", "warned"), [(1, True), (2, False)])
def test_a_damaged_line_in_the_middle_is_said(tmp_path, capsys, line, warned):
    """The last line may be torn by a kill, which is no damage: it is written again."""
    path = save_run(tmp_path, 1, [{"env_steps": n, "a": 1.0} for n in (80, 120, 160)])
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[line] = "garbage\n"
    (path / "metrics.jsonl").write_text("".join(lines))
    assert len(store.read_run(path).metrics["a"]) == line
    assert ("line 2 is damaged" in capsys.readouterr().err) is warned


@pytest.mark.parametrize("config", [{"unheard_of": 1}, {"env": 3}, {"train": {"stride": 1}}])
def test_a_config_of_another_version_is_named(tmp_path, config):
    store.write_json(tmp_path / "config.json", config)
    with pytest.raises(store.StoreError, match="config.json"):
        store.read_run(tmp_path)


def test_parquet_holds_every_row_of_every_run(tmp_path):
    rows = [{"env_steps": 80, "a": 0.1}, {"env_steps": 120, "a": 1 / 3, "b": -2.0}]
    paths = [save_run(tmp_path, 1, rows), save_run(tmp_path, 2, rows[:1]), save_run(tmp_path, 3, [])]
    store.write_parquet(tmp_path, tmp_path / "metrics.parquet")
    table = pq.read_table(tmp_path / "metrics.parquet").to_pydict()
    order = sorted((p for p in paths[:2]), key=lambda p: p.name)
    assert table["run"] == [p.name for p in order for _ in range(2 if p == paths[0] else 1)]
    by_run = {name: [i for i, r in enumerate(table["run"]) if r == name] for name in set(table["run"])}
    first = by_run[paths[0].name]
    assert [table["env_steps"][i] for i in first] == [80, 120]
    assert [table["a"][i] for i in first] == [0.1, 1 / 3]
    assert np.isnan(table["b"][first[0]]) and table["b"][first[1]] == -2.0
    assert json.dumps(sorted(table)) == '["a", "b", "env_steps", "run"]'


def test_known_errors_are_said_without_their_class_and_with_a_remedy():
    full = store.explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/there/x"))
    assert full == "No space left on device: /there/x; free some space and run the same command again"
    assert store.explained(store.StoreError("x: delete it")) == "x: delete it"
    assert store.explained(KeyError("reward")) == "KeyError: 'reward'"
    assert store.explained(MemoryError()) == "MemoryError: no message"
