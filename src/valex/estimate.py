"""What a grid of runs will cost on this machine: a short measurement per environment and network, then arithmetic."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex import store
from valex.config import canonical, horizon, run_id
from valex.diagnostics.overhead import median_seconds
from valex.diagnostics.visits import visited_transitions
from valex.distributions import random_action
from valex.envs.base import reset_batch
from valex.launch import available_cores, groups, shape
from valex.replay import num_bytes
from valex.settings import LEARNED, ActorConfig, CriticConfig, ModelConfig, RunConfig, TrainConfig, needs_model
from valex.studies.cells import make_tasks, task_of
from valex.studies.naming import arm, arm_name, shared_training
from valex.train import Parts, collect, empty_replay, make_parts

# of an update: policy and critics on one more stored row (claim T9a of the quick study: 2.4 updates at H = 5)
STORED_ROW = 0.28
FIT_STEPS = 10  # gradient steps of the dynamics model that are timed together
BACKWARD = 4.0  # forward, rematerialised forward and backward of a differentiated model step, in forward steps; 3 of short ones


class Costs(NamedTuple):
    """Seconds, each measured alone."""

    collect: float  # one collection step of all environments
    update: float  # one update of the agent at H = 0
    step: float  # one step of the dynamics model for a whole batch
    fit: float  # one gradient step of the dynamics model; 0 for an oracle


def measure(config: RunConfig) -> Costs:
    """Time the parts of a run for a config's shapes."""
    parts: Parts = make_parts(replace(config, critic=CriticConfig(), actor=ActorConfig(), train=trained(config, 1)))
    env, agent, size = parts.env, parts.agent, config.train.batch_size
    key = jax.random.key(0)
    state = jax.jit(agent.init)(key)
    choose = lambda s: lambda k, obs: agent.act(s, k, obs, explore=True)  # noqa: E731
    envs = jax.jit(lambda k: reset_batch(env, k, config.train.num_envs))(key)
    step = jax.jit(lambda s, k, e: collect(env, choose(s), k, e)[0])
    batch = jax.eval_shape(lambda s, k: visited_transitions(parts, s, k, size), state, key)
    rows = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), batch)
    rows = rows._replace(log_prob=(), latent=(), sim_state=(), next_sim_state=())
    collect_s, update_s = (
        median_seconds(step, state, key, envs),
        median_seconds(jax.jit(agent.update), state, key, rows, ()),
    )
    if config.model.name in LEARNED and needs_model(config):
        return Costs(collect_s, update_s, *measure_learned(config))
    many = jax.jit(lambda k: reset_batch(env, k, size))(key)
    oracle = jax.jit(lambda k, e, a: jax.vmap(env.step)(jax.random.split(k, size), e.state, a))
    step_s = median_seconds(oracle, key, many, random_action(key, env.spec, (size,)).action)
    return Costs(collect_s, update_s, step_s, 0.0)


def trained(config: RunConfig, utd: int) -> TrainConfig:
    """Return the training loop of a config with another number of updates per control step."""
    return replace(config.train, utd=utd)


def measure_learned(config: RunConfig) -> tuple[float, float]:
    """Return seconds of (one step of the learned model for a batch, one gradient step), on a replay of zeros."""
    few = replace(config.model, pretrain_steps=FIT_STEPS, schedule="rate", patience=0)
    parts = make_parts(replace(config, train=trained(config, 0), model=few))
    assert parts.model is not None  # utd 0 trains the model alone
    key, spec, size = jax.random.key(0), parts.env.spec, config.train.batch_size
    params = jax.jit(parts.model.init)(key)
    replay = empty_replay(config, parts)
    full = replace(replay, size=jnp.asarray(replay.words.shape[0], jnp.int32))
    envs = reset_batch(parts.env, key, size)
    start = (
        parts.model.start(params, key, jax.vmap(parts.env.obs)(envs.state), ()),
        random_action(key, spec, (size,)).action,
    )
    step_s = median_seconds(jax.jit(parts.model.step), params, key, *start)
    return step_s, median_seconds(jax.jit(parts.model.update), params, key, full, repeats=3) / FIT_STEPS


def cost_of(config: RunConfig) -> ModelConfig:
    """Return the settings of the dynamics model that the time of a step depends on, the others at their default."""
    model = canonical(config).model
    if model.name not in LEARNED:
        return ModelConfig()  # noise on top of a simulator costs little
    same = (
        "num_models",
        "num_elites",
        "hidden",
        "activation",
        "propagation",
        "batch_size",
        "loss_steps",
        "termination",
    )
    return replace(ModelConfig(model.name), **{name: getattr(model, name) for name in same})


