"""The command valex dataset generate | card | convert. Imports no jax before it has something to make."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from valex.arguments import Device, UsageError, parse
from valex.cli import quiet_stdout
from valex.settings.datasets import GENERATORS as SETTINGS
from valex.tables import FORMATS, GENERATORS

USAGE = f"""usage: valex dataset generate KIND --out PATH [--field value ...]   kinds: {", ".join(GENERATORS)}
       valex dataset card PATH [--json]
       valex dataset convert PATH OUT [--format NAME] [--val_share X]  formats: {", ".join(FORMATS)}

make a dataset without a download; say what is in one; write one in another format
--help after generate KIND explains every field
"""


@dataclass(frozen=True)
class GenerateOptions:
    """Where a generated dataset goes."""

    out: Path | None = None
    """File or folder of the dataset, or the folder of several; None: by its name below runs/datasets."""
    format: str = "native"
    """Format, one of `valex list formats`."""
    device: Device = "auto"
    """Where jax computes; cuda fails loudly where there is none."""
    json: bool = False
    """Print the cards as one JSON object on stdout."""


@dataclass(frozen=True)
class CardCommand:
    """Say what is in a dataset of any format."""

    path: Annotated[Path, tyro.conf.Positional]
    """The dataset."""
    json: bool = False
    """Print the card as one JSON object on stdout."""


@dataclass(frozen=True)
class ConvertCommand:
    """Write a dataset in another format."""

    path: Annotated[Path, tyro.conf.Positional]
    """The dataset."""
    out: Annotated[Path, tyro.conf.Positional]
    """Where it is written."""
    format: str = "native"
    """Format, one of `valex list formats`."""
    val_share: float = 0.0
    """ogbench: share of the trajectories that becomes <out>-val.npz, in [0, 1); 0: no such file."""
    json: bool = False
    """Print the card as one JSON object on stdout."""


def dataset(arguments: list[str]) -> int:
    """Run valex dataset; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    commands = {"generate": generate, "card": card, "convert": convert}
    if arguments[0] not in commands:
        raise UsageError(f"dataset: {arguments[0]!r} is not known; choose one of {', '.join(commands)}")
    return commands[arguments[0]](arguments[1:])


def generate(arguments: list[str]) -> int:
    """valex dataset generate KIND."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        print("\n".join(f"  {name:12}  {entry.summary}" for name, entry in GENERATORS.items()))
        return 0 if arguments else 2
    kind, rest = arguments[0], arguments[1:]
    if kind not in GENERATORS:
        raise UsageError(f"kind: {kind!r} is not known; choose one of {', '.join(GENERATORS)}")
    command = parse(_command(kind), rest, None, f"valex dataset generate {kind}")
    options, settings = command.options, command.settings
    from valex import device

    device.set_up_jax(options.device)
    from valex.datasets.files import read
    from valex.datasets.generate.run import generate as make

    with quiet_stdout():
        paths = make(kind, settings, options.out, options.format)
        cards = {path: read(path)[1] for path in paths}
    _say(cards, options.json)
    return 0


def _command(kind: str) -> type:
    """Return the command line of one generator: its own settings, then the options of all."""

    @dataclass(frozen=True)
    class GenerateCommand:
        settings: Annotated[SETTINGS[kind], tyro.conf.arg(name="")]  # pyright: ignore[reportInvalidTypeForm]
        options: Annotated[GenerateOptions, tyro.conf.arg(name="")]

    GenerateCommand.__doc__ = f"Make a dataset: {GENERATORS[kind].summary}."
    return GenerateCommand


def card(arguments: list[str]) -> int:
    """valex dataset card PATH."""
    command = parse(CardCommand, arguments, None, "valex dataset card")
    from valex.datasets.files import read

    _say({command.path: read(command.path)[1]}, command.json)
    return 0


def convert(arguments: list[str]) -> int:
    """valex dataset convert PATH OUT."""
    command = parse(ConvertCommand, arguments, None, "valex dataset convert")
    if not 0.0 <= command.val_share < 1.0:
        raise UsageError(f"val_share: {command.val_share:g} is not in [0, 1)")
    if command.val_share and command.format != "ogbench":
        raise UsageError(f"val_share: {command.format} has no validation file; take --format ogbench")
    from valex.datasets.files import read, validation_path, write, write_pair

    places = (command.out, validation_path(command.out)) if command.val_share else (command.out,)
    source = command.path.resolve()
    if any(place.resolve() in (source, *source.parents) for place in places):  # it would be replaced
        raise UsageError(f"out: {command.out} is where the dataset itself lies; name another path")
    data, its = read(command.path)
    if command.val_share:
        paths = write_pair(command.out, data, its, command.val_share)
    else:
        paths = (write(command.out, data, its, command.format),)
    _say({path: read(path)[1] for path in paths}, command.json)
    return 0


def _say(cards: dict[Path, Any], as_json: bool) -> None:
    """Print where datasets lie and their cards."""
    from valex.datasets.card import to_json, to_text

    if as_json:
        print(json.dumps({str(path): json.loads(to_json(its)) for path, its in cards.items()}))
        return
    for path, its in cards.items():
        print(f"{to_text(its)}\ndataset: {path}")
