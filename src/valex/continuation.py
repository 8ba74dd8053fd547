"""From offline to online: a policy's score and its three errors, along its training on data and along what it then collects.

<root>/continuations/<name>.json    the config and a row for every check: what `trials` measures, after so many updates and steps
<root>/continuations/<name>/        the rows so far and the whole state, behind every check; only the rows once it has ended

At a check every environment begins a new episode, so that a check is all that a stop has to keep: whoever goes on from there sees
what he would have seen. Source: figure 6 of 2406.09329; the value is learned first, as everywhere here, not beside the policy.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex import replay as replays, store
from valex.artefacts import Artefact, Hooks, PolicyAsk, Recipe, ValueAsk, make_recipe, not_finite, obtain
from valex.config import as_declared, digest
from valex.device import compiling
from valex.fields import ConfigError
from valex.finished import named_arrays, restore
from valex.matrix import attempt, stopping
from valex.offline.data import Dataset
from valex.offline.extraction import Policy
from valex.offline.train import Phase, make_continuation, mixed_rows
from valex.offline.values import Value
from valex.play import Lanes, play
from valex.settings.bottleneck import Cell, Continuation
from valex.settings.offline import Mixing
from valex.trials import EPISODES, Bench, actor, bench_of, measures, playground, score_of
from valex.types import Array, PyTree, Transition
from valex.workers import Job

FAILED = "continuations/failed"  # what did not come to its end, one file each: why
CHECK = "check"  # what a row is found by
ONLINE = 2  # random stream of what is collected, apart from those of `offline/train.py`


class State(NamedTuple):
    """Everything that goes on behind a check: one PyTree, saved whole."""

    value: PyTree  # state of the value
    policy: Phase  # `steps` counts updates of both parts
    ring: replays.Replay  # what was collected, as nets see it


class Course(NamedTuple):
    """A continuation made ready."""

    config: Continuation
    cell: Cell  # the same task, value and policy, as trials name them
    bench: Bench
    value: Artefact
    recipe: Recipe  # of the policy as the end of the offline part has it
    learn: Callable  # ((value, policy), ring, key, data) -> (value, policy), the updates of one vector step


def continuation_name(config: Continuation) -> str:
    """Return what a continuation is called: what it is, and a hash of all of it."""
    alpha = f"a{config.policy.alpha:g}" if hasattr(config.policy, "alpha") else ""  # pyright: ignore[reportAttributeAccessIssue]
    key = digest(asdict(as_declared(config)), 16)
    return f"{config.value.name}__{config.policy.name}{alpha}__s{config.seed}__{key}"


def record_path(root: Path, config: Continuation) -> Path:
    """Return where the record of a continuation lies."""
    return root / "continuations" / f"{continuation_name(config)}.json"


def check_continuation(config: Continuation) -> None:
    """Raise ConfigError where a continuation cannot be, one line that names the field."""
    if config.value.goals != "none" or config.policy.goals != "none":
        raise ConfigError(
            "policy.goals: online updates read one batch for both parts; take a task of one goal, goals none"
        )
    if config.policy.name == "bc":
        raise ConfigError(
            "policy.name: bc is read off no value, so nothing improves it online; take awr, ddpg_bc or sfbc"
        )
    least = {
        "offline_checks": 1,
        "online_steps": 0,
        "check_every": 1,
        "updates_per_step": 0,
        "num_envs": 1,
        "episodes": 1,
    }
    for name, low in least.items():
        if (value := getattr(config, name)) < low:
            raise ConfigError(f"{name}: {value} is below {low}")
    if config.mixing not in ("uniform", "half"):
        raise ConfigError(f"mixing: {config.mixing!r} is not known; choose one of uniform, half")
    if config.check_every % config.num_envs or config.online_steps % config.check_every:
        raise ConfigError(
            f"check_every: {config.check_every} has to be a multiple of num_envs {config.num_envs} and divide "
            f"online_steps {config.online_steps}"
        )


def follow(root: Path, path: Path, config: Continuation, hooks: Hooks) -> dict[str, Any]:
    """Return the record of a continuation: read if it is there, else made now, from the last check on.

    {"config", "data", "rows": [{"check", "phase" offline | online, "grad_steps", "env_steps", "score", "unit", measures ...}]}

    Raises ConfigError where it cannot be, StoreError where it diverged, OSError if the disk cannot be written.
    """
    place, folder = record_path(root, config), root / "continuations" / continuation_name(config)
    if found := store.read_json(place):
        return found
    check_continuation(config)
    with store.locked(folder, wait=True):
        if found := store.read_json(place):
            return found
        store.tidy(folder)
        course = make_course(root, path, config, hooks)
        state, check = _resumed(course, folder)
        last = config.offline_checks + config.online_steps // config.check_every
        try:
            while check < last:
                state = _advanced(course, state, check + 1, hooks) if check >= 0 else state
                check += 1
                _keep(course, folder, state, check)
                hooks.tell({"artefact": place.stem, CHECK: check, "total": last})
        except FloatingPointError as error:
            raise store.StoreError(f"{place.stem}: {error}; lower policy.lr or value.lr") from error
        rows = store.read_lines(folder / "metrics.jsonl", CHECK)
        store.write_json(place, {"config": asdict(config), "data": course.bench.card.name, "rows": rows})
        store.forget_after(folder, -1, 0)
    return store.read_json(place)


def make_course(root: Path, path: Path, config: Continuation, hooks: Hooks) -> Course:
    """Make a continuation ready; its value is trained now if it is not there. Raises ConfigError, StoreError."""
    cell = Cell(config.data, config.env, config.value, 0, config.policy, 0, config.seed, None, config.episodes,
                config.val_share, config.encoding)  # fmt: skip
    bench = bench_of(path, cell)
    size = len(bench.raw.obs)
    cell = replace(cell, value_size=size, policy_size=size)
    over = ValueAsk(size, replace(config.value, seed=config.seed))
    recipe = make_recipe(bench.source, PolicyAsk(size, replace(config.policy, seed=config.seed), over))
    value = obtain(root, bench.source, over, hooks)
    learn = make_learn(value.parts, recipe.program.parts, config.mixing, config.policy.batch_size,
                       config.updates_per_step * config.num_envs)  # fmt: skip
    return Course(config, cell, bench, value, recipe, learn)


remember = jax.jit(replays.add, donate_argnums=0)


@lru_cache(maxsize=4)
def make_learn(value: Value, policy: Policy, mixing: Mixing, batch_size: int, updates: int) -> Callable:
    """Build `Course.learn` once for all seeds."""
    update = make_continuation(value, policy)

    def learn(states: tuple, ring: replays.Replay, key: Array, data: Dataset) -> tuple:
        def one(states: tuple, key: Array) -> tuple[tuple, None]:
            rows_key, update_key = jax.random.split(key)
            return update(states, update_key, mixed_rows(mixing, data, ring, rows_key, batch_size))[0], None

        return jax.lax.scan(one, states, jax.random.split(key, updates))[0]

    return jax.jit(learn, donate_argnums=0)


# ---------------------------------------------------------------------------------------------------------- between two checks


def fresh(course: Course) -> State:
    """Return the state before the policy's first update."""
    data, config = course.bench.source.data, course.config
    zeros = lambda x: jnp.zeros(x.shape[1:])  # noqa: E731
    no = jnp.zeros((), bool)
    step = Transition(zeros(data.obs), zeros(data.action), jnp.zeros(()), zeros(data.obs), no, no)
    ring = replays.init(step, max(1, config.online_steps // config.num_envs), config.num_envs)
    value = jax.tree.map(lambda x: jnp.array(x, copy=True), course.value.phase.learner)  # what goes on is donated
    return State(value, course.recipe.program.start(*course.recipe.arguments), ring)


def _resumed(course: Course, folder: Path) -> tuple[State, int]:
    """Return the state at the newest check that was saved whole and that check, or before the first one and -1."""
    start = fresh(course)
    for check in store.checkpoint_steps(folder):
        arrays = store.load_checkpoint(folder, check)
        if arrays is not None and store.has_row(folder / "metrics.jsonl", check, CHECK):
            store.forget_after(folder, check, 2)
            store.truncate_lines(folder / "metrics.jsonl", check, CHECK)
            return restore(start, arrays, f"{folder}: checkpoint at {check}"), check
    store.forget_after(folder, -1, 0)
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    return start, -1


def _advanced(course: Course, state: State, check: int, hooks: Hooks) -> State:
    """Return the state at a check, from that at the one before."""
    if check > course.config.offline_checks:
        return collect(course, state, check - course.config.offline_checks - 1, hooks)
    frozen = (state.value,) if course.recipe.reads else ()
    target, phase = round(check / course.config.offline_checks * course.recipe.steps), state.policy
    while (done := int(phase.steps)) < target:
        with compiling():
            count = min(hooks.chunk, target - done)
            phase, _ = course.recipe.program.chunk(phase, course.bench.source.data, frozen, count)
        hooks.tell({"artefact": continuation_name(course.config), "grad_steps": done + count, "total": target})
    return state._replace(policy=phase)


def collect(course: Course, state: State, block: int, hooks: Hooks) -> State:
    """Return the state behind one stretch of `check_every` environment steps, each followed by its updates.

    The policy acts by a draw. In the last step all that goes on is truncated: its values bootstrap, and what comes next in the
    replay is another episode.
    """
    config, bench = course.config, course.bench
    rng, act = (
        np.random.default_rng([ONLINE, config.seed, block]),
        jax.jit(course.recipe.program.parts.act, static_argnums=4),
    )
    lanes = Lanes(playground(bench), config.num_envs, iter(lambda: int(rng.integers(2**31 - 1)), None))
    data, rounds = bench.source.data._replace(extras={}), config.check_every // config.num_envs
    base = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), ONLINE), block)
    name, (value, phase, ring) = continuation_name(config), state
    policy, updates = phase.learner, 0
    for i in range(rounds):
        act_key, learn_key = jax.random.split(jax.random.fold_in(base, i))
        action = np.asarray(act(policy, act_key, bench.encode(lanes.obs), (), True, value).action)
        step = lanes.step(action)
        cut = step.truncated | ((i == rounds - 1) & ~step.terminated)
        seen, came = jnp.asarray(bench.encode(step.obs)), jnp.asarray(bench.encode(step.next_obs))
        reward = jnp.asarray(step.reward, jnp.float32)
        row = Transition(seen, jnp.asarray(action), reward, came, jnp.asarray(step.terminated), jnp.asarray(cut))
        ring = remember(ring, row)
        if (block or i) and config.updates_per_step:  # a row is drawn with the one behind it: two are needed
            value, policy = course.learn((value, policy), ring, learn_key, data)
            updates += config.updates_per_step * config.num_envs
        hooks.tell({"artefact": name, "env_steps": i, "total": rounds})
    return State(value, phase._replace(learner=policy, steps=phase.steps + updates), ring)


