"""valex diagnose dataset from the files to the page: it resumes, a signal stops it, and bad input is one line with code 2."""

import json
import os
import signal

import numpy as np
import pytest
from benches import cheap_programs, maze_set, pendulum_set  # noqa: F401
from trajectories import numbered

import valex
from valex import cli
from valex.datasets.card import make_card
from valex.datasets.files import write

SMALL = valex.DatasetDiagnosisConfig(seeds=1, steps=8, hidden=(4,), episodes=1, sizes=(24, 96))
WORDS = ["--seeds", "1", "--steps", "8", "--hidden", "4", "--episodes", "1", "--sizes", "24,96", "--workers", "1"]


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pendulum"
    pendulum_set(path)
    return path


def test_it_stops_at_a_signal_goes_on_and_trains_nothing_twice(pendulum, tmp_path, capsys):
    seen = []

    def once(event):
        seen.append(event)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = valex.diagnose_dataset(pendulum, tmp_path, SMALL, progress=once)
    assert stopped.page is None and stopped.summary.exit_code() == 75 and not (tmp_path / "report").exists()
    first = len(list((tmp_path / "trials").iterdir()))
    assert first == 1
    done = valex.diagnose_dataset(pendulum, tmp_path, SMALL)
    assert done.summary.exit_code() == 0 and done.page.is_file()
    assert len(done.summary.states) == done.numbers["about"]["cells"] - first
    assert any(line.startswith("Nothing can be told: 1 seed, at least 5 are needed") for line in done.text)
    lines = [len(path.read_text().splitlines()) for path in (tmp_path / "values").glob("*/metrics.jsonl")]
    assert lines == [4] * 4  # two values on two amounts of data, saved every quarter: growth can be seen
    assert done.numbers["verdict"]["unit"] == "return" and done.numbers["methods"][0]["radius/eval"]["value"] > 0
    kept = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and "report" not in path.parts
    }
    assert cli.main(["diagnose", "dataset", str(pendulum), *WORDS, "--out", str(tmp_path), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == done.numbers
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert cli.main(["diagnose", "dataset", str(pendulum), *WORDS, "--out", str(tmp_path)]) == 0
    assert f"report: {done.page}" in capsys.readouterr().out


def test_arrays_in_memory_without_an_environment(tmp_path):
    rng, rows = np.random.default_rng(0), 120
    obs = rng.normal(size=(rows, 3))
    steps = {"obs": obs, "next_obs": obs, "action": rng.uniform(-1, 1, (rows, 1)), "reward": rng.normal(size=rows)}
    data = valex.from_arrays(steps | {"terminated": np.zeros(rows, bool)}, np.arange(0, rows + 1, 12), {})
    found = valex.diagnose_dataset(data, tmp_path, SMALL)
    assert found.summary.exit_code() == 0 and found.numbers["verdict"] is None
    assert "without an environment" in found.text[0] and "no environment" in " ".join(found.numbers["missing"])
    assert (tmp_path / "data" / "card.json").is_file()
    assert valex.diagnose_dataset(data, tmp_path, SMALL).summary.states == {}


# ---------------------------------------------------------------------------------------------------------------- bad input


def npz(path, **changed):
    arrays = {"observations": np.ones((6, 2)), "actions": np.zeros((6, 1)), "terminals": np.array([0, 0, 1, 0, 0, 1.0])}
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})


def hdf5(path, **changed):
    arrays = {
        "observations": np.zeros((6, 2)), "actions": np.zeros((6, 1)), "rewards": np.zeros(6),
        "next_observations": np.zeros((6, 2)), "terminals": np.zeros(6, bool), "timeouts": np.arange(6) % 3 == 2,
    }  # fmt: skip
    with pytest.importorskip("h5py").File(path, "w") as file:
        for key, value in (arrays | changed).items():
            if value is not None:
                file[key] = value


def changed_at(shape, row, value):
    array = np.zeros(shape)
    array[row] = value
    return array


def minari(path, change):
    data = numbered()
    write(path, data, make_card(data, "set", "by hand"), "minari")
    with pytest.importorskip("h5py").File(path / "data" / "main_data.hdf5", "a") as file:
        change(file)


def native(path, change):
    data = numbered()
    write(path, data, make_card(data, "set", "by hand"), "native")
    change(path)


def folder(path):
    path.mkdir()
    (path / "notes.txt").touch()


def cut(path):
    file = path / "arrays.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def without(name):
    return lambda file: file.__delitem__(name)


