"""valex diagnose gradients: the gradient laboratory on a stored run, or on a fresh policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from valex.arguments import DiagnoseOptions, UsageError
from valex.config import run_id
from valex.diagnostics.diagnosis import PARTS, gradient_diagnosis
from valex.diagnostics.laboratory import GradientStudy
from valex.diagnostics.subject import modes_of, subject_of
from valex.estimators.per_sample import MODES, mixing_of
from valex.finished import load_agent
from valex.report.diagnosis import write_diagnosis
from valex.report.diagnosis_words import sentences
from valex.settings import RunConfig
from valex.store import read_config
from valex.train import Parts, TrainState, make_program

CHUNKS = 16


class Measured(NamedTuple):
    """A diagnosis that has been written."""

    numbers: dict[str, Any]
    text: list[str]
    page: Path


def check_options(options: DiagnoseOptions) -> None:
    """Raise UsageError naming the first option that cannot be."""
    if not options.horizons or min(options.horizons) < 0 or max(options.horizons) > 200:
        raise UsageError(f"horizons: {options.horizons} have to be whole numbers in 0..200, at least one")
    if wrong := [m for m in options.modes if m not in MODES]:
        raise UsageError(f"modes: {wrong[0]!r} is not known; choose among {', '.join(MODES)}")
    if options.starts < 2 * CHUNKS or options.starts % CHUNKS:
        raise UsageError(f"starts: {options.starts} is no multiple of {CHUNKS} from {2 * CHUNKS} on; take 256")
    if not 2 <= options.draws <= 1024:
        raise UsageError(f"draws: {options.draws} is not in 2..1024")
    if options.batch < 0:
        raise UsageError(f"batch: {options.batch} is below 0; 0 takes the run's batch size")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"out: {options.out} is a file; name a folder")


def check_modes(options: DiagnoseOptions, config: RunConfig) -> None:
    """Raise UsageError naming a mode that needs what the config does not say."""
    if "alpha_order" in options.modes and config.actor.bias_budget is None:
        raise UsageError("modes: alpha_order needs a run whose actor.bias_budget is set; leave it out")


def stored(path: Path) -> tuple[RunConfig, Parts, TrainState]:
    """Return config, components and state of a stored run: as it ended, or at its newest checkpoint. Raises StoreError."""
    return read_config(path), *load_agent(path)


def fresh(config: RunConfig) -> tuple[RunConfig, Parts, TrainState]:
    """Return the same of a run before its first update; a learned model has learned from the warm-up."""
    program = make_program(config)
    state = program.start(config.seed)
    if program.parts.model:
        params, _ = jax.jit(program.parts.model.update)(state.model, jax.random.key(config.seed), state.replay)
        state = state._replace(model=params)
    return config, program.parts, state


def diagnose_gradients(
    found: tuple[RunConfig, Parts, TrainState],
    options: DiagnoseOptions,
    out: Path,
    say: Any = lambda text: None,
    prepare: Any = lambda out: None,
) -> Measured:
    """Measure, and write the report into `out`. Raises UsageError naming what cannot be, OSError.

    prepare(out) is called before anything is measured, and not where nothing can be.
    """
    config, parts, state = found
    check_options(options)
    horizons = tuple(sorted(set(options.horizons)))
    start_key, key = jax.random.split(jax.random.key(options.sample_seed))
    try:
        subject = subject_of(config, parts, state, start_key, (max(horizons) + 1, options.starts), options.law)
    except ValueError as error:
        raise UsageError(str(error)) from error
    prepare(out)
    batch = options.batch or config.train.batch_size
    study = GradientStudy(
        horizons, modes_of(config, options.modes), options.draws, CHUNKS, batch, mixing_of(config.actor)
    )
    try:
        numbers = gradient_diagnosis(subject, study, key, PARTS, say)
    except ValueError as error:
        raise UsageError(f"{error}: policy, critic or model has diverged; diagnose an earlier checkpoint") from error
    own = config.actor.horizon
    named = {"name": run_id(config), "env": config.env.name, "agent": config.agent.name, "law": options.law}
    named |= {"model": config.model.name if parts.model else "oracle (the run has none of its own)", "own_horizon": own}
    numbers["about"] = named | numbers["about"]
    page = write_diagnosis(numbers, out)
    return Measured(numbers, sentences(numbers), page.resolve())


def default_out(target: Path | None, config: RunConfig) -> Path:
    """Return where a report goes that nobody has named a folder for."""
    return target / "diagnosis" if target else Path("runs/diagnosis") / run_id(replace(config))
