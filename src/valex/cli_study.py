"""The commands valex study and valex report. Imports no jax before a command needs it."""

import json
import sys
from pathlib import Path
from typing import Any

from valex.arguments import ReportCommand, RunOptions, StudyCommand, UsageError, parse
from valex.checks import check
from valex.cli import check_options, make_root, prepare, print_rows, quiet_stdout, run_all, run_rows, unwritable
from valex.config import run_id
from valex.settings import RunConfig
from valex.tables import STUDIES, load

DIAGNOSED = ("diagnosis.json", "report/diagnosis.json")  # what a diagnosis leaves in its folder


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
    from valex.studies.offline import OfflineStudy

    if wrong := [name for name in command.agents if name not in chosen.agents]:
        raise UsageError(
            f"agents: {wrong[0]!r} is none of this study's; choose among {', '.join(chosen.agents)}"
            if chosen.agents
            else f"agents: {name} has no choice of learners; leave --agents out"
        )
    if isinstance(chosen, OfflineStudy):
        return offline(chosen, command.preset, options)
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
    say(text, page, run_rows(root, configs) if options.json else [], options)
    return code


def say(text: str, page: Path, rows: list[dict[str, Any]], options: RunOptions) -> None:
    """Print the results table and where the report lies, or all as one JSON object."""
    print(json.dumps({"runs": rows, "report": str(page)}) if options.json else f"{text}\nreport: {page}")


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


def offline(study: Any, preset: str, options: RunOptions) -> int:
    """Make the datasets of an offline study, train and try its cells, and report on them; return the exit code."""
    root = options.out or Path("runs") / f"{study.name}-{preset}"
    if sinks := check_options(options):
        raise UsageError(f"{sinks[0]}: what is learned from datasets is logged in its folder alone; leave it out")
    from valex import device

    device.set_up_jax(options.device, threads=1)
    from valex import offline_study as runs
    from valex.progress import Progress

    plans = study.presets[preset]()
    runs.check_plans(plans)
    missing, total, done = runs.left(root, plans)
    if options.dry_run:
        print_rows([], True) if options.json else print(runs.plan_text(root, plans))
        return 0
    make_root(root)
    runs.declare(root, study, preset)
    if not options.quiet and done:
        print(f"{done} of {total} trials are there already", file=sys.stderr)
    with quiet_stdout(), Progress(f"{study.name} {preset}", len(missing) + total - done, options.quiet) as progress:
        summary = runs.run(runs.Work(root, plans, runs.cores_for(options.workers), progress))
    for name, message in summary.messages.items():
        print(f"{name}: {summary.states[name]}: {message}", file=sys.stderr)
    code = summary.exit_code()
    if code in (75, 130):
        return code
    with quiet_stdout():
        text, page = make_report(root, None)
    rows = [{"run": plan.name, "cells": len(runs.wanted(root, plan).cells)} for plan in plans]
    say(text, page, rows, options)
    return code


def report(arguments: list[str]) -> int:
    """valex report DIR."""
    command = parse(ReportCommand, arguments, None, "valex report")
    if not command.root.is_dir():
        raise UsageError(
            f"root: {command.root} is not a folder; name the folder of a study, such as runs/horizon-quick"
        )
    if not any(command.root.glob("*/config.json")) and not (command.root / "study.json").is_file():
        if (command.root / "trials").is_dir() or any((command.root / p).is_file() for p in DIAGNOSED):
            raise UsageError(
                f"root: {command.root} is a diagnosis; the same `valex diagnose dataset` command (or gradients, if it was one) "
                "redraws its report and trains nothing again"
            )
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
