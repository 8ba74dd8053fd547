"""States as named arrays on disk and back, and what can still be done with a finished run: load its agent, measure it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from valex import store
from valex.config import run_id, to_dict
from valex.diagnostics.final import final_diagnostics
from valex.settings import RunConfig
from valex.train import Parts, TrainState, make_parts, make_start


def named_arrays(state: Any) -> dict[str, Any]:
    """Return the leaves of a state by their path in the tree."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def restore(template: Any, arrays: dict[str, np.ndarray], where: str = "checkpoint") -> Any:
    """Rebuild a state shaped like `template`. Raises StoreError, naming `where`, if names, shapes or types differ."""
    misfit = "this version of valex; delete the run directory to start anew"
    paths, tree = jax.tree_util.tree_flatten_with_path(template)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        value = arrays.get(name)
        if value is None or value.shape != leaf.shape or value.dtype != leaf.dtype:
            raise store.StoreError(f"{where}: {name} does not fit {misfit}")
        leaves.append(jnp.array(value, copy=True))
    if unknown := set(arrays) - {jax.tree_util.keystr(path) for path, _ in paths}:
        raise store.StoreError(f"{where}: {min(unknown)} is unknown to {misfit}")
    return jax.tree_util.tree_unflatten(tree, leaves)


def lasting(state: Any) -> Any:
    """Return a state without what only further training needs."""
    return state._replace(replay=(), envs=())


def load_agent(path: Path | str) -> tuple[Parts, TrainState]:
    """Return the components of a run and its state: `agent` and `model` as they ended, no replay, no environments.

    Of a run that has not finished they are those of its newest whole checkpoint.
    Raises StoreError if there is none of either, or what there is was damaged or made by another version.
    """
    path = Path(path)
    config = store.read_run(path).config
    parts = make_parts(config)
    shapes = jax.eval_shape(make_start(config, parts), jax.ShapeDtypeStruct((), jnp.uint32))
    if not (path / "final.safetensors").exists():
        for env_steps in store.checkpoint_steps(path):
            arrays = store.load_checkpoint(path, env_steps)
            if arrays is not None:
                return parts, lasting(restore(shapes, arrays, f"{path}: checkpoint at {env_steps}"))
        raise store.StoreError(
            f"{path}: it has not finished and holds no whole checkpoint; the command that began it goes on"
        )
    return parts, restore(lasting(shapes), store.load_final(path), str(path / "final.safetensors"))


def measure_later(config: RunConfig, root: Path) -> bool:
    """Measure on the agent of a finished run what `config.diagnostics` asks for and it lacks; return whether it did.

    The numbers are those that the run itself would have ended with. Raises StoreError if the run is damaged or in use.
    """
    path = root / run_id(config)
    if not store.unmeasured(path, config.diagnostics):
        return False
    with store.locked(path):
        missing = store.unmeasured(path, config.diagnostics)
        if missing:
            lacking, holds = missing
            measured = final_diagnostics(replace(config, diagnostics=lacking), *load_agent(path))
            found = store.read_run(path)
            store.write_json(path / "diagnostics.json", found.diagnostics | measured)
            store.write_json(path / "config.json", to_dict(replace(found.config, diagnostics=holds)))
    return True
