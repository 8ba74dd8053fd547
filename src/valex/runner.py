"""Train one config, for one or several seeds, in its run directory: resume, metrics, checkpoints, verdict.

A run that is killed at any moment and started again ends with the same metrics.jsonl, byte for byte, as one that was
not: the whole state is in the checkpoint, and lines written after it are dropped before going on. That holds for the same
number of XLA's threads, which it splits its sums by; `valex.launch` sees to it.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from valex import store
from valex.config import run_id, to_dict
from valex.device import compiling, metadata
from valex.diagnostics.final import final_diagnostics
from valex.finished import lasting, measure_later, named_arrays, restore
from valex.settings import RunConfig
from valex.sinks import Guarded
from valex.train import (
    Program,
    TrainState,
    make_program,
    total_iterations,
    traceable,
    warmup_iterations,
)

FINISHED, FAILED, INTERRUPTED, STALE = "finished", "failed", "interrupted", "stale"


@dataclass
class Hooks:
    """What the outside world is told and asked while a run goes on."""

    progress: Callable[[dict], None] = lambda event: None  # {"run", "phase", "env_steps", "total", "return"}
    should_stop: Callable[[], bool] = lambda: False  # True: save and stop at the next evaluation
    sinks: list = field(
        default_factory=list
    )  # objects with write(run, metrics); failing ones are dropped with a warning


@lru_cache(maxsize=8)
def compiled(config: RunConfig, seeds: int) -> tuple[Program, Callable, Callable, float]:
    """Return (program, start, chunk, seconds spent compiling); several seeds are one vmapped program."""
    program = make_program(config)
    start, chunk = program.start, program.chunk
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    if seeds > 1:
        start = jax.jit(jax.vmap(program.start))
        chunk = jax.jit(jax.vmap(program.chunk, in_axes=(0, None)), donate_argnums=0)
        seed = jax.ShapeDtypeStruct((seeds,), jnp.uint32)
    begin = time.perf_counter()
    with compiling():
        compiled_start = start.lower(seed).compile()
        state = jax.eval_shape(start, seed)
        compiled_chunk = chunk.lower(state, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    return program, compiled_start, compiled_chunk, time.perf_counter() - begin


def remedy(name: str) -> str:
    """Return what to try where a quantity was not finite, or nothing."""
    return "; lower model.lr or model.grad_clip" if name.startswith(("model/", ".model")) else ""


def cause_first(name: str) -> bool:
    """Return False for what the model trains on its own: a model that diverges takes critic and actor with it."""
    return not name.startswith(("model/", ".model"))


def bad_parameter(arrays: dict[str, np.ndarray]) -> str | None:
    """Return the first array of the agent or of the model, by name, that holds a number that is not finite."""
    floats = {
        n: a for n, a in arrays.items() if n.startswith((".agent", ".model")) and np.issubdtype(a.dtype, np.floating)
    }
    bad = [name for name, array in floats.items() if not np.all(np.isfinite(array))]
    return min(bad, key=lambda name: (cause_first(name), name), default=None)


class Group:
    """Runs that differ in their seed only and train as one program; on a CPU a group is one run."""

    def __init__(self, configs: list[RunConfig], root: Path, hooks: Hooks):
        self.configs, self.hooks, self.root = configs, hooks, root
        self.config = configs[0]
        self.paths = [root / run_id(c) for c in configs]
        self.per_step = self.config.train.num_envs
        self.offset = warmup_iterations(self.config) * self.per_step
        self.total = total_iterations(self.config)
        self.reached = 0  # env steps
        self.alive = list(range(len(configs)))  # members that have not diverged; the others compute on, unheard
        self.sinks = [s if isinstance(s, Guarded) else Guarded(type(s).__name__, lambda s=s: s) for s in hooks.sinks]

    def tell(self, phase: str, episode_return: float | None = None) -> None:
        """Report progress of the group under the name of its first run."""
        total = self.offset + self.total * self.per_step
        event = {"run": self.paths[0].name, "phase": phase, "env_steps": self.reached, "total": total}
        self.hooks.progress(event | {"return": episode_return})

    def _status(self, state: str, members: list[int], message: str = "") -> None:
        for i in members:
            row = {"state": state, "env_steps": self.reached, "message": message}
            store.write_json(self.paths[i] / "status.json", row)

    def run(self) -> str:
        """Train to the end, or until asked to stop. Returns finished, failed, interrupted, or stale.

        Stale: another process ended one of the runs just before the lock was ours; nothing was done.
        """
        with contextlib.ExitStack() as stack:
            for path in self.paths:
                stack.enter_context(store.locked(path))
            if ended(self.configs, self.root):
                return STALE
            for path, config in zip(self.paths, self.configs, strict=True):
                store.tidy(path)
                store.write_json(path / "config.json", to_dict(config))
                store.write_json(path / "meta.json", metadata())
            self._status("running", self.alive)
            try:
                return self._train()
            except BaseException as error:
                with contextlib.suppress(OSError):
                    self._status(INTERRUPTED, self.alive, f"{type(error).__name__}: {error}")
                raise

    def _train(self) -> str:
        self.tell(f"compiling {self.config.env.name} H={max(self.config.critic.horizon, self.config.actor.horizon)}")
        program, start, chunk, seconds = compiled(traceable(self.config), len(self.configs))
        state, done = self._resume(start)
        if state is None:
            state = start(self._seeds())
            self._log_time({"env_steps": 0, "time/compile_s": seconds})
        else:
            self.reached = self.offset + done * self.per_step
            self._status("running", self.alive)
        if done < self.total and self.hooks.should_stop():
            return self._interrupt()
        evaluations, every, first = 0, self.config.eval.every // self.per_step, self.offset // self.per_step
        evaluation_s: float | None = None
        while done < self.total:
            boundary = min(((first + done) // every + 1) * every - first, self.total)
            begin = time.perf_counter()
            state, metrics, bad = chunk(state, jnp.int32(boundary - done))
            metrics, bad = jax.device_get((metrics, bad))
            taken, count, done = time.perf_counter() - begin, boundary - done, boundary
            if evaluation_s is None:  # a chunk of no iteration is an evaluation alone and leaves the state as it is
                begin = time.perf_counter()
                state, *_ = jax.block_until_ready(chunk(state, jnp.int32(0)))
                evaluation_s = time.perf_counter() - begin
            self.reached = self.offset + done * self.per_step
            evaluations += 1
            stop = done < self.total and self.hooks.should_stop()
            saving = stop or done == self.total or evaluations % self.config.store.checkpoint_every == 0
            arrays = self._arrays(state) if saving else {}
            self._drop_diverged(metrics, bad, arrays, count)
            if not self.alive:
                return FAILED
            self._log(done, metrics)
            update_s = max(taken - evaluation_s, 0.0) / (count * max(self._updates(), self.per_step))
            self._log_time({"env_steps": self.reached, "time/update_s": update_s, "time/eval_s": evaluation_s})
            for i, own in arrays.items():
                if i in self.alive:
                    store.save_checkpoint(self.paths[i], self.reached, own, self.config.store.keep)
            if stop:
                return self._interrupt()
        self._finish(program, state)
        return FINISHED if len(self.alive) == len(self.configs) else FAILED

    def _interrupt(self) -> str:
        self._status(INTERRUPTED, self.alive, "stopped on request; the same command goes on from here")
        return INTERRUPTED

    def _updates(self) -> int:
        return self.config.train.utd * self.per_step

    def _seeds(self) -> jax.Array:
        seeds = [c.seed for c in self.configs]
        return jnp.array(seeds if len(seeds) > 1 else seeds[0], jnp.uint32)

    def _resume(self, start: Callable) -> tuple[TrainState | None, int]:
        """Return the newest state that every run of the group can load, and its iterations; (None, 0) without one.

        A checkpoint counts if its file is whole and metrics.jsonl holds its evaluation. Everything newer is removed.
        """
        common = set.intersection(*(set(store.checkpoint_steps(path)) for path in self.paths))
        for env_steps in sorted(common, reverse=True):
            loaded = [store.load_checkpoint(path, env_steps) for path in self.paths]
            saved = [arrays for arrays in loaded if arrays is not None]
            logged = all(store.has_row(path / "metrics.jsonl", env_steps) for path in self.paths)
            if not logged or len(saved) < len(self.paths):
                what = "checkpoint" if logged else "metrics.jsonl"
                warn(f"{self.paths[0].name}: {what} at {env_steps} is damaged; trying the checkpoint before")
                continue
            names = saved[0].keys()
            arrays = saved[0] if len(saved) == 1 else {n: np.stack([s[n] for s in saved]) for n in names}
            state = restore(start.out_info, arrays, f"{self.paths[0]}: checkpoint at {env_steps}")
            for path in self.paths:
                store.forget_after(path, env_steps, self.config.store.keep)
                store.truncate_lines(path / "metrics.jsonl", env_steps)
                store.truncate_lines(path / "time.jsonl", env_steps)
            return state, (env_steps - self.offset) // self.per_step
        for path in self.paths:
            store.forget_after(path, -1, 0)
            for name in ("metrics.jsonl", "time.jsonl"):
                (path / name).unlink(missing_ok=True)
        return None, 0

    def _arrays(self, state: TrainState) -> dict[int, dict[str, np.ndarray]]:
        """Return the whole state of every live run as named arrays on the host."""
        arrays = {name: np.asarray(leaf) for name, leaf in named_arrays(state).items()}
        if len(self.paths) == 1:
            return {0: arrays}
        return {i: {name: value[i] for name, value in arrays.items()} for i in self.alive}

    def _drop_diverged(self, metrics: dict, bad: dict, arrays: dict[int, dict], count: int) -> None:
        """Mark as failed every run whose losses, evaluation or parameters to be saved are not finite."""
        for i in list(self.alive):
            message = self._first_bad(i, metrics, bad, count)
            if message is None and (name := bad_parameter(arrays.get(i, {}))):
                message = f"{name} is not finite after env step {self.reached}{remedy(name)}"
            if message:
                self._status(FAILED, [i], message)
                self.alive.remove(i)

    def _first_bad(self, i: int, metrics: dict, bad: dict, count: int) -> str | None:
        """Return the message of the first quantity of run `i` that was not finite, or None."""
        found = [(int(np.atleast_1d(step)[i]), cause_first(name), name) for name, step in bad.items()]
        step, _, name = min(found)
        if step < count:
            since = self.reached - (count - step - 1) * self.per_step
            return f"{name} is not finite from env step {since} on{remedy(name)}"
        values = {n: np.atleast_1d(v)[i] for n, v in metrics.items() if not n.startswith("grad/")}
        late = [name for name, value in values.items() if not np.isfinite(value)]
        return f"{min(late)} is not finite in the evaluation at env step {self.reached}" if late else None

    def _log(self, done: int, metrics: dict) -> None:
        for i in self.alive:
            own = {name: float(np.atleast_1d(value)[i]) for name, value in sorted(metrics.items())}
            row = {"env_steps": self.reached, "grad_steps": done * self._updates(), **own}
            store.append_line(self.paths[i] / "metrics.jsonl", row)
            for sink in self.sinks:
                sink.write(self.paths[i], row)
        returns = np.atleast_1d(metrics["eval/episode_return"])
        self.tell("training", float(np.mean(returns[self.alive])))

    def _log_time(self, row: dict) -> None:
        for i in self.alive:
            store.append_line(self.paths[i] / "time.jsonl", row)

    def _finish(self, program: Program, state: TrainState) -> None:
        self.tell("final diagnostics")
        for i in self.alive:
            own = state if len(self.paths) == 1 else jax.tree.map(lambda x, i=i: x[i], state)
            measured = final_diagnostics(self.configs[i], program.parts, own)
            if measured:
                store.write_json(self.paths[i] / "diagnostics.json", measured)
            store.save_final(self.paths[i], {n: np.asarray(leaf) for n, leaf in named_arrays(lasting(own)).items()})
        self._status(FINISHED, self.alive)
        for i in self.alive:  # after the status: a kill in between leaves too much, never too little
            store.forget_after(self.paths[i], self.reached, self.config.store.keep_finished)
        self.tell(FINISHED)


def warn(message: str) -> None:
    """Say on stderr what a user has to know and a run survives."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def ended(configs: list[RunConfig], root: Path) -> dict[str, dict]:
    """Return run id -> status of the runs that finished or failed: they are not run again."""
    found = {name: store.read_json(root / name / "status.json") for name in map(run_id, configs)}
    return {name: status for name, status in found.items() if status.get("state") in (FINISHED, FAILED)}


def run(configs: list[RunConfig], root: Path, hooks: Hooks | None = None) -> str:
    """Train configs that differ in their seed only, below `root`. Returns finished, failed or interrupted.

    Runs that ended before are not trained again: the finished ones are measured, if `diagnostics` asks for what they lack.
    Those with a checkpoint go on together, and so do those without.
    Raises StoreError if another process trains one of them, OSError if the disk cannot be written.
    """
    assert len({traceable(c) for c in configs}) == 1, "a group differs in its seeds only"
    over = ended(configs, root)
    states = {status["state"] for status in over.values()}
    for config in configs:
        if over.get(run_id(config), {}).get("state") == FINISHED:
            measure_later(config, root)
    todo = [c for c in configs if run_id(c) not in over]
    started = {run_id(c): bool(store.checkpoint_steps(root / run_id(c))) for c in todo}
    for wanted in (True, False):
        part = [c for c in todo if started[run_id(c)] is wanted]
        if part and INTERRUPTED not in states:
            state = Group(part, root, hooks or Hooks()).run()
            states.add(run(part, root, hooks) if state == STALE else state)
    return next((state for state in (INTERRUPTED, FAILED) if state in states), FINISHED)
