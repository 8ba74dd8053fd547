"""What a diagnosis of a dataset trains and tries: its sizes, values and extractors, and the cells made of them."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from valex.checks_offline import check_policy, check_test_time, check_value
from valex.datasets.card import Card
from valex.fields import ConfigError
from valex.offline.data import DataError, Dataset, split_trajectories
from valex.settings.bottleneck import Cell, MatrixConfig, cells
from valex.settings.dataset_diagnosis import BUDGETS, DatasetDiagnosisConfig
from valex.settings.offline import (
    AWRConfig,
    BCConfig,
    CRLConfig,
    DDPGBCConfig,
    ExtractionKind,
    IQLConfig,
    OPEXConfig,
    SARSAConfig,
    SfBCConfig,
    TestTimeKind,
    TTTConfig,
    ValueKind,
)
from valex.trials import Bench, make_bench, opened

VAL_SHARE = 0.1  # of the trajectories, on which nothing is trained
MOST_SEEDS = 100


class Plan(NamedTuple):
    """Everything that is tried on one dataset."""

    path: Path
    card: Card
    env: str  # JSON text of a card's entry; "" for none
    config: DatasetDiagnosisConfig  # as it was told, 0 and () replaced by what the budget stands for
    sizes: tuple[int, ...]  # transitions, ascending; the last is all of the training data
    values: tuple[ValueKind, ...]  # the reference method's first
    policies: tuple[ExtractionKind, ...]  # tried on every amount of data, the reference method's first, cloning last
    others: tuple[ExtractionKind, ...]  # tried on all data alone
    test_times: tuple[TestTimeKind, ...]  # tried with the reference method on all data
    traded: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds."""
        return tuple(range(self.config.seeds))

    def cell(self, value: ValueKind | None, policy: ExtractionKind, seed: int = 0) -> Cell:
        """Return the cell of a method on all data."""
        most = self.sizes[-1]
        return Cell(
            self.card.sha256, self.env, value, most if value else 0, policy, most, seed,
            episodes=self.config.episodes, val_share=VAL_SHARE,
        )  # fmt: skip


def resolved(config: DatasetDiagnosisConfig) -> DatasetDiagnosisConfig:
    """Return the config with the budget's numbers where it has none. Raises ConfigError naming the option that cannot be."""
    if config.budget not in BUDGETS:
        raise ConfigError(f"budget: {config.budget!r} is not known; choose one of {', '.join(BUDGETS)}")
    budget = BUDGETS[config.budget]
    for name, most in (("seeds", MOST_SEEDS), ("steps", 2**31 - 1), ("episodes", 10**6)):
        if not 0 <= getattr(config, name) <= most:
            raise ConfigError(f"{name}: {getattr(config, name)} is not in 0..{most}; 0 takes the budget's")
    if not (0 <= config.lr < math.inf):
        raise ConfigError(f"lr: {config.lr} is no step size; give a number from 0 on, 0 takes the budget's")
    if config.reference is not None and not math.isfinite(config.reference):
        raise ConfigError(f"reference: {config.reference} is not a score; give a finite number")
    if config.value == "crl" and config.goals == "none":
        raise ConfigError("value: crl needs goals; take --goals navigate, stitch or explore, or --value iql")
    if config.extractor == "sfbc" and not (config.alpha >= 1 and config.alpha == int(config.alpha)):
        raise ConfigError(f"alpha: {config.alpha:g} is no number of candidates; give sfbc a whole one from 1 on")
    taken = ("seeds", "steps", "hidden", "lr", "episodes")
    named = {name: getattr(config, name) or getattr(budget, name) for name in taken}
    return replace(config, **named)


def objectives(config: DatasetDiagnosisConfig) -> tuple[ValueKind, ...]:
    """Return the values, the reference method's first; with goals crl takes the place of sarsa."""
    budget, goals = BUDGETS[config.budget], config.goals != "none"
    shared: dict[str, Any] = {"hidden": config.hidden, "batch_size": budget.batch_size, "lr": config.lr}
    shared |= {"steps": config.steps, "gamma": config.gamma}
    law = "gciql" if goals else "none"
    made: dict[str, ValueKind] = {
        "iql": IQLConfig(**shared, goals=law),
        "sarsa": SARSAConfig(**shared, goals=law),
        "crl": CRLConfig(**shared, latent=config.hidden[-1]),
    }
    names = dict.fromkeys((config.value, "iql", "crl" if goals else "sarsa"))
    return tuple(check_value(made[name]) for name in list(names)[:2])


def extractors(config: DatasetDiagnosisConfig) -> tuple[tuple[ExtractionKind, ...], tuple[ExtractionKind, ...]]:
    """Return (what is tried on every amount of data, what on all data alone); the reference method's first, cloning last.

    DDPG+BC divides Q by its standard deviation: where rewards are -1 a step, |Q| would hide what actions change.
    """
    budget = BUDGETS[config.budget]
    shared: dict[str, Any] = {"hidden": config.hidden, "batch_size": budget.batch_size, "lr": config.lr}
    shared |= {"steps": config.steps, "goals": config.goals}
    awr = partial(AWRConfig, **shared)
    ddpg, sfbc = partial(DDPGBCConfig, **shared, q_norm="std"), partial(SfBCConfig, **shared)
    own = {
        "awr": lambda: awr(alpha=config.alpha),
        "ddpg_bc": lambda: ddpg(alpha=config.alpha),
        "sfbc": lambda: sfbc(samples=int(config.alpha)),
    }[config.extractor]()
    first: list[ExtractionKind] = [awr(alpha=3.0), ddpg(alpha=0.3), sfbc(samples=16)]
    second: list[ExtractionKind] = [awr(alpha=10.0), ddpg(alpha=0.03)]
    every = first + second if budget.every_alpha else first
    matrix = list(dict.fromkeys([own, *every, BCConfig(**shared)]))
    for policy in (*matrix, *second):
        check_policy(policy)
    return tuple(matrix), tuple(policy for policy in second if policy not in matrix)


