"""The command line: valex train | study | report | diagnose | dataset | list | doctor.

Exit codes: 0 ok, 1 a run failed, 2 usage or no such device, 3 diverged (not finite), 75 stopped by SIGTERM with a
checkpoint saved, 130 SIGINT, 141 nobody reads stdout. Nothing here imports jax before a command needs it, so that help
and lists answer at once.
"""

import contextlib
import errno
import json
import os
import signal
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from valex import __version__, tables
from valex.arguments import RunOptions, TrainCommand, UsageError, parse
from valex.checks import check
from valex.config import PRESET_SUMMARIES, PRESETS, run_id
from valex.device import DeviceError
from valex.fields import ConfigError
from valex.settings import RunConfig, needs_model
from valex.sinks import SINKS
from valex.tables import STUDIES

MAX_WORKERS = 1024
LISTS = ("agents", "envs", "models", "rules", "studies", "values", "extractors", "formats", "generators")
TABLES = {name: getattr(tables, name.upper()) for name in LISTS}

USAGE = f"""valex {__version__}: a laboratory for value expansion in reinforcement learning

  valex train PRESET [--field value ...]    train one config; presets: {", ".join(PRESETS)}
  valex study NAME --preset smoke|quick|paper   run a grid of configs and report on it; studies: {", ".join(STUDIES)}
  valex report DIR                          write the HTML report of the runs in DIR
  valex dataset generate|card|convert       make a dataset, say what is in one, write it in another format
  valex diagnose gradients|dataset          why a policy gradient is as it is; where an offline method falls short
  valex list {"|".join(TABLES)}
  valex doctor                              what is installed, which device, what is missing

  --help after a command explains its fields; fields are written --a.b value, --a.b=value or a.b=value.
"""


def check_options(options: RunOptions) -> tuple[str, ...]:
    """Return the sinks asked for. Raises UsageError for options that cannot be."""
    if not 0 <= options.workers <= MAX_WORKERS:
        raise UsageError(f"workers: {options.workers} is not in 0..{MAX_WORKERS}")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"out: {options.out} is a file; name a folder")
    sinks = tuple(name for name in SINKS if getattr(options, name))
    for name in sinks:
        if find_spec(SINKS[name]) is None:
            raise UsageError(f"{name}: {SINKS[name]} is not installed; pip install 'valex[{name}]'")
    return sinks


def prepare(configs: list[RunConfig], options: RunOptions) -> None:
    """Set up jax, then build every environment once. Raises ConfigError or UsageError before anything is written."""
    check_options(options)
    from valex import device, launch

    device.set_up_jax(options.device, max(map(launch.threads_of, configs)))
    for config in {built_from(c): c for c in configs}.values():
        check_environment(config)


def built_from(config: RunConfig) -> tuple:
    """Return what decides whether a config's parts can be built."""
    noise = config.train.warmup_noise
    return config.env, config.agent.name, config.actor.horizon > 0, needs_model(config) and config.model, noise


def check_environment(config: RunConfig) -> None:
    """Raise ConfigError where the environment cannot be built or the horizon needs gradients it does not have."""
    from valex.train import make_parts

    try:
        make_parts(config)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def unwritable(path: object, error: OSError) -> UsageError:
    """Return what is to be said of a path that cannot be written. Raises the error again if the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return UsageError(f"out: {path} cannot be written ({error.strerror}); name another folder with --out")


def make_root(root: Path) -> None:
    """Make the folder of the runs. Raises UsageError if it cannot be written, OSError if the disk is full."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(root, error) from error


def run_all(configs: list[RunConfig], root: Path, options: RunOptions, title: str) -> int:
    """Train, show progress, say what went wrong; return the exit code."""
    from valex import estimate, launch
    from valex.progress import Progress

    make_root(root)
    if not options.quiet:
        print(estimate.memory_line(configs, options.workers), file=sys.stderr)
    with Progress(title, len({run_id(c) for c in configs}), options.quiet) as progress:
        launched = launch.LaunchOptions(options.workers, check_options(options), progress)
        summary = launch.launch(configs, root, launched)
    for name, message in summary.messages.items():
        print(f"{name}: {summary.states[name]}: {message}", file=sys.stderr)
    return summary.exit_code()


