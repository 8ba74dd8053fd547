"""The command valex diagnose: from its words to a report. Imports no jax before it has something to measure."""

import json
import sys
from pathlib import Path

from valex.arguments import DiagnoseOptions, DiagnosePresetCommand, DiagnoseRunCommand, UsageError, parse
from valex.checks import check
from valex.cli import check_environment, make_root, quiet_stdout
from valex.config import PRESETS
from valex.settings import RunConfig

USAGE = """usage: valex diagnose gradients RUN [--horizons 0,1,3 ...]
       valex diagnose gradients PRESET [--field value ...]

why a policy gradient along a model is as good or bad as it is, and which horizon to use:
of a run directory, or of a fresh policy of a preset; --help after either explains every option
"""


def diagnose(arguments: list[str]) -> int:
    """Run valex diagnose gradients RUN | PRESET; return the exit code."""
    helping = bool({"-h", "--help"} & set(arguments[:2]))
    if helping or len(arguments) < 2:
        print(USAGE)
        return 0 if helping else 2
    what, target, rest = arguments[0], arguments[1], arguments[2:]
    if what != "gradients":
        raise UsageError(f"diagnose: {what!r} is not known; choose gradients")
    prog = f"valex diagnose gradients {target}"
    if target in PRESETS:
        fresh = parse(DiagnosePresetCommand, rest, DiagnosePresetCommand(PRESETS[target], DiagnoseOptions()), prog)
        return measure_gradients(None, check(fresh.config), fresh.options)
    folder = Path(target)
    options = parse(DiagnoseRunCommand, rest, DiagnoseRunCommand(DiagnoseOptions()), prog).options
    if not (folder / "config.json").exists():
        raise UsageError(f"run: {target} is neither a run directory nor a preset; name a folder that holds config.json")
    return measure_gradients(folder, None, options)


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
