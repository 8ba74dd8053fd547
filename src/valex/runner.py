"""Train one config, for one or several seeds, in its run directory: resume, metrics, checkpoints, verdict.

A run that is killed at any moment and started again ends with the same metrics.jsonl, byte for byte, as one that was
not: the whole state is in the checkpoint, and lines written after it are dropped before going on.
"""

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from valex import __version__, store
from valex.config import run_id, to_dict
from valex.diagnostics.final import final_diagnostics
from valex.settings import RunConfig
from valex.train import Program, TrainState, make_program, total_iterations, traceable, warmup_iterations

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"


@dataclass
class Hooks:
    """What the outside world is told and asked while a run goes on."""

    progress: Callable[[dict], None] = lambda event: None  # {"run", "phase", "env_steps", "total", "return"}
    should_stop: Callable[[], bool] = lambda: False  # True: save and stop at the next evaluation
    sinks: list = field(default_factory=list)  # objects with write(run, metrics); failing ones are dropped with a warning


def metadata() -> dict:
    """Return versions, device, git commit and command of this process."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"valex": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "numpy", "flax", "optax", "brax", "mujoco"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    here = Path(__file__).parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": f"{device.platform} ({device.device_kind})",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": git.stdout.strip() if git.returncode == 0 else "unknown",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


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
    compiled_start = start.lower(seed).compile()
    state = jax.eval_shape(start, seed)
    compiled_chunk = chunk.lower(state, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    return program, compiled_start, compiled_chunk, time.perf_counter() - begin


def named_arrays(state: Any) -> dict[str, Any]:
    """Return the leaves of a state by their path in the tree."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def restore(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Rebuild a state shaped like `template`. Raises StoreError if names, shapes or types differ."""
    paths, tree = jax.tree_util.tree_flatten_with_path(template)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        value = arrays.get(name)
        if value is None or value.shape != leaf.shape or value.dtype != leaf.dtype:
            raise store.StoreError(f"checkpoint: {name} does not fit this version of valex; delete the run directory")
        leaves.append(jnp.array(value, copy=True))
    return jax.tree_util.tree_unflatten(tree, leaves)