def quiet_stdout() -> contextlib.AbstractContextManager:
    """Send what libraries print on stdout to stderr: stdout is for results (importing mjx prints two lines)."""
    return contextlib.redirect_stdout(sys.stderr)


def train(arguments: list[str]) -> int:
    """valex train PRESET."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: valex train PRESET [--field value ...]\n")
        width = max(map(len, PRESETS))
        print("\n".join(f"  {name:{width}}  {PRESET_SUMMARIES[name]}" for name in PRESETS))
        print("\nvalex train PRESET --help explains every field")
        return 0 if arguments else 2
    preset, rest = arguments[0], arguments[1:]
    if preset not in PRESETS:
        raise UsageError(f"preset: {preset!r} is not known; choose one of {', '.join(PRESETS)}")
    command = parse(TrainCommand, rest, TrainCommand(PRESETS[preset], RunOptions()), f"valex train {preset}")
    seeds = dict.fromkeys(command.seeds or (command.config.seed,))
    configs = [check(replace(command.config, seed=seed)) for seed in seeds]
    options, root = command.options, command.options.out or Path("runs/train")
    with quiet_stdout():
        prepare(configs, options)
        code = 0 if options.dry_run else run_all(configs, root, options, f"train {preset}")
    rows = [{"run": str(root / run_id(c))} for c in configs] if options.dry_run else run_rows(root, configs)
    print_rows(rows, options.json)
    return code


def run_rows(root: Path, configs: list[RunConfig]) -> list[dict[str, Any]]:
    """Return where each run lies, its state and its last evaluation."""
    from valex.store import read_run

    rows = []
    for path in dict.fromkeys(root / run_id(config) for config in configs):
        if not (path / "config.json").exists():
            rows.append({"run": str(path), "state": "not started", "episode_return": None, "message": ""})
            continue
        run = read_run(path)
        returns = run.metrics.get("eval/episode_return", [])
        last = float(returns[-1]) if len(returns) else None
        state, message = run.status.get("state", "not started"), run.status.get("message", "")
        rows.append({"run": str(path), "state": state, "episode_return": last, "message": message})
    return rows


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print one line per run, or all as one JSON object."""
    if as_json:
        print(json.dumps({"runs": rows}))
        return
    for row in rows:
        words = [row["run"], row.get("state", "")]
        if "state" in row:
            last = row["episode_return"]
            which = "final return" if row["state"] in ("finished", "failed") else "return so far"
            words.append("no evaluation yet" if last is None else f"{which} {last:.1f}")
        print("  ".join(word for word in words if word))


def list_table(arguments: list[str]) -> int:
    """valex list TABLE."""
    words = [a for a in arguments if a != "--json"]
    if {"-h", "--help"} & set(words):
        print(f"usage: valex list {'|'.join(TABLES)} [--json]")
        return 0
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

    if {"-h", "--help"} & set(arguments):
        print(
            "usage: valex doctor [--json]\n\nsay what is installed, which device jax uses, what is missing and its pip line"
        )
        return 0
    if set(arguments) - {"--json"}:
        raise UsageError("doctor: takes no argument but --json")
    return print_findings("--json" in arguments)


COMMANDS = {  # what each runs, loaded when it is asked for
    "train": "valex.cli:train",
    "study": "valex.cli_study:study",
    "report": "valex.cli_study:report",
    "list": "valex.cli:list_table",
    "doctor": "valex.cli:doctor",
    "diagnose": "valex.cli_diagnose:diagnose",
    "dataset": "valex.cli_dataset:dataset",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = dispatch(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # --help of a command
        return int(stop.code or 0)
    except (UsageError, ConfigError) as error:
        print(f"valex: {error}".splitlines()[0], file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("valex: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our stdout, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except DeviceError as error:
        print(f"valex: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ValueError) as error:
        if os.environ.get("VALEX_TRACEBACK"):
            raise
        from valex.store import explained

        print(f"valex: {explained(error)}", file=sys.stderr)
        return 1


def dispatch(words: list[str]) -> int:
    """Run the command that the first word names."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        raise UsageError(f"command: {words[0]!r} is not known; choose one of {', '.join(COMMANDS)}")
    module, function = COMMANDS[words[0]].split(":")
    return getattr(import_module(module), function)(words[1:])


if __name__ == "__main__":
    sys.exit(main())
