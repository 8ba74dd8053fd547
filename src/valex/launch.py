"""Run many configs: in this process, or spread over spawned worker processes, one core each.

On a CPU every seed is a run of its own and workers share the runs (vmapping seeds is no faster there, see
docs/results/performance.md). On an accelerator the seeds of one config train as one vmapped program in this process.
A run that fails or a worker that dies does not stop the others.
"""

import contextlib
import ctypes
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from valex.config import check, run_id
from valex.settings import RunConfig

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
        """Return 0, 1 (an error), 3 (a run diverged), 75 (SIGTERM) or 130 (SIGINT)."""
        if self.signal:
            return 130 if self.signal == signal.SIGINT else EXIT["interrupted"]
        return next((EXIT[s] for s in ("error", "failed", "interrupted") if s in self.states.values()), 0)


def available_cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def groups(configs: list[RunConfig], vmap_seeds: bool) -> list[list[RunConfig]]:
    """Drop configs that are the same run, and put what trains as one program together."""
    distinct = {run_id(c): c for c in reversed(configs)}
    ordered = [c for c in dict.fromkeys(run_id(c) for c in configs)]
    if not vmap_seeds:
        return [[distinct[name]] for name in ordered]
    by_shape: dict[RunConfig, list[RunConfig]] = {}
    for name in ordered:
        by_shape.setdefault(replace(distinct[name], seed=0), []).append(distinct[name])
    return list(by_shape.values())


class Stop:
    """Turn SIGTERM and SIGINT into a flag that training reads at its next evaluation; a second one ends at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Stop":
        self._old = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *unused: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __call__(self) -> bool:
        return self.signal != 0


def run_group(configs: list[RunConfig], root: Path, options: LaunchOptions, stop: Stop) -> dict[str, tuple[str, str]]:
    """Train one group; return run id -> (state, message). An exception becomes the state `error`."""
    from valex import runner, sinks, store

    names = [run_id(c) for c in configs]
    opened = sinks.open_sinks(options.sinks)
    hooks = runner.Hooks(progress=options.progress, should_stop=stop, sinks=opened)
    try:
        runner.run(configs, root, hooks)
    except (store.StoreError, OSError, ValueError, RuntimeError) as error:
        return {name: ("error", f"{type(error).__name__}: {error}".splitlines()[0]) for name in names}
    finally:
        sinks.close_sinks(opened)
    result = {}
    for name in names:
        status = store.read_json(root / name / "status.json")
        result[name] = (status.get("state", "error"), status.get("message", ""))
    return result


def launch(configs: list[RunConfig], root: Path, options: LaunchOptions) -> Summary:
    """Train all configs below `root` and return how each ended. Raises ConfigError before anything runs."""
    import jax

    for config in configs:
        check(config)
    on_cpu = jax.default_backend() == "cpu"
    todo = groups(configs, vmap_seeds=not on_cpu)
    cores = available_cores()
    workers = min(options.workers or (len(cores) if on_cpu else 1), len(todo))
    with Stop() as stop:
        if workers <= 1:
            return _launch_here(todo, root, options, stop)
        return _Pool(todo, root, options, stop).run(workers, cores)


def _launch_here(todo: list[list[RunConfig]], root: Path, options: LaunchOptions, stop: Stop) -> Summary:
    """Train groups one after the other in this process."""
    summary = Summary()
    for group in todo:
        if stop():
            break
        _record(summary, run_group(group, root, options, stop), options)
    summary.signal = stop.signal
    return summary


def _record(summary: Summary, result: dict[str, tuple[str, str]], options: LaunchOptions) -> None:
    for name, (state, message) in result.items():
        summary.states[name] = state
        if message:
            summary.messages[name] = message
        options.progress({"run": name, "phase": "ended", "state": state, "message": message})


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, so that no orphan keeps a run directory locked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _worker(pipe: Connection, core: int | None, root: Path, sinks: tuple[str, ...]) -> None:
    """Train the groups that arrive through `pipe` until None does. Runs in a spawned process, before jax is imported."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes a Ctrl-C on as SIGTERM
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})  # XLA sizes its thread pool by this
    from valex.device import set_up_jax

    set_up_jax()
    stop = Stop()
    signal.signal(signal.SIGTERM, stop._handle)
    options = LaunchOptions(sinks=sinks, progress=lambda event: pipe.send(("progress", event)))
    while (group := pipe.recv()) is not None:
        pipe.send(("done", run_group(group, root, options, stop)))


class _Pool:
    """Worker processes fed one group at a time; each prefers the config shape it has already compiled."""

    def __init__(self, todo: list[list[RunConfig]], root: Path, options: LaunchOptions, stop: Stop):
        self.waiting, self.root, self.options, self.stop = list(todo), root, options, stop
        self.context, self.summary = mp.get_context("spawn"), Summary()
        self.busy: dict[Connection, tuple] = {}  # pipe -> (process, core, group, shape)

    def run(self, workers: int, cores: list[int]) -> Summary:
        """Run everything and return how it ended."""
        told = False
        for i in range(workers):
            self._start(cores[i % len(cores)])
        while self.busy:
            if self.stop() and not told:
                told, self.waiting = True, []
                for process, *_ in self.busy.values():
                    process.terminate()
            for pipe in wait(list(self.busy), timeout=0.2):
                assert isinstance(pipe, Connection)
                self._read(pipe)
        self.summary.signal = self.stop.signal
        return self.summary

    def _start(self, core: int) -> None:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_worker, args=(there, core, self.root, self.options.sinks), daemon=True)
        process.start()
        there.close()
        self._feed(here, process, core, None)

    def _feed(self, pipe: Connection, process, core: int, shape: RunConfig | None) -> None:
        """Give a worker its next group, or let it go."""
        running = {entry[3] for entry in self.busy.values()}
        shapes = [replace(group[0], seed=0) for group in self.waiting]
        order = sorted(range(len(shapes)), key=lambda i: (shapes[i] != shape, shapes[i] in running, i))
        if not order:
            with contextlib.suppress(OSError):
                pipe.send(None)
            pipe.close()
            return
        group = self.waiting.pop(order[0])
        pipe.send(group)
        self.busy[pipe] = (process, core, group, shapes[order[0]])

    def _read(self, pipe: Connection) -> None:
        process, core, group, shape = self.busy[pipe]
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            del self.busy[pipe]
            process.join()
            why = f"the worker process ended with exit code {process.exitcode}; out of memory? The same command goes on"
            _record(self.summary, {run_id(c): ("error", why) for c in group}, self.options)
            if self.waiting:
                self._start(core)
            return
        if kind == "progress":
            self.options.progress(value)
            return
        del self.busy[pipe]
        _record(self.summary, value, self.options)
        self._feed(pipe, process, core, shape)


def stderr_is_terminal() -> bool:
    """Return whether progress bars have somebody to look at them."""
    return sys.stderr.isatty()
