"""Values and policies learned from a dataset, kept under the hash of what they are made of: asked for again, they are loaded.

    value    hash(the dataset's checksum, its rows, the value's config)
    policy   hash(the value's hash, rows, the extractor's config)            steps and seed are fields of both configs

A folder below <root>/values or <root>/policies holds one of them:

artefact.json    what it is made of
meta.json        versions, device, git commit, command
status.json      state: running | finished | failed | interrupted, with a message
metrics.jsonl    one line per chunk of updates, means over it
checkpoints/     the whole phase; the one at the last step is the artefact

A kill at any moment loses the updates since the last chunk and nothing else: the same request goes on and ends with the same
bits. Only one process trains an artefact; others that ask for it wait, then load it.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from valex import store
from valex.checks_offline import check_policy, check_value
from valex.config import as_declared, digest
from valex.datasets.card import checksum
from valex.device import compiling, metadata
from valex.fields import ConfigError
from valex.finished import named_arrays, restore
from valex.offline.batch import Dims, dims_of
from valex.offline.data import DataError, Dataset, on_device, prefix_rows
from valex.offline.extraction import Policy
from valex.offline.goals import policy_sampler, value_sampler
from valex.offline.train import Phase, make_phase, start_phase
from valex.offline.values import Value
from valex.settings.offline import BCConfig, ExtractionKind, ValueKind
from valex.tables import EXTRACTORS, VALUES, load
from valex.types import PyTree

DIGITS = 16  # of the hash, in a folder's name
STEPS = "grad_steps"  # what a line of metrics is found by
PARTS = {"values": "value", "policies": "policy"}  # folder: what its configs are called in messages


class Source(NamedTuple):
    """A dataset to train on, its trajectories in the order of `offline.data.permuted`."""

    data: Dataset  # on the device
    sha256: str  # as its card has it


def open_source(data: Dataset) -> Source:
    """Return a dataset as something to train on."""
    return Source(on_device(data), checksum(data))


class ValueAsk(NamedTuple):
    """A value that is wanted."""

    size: int  # transitions: it may see the shortest prefix of whole trajectories with at least so many
    config: ValueKind


class PolicyAsk(NamedTuple):
    """A policy that is wanted."""

    size: int  # transitions, as of a value
    config: ExtractionKind
    over: ValueAsk | None = None  # the value that it is read off; None for behaviour cloning


@dataclass(frozen=True)
class Hooks:
    """What the outside world is told while training goes on, and how often all is saved."""

    chunk: int = 10_000  # updates between checkpoints; without effect on the artefact
    tell: Callable[[dict], None] = lambda event: (
        None
    )  # {"artefact", "grad_steps", "total", metrics}, behind each checkpoint


class Artefact(NamedTuple):
    """What was learned, and what to do with it."""

    path: Path
    parts: Any  # Value or Policy, as pure functions
    phase: Phase  # as training left it; `phase.learner` is the state of `parts`
    frozen: PyTree = ()  # state of the value that a policy is asked with; () for a value and for behaviour cloning


class Program(NamedTuple):
    """What trains artefacts of one shape; seeds, alphas and amounts of data are arguments."""

    parts: Any
    start: Callable  # (seed, rows, *alpha) -> Phase
    chunk: Callable  # (phase, data, frozen, n) -> (phase, metrics)
    cells: (
        Callable  # the same for several side by side: leaves of phase, frozen and metrics have an axis of them in front
    )


class Recipe(NamedTuple):
    """How one artefact is made."""

    folder: str  # values or policies
    made_of: dict  # nested plain dicts, hashed
    program: Program
    arguments: tuple  # of its start
    steps: int
    over: ValueAsk | None = None  # the value that is asked when acting
    reads: bool = False  # whether training reads that value, too

    @property
    def name(self) -> str:
        """Return what the artefact is called."""
        config = self.made_of["config"]
        return f"{config['name']}__n{self.made_of['rows']}__s{config['seed']}__{digest(self.made_of, DIGITS)}"

    def path(self, root: Path) -> Path:
        """Return where the artefact lies."""
        return root / self.folder / self.name


def trained(config: Any) -> Any:
    """Return what training reads of a config, the other fields at their default: equal artefacts are made once.

    A cloned policy is one whether the best of its candidates is to be chosen or not.
    """
    if isinstance(config, BCConfig):
        config = BCConfig(**{f.name: getattr(config, f.name) for f in fields(BCConfig) if f.name != "name"})
        unread = {
            "gaussian": ("components", "flow_steps"),
            "mixture": ("std", "flow_steps"),
            "flow": ("std", "components"),
        }
        config = replace(config, **{name: getattr(BCConfig(), name) for name in unread[config.behaviour]})
    if hasattr(config, "goal_reward") and (config.goals == "none" or config.name == "crl"):
        config = replace(config, goal_reward=type(config)().goal_reward)
    return as_declared(config)


def _shaped(config: Any) -> Any:
    """Return the config with what is data in a program at its default: one program for all of them."""
    alpha = {"alpha": type(config)().alpha} if hasattr(config, "alpha") else {}
    return replace(config, seed=0, steps=0, **alpha)


def _program(parts: Value | Policy, sample: Callable, batch_size: int) -> Program:
    alone, beside = (make_phase(parts.update, sample, batch_size, cells=cells) for cells in (False, True))
    return Program(parts, jax.jit(partial(start_phase, parts.init)), alone, beside)


@lru_cache(maxsize=16)
def value_program(config: ValueKind, dims: Dims) -> Program:
    """Build what trains values of one shape."""
    return _program(load(VALUES, config.name)(config, dims), value_sampler(config), config.batch_size)


@lru_cache(maxsize=16)
def policy_program(config: ExtractionKind, dims: Dims, value: ValueKind | None) -> Program:
    """Build what trains policies of one shape over values of one shape."""
    over = () if value is None else (value_program(value, dims).parts,)
    return _program(load(EXTRACTORS, config.name)(config, dims, *over), policy_sampler(config), config.batch_size)


def obtain(root: Path | str, source: Source, ask: ValueAsk | PolicyAsk, hooks: Hooks | None = None) -> Artefact:
    """Return what is asked for: loaded if it is there, else trained now, from where it was left; its value first.

    Raises ConfigError where it cannot be asked for, StoreError where it diverged, now or before, or where files are not what
    they were, OSError if the disk cannot be written.
    """
    root, hooks = Path(root), hooks or Hooks()
    if hooks.chunk < 1:
        raise ConfigError(f"chunk: {hooks.chunk} updates; at least 1 is needed")
    recipe = make_recipe(source, ask)
    frozen = obtain(root, source, recipe.over, hooks).phase.learner if recipe.over else ()
    phase = stored(recipe, root)
    if phase is None:
        phase = _make(recipe, root, source, (frozen,) if recipe.reads else (), hooks)
    return Artefact(recipe.path(root), recipe.program.parts, phase, frozen)


def make_recipe(source: Source, ask: ValueAsk | PolicyAsk) -> Recipe:
    """Return how an artefact is made; nothing is trained. Raises ConfigError where it cannot be asked for."""
    config, over = ask.config, None
    if isinstance(ask, ValueAsk):
        check_value(ask.config)
    else:
        check_policy(ask.config, ask.over and ask.over.config)
        over = None if type(config) is BCConfig else ask.over
        if over is None and type(config) is not BCConfig:
            raise ConfigError(f"policy.name: {config.name} is read off a value; ask for it over one")
    value = None if over is None else make_recipe(source, over)
    dims = dims_of(source.data, config.goals != "none")
    try:
        (rows,) = prefix_rows(source.data, (ask.size,))
        if isinstance(ask, ValueAsk):
            program = value_program(_shaped(ask.config), dims)
        else:
            program = policy_program(_shaped(ask.config), dims, over and _shaped(over.config))
    except (DataError, ValueError) as error:
        raise ConfigError(str(error)) from error
    made_of = {"data": source.sha256, "rows": rows, "config": asdict(trained(config))}
    arguments = np.uint32(config.seed), np.int32(rows)
    reads = not isinstance(ask, ValueAsk) and not isinstance(config, BCConfig)
    if value is not None and reads:
        made_of["value"] = value.name
        arguments = (*arguments, np.float32(config.alpha))  # pyright: ignore[reportAttributeAccessIssue]
    folder = "values" if isinstance(ask, ValueAsk) else "policies"
    return Recipe(folder, made_of, program, arguments, config.steps, over, reads)


def stored(recipe: Recipe, root: Path) -> Phase | None:
    """Return the phase of a finished artefact, None if it has not finished. Raises StoreError."""
    path = recipe.path(root)
    known = store.read_json(path / "artefact.json")
    if not known:
        return None
    if digest(known, DIGITS) != digest(recipe.made_of, DIGITS):
        raise store.StoreError(f"{path}: artefact.json is not what the folder is named after; delete the folder")
    status = store.read_json(path / "status.json")
    if status.get("state") == "failed":
        raise store.StoreError(f"{path}: {status['message']}; with other settings, or delete the folder to try again")
    return _restored(recipe, path, recipe.steps) if status.get("state") == "finished" else None


def _restored(recipe: Recipe, path: Path, steps: int) -> Phase | None:
    """Return the phase saved after so many steps, None if it is damaged or its line of metrics is missing."""
    arrays = store.load_checkpoint(path, steps)
    if arrays is None or not store.has_row(path / "metrics.jsonl", steps, STEPS):
        return None
    shapes = jax.eval_shape(recipe.program.start, *recipe.arguments)
    return restore(shapes, arrays, f"{path}: checkpoint at {steps}")


def _make(recipe: Recipe, root: Path, source: Source, frozen: tuple, hooks: Hooks) -> Phase:
    """Train an artefact, or wait for whoever trains it; return its phase. Raises StoreError."""
    path = recipe.path(root)
    with store.locked(path, wait=True):
        if (phase := stored(recipe, root)) is not None:
            return phase
        begin(recipe, path, {})
        try:
            phase = _train(recipe, path, source.data, frozen, hooks)
        except BaseException as error:
            if not isinstance(error, Diverged):
                broken_off(path, error)
            raise
        finish(recipe, path)
        return phase


def begin(recipe: Recipe, path: Path, more: dict) -> None:
    """Write down what is going to be trained in a folder that this process has locked, `more` into meta.json."""
    store.tidy(path)
    store.write_json(path / "artefact.json", recipe.made_of)
    store.write_json(path / "meta.json", metadata() | more)
    say(path, "running")


def broken_off(path: Path, error: BaseException) -> None:
    """Write down why training did not come to its end, unless the disk is full."""
    with contextlib.suppress(OSError):
        say(path, "interrupted", f"{type(error).__name__}: {error}")


def finish(recipe: Recipe, path: Path) -> None:
    """Write down that an artefact is whole, and keep its last checkpoint alone."""
    say(path, "finished")
    store.forget_after(path, recipe.steps, 1)


class Diverged(store.StoreError):
    """Training whose numbers are not finite any more."""


def say(path: Path, state: str, message: str = "") -> None:
    """Write an artefact's status."""
    store.write_json(path / "status.json", {"state": state, "message": message})


