"""What a policy learned from data is worth and how it errs: one cell of a matrix, tried once and kept.

<root>/trials/<name>.json   the cell, the return of every episode, its score, and measures of the policy:

score              success (percent) where the task says when it is solved; else 100 (R - random) / (expert - random) where the
                   card has both; else R / 10 in dm_control, whose returns lie in 0 .. 1000; else R
error/train|val|eval  mean squared error to the declared optimal policy, with `_se`; only where there is one
fit/train|val      mean squared error to the data's actions, what cloning minimises
action/max         mean over visited states of the largest |a| of an action
action/outside     share of actions beyond what the data did near there (`diagnostics.policy_errors.outside_share`)
radius/val|eval    how far held-out and visited states are from those that the policy was trained on (`policy_errors.remoteness`)

A cell without an environment is trained and not played: its score is null, and of visited states nothing is said.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex import store
from valex.arenas import Arena, make_arena
from valex.artefacts import Artefact, Hooks, PolicyAsk, Source, ValueAsk, obtain, open_source
from valex.checks_offline import check_perturbation, check_test_time
from valex.config import as_declared, digest
from valex.datasets import files
from valex.datasets.card import Card
from valex.diagnostics.policy_errors import action_error, outside_share, remoteness
from valex.experts import expert_of
from valex.fields import ConfigError
from valex.offline.batch import Batch, dims_of
from valex.offline.coverage import normalised
from valex.offline.data import Dataset, on_device, permuted, prefix_rows, split_trajectories, take_trajectories
from valex.offline.encoding import encoded, make_encoding
from valex.offline.goals import policy_sampler
from valex.offline.perturbation import perturbed
from valex.offline.testtime import Visited, make_ttt, with_opex
from valex.play import Lanes, Played, play
from valex.settings.bottleneck import Cell
from valex.settings.offline import ActorGoals, PolicyConfig, TTTConfig

EPISODES = 1_000_000  # seed of the first episode of a trial: apart from those of test-time training, which begin at 0
ROWS = 4_096  # rows of training and of held-out data that errors are measured on
TTT_LANES = 10  # environments that test-time training visits side by side
TOLD = 500  # vector steps of test-time training between two moments at which it may be stopped


class Bench(NamedTuple):
    """A dataset made ready for one seed: what is trained on, what is held out, and where policies are tried."""

    source: Source  # the training trajectories in the order that the seed drew, encoded
    raw: Dataset  # the same as recorded, on the host
    held: Dataset  # the others, encoded, on the device
    held_raw: Dataset  # the same as recorded
    encode: Callable  # obs or goals [..., d] as recorded -> as nets see them
    card: Card
    arena: Arena | None  # None: nowhere, policies are only held against the data
    expert: Callable | None  # (obs [N, obs_dim], goal) -> [N, act_dim], the declared optimal policy; None: not known


@lru_cache(maxsize=2)
def opened(path: Path) -> tuple[Dataset, Card]:
    """Read a dataset once for many cells. Raises ConfigError."""
    return files.read(path)


@lru_cache(maxsize=4)
def arena_of(env: str, goals: bool) -> Arena:
    """Build an arena once for many cells. Raises ConfigError."""
    return make_arena(json.loads(env), goals)


@lru_cache(maxsize=2)
def make_bench(path: Path, env: str, goals: bool, seed: int, val_share: float, encoding: str) -> Bench:
    """Split, order and encode a dataset.

    Raises ConfigError where it cannot be read, is too small, or is of another task than `env`.
    """
    data, card = opened(path)
    try:
        train, held = split_trajectories(data, val_share, 0)
        raw, rest = permuted(take_trajectories(data, train), seed), take_trajectories(data, held)
        encode = make_encoding(encoding, raw)
        source = open_source(encoded(raw, encode))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    arena = arena_of(env, goals) if env else None
    theirs = data.obs.shape[1], data.action.shape[1]
    if arena is not None and arena.dims[:2] != theirs:
        raise ConfigError(
            f"env: {arena.name} has obs {arena.dims.obs} and action {arena.dims.act}, {path} has {theirs[0]} and {theirs[1]}; "
            "name the environment that the data come from"
        )
    expert = None if arena is None else expert_of(path, card, arena)
    return Bench(source, raw, on_device(encoded(rest, encode)), rest, encode, card, arena, expert)


def bench_key(cell: Cell) -> tuple[str, bool, int, float, str]:
    """Return what `make_bench` reads of a cell: cells with the same key are trained on one source."""
    return cell.env, cell.policy.goals != "none", cell.seed, cell.val_share, cell.encoding


def bench_of(path: Path, cell: Cell) -> Bench:
    """Return what a cell is trained and tried on. Raises ConfigError as `make_bench`, and where the dataset is another one."""
    bench = make_bench(path, *bench_key(cell))
    if bench.card.sha256 != cell.data:
        raise ConfigError(f"{path}: the dataset is not the one that was asked for; give the study a new folder")
    return bench


def cell_name(cell: Cell) -> str:
    """Return what a cell is called: what it is, and a hash of all of it."""
    value = f"{cell.value.name}{cell.value_size}" if cell.value else "none"
    alpha = "".join(
        f"{short}{getattr(cell.policy, name):g}"
        for name, short in (("alpha", "a"), ("samples", "N"))
        if hasattr(cell.policy, name)
    )
    tested = f"__{cell.test_time.name}" if cell.test_time else ""
    if cell.perturbation is not None and not cell.perturbation.size:  # an error of size 0 is none
        cell = replace(cell, perturbation=None)
    key = digest(asdict(as_declared(cell)), 16)
    return f"{value}__{cell.policy.name}{alpha}_{cell.policy_size}{tested}__s{cell.seed}__{key}"


def trial_path(root: Path, cell: Cell) -> Path:
    """Return where a cell's trial lies."""
    return root / "trials" / f"{cell_name(cell)}.json"


