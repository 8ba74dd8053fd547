"""The commands valex study and valex report. Imports no jax before a command needs it."""

import json
from pathlib import Path

from valex.arguments import ReportCommand, RunOptions, StudyCommand, UsageError, parse
from valex.checks import check
from valex.cli import check_options, prepare, print_rows, quiet_stdout, run_all, run_rows, unwritable
from valex.config import run_id
from valex.settings import RunConfig
from valex.tables import STUDIES, load


def study(arguments: list[str]) -> int:
    """valex study NAME."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: valex study NAME [--preset smoke|quick|paper|...] [--agents A,B] [--out DIR] [--workers N] [--dry-run]\n"
        )
        width = max(map(len, STUDIES))
        print("\n".join(f"  {name:{width}}  {entry.summary}" for name, entry in STUDIES.items()))
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in STUDIES:
        raise UsageError(f"study: {name!r} is not known; choose one of {', '.join(STUDIES)}")
    command = parse(StudyCommand, rest, StudyCommand(RunOptions()), f"valex study {name}")
    chosen, options = load(STUDIES, name), command.options
    if command.preset not in chosen.presets:
        raise UsageError(f"preset: {command.preset!r} is not known; choose one of {', '.join(chosen.presets)}")
    from valex.studies.base import with_learners

    if wrong := [name for name in command.agents if name not in chosen.agents]:
        raise UsageError(
            f"agents: {wrong[0]!r} is none of this study's; choose among {', '.join(chosen.agents)}"
            if chosen.agents
            else f"agents: {name} has no choice of learners; leave --agents out"
        )
    configs = [check(config) for config in with_learners(chosen, command.preset, dict.fromkeys(command.agents))]
    root = options.out or Path("runs") / f"{name}-{command.preset}"
    if options.dry_run:
        return plan(configs, root, options)
    with quiet_stdout():
        prepare(configs, options)
        code = run_all(configs, root, options, f"{name} {command.preset}")
    if code in (75, 130) or not any(root.glob("*/config.json")):
        return code
    with quiet_stdout():
        text, page = make_report(root, None)
    if options.json:
        print(json.dumps({"runs": run_rows(root, configs), "report": str(page)}))
    else:
        print(f"{text}\nreport: {page}")
    return code


def plan(configs: list[RunConfig], root: Path, options: RunOptions) -> int:
    """Print the runs of a study and what they will cost on this machine."""
    check_options(options)
    if options.json:
        print_rows([{"run": str(root / name)} for name in dict.fromkeys(map(run_id, configs))], True)
        return 0
    from valex import device

    device.set_up_jax(options.device)
    from valex import estimate

    estimate.print_plan(configs, root, options.workers)
    return 0


def report(arguments: list[str]) -> int:
    """valex report DIR."""
    command = parse(ReportCommand, arguments, None, "valex report")
    if not command.root.is_dir():
        raise UsageError(
            f"root: {command.root} is not a folder; name the folder of a study, such as runs/horizon-quick"
        )
    if not any(command.root.glob("*/config.json")):
        raise UsageError(f"root: {command.root} holds no run directories; name the folder of a study")
    if command.out is not None and command.out.exists() and not command.out.is_dir():
        raise UsageError(f"out: {command.out} is a file; name a folder")
    with quiet_stdout():
        text, page = make_report(command.root, command.out)
    print(f"{text}\nreport: {page}")
    return 0


def make_report(root: Path, out: Path | None) -> tuple[str, Path]:
    """Write the report; return its results table as text and where its page lies."""
    from valex.report import html

    try:
        text, page = html.make_report(root, out)
    except OSError as error:
        raise unwritable(error.filename, error) from error
    except html.NoRunsError as error:
        raise UsageError(f"root: every run in {root} is damaged; delete them and train again") from error
    return text, page.resolve()
