"""Many runs in many processes: signals, kills, two commands on one directory, and what is left afterwards."""

import itertools
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
from tiny import LONG, TINY, finish, lines, metrics, status, wait_until, words

from valex import device, launch, runner, store, workers
from valex.config import run_id
from valex.fields import ConfigError
from valex.settings import DiagnosticsConfig, StoreConfig

OPTIONS = launch.LaunchOptions(workers=1)
PAIR = [replace(TINY, seed=0), replace(TINY, seed=1)]
LONG_PAIR = [replace(LONG, seed=0), replace(LONG, seed=1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[int, bytes]:
    """The metrics of two long runs that nothing disturbed, by seed."""
    root = tmp_path_factory.mktemp("whole")
    return {config.seed: metrics(tiny.train(config, root)) for config in LONG_PAIR}


def command(root: Path, *more: str) -> list[str]:
    return ["train", "sac", *words(LONG), f"out={root}", "--device", "cpu", *more]


def test_kills_at_random_moments_change_nothing(whole, tmp_path):
    """SIGKILL, as a user's machine does it; every moment inside one evaluation is in test_runner.py."""
    path, rng = tmp_path / run_id(LONG), random.Random(0)
    for at_least in (1, 25, 60):
        process = tiny.start(*command(tmp_path))
        begun = lines(path)
        wait_until(lambda least=at_least, begun=begun: lines(path) >= least and lines(path) != begun, process)
        time.sleep(rng.uniform(0.0, 0.03))
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        assert status(path)["state"] == "running" and lines(path) < 149
    assert finish(tiny.start(*command(tmp_path))).code == 0
    assert metrics(path) == whole[0] and status(path)["state"] == "finished"


def test_workers_die_with_their_parent_and_the_command_goes_on(whole, tmp_path):
    """Two workers: SIGTERM stops both with a checkpoint, SIGKILL of the parent takes both along, then all is finished.

    SIGTERM goes to the whole process group, as a batch system sends it: a worker gets it twice, once from its parent.
    """
    seeds = ["--workers", "2", "--seeds", "0", "1"]
    paths = [tmp_path / run_id(config) for config in LONG_PAIR]

    process = tiny.start(*command(tmp_path, *seeds))
    wait_until(lambda: min(map(lines, paths)) >= 2, process)
    os.killpg(process.pid, signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 75 and "Traceback" not in stopped.err, stopped.err
    reached, total = [status(path)["env_steps"] for path in paths], LONG.train.env_steps
    for path, steps in zip(paths, reached, strict=True):  # on a busy machine one may be through before the other begins
        assert status(path)["state"] == ("finished" if steps == total else "interrupted")
        assert steps == total or store.checkpoint_steps(path)[0] == steps
    assert min(reached) < total
    assert all(store.read_json(path / "meta.json")["threads"] == 1 for path in paths)

    process = tiny.start(*command(tmp_path, *seeds))
    newest = lambda path: max(store.checkpoint_steps(path), default=total)  # noqa: E731
    wait_until(lambda: all(newest(p) > r or r == total for p, r in zip(paths, reached, strict=True)), process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5.0
    for path in paths:
        while True:  # an orphan would hold the lock until its run ends
            try:
                with store.locked(path):
                    break
            except store.StoreError:
                assert time.monotonic() < deadline, "a worker outlived its parent"
                time.sleep(0.02)

    said = finish(tiny.start(*command(tmp_path, *seeds, "--json")))
    assert said.code == 0, said.err
    assert [metrics(path) for path in paths] == [whole[0], whole[1]]


def test_ctrl_c_stops_with_a_checkpoint_and_a_second_command_is_turned_away(whole, tmp_path):
    path = tmp_path / run_id(LONG)
    process = tiny.start(*command(tmp_path))
    wait_until(lambda: lines(path) >= 2, process)
    process.send_signal(signal.SIGSTOP)
    try:
        before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
        second = tiny.valex(*command(tmp_path, "-q"))
        assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    finally:
        process.send_signal(signal.SIGCONT)
    assert second.code == 1
    (line,) = second.err.splitlines()
    assert "another process is training in this directory" in line and str(path) in line
    process.send_signal(signal.SIGINT)
    first = finish(process)
    assert first.code == 130 and "Traceback" not in first.err
    assert status(path)["state"] == "interrupted" and status(path)["env_steps"] == store.checkpoint_steps(path)[0]
    assert tiny.valex(*command(tmp_path)).code == 0
    assert metrics(path) == whole[0]


def test_a_run_goes_on_with_the_threads_it_began_with(whole, tmp_path):
    """XLA splits its sums by threads: what was begun on one must not end on two."""
    asked = itertools.count()
    path = tiny.train(LONG, tmp_path, runner.Hooks(should_stop=lambda: next(asked) >= 97))
    wide = replace(LONG, agent=replace(LONG.agent, hidden=(8, launch.SMALL_NET + 1)))
    assert store.read_json(path / "meta.json")["threads"] == 1
    assert launch._by_threads([[LONG], [wide]], tmp_path, workers=1, cores=2) == {1: [[LONG]], 2: [[wide]]}
    assert launch._by_threads([[LONG], [wide]], tmp_path, workers=2, cores=2) == {1: [[LONG], [wide]]}
    store.write_json(path / "meta.json", {"threads": 2})
    assert launch._by_threads([[LONG]], tmp_path, workers=1, cores=2) == {2: [[LONG]]}
    store.write_json(path / "meta.json", {"threads": 1})
    assert tiny.valex(*command(tmp_path)).code == 0
    assert metrics(path) == whole[0] and store.read_json(path / "meta.json")["threads"] == 1


def test_what_needs_other_threads_than_this_process_has_gets_a_worker(tmp_path):
    """A pytest process has one thread: nets that are shared out go to a process of their own with all cores."""
    wide = replace(TINY, agent=replace(TINY.agent, hidden=(launch.SMALL_NET + 1,)))
    cores = len(device.available_cores())
    assert launch.launch([TINY, wide], tmp_path, OPTIONS).exit_code() == 0
    found = [store.read_json(tmp_path / run_id(config) / "meta.json")["threads"] for config in (TINY, wide)]
    assert found == [1, cores]


def test_begun_with_more_threads_than_there_are_cores(tmp_path):
    path = tmp_path / run_id(TINY)
    store.save_checkpoint(path, 80, {}, 2)
    store.write_json(path / "meta.json", {"threads": 9_999})
    assert launch._by_threads([[TINY]], tmp_path, workers=1, cores=2) == {1: [[TINY]]}


def test_equal_runs_are_run_once_and_shapes_go_together():
    other = replace(TINY, gamma=0.5)
    measured = replace(PAIR[0], diagnostics=DiagnosticsConfig(overhead=True))
    assert launch.groups([measured, PAIR[0], PAIR[1], other], vmap_seeds=False) == [[measured], [PAIR[1]], [other]]
    assert launch.groups([measured, other, PAIR[1]], vmap_seeds=True) == [[measured, PAIR[1]], [other]]
    stored = replace(PAIR[1], store=StoreConfig(keep=9))
    assert launch.groups([PAIR[0], stored], vmap_seeds=True) == [[PAIR[0]], [stored]]


def test_what_is_finished_is_not_started(tmp_path, monkeypatch):
    for config, state in zip(PAIR, ("finished", "failed"), strict=True):
        (tmp_path / run_id(config)).mkdir()
        store.write_json(tmp_path / run_id(config) / "status.json", {"state": state, "message": "why"})
    monkeypatch.setattr(launch, "run_group", None)
    monkeypatch.setattr(launch, "Pool", None)
    told = []
    summary = launch.launch(PAIR, tmp_path, launch.LaunchOptions(workers=2, progress=told.append))
    assert summary.states == {run_id(PAIR[0]): "finished", run_id(PAIR[1]): "failed"}
    assert summary.exit_code() == 3 and [event["phase"] for event in told] == ["ended", "ended"]


@pytest.mark.parametrize("error", [KeyError("reward"), ValueError("two\nlines"), MemoryError(), RuntimeError("")])
def test_a_run_that_raises_does_not_stop_the_others(tmp_path, monkeypatch, error):
    def run(configs, root, hooks):
        if configs[0].seed == 0:
            raise error
        (root / run_id(configs[0])).mkdir()
        store.write_json(root / run_id(configs[0]) / "status.json", {"state": "finished"})

    monkeypatch.setattr(runner, "run", run)
    summary = launch.launch(PAIR, tmp_path, OPTIONS)
    assert list(summary.states.values()) == ["error", "finished"] and summary.exit_code() == 1
    (message,) = summary.messages.values()
    assert message.startswith(type(error).__name__) and "\n" not in message


def test_a_worker_that_dies_does_not_stop_the_others(tmp_path):
    """The kernel kills the one worker in the middle of its first run; another takes the second."""
    events, killed = [], []

    def progress(event):
        events.append(event)
        if event["phase"] == "training" and not killed:
            killed.append(event["run"])
            (process,) = (entry[0] for entry in pool.busy.values())
            process.kill()

    options = launch.LaunchOptions()
    summary = workers.Summary()
    with workers.Stop() as stop:
        jobs = [launch.job([config], tmp_path, options) for config in LONG_PAIR]
        pool = workers.Pool(jobs, progress, stop, summary)
        pool.run([device.available_cores()])
    first, second = (run_id(c) for c in LONG_PAIR)
    assert killed == [first] and summary.states == {first: "error", second: "finished"}
    assert "exit code -9" in summary.messages[first] and status(tmp_path / second)["state"] == "finished"


def test_a_worker_that_compiled_much_is_replaced_when_its_shape_is_done(monkeypatch):
    jobs = [workers.Job((name,), name[0], partial(tiny.whose, name)) for name in ("a1", "b1", "a2", "b2", "c1")]
    summary = workers.Summary()
    monkeypatch.setattr(workers, "crowded", lambda pid: True)
    with workers.Stop() as stop:
        workers.Pool(jobs, lambda event: None, stop, summary).run([[]])
    by_shape = {shape: {summary.messages[name] for name in summary.states if name[0] == shape} for shape in "abc"}
    assert set(summary.states.values()) == {"finished"} and [len(pids) for pids in by_shape.values()] == [1, 1, 1]
    assert len(set.union(*by_shape.values())) == 3


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the maps of a process")
def test_maps_are_counted_against_what_the_kernel_grants(monkeypatch):
    for most, wanted in ((0.0, True), (1.0, False)):  # a process of as many maps would not live
        monkeypatch.setattr(workers, "MOST_MAPS", most)
        assert workers.crowded(os.getpid()) == wanted and not workers.crowded(None)


def test_a_stop_keeps_what_has_not_begun_from_starting(tmp_path, monkeypatch):
    def run(configs, root, sinks, stop, progress):
        os.kill(os.getpid(), signal.SIGTERM)
        return {run_id(configs[0]): ("finished", "")}

    monkeypatch.setattr(launch, "run_group", run)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    summary = launch.launch(PAIR, tmp_path, OPTIONS)
    assert list(summary.states.values()) == ["finished", "interrupted"] and summary.exit_code() == 75
    assert launch.launch(PAIR[:1], tmp_path, OPTIONS).exit_code() == 0, "nothing was left when the signal came"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_signal_ends_at_once():
    with workers.Stop() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() and stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("states", "number", "code"),
    [
        ("finished finished", 0, 0),
        ("finished failed", 0, 3),
        ("failed error", 0, 1),
        ("finished interrupted", signal.SIGTERM, 75),
        ("failed interrupted", signal.SIGINT, 130),
        ("finished", signal.SIGTERM, 0),
        ("failed", signal.SIGTERM, 3),
    ],
)
def test_exit_codes(states, number, code):
    summary = workers.Summary(dict(enumerate(states.split())), {}, number)  # pyright: ignore[reportArgumentType]
    assert summary.exit_code() == code


def test_a_config_that_cannot_be_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="gamma"):
        launch.launch([TINY, replace(TINY, gamma=2.0)], tmp_path, OPTIONS)
    assert not list(tmp_path.iterdir())
