"""valex dataset convert leaves the dataset that it reads as it was."""

import os

import pytest
from tiny import valex
from trajectories import numbered

from valex.datasets.card import make_card
from valex.datasets.files import write

pytest.importorskip("h5py", reason="pip install 'valex[offline]'")


def test_a_dataset_is_not_converted_onto_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = numbered()
    write("set-v0", data, make_card(data, "set", "by hand"), "minari")
    write("m-val.npz", data, make_card(data, "set", "by hand"), "ogbench")
    os.symlink("set-v0", "link")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    pair = ("--format", "ogbench", "--val_share", "0.5")
    for words in (("set-v0", "set-v0"), ("set-v0", "./link"), ("set-v0/data", "set-v0"), ("m-val.npz", "m.npz", *pair)):
        said = valex("dataset", "convert", *words)
        assert said.code == 2 and "is where the dataset itself lies; name another path" in said.err
        assert said.err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
