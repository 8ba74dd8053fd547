"""The options of every command, and the way from words to them: three spellings of a field, errors of one line."""

import contextlib
import io
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from valex.fields import TYPES
from valex.settings import RunConfig

Device = Literal["auto", "cpu", "cuda"]


class UsageError(ValueError):
    """A command line that cannot be: one line that names the field and what is allowed."""


@dataclass(frozen=True)
class RunOptions:
    """Where the runs go, and how they are run."""

    out: Path | None = None
    """Folder of the run directories; the default is runs/train or runs/<study>-<preset>."""
    workers: int = 0
    """Worker processes (>= 0); 0 takes one per core on a CPU and one in all on an accelerator."""
    device: Device = "auto"
    """Where jax computes; cuda fails loudly where there is none."""
    quiet: bool = False
    """Print nothing but errors and the final table."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""
    dry_run: bool = False
    """Print the runs, for a study of training runs with their estimated time on this machine, and stop."""
    tensorboard: bool = False
    """Log to TensorBoard in each run directory as well; needs valex[tensorboard]."""
    wandb: bool = False
    """Log to Weights & Biases as well; needs valex[wandb]."""


@dataclass(frozen=True)
class TrainCommand:
    """Train one config, for one or many seeds."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")]
    seeds: tuple[int, ...] = ()
    """Seeds to train; empty trains --seed alone."""


@dataclass(frozen=True)
class StudyCommand:
    """Run every config of a study's preset, then write its report. Finished runs are skipped."""

    options: Annotated[RunOptions, tyro.conf.arg(name="")]
    preset: str = "quick"
    """Size of the grid, one of the study's presets (smoke, quick, paper)."""
    agents: tuple[str, ...] = ()
    """Learners to run it with, where the study has a choice (horizon: sac, ddpg, td3); empty: the preset's own."""


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of the runs in a folder: one HTML file, PNG and CSV of every figure."""

    root: Annotated[Path, tyro.conf.Positional]
    """Folder that holds the run directories."""
    out: Path | None = None
    """Folder of the report; the default is DIR/report."""


Law = Literal["visited", "nu", "zeta"]


@dataclass(frozen=True)
class DiagnoseOptions:
    """What a diagnosis of gradients measures, and where it goes."""

    horizons: tuple[int, ...] = (0, 1, 3, 5, 8, 10, 15)
    """Horizons h, model steps (each >= 0)."""
    modes: tuple[str, ...] = ("dp", "dr", "detach", "first_action", "lr")
    """Ways to take the gradient; the run's own comes first, and what its policy cannot do is left out."""
    starts: int = 256
    """Start states (a multiple of 16, >= 32)."""
    draws: int = 4
    """Noises for each start (>= 2)."""
    law: Law = "visited"
    """Where rollouts start: visited (uniform over what the policy visits), nu (weighted by gamma^age), zeta (resets)."""
    batch: int = 0
    """N, gradients that an update averages; 0: the run's batch size."""
    sample_seed: int = 0
    """Seed of starts and noises."""
    out: Path | None = None
    """Folder of the report; the default is RUN/diagnosis, or runs/diagnosis/ with the name of the preset's run."""
    device: Device = "auto"
    """Where jax computes; cuda fails loudly where there is none."""
    quiet: bool = False
    """Print nothing but errors and what was found."""
    json: bool = False
    """Print what was measured as one JSON object on stdout."""


