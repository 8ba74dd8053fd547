"""The command line: valex train | study | report | list | doctor.

Exit codes: 0 ok, 1 a run failed, 2 usage, 3 diverged (not finite), 75 stopped by SIGTERM with a checkpoint saved,
130 SIGINT. Nothing here imports jax before a command needs it, so that help and lists answer at once.
"""

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from valex import __version__
from valex.config import PRESET_SUMMARIES, PRESETS, ConfigError, check, flatten, run_id
from valex.settings import RunConfig
from valex.tables import AGENTS, ENVS, MODELS, RULES, STUDIES, load

TABLES = {"agents": AGENTS, "envs": ENVS, "models": MODELS, "rules": RULES, "studies": STUDIES}
Device = Literal["auto", "cpu", "cuda"]

USAGE = f"""valex {__version__}: a laboratory for value expansion in reinforcement learning

  valex train PRESET [--field value ...]    train one config; presets: {", ".join(PRESETS)}
  valex study NAME --preset smoke|quick|paper   run a grid of configs and report on it; studies: {", ".join(STUDIES)}
  valex report DIR                          write the HTML report of the runs in DIR
  valex list {"|".join(TABLES)}
  valex doctor                              what is installed, which device, what is missing

  --help after a command explains its fields; fields are written --a.b value, --a.b=value or a.b=value.
"""


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
    """Print the runs, and for a study their estimated cost on this machine, and stop."""
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

_FLAGS = tuple(f"--{name}" for name in ("quiet", "json", "dry_run", "dry-run", "tensorboard", "wandb"))


def normalize_arguments(arguments: list[str]) -> list[str]:
    """Rewrite a.b=v as --a.b v, comma lists as several values, true/false as Python spells them, -q as --quiet."""
    lists = {f"--{name}" for name, value in flatten(RunConfig()) if isinstance(value, tuple)} | {"--seeds"}
    result: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and not name.startswith("-") and name.replace(".", "").replace("_", "").isalnum():
            argument, name = f"--{argument}", f"--{name}"
        tokens = [name, value] if equals and name.startswith("--") else [argument]
        tokens = ["--quiet" if token == "-q" else token for token in tokens]
        result.append(tokens[0])
        for token in tokens[1:]:
            result += token.split(",") if tokens[0] in lists else [token]
    spelled = {"true": "True", "false": "False", "none": "None"}
    return [spelled.get(token, token) for token in result]


def parse(cls: Any, arguments: list[str], default: Any, prog: str) -> Any:
    """Parse with tyro. Raises UsageError with one line instead of tyro's box."""
    words, wide = normalize_arguments(arguments), not {"-h", "--help"} & set(arguments)
    for flag in _FLAGS:  # bare switches; every other field takes a value
        words = [w for i, word in enumerate(words) for w in _expand_flag(words, i, word, flag)]
    before, errors = os.environ.get("COLUMNS"), io.StringIO()
    if wide:
        os.environ["COLUMNS"] = "2000"
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                cls, args=words, default=default, prog=prog, description=cls.__doc__, use_underscores=True,
                config=(tyro.conf.FlagConversionOff,),
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


def _expand_flag(words: list[str], i: int, word: str, flag: str) -> list[str]:
    """Give a bare switch the value True."""
    bare = word == flag and (i + 1 == len(words) or words[i + 1] not in ("True", "False"))
    return [word, "True"] if bare else [word]


def one_line(box: str, prog: str) -> str:
    """Condense tyro's boxed error to one line that names the field and what is allowed."""
    rows = [line.strip("│ \n") for line in box.splitlines() if line.startswith("│")]
    rule = next((i for i, row in enumerate(rows) if row.startswith("──")), len(rows))
    message = " ".join(rows[:rule]) or box.strip().replace("\n", " ")
    options = [row for row in rows[rule:] if row.startswith("--")]
    if message.startswith("Unrecognized"):
        flag = message.split(":", 1)[-1].split(",")[0].strip()
        hint = f"; did you mean {options[0]}?" if options else ""
        return f"{flag}: unknown field{hint} ({prog} --help lists all)"
    return message + (f"; allowed: {options[0]}" if options and "allowed" not in message else "")


def check_options(options: RunOptions) -> tuple[str, ...]:
    """Return the sinks asked for. Raises UsageError for options that cannot be."""
    if options.workers < 0:
        raise UsageError(f"workers: {options.workers} is below 0")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"out: {options.out} is a file; name a folder")
    return tuple(name for name in ("tensorboard", "wandb") if getattr(options, name))


def run_all(configs: list[RunConfig], root: Path, options: RunOptions, title: str) -> int:
    """Train, show progress, print how it went; return the exit code."""
    sinks = check_options(options)
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"out: {root} cannot be written ({error.strerror}); name another folder with --out") from error
    from valex import device, launch
    from valex.progress import Progress

    device.set_up_jax(options.device)
    with Progress(title, len({run_id(c) for c in configs}), options.quiet) as progress:
        launched = launch.LaunchOptions(workers=options.workers, sinks=sinks, progress=progress)
        summary = launch.launch(configs, root, launched)
    for name, message in summary.messages.items():
        print(f"{name}: {summary.states[name]}: {message}", file=sys.stderr)
    return summary.exit_code()


