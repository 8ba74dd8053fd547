"""generate(kind, settings, out): make the datasets that a generator's settings stand for, and write them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from valex.checks_offline import check_generator
from valex.datasets.files import write
from valex.fields import ConfigError
from valex.tables import FORMATS, GENERATORS, load


def generate(kind: str, settings: Any, out: Path | str | None = None, format: str = "native") -> list[Path]:
    """Make and write; return where the datasets lie: `out`, or `out`/<name>-v0 where the settings stand for several.

    Without `out` it is runs/datasets/<name>-v0. The suffix of the format is added where it is missing.
    Raises ConfigError before anything is computed where the settings or the format cannot be.
    """
    if kind not in GENERATORS:
        raise ConfigError(f"kind: {kind!r} is not known; choose one of {', '.join(GENERATORS)}")
    if format not in FORMATS:
        raise ConfigError(f"format: {format!r} is not known; choose one of {', '.join(FORMATS)}")
    check_generator(kind, settings)
    suffix = load(FORMATS, format).suffix
    sets = load(GENERATORS, kind)(settings)
    folder = Path("runs/datasets") if out is None else Path(out)
    named = out is None or len(sets) > 1
    places = [folder / f"{card.name.replace('.', '_')}-v0" if named else folder for _, card in sets]
    return [
        write(_suffixed(place, suffix), data, card, format) for place, (data, card) in zip(places, sets, strict=True)
    ]


def _suffixed(place: Path, suffix: str) -> Path:
    return place if not suffix or place.suffix == suffix else place.with_name(place.name + suffix)


def described(settings: Any, kind: str) -> dict[str, Any]:
    """Return the settings as a card keeps them."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    return {"kind": kind} | {name: value for name, value in values.items() if name != "seed"}
