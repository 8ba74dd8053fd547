"""The smallest run that passes through every part, and how to start, watch and stop it as a user does."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from valex import device, runner
from valex.cli import main
from valex.config import flatten, run_id
from valex.envs.classic import make_pendulum
from valex.settings import EnvConfig, EvalConfig, RunConfig, SACConfig, StoreConfig, TrainConfig

TINY = RunConfig(  # evaluations at 80, 120, 160, 200, 240; the replay wraps
    env=EnvConfig(episode_length=20),
    agent=SACConfig(hidden=(16, 16)),
    train=TrainConfig(env_steps=240, warmup_steps=40, batch_size=16, replay_capacity=64),
    eval=EvalConfig(every=40, episodes=2, value_bias_states=0, grad_samples=0),
    store=StoreConfig(checkpoint_every=1),
)
LONG = replace(TINY, train=replace(TINY.train, env_steps=4_000))  # seconds, so that a signal can hit it
TRACES = {"count": 0}


def make_counting_pendulum(config: EnvConfig):
    """A pendulum that counts how often its step is traced."""
    env = make_pendulum(replace(config, name="pendulum"))

    def step(key, state, action):
        TRACES["count"] += 1
        return env.step(key, state, action)

    return env._replace(step=step)


def words(config: RunConfig) -> list[str]:
    """Return the fields of a config that are not at their default, as a user writes them."""
    usual = dict(flatten(RunConfig()))
    changed = [(name, value) for name, value in flatten(config) if value != usual[name]]
    return [f"{n}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for n, v in changed]


def train(config: RunConfig, root: Path, hooks: runner.Hooks | None = None) -> Path:
    """Train in this process and return the run directory."""
    device.set_up_jax()
    runner.run([config], root, hooks)
    return root / run_id(config)


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def valex(*arguments: str) -> Said:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return Said(code, out.getvalue(), err.getvalue())


def start(*arguments: str) -> subprocess.Popen:
    """Start the command line in a process of its own, as a user does."""
    command = [sys.executable, "-m", "valex.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finish(process: subprocess.Popen) -> Said:
    """Wait for a started command."""
    out, err = process.communicate(timeout=300)
    return Said(process.returncode, out, err)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for a condition; fail with what the process said if it ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def lines(path: Path) -> int:
    """Return the number of evaluations logged in a run directory."""
    file = path / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def status(path: Path) -> dict:
    """Return the status of a run."""
    return json.loads((path / "status.json").read_text())


def metrics(path: Path) -> bytes:
    """Return the metrics of a run, byte for byte."""
    return (path / "metrics.jsonl").read_bytes()
