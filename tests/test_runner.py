"""One run in its directory: killed anywhere, damaged, diverged, stopped, shared; it ends as if nothing had happened."""

import contextlib
import errno
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import TINY, metrics, status, train

from valex import finished, runner, store, tables
from valex.config import run_id
from valex.settings import CriticConfig, DiagnosticsConfig, EnvConfig, ModelConfig, StoreConfig
from valex.train import make_program

FILES = {
    "config.json",
    "meta.json",
    "status.json",
    "metrics.jsonl",
    "time.jsonl",
    "checkpoints",
    "final.safetensors",
    ".lock",
}


def checkpoints(path: Path) -> list[int]:
    return store.checkpoint_steps(path)


def after(evaluations: int) -> runner.Hooks:
    """Hooks that stop a run after so many evaluations: it asks once before the first, and once after each."""
    asked = itertools.count()
    return runner.Hooks(should_stop=lambda: next(asked) >= evaluations)


class Snapshots:
    """Copies of a run directory before every change that Python makes to a file in it.

    Each is what a SIGKILL at that moment leaves. The hook is an audit hook: it sees what is opened, renamed and removed,
    whatever the code calls for it.
    """

    EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")

    def __init__(self) -> None:
        self.source: Path | None = None
        self.target = Path()
        self.taken: list[Path] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.source is None or event not in self.EVENTS or not str(args[0]).startswith(str(self.source)):
            return
        if (event == "open" and args[1] in ("r", "rb")) or not self.source.exists():
            return
        source, self.source = self.source, None  # the copy opens files as well
        self.taken.append(Path(shutil.copytree(source, self.target / f"{len(self.taken):03d}" / source.name)))
        self.source = source

    @contextlib.contextmanager
    def of(self, path: Path, target: Path) -> Iterator[list[Path]]:
        self.source, self.target, self.taken = path, target, []
        try:
            yield self.taken
        finally:
            self.source = None


SNAPSHOTS = Snapshots()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    return train(TINY, tmp_path_factory.mktemp("whole"))


def copy(path: Path, root: Path) -> Path:
    return Path(shutil.copytree(path, root / path.name))


def interrupted(root: Path, evaluations: int = 3) -> Path:
    path = train(TINY, root, after(evaluations))
    assert status(path)["state"] == "interrupted"
    return path


def test_what_a_finished_run_leaves(whole):
    assert {p.name for p in whole.iterdir()} == FILES
    assert status(whole) == {"state": "finished", "env_steps": 240, "message": ""}
    run = store.read_run(whole)
    assert run.config == TINY
    assert list(run.metrics["env_steps"]) == [80, 120, 160, 200, 240]
    assert list(run.metrics["grad_steps"]) == [40, 80, 120, 160, 200]
    assert np.all(np.isfinite(run.metrics["critic/loss"])) and len(run.time["time/update_s"]) == 6
    assert checkpoints(whole) == [] and store.load_final(whole)
    meta = store.read_json(whole / "meta.json")
    assert meta["threads"] == 1 and meta["device"].startswith("cpu") and meta["versions"]["jax"]


def test_another_run_of_the_same_config_is_bit_identical(whole, tmp_path):
    assert metrics(train(TINY, tmp_path)) == metrics(whole)
    assert metrics(train(replace(TINY, seed=1), tmp_path)) != metrics(whole)


