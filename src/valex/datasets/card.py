"""The card of a dataset: how it was made, how large it is, what it covers, how good it is, and the checksum of its arrays."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from valex import __version__
from valex.fields import ConfigError
from valex.offline.coverage import coverage, optimality
from valex.offline.data import Dataset

HUGE = 1e8  # beyond it float32 has steps of 8 and more: what matters of a number may be lost
PACKAGES = ("jax", "numpy", "brax", "mujoco", "mujoco-mjx", "ogbench", "gymnasium", "dm_control", "minari", "h5py")


@dataclass(frozen=True)
class Card:
    """What a reader has to know of a dataset before trusting a result on it."""

    name: str
    """What it is called."""
    how: str
    """One sentence: what collected it."""
    env: dict[str, Any] = field(default_factory=dict)
    """Environment: id, and the keyword arguments or settings that build it."""
    generator: dict[str, Any] = field(default_factory=dict)
    """Settings of the generator; {} where the data came as a file."""
    seed: int | None = None
    """Seed of the generator; None where it is not known."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that made it."""
    sizes: dict[str, int] = field(default_factory=dict)
    """transitions, trajectories, obs_dim, act_dim."""
    coverage: dict[str, Any] = field(default_factory=dict)
    """As `valex.offline.coverage.coverage` returns."""
    optimality: dict[str, Any] = field(default_factory=dict)
    """As `valex.offline.coverage.optimality` returns; `normalised` where reference scores exist."""
    sha256: str = ""
    """Of all arrays, see `checksum`."""
    notes: tuple[str, ...] = ()
    """What was derived, rescaled, clipped or cut, one sentence each."""


def checksum(data: Dataset) -> str:
    """Return the sha256 over name, type, shape and bytes of every array, extras in the order of their names."""
    digest = hashlib.sha256()
    named = [(key, getattr(data, key)) for key in Dataset._fields if key != "extras"]
    for name, value in [*named, *((f"extras.{key}", data.extras[key]) for key in sorted(data.extras))]:
        value = np.ascontiguousarray(value)
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.data if value.size else b"")
    return digest.hexdigest()


def installed_versions() -> dict[str, str]:
    """Return the versions of what may have taken part in making a dataset, valex first."""
    found = {"valex": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def make_card(
    data: Dataset,
    name: str,
    how: str,
    reference: tuple[float, float] | None = None,
    cells: tuple[tuple[int, ...], float] | None = None,
    origin: dict[str, Any] | None = None,
) -> Card:
    """Measure a dataset and return its card.

    reference: (random, expert) returns of the task. cells: (dims of obs, cell size) whose occupancy is counted. origin: the
    fields env, generator, seed, versions, notes, as far as they are known.
    """
    sizes = {
        "transitions": len(data.obs),
        "trajectories": len(data.offsets) - 1,
        "obs_dim": data.obs.shape[1],
        "act_dim": data.action.shape[1],
    }
    covers, scores = coverage(data, 0, cells), optimality(data, reference)
    known: Any = dict(origin or {})
    known["notes"] = (*known.get("notes", ()), *_huge(data))
    return Card(name, how, sizes=sizes, coverage=covers, optimality=scores, sha256=checksum(data), **known)


def _huge(data: Dataset) -> list[str]:
    """Return a note for each of reward, obs and next_obs that holds a number beyond `HUGE`."""
    notes = []
    for key in ("reward", "obs", "next_obs"):
        values = np.asarray(getattr(data, key))
        if max(values.max(), -values.min()) > HUGE:  # copies nothing where all is well
            row = int(np.flatnonzero((np.abs(values) > HUGE).reshape(len(values), -1).any(axis=1))[0])
            value = np.ravel(values[row])[np.argmax(np.abs(values[row]))]
            notes.append(f"{key}: row {row} is {value:g}; values of such data diverge")
    return notes


def to_json(card: Card) -> str:
    """Return the card as JSON text; the same card gives the same text."""
    return json.dumps(asdict(card), indent=1, sort_keys=True)


def from_json(text: str, where: str) -> Card:
    """Return the card in JSON text. Raises ConfigError, naming `where`, if there is none in it."""
    try:
        values: Any = json.loads(text)
        known = {f.name for f in fields(Card)}
        if not isinstance(values, dict) or not {"name", "how"} <= set(values) <= known:
            raise ValueError("not the fields of a card")
        values["notes"] = tuple(values.get("notes", ()))
        return Card(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: no dataset card ({error}); write the dataset again") from error


def to_text(card: Card) -> str:
    """Return the card as lines for people."""
    sizes = card.sizes
    lines = [
        card.name,
        f"  how          {card.how}",
        f"  size         {sizes['transitions']:,} transitions in {sizes['trajectories']:,} trajectories, "
        f"obs {sizes['obs_dim']}, action {sizes['act_dim']}",
    ]
    rows = {"env": card.env, "generator": card.generator, "coverage": card.coverage, "optimality": card.optimality}
    for title, values in rows.items():
        if values:
            lines.append(f"  {title:12} " + ", ".join(f"{name} {_short(value)}" for name, value in values.items()))
    lines.append(f"  seed         {'not known' if card.seed is None else card.seed}")
    if card.versions:
        lines.append("  versions     " + ", ".join(f"{name} {number}" for name, number in card.versions.items()))
    lines.append(f"  sha256       {card.sha256}")
    return "\n".join([*lines, *(f"  note         {note}" for note in card.notes)])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