def asks(cell: Cell) -> PolicyAsk:
    """Return the policy, and with it the value, that a cell wants."""
    over = None
    if cell.value is not None:
        over = ValueAsk(cell.value_size, replace(cell.value, seed=cell.seed))
    return PolicyAsk(cell.policy_size, replace(cell.policy, seed=cell.seed), over)


def try_cell(root: Path, path: Path, cell: Cell, hooks: Hooks) -> dict[str, Any]:
    """Return the trial of a cell: read if it is there, else made now, with the value and the policy that it needs.

    Raises ConfigError where it cannot be, StoreError where training diverged, OSError if the disk cannot be written.
    """
    place = trial_path(root, cell)
    if found := store.read_json(place):
        return found
    bench, ask = bench_of(path, cell), asks(cell)
    artefact = obtain(root, bench.source, ask, hooks)
    try:
        act = improved(root, bench, artefact, cell, hooks)
        seeds = range(EPISODES, EPISODES + cell.episodes)
        played = play(bench.arena, act, seeds) if bench.arena else None
    except FloatingPointError as error:
        field = "test_time.lr or test_time.beta" if cell.test_time else "policy.lr"
        raise store.StoreError(f"{place.stem}: {error}; lower {field}") from error
    score, unit = score_of(bench, played) if played else (None, "")
    trial = {
        "cell": asdict(cell),
        "data": bench.card.name,
        "score": score,
        "unit": unit,
        "returns": played.returns.tolist() if played else [],
        "lengths": played.lengths.tolist() if played else [],
        "success": played.success.astype(int).tolist() if played else [],
        "measures": measures(bench, cell, act, played),
        "training": last_metrics(artefact.path),
        "artefacts": {"policy": artefact.path.name},
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    store.write_json(place, trial)
    return store.read_json(place)  # as whoever asks again will have it


def playground(bench: Bench) -> Arena:
    """Return where policies are tried. Raises ConfigError where there is no such place."""
    if bench.arena is None:
        raise ConfigError("env: needed for what happens at test time; name one with --env ID")
    return bench.arena


def last_metrics(path: Path) -> dict[str, float]:
    """Return the last line of an artefact's metrics."""
    rows = store.read_lines(path / "metrics.jsonl", "grad_steps")
    return rows[-1] if rows else {}


def actor(bench: Bench, artefact: Artefact) -> Callable:
    """Return (obs, goal) as the task has them -> action of a policy as training left it."""
    mean = jax.jit(artefact.parts.mean)

    def act(obs: np.ndarray, goal: Any) -> np.ndarray:
        seen = bench.encode(obs), bench.encode(goal) if len(goal) else ()
        return np.asarray(mean(artefact.phase.learner, *seen, artefact.frozen))

    return act


def improved(root: Path, bench: Bench, artefact: Artefact, cell: Cell, hooks: Hooks) -> Callable:
    """Return (obs, goal) -> action of a policy with what the cell does at test time. Raises ConfigError where it cannot."""
    how, over = cell.test_time, asks(cell).over
    if how is None:
        if cell.perturbation is not None and cell.perturbation.size:
            raise ConfigError(
                "perturbation.size: nothing climbs the value of this cell when it acts; give it a test_time"
            )
        return actor(bench, artefact)
    check_test_time(how)
    if over is None:
        raise ConfigError(f"test_time.name: {how.name} climbs a value and {cell.policy.name} is read off none")
    value = obtain(root, bench.source, over, hooks)
    if cell.perturbation is not None and check_perturbation(cell.perturbation).size:
        rows = rows_of(cell.policy, bench.source.data, ROWS, cell.seed, seen_rows(bench, cell))
        value = value._replace(parts=perturbed(cell.perturbation, value.parts, value.phase.learner, rows))
    artefact = artefact._replace(frozen=value.phase.learner)
    if not isinstance(how, TTTConfig):
        return actor(bench, artefact._replace(parts=with_opex(how, artefact.parts, value.parts)))
    return actor(bench, trained_on_visits(how, bench, artefact, value, cell, hooks))


def trained_on_visits(
    how: TTTConfig, bench: Bench, artefact: Artefact, value: Artefact, cell: Cell, hooks: Hooks
) -> Artefact:
    """Return the policy after its budget of updates on the states that it visits; no reward is read."""
    arena = playground(bench)
    dims = dims_of(bench.source.data, arena.dims.goal > 0)
    try:
        ttt = make_ttt(how, dims, artefact.parts, value.parts, TTT_LANES)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    step, mean = jax.jit(ttt.step), jax.jit(artefact.parts.mean)
    state = ttt.start(artefact.phase.learner)
    lanes = Lanes(arena, TTT_LANES, iter(range(EPISODES)))
    frozen, key = artefact.frozen, jax.random.key(cell.seed)
    states = rows_of(cell.policy, bench.source.data, ROWS, cell.seed, seen_rows(bench, cell))
    dataset = Visited(states.obs, states.goal) if how.dataset_share else None
    rounds = 0 if how.updates_per_step == 0 else math.ceil(how.max_updates / how.updates_per_step)
    for i in range(rounds):
        obs, goal = bench.encode(lanes.obs), bench.encode(lanes.goals) if arena.dims.goal else ()
        action = np.asarray(mean(state.policy, obs, goal, frozen))
        lanes.step(action)
        state, _ = step(
            state,
            jax.random.fold_in(key, i),
            Visited(jnp.asarray(obs), jnp.asarray(goal) if len(goal) else ()),
            frozen,
            dataset,
        )
        if i % TOLD == TOLD - 1:
            hooks.tell({"artefact": artefact.path.name, "grad_steps": int(state.updates), "total": how.max_updates})
    return artefact._replace(phase=artefact.phase._replace(learner=state.policy))


# --------------------------------------------------------------------------------------------------------------- measures


def score_of(bench: Bench, played: Played) -> tuple[float, str]:
    """Return (mean score, its unit) of episodes."""
    arena = playground(bench)
    if arena.success:
        return 100.0 * float(played.success.mean()), "success (%)"
    return return_score(bench.card, arena, float(played.returns.mean()))


def return_score(card: Card, arena: Arena, mean: float) -> tuple[float, str]:
    """Return (score, its unit) of a mean return per episode where the task does not say when it is solved."""
    known = card.optimality
    if "normalised" in known:
        return normalised(mean, (known["random_return"], known["expert_return"])), "normalised return (%)"
    if arena.name.startswith("dm_control/"):
        return mean / 10.0, "return / 10 (of 0 .. 100)"
    return mean, "return"


def seen_rows(bench: Bench, cell: Cell) -> int:
    """Return how many of the first rows the policy of a cell may see."""
    return prefix_rows(bench.raw, (cell.policy_size,))[0]


def rows_of(policy: PolicyConfig, data: Dataset, rows: int, seed: int, among: int | None = None) -> Batch:
    """Draw rows as the policy's training does, goals included, of the first `among` rows (None: all)."""
    among = len(data.obs) if among is None else among
    return drawer(policy.goals)(data._replace(extras={}), jax.random.key(seed), rows, np.int32(among))


@lru_cache(maxsize=4)
def drawer(goals: ActorGoals) -> Callable:
    """Build what draws rows, once for many cells."""
    return jax.jit(policy_sampler(PolicyConfig(goals=goals)), static_argnums=2)


def measures(bench: Bench, cell: Cell, act: Callable, played: Played | None) -> dict[str, float]:
    """Return how a policy acts on training, held-out and visited states."""
    data, seen = bench.raw, seen_rows(bench, cell)
    train = rows_of(cell.policy, data, ROWS, cell.seed, seen)
    held = rows_of(cell.policy, bench.held_raw, ROWS, cell.seed)
    found = {"radius/val": remoteness(bench.held_raw.obs, data.obs[:seen])}
    if played:
        found |= {
            "action/max": float(np.mean(np.max(np.abs(played.action), axis=1))),
            "action/outside": outside_share(played.obs, played.action, data.obs[:seen], data.action[:seen]),
            "radius/eval": remoteness(played.obs, data.obs[:seen]),
        }
    sets: dict[str, tuple] = {}
    for name, batch in (("train", train), ("val", held)):
        obs, goal = np.asarray(batch.obs), np.asarray(batch.goal) if len(batch.goal) else ()
        sets[name] = act(obs, goal), obs, goal, None
        found[f"fit/{name}"] = action_error(sets[name][0], np.asarray(batch.action)).mse
    if (expert := bench.expert) is None or played is None:
        return found
    sets["eval"] = played.action, played.obs, played.goal, played.episode
    for name, (action, obs, goal, group) in sets.items():
        error = action_error(action, expert(obs, goal), group)
        found |= {f"error/{name}": error.mse, f"error/{name}_se": error.stderr}
    return found
