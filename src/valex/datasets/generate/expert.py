"""Experts that generators train: kept under the hash of how they were trained, beside every dataset they made, asked later.

<parent of the dataset>/experts/<hash>/
    expert.json           how it was trained, what it reaches, the agent's config, the checksum of its arrays
    actor.safetensors     what acts: actor and normaliser of observations
    metrics.jsonl         its learning curve, where it was trained on the host
    seen/                 locomotion of Gymnasium: what training had seen until the medium agent, a dataset of our own format
    checkpoints/          the whole training, until it has finished
<dataset>/expert/         the first two again, in a dataset of our own format

Its mean action is the pi* of the three errors of a policy: on training, on validation and on visited states.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from valex import store
from valex.config import PRESETS, digest, from_dict
from valex.datasets.base import naming, write_whole
from valex.datasets.card import installed_versions
from valex.datasets.files import read
from valex.datasets.generate.learner import make_agent
from valex.fields import ConfigError
from valex.finished import named_arrays, restore
from valex.settings import AGENT_CONFIGS
from valex.types import Agent, EnvSpec, PyTree

EXPERTS, EXPERT = "experts", "expert"  # folder of all; folder in a dataset, and key in a card's generator
ABOUT, ARRAYS = "expert.json", "actor.safetensors"
DIGITS = 16  # of the hash, in a folder's name
ACTING = (".actor[", ".online.actor[", ".normalizer.")  # leaves of a state that its mean action reads


class Kept(NamedTuple):
    """What training an expert left: all that is kept of it."""

    arrays: dict[str, np.ndarray]  # by <who> + path in the agent's state
    about: dict[str, Any]  # JSON: what it reaches


class Recipe(NamedTuple):
    """How an expert is made; equal ones are made once."""

    made_of: dict[str, Any]  # JSON, hashed; names the agent's config and the spec it was built for
    train: Callable  # (folder | None) -> Kept; a folder may hold what an earlier try left

    @property
    def name(self) -> str:
        """Return what the expert is called."""
        return digest(self.made_of, DIGITS)


def acting(state: PyTree, who: str = EXPERT) -> dict[str, np.ndarray]:
    """Return the leaves of an agent's state that act, by `who` and their path."""
    return {who + n: np.asarray(leaf) for n, leaf in named_arrays(state).items() if n.startswith(ACTING)}


def acting_state(agent: Agent, trained: Kept, who: str = EXPERT, where: str = "expert") -> PyTree:
    """Return a state that acts as the one that `acting` was asked of; its other leaves are 0. Raises StoreError."""
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    rest = {n: np.zeros(x.shape, x.dtype) for n, x in named_arrays(shapes).items() if not n.startswith(ACTING)}
    own = {name.removeprefix(who): x for name, x in trained.arrays.items() if name.startswith(who + ".")}
    return restore(shapes, rest | own, where)


def built_for(agent: Any, spec: EnvSpec) -> dict[str, Any]:
    """Return the part of a recipe that `load_expert` builds the net by."""
    return {"agent": asdict(agent), "env": spec.name, "obs_dim": spec.obs_dim, "act_dim": spec.act_dim}


def find(root: Path | None, recipe: Recipe) -> Kept | None:
    """Return an expert that lies below `root`, None if there is none. Raises ConfigError where it is damaged."""
    place = None if root is None else root / recipe.name
    return read_expert(place)[1] if place and (place / ABOUT).is_file() else None


def obtain(root: Path | None, recipe: Recipe) -> Kept:
    """Return an expert: loaded from <root>/<hash>, or trained now and kept there; without a root it is only trained.

    Of two processes that want the same one, the second waits. What a stopped training left is gone on from, as far as
    `recipe.train` can. Raises what it raises, and ConfigError where the place cannot be written.
    """
    if root is None:
        return recipe.train(None)
    place = root / recipe.name
    with naming(place, "cannot be written ({}); name another path"):
        place.mkdir(parents=True, exist_ok=True)
    with store.locked(place, wait=True):
        if (known := find(root, recipe)) is not None:
            return known
        place.mkdir(parents=True, exist_ok=True)  # whoever held the lock may have removed it
        store.tidy(place)
        try:
            trained = recipe.train(place)
        except BaseException:
            if not store.checkpoint_steps(place):
                shutil.rmtree(place)
            raise
        keep(place, recipe, trained)
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
        return trained