@dataclass(frozen=True)
class DiagnoseRunCommand:
    """Measure why the policy gradient of a stored run is as it is, and which horizon to use; write a report."""

    options: Annotated[DiagnoseOptions, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class DiagnosePresetCommand:
    """The same for a fresh policy of a preset, with a model that has learned from the warm-up alone."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    options: Annotated[DiagnoseOptions, tyro.conf.arg(name="")]


_BARE = re.compile(r"[A-Za-z_][\w.-]*")  # the a.b of a.b=v
_FLAGS = {name for name, hint in TYPES.items() if hint in (bool, bool | None)}
_FLAGS |= {
    f.name for cls in (RunOptions, StudyCommand, ReportCommand, DiagnoseOptions) for f in fields(cls) if f.type is bool
}
_LISTS = {name for name, hint in TYPES.items() if get_origin(hint) is tuple} | {"seeds", "agents", "horizons", "modes"}
_LISTS |= {"hidden", "sizes"}  # of a generator of datasets, of a diagnosis
_OPTIONAL = {name for name, hint in TYPES.items() if type(None) in get_args(hint)} | {"episode_length"}


def _field(token: str) -> str | None:
    """Return the dotted field that --a.b names, None if the token is no such thing."""
    return token[2:].replace("-", "_") if token.startswith("--") else None


def _is_word(field: str, text: str) -> bool:
    """Return whether a text stands for a value that Python spells with a capital: True, False or None."""
    text = text.lower()
    return (field in _FLAGS and text in ("true", "false")) or (field in _OPTIONAL and text == "none")


def _values(field: str, text: str) -> list[str]:
    """Return the words that stand for one value: commas part a list, true, false and none as Python spells them."""
    if field in _LISTS:
        return text.split(",") if text else []
    return [text.capitalize() if _is_word(field, text) else text]


def normalize_arguments(arguments: list[str]) -> list[str]:
    """Rewrite a.b=v and --a.b=v as --a.b v, comma lists as several words, a bare switch as --switch True, -q as --quiet."""
    result: list[str] = []
    field, pending = "", False  # the field that values belong to; whether it still waits for its first
    for argument in ["--quiet" if a == "-q" else a for a in arguments]:
        name, equals, value = argument.partition("=")
        if equals and (not pending or field in _FLAGS) and _BARE.fullmatch(name):
            name = argument = f"--{name}"
        new = _field(name) if equals else _field(argument)
        if new is None:
            result += _values(field, argument)
            pending = False
            continue
        if pending and field in _FLAGS:
            result.append("True")
        field, pending = new, not equals
        result += [name, *_values(field, value)] if equals else [argument]
    return result + (["True"] if pending and field in _FLAGS else [])


def parse(cls: Any, arguments: list[str], default: Any, prog: str) -> Any:
    """Parse with tyro. Raises UsageError with one line instead of tyro's box."""
    words, helping = normalize_arguments(arguments), bool({"-h", "--help"} & set(arguments))
    before, errors, boxes = os.environ.get("COLUMNS"), io.StringIO(), contextlib.nullcontext()
    if not helping:  # tyro then does not break its message over lines, and boxes it alike in every locale
        os.environ["COLUMNS"] = "2000"
        boxes = contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    try:
        with contextlib.redirect_stderr(errors), boxes:
            return tyro.cli(
                cls, args=words, default=default, prog=prog, description=cls.__doc__, use_underscores=True,
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(one_line(errors.getvalue(), prog)) from None
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def one_line(box: str, prog: str) -> str:
    """Condense tyro's boxed error to one line that names the field and what is allowed."""
    rows = [line.strip("│ \n") for line in box.splitlines() if line.startswith("│")]
    rule = next((i for i, row in enumerate(rows) if row.startswith("──")), len(rows))
    message = " ".join(rows[:rule]) or box.strip().replace("\n", " ")
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", message)
    message = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", message)
    neither = re.search(r"no type matching \{None\}\|(\w+) could be instantiated from \['(.*?)'\]", message)
    if neither:
        kind = {"INT": "a whole number", "FLOAT": "a number"}.get(neither[1], "a value")
        message = f"{message[: neither.start()]}'{neither[2]}' is neither None nor {kind}"
    options = [row for row in rows[rule:] if row.startswith("--")]
    if message.startswith("Unrecognized"):
        flag = message.split(":", 1)[-1].split(",")[0].strip()
        field = _field(flag) or ""
        if field.startswith("agent.") and field in TYPES:  # of another learner
            return f"{flag}: {prog} has no such field; take the preset of a learner that has it (valex --help)"
        hint = f"; did you mean {options[0]}?" if options else ""
        return f"{flag}: unknown field{hint} ({prog} --help lists all)"
    if "'--agent.name'" in message:
        return f"{message} Take the preset of the learner (valex --help)"
    return message + (f"; allowed: {options[0]}" if options and "allowed" not in message else "")