BROKEN = {  # name of the file: how it is made, what is said
    "a.npz": (lambda p: npz(p, actions=None), "actions: missing"),
    "b.npz": (lambda p: npz(p, actions=np.zeros((5, 1))), "actions: 5 rows, observations has 6"),
    "c.npz": (lambda p: npz(p, observations=changed_at((6, 2), 1, np.nan)), "observations: row 1 is not finite"),
    "d.npz": (lambda p: npz(p, actions=changed_at((6, 1), 3, np.inf)), "actions: row 3 is not finite"),
    "e.npz": (lambda p: npz(p, actions=changed_at((6, 1), 4, 3.0)), "actions: row 4 is outside [-1, 1]"),
    "f.npz": (lambda p: npz(p, terminals=np.array([0, 0, 1, 1, 0, 1.0])), "terminals: row 3"),
    "g.npz": (lambda p: p.write_text("no zip"), "g.npz"),
    "h.npz": (lambda p: npz(p, terminals=np.array([0, 0, 0, 0, 0, 1.0])), "1 trajectories"),
    "i.npz": (npz, "no value can be learned"),
    "a.hdf5": (lambda p: hdf5(p, rewards=None), "rewards: missing"),
    "b.hdf5": (lambda p: hdf5(p, rewards=np.zeros(7)), "rewards: 7 rows, observations has 6"),
    "c.hdf5": (lambda p: hdf5(p, rewards=changed_at((6,), 2, np.nan)), "rewards: row 2 is not finite"),
    "d.hdf5": (lambda p: hdf5(p, actions=changed_at((6, 1), 5, -1.5)), "actions: row 5 is outside [-1, 1] (-1.5)"),
    "e.hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 20), "truncated or damaged"),
    "a-v0": (lambda p: minari(p, without("episode_0/rewards")), "rewards: missing in episode_0"),
    "b-v0": (
        lambda p: minari(p, lambda f: f["episode_2/rewards"].__setitem__(1, np.nan)),
        "rewards: row 1 of episode_2 is not finite",
    ),
    "c-v0": (lambda p: minari(p, lambda f: f["episode_2/rewards"].__setitem__(1, 5.0)), "not those of its card"),
    "a": (lambda p: native(p, cut), "truncated or damaged"),
    "b": (lambda p: native(p, lambda p: (p / "card.json").write_text("[]")), "no dataset card"),
    "c": (folder, "this folder is no dataset"),
    "notes.txt": (lambda p: p.write_text("hello"), "this file is no dataset"),
    "nothing": (lambda p: None, "there is nothing"),
}


def refused(words, out, capsys, *said):
    """Assert that a command is refused in one line with code 2, and that nothing is left of it."""
    assert cli.main(["diagnose", "dataset", *words]) == 2
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert captured.out == "" and line.startswith("valex: ")
    for word in said:
        assert word in line, f"{word!r} is not in {line!r}"
    assert not out.exists() or out.is_file()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, tmp_path, capsys):
    make, said = BROKEN[name]
    make(tmp_path / name)
    out = tmp_path / "out"
    refused([str(tmp_path / name), "--env", "none", "--out", str(out)], out, capsys, name, said)


OPTIONS = {
    "goals nowhere": (["--goals", "navigate"], "env: pendulum tells no goal"),
    "crl without goals": (["--value", "crl"], "value: crl needs goals"),
    "other dimensions": (["--env", "cartpole"], "env: cartpole has obs", "has 3 and 1"),
    "unknown environment": (["--env", "Nowhere-v7"], "env: Nowhere-v7 cannot be built"),
    "too much data": (["--sizes", "10,1000"], "sizes: 1,000 is not in 1..108"),
    "no data": (["--sizes", "0"], "sizes: 0 is not in"),
    "alpha": (["--alpha", "-1"], "valex: alpha: "),
    "candidates": (["--extractor", "sfbc", "--alpha", "0.5"], "alpha: 0.5 is no number of candidates"),
    "gamma": (["--gamma", "1"], "valex: gamma: "),
    "hidden": (["--hidden", "0"], "valex: hidden"),
    "many candidates": (["--extractor", "sfbc", "--alpha", "5000"], "valex: alpha: "),
    "seeds": (["--seeds", "-1"], "seeds: -1 is not in 0..100"),
    "episodes": (["--episodes", "-1"], "episodes: -1"),
    "steps": (["--steps", "-5"], "steps: -5"),
    "reference": (["--reference", "nan"], "reference: nan"),
    "budget": (["--budget", "huge"], "budget"),
    "extractor": (["--extractor", "bc"], "extractor"),
    "workers": (["--workers", "-1"], "workers: -1 is not in"),
    "unknown option": (["--nothing", "1"], "--nothing: unknown field"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be(name, pendulum, tmp_path, capsys):
    words, *said = OPTIONS[name]
    out = tmp_path / "out"
    refused([str(pendulum), *words, "--out", str(out)], out, capsys, *said)


def test_a_place_that_cannot_be_written(pendulum, tmp_path, capsys):
    place = tmp_path / "file"
    place.write_text("mine")
    refused([str(pendulum), *WORDS, "--out", str(place)], place, capsys, "out: ", "cannot be written", "--out")
    refused([str(pendulum), *WORDS, "--out", str(place / "below")], place, capsys, "cannot be written")
    assert place.read_text() == "mine"


def test_goals_of_a_maze_are_asked_for_where_there_are_no_rewards(tmp_path, capsys):
    pytest.importorskip("ogbench")
    maze_set(tmp_path / "maze", episodes=3, steps=30)
    out = tmp_path / "out"
    refused([str(tmp_path / "maze"), "--out", str(out)], out, capsys, "reward: 0 in every row", "--goals navigate")


def test_help(capsys):
    assert cli.main(["diagnose", "dataset", "--help"]) == 0
    told = capsys.readouterr().out
    assert "diagnose dataset PATH" in told and "--reference" in told and "--sizes" in told
    assert cli.main(["diagnose", "dataset", "anything", "--help"]) == 0
    assert "--reference" in capsys.readouterr().out


def test_report_of_a_diagnosis_names_the_command_that_redraws_it(tmp_path, capsys):
    for name in ("trials", "report"):
        (tmp_path / name).mkdir()
    assert cli.main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "is a diagnosis" in said and "`valex diagnose dataset`" in said
