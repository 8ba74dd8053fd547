"""Run many configs: in this process, or spread over spawned worker processes, one core each.

On a CPU every seed is a run of its own and workers share the runs (vmapping seeds is no faster there, see
docs/results/performance.md). On an accelerator the seeds of one config train as one vmapped program in this process.
A run that fails or a worker that dies does not stop the others.

The last bits of a run depend on the number of threads that XLA spreads its sums over. How many a run gets follows from the
command alone, not from what is left to do, and a run with a checkpoint goes on with the number that it began with.
"""

import contextlib
import ctypes
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from valex import store
from valex.checks import check
from valex.config import run_id
from valex.device import available_cores, cpu_threads
from valex.settings import LEARNED, DiagnosticsConfig, RunConfig, StoreConfig, needs_model

SMALL_NET = 128  # widest layer up to which a second thread slows an update down (docs/results/performance.md)
EXIT = {"finished": 0, "failed": 3, "interrupted": 75, "error": 1}


@dataclass(frozen=True)
class LaunchOptions:
    """How runs are spread and shown."""

    workers: int = 0  # processes; 0 takes one per available core on a CPU, one in all on an accelerator
    sinks: tuple[str, ...] = ()  # names of valex.sinks.SINKS
    progress: Callable[[dict], None] = lambda event: None


@dataclass
class Summary:
    """How the runs ended."""

    states: dict[str, str] = field(default_factory=dict)  # run id -> finished | failed | interrupted | error
    messages: dict[str, str] = field(default_factory=dict)  # run id -> why, where there is something to say
    signal: int = 0  # the signal that stopped the launch, 0 if none did

    def exit_code(self) -> int:
        """Return 0, 1 (an error), 3 (a run diverged), 75 (SIGTERM) or 130 (SIGINT), the last two if something is left."""
        if self.signal and "interrupted" in self.states.values():
            return 130 if self.signal == signal.SIGINT else EXIT["interrupted"]
        return next((EXIT[s] for s in ("error", "failed", "interrupted") if s in self.states.values()), 0)


def groups(configs: list[RunConfig], vmap_seeds: bool) -> list[list[RunConfig]]:
    """Drop configs that are the same run, and put what trains as one program together."""
    distinct = {run_id(c): c for c in reversed(configs)}
    ordered = list(dict.fromkeys(run_id(c) for c in configs))
    if not vmap_seeds:
        return [[distinct[name]] for name in ordered]
    by_shape: dict[tuple, list[RunConfig]] = {}
    for name in ordered:
        by_shape.setdefault((shape(distinct[name]), distinct[name].store), []).append(distinct[name])
    return list(by_shape.values())


def shape(config: RunConfig) -> RunConfig:
    """Return what the compiled program of a config depends on."""
    return replace(config, seed=0, diagnostics=DiagnosticsConfig(), store=StoreConfig())


def threads_of(config: RunConfig, cores: int | None = None) -> int:
    """Return how many threads a run gets that has the machine to itself: all, unless its nets are too small to share out."""
    learned = needs_model(config) and config.model.name in LEARNED
    widest = max(config.agent.hidden + (config.model.hidden if learned else ()))
    return 1 if widest <= SMALL_NET else cores or len(available_cores())


