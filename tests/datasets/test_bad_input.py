"""What cannot be read is refused in one line that names file, key and row, and nothing half-written stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from trajectories import numbered

from valex.datasets.base import need
from valex.datasets.card import make_card
from valex.datasets.files import read, write, write_pair
from valex.fields import ConfigError

h5py = pytest.importorskip("h5py", reason="pip install 'valex[offline]'")


def written(tmp_path, name, kind, data=None):
    data = numbered(extras=True) if data is None else data
    return write(tmp_path / name, data, make_card(data, "set", "by hand"), kind)


def refused(path, *words):
    with pytest.raises(ConfigError) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    for word in (str(path), *words):
        assert word in text, f"{word!r} is not in {text!r}"


def npz(path, **changed):
    arrays = {
        "observations": np.zeros((6, 2), np.float32),
        "actions": np.zeros((6, 1), np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 1], np.float32),
    }
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})
    return path


def hdf5(path, **changed):
    arrays = {
        "observations": np.zeros((6, 2)),
        "next_observations": np.zeros((6, 2)),
        "actions": np.zeros((6, 1)),
        "rewards": np.zeros(6),
        "terminals": np.zeros(6, bool),
        "timeouts": np.array([0, 0, 1, 0, 0, 1], bool),
    }
    with h5py.File(path, "w") as file:
        for key, value in (arrays | changed).items():
            if value is not None:
                file[key] = value
    return path


def nan_at(row, shape=(6, 2), value=np.nan):
    array = np.zeros(shape)
    array[row] = value
    return array


OGBENCH = {
    "missing": ({"actions": None}, "actions: missing", "observations"),
    "length": ({"actions": np.zeros((5, 1))}, "actions: 5 rows, observations has 6"),
    "nan": ({"observations": nan_at(1)}, "observations: row 1 is not finite", "drop"),
    "infinite": ({"actions": nan_at(3, (6, 1), np.inf)}, "actions: row 3 is not finite"),
    "nan at the end": ({"observations": nan_at(5)}, "observations: row 5 is not finite"),
    "box": ({"actions": nan_at(4, (6, 1), 3.0)}, "actions: row 4 is outside [-1, 1] (3)", "divide them by its bound"),
    "cut": ({"terminals": np.array([0, 0, 1, 0, 0, 0])}, "terminals: row 5", "get it again"),
    "empty trajectory": ({"terminals": np.array([0, 0, 1, 1, 0, 1])}, "terminals: row 3", "without a step"),
    "strings": ({"actions": np.full((6, 1), b"one")}, "actions: row 0 is", "b'one'", "of dtype |S3; allowed: numbers"),
    "objects": ({"actions": np.array([{}] * 6, dtype=object)}, "actions: of dtype object; allowed: numbers"),
    "a scalar": ({"observations": np.float32(1.0)}, "observations: a single value"),
    "a scalar beside": ({"qpos": np.float32(1.0)}, "qpos: no rows, observations has 6"),
    "no rows": ({key: np.zeros((0, 2)) for key in ("observations", "actions", "terminals")}, "observations: no rows"),
    "pixels": ({"observations": np.zeros((6, 4, 4, 3))}, "observations: 4 axes"),
}
SIX = ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")
D4RL = {
    "missing": ({"rewards": None}, "rewards: missing", "terminals"),
    "length": ({"rewards": np.zeros(7)}, "rewards: 7 rows, observations has 6"),
    "nan": ({"rewards": nan_at(2, (6,))}, "rewards: row 2 is not finite"),
    "nan behind a row that is left out": (
        {"next_observations": None, "rewards": nan_at(4, (6,))},
        "rewards: row 4 is not finite",
    ),
    "nan successor": ({"next_observations": nan_at(4)}, "next_observations: row 4 is not finite"),
    "box": (
        {"actions": nan_at(5, (6, 1), -1.5)},
        "actions: row 5 is outside [-1, 1] (-1.5)",
        "divide them by its bound",
    ),
    "strings": ({"rewards": np.full(6, b"1.0")}, "rewards: row 0 is", "b'1.0'", "of dtype |S3; allowed: numbers"),
    "long strings": ({"rewards": ["1.0"] * 6}, "rewards: row 0 is b'1.0', of dtype object; allowed: numbers"),
    "a scalar": ({"rewards": 1.0}, "rewards: a single value"),
    "a scalar beside": ({"infos/goal": 1.0}, "infos/goal: no rows, observations has 6"),
    "no rows": ({key: np.zeros((0, 2)) for key in SIX}, "observations: no rows"),
    "other successors": ({"next_observations": np.ones((6, 2))}, "next_observations: row 0 ", "4 of 4 rows", "shifted"),
    "discrete": ({"actions": np.zeros(6)}, "actions: 1 axes", "discrete", "shape [N, 1]"),
}


@pytest.mark.parametrize("name", OGBENCH)
def test_bad_npz(name, tmp_path):
    changed, *words = OGBENCH[name]
    refused(npz(tmp_path / "set.npz", **changed), *words)


@pytest.mark.parametrize("name", D4RL)
def test_bad_hdf5(name, tmp_path):
    changed, *words = D4RL[name]
    refused(hdf5(tmp_path / "set.hdf5", **changed), *words)


def change_minari(tmp_path, change):
    path = written(tmp_path, "set-v0", "minari")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        change(file)
    return path


def _replace(file, name, value):
    del file[name]
    if value is not None:
        file[name] = value


MINARI = {
    "no episodes": (lambda f: [f.pop(f"episode_{e}") for e in range(4)], "episode_0: missing"),
    "missing": (lambda f: _replace(f, "episode_0/rewards", None), "rewards: missing in episode_0"),
    "missing later": (lambda f: _replace(f, "episode_2/rewards", None), "rewards: missing in episode_2"),
    "no observations": (lambda f: _replace(f, "episode_0/observations", None), "observations: missing in episode_0"),
    "final": (
        lambda f: _replace(f, "episode_2/observations", np.zeros((3, 2), np.float32)),
        "observations: 3 rows in episode_2, 4 are needed",
    ),
    "shape": (
        lambda f: _replace(f, "episode_1/actions", np.zeros((1, 2), np.float32)),
        "actions: shape (1, 2) in episode_1",
    ),
    "nan": (
        lambda f: f["episode_2/rewards"].__setitem__(1, np.nan),
        "rewards: row 1 of episode_2 is not finite",
    ),
    "strings": (
        lambda f: _replace(f, "episode_0/rewards", np.full(4, b"1.0")),
        "rewards: of dtype |S3 in episode_0; allowed: numbers",
    ),
    "nan at the end": (
        lambda f: f["episode_2/observations"].__setitem__((3, 1), np.nan),
        "observations: row 3 of episode_2 is not finite",
    ),
    "altered": (lambda f: f["episode_2/rewards"].__setitem__(1, 5.0), "not those of its card"),
}


@pytest.mark.parametrize("name", MINARI)
def test_bad_minari(name, tmp_path):
    change, *words = MINARI[name]
    refused(change_minari(tmp_path, change), *words)


def test_minari_metadata_that_is_no_json(tmp_path):
    path = written(tmp_path, "set-v0", "minari")
    (path / "data" / "metadata.json").write_text("{")
    refused(path, "damaged")
    (path / "data" / "metadata.json").unlink()
    refused(path, "metadata.json is not there")


@pytest.mark.parametrize(("name", "kind", "inner"), [
    ("set.npz", "ogbench", ""), ("set.hdf5", "d4rl", ""), ("set-v0", "minari", "data/main_data.hdf5"),
    ("set", "native", "arrays.safetensors"),
])  # fmt: skip
def test_truncated_files(name, kind, inner, tmp_path):
    path = written(tmp_path, name, kind)
    file = path / inner if inner else path
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(path, "truncated or damaged")


def test_native_arrays_that_are_not_those_of_the_card(tmp_path):
    path = written(tmp_path, "set", "native")
    file = path / "arrays.safetensors"
    arrays = load_file(file)
    arrays["extras.qpos"][5, 1] = np.nextafter(arrays["extras.qpos"][5, 1], 9.0)  # its last bit
    save_file(arrays, file)
    refused(path, "sha256")
    (path / "card.json").write_text("[]")
    refused(path, "card.json", "no dataset card")


def test_wrong_kinds(tmp_path):
    refused(tmp_path / "nothing", "there is nothing")
    refused(tmp_path, "this folder is no dataset; known are native, ogbench, minari, d4rl")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "this file is no dataset")
    (tmp_path / "empty.npz").touch()
    refused(tmp_path / "empty.npz", "the file is empty")
    (tmp_path / "text.npz").write_text("not a zip")
    refused(tmp_path / "text.npz", "not an npz file")
    (tmp_path / "text.hdf5").write_text("not hdf5")
    refused(tmp_path / "text.hdf5", "not an HDF5 file")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz", "this folder is no dataset")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    path = npz(tmp_path / "set.npz")
    path.chmod(0)
    refused(path, "permission denied")


def test_permission_denied_as_the_system_says_it(tmp_path, monkeypatch):
    path = written(tmp_path, "set", "native")

    def deny(*arguments, **named):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("valex.datasets.native.Path.read_text", deny)
    refused(path, "permission denied", "change its rights")
    monkeypatch.undo()
    monkeypatch.setattr("valex.datasets.native.Path.mkdir", deny)
    with pytest.raises(ConfigError, match="permission denied"):
        written(tmp_path, "other", "native")


def test_pickled_arrays_are_not_run(tmp_path):
    refused(npz(tmp_path / "set.npz", observations=np.array([{}] * 6, dtype=object)), "set.npz")


WRITES = {
    "format": ("set", "zarr", "format: 'zarr' is not known"),
    "suffix": ("set.bin", "ogbench", "a file that ends in .npz"),
    "minari name": ("set", "minari", "name the folder set-v0"),
    "taken": ("taken", "native", "is there already and no native dataset"),
    "a folder": ("folder.npz", "ogbench", "is there already and no ogbench dataset"),
}


@pytest.mark.parametrize("name", WRITES)
def test_places_that_cannot_be_written(name, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    (tmp_path / "folder.npz").mkdir()
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    place, kind, message = WRITES[name]
    data = numbered()
    with pytest.raises(ConfigError) as error:
        write(tmp_path / place, data, make_card(data, "set", "by hand"), kind)
    assert message in str(error.value)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_bad_arrays_are_not_written(tmp_path):
    data = numbered()
    data.reward[3] = np.nan
    with pytest.raises(ConfigError, match=r"nothing written; reward: row 3 is not finite"):
        write(tmp_path / "set", data, make_card(numbered(), "set", "by hand"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="at least 2"):
        one = numbered((3,), ())
        write_pair(tmp_path / "set.npz", one, make_card(one, "set", "by hand"), 0.5)


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    path = written(tmp_path, "set", "native")
    before = json.loads((path / "card.json").read_text())

    def fail(*arguments, **named):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path, "set", "native", numbered((2, 2), ()))
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert json.loads((path / "card.json").read_text()) == before


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from trajectories import numbered
from valex import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
real = Path.write_bytes
def full(path, data):
    try:
        return real(path, data)
    except OSError as error:
        raise OSError(28, "No space left on device") from error  # as the system says it: without a name
Path.write_bytes = full
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(cli.main({words!r}))
"""


@pytest.mark.parametrize(("name", "kind"), [("set", "native"), ("set.hdf5", "d4rl"), ("set-v0", "minari")])
def test_a_full_disk_is_said_in_one_line_that_names_the_dataset(name, kind, tmp_path):
    source, out = written(tmp_path, "source", "native", numbered((4000,), ())), tmp_path / name
    words = ["dataset", "convert", str(source), str(out), "--format", kind]
    code = FULL.format(tests=str(Path(__file__).parents[1]), words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = f"valex: No space left on device: {out}; free some space and run the same command again\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_what_is_written_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        path = written(tmp_path, "set", "native")
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == {
        "arrays.safetensors": 0o640,
        "card.json": 0o640,
    }


def test_a_missing_package_is_named_with_its_pip_line():
    with pytest.raises(ConfigError, match=r"nothing_of_the_kind: not installed .*pip install 'valex\[offline\]'"):
        need("nothing_of_the_kind")
