"""Artefacts: made once, whole or not at all, the same bits after a kill, and of nothing beyond the rows they were given."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from valex import artefacts, store
from valex.artefacts import Hooks, PolicyAsk, ValueAsk, make_recipe, obtain, open_source
from valex.fields import ConfigError
from valex.finished import named_arrays
from valex.offline.data import Dataset, from_arrays, permuted, prefix_rows
from valex.settings.offline import AWRConfig, BCConfig, CRLConfig, DDPGBCConfig, IQLConfig, SARSAConfig, SfBCConfig

TINY = {"hidden": (4,), "activation": "relu", "batch_size": 8, "steps": 6, "lr": 1e-3}
VALUE = ValueAsk(20, IQLConfig(**TINY, layer_norm=False))
POLICY = PolicyAsk(40, DDPGBCConfig(**TINY), VALUE)
OFTEN = Hooks(chunk=2)


@cache
def data(seed: int = 0) -> Dataset:
    """Ten trajectories of six steps."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(60, 2))
    steps = {"obs": obs, "action": rng.uniform(-1, 1, (60, 1)), "reward": rng.normal(size=60), "next_obs": obs + 0.1,
             "terminated": np.arange(60) % 12 == 5}  # fmt: skip
    return permuted(from_arrays(steps, np.arange(0, 61, 6), {}), seed)


@cache
def source() -> artefacts.Source:
    return open_source(data())


def bits(artefact) -> dict[str, bytes]:
    """Return everything that training left, array by array."""
    return {name: np.asarray(leaf).tobytes() for name, leaf in named_arrays(artefact.phase).items()}


