"""The smallest run that passes through every part, and how to start, watch and stop it as a user does."""

import ast
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_type_hints

from valex import device, runner, settings
from valex.cli import main
from valex.config import run_id
from valex.envs.classic import make_pendulum
from valex.fields import flatten, parts_of
from valex.settings import (
    AGENT_CONFIGS,
    ActorConfig,
    DDPGConfig,
    DDQNConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RPGConfig,
    RunConfig,
    SACConfig,
    SpectralConfig,
    StoreConfig,
    TD3Config,
    TrainConfig,
)

TINY = RunConfig(  # evaluations at 80, 120, 160, 200, 240; the replay wraps
    env=EnvConfig(episode_length=20),
    agent=SACConfig(hidden=(16, 16)),
    train=TrainConfig(env_steps=240, warmup_steps=40, batch_size=16, replay_capacity=64),
    eval=EvalConfig(every=40, episodes=2, value_bias_states=0, grad_samples=0),
    store=StoreConfig(checkpoint_every=1),
)
LEARNERS = {  # the same for every agent
    "sac": TINY,
    "rpg": replace(
        TINY,
        agent=RPGConfig(
            hidden=(16, 16), model_free_updates=50, spectral=SpectralConfig("paper"), final_target_entropy_per_dim=-1.0
        ),
        actor=ActorConfig(horizon=1, gradient="dr", starts="mixture"),
        model=ModelConfig("ensemble", num_models=1, deterministic=True, hidden=(8,), pretrain_steps=10),
    ),
    "ddpg": replace(TINY, agent=DDPGConfig(hidden=(16, 16))),
    "td3": replace(TINY, agent=TD3Config(hidden=(16, 16), policy_delay=3)),
    "ddqn": replace(
        TINY,
        env=EnvConfig("probe_both_discrete", episode_length=20),
        agent=DDQNConfig(hidden=(16,), target_every=3, epsilon_steps=100),
    ),
}
LONG = replace(TINY, train=replace(TINY.train, env_steps=6_000))  # seconds, so that a signal can hit it
TRACES = {"count": 0}


def make_counting_pendulum(config: EnvConfig):
    """A pendulum that counts how often its step is traced."""
    env = make_pendulum(replace(config, name="pendulum"))

    def step(key, state, action):
        TRACES["count"] += 1
        return env.step(key, state, action)

    return env._replace(step=step)


@cache
def _classes() -> dict[str, ast.ClassDef]:
    """Return every class of settings by its name."""
    files = sorted(Path(settings.__file__).parent.glob("*.py"))
    return {n.name: n for path in files for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)}


def field_texts(cls: type) -> dict[str, str]:
    """Return field -> the text below it in settings, of one class and what it inherits."""
    body = [line for base in reversed(cls.__mro__[:-1]) for line in _classes()[base.__name__].body]
    return {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


@cache
def documentation(agent: str = "") -> dict[str, str]:
    """Return dotted field -> the text below it in settings; of one learner, or of all, where the last one counts."""

    def parts(cls: type, prefix: str = ""):
        yield prefix, cls
        for name, hint in get_type_hints(cls).items():
            for part in parts_of(hint):
                if f"{prefix}{name}" != "agent" or not agent or part is AGENT_CONFIGS[agent]:
                    yield from parts(part, f"{prefix}{name}.")

    return {f"{prefix}{name}": text for prefix, cls in parts(RunConfig) for name, text in field_texts(cls).items()}


def words(config: RunConfig) -> list[str]:
    """Return the fields of a config that are not at their default, as a user writes them."""
    usual = dict(flatten(replace(RunConfig(), agent=type(config.agent)())))
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
    """Start the command line in a process group of its own, as a shell does."""
    command = [sys.executable, "-m", "valex.cli", *arguments]
    pipe, environment = subprocess.PIPE, dict(os.environ)
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


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


def whose(name: str, stop, progress) -> dict[str, tuple[str, str]]:
    """Do a job that tells which process did it. Here, where a spawned worker finds it."""
    del stop, progress
    return {name: ("finished", str(os.getpid()))}