def train(arguments: list[str]) -> int:
    """valex train PRESET."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: valex train PRESET [--field value ...]\n")
        print("\n".join(f"  {name:12} {PRESET_SUMMARIES[name]}" for name in PRESETS))
        print("\nvalex train PRESET --help explains every field")
        return 0 if arguments else 2
    preset, rest = arguments[0], arguments[1:]
    if preset not in PRESETS:
        raise UsageError(f"preset: {preset!r} is not known; choose one of {', '.join(PRESETS)}")
    command = parse(TrainCommand, rest, TrainCommand(PRESETS[preset], RunOptions()), f"valex train {preset}")
    configs = [replace(command.config, seed=seed) for seed in command.seeds or (command.config.seed,)]
    for config in configs:
        check(config)
    check_environment(configs[0])
    root = command.options.out or Path("runs/train")
    if command.options.dry_run:
        print("\n".join(str(root / run_id(config)) for config in configs))
        return 0
    code = run_all(configs, root, command.options, f"train {preset}")
    print_runs(root, configs, command.options.json)
    return code


def check_environment(config: RunConfig) -> None:
    """Raise ConfigError where the environment cannot be built or the horizon needs gradients it does not have."""
    extra = ENVS[config.env.name].extra
    if extra:
        from importlib.util import find_spec

        if find_spec(extra) is None:
            raise ConfigError(f"env.name: {config.env.name} needs the extra {extra}: pip install 'valex[{extra}]'")
    elif config.env.backend is None:
        return
    from valex.train import make_parts

    try:
        make_parts(config)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def print_runs(root: Path, configs: list[RunConfig], as_json: bool) -> None:
    """Print where each run lies and its last evaluation."""
    from valex.store import read_run

    rows = []
    for config in configs:
        path = root / run_id(config)
        if not (path / "config.json").exists():
            continue
        run = read_run(path)
        returns = run.metrics.get("eval/episode_return", [])
        last = float(returns[-1]) if len(returns) else None
        rows.append({"run": str(path), "state": run.status.get("state"), "episode_return": last})
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        last = "no evaluation yet" if row["episode_return"] is None else f"final return {row['episode_return']:.1f}"
        print(f"{row['run']}  {row['state']}  {last}")


def study(arguments: list[str]) -> int:
    """valex study NAME."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: valex study NAME [--preset smoke|quick|paper] [--out DIR] [--workers N] [--dry-run]\n")
        print("\n".join(f"  {name:12} {entry.summary}" for name, entry in STUDIES.items()))
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in STUDIES:
        raise UsageError(f"study: {name!r} is not known; choose one of {', '.join(STUDIES)}")
    command = parse(StudyCommand, rest, StudyCommand(RunOptions()), f"valex study {name}")
    chosen = load(STUDIES, name)
    if command.preset not in chosen.presets:
        raise UsageError(f"preset: {command.preset!r} is not known; choose one of {', '.join(chosen.presets)}")
    configs = [check(config) for config in chosen.presets[command.preset]()]
    root = command.options.out or Path("runs") / f"{name}-{command.preset}"
    if command.options.dry_run:
        from valex import device, estimate

        check_options(command.options)
        device.set_up_jax(command.options.device)
        estimate.print_plan(configs, root, command.options.workers)
        return 0
    for config in {c.env: c for c in configs}.values():
        check_environment(config)
    code = run_all(configs, root, command.options, f"{name} {command.preset}")
    if code in (75, 130):
        return code
    return code or report([str(root)])


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of the runs in a folder: one HTML file, PNG and CSV of every figure."""

    root: Annotated[Path, tyro.conf.Positional]
    """Folder that holds the run directories."""
    out: Path | None = None
    """Folder of the report; the default is DIR/report."""


def report(arguments: list[str]) -> int:
    """valex report DIR."""
    command = parse(ReportCommand, arguments, None, "valex report")
    if not command.root.is_dir():
        raise UsageError(f"root: {command.root} is not a folder; name the folder of a study, such as runs/horizon-quick")
    from valex.report.html import write_report
    from valex.store import read_runs
    from valex.studies.cells import make_grid
    from valex.studies.results import as_text, results

    path = write_report(command.root, command.out)
    print(as_text(results(make_grid(read_runs(command.root)))))
    print(f"report: {path.resolve()}")
    return 0


def list_table(arguments: list[str]) -> int:
    """valex list TABLE."""
    words = [a for a in arguments if a != "--json"]
    if len(words) != 1 or words[0] not in TABLES:
        raise UsageError(f"list: choose one of {', '.join(TABLES)}")
    table = TABLES[words[0]]
    if "--json" in arguments:
        print(json.dumps({name: {"summary": e.summary, "extra": e.extra} for name, e in table.items()}))
        return 0
    width = max(map(len, table))
    for name, entry in table.items():
        print(f"{name:{width}}  {entry.summary}" + (f"  [needs valex[{entry.extra}]]" if entry.extra else ""))
    return 0


def doctor(arguments: list[str]) -> int:
    """valex doctor."""
    from valex.doctor import print_findings

    if set(arguments) - {"--json"}:
        raise UsageError("doctor: takes no argument but --json")
    return print_findings("--json" in arguments)


COMMANDS = {"train": train, "study": study, "report": report, "list": list_table, "doctor": doctor}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    try:
        if words[0] not in COMMANDS:
            raise UsageError(f"command: {words[0]!r} is not known; choose one of {', '.join(COMMANDS)}")
        return COMMANDS[words[0]](words[1:])
    except (UsageError, ConfigError) as error:
        print(f"valex: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("valex: stopped", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        if os.environ.get("VALEX_TRACEBACK"):
            raise
        print(f"valex: {type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