def keep(place: Path, recipe: Recipe, trained: Kept) -> None:
    """Write an expert; its description comes last: what has none is no expert."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(x).reshape(x.shape) for name, x in trained.arrays.items()})
    store.write_bytes(place / ARRAYS, data)
    about = {"made_of": recipe.made_of, "about": trained.about, "versions": installed_versions()}
    store.write_json(place / ABOUT, about | {"sha256": hashlib.sha256(data).hexdigest()})


def put_beside(dataset: Path, place: Path) -> None:
    """Copy an expert into the folder of a dataset that it made, at once."""

    def copy(part: Path) -> None:
        part.mkdir()
        for name in (ABOUT, ARRAYS):
            shutil.copyfile(place / name, part / name)

    write_whole(dataset / EXPERT, copy)


def read_expert(place: Path) -> tuple[dict[str, Any], Kept]:
    """Return (made_of, what was trained) of a folder. Raises ConfigError where it is damaged."""
    from safetensors.numpy import load

    with naming(place, "damaged ({}); delete the folder and generate again"):
        known = json.loads((place / ABOUT).read_text())
        data = (place / ARRAYS).read_bytes()
        if hashlib.sha256(data).hexdigest() != known["sha256"]:
            raise ValueError(f"the sha256 of {ARRAYS} is not that of {ABOUT}")
        return known["made_of"], Kept(load(data), known["about"])


@dataclass(frozen=True)
class Expert:
    """A trained policy: called with observations it gives its mean actions."""

    made_of: dict[str, Any]
    """How it was trained."""
    about: dict[str, Any]
    """What it reaches."""
    mean: Callable
    """(obs) -> action, compiled."""

    def __call__(self, obs: Any) -> Any:
        """Return the mean action [..., act_dim] in [-1, 1] at obs [..., obs_dim], as the expert's own task has them."""
        return self.mean(obs)


def built(place: Path, who: str = EXPERT) -> Expert:
    """Return an agent of an expert's folder that can be asked. Raises ConfigError where it does not fit."""
    made_of, trained = read_expert(place)
    try:
        values = made_of["agent"]
        agent_config = from_dict(values, AGENT_CONFIGS[values["name"]])
        spec = EnvSpec(made_of["env"], made_of["obs_dim"], made_of["act_dim"], 0, 1, 1, 1.0, "", False)
        agent = make_agent(replace(PRESETS["sac"], agent=agent_config), spec)
        state = acting_state(agent, trained, who, str(place))
    except (store.StoreError, KeyError, ValueError) as error:
        raise ConfigError(f"{place}: does not fit this version of valex ({error}); generate it again") from error
    act = jax.jit(make_mean(agent))
    return Expert(made_of, trained.about, lambda obs: act(state, obs))


def make_mean(agent: Agent) -> Callable:
    """Build (agent's state, obs [..., obs_dim]) -> mean action [..., act_dim]."""
    return lambda state, obs: agent.act(state, jax.random.key(0), obs, explore=False).action


def load_expert(path: Path | str) -> Expert:
    """Return the expert of a dataset, or of a folder that holds one: expert(obs) is its mean action.

    A dataset of our own format holds it; of another it lies in `experts` beside it, under the name that the card says.
    obs is what the expert was trained on: of `antmaze` it ends in a direction, see `antmaze.towards`. Raises ConfigError.
    """
    path = Path(path)
    for place in (path, path / EXPERT):
        if (place / ABOUT).is_file():
            return built(place)
    name = read(path)[1].generator.get(EXPERT)
    if name is None:
        raise ConfigError(f"{path}: its card names no expert; antmaze and locomotion keep theirs")
    place = path.parent / EXPERTS / name
    if not (place / ABOUT).is_file():
        raise ConfigError(f"{place}: the expert of {path.name} is not there; copy it from beside the set that it made")
    return built(place)
