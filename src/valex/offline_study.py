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

import numpy as np

from valex import continuation, facts, matrix, store
from valex.artefacts import trained
from valex.checks_offline import check_generator, check_perturbation, check_policy, check_test_time, check_value
from valex.datasets.card import Card, from_json
from valex.datasets.generate.run import described, generate
from valex.datasets.native import CARD
from valex.device import available_cores
from valex.experts import env_of
from valex.fields import ConfigError
from valex.settings.bottleneck import Cell, Continuation
from valex.settings.offline import PerturbationConfig
from valex.studies.offline import (
    Board,
    DataPlan,
    OfflineStudy,
    cells_of,
    continuations_of,
    facts_of,
    from_dicts,
    to_dicts,
)
from valex.trials import cell_name, trial_path
from valex.workers import Interrupted, Job, Stop, Summary, do_all

STUDY = "study.json"
MAKING = "datasets/.making"  # a lock for each dataset that is being made


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
            for value in (*config.values, *(plan.robustness.values if plan.robustness else ())):
                check_value(value)
                for policy in config.policies:
                    check_policy(policy, value)
            for how in config.test_times:
                check_test_time(how)
            for size in plan.robustness.errors if plan.robustness else ():
                check_perturbation(PerturbationConfig(size))
            for one in plan.continuations:
                continuation.check_continuation(one)
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


class Wanted(NamedTuple):
    """What a plan wants of its dataset."""

    card: Card | None  # None: the dataset has not been made
    cells: list[Cell]  # without a dataset they only count
    continuations: list[tuple[Continuation, Continuation]]  # as planned, and as they are made
    described: list[Cell] = []  # cells of AWR whose data are described, never changed


def wanted(root: Path, plan: DataPlan) -> Wanted:
    """Return what is to be trained on a dataset. Raises ConfigError where another one lies in its place."""
    card = card_of(root, plan)
    where = ("", "{}") if card is None else (card.sha256, env_text(plan, card))
    found = cells_of(plan, *where)
    return Wanted(card, found, continuations_of(plan, *where), facts_of(found, plan))


def places(root: Path, asked: Wanted) -> list[Path]:
    """Return where the trials, records and facts of a plan lie, or will."""
    records = [continuation.record_path(root, one) for _, one in asked.continuations]
    described = [facts.facts_path(root, cell) for cell in asked.described]
    return [trial_path(root, cell) for cell in asked.cells] + records + described


def left(root: Path, plans: tuple[DataPlan, ...]) -> tuple[list[DataPlan], int, int]:
    """Return (datasets to be made, files of `places` that there will be in all, those that are there). Raises ConfigError."""
    missing, total, done = [], 0, 0
    for plan in plans:
        asked = wanted(root, plan)
        found = places(root, asked)
        missing += [plan] if asked.card is None else []
        total, done = total + len(found), done + sum(path.is_file() for path in found)
    return missing, total, done


def plan_text(root: Path, plans: tuple[DataPlan, ...]) -> str:
    """Return what a study makes, in words: the gradient steps and episodes of every dataset. Raises ConfigError."""
    lines = []
    for plan in plans:
        asked = wanted(root, plan)
        cells, done = asked.cells, sum(path.is_file() for path in places(root, asked))
        values = {(c.value, c.value_size, c.seed): c.value.steps for c in cells if c.value}
        learned = {trained_policy(c): c.policy.steps for c in cells}
        facts_too = f" and {len(asked.described)} facts" if asked.described else ""
        lines.append(
            f"{plan.name}: {len(cells)} cells and {len(asked.continuations)} continuations{facts_too}, {done} done; "
            f"of the cells {len(values)} values and {len(learned)} policies, "
            f"{sum(values.values()) + sum(learned.values()):,} gradient steps, {sum(c.episodes for c in cells):,} episodes"
        )
    return "\n".join(lines)


def trained_policy(cell: Cell) -> tuple:
    """Return what tells apart the policies that are trained: what is cloned reads no value, and no test changes it."""
    over = None if cell.policy.name in ("bc", "sfbc") else (cell.value, cell.value_size)
    return trained(replace(cell.policy, seed=cell.seed)), cell.policy_size, over


def on_cpu() -> bool:
    """Return whether jax computes on a CPU."""
    import jax

    return jax.default_backend() == "cpu"


def cores_for(workers: int) -> list[list[int]]:
    """Return the cores of each worker, [] for one alone, which works in this process: one core each, by default all."""
    if not on_cpu():
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
        making = [Job((p.name,), p.name, partial(make_data, work.root, p)) for p in missing]
        do_all(making, work.cores, work.progress, stop, summary)
        todo = []
        for plan in work.plans:
            if summary.states.get(plan.name, "finished") == "finished":
                asked, path = wanted(work.root, plan), data_path(work.root, plan)
                todo += matrix.jobs(work.root, path, asked.cells, together=not work.cores and not on_cpu())
                todo += continuation.jobs(work.root, path, [one for _, one in asked.continuations])
                todo += facts.jobs(work.root, path, asked.described)
            elif stop():
                summary.leave(cell_name(cell) for cell in wanted(work.root, plan).cells)
        do_all(todo, work.cores, work.progress, stop, summary)
    summary.signal = stop.signal
    return summary


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
    board = Board(plans, {}, {}, {}, {}, [], {}, facts={})
    for plan in plans:
        try:
            asked = wanted(root, plan)
        except ConfigError as error:
            asked = Wanted(None, [], [])
            board.left_out.append(f"{plan.name}: {error}")
        board.cells[plan.name] = asked.cells if asked.card else []
        if asked.card is None:
            board.left_out.append(f"{plan.name}: there is no dataset yet")
        else:
            read_plan(root, plan, asked, board)
    return board


def read_plan(root: Path, plan: DataPlan, asked: Wanted, board: Board) -> None:
    """Put what was found of one dataset on a board. Raises StoreError where files are damaged."""
    assert asked.card is not None
    sizes, tried = asked.card.sizes, matrix.trials(root, asked.cells)
    made = f"{sizes['transitions']:,} transitions in {sizes['trajectories']:,} trajectories: {asked.card.how}"
    board.notes[plan.name] = made
    board.found.update(tried)
    for cell in asked.cells:
        why = store.read_json(root / matrix.DIVERGED / f"{cell_name(cell)}.json") if cell not in tried else {}
        if why:
            board.failed[cell] = str(why.get("message", ""))
    records = [
        (as_planned, store.read_json(continuation.record_path(root, one))) for as_planned, one in asked.continuations
    ]
    board.continued[plan.name] = [pair for pair in records if pair[1]]
    if asked.described:
        board.facts[plan.name] = np.array([facts.read_facts(root, cell) for cell in asked.described])
    lacking = len(asked.cells) - len(tried) - sum(cell in board.failed for cell in asked.cells)
    ended = len(board.continued[plan.name])
    unknown = sum(not facts.facts_path(root, cell).is_file() for cell in asked.described)
    for count, total, what in (
        (lacking, len(asked.cells), "cells have not been tried yet"),
        (len(records) - ended, len(records), "continuations have not ended"),
        (unknown, len(asked.described), "seeds have not described the data yet"),
    ):
        if count:
            board.left_out.append(f"{plan.name}: {count} of {total} {what}")