def resumed(recipe: Recipe, path: Path) -> tuple[Phase, int]:
    """Return the newest phase that was saved whole, or one before its first update, and its steps; newer files are removed."""
    for steps in store.checkpoint_steps(path):
        if (phase := _restored(recipe, path, steps)) is not None:
            store.forget_after(path, steps, 2)
            store.truncate_lines(path / "metrics.jsonl", steps, STEPS)
            return phase, steps
        print(f"warning: {path}: checkpoint at {steps} is damaged; trying the one before", file=sys.stderr, flush=True)
    store.forget_after(path, -1, 0)
    (path / "metrics.jsonl").unlink(missing_ok=True)
    with compiling():
        return recipe.program.start(*recipe.arguments), 0


def _train(recipe: Recipe, path: Path, data: Dataset, frozen: tuple, hooks: Hooks) -> Phase:
    """Take the updates that are left, saving everything behind each chunk. Raises Diverged."""
    phase, done = resumed(recipe, path)
    total = recipe.steps
    while done < total or not store.checkpoint_steps(path):
        count = min((done // hooks.chunk + 1) * hooks.chunk, total) - done
        with compiling():
            phase, means = recipe.program.chunk(phase, data, frozen, count)
        done += count
        hooks.tell(save(recipe, path, done, phase, means))
    return phase


def save(recipe: Recipe, path: Path, done: int, phase: Phase, means: dict) -> dict[str, Any]:
    """Save what a chunk of updates left behind; return what is told of it. Raises Diverged where it is not finite."""
    numbers = {name: float(value) for name, value in sorted(jax.device_get(means).items())}
    line: dict[str, Any] = {STEPS: done, **numbers}
    arrays = {name: np.asarray(leaf) for name, leaf in named_arrays(phase).items()}
    if bad := not_finite(numbers | arrays):
        message = f"{bad} is not finite after {done} updates; lower {PARTS[recipe.folder]}.lr"
        say(path, "failed", message)
        raise Diverged(f"{path}: {message}")
    store.append_line(path / "metrics.jsonl", line)
    store.save_checkpoint(path, done, arrays, 2)
    return {"artefact": path.name, "total": recipe.steps} | line


def not_finite(values: dict[str, Any]) -> str | None:
    """Return the first name whose numbers are not finite, metrics before parameters."""
    floats = {name: x for name, x in values.items() if np.issubdtype(np.asarray(x).dtype, np.floating)}
    return next((name for name, x in floats.items() if not np.all(np.isfinite(x))), None)