# -------------------------------------------------------------------------------------------------------------------- checks


def _keep(course: Course, folder: Path, state: State, check: int) -> None:
    """Measure and save a state. Raises StoreError where it is not finite, FloatingPointError where its actions are not."""
    arrays = {name: np.asarray(leaf) for name, leaf in named_arrays(state).items()}
    if bad := not_finite(arrays):
        raise store.StoreError(f"{folder}: {bad} is not finite at check {check}; lower policy.lr or value.lr")
    offline = check <= course.config.offline_checks
    env_steps = 0 if offline else (check - course.config.offline_checks) * course.config.check_every
    act = actor(course.bench, Artefact(folder, course.recipe.program.parts, state.policy, state.value))
    played = play(playground(course.bench), act, range(EPISODES, EPISODES + course.config.episodes))
    score, unit = score_of(course.bench, played)
    row: dict[str, Any] = {CHECK: check, "phase": "offline" if offline else "online", "unit": unit, "score": score}
    row |= {"grad_steps": int(state.policy.steps), "env_steps": env_steps}
    store.append_line(folder / "metrics.jsonl", row | measures(course.bench, course.cell, act, played))
    store.save_checkpoint(folder, check, arrays, 2)


# ---------------------------------------------------------------------------------------------------------------- in numbers