def model_steps(config: RunConfig) -> float:
    """Return the model steps of a batch in one update, in forward steps of one member for each row."""
    critic, members = config.critic, config.model.num_models if config.model.name in LEARNED else 1
    opinions = members if critic.rule == "steve" or critic.max_disagreement is not None else 0
    per_step = (1 + opinions) * (members if critic.member_agg != "sample" else 1)
    critic_steps = critic.horizon * critic.particles * per_step if critic.source == "model" else 0
    return critic_steps + BACKWARD * config.actor.horizon * config.actor.particles


def fit_steps(config: RunConfig) -> float:
    """Return the gradient steps of the dynamics model over a whole run."""
    model, train = config.model, config.train
    if model.name not in LEARNED or not needs_model(config):
        return 0.0
    if model.schedule == "rate":
        return model.pretrain_steps + model.steps_per_env_step * (train.env_steps - train.warmup_steps)
    phases = (train.env_steps - train.warmup_steps) / train.num_envs
    return (200 * train.warmup_steps + phases * (train.env_steps + train.warmup_steps) / 2) / model.batch_size


def run_seconds(config: RunConfig, costs: Costs) -> float:
    """Return the estimated seconds of one run, compilation and evaluation left out."""
    train = config.train
    stored_rows = config.critic.horizon if config.critic.source == "replay" else 0
    per_update = costs.update * (1.0 + STORED_ROW * stored_rows) + model_steps(config) * costs.step
    updates, iterations = train.env_steps * train.utd, train.env_steps / train.num_envs
    return iterations * costs.collect + updates * per_update + fit_steps(config) * costs.fit


def processes(workers: int) -> int:
    """Return how many processes train at once: those asked for, else one per core on a CPU and one on an accelerator."""
    return workers or (len(available_cores()) if jax.default_backend() == "cpu" else 1)


def memory_line(configs: list[RunConfig], workers: int) -> str:
    """Return what the replays of a grid take at once. Raises ValueError where an environment cannot be built."""
    largest: dict[tuple, RunConfig] = {}
    stores = lambda c: ((c.critic.horizon > 0) + 2 * (c.actor.horizon > 0)) * (c.model.name not in LEARNED)  # noqa: E731
    for config in sorted(configs, key=stores):
        largest[config.env, config.train] = config  # of one environment, what rolls out a simulator stores most
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
    shared, tasks = shared_training(configs), {task: name for name, task in make_tasks(configs).items()}
    for group in groups(configs, vmap_seeds=False):
        config = group[0]
        cells.setdefault((tasks[task_of(config)], arm(config, shared), horizon(config), shape(config)), []).append(
            config
        )
    shapes: dict[tuple, Costs | str] = {}
    total, unknown, programs = 0.0, 0, set()
    names = {key: arm_name(key, {other for _, other, *_ in cells}) for _, key, *_ in cells}
    width = max(map(len, names.values()))
    wide = max(18, *map(len, tasks.values()))
    print(f"{'environment':{wide}} {'arm':{width}} {'H':>3} {'seeds':>5} {'finished':>8} {'one run':>10}")
    for (env, key, h, _), runs in cells.items():
        config, name = runs[0], f"{names[key]:{width}}"
        kind = (config.env, config.agent, cost_of(config), config.train.batch_size, config.train.num_envs)
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
            print(f"{env:{wide}} {name} {h:3d} {len(runs):5d} {done:8d} {'unknown':>10}  {measured}")
            continue
        programs |= {shape(c) for c in runs} if done < len(runs) else set()
        seconds = run_seconds(config, measured)
        total += seconds * (len(runs) - done)
        print(f"{env:{wide}} {name} {h:3d} {len(runs):5d} {done:8d} {readable(seconds):>10}")
    count = sum(map(len, cells.values()))
    spread = processes(workers)
    rest = f"; {unknown} runs could not be measured" if unknown else ""
    print(f"{count} runs in {root}; about {readable(total / spread)} on {spread} {jax.default_backend()} workers{rest}")
    print("Without compilation, evaluation and final diagnostics; measured one at a time on this machine just now.")
    if programs:
        print(
            f"programs to compile, unless the cache has them: {len(programs)}, of 5 s to 4 min each (gradients through "
            "contacts longest, then learned models)"
        )
    with contextlib.suppress(ValueError):  # said above, with the environment's name
        print(memory_line(configs, workers))