class Group:
    """Runs that differ in their seed only and train as one program; on a CPU a group is one run."""

    def __init__(self, configs: list[RunConfig], root: Path, hooks: Hooks):
        self.configs, self.hooks, self.root = configs, hooks, root
        self.config = configs[0]
        self.paths = [root / run_id(c) for c in configs]
        self.per_step = self.config.train.num_envs
        self.offset = warmup_iterations(self.config) * self.per_step
        self.total = total_iterations(self.config)

    def tell(self, phase: str, env_steps: int = 0, episode_return: float | None = None) -> None:
        """Report progress of the group under the name of its first run."""
        total = self.offset + self.total * self.per_step
        event = {"run": self.paths[0].name, "phase": phase, "env_steps": env_steps, "total": total}
        self.hooks.progress(event | {"return": episode_return})

    def _status(self, state: str, env_steps: int, message: str = "") -> None:
        for path in self.paths:
            store.write_json(path / "status.json", {"state": state, "env_steps": env_steps, "message": message})

    def run(self) -> str:
        """Train to the end, or until asked to stop. Returns finished, failed or interrupted."""
        with contextlib.ExitStack() as stack:
            for path in self.paths:
                stack.enter_context(store.locked(path))
            states = {store.read_json(path / "status.json").get("state") for path in self.paths}
            if states <= {FINISHED, FAILED}:
                return FAILED if FAILED in states else FINISHED
            for path, config in zip(self.paths, self.configs, strict=True):
                store.write_json(path / "config.json", to_dict(config))
                store.write_json(path / "meta.json", metadata())
            self._status("running", 0)
            try:
                return self._train()
            except BaseException as error:
                with contextlib.suppress(OSError):
                    self._status(INTERRUPTED, 0, f"{type(error).__name__}: {error}")
                raise

    def _train(self) -> str:
        self.tell(f"compiling {self.config.env.name} H={max(self.config.critic.horizon, self.config.actor.horizon)}")
        program, start, chunk, seconds = compiled(traceable(self.config), len(self.configs))
        state, resumed = self._resume(start)
        if state is None:
            state, resumed = start(self._seeds()), 0
            self._log_time({"env_steps": 0, "time/compile_s": seconds})
        done, evaluations, every = resumed, 0, self.config.eval.every // self.per_step
        first = self.offset // self.per_step
        while done < self.total:
            boundary = min(((first + done) // every + 1) * every - first, self.total)
            begin = time.perf_counter()
            state, metrics, bad = chunk(state, jnp.int32(boundary - done))
            metrics, bad = jax.device_get((metrics, bad))
            taken, count, done = time.perf_counter() - begin, boundary - done, boundary
            env_steps = self.offset + done * self.per_step
            if message := self._first_bad(metrics, bad, count, env_steps):
                self._status(FAILED, env_steps, message)
                return FAILED
            self._log(env_steps, done, metrics)
            self._log_time({"env_steps": env_steps, "time/update_s": taken / (count * self._updates())})
            evaluations += 1
            stop = self.hooks.should_stop() and done < self.total
            if stop or done == self.total or evaluations % self.config.store.checkpoint_every == 0:
                self._save(state, env_steps)
            if stop:
                self._status(INTERRUPTED, env_steps, "stopped on request; the same command goes on from here")
                return INTERRUPTED
        self._finish(program, state)
        return FINISHED

    def _updates(self) -> int:
        return self.config.train.utd * self.per_step

    def _seeds(self) -> jax.Array:
        seeds = [c.seed for c in self.configs]
        return jnp.array(seeds if len(seeds) > 1 else seeds[0], jnp.uint32)

    def _resume(self, start: Callable) -> tuple[TrainState | None, int]:
        """Return the newest state that every run of the group can load, and its iterations; (None, 0) without one."""
        common = set.intersection(*(set(store.checkpoint_steps(path)) for path in self.paths))
        for env_steps in sorted(common, reverse=True):
            loaded = [store.load_checkpoint(path, env_steps) for path in self.paths]
            saved = [arrays for arrays in loaded if arrays is not None]
            if len(saved) < len(loaded):
                self.tell(f"checkpoint at {env_steps} is damaged; trying the one before")
                continue
            names = saved[0].keys()
            arrays = saved[0] if len(saved) == 1 else {n: np.stack([s[n] for s in saved]) for n in names}
            state = restore(start.out_info, arrays)
            for path in self.paths:
                store.truncate_lines(path / "metrics.jsonl", env_steps)
                store.truncate_lines(path / "time.jsonl", env_steps)
            return state, (env_steps - self.offset) // self.per_step
        for path in self.paths:
            for name in ("metrics.jsonl", "time.jsonl"):
                (path / name).unlink(missing_ok=True)
        return None, 0

    def _save(self, state: TrainState, env_steps: int) -> None:
        arrays = {name: np.asarray(leaf) for name, leaf in named_arrays(state).items()}
        for i, path in enumerate(self.paths):
            own = arrays if len(self.paths) == 1 else {name: value[i] for name, value in arrays.items()}
            store.save_checkpoint(path, env_steps, own, self.config.store.keep)

    def _first_bad(self, metrics: dict, bad: dict, count: int, env_steps: int) -> str | None:
        """Return the message of the first quantity that was not finite, or None."""
        begin = env_steps - count * self.per_step
        found = [(int(np.min(step)), name) for name, step in bad.items() if np.min(step) < count]
        if found:
            step, name = min(found)
            return f"{name} is not finite from env step {begin + (step + 1) * self.per_step} on"
        late = [name for name, value in metrics.items() if not name.startswith("grad/") and not np.all(np.isfinite(value))]
        return f"{min(late)} is not finite in the evaluation at env step {env_steps}" if late else None

    def _log(self, env_steps: int, done: int, metrics: dict) -> None:
        for i, path in enumerate(self.paths):
            own = {name: float(np.atleast_1d(value)[i]) for name, value in sorted(metrics.items())}
            row = {"env_steps": env_steps, "grad_steps": done * self._updates(), **own}
            store.append_line(path / "metrics.jsonl", row)
            for sink in self.hooks.sinks:
                sink.write(path, row)
        self.tell("training", env_steps, float(np.mean(metrics["eval/episode_return"])))

    def _log_time(self, row: dict) -> None:
        for path in self.paths:
            store.append_line(path / "time.jsonl", row)

    def _finish(self, program: Program, state: TrainState) -> None:
        env_steps = self.offset + self.total * self.per_step
        self.tell("final diagnostics", env_steps)
        for i, (path, config) in enumerate(zip(self.paths, self.configs, strict=True)):
            own = state if len(self.paths) == 1 else jax.tree.map(lambda x, i=i: x[i], state)
            measured = final_diagnostics(config, program.parts, own)
            if measured:
                store.write_json(path / "diagnostics.json", measured)
        self._status(FINISHED, env_steps)
        self.tell(FINISHED, env_steps)


def run(configs: list[RunConfig], root: Path, hooks: Hooks | None = None) -> str:
    """Train configs that differ in their seed only, below `root`. Returns finished, failed or interrupted.

    Raises StoreError if another process trains one of them, OSError if the disk cannot be written.
    """
    assert len({replace(c, seed=0) for c in configs}) == 1, "a group differs in its seeds only"
    return Group(configs, root, hooks or Hooks()).run()