def test_a_kill_at_any_moment_changes_nothing(whole, tmp_path):
    """From every state of the directory that a kill can leave, the same call ends with the same bytes."""
    with SNAPSHOTS.of(tmp_path / "first" / run_id(TINY), tmp_path / "killed") as taken:
        train(TINY, tmp_path / "first")
    assert len(taken) > 40
    assert any(list(path.rglob("*.part")) for path in taken), "no copy was taken in the middle of a write"
    resumed_from = set()
    for path in taken:
        for part in path.rglob("*.part"):  # its name holds the process, and we are the same one
            part.rename(part.with_name(part.name.replace(str(os.getpid()), "17")))
        resumed_from.add(max(checkpoints(path), default=0))
        over = (path / "status.json").exists() and status(path)["state"] == "finished"
        train(TINY, path.parent)
        assert metrics(path) == metrics(whole), path
        assert over or checkpoints(path) == [], "only a kill after the end may leave a checkpoint behind"
        assert status(path)["state"] == "finished"
        assert {p.name for p in path.iterdir()} == FILES, path
    assert resumed_from == {0, 80, 120, 160, 200, 240}


def test_a_line_torn_by_a_kill_is_written_again(whole, tmp_path):
    path = interrupted(tmp_path)
    data = metrics(path)
    with open(path / "metrics.jsonl", "ab") as file:
        file.write(metrics(whole)[len(data) : len(data) + 100])
    train(TINY, tmp_path)
    assert metrics(path) == metrics(whole)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, tmp_path, capsys, damaged):
    path = interrupted(tmp_path)
    assert checkpoints(path) == [160, 120]
    for step in checkpoints(path)[:damaged]:
        file = path / "checkpoints" / f"{step:012d}.safetensors"
        file.write_bytes(file.read_bytes()[: -1 if damaged == 1 else 100])
    train(replace(TINY, store=replace(TINY.store, keep_finished=2)), tmp_path)
    assert metrics(path) == metrics(whole)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == damaged and all("is damaged" in line for line in said)
    assert checkpoints(path) == [240, 200]


def test_a_checkpoint_without_its_metrics_does_not_count(whole, tmp_path, capsys):
    """After a power cut a file system may hold the checkpoint and lack the lines; the run must not go on with a gap."""
    path = interrupted(tmp_path)
    (path / "metrics.jsonl").write_bytes(b"".join(metrics(path).splitlines(keepends=True)[:-1]))
    train(TINY, tmp_path)
    assert metrics(path) == metrics(whole)
    assert "metrics.jsonl at 160 is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["shape", "type", "lacking", "unknown"])
def test_a_checkpoint_that_does_not_fit_is_one_clear_error(tmp_path, change):
    path = interrupted(tmp_path)
    arrays = store.load_checkpoint(path, 160)
    assert arrays is not None
    name = ".replay.words"
    altered = {
        "shape": arrays | {name: arrays[name][:-1]},
        "type": arrays | {name: arrays[name].astype(np.float16)},
        "lacking": {key: value for key, value in arrays.items() if key != name},
        "unknown": arrays | {".novelty": arrays[name]},
    }[change]
    store.save_checkpoint(path, 160, altered, 2)
    with pytest.raises(store.StoreError, match=f"{path.name}.*160.*delete the run directory") as caught:
        train(TINY, tmp_path)
    assert "\n" not in str(caught.value) and (name in str(caught.value) or change == "unknown")
    assert len(metrics(path).splitlines()) == 3, "what was there is left alone"


def test_the_cadence_of_checkpoints(tmp_path):
    path = train(replace(TINY, store=StoreConfig(checkpoint_every=2, keep=4, keep_finished=4)), tmp_path)
    assert checkpoints(path) == [240, 200, 120]


def test_what_stays_of_a_finished_run(whole, tmp_path):
    """The agent, ready to act, and nothing of the replay; checkpoints go only after the run is marked finished."""
    parts, state = finished.load_agent(whole)
    assert checkpoints(whole) == [] and state.replay == () and int(state.iterations) == 200
    program = make_program(TINY)
    ended, *_ = program.chunk(program.start(jnp.uint32(TINY.seed)), jnp.int32(200))
    obs = jnp.ones((3, parts.env.spec.obs_dim))
    act = lambda agent: parts.agent.act(agent, jax.random.key(0), obs, explore=False).action  # noqa: E731
    np.testing.assert_allclose(act(state.agent), act(ended.agent), rtol=1e-5)
    path = copy(whole, tmp_path)
    file = path / "final.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(store.StoreError, match="final.safetensors: damaged"):
        finished.load_agent(path)
    file.unlink()
    with pytest.raises(store.StoreError, match="has not finished"):
        finished.load_agent(path)


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    path = copy(whole, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}
    assert runner.run([TINY], tmp_path) == "finished"
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()} == before


