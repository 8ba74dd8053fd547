"""Jobs spread over spawned worker processes: signals, cores, processes that die, and the exit code of the whole.

A job makes one or several things by name, each of which ends in a state. A job that fails or a worker that dies does not stop
the others.
"""

import contextlib
import ctypes
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from valex import store

MOST_MAPS = 1 / 3  # of the memory maps that Linux allows a process: one large program, when it compiles, takes as many
EXIT = {"finished": 0, "failed": 3, "interrupted": 75, "error": 1}


@dataclass
class Summary:
    """How what was asked for ended."""

    states: dict[str, str] = field(default_factory=dict)  # name -> finished | failed | interrupted | error
    messages: dict[str, str] = field(default_factory=dict)  # name -> why, where there is something to say
    signal: int = 0  # the signal that stopped the launch, 0 if none did

    def exit_code(self) -> int:
        """Return 0, 1 (an error), 3 (a run diverged), 75 (SIGTERM) or 130 (SIGINT), the last two if something is left."""
        if self.signal and "interrupted" in self.states.values():
            return 130 if self.signal == signal.SIGINT else EXIT["interrupted"]
        return next((EXIT[s] for s in ("error", "failed", "interrupted") if s in self.states.values()), 0)

    def leave(self, names: Iterable[str]) -> None:
        """Note what a signal kept from starting."""
        self.states |= dict.fromkeys(names, "interrupted")

    def record(self, result: dict[str, tuple[str, str]], progress: Callable[[dict], None]) -> None:
        """Note how things ended, name -> (state, message), and tell so."""
        for name, (state, message) in result.items():
            self.states[name] = state
            if message:
                self.messages[name] = message
            progress({"run": name, "phase": "ended", "state": state, "message": message})


class Interrupted(RuntimeError):
    """Work that was asked to stop; what it has kept stays, and the same command goes on from there."""


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


class Job(NamedTuple):
    """What one worker does without a break."""

    names: tuple[str, ...]  # what it makes
    shape: Any  # jobs of equal shape share their compiled programs
    work: Callable  # (stop, progress) -> {name: (state, message)}; can be pickled


def done(job: Job, stop: Stop, progress: Callable[[dict], None]) -> dict[str, tuple[str, str]]:
    """Do a job; return how each of its names ended. An exception becomes the state `error`."""
    try:
        return job.work(stop, progress)
    except Exception as error:  # whatever one job raises, the others go on
        if os.environ.get("VALEX_TRACEBACK"):
            traceback.print_exc()
        return {name: ("error", store.explained(error)) for name in job.names}


def do_here(jobs: Iterable[Job], progress: Callable[[dict], None], stop: Stop, summary: Summary) -> None:
    """Do jobs one after the other in this process."""
    for job in jobs:
        if stop():
            summary.leave(job.names)
        else:
            summary.record(done(job, stop, progress), progress)


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies, so that no orphan keeps a run directory locked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _worker(pipe: Connection, cores: list[int], parent: int) -> None:
    """Do the jobs that arrive through `pipe` until None does. Runs in a spawned process, before jax is imported."""
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
    while (job := pipe.recv()) is not None:
        pipe.send(("done", done(job, stop, lambda event: pipe.send(("progress", event)))))


def crowded(pid: int | None) -> bool:
    """Return whether a process holds so many memory maps that what it compiles next may find no room; False where unknown.

    A compiled program keeps maps for each of its kernels, tens of thousands with a simulator's gradient, and takes the process
    down with it where the kernel grants no more (vm.max_map_count).
    """
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        with open(f"/proc/{pid}/maps", "rb") as held:
            return sum(1 for _ in held) > MOST_MAPS * most
    except (OSError, ValueError):
        return False


class Pool:
    """Worker processes fed one job at a time; each prefers the shape that it has already compiled.

    One that has compiled much is replaced by a fresh one when nothing of its shape is left.
    """

    def __init__(self, jobs: Iterable[Job], progress: Callable[[dict], None], stop: Stop, summary: Summary):
        self.waiting, self.progress, self.stop, self.summary = list(jobs), progress, stop, summary
        self.context = mp.get_context("spawn")
        self.busy: dict[Connection, tuple] = {}  # pipe -> (process, cores, job)

    def run(self, workers: list[list[int]]) -> None:
        """Do everything in one worker per entry, which lists the cores that it may use (none: all)."""
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
        for job in self.waiting:
            self.summary.leave(job.names)

    def _start(self, cores: list[int]) -> None:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_worker, args=(there, cores, os.getpid()), daemon=True)
        process.start()
        there.close()
        self._feed(here, process, cores, None)

    def _feed(self, pipe: Connection, process, cores: list[int], compiled: Any) -> None:
        """Give a worker its next job, or let it go."""
        running, shapes = [entry[2].shape for entry in self.busy.values()], [job.shape for job in self.waiting]
        order = sorted(range(len(shapes)), key=lambda i: (shapes[i] != compiled, shapes[i] in running, i))
        job = self.waiting.pop(order[0]) if order and not self.stop() else None
        with contextlib.suppress(OSError):  # it died: its end of the pipe says so when we read
            pipe.send(job)
        if job is None:
            pipe.close()
        else:
            self.busy[pipe] = (process, cores, job)

    def _read(self, pipe: Connection) -> None:
        process, cores, job = self.busy[pipe]
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            del self.busy[pipe]
            process.join()
            self._bury(process.exitcode, job)
            if self.waiting and not self.stop():
                self._start(cores)
            return
        if kind == "progress":
            self.progress(value)
            return
        del self.busy[pipe]
        self.summary.record(value, self.progress)
        other = all(waiting.shape != job.shape for waiting in self.waiting)
        if self.waiting and other and not self.stop() and crowded(process.pid):
            pipe.send(None)
            pipe.close()
            self._start(cores)
        else:
            self._feed(pipe, process, cores, job.shape)

    def _bury(self, code: int, job: Job) -> None:
        """Record the job of a worker that died."""
        why = f"the worker process ended with exit code {code}; out of memory? The same command goes on from here"
        if self.stop():
            self.summary.leave(job.names)
        else:
            self.summary.record(dict.fromkeys(job.names, ("error", why)), self.progress)


def do_all(
    jobs: list[Job], cores: list[list[int]], progress: Callable[[dict], None], stop: Stop, summary: Summary
) -> None:
    """Do jobs in one worker for each entry of `cores`, though in no more than there are jobs; in this process for []."""
    if cores and jobs:
        Pool(jobs, progress, stop, summary).run(cores[: len(jobs)])
    else:
        do_here(jobs, progress, stop, summary)
