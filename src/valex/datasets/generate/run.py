"""generate(kind, settings, out): make the datasets that a generator's settings stand for, and write them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from valex.checks_offline import check_generator
from valex.datasets.files import write
from valex.datasets.generate.expert import EXPERT, EXPERTS, put_beside
from valex.fields import ConfigError
from valex.tables import FORMATS, GENERATORS, load

# Kinds that train an expert: their generate(settings, experts) keeps it in that folder.
TRAINED = ("antmaze", "locomotion")


def generate(kind: str, settings: Any, out: Path | str | None = None, format: str = "native") -> list[Path]:
    """Make and write; return where the datasets lie: `out`, or `out`/<name>-v0 where the settings stand for several.

    Without `out` it is runs/datasets/<name>-v0. The suffix of the format is added where it is missing. Experts lie in the
    folder `experts` beside the datasets, and once more in every dataset of our own format (`expert.py`).
    Raises ConfigError before anything is computed where the settings or the format cannot be.
    """
    if kind not in GENERATORS:
        raise ConfigError(f"kind: {kind!r} is not known; choose one of {', '.join(GENERATORS)}")
    if format not in FORMATS:
        raise ConfigError(f"format: {format!r} is not known; choose one of {', '.join(FORMATS)}")
    check_generator(kind, settings)
    suffix = load(FORMATS, format).suffix
    folder = Path("runs/datasets") if out is None else Path(out)
    several = getattr(settings, "type", None) == "all"
    named = out is None or several
    experts = (folder if named else folder.parent) / EXPERTS
    make = load(GENERATORS, kind)
    sets = make(settings, experts) if kind in TRAINED else make(settings)
    places = []
    for data, card in sets:
        place = _suffixed(folder / f"{card.name.replace('.', '_')}-v0" if named else folder, suffix)
        places.append(write(place, data, card, format))
        if kind in TRAINED and format == "native":
            put_beside(place, experts / card.generator[EXPERT])
    return places


def _suffixed(place: Path, suffix: str) -> Path:
    return place if not suffix or place.suffix == suffix else place.with_name(place.name + suffix)


def described(settings: Any, kind: str) -> dict[str, Any]:
    """Return the settings as a card keeps them."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    return {"kind": kind} | {name: value for name, value in values.items() if name != "seed"}