def files(folder: Path) -> dict[str, bytes]:
    """Return what has to be the same however often training was interrupted."""
    return {
        p.name: p.read_bytes() for p in folder.rglob("*") if p.suffix == ".safetensors" or p.name == "metrics.jsonl"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A value and a policy over it that nothing interrupted, and what was told meanwhile."""
    root, told = tmp_path_factory.mktemp("whole"), []
    return root, obtain(root, source(), POLICY, replace(OFTEN, tell=told.append)), told


def folder(root: Path, kind: str) -> Path:
    (found,) = (root / kind).iterdir()
    return found


# --------------------------------------------------------------------------------------------------------------- made once


def test_a_policy_brings_its_value_and_both_are_made_once(whole):
    root, policy, told = whole
    assert [(event["grad_steps"], event["total"]) for event in told] == [(2, 6), (4, 6), (6, 6)] * 2
    assert [name for event in told for name in ("value/q_loss", "policy/loss") if name in event] == (
        ["value/q_loss"] * 3 + ["policy/loss"] * 3
    )
    again = obtain(root, source(), POLICY, Hooks(tell=lambda event: pytest.fail("trained again")))
    value = obtain(root, source(), VALUE, Hooks(tell=lambda event: pytest.fail("trained again")))
    assert bits(again) == bits(policy) and again.path == policy.path == folder(root, "policies")
    assert value.path == folder(root, "values") and int(value.phase.steps) == 6
    action = again.parts.mean(again.phase.learner, source().data.obs[:3], (), again.frozen)
    assert action.shape == (3, 1)
    for path in (value.path, policy.path):
        names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
        last = {f"checkpoints/000000000006.{end}" for end in ("safetensors", "json")}
        assert names == {".lock", "artefact.json", "meta.json", "status.json", "metrics.jsonl"} | last
        assert store.read_json(path / "status.json")["state"] == "finished"
    assert store.read_json(policy.path / "artefact.json")["value"] == value.path.name
    assert store.read_json(policy.path / "artefact.json")["rows"] == 42  # whole trajectories of six


def test_chunks_leave_no_trace(whole, tmp_path):
    policy = obtain(tmp_path, source(), POLICY, Hooks(chunk=5))
    assert policy.path.name == whole[1].path.name and bits(policy) == bits(whole[1])


def name(ask, of: artefacts.Source | None = None) -> str:
    """Return what an artefact would be called; nothing is trained."""
    return make_recipe(of or source(), ask).name


def test_a_name_depends_on_everything_that_the_artefact_depends_on():
    iql, ddpg = VALUE.config, POLICY.config
    values = [VALUE, VALUE._replace(size=30), ValueAsk(20, SARSAConfig(**TINY))]
    values += [VALUE._replace(config=replace(iql, **change)) for change in (
        {"seed": 1}, {"steps": 7}, {"lr": 2e-3}, {"expectile": 0.8}, {"goals": "gciql"}, {"hidden": (5,)})]  # fmt: skip
    policies = [POLICY, POLICY._replace(size=30), *(POLICY._replace(over=value) for value in values[1:-2])]
    policies += [
        POLICY._replace(config=replace(ddpg, **change)) for change in ({"seed": 1}, {"steps": 7}, {"alpha": 1.0})
    ]
    names = [name(ask) for ask in values + policies] + [name(ask, open_source(data(1))) for ask in (VALUE, POLICY)]
    assert len(set(names)) == len(names)


def test_a_name_depends_on_nothing_else():
    assert name(VALUE) == name(VALUE._replace(size=24))  # the same whole trajectories
    assert name(VALUE) == name(VALUE._replace(config=replace(VALUE.config, goal_reward="bonus")))  # there are no goals
    awr = POLICY._replace(config=AWRConfig(**TINY, weight_clip=100.0))
    assert name(awr) == name(awr._replace(config=AWRConfig(**TINY, weight_clip=100)))
    bc = PolicyAsk(40, BCConfig(**TINY, behaviour="mixture", components=3))
    assert name(bc) == name(bc._replace(config=replace(bc.config, flow_steps=3)))
    assert name(bc) != name(bc._replace(config=replace(bc.config, components=4)))


def test_what_is_cloned_is_cloned_once_for_all_values_and_numbers_of_candidates(tmp_path):
    settings = TINY | {"behaviour": "gaussian", "std": "shared"}
    cloned = obtain(tmp_path, source(), PolicyAsk(40, BCConfig(**settings)))
    silent = Hooks(tell=lambda event: pytest.fail("cloned again"))
    obtain(tmp_path, source(), VALUE)
    for samples in (2, 9):
        best = obtain(tmp_path, source(), PolicyAsk(40, SfBCConfig(**settings, samples=samples), VALUE), silent)
        assert best.path == cloned.path and bits(best) == bits(cloned)
        obs = source().data.obs[:50]
        action = best.parts.mean(best.phase.learner, obs, (), best.frozen)
        assert action.shape == (50, 1) and (action != cloned.parts.mean(cloned.phase.learner, obs)).any()


# ------------------------------------------------------------------------------------------------------- kills and damage


class Killed(BaseException):
    """The end of a process."""


def kill_at(moment: str, monkeypatch) -> Hooks:
    """Raise in the middle of training: in a hook, before a line of metrics, or while the second checkpoint is written."""
    count = {"calls": 0}

    def after(calls: int, real=None):
        def call(*arguments):
            count["calls"] += 1
            if count["calls"] > calls:
                raise Killed
            return real(*arguments) if real else None

        return call

    if moment == "hook":
        return replace(OFTEN, tell=after(1))
    if moment == "line":
        monkeypatch.setattr(store, "append_line", after(1, store.append_line))
        return OFTEN
    real = os.replace
    wanted = ".safetensors" if moment == "arrays" else ".json"

    def put(part, path):
        second = path.parent.name == "checkpoints" and path.name == f"000000000004{wanted}"
        if second:
            raise Killed
        real(part, path)

    monkeypatch.setattr(os, "replace", put)
    return OFTEN


@pytest.mark.parametrize("moment", ["hook", "line", "arrays", "manifest"])
@pytest.mark.parametrize("kind", ["values", "policies"])
def test_a_kill_changes_no_bit(kind, moment, whole, tmp_path, monkeypatch):
    ask = VALUE if kind == "values" else POLICY
    if kind == "policies":
        obtain(tmp_path, source(), VALUE)
    with monkeypatch.context() as patch:
        hooks = kill_at(moment, patch)
        with pytest.raises(Killed):
            obtain(tmp_path, source(), ask, hooks)
    left = folder(tmp_path, kind)
    assert not list(left.rglob("*.part"))
    assert store.read_json(left / "status.json")["state"] == "interrupted"
    reached, told = store.checkpoint_steps(left)[0], []
    assert reached == (4 if moment == "hook" else 2)
    ended = obtain(tmp_path, source(), ask, replace(OFTEN, tell=told.append))
    assert [event["grad_steps"] for event in told] == [4, 6][reached // 2 - 1 :]
    assert files(ended.path) == files(folder(whole[0], kind))


def test_what_a_sudden_end_leaves_half_written_is_removed(whole, tmp_path):
    """No exception is raised where the power goes: part files lie about, a line is torn, a checkpoint has no manifest."""
    with pytest.raises(Killed):
        obtain(tmp_path, source(), VALUE, replace(OFTEN, tell=lambda event: (_ for _ in ()).throw(Killed())))
    path = folder(tmp_path, "values")
    (path / "checkpoints" / ".000000000004.safetensors.17.part").write_bytes(b"half")
    (path / "checkpoints" / "000000000004.safetensors").write_bytes(b"whole, but no manifest")
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"grad_steps": 4, "value/q')
    ended = obtain(tmp_path, source(), VALUE, OFTEN)
    assert files(ended.path) == files(folder(whole[0], "values")) and not list(path.rglob("*.part"))


def test_a_damaged_artefact_is_made_again_and_a_false_one_refused(whole, tmp_path, capsys):
    made = obtain(tmp_path, source(), VALUE, OFTEN)
    file = made.path / "checkpoints" / "000000000006.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert bits(obtain(tmp_path, source(), VALUE, OFTEN)) == bits(made)
    assert "checkpoint at 6 is damaged" in capsys.readouterr().err
    known = store.read_json(made.path / "artefact.json")
    store.write_json(made.path / "artefact.json", known | {"rows": 60})
    with pytest.raises(store.StoreError, match="not what the folder is named after; delete"):
        obtain(tmp_path, source(), VALUE)


def test_what_diverges_is_said_once_and_not_tried_again(tmp_path):
    ask = VALUE._replace(config=replace(VALUE.config, lr=1e30))
    with pytest.raises(store.StoreError, match=r"is not finite after [246] updates; lower value\.lr"):
        obtain(tmp_path, source(), ask, OFTEN)
    path = folder(tmp_path, "values")
    assert store.read_json(path / "status.json")["state"] == "failed"
    before = files(path)
    with pytest.raises(store.StoreError, match="is not finite.*delete the folder"):
        obtain(tmp_path, source(), ask, Hooks(tell=lambda event: pytest.fail("tried again")))
    assert files(path) == before


HOLD = """
import sys
from pathlib import Path
from valex import store
with store.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_that_ask_for_one_artefact_train_it_once(whole, tmp_path):
    """Two threads wait for a process that holds it and dies; one of them then trains, the other loads."""
    path = make_recipe(source(), VALUE).path(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    told, made = [], []
    hooks = replace(OFTEN, tell=told.append)
    threads = [threading.Thread(target=lambda: made.append(obtain(tmp_path, source(), VALUE, hooks))) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[0].join(0.3)
    assert not told and not made and all(thread.is_alive() for thread in threads)
    holder.kill()
    for thread in threads:
        thread.join(60)
    assert [event["grad_steps"] for event in told] == [2, 4, 6]
    assert bits(made[0]) == bits(made[1]) and files(path) == files(folder(whole[0], "values"))
    holder.communicate()


# -------------------------------------------------------------------------------------------------- rows, and what is refused


@pytest.mark.parametrize("goals", [False, True])
def test_nothing_beyond_the_prefix_is_read(goals, tmp_path):
    """Rows behind the prefix that are poisoned change nothing, of a value and of a policy with fewer rows still."""
    value = ValueAsk(30, CRLConfig(**TINY, layer_norm=False, latent=4) if goals else VALUE.config)
    policy = PolicyAsk(13, DDPGBCConfig(**TINY, goals="explore" if goals else "none"), value)
    learned = []
    for behind in (lambda x: x, lambda x: np.nan * x):
        poison = lambda x, change=behind: np.concatenate([x[:30], change(x[30:])])  # noqa: E731
        changed = {key: poison(getattr(data(), key)) for key in ("obs", "action", "reward", "next_obs")}
        learned.append(bits(obtain(tmp_path, open_source(data()._replace(**changed)), policy)))
    assert prefix_rows(data(), (30, 13)) == (30, 18)
    assert learned[0] == learned[1]


REFUSED = {
    "no value": (PolicyAsk(40, AWRConfig(**TINY)), "policy.name: awr is read off a value"),
    "field": (VALUE._replace(config=replace(VALUE.config, lr=0.0)), "value.lr: 0.0 is outside (0, inf)"),
    "field of the value": (POLICY._replace(over=ValueAsk(20, IQLConfig(gamma=1.0))), "value.gamma: 1.0 is outside"),
    "size": (VALUE._replace(size=61), "sizes: (61,) are not all in 1..60"),
    "no goals": (ValueAsk(20, CRLConfig(**TINY, goals="none")), "crl needs goals"),
    "goals of one": (
        PolicyAsk(20, AWRConfig(**TINY), ValueAsk(20, CRLConfig(**TINY))),
        "policy.goals: none over a value",
    ),
    "candidates": (PolicyAsk(20, SfBCConfig(**TINY, behaviour="gaussian"), VALUE), "policy.std: candidates"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(what, tmp_path):
    ask, message = REFUSED[what]
    with pytest.raises(ConfigError) as error:
        obtain(tmp_path, source(), ask)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="chunk: 0"):
        obtain(tmp_path, source(), VALUE, Hooks(chunk=0))
