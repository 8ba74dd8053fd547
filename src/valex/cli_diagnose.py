"""The command valex diagnose: from its words to a report. Imports no jax before it has something to measure."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from valex.arguments import Device, DiagnoseOptions, DiagnosePresetCommand, DiagnoseRunCommand, UsageError, parse
from valex.checks import check
from valex.cli import MAX_WORKERS, check_environment, make_root, quiet_stdout
from valex.config import PRESETS
from valex.settings import RunConfig
from valex.settings.dataset_diagnosis import BUDGETS, DatasetDiagnosisConfig

USAGE = """usage: valex diagnose gradients RUN [--horizons 0,1,3 ...]
       valex diagnose gradients PRESET [--field value ...]
       valex diagnose dataset PATH [--env ID] [--goals navigate] [--seeds N ...]

gradients  why a policy gradient along a model is as good or bad as it is, and which horizon to use:
           of a run directory, or of a fresh policy of a preset
dataset    where an offline method falls short on a dataset of any format: value, extraction or generalisation
--help after what is diagnosed explains every option
"""


@dataclass(frozen=True)
class DatasetOptions:
    """Where policies are tried, and where the report goes."""

    env: str | None = None
    """Environment, as Gymnasium calls it, dm_control/<domain>, or one of `valex list envs`; none for none; None: the card's."""
    out: Path | None = None
    """Folder of all that is trained and of report/; the default is runs/diagnosis/ with the name of the dataset."""
    workers: int = 0
    """Worker processes (>= 0); 0 takes one per core on a CPU and one in all on an accelerator."""
    device: Device = "auto"
    """Where jax computes; cuda fails loudly where there is none."""
    quiet: bool = False
    """Print nothing but errors and what was found."""
    json: bool = False
    """Print what was measured as one JSON object on stdout."""


@dataclass(frozen=True)
class DiagnoseDatasetCommand:
    """Find out where an offline method falls short on a dataset, and what to try first; write a report."""

    config: Annotated[DatasetDiagnosisConfig, tyro.conf.arg(name="")]
    options: Annotated[DatasetOptions, tyro.conf.arg(name="")]


def diagnose(arguments: list[str]) -> int:
    """Run valex diagnose gradients RUN | PRESET or dataset PATH; return the exit code."""
    helping = bool({"-h", "--help"} & set(arguments[:2]))
    if helping and arguments[0] == "dataset":
        parse_dataset(["--help"])  # ends here: it prints every option and exits
    if helping or len(arguments) < 2:
        print(USAGE)
        return 0 if helping else 2
    what, target, rest = arguments[0], arguments[1], arguments[2:]
    if what == "dataset":
        return measure_dataset(Path(target), parse_dataset(rest))
    if what != "gradients":
        raise UsageError(f"diagnose: {what!r} is not known; choose gradients or dataset")
    prog = f"valex diagnose gradients {target}"
    if target in PRESETS:
        fresh = parse(DiagnosePresetCommand, rest, DiagnosePresetCommand(PRESETS[target], DiagnoseOptions()), prog)
        return measure_gradients(None, check(fresh.config), fresh.options)
    folder = Path(target)
    options = parse(DiagnoseRunCommand, rest, DiagnoseRunCommand(DiagnoseOptions()), prog).options
    if not (folder / "config.json").exists():
        raise UsageError(f"run: {target} is neither a run directory nor a preset; name a folder that holds config.json")
    return measure_gradients(folder, None, options)


def parse_dataset(words: list[str]) -> DiagnoseDatasetCommand:
    """Return what the words behind `valex diagnose dataset PATH` ask for. Raises UsageError; SystemExit after --help."""
    command = DiagnoseDatasetCommand(DatasetDiagnosisConfig(), DatasetOptions())
    return parse(DiagnoseDatasetCommand, words, command, "valex diagnose dataset PATH")


def measure_gradients(folder: Path | None, config: RunConfig | None, options: DiagnoseOptions) -> int:
    """Diagnose the run in `folder`, or a fresh policy of `config`; print what was found."""
    from valex import device

    device.set_up_jax(options.device)
    from valex import diagnose as laboratory, store

    try:
        laboratory.check_options(options)
        config = config or store.read_config(folder or Path())
        laboratory.check_modes(options, config)
        out = options.out or laboratory.default_out(folder, config)
        check_environment(config)
        tell = (
            (lambda text: None) if options.quiet or options.json else lambda text: print(f"  {text}", file=sys.stderr)
        )
        with quiet_stdout():
            found = laboratory.stored(folder) if folder else laboratory.fresh(config)
            measured = laboratory.diagnose_gradients(found, options, out, tell, make_root)
    except store.StoreError as error:
        raise UsageError(f"run: {error}") from error
    print(json.dumps(measured.numbers) if options.json else "\n".join([*measured.text, f"report: {measured.page}"]))
    return 0


def measure_dataset(path: Path, command: DiagnoseDatasetCommand) -> int:
    """Diagnose the dataset at `path`; print what was found. Nothing is written before everything has been checked."""
    options = command.options
    if not 0 <= options.workers <= MAX_WORKERS:
        raise UsageError(f"workers: {options.workers} is not in 0..{MAX_WORKERS}")
    from valex import device
    from valex.launch import SMALL_NET

    widest = max(command.config.hidden or BUDGETS[command.config.budget].hidden)
    with quiet_stdout():
        device.set_up_jax(options.device, 1 if options.workers != 1 or widest <= SMALL_NET else 0)
        import jax

        from valex.bottleneck import diagnose as laboratory
        from valex.progress import Progress

        plan, bench = laboratory.prepared(path, options.env, command.config)
        out = options.out or laboratory.default_out(path)
        make_root(out)
        cores = device.available_cores()
        count = options.workers or (len(cores) if jax.default_backend() == "cpu" else 1)
        spread = [[cores[i % len(cores)]] for i in range(count)] if count > 1 else []
        with Progress(f"diagnose {plan.card.name}", laboratory.left(plan, out), options.quiet) as progress:
            summary = laboratory.train(plan, out, spread, progress)
        found = laboratory.finish(plan, bench, out, summary)
    for name, message in list(summary.messages.items()):
        print(f"{name}: {summary.states[name]}: {message}", file=sys.stderr)
    if found.page is None:
        print("valex: stopped; the same command goes on from here", file=sys.stderr)
    else:
        print(json.dumps(found.numbers) if options.json else "\n".join([*found.text, f"report: {found.page}"]))
    return summary.exit_code()
