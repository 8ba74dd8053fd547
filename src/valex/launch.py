"""Run many configs: in this process, or spread over spawned worker processes, one core each.

On a CPU every seed is a run of its own and workers share the runs (vmapping seeds is no faster there, see
docs/results/performance.md). On an accelerator the seeds of one config train as one vmapped program in this process.
A run that fails or a worker that dies does not stop the others.

The last bits of a run depend on the number of threads that XLA spreads its sums over. How many a run gets follows from the
command alone, not from what is left to do, and a run with a checkpoint goes on with the number that it began with.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from valex import store
from valex.checks import check
from valex.config import run_id
from valex.device import available_cores, cpu_threads
from valex.settings import LEARNED, DiagnosticsConfig, RunConfig, StoreConfig, needs_model
from valex.workers import Job, Pool, Stop, Summary, do_here

SMALL_NET = 128  # widest layer up to which a second thread slows an update down (docs/results/performance.md)


@dataclass(frozen=True)
class LaunchOptions:
    """How runs are spread and shown."""

    workers: int = 0  # processes; 0 takes one per available core on a CPU, one in all on an accelerator
    sinks: tuple[str, ...] = ()  # names of valex.sinks.SINKS
    progress: Callable[[dict], None] = lambda event: None


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


def run_group(
    configs: list[RunConfig], root: Path, sinks: tuple[str, ...], stop: Stop, progress: Callable[[dict], None]
) -> dict[str, tuple[str, str]]:
    """Train one group; return run id -> (state, message)."""
    from valex import runner, sinks as writers

    opened = writers.open_sinks(sinks)
    hooks = runner.Hooks(progress=progress, should_stop=stop, sinks=opened)
    try:
        runner.run(configs, root, hooks)
        statuses = {run_id(c): store.read_json(root / run_id(c) / "status.json") for c in configs}
    finally:
        writers.close_sinks(opened)
    return {name: (status.get("state", "error"), status.get("message", "")) for name, status in statuses.items()}


def job(configs: list[RunConfig], root: Path, options: LaunchOptions) -> Job:
    """Return the training of one group as something that a worker can do."""
    work = partial(run_group, configs, root, options.sinks)
    return Job(tuple(map(run_id, configs)), shape(configs[0]), work)


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
            jobs = [job(group, root, options) for group in part]
            if workers <= 1 and count == here:
                do_here(jobs, options.progress, stop, summary)
            else:
                chunks = [cores[i : i + count] for i in range(0, len(cores) - count + 1, count)] if on_cpu else [[]]
                number = min(workers, len(part)) if count == 1 else min(workers, len(part), len(chunks))
                Pool(jobs, options.progress, stop, summary).run([chunks[i % len(chunks)] for i in range(number)])
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
                summary.record({run_id(config): (status["state"], status.get("message", ""))}, options.progress)
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
