"""What the benchmarks share: contestants timed in turns, ratios of paired rounds, workers in other interpreters.

Plain standard library, so that it also runs inside the environments of Stable-Baselines3 and SBX.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Times = dict[str, list[float]]  # contestant -> seconds of every round, in the order they were taken


def header(title: str) -> None:
    """Print what was measured on what, and how busy the machine was: a loaded machine makes every number worthless."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    print(
        f"# {title}\n# {cores} cores of {model}, Python {platform.python_version()}, load before the start {load:.2f}"
    )
    if load > 0.3:
        print("# WARNING: other work is running here; do not quote these numbers")


def footer() -> None:
    """Print the load at the end: on a machine of one's own it is the benchmark's alone."""
    print(f"# load at the end {os.getloadavg()[0]:.2f}")


def interleave(contestants: dict[str, Callable[[], float]], rounds: int) -> Times:
    """Let every contestant run once per round, one after the other; each returns the seconds that it took.

    Slow drifts of the machine (heat, other work) then hit all of them alike.
    """
    times: Times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            times[name].append(run())
    return times


def show(times: Times, unit: str, scale: Callable[[float], float]) -> None:
    """Print median, smallest and largest of `scale(seconds)` for every contestant."""
    print(f"{'':32s}{'median':>12s}{'min':>12s}{'max':>12s}  {unit}")
    for name, seconds in times.items():
        values = sorted(scale(s) for s in seconds)
        print(f"{name:32s}{statistics.median(values):12.4g}{values[0]:12.4g}{values[-1]:12.4g}")


def paired(times: Times, over: Callable[[dict[str, float]], float]) -> float:
    """Return the median over rounds of `over({contestant: seconds of this round})`."""
    rounds = zip(*times.values(), strict=True)
    return statistics.median(over(dict(zip(times, seconds, strict=True))) for seconds in rounds)


def ratio(name: str, value: float, at_least: float | None = None, at_most: float | None = None) -> None:
    """Print the line that other programs read: RATIO name value (bar x: met|missed)."""
    if at_least is not None:
        verdict = f"bar >= {at_least:g}: {'met' if value >= at_least else 'missed'}"
    elif at_most is not None:
        verdict = f"bar <= {at_most:g}: {'met' if value <= at_most else 'missed'}"
    else:
        verdict = "no bar"
    print(f"RATIO {name} {value:.3f} ({verdict})", flush=True)


class Worker:
    """A benchmark script in another process: it sets up and compiles, says so, then answers numbers with JSON lines."""

    def __init__(self, python: str, script: str, arguments: list[str], environment: dict[str, str] | None = None):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  a pipe that nobody reads could stop the worker  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.about = self._read()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # whatever else a library prints is skipped
                return json.loads(line)
        self.errors.seek(0)
        errors = self.errors.read().strip().splitlines()
        raise RuntimeError(errors[-1] if errors else f"{self.process.args} ended without a word")

    def ask(self, number: int) -> None:
        """Send a number without waiting for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        """Wait for the answer to `ask`."""
        return self._read()

    def seconds(self, number: int) -> float:
        """Send a number and return `seconds` of the answer."""
        self.ask(number)
        return self.answer()["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(about: dict, answer: Callable[[int], dict]) -> None:
    """The other end of a Worker: say `about` once everything is compiled, then answer every number that comes in."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), flush=True)
