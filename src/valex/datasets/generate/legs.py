"""Training on the host in legs: what a leg does follows from the checkpoint before it alone, so a stopped one ends alike.

Every leg draws from generators of its own and begins an episode; neither a simulator's state nor a generator's is saved.
A checkpoint holds the whole replay, and whatever the looks behind the legs have put aside.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from valex import store
from valex.datasets.generate.expert import acting
from valex.datasets.generate.host import Leg, World, make_drive
from valex.datasets.generate.learner import Learner, LearnerState
from valex.finished import named_arrays, restore


class DrawnWorld(World, Protocol):
    """An environment stepped by hand, whose episodes follow from a generator."""

    rng: np.random.Generator


class Plan(NamedTuple):
    """How long is trained."""

    steps: int  # control steps in all
    leg_steps: int  # control steps between looks
    warmup: int  # random control steps before the first update
    update_every: int  # control steps between updates
    seed: int


class Look(NamedTuple):
    """What is found out behind a leg."""

    row: dict[str, float]  # of the learning curve
    said: str  # on stderr
    aside: dict[str, np.ndarray]  # kept until the end; no name begins with a dot


class Trained(NamedTuple):
    """Where training stands."""

    state: LearnerState
    done: int  # control steps
    curve: list[dict]  # rows of the looks, with env_steps
    aside: dict[str, np.ndarray]


def train_in_legs(learner: Learner, world: DrawnWorld, plan: Plan, look: Callable, folder: Path | None) -> Trained:
    """Train to the end; look(agent's state, steps done) -> Look behind every leg, the world's generator then its own.

    With a folder it says on stderr how far it is, and goes on from the newest whole checkpoint there.
    """
    drive = make_drive(learner, world)
    init_key, run_key = jax.random.split(jax.random.key(plan.seed))
    state, done, curve, aside = resumed(learner, init_key, folder)
    while done < plan.steps:
        last = min(done + plan.leg_steps, plan.steps)
        rngs = [np.random.default_rng([plan.seed, done, part]) for part in range(3)]
        world.rng = rngs[0]
        state = drive(state, Leg(done, last, plan.warmup, plan.update_every, run_key, rngs[1]))
        world.rng, done = rngs[2], last
        seen = look(state.agent, done)
        curve.append({"env_steps": done} | seen.row)
        aside |= seen.aside
        if folder is not None:
            print(seen.said, file=sys.stderr, flush=True)
            store.append_line(folder / "metrics.jsonl", curve[-1])
            arrays = {name: np.asarray(x) for name, x in named_arrays(state).items()}
            store.save_checkpoint(folder, done, arrays | aside, 1)
    return Trained(state, done, curve, aside)


def resumed(learner: Learner, key: Any, folder: Path | None) -> Trained:
    """Return the newest whole checkpoint in a folder, or a fresh start."""
    if folder is None:
        return Trained(learner.init(key), 0, [], {})
    curve = folder / "metrics.jsonl"
    for steps in store.checkpoint_steps(folder):
        arrays = store.load_checkpoint(folder, steps)
        if arrays is not None and store.has_row(curve, steps):
            store.truncate_lines(curve, steps)
            own = {name: x for name, x in arrays.items() if name.startswith(".")}
            state = restore(jax.eval_shape(learner.init, key), own, f"{folder}: checkpoint at {steps}")
            aside = {name: x for name, x in arrays.items() if name not in own}
            return Trained(state, steps, store.read_lines(curve), aside)
    curve.unlink(missing_ok=True)
    return Trained(learner.init(key), 0, [], {})


def is_finite(agent_state: Any) -> bool:
    """Return whether every number that an agent acts by is finite."""
    return all(np.isfinite(x).all() for x in acting(agent_state).values())
