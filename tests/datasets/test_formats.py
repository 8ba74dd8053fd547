"""Every format gives back what was written, bit for bit, and is what its own library reads."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from trajectories import numbered, same

from valex.datasets import ogbench
from valex.datasets.card import from_json, make_card, to_json, to_text
from valex.datasets.files import detect, read, write, write_pair
from valex.fields import ConfigError
from valex.offline.data import check
from valex.tables import FORMATS, load

pytest.importorskip("h5py", reason="pip install 'valex[offline]'")
NAMES = {name: f"set{load(FORMATS, name).suffix or '-v0'}" for name in FORMATS}
SETS = {
    "plain": lambda: numbered(),
    "extras": lambda: numbered(extras=True),
    "only extras of obs": lambda: _only_qpos(),
    "single steps": lambda: numbered((1, 1, 1), (0, 2)),
    "many": lambda: numbered((7,) * 12 + (30,), (3, 12)),
}


def _only_qpos():
    data = numbered(extras=True)
    return data._replace(extras={"qpos": data.extras["qpos"], "flags": np.arange(14) % 2 == 0})


def card_of(data, **origin):
    return make_card(data, "numbered", "counted by hand", (0.0, 10.0), origin=origin)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", SETS)
def test_round_trip_bit_for_bit(name, kind, tmp_path):
    data = SETS[kind]()
    card = card_of(data, seed=3, env={"id": "none"}, generator={"kind": "test", "noise": 0.5}, notes=("a note",))
    path = write(tmp_path / NAMES[name], data, card, name)
    assert detect(path) == name
    back, its = read(path)
    assert same(data, back)
    assert its == card
    check(back)
    assert [p.name for p in tmp_path.iterdir()] == [NAMES[name]]  # nothing half-written beside it


@pytest.mark.parametrize("name", FORMATS)
def test_writing_again_replaces_and_gives_the_same_card(name, tmp_path):
    data = numbered()
    for _ in range(2):
        path = write(tmp_path / NAMES[name], data, card_of(data), name)
    assert same(read(path)[0], data)
    other = numbered((2, 2), ())
    write(path, other, card_of(other), name)
    assert same(read(path)[0], other)


def test_formats_can_follow_each_other(tmp_path):
    data = numbered(extras=True)
    card = card_of(data)
    for name in (*FORMATS, *reversed(FORMATS)):
        data, card = read(write(tmp_path / NAMES[name], data, card, name))
    assert same(data, numbered(extras=True))


def test_a_file_without_a_card_gets_one_that_is_measured(tmp_path):
    data = numbered()
    path = write(tmp_path / "set.npz", data, card_of(data), "ogbench")
    with np.load(path) as file:
        arrays = {key: file[key] for key in ("observations", "actions", "terminals")}
    np.savez(path, **arrays)
    back, card = read(path)
    assert card.sizes == {"transitions": 14, "trajectories": 4, "obs_dim": 2, "act_dim": 3}
    assert (back.obs == data.obs).all() and (back.next_obs == data.next_obs).all()
    assert not back.terminated.any() and (back.reward == 0).all()
    assert any("no rewards" in note for note in card.notes)


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("pointmaze-large-navigate-v0", "pointmaze-large-v0"),
        ("antmaze-teleport-explore-v0", "antmaze-teleport-v0"),
        ("mine", None),
        ("navigate-v0", None),
        ("pointmaze-large-v0", None),
    ],
)
def test_ogbench_files_are_called_after_their_environment(name, env):
    assert ogbench.env_of_name(name) == ({"id": env, "kwargs": {}} if env else {})


def test_ogbench_reads_our_pair(tmp_path):
    utils = pytest.importorskip("ogbench.utils", reason="pip install 'valex[offline]'")
    data = numbered((5,) * 10, ())
    data = data._replace(extras={"qpos": data.obs.astype(np.float64), "next_qpos": data.next_obs.astype(np.float64)})
    train, held = write_pair(tmp_path / "set.npz", data, card_of(data), 0.2)
    assert held == ogbench.validation_path(train)
    theirs = utils.load_dataset(str(train), add_info=True)
    ours = read(train)[0]
    for key, value in {"observations": ours.obs, "next_observations": ours.next_obs, "actions": ours.action}.items():
        assert (theirs[key] == value).all()
    assert (theirs["terminals"] == ours.truncated).all()
    assert (theirs["qpos"] == ours.extras["qpos"]).all()
    assert len(ours.offsets) - 1 == 8 and len(read(held)[0].offsets) - 1 == 2
    assert read(held)[1].sizes["trajectories"] == 2


def test_minari_opens_our_folder_and_we_read_theirs(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="pip install 'valex[offline]'")
    import gymnasium
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = numbered(extras=True)
    write(tmp_path / "ours-v0", data, card_of(data), "minari")
    theirs = minari.load_dataset("ours-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (4, 14)
    episodes = list(theirs.iterate_episodes())
    assert episodes[2].observations.tolist() == [[2, 0], [2, 1], [2, 2], [2, 3]]  # the final observation is there
    assert [e.terminations[-1] for e in episodes] == [False, True, True, False]
    assert [e.truncations[-1] for e in episodes] == [True, False, False, True]
    assert theirs.action_space == gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    torque = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    buffers = [
        EpisodeBuffer(
            id=e,
            seed=e,
            observations=np.arange(e + 3, dtype=np.float32)[:, None],
            actions=np.full((e + 2, 1), 1.0, np.float32),
            rewards=np.arange(e + 2.0),
            terminations=[False] * (e + 1) + [e == 1],
            truncations=[False] * (e + 1) + [e == 0],
            infos={},
        )
        for e in range(2)
    ]
    minari.create_dataset_from_buffers(
        "theirs-v0", buffers, observation_space=gymnasium.spaces.Box(-9, 9, (1,), np.float32), action_space=torque
    )
    back, card = read(tmp_path / "theirs-v0")
    assert back.offsets.tolist() == [0, 2, 5]
    assert back.next_obs[:, 0].tolist() == [1, 2, 1, 2, 3]
    assert back.terminated.tolist() == [False] * 4 + [True]
    assert (back.action == 0.5).all() and any("rescaled" in note for note in card.notes)
    assert card.env == {} and "expert_return" not in card.optimality

    env = gymnasium.make("Pendulum-v1", g=9.0)
    minari.create_dataset_from_buffers("known-v0", buffers, env=env, ref_min_score=-2.0, ref_max_score=6.0,
                                       observation_space=gymnasium.spaces.Box(-9, 9, (1,), np.float32))  # fmt: skip
    card = read(tmp_path / "known-v0")[1]
    assert card.env == {"id": "Pendulum-v1", "kwargs": {"g": 9.0, "max_episode_steps": 200}}
    assert (card.optimality["random_return"], card.optimality["expert_return"]) == (-2.0, 6.0)
    assert card.optimality["normalised"] == pytest.approx(100.0 * (2.0 + 2.0) / 8.0)  # returns 1 and 3


def test_d4rl_without_successors_says_what_it_derived(tmp_path):
    from valex.datasets.d4rl import from_dict, to_dict

    data = numbered()
    arrays = {key: value for key, value in to_dict(data).items() if key != "next_observations"}
    notes: list[str] = []
    back = from_dict(arrays, notes)
    kept = [i for i in range(14) if i not in (3, 13)]  # the successor of a timed-out row was not recorded
    assert (back.obs == data.obs[kept]).all()
    alive = ~np.asarray(back.terminated)
    assert (back.next_obs[alive] == data.next_obs[kept][alive]).all()
    assert back.offsets.tolist() == [0, 3, 4, 7, 12]
    assert any("derived" in note and "2 rows" in note for note in notes)


def test_d4rl_cuts_where_observations_jump():
    from valex.datasets.d4rl import from_dict, to_dict

    data = numbered((4, 6), ())
    arrays = {key: value for key, value in to_dict(data).items() if key != "timeouts"}
    assert from_dict(arrays, []).offsets.tolist() == [0, 4, 10]
    arrays["next_observations"] = arrays["next_observations"].copy()
    arrays["next_observations"][6] += 5e-7  # below the jump that parts trajectories
    assert from_dict(arrays, []).offsets.tolist() == [0, 4, 10]
    arrays["next_observations"][6] += 5e-6
    notes: list[str] = []
    assert from_dict(arrays, notes).offsets.tolist() == [0, 4, 7, 10]
    assert "end at 0 rows by terminals and timeouts, and at 2 more" in notes[-1]


def test_d4rl_refuses_successors_that_are_hardly_ever_the_row_behind():
    from valex.datasets.d4rl import from_dict, to_dict
    from valex.offline.data import DataError

    arrays, notes = to_dict(numbered((4, 6), ())), []
    assert from_dict(arrays, notes).offsets.tolist() == [0, 4, 10] and notes == []
    right = arrays["next_observations"]
    for wrong in (np.zeros_like(right), np.roll(right, 1, axis=0), (right - right.mean()) / right.std()):
        with pytest.raises(DataError, match=r"^next_observations: row 0 .* 8 of 8 rows that no flag ends"):
            from_dict(arrays | {"next_observations": wrong}, [])


def test_episodes_that_go_on_behind_a_termination_are_cut_there(tmp_path):
    import h5py

    data = numbered((6,), ())
    path = write(tmp_path / "set-v0", data, card_of(data), "minari")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/terminations"][2] = True
        del file.attrs["valex_card"]
    back, card = read(path)
    assert back.offsets.tolist() == [0, 3, 6]
    assert np.flatnonzero(back.terminated).tolist() == [2] and np.flatnonzero(back.truncated).tolist() == [5]
    assert any("cut there" in note for note in card.notes)


def test_a_format_that_stores_observations_once_refuses_successors_of_their_own(tmp_path):
    data = numbered()
    data.next_obs[1] += 1.0
    for name in ("ogbench", "minari"):
        with pytest.raises(ConfigError, match="next_obs: row 1 .*write it as d4rl or native"):
            write(tmp_path / NAMES[name], data, card_of(data), name)
    assert list(tmp_path.iterdir()) == []
    for name in ("d4rl", "native"):
        assert same(read(write(tmp_path / NAMES[name], data, card_of(data), name))[0], data)


def test_numbers_that_are_too_large_to_learn_from_are_noted(tmp_path):
    data = numbered()
    assert card_of(data).notes == ()
    data.reward[[7, 9]], data.obs[3, 1] = (1e30, -2e9), -1e9
    expected = (
        "seen",
        "reward: row 7 is 1e+30; values of such data diverge",
        "obs: row 3 is -1e+09; values of such data diverge",
    )
    card = card_of(data, notes=("seen",))
    assert card.notes == expected
    assert read(write(tmp_path / "set", data, card))[1].notes == expected  # a note, not an error


def test_cards_go_to_text_and_back():
    data = numbered()
    card = card_of(data, seed=1, env={"id": "pendulum"}, versions={"valex": "0.1.0"})
    assert from_json(to_json(card), "here") == card
    text = to_text(card)
    for word in (
        "numbered",
        "14 transitions in 4 trajectories",
        "normalised 70",
        "pendulum",
        card.sha256,
        "valex 0.1.0",
    ):
        assert word in text
    assert replace(card, seed=None) != card
    assert "not known" in to_text(replace(card, seed=None))


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
sys.path.insert(0, {tests!r})
from trajectories import numbered
from valex.datasets import files
from valex.datasets.card import make_card
real = os.replace
def wait(*args):
    print("writing", flush=True)
    import time; time.sleep(60)
os.replace = wait
data = numbered((9, 9), ())
files.write(Path({path!r}), data, make_card(data, "new", "killed"), {name!r})
"""


@pytest.mark.parametrize("name", ["native", "ogbench"])
def test_a_kill_leaves_the_dataset_that_was_there(name, tmp_path):
    data = numbered()
    path = write(tmp_path / NAMES[name], data, card_of(data), name)
    code = KILLED.format(tests=os.path.dirname(os.path.dirname(__file__)), path=str(path), name=name)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert same(read(path)[0], data)
    json.dumps(read(path)[1].sizes)


def test_native_arrays_are_mapped_and_the_file_is_not_written_through_them(tmp_path):
    from safetensors.numpy import load_file

    from valex.datasets.native import ARRAYS, TYPES, mapped

    data = numbered(extras=True)
    path = write(tmp_path / "set", data, card_of(data))
    theirs, ours = load_file(path / ARRAYS), mapped(path / ARRAYS)
    assert set(theirs) == set(ours) and all((theirs[name] == ours[name]).all() for name in theirs)
    back = read(path)[0]
    back.reward[:] = 7.0
    assert same(read(path)[0], data)
    every = {name: np.arange(3).astype(kind) for name, kind in TYPES.items()}
    from safetensors.numpy import save_file

    save_file(every, tmp_path / "types")
    assert all((mapped(tmp_path / "types")[name] == every[name]).all() for name in every)