def test_a_stop_before_the_first_update_writes_no_line(whole, tmp_path):
    path = train(TINY, tmp_path, runner.Hooks(should_stop=lambda: True))
    assert status(path)["state"] == "interrupted" and tiny.lines(path) == 0
    train(TINY, tmp_path)
    assert metrics(path) == metrics(whole)


def test_a_stop_at_every_evaluation_changes_nothing(whole, tmp_path):
    for evaluations in range(1, 5):
        path = train(TINY, tmp_path, after(1))
        assert tiny.lines(path) == evaluations and status(path)["state"] == "interrupted"
        assert status(path)["env_steps"] == checkpoints(path)[0] == 40 + 40 * evaluations
    train(TINY, tmp_path, after(1))
    assert metrics(path) == metrics(whole) and status(path)["state"] == "finished"


def poison(path: Path, env_steps: int, prefix: str, value: float) -> None:
    """Put a number that is not finite into arrays of a checkpoint, as a diverging run would."""
    arrays = store.load_checkpoint(path, env_steps)
    assert arrays is not None
    hit = {n: a for n, a in arrays.items() if n.startswith(prefix) and a.dtype in (np.float32, np.uint32)}
    assert hit, sorted(arrays)
    bad = {n: np.full(a.shape, value, np.float32).view(a.dtype) for n, a in hit.items()}  # replay keeps bits
    store.save_checkpoint(path, env_steps, arrays | bad, 2)


def test_a_loss_that_is_not_finite_fails_the_run(tmp_path):
    path = interrupted(tmp_path)
    poison(path, 160, ".replay.words", np.nan)
    assert runner.run([TINY], tmp_path) == "failed"
    found = status(path)
    assert found["state"] == "failed" and found["env_steps"] == 200
    assert found["message"].endswith("is not finite from env step 161 on")
    assert found["message"].split("/")[0] in ("actor", "critic", "target", "alpha")
    assert checkpoints(path) == [160, 120] and tiny.lines(path) == 3, "what was good is kept"
    assert runner.run([TINY], tmp_path) == "failed" and tiny.lines(path) == 3, "it is not run again"


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    """An infinite second moment of Adam freezes a parameter; every loss stays finite."""
    path = interrupted(tmp_path)
    arrays = store.load_checkpoint(path, 160) or {}
    (name,) = (n for n in arrays if n.startswith(".agent.alpha_opt") and ".nu" in n)
    poison(path, 160, name, np.inf)
    assert runner.run([TINY], tmp_path) == "failed"
    assert status(path)["message"] == f"{name} is not finite after env step 200"
    assert checkpoints(path) == [160, 120]


def test_bad_parameter_reads_the_agent_only():
    good, bad = np.zeros(2, np.float32), np.array([0.0, np.nan], np.float32)
    assert runner.bad_parameter({".agent.a": good, ".replay.b": bad, ".agent.n": np.zeros(2, np.int32)}) is None
    assert runner.bad_parameter({".agent.b": bad, ".agent.a": bad, ".agent.c": good}) == ".agent.a"


