"""What a grid of runs will cost on this machine: a short measurement per environment and network, then arithmetic."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from valex import store
from valex.config import algorithm, horizon, run_id
from valex.diagnostics.overhead import median_seconds
from valex.diagnostics.targets import visited_transitions
from valex.envs.base import reset_batch
from valex.launch import available_cores, groups, shape
from valex.replay import num_bytes
from valex.settings import ActorConfig, CriticConfig, RunConfig
from valex.train import Parts, collect, empty_replay, make_parts

# of an update: policy and critics on one more stored row (claim T9a of the quick study: 2.4 updates at H = 5)
STORED_ROW = 0.28
BACKWARD = 4.0  # forward, rematerialised forward and backward of a differentiated model step, in forward steps


def measure(config: RunConfig) -> tuple[float, float, float]:
    """Return seconds of (one collection step, one SAC update, one oracle step of a whole batch) for a config's shapes."""
    parts: Parts = make_parts(replace(config, critic=CriticConfig(), actor=ActorConfig()))
    env, agent, size = parts.env, parts.agent, config.train.batch_size
    key = jax.random.key(0)
    state = jax.jit(agent.init)(key)
    choose = lambda s: lambda k, obs: agent.act(s, k, obs, explore=True)  # noqa: E731
    envs = jax.jit(lambda k: reset_batch(env, k, config.train.num_envs))(key)
    step = jax.jit(lambda s, k, e: collect(env, choose(s), k, e)[0])
    batch = jax.eval_shape(lambda s, k: visited_transitions(parts, s, k, size), state, key)
    rows = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), batch)
    rows = rows._replace(log_prob=(), latent=(), sim_state=(), next_sim_state=())
    many = jax.jit(lambda k: reset_batch(env, k, size))(key)
    oracle = jax.jit(lambda k, e, a: jax.vmap(env.step)(jax.random.split(k, size), e.state, a))
    return (
        median_seconds(step, state, key, envs),
        median_seconds(jax.jit(agent.update), state, key, rows, ()),
        median_seconds(oracle, key, many, jnp.zeros((size, env.spec.act_dim))),
    )


def run_seconds(config: RunConfig, measured: tuple[float, float, float]) -> float:
    """Return the estimated seconds of one run, compilation and evaluation left out."""
    collect_s, update_s, oracle_s = measured
    train = config.train
    critic_steps = config.critic.horizon * config.critic.particles if config.critic.source == "model" else 0
    actor_steps = BACKWARD * config.actor.horizon * config.actor.particles
    stored_rows = config.critic.horizon if config.critic.source == "replay" else 0
    per_update = update_s * (1.0 + STORED_ROW * stored_rows) + (critic_steps + actor_steps) * oracle_s
    iterations = train.env_steps / train.num_envs
    return iterations * collect_s + train.env_steps * train.utd * per_update


def processes(workers: int) -> int:
    """Return how many processes train at once: those asked for, else one per core on a CPU and one on an accelerator."""
    return workers or (len(available_cores()) if jax.default_backend() == "cpu" else 1)


def memory_line(configs: list[RunConfig], workers: int) -> str:
    """Return what the replays of a grid take at once. Raises ValueError where an environment cannot be built."""
    largest: dict[tuple, RunConfig] = {}
    for config in sorted(configs, key=lambda c: (c.critic.horizon > 0) + 2 * (c.actor.horizon > 0)):
        largest[config.env, config.train] = config  # of one environment, what rolls out stores most
    built = [(c, make_parts(c)) for c in largest.values()]  # outside the trace: Brax reads numbers of its own
    size = max(num_bytes(jax.eval_shape(lambda c=c, p=p: empty_replay(c, p))) for c, p in built)
    together = groups(configs, vmap_seeds=jax.default_backend() != "cpu")
    count = max(map(len, together)) * min(processes(workers), len(together))
    return f"memory: a replay of up to {size / 1e6:,.1f} MB per run, runs at once: {count}; a checkpoint takes as much disk"


def readable(seconds: float) -> str:
    """Return seconds as s, min, h or days."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def print_plan(configs: list[RunConfig], root: Path, workers: int) -> None:
    """Print one line per cell with its seeds and estimated time, and the total over the workers of this machine."""
    cells: dict[tuple, list[RunConfig]] = {}
    for group in groups(configs, vmap_seeds=False):
        config = group[0]
        cells.setdefault((config.env.name, algorithm(config), horizon(config), shape(config)), []).append(config)
    shapes: dict[tuple, tuple[float, float, float] | str] = {}
    total, unknown = 0.0, 0
    print(f"{'environment':18} {'algorithm':12} {'H':>3} {'seeds':>5} {'finished':>8} {'one run':>10}")
    for (env, name, h, _), runs in cells.items():
        config = runs[0]
        kind = (config.env, config.agent, config.train.batch_size, config.train.num_envs)
        if kind not in shapes:
            print(f"measuring {env} ...", file=sys.stderr, flush=True)
            try:
                shapes[kind] = measure(config)
            except ValueError as error:
                shapes[kind] = str(error).splitlines()[0]
        measured = shapes[kind]
        done = sum(
            store.read_json(root / run_id(c) / "status.json").get("state") in ("finished", "failed") for c in runs
        )
        if isinstance(measured, str):
            unknown += len(runs) - done
            print(f"{env:18} {name:12} {h:3d} {len(runs):5d} {done:8d} {'unknown':>10}  {measured}")
            continue
        seconds = run_seconds(config, measured)
        total += seconds * (len(runs) - done)
        print(f"{env:18} {name:12} {h:3d} {len(runs):5d} {done:8d} {readable(seconds):>10}")
    count = sum(map(len, cells.values()))
    spread = processes(workers)
    rest = f"; {unknown} runs could not be measured" if unknown else ""
    print(f"{count} runs in {root}; about {readable(total / spread)} on {spread} {jax.default_backend()} workers{rest}")
    print("Without compilation and evaluation; measured one at a time on this machine just now.")
    with contextlib.suppress(ValueError):  # said above, with the environment's name
        print(memory_line(configs, workers))