def as_option(message: str) -> str:
    """Return what is said of a field of a value or policy as said of the option that set it: value.gamma is --gamma."""
    part, dot, rest = message.partition(".")
    if not dot or part not in ("value", "policy"):
        return message
    field, colon, why = rest.partition(":")
    return f"{'alpha' if field == 'samples' else field}{colon}{why}"


def amounts(data: Dataset, config: DatasetDiagnosisConfig) -> tuple[int, ...]:
    """Return the amounts of training data, in transitions. Raises ConfigError where there are not so many."""
    try:
        train, _ = split_trajectories(data, VAL_SHARE, 0)
    except DataError as error:
        raise ConfigError(f"{error}, one to train on and one to hold out") from error
    rows, count = int(np.diff(np.asarray(data.offsets, np.int64))[train].sum()), len(train)
    if config.sizes:
        sizes = sorted(set(config.sizes))
        if sizes[0] < 1 or sizes[-1] > rows:
            wrong = sizes[0] if sizes[0] < 1 else sizes[-1]
            raise ConfigError(
                f"sizes: {wrong:,} is not in 1..{rows:,}, the transitions left for training with a tenth of the "
                "trajectories held out"
            )
        return tuple(sizes)
    counts = sorted({max(1, round(share * count)) for share in BUDGETS[config.budget].shares})
    return tuple(max(1, round(rows * n / count)) for n in counts)


def check_task(bench: Bench, config: DatasetDiagnosisConfig, path: Path) -> None:
    """Raise ConfigError where nothing can be learned from the rewards, or goals are not what the data's states are."""
    raw, goals = bench.raw, config.goals != "none"
    if not goals and not np.any(raw.terminated) and np.ptp(np.asarray(raw.reward)) == 0:
        raise ConfigError(
            f"{path}: reward: {raw.reward[0]:g} in every row and no end, so that no value can be learned; draw goals in "
            "hindsight with --goals navigate, stitch or explore"
        )
    dims = bench.arena.dims if bench.arena else None
    if goals and dims and dims.goal != dims.obs:
        raise ConfigError(
            f"goals: {bench.arena.name if bench.arena else ''} asks for goals of {dims.goal} numbers, states of the data have "
            f"{dims.obs}; train without goals"
        )


def make_plan(path: Path, env: str, config: DatasetDiagnosisConfig) -> tuple[Plan, Bench]:
    """Return what will be tried on the dataset at `path` in the environment `env` ("" for none), and its bench of seed 0.

    Reads the dataset and builds the environment; trains nothing and writes nothing. Raises ConfigError naming the file and
    its key and row, or the option, that cannot be.
    """
    config = resolved(config)
    try:
        values, (policies, others) = objectives(config), extractors(config)
    except ConfigError as error:
        raise ConfigError(as_option(str(error))) from error
    test_times: tuple[TestTimeKind, ...] = ()
    if env:
        test_times = (OPEXConfig(beta=0.1, scale="grad_norm"),)
        if config.extractor != "sfbc":
            updates = BUDGETS[config.budget].test_time_updates
            ttt = TTTConfig(beta=1.0, q_norm="std", lr=config.lr, max_updates=updates)
            test_times = (*test_times, ttt)
    for how in test_times:
        check_test_time(how)
    data, card = opened(path)
    try:
        sizes = amounts(data, config)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith("sizes") else f"{path}: {error}") from error
    bench = make_bench(path, env, config.goals != "none", 0, VAL_SHARE, "standard")
    check_task(bench, config, path)
    traded = BUDGETS[config.budget].traded
    return Plan(path, card, env, config, sizes, values, policies, others, test_times, traded), bench


def cells_of(plan: Plan) -> list[Cell]:
    """Return every cell of a plan; without an environment those alone where value and policy see the same data."""
    config = MatrixConfig(plan.sizes, plan.values, plan.policies, plan.seeds, plan.config.episodes, VAL_SHARE)
    found = cells(config, plan.card.sha256, plan.env)
    if not plan.env:
        found = [cell for cell in found if cell.value is None or cell.value_size == cell.policy_size]
    method = plan.cell(plan.values[0], plan.policies[0])
    for seed in plan.seeds:
        found += [plan.cell(value, policy, seed) for value in plan.values for policy in plan.others]
        found += [replace(method, seed=seed, test_time=how) for how in plan.test_times]
    return list(dict.fromkeys(found))


def policy_name(policy: ExtractionKind) -> str:
    """Return an extractor with its setting, as a user would choose it."""
    if isinstance(policy, SfBCConfig):
        return f"sfbc N {policy.samples}"
    if isinstance(policy, DDPGBCConfig):
        return f"ddpg_bc alpha {policy.alpha:g}" + ("" if policy.q_norm == "abs_mean" else f" (q_norm {policy.q_norm})")
    return f"awr alpha {policy.alpha:g}" if isinstance(policy, AWRConfig) else policy.name


def test_time_name(how: TestTimeKind) -> str:
    """Return an improvement at test time with its setting."""
    return f"{how.name} beta {how.beta:g}" + (f" ({how.scale})" if isinstance(how, OPEXConfig) else "")