PAIR = [replace(TINY, seed=0), replace(TINY, seed=1)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """Two seeds trained as one vmapped program."""
    root = tmp_path_factory.mktemp("pair")
    assert runner.run(PAIR, root) == "finished"
    return root


def test_seeds_trained_together_are_seeds_trained_alone(pair, whole, tmp_path):
    alone = [store.read_run(whole), store.read_run(train(PAIR[1], tmp_path))]
    for config, other in zip(PAIR, alone, strict=True):
        together = store.read_run(pair / run_id(config))
        assert together.metrics.keys() == other.metrics.keys() and together.status == other.status
        for name in ("env_steps", "grad_steps", "critic/loss", "target/mean", "eval/episode_return"):
            np.testing.assert_allclose(together.metrics[name], other.metrics[name], rtol=2e-3, err_msg=name)


def test_a_group_resumes_from_the_last_checkpoint_of_all(pair, tmp_path):
    hooks = after(3)
    assert runner.run(PAIR, tmp_path, hooks) == "interrupted"
    first = tmp_path / run_id(PAIR[0])
    store.forget_after(first, 120, 2)  # a kill between the checkpoints of its members
    assert runner.run(PAIR, tmp_path) == "finished"
    for config in PAIR:
        assert metrics(tmp_path / run_id(config)) == metrics(pair / run_id(config))


@pytest.mark.parametrize("sick", [{0}, {1}, {0, 1}])
def test_a_diverged_seed_does_not_stop_the_others(pair, tmp_path, sick):
    assert runner.run(PAIR, tmp_path, after(3)) == "interrupted"
    for seed in sick:
        poison(tmp_path / run_id(PAIR[seed]), 160, ".replay", np.nan)
    assert runner.run(PAIR, tmp_path) == "failed"
    for config in PAIR:
        path = tmp_path / run_id(config)
        if config.seed in sick:
            assert status(path)["state"] == "failed" and "env step 161" in status(path)["message"]
            assert tiny.lines(path) == 3 and checkpoints(path) == [160, 120]
        else:
            assert status(path)["state"] == "finished"
            assert metrics(path) == metrics(pair / run_id(config))


def test_a_finished_member_of_a_group_is_left_alone(pair, tmp_path):
    done = copy(pair / run_id(PAIR[0]), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()}
    assert runner.run(PAIR, tmp_path) == "finished"
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()} == before
    assert status(tmp_path / run_id(PAIR[1]))["state"] == "finished"


def test_a_model_that_diverges_is_named_with_its_remedy(tmp_path):
    """The run fails in one line, its store stays readable, the other runs of a grid go on."""
    model = ModelConfig("ensemble", num_models=2, hidden=(8,), lr=1e38, pretrain_steps=4, batch_size=16)
    config = replace(TINY, critic=CriticConfig("h_step", "model", 1), model=model)
    assert runner.run([config], tmp_path) == "failed"
    found = store.read_run(tmp_path / run_id(config))
    message = found.status["message"]
    assert (
        message.startswith("model/")
        and "is not finite from env step" in message
        and message.endswith("model.grad_clip")
    )


def test_a_learned_model_goes_on_where_it_stopped(tmp_path):
    """Nets, optimiser, statistics, elites, what is held out and the gradient steps still due: the same bytes after a stop."""
    model = ModelConfig(
        "ensemble", num_models=3, num_elites=2, hidden=(8,), batch_size=16, pretrain_steps=100, holdout=0.4,
        bootstrap="poisson", steps_per_env_step=0.3, train_every=7,
    )  # fmt: skip
    config = replace(TINY, critic=CriticConfig("h_step", "model", 2), model=model)
    config = replace(config, train=replace(TINY.train, replay_capacity=240, warmup_steps=120))
    alone = train(config, tmp_path / "alone")
    assert len(set(store.read_run(alone).metrics["model/holdout_mse"])) > 2, "the model goes on learning"
    assert metrics(train(replace(config, seed=1), tmp_path / "other")) != metrics(alone)
    train(config, tmp_path, after(2))
    assert metrics(train(config, tmp_path)) == metrics(alone)


@pytest.mark.parametrize("agent", [name for name in tables.AGENTS if name != "sac"])
def test_every_agent_goes_on_where_it_stopped(agent, tmp_path):
    """Delays, schedules and target nets included: the same bytes after a stop."""
    config = tiny.LEARNERS[agent]
    alone = train(config, tmp_path / "alone")
    train(config, tmp_path, after(2))
    assert metrics(train(config, tmp_path)) == metrics(alone)


