"""What a data-scaling matrix is made of, which value, read off how, on how much data of each; and what goes on online.

Imports no jax.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from valex.settings.offline import ExtractionKind, Mixing, PerturbationConfig, TestTimeKind, ValueKind

Encoding = Literal["none", "standard", "steps"]


@dataclass(frozen=True)
class Cell:
    """One policy on one task: what it was learned from, by what, and how it is tried."""

    data: str
    """sha256 of the dataset."""
    env: str
    """The environment that it is tried in, as JSON text of a card's entry."""
    value: ValueKind | None
    """The value that it is read off; None for behaviour cloning."""
    value_size: int
    """Transitions that the value may see, in whole trajectories; 0 without one."""
    policy: ExtractionKind
    """How it is read off."""
    policy_size: int
    """Transitions that the policy may see, in whole trajectories."""
    seed: int
    """Of the order of the trajectories, of both phases of training and of nothing else."""
    test_time: TestTimeKind | None = None
    """How it is improved while it is tried; None: not at all."""
    episodes: int = 50
    """Episodes, with seeds of their own that are the same for every policy (>= 1)."""
    val_share: float = 0.1
    """Share of the trajectories that nothing is trained on, in (0, 1)."""
    encoding: Encoding = "standard"
    """What nets see of an observation, by `offline/encoding.py`: none, standard (units of deviation) or steps."""
    perturbation: PerturbationConfig | None = None
    """Error put on the value that is climbed at test time; None, as one of size 0: the value as it was learned."""


@dataclass(frozen=True)
class Continuation:
    """One policy of one task of one goal, followed along its training on data and on from there online."""

    data: str
    """sha256 of the dataset."""
    env: str
    """The environment that it acts and is tried in, as JSON text of a card's entry."""
    value: ValueKind
    """The value: learned whole from the data first, then on at every online update."""
    policy: ExtractionKind
    """How the policy is read off it; `steps` are those of the offline part. It acts by its own spread when it collects."""
    seed: int
    """Of the order of the trajectories, of training and of what is collected."""
    offline_checks: int = 5
    """Checks along the policy's offline updates, evenly spread, one more before the first update (>= 1)."""
    online_steps: int = 10_000
    """Environment steps behind that (>= 0)."""
    check_every: int = 1_000
    """Environment steps between two checks; at a check every environment begins a new episode (>= 1)."""
    updates_per_step: int = 1
    """Updates of value and policy for each environment step (>= 0)."""
    num_envs: int = 1
    """Environments that collect side by side; their updates follow one vector step in a row (>= 1)."""
    mixing: Mixing = "uniform"
    """Rows of an online update: uniform over data and what was collected, or half of the batch from either."""
    episodes: int = 20
    """Episodes of a check, the same at every check (>= 1)."""
    val_share: float = 0.1
    """Share of the trajectories that nothing is trained on, in (0, 1)."""
    encoding: Encoding = "standard"
    """What nets see of an observation, as in a cell."""


@dataclass(frozen=True)
class MatrixConfig:
    """Value data x policy data, for every value, extractor and seed."""

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Amounts of data, ascending (transitions)."""
    values: tuple[ValueKind, ...] = ()
    """Value objectives."""
    policies: tuple[ExtractionKind, ...] = ()
    """Extractors; one entry for each alpha or N."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Repetitions: each draws the order of the trajectories and all of training anew."""
    episodes: int = 50
    """Episodes of a trial (>= 1)."""
    val_share: float = 0.1
    """Share of the trajectories that nothing is trained on, in (0, 1)."""
    encoding: Encoding = "standard"
    """What nets see of an observation, as in a cell."""
    test_times: tuple[TestTimeKind, ...] = field(default_factory=tuple)
    """Improvements at test time, tried where value and policy have seen most data."""


@dataclass(frozen=True)
class Robustness:
    """What is varied around the cells of most data: the value that is read, and what is climbed at test time."""

    values: tuple[ValueKind, ...] = ()
    """Values that the policies of the matrix are read off, beside the matrix's own."""
    errors: tuple[float, ...] = ()
    """Sizes of an error put on Q where it is climbed at test time, beside none (> 0, as in PerturbationConfig)."""


def error_of(size: float, seed: int) -> PerturbationConfig | None:
    """Return an error of Q whose random function is drawn anew for every seed; None of size 0."""
    return PerturbationConfig(size, seed) if size else None


def cells_around(robustness: Robustness, found: list[Cell]) -> list[Cell]:
    """Return what is varied around cells: other values for the plain ones, errors for those improved at test time."""
    plain = [cell for cell in found if cell.value is not None and cell.test_time is None]
    others = [replace(cell, value=value) for value in robustness.values for cell in plain]
    return others + [
        replace(cell, perturbation=error_of(size, cell.seed))
        for size in robustness.errors
        for cell in found
        if cell.test_time is not None
    ]


def cells(config: MatrixConfig, data: str, env: str) -> list[Cell]:
    """Return every cell of a matrix, those of one value and one seed behind each other."""
    shared: dict[str, Any] = {"data": data, "env": env, "episodes": config.episodes}
    shared |= {"val_share": config.val_share, "encoding": config.encoding}
    reading = [p for p in config.policies if p.name != "bc"]
    most, found = config.sizes[-1], []
    for seed in config.seeds:
        for p in config.policies:
            if p.name == "bc":
                found += [
                    Cell(value=None, value_size=0, policy=p, policy_size=n, seed=seed, **shared) for n in config.sizes
                ]
        for value in config.values:
            for m in config.sizes:
                for p in reading:
                    for n in config.sizes:
                        found.append(Cell(value=value, value_size=m, policy=p, policy_size=n, seed=seed, **shared))
                        if m == n == most:
                            found += [
                                Cell(
                                    value=value, value_size=m, policy=p, policy_size=n, seed=seed, test_time=t, **shared
                                )
                                for t in config.test_times
                                if t.name == "opex" or p.name != "sfbc"
                            ]
    return found