def jobs(root: Path, path: Path, configs: Iterable[Continuation]) -> list[Job]:
    """Return what is left to do, a job for each continuation."""
    left = [config for config in configs if not store.read_json(record_path(root, config))]
    return [
        Job(
            (continuation_name(config),),
            (str(path), replace(config.value, seed=0), replace(config.policy, seed=0)),
            partial(work, root, path, config),
        )
        for config in left
    ]


def work(
    root: Path, path: Path, config: Continuation, stop: Callable[[], bool], progress: Callable[[dict], None]
) -> dict[str, tuple[str, str]]:
    """Follow one continuation; return its name -> (state, message)."""
    name = continuation_name(config)

    def tell(event: dict) -> None:
        if CHECK in event:
            done = {"run": name, "phase": "check", "env_steps": event[CHECK], "total": event["total"], "return": None}
            progress(done)
        stopping(stop)(event)

    return {name: attempt(root / FAILED, name, lambda: follow(root, path, config, Hooks(tell=tell)), stop)}


def table(records: list[dict[str, Any]], name: str, phase: str = "") -> np.ndarray:
    """Return a number of every check, [S, K]: one row for each record; `phase` offline or online alone; NaN where it is missing.

    The online part begins with the last check of the offline part. Raises ValueError where records have different checks.
    """

    def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
        offline = [row for row in record["rows"] if row["phase"] == "offline"]
        online = offline[-1:] + [row for row in record["rows"] if row["phase"] == "online"]
        return {"": record["rows"], "offline": offline, "online": online}[phase]

    found = [[row.get(name) for row in rows(record)] for record in records]
    return np.array([[np.nan if value is None else value for value in row] for row in found], float)


def slopes(records: list[dict[str, Any]], name: str) -> np.ndarray:
    """Return of every record the least-squares slope of a measure along the online part, per 1,000 environment steps, [S]."""
    steps, values = table(records, "env_steps", "online") / 1_000.0, table(records, name, "online")
    steps = steps - steps.mean(axis=1, keepdims=True)
    return np.sum(steps * values, axis=1) / np.sum(steps * steps, axis=1)
