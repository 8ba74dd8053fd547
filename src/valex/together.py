"""Artefacts of one shape trained side by side by one vmapped program: what an accelerator wants, and a CPU does not.

Folders, names, metrics, checkpoints and resumption are those of `artefacts.obtain`; numbers agree with it up to rounding, because
a batched product sums in another order. Artefacts that differ in alpha, seed or amount of data have one shape.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex import store
from valex.artefacts import (
    Artefact,
    Diverged,
    Hooks,
    PolicyAsk,
    Recipe,
    Source,
    ValueAsk,
    begin,
    broken_off,
    finish,
    make_recipe,
    resumed,
    save,
    stored,
)
from valex.device import compiling
from valex.fields import ConfigError
from valex.offline.train import Phase
from valex.types import PyTree

MOST = 64  # artefacts in one program: beyond that an accelerator is full, and a kill loses more than it has to

Made = Phase | store.StoreError  # a phase, or why there is none


class Going(NamedTuple):
    """An artefact that is being trained."""

    recipe: Recipe
    path: Path
    frozen: tuple  # () or (state of the value that it reads,)
    phase: Phase
    done: int  # updates taken


def obtain_many(
    root: Path | str, source: Source, asks: Sequence[ValueAsk | PolicyAsk], hooks: Hooks | None = None
) -> list[Artefact | store.StoreError]:
    """Return what is asked for, in that order, those of one shape trained together; why, in the place of one that diverged.

    Values come first, then the policies over them. Of a policy whose value diverged the error is the value's.
    Raises ConfigError where one cannot be asked for, before anything is trained; OSError if the disk cannot be written.
    """
    root, hooks = Path(root), hooks or Hooks()
    if hooks.chunk < 1:
        raise ConfigError(f"chunk: {hooks.chunk} updates; at least 1 is needed")
    recipes = [make_recipe(source, ask) for ask in asks]
    overs = list(dict.fromkeys(recipe.over for recipe in recipes if recipe.over))
    values = dict(zip(overs, obtain_many(root, source, overs, hooks) if overs else [], strict=True))
    made: dict[str, Made] = {}
    shapes: dict[Any, dict[str, tuple[Recipe, tuple]]] = {}
    for recipe in recipes:
        value = values[recipe.over] if recipe.over else None
        if isinstance(value, store.StoreError):
            made[recipe.name] = value
            continue
        frozen = (value.phase.learner,) if value and recipe.reads else ()
        shapes.setdefault((id(recipe.program), recipe.steps), {})[recipe.name] = recipe, frozen
    for wanted in shapes.values():
        names = sorted(wanted)  # whoever locks several does so in the order of their names, so nobody waits in a circle
        for start in range(0, len(names), MOST):
            made |= _make_many([wanted[name] for name in names[start : start + MOST]], root, source, hooks)
    return [_artefact(recipe, made[recipe.name], root, values) for recipe in recipes]


def _artefact(recipe: Recipe, made: Made, root: Path, values: dict[ValueAsk, Any]) -> Artefact | store.StoreError:
    if isinstance(made, store.StoreError):
        return made
    frozen = values[recipe.over].phase.learner if recipe.over else ()
    return Artefact(recipe.path(root), recipe.program.parts, made, frozen)


def _make_many(wanted: list[tuple[Recipe, tuple]], root: Path, source: Source, hooks: Hooks) -> dict[str, Made]:
    """Train the artefacts of one shape that are not there yet, holding all their folders; return name -> phase or why not."""
    made: dict[str, Made] = {}
    with ExitStack() as locks:
        going: list[Going] = []
        for recipe, frozen in wanted:
            path = recipe.path(root)
            locks.enter_context(store.locked(path, wait=True))
            try:
                if (phase := stored(recipe, root)) is not None:
                    made[recipe.name] = phase
                    continue
            except store.StoreError as error:
                made[recipe.name] = error
                continue
            begin(recipe, path, {})
            going.append(Going(recipe, path, frozen, *resumed(recipe, path)))
        try:
            for done in sorted({one.done for one in going}):
                made |= _train_many([one for one in going if one.done == done], source, hooks)
        except BaseException as error:
            for one in going:
                if one.recipe.name not in made:
                    broken_off(one.path, error)
            raise
    return made


def stack(trees: list[PyTree]) -> PyTree:
    """Return equal trees as one, an axis of them in front; on the host, where nothing has to be compiled for it."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _train_many(going: list[Going], source: Source, hooks: Hooks) -> dict[str, Made]:
    """Take the updates that are left of artefacts that stand at one step; all is saved before any of it is told."""
    made: dict[str, Made] = {}
    done, total, program = going[0].done, going[0].recipe.steps, going[0].recipe.program
    phases, frozen = stack([one.phase for one in going]), stack([one.frozen for one in going])
    empty = not store.checkpoint_steps(going[0].path)  # also what takes no updates leaves a checkpoint
    host = jax.device_get((phases, {}))
    while done < total or empty:
        count = min((done // hooks.chunk + 1) * hooks.chunk, total) - done
        with compiling():
            phases, means = program.cells(phases, source.data, frozen, count)
        done, empty = done + count, False
        host, told = jax.device_get((phases, means)), []
        for i, one in enumerate(going):
            if one.recipe.name in made:  # it diverged: its numbers go on being computed, and nobody reads them
                continue
            phase, mean = jax.tree.map(lambda x, i=i: x[i], host)
            try:
                told.append(save(one.recipe, one.path, done, phase, mean))
            except Diverged as error:
                made[one.recipe.name] = error
        for event in told:
            hooks.tell(event)
        if len(made) == len(going):
            break
    for i, one in enumerate(going):
        if one.recipe.name not in made:
            finish(one.recipe, one.path)
            made[one.recipe.name] = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), host[0])
    return made
