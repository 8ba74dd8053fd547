"""Run an offline study: make its datasets, train and try its cells, and read all of it back.

study.json       name of the study, preset, and the plan of every dataset
datasets/<name>  the datasets, made once
values/, policies/, trials/   as `valex.artefacts` and `valex.trials` lay them out

Everything is kept as soon as it is whole, so the same command goes on where the last one was stopped or killed, and two at a
time share the work: what one is making the other waits for.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from valex import matrix, store
from valex.artefacts import trained
from valex.checks_offline import check_generator, check_policy, check_test_time, check_value
from valex.datasets.card import Card, from_json
from valex.datasets.generate.run import described, generate
from valex.datasets.native import CARD
from valex.device import available_cores
from valex.experts import env_of
from valex.fields import ConfigError
from valex.settings.bottleneck import Cell
from valex.studies.offline import Board, DataPlan, OfflineStudy, cells_of, from_dicts, to_dicts
from valex.trials import cell_name, trial_path
from valex.workers import Job, Pool, Stop, Summary, do_here

STUDY = "study.json"
MAKING = "datasets/.making"  # a lock for each dataset that is being made


class Interrupted(RuntimeError):
    """A dataset that was not finished; its making has no checkpoints."""


class Work(NamedTuple):
    """What one command has to do."""

    root: Path
    plans: tuple[DataPlan, ...]
    cores: list[list[int]]  # of each worker; [] does everything in this process
    progress: Callable[[dict], None]


def check_plans(plans: tuple[DataPlan, ...]) -> None:
    """Raise ConfigError naming the dataset and the field where a plan cannot be."""
    for plan in plans:
        config = plan.matrix
        try:
            check_generator(plan.kind, plan.settings)
            for value in config.values:
                check_value(value)
                for policy in config.policies:
                    check_policy(policy, value)
            for how in config.test_times:
                check_test_time(how)
        except ConfigError as error:
            raise ConfigError(f"{plan.name}: {error}") from error


def declare(root: Path, study: OfflineStudy, preset: str) -> None:
    """Write what the folder holds. Raises ConfigError where it holds another study, preset or way to make a dataset."""
    plans, known = study.presets[preset](), store.read_json(root / STUDY)
    if known:
        if (known["study"], known["preset"]) != (study.name, preset):
            raise ConfigError(f"out: {root} holds {known['study']} {known['preset']}; name another folder")
        ours = {plan.name: plan for plan in plans}
        for theirs in from_dicts(known["plans"]):
            mine = ours.get(theirs.name)
            if mine and (mine.kind, mine.settings) != (theirs.kind, theirs.settings):
                raise ConfigError(f"out: {root} makes {theirs.name} in another way; name another folder")
    store.write_json(root / STUDY, {"study": study.name, "preset": preset, "plans": to_dicts(plans)})


def data_path(root: Path, plan: DataPlan) -> Path:
    """Return where a dataset lies."""
    return root / "datasets" / plan.name


def card_of(root: Path, plan: DataPlan) -> Card | None:
    """Return the card of a dataset, None where it has not been made. Raises ConfigError where it is not what was asked for."""
    path = data_path(root, plan) / CARD
    if not path.is_file():
        return None
    card = from_json(path.read_text(), str(path))
    asked = described(plan.settings, plan.kind)
    left_open = [name for name, value in asked.items() if value is None]  # the generator chose: its card says what
    differ = [name for name, value in asked.items() if name not in left_open and card.generator.get(name) != value]
    if differ or card.seed != plan.settings.seed:
        name = (differ or ["seed"])[0]
        raise ConfigError(f"{path.parent}: made with another {name} than the study asks for; name another folder")
    return card


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end what is inside, which has nothing to save, once whoever else listens has been told."""
    old: dict[int, Any] = {}

    def end(number: int, frame: Any) -> None:
        if callable(old[number]):
            old[number](number, frame)
        raise Interrupted("stopped by a signal; the same command makes it again")

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:  # a worker leaves Ctrl-C to its parent
            old[number] = handler
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def make_data(
    root: Path, plan: DataPlan, stop: Callable[[], bool], progress: Callable[[dict], None]
) -> dict[str, tuple[str, str]]:
    """Make a dataset unless it is there; return its name -> (state, message)."""
    progress({"run": plan.name, "phase": "generating", "env_steps": 0, "total": 1, "return": None})
    try:
        with ending_at_once(), store.locked(root / MAKING / plan.name, wait=True):
            if card_of(root, plan) is None:
                generate(plan.kind, plan.settings, data_path(root, plan))
    except Interrupted:
        return {plan.name: ("interrupted", "")}
    return {plan.name: ("finished", "")}


def env_text(plan: DataPlan, card: Card) -> str:
    """Return the environment that policies are tried in as JSON text, with the clock of the plan."""
    text = env_of(card, plan.env or None)
    if not plan.clock:
        return text
    env = json.loads(text)
    return json.dumps(env | {"kwargs": env["kwargs"] | {"max_episode_steps": plan.clock}}, sort_keys=True)