def test_a_run_that_has_begun_is_not_begun_anew_for_a_new_seed(tmp_path):
    path = interrupted(tmp_path)
    begun = metrics(path)
    assert runner.run(PAIR, tmp_path, after(1)) == "interrupted"
    assert metrics(path).startswith(begun) and tiny.lines(path) == 4


def test_one_compilation_per_config_shape(monkeypatch, tmp_path):
    entry = tables.Entry("tiny:make_counting_pendulum", "counts traces")
    monkeypatch.setitem(tables.ENVS, "counting", entry)
    config = replace(TINY, env=EnvConfig("counting", episode_length=20))
    train(config, tmp_path)
    traced = tiny.TRACES["count"]
    assert traced > 0
    train(replace(config, seed=1), tmp_path)
    train(replace(config, seed=2, store=StoreConfig(keep=7)), tmp_path, after(2))
    train(replace(config, seed=2, store=StoreConfig(keep=7)), tmp_path)
    assert tiny.TRACES["count"] == traced, "another seed, another store or a resume compiles nothing"
    jax.eval_shape(make_program(replace(config, gamma=0.5)).start, jnp.uint32(0))
    assert tiny.TRACES["count"] > traced


def test_the_error_of_a_run_is_kept_in_its_status(whole, tmp_path, monkeypatch):
    """A full disk: the run stops with the error, keeps what was good and goes on when there is room again."""
    path = interrupted(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space left"):
            train(TINY, tmp_path)
    assert status(path)["state"] == "interrupted" and "No space left" in status(path)["message"]
    assert status(path)["env_steps"] == 200
    train(TINY, tmp_path)
    assert metrics(path) == metrics(whole)


def test_what_a_finished_run_lacks_is_measured_on_its_agent(tmp_path):
    """The same command with diagnostics that were not asked for before: trained once, and the same numbers as at its end."""
    model = ModelConfig("ensemble", num_models=2, hidden=(8,), batch_size=16, pretrain_steps=10)
    config = replace(TINY, critic=CriticConfig("h_step", "model", 1), model=model)
    asked = DiagnosticsConfig(model_error_steps=3, model_error_starts=4)
    full = replace(config, diagnostics=asked)
    at_once = train(full, tmp_path / "at once")
    later = train(config, tmp_path / "later")
    assert not (later / "diagnostics.json").exists()
    trained = (later / "metrics.jsonl").stat().st_mtime_ns
    train(full, tmp_path / "later")
    assert (later / "metrics.jsonl").stat().st_mtime_ns == trained
    for name in ("diagnostics.json", "config.json", "metrics.jsonl"):
        assert (later / name).read_bytes() == (at_once / name).read_bytes(), name
    written = (later / "diagnostics.json").stat().st_mtime_ns
    train(config, tmp_path / "later")  # asking for less takes nothing away, asking again does nothing
    train(full, tmp_path / "later")
    assert (later / "diagnostics.json").stat().st_mtime_ns == written
    assert store.unmeasured(later, replace(asked, model_error_starts=5)) is not None


def test_final_diagnostics_are_those_of_the_run(whole, tmp_path, monkeypatch):
    """They are no part of the run's name, and change nothing that is trained."""
    config = replace(TINY, diagnostics=DiagnosticsConfig(target_horizons=(0, 1)))
    seen = []

    def measure(config, parts, state):
        seen.append((config, int(state.iterations)))
        return {"spec": parts.env.spec.name}

    monkeypatch.setattr(runner, "final_diagnostics", measure)
    path = train(config, tmp_path)
    assert seen == [(config, 200)] and store.read_json(path / "diagnostics.json") == {"spec": "pendulum"}
    assert path.name == whole.name and metrics(path) == metrics(whole)