class Stop:
    """Turn SIGTERM and SIGINT into a flag that training reads at its next evaluation; a second one ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._old = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # Python delivers signals nowhere else
            self._old = {s: signal.signal(s, self.handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *unused: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def handle(self, number: int, frame: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __call__(self) -> bool:
        return self.signal != 0


def run_group(configs: list[RunConfig], root: Path, options: LaunchOptions, stop: Stop) -> dict[str, tuple[str, str]]:
    """Train one group; return run id -> (state, message). An exception becomes the state `error`."""
    from valex import runner, sinks

    names = [run_id(c) for c in configs]
    opened = sinks.open_sinks(options.sinks)
    hooks = runner.Hooks(progress=options.progress, should_stop=stop, sinks=opened)
    try:
        runner.run(configs, root, hooks)
        statuses = {name: store.read_json(root / name / "status.json") for name in names}
    except Exception as error:  # whatever one run raises, the others go on
        if os.environ.get("VALEX_TRACEBACK"):
            traceback.print_exc()
        return {name: ("error", store.explained(error)) for name in names}
    finally:
        sinks.close_sinks(opened)
    return {name: (status.get("state", "error"), status.get("message", "")) for name, status in statuses.items()}


def launch(configs: list[RunConfig], root: Path, options: LaunchOptions) -> Summary:
    """Train all configs below `root` and return how each ended. Raises ConfigError before anything runs."""
    import jax

    for config in configs:
        check(config)
    on_cpu = jax.default_backend() == "cpu"
    cores, summary = available_cores(), Summary()
    asked = groups(configs, vmap_seeds=not on_cpu)
    workers = min(options.workers or (len(cores) if on_cpu else 1), len(asked))
    todo = [group for group in (_unended(group, root, summary, options) for group in asked) if group]
    here = cpu_threads()
    with Stop() as stop:
        for count, part in _by_threads(todo, root, workers, len(cores)).items() if on_cpu else [(here, todo)]:
            if workers <= 1 and count == here:
                _launch_here(part, root, options, stop, summary)
            else:
                chunks = [cores[i : i + count] for i in range(0, len(cores) - count + 1, count)] if on_cpu else [[]]
                number = min(workers, len(part)) if count == 1 else min(workers, len(part), len(chunks))
                _Pool(part, root, options, stop, summary).run([chunks[i % len(chunks)] for i in range(number)])
    summary.signal = stop.signal
    return summary


def _unended(group: list[RunConfig], root: Path, summary: Summary, options: LaunchOptions) -> list[RunConfig]:
    """Record the runs of a group that finished or failed before, and return the others."""
    rest = []
    for config in group:
        with contextlib.suppress(store.StoreError):  # a damaged status is for the run to report
            status = store.read_json(root / run_id(config) / "status.json")
            lacks = status.get("state") == "finished" and store.unmeasured(root / run_id(config), config.diagnostics)
            if status.get("state") in ("finished", "failed") and not lacks:
                _record(summary, {run_id(config): (status["state"], status.get("message", ""))}, options)
                continue
        rest.append(config)
    return rest


def _by_threads(todo: list[list[RunConfig]], root: Path, workers: int, cores: int) -> dict[int, list[list[RunConfig]]]:
    """Sort groups by the number of threads that they began with, or get if they have not begun: one among several workers."""
    parts: dict[int, list[list[RunConfig]]] = {}
    for group in todo:
        usual = 1 if workers > 1 else threads_of(group[0], cores)
        path, count = root / run_id(group[0]), usual
        if store.checkpoint_steps(path):
            with contextlib.suppress(store.StoreError):
                count = store.read_json(path / "meta.json").get("threads", usual)
        parts.setdefault(count if count in range(1, cores + 1) else usual, []).append(group)
    return parts


def _launch_here(todo: list[list[RunConfig]], root: Path, options: LaunchOptions, stop: Stop, summary: Summary) -> None:
    """Train groups one after the other in this process."""
    for group in todo:
        if stop():
            _leave(summary, group)
        else:
            _record(summary, run_group(group, root, options, stop), options)


def _leave(summary: Summary, group: list[RunConfig]) -> None:
    """Note runs that a signal kept from starting."""
    summary.states |= {run_id(config): "interrupted" for config in group}


def _record(summary: Summary, result: dict[str, tuple[str, str]], options: LaunchOptions) -> None:
    for name, (state, message) in result.items():
        summary.states[name] = state
        if message:
            summary.messages[name] = message
        options.progress({"run": name, "phase": "ended", "state": state, "message": message})


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies, so that no orphan keeps a run directory locked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _worker(pipe: Connection, cores: list[int], root: Path, sinks: tuple[str, ...], parent: int) -> None:
    """Train the groups that arrive through `pipe` until None does. Runs in a spawned process, before jax is imported."""
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes a Ctrl-C on as SIGTERM
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(stop, "signal", number))  # also from a group's killer
    _die_with_parent(parent)
    sys.stdout = sys.stderr  # stdout belongs to the parent's results
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share one accelerator
    from valex.device import set_up_jax

    set_up_jax(threads=len(cores))
    options = LaunchOptions(sinks=sinks, progress=lambda event: pipe.send(("progress", event)))
    while (group := pipe.recv()) is not None:
        pipe.send(("done", run_group(group, root, options, stop)))


class _Pool:
    """Worker processes fed one group at a time; each prefers the config shape it has already compiled."""

    def __init__(self, todo: list[list[RunConfig]], root: Path, options: LaunchOptions, stop: Stop, summary: Summary):
        self.waiting, self.root, self.options, self.stop, self.summary = list(todo), root, options, stop, summary
        self.context = mp.get_context("spawn")
        self.busy: dict[Connection, tuple] = {}  # pipe -> (process, cores, group, shape)

    def run(self, workers: list[list[int]]) -> None:
        """Run everything in one worker per entry, which lists the cores that it may use (none: all)."""
        told = False
        try:
            for cores in workers if not self.stop() else ():
                self._start(cores)
            while self.busy:
                if self.stop() and not told:
                    told = True
                    for process, *_ in self.busy.values():
                        process.terminate()
                for pipe in wait(list(self.busy), timeout=0.2):
                    assert isinstance(pipe, Connection)
                    self._read(pipe)
        finally:  # nothing is busy here unless a second signal ends us at once
            for process, *_ in self.busy.values():
                process.kill()
        for group in self.waiting:
            _leave(self.summary, group)

    def _start(self, cores: list[int]) -> None:
        here, there = self.context.Pipe()
        arguments = (there, cores, self.root, self.options.sinks, os.getpid())
        process = self.context.Process(target=_worker, args=arguments, daemon=True)
        process.start()
        there.close()
        self._feed(here, process, cores, None)

    def _feed(self, pipe: Connection, process, cores: list[int], compiled: RunConfig | None) -> None:
        """Give a worker its next group, or let it go."""
        running = {entry[3] for entry in self.busy.values()}
        shapes = [shape(group[0]) for group in self.waiting]
        order = sorted(range(len(shapes)), key=lambda i: (shapes[i] != compiled, shapes[i] in running, i))
        group = self.waiting.pop(order[0]) if order and not self.stop() else None
        with contextlib.suppress(OSError):  # it died: its end of the pipe says so when we read
            pipe.send(group)
        if group is None:
            pipe.close()
        else:
            self.busy[pipe] = (process, cores, group, shapes[order[0]])

    def _read(self, pipe: Connection) -> None:
        process, cores, group, compiled = self.busy[pipe]
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            del self.busy[pipe]
            process.join()
            self._bury(process.exitcode, group)
            if self.waiting and not self.stop():
                self._start(cores)
            return
        if kind == "progress":
            self.options.progress(value)
            return
        del self.busy[pipe]
        _record(self.summary, value, self.options)
        self._feed(pipe, process, cores, compiled)

    def _bury(self, code: int, group: list[RunConfig]) -> None:
        """Record the runs of a worker that died."""
        why = f"the worker process ended with exit code {code}; out of memory? The same command goes on from here"
        if self.stop():
            _leave(self.summary, group)
        else:
            _record(self.summary, {run_id(c): ("error", why) for c in group}, self.options)