def all_cells(root: Path, plan: DataPlan) -> list:
    """Return the cells of a dataset that has been made, [] for one that has not. Raises ConfigError."""
    card = card_of(root, plan)
    return [] if card is None else cells_of(plan, card.sha256, env_text(plan, card))


def left(root: Path, plans: tuple[DataPlan, ...]) -> tuple[list[DataPlan], int, int]:
    """Return (datasets to be made, cells that there are in all, cells that have a trial). Raises ConfigError."""
    missing, total, done = [], 0, 0
    for plan in plans:
        made = all_cells(root, plan)
        if not made:
            missing.append(plan)
        total += len(made or cells_of(plan, "", ""))
        done += sum(trial_path(root, cell).is_file() for cell in made)
    return missing, total, done


def plan_text(root: Path, plans: tuple[DataPlan, ...]) -> str:
    """Return what a study makes, in words: the gradient steps and episodes of every dataset. Raises ConfigError."""
    lines = []
    for plan in plans:
        cells = all_cells(root, plan) or cells_of(plan, "", "")
        done = sum(trial_path(root, cell).is_file() for cell in cells)
        values = {(c.value, c.value_size, c.seed): c.value.steps for c in cells if c.value}
        learned = {trained_policy(c): c.policy.steps for c in cells}
        lines.append(
            f"{plan.name}: {len(cells)} cells, {done} tried; {len(values)} values and {len(learned)} policies, "
            f"{sum(values.values()) + sum(learned.values()):,} gradient steps, {sum(c.episodes for c in cells):,} episodes"
        )
    return "\n".join(lines)


def trained_policy(cell: Cell) -> tuple:
    """Return what tells apart the policies that are trained: what is cloned reads no value, and no test changes it."""
    over = None if cell.policy.name in ("bc", "sfbc") else (cell.value, cell.value_size)
    return trained(replace(cell.policy, seed=cell.seed)), cell.policy_size, over


def cores_for(workers: int) -> list[list[int]]:
    """Return the cores of each worker, [] for one alone, which works in this process: one core each, by default all."""
    import jax

    if jax.default_backend() != "cpu":
        return [[]] * workers if workers > 1 else []
    cores = available_cores()
    count = workers or len(cores)
    return [[cores[k % len(cores)]] for k in range(count)] if count > 1 else []


def run(work: Work) -> Summary:
    """Make every dataset, then try every cell that has no trial; return how each ended. Raises ConfigError before anything."""
    check_plans(work.plans)
    missing, _, _ = left(work.root, work.plans)
    summary = Summary()
    with Stop() as stop:
        _do([Job((p.name,), p.name, partial(make_data, work.root, p)) for p in missing], work, stop, summary)
        todo = []
        for plan in work.plans:
            if summary.states.get(plan.name, "finished") == "finished":
                todo += matrix.jobs(work.root, data_path(work.root, plan), all_cells(work.root, plan))
            elif stop():
                summary.leave(cell_name(cell) for cell in cells_of(plan, "", ""))
        _do(todo, work, stop, summary)
    summary.signal = stop.signal
    return summary


def _do(jobs: list[Job], work: Work, stop: Stop, summary: Summary) -> None:
    """Do jobs here, or in one worker for each entry of `cores`, though in no more than there are jobs."""
    if work.cores:
        Pool(jobs, work.progress, stop, summary).run(work.cores[: len(jobs)])
    else:
        do_here(jobs, work.progress, stop, summary)


def stored(root: Path) -> tuple[str, str, tuple[DataPlan, ...]]:
    """Return (study, preset, plans) of a folder. Raises StoreError where it is none of an offline study, or damaged."""
    known = store.read_json(root / STUDY)
    try:
        return known["study"], known["preset"], from_dicts(known["plans"])
    except (KeyError, ConfigError) as error:
        raise store.StoreError(f"{root / STUDY}: {error}; run the study in another folder") from error


def read_board(root: Path) -> Board:
    """Return what was found in a folder. Raises StoreError where files are damaged."""
    _, _, plans = stored(root)
    cells, found, failed, notes, left_out = {}, {}, {}, {}, []
    for plan in plans:
        try:
            card = card_of(root, plan)
        except ConfigError as error:
            left_out.append(f"{plan.name}: {error}")
            card = None
        cells[plan.name] = [] if card is None else cells_of(plan, card.sha256, env_text(plan, card))
        if card is None:
            left_out.append(f"{plan.name}: has not been made")
            continue
        sizes = card.sizes
        notes[plan.name] = f"{sizes['transitions']:,} transitions in {sizes['trajectories']:,} trajectories: {card.how}"
        tried = matrix.trials(root, cells[plan.name])
        found |= tried
        for cell in cells[plan.name]:
            why = store.read_json(root / matrix.DIVERGED / f"{cell_name(cell)}.json") if cell not in tried else {}
            if why:
                failed[cell] = str(why.get("message", ""))
        lacking = len(cells[plan.name]) - len(tried) - sum(cell in failed for cell in cells[plan.name])
        if lacking:
            left_out.append(f"{plan.name}: {lacking} of {len(cells[plan.name])} cells have not been tried yet")
    return Board(plans, cells, found, failed, notes, left_out)
