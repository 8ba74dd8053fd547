"""The gradient laboratory: how good is a policy gradient along a model, why not better, and how far should it look?

For every horizon h and every way to take the gradient (`estimators/per_sample.py`), from the same starts and the same noises:

    trace, within, between, signal, SNR_N, tails    `moments.py`
    between_share                                   between / trace, may be below 0 as `between` may
    bias                                            against the h-step gradient without error, its parts by `swap.py`
    relative MSE(h) = (bias^2 + trace / N) / |g_h|^2,   g_h the h-step gradient without error
    cosine with the gradient of the return g*, of the mean and, expected, of a batch of N

The horizon that is recommended has the least relative MSE among those measured: relative, because g_h itself grows with h. Those
that the data cannot tell from it are named too. Without a differentiable simulator that can be set to an observation there is no
g_h and no recommendation; nor is there one where g_h cannot be told from zero, as after training has converged. Gradients are
those of V_h, not divided by h + 1. Intervals: jackknife over chunks of starts.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex.diagnostics.moments import Found, Sums, collect_sums, covariances, flat, released_meter, statistics_of
from valex.diagnostics.subject import GradientSubject, evaluated
from valex.diagnostics.swap import ALL, COMPONENTS, NONE, ONE_TRUE, return_grads, swapped_grads
from valex.estimators.pathwise import Upto, action_grads, reward_grads
from valex.estimators.per_sample import TRACED, Mixing, per_sample_grads
from valex.statistics import Interval, jackknife
from valex.types import Array, Transition

QUANTITIES = ("trace", "within", "between", "between_share", "signal", "snr")
QUANTITIES += ("bias_square", "relative_bias", "relative_mse", "cosine")
TRUE = "truth"  # name of the h-step gradient without error
SINGLE = tuple(f"true {name}" for name in COMPONENTS)
SWAPPED = (
    "nothing true"  # dp with every component as it is estimated: what a swap is held against, whatever mode is judged
)
SWAPS = dict(zip((SWAPPED, *SINGLE, TRUE), (NONE, *ONE_TRUE, ALL), strict=True))
METER_SAMPLES, METER_READINGS = 20, 32  # gradients of one reading of the released meter; readings that are averaged


class GradientStudy(NamedTuple):
    """What is measured."""

    horizons: tuple[int, ...] = (0, 1, 3, 5, 8, 10, 15)
    modes: tuple[str, ...] = ("dp", "dr", "detach", "first_action", "lr")  # the first is the one that is judged
    draws: int = 4  # m noises for each start, at least 2
    chunks: int = 16  # parts of the starts that the jackknife leaves out, at least 3; starts are a multiple of it
    batch: int = 256  # N, gradients that an update averages
    mixing: Mixing = Mixing()  # what the mixtures are told


class AtHorizon(NamedTuple):
    """What was measured at one horizon; K names, Q quantities."""

    names: tuple[str, ...]
    values: np.ndarray  # [Q, K]
    left_out: np.ndarray  # [C, Q, K] without each of the chunks
    sums: Sums


def bank_of(
    subject: GradientSubject,
    modes: Sequence[str],
    cells: Sequence[tuple[int, ...]],
    horizon: int | Upto,
    mixing: Mixing | None = None,
) -> Callable:
    """Return (starts [B, T, ...], keys [B]) -> gradients of V_h, [K, B, P]: those of modes, then of cells of swaps."""
    theta, chain, world = subject.theta, subject.chain, subject.world

    def bank(starts: Transition, keys: Array) -> Array:
        first = jax.tree.map(lambda x: x[:, 0], starts)
        rows = lambda mode: segments(starts, horizon) if mode == "dr" else first  # noqa: E731
        found = [flat(per_sample_grads(theta, chain, rows(m), keys, horizon, m, mixing))[None] for m in modes]
        if cells and world:
            found.append(swapped_grads(theta, world, first, keys, horizon, cells))
        return jnp.concatenate(found)

    return bank


def segments(starts: Transition, horizon: int | Upto) -> Transition:
    """Return the first h + 1 rows of stretches [B, T, ...], leaves [h + 1, B, ...]; h has to be static."""
    assert isinstance(horizon, int)
    return jax.tree.map(lambda x: jnp.moveaxis(x[:, : horizon + 1], 1, 0), starts)


def quantities(found: Found, truth: int | None, batch: int) -> np.ndarray:
    """Return the QUANTITIES of K estimators, [Q, K]; NaN where they need a truth and there is none."""
    signal = np.diagonal(found.dots)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = found.between / found.trace
        rows = [found.trace, found.within, found.between, share, signal, batch * signal / found.trace]
        if truth is None:
            return np.stack([*rows, *[np.full_like(signal, np.nan)] * 4])
        bias, scale = found.bias_square[:, truth], np.where(signal[truth] > 0.0, signal[truth], np.nan)
        expected = found.dots[:, truth] / np.sqrt((np.maximum(signal, 0.0) + found.trace / batch) * scale)
        return np.stack([*rows, bias, bias / scale, (bias + found.trace / batch) / scale, expected])


def measured(
    subject: GradientSubject,
    study: GradientStudy,
    key: Array,
    horizon: int,
    modes: Sequence[str],
    cells: Mapping[str, tuple[int, ...]],
) -> AtHorizon:
    """Measure modes and, where there is a truth, cells of swaps by name. Raises ValueError where too few gradients are finite."""
    cells = cells if subject.env else {}
    which = tuple(cells.values())

    def collect(who: GradientSubject, key: Array) -> Sums:
        return collect_sums(
            bank_of(who, modes, which, horizon, study.mixing), who.starts, key, study.draws, study.chunks
        )

    return summed_up((*modes, *cells), evaluated(subject, collect, key), study.batch)


def swept(
    subject: GradientSubject, study: GradientStudy, key: Array, say: Callable[[str], None] = lambda text: None
) -> dict[int, AtHorizon]:
    """Measure the modes of a study and SWAPS at each of its horizons. Raises ValueError as `measured`.

    Where every mode can do with a traced horizon they are one program: it is compiled once, at the price of the longest rollout
    for all of them, and all share one stream of noises.
    """
    if not set(study.modes) <= set(TRACED):
        found = {}
        for h in study.horizons:
            say(f"h = {h}")
            found[h] = measured(subject, study, key, h, study.modes, SWAPS)
        return found
    say(f"h = {', '.join(map(str, study.horizons))}")
    cells = SWAPS if subject.env else {}
    which, most = tuple(cells.values()), max(*study.horizons, 1)

    def collect(who: GradientSubject, key: Array, steps: Array) -> Sums:
        def at(h: Array) -> Sums:
            bank = bank_of(who, study.modes, which, Upto(most, h))
            return collect_sums(bank, who.starts, key, study.draws, study.chunks)

        return jax.lax.map(at, steps)

    sums = evaluated(subject, collect, key, jnp.array(study.horizons, jnp.int32))
    names = (*study.modes, *cells)
    one = lambda i: summed_up(names, jax.tree.map(lambda x: x[i], sums), study.batch)  # noqa: E731
    return {h: one(i) for i, h in enumerate(study.horizons)}


def summed_up(names: tuple[str, ...], sums: Sums, batch: int) -> AtHorizon:
    """Return the quantities of named estimators, of all starts and without each chunk."""
    truth = names.index(TRUE) if TRUE in names else None
    left = [quantities(statistics_of(sums, c), truth, batch) for c in range(len(sums.starts))]
    return AtHorizon(names, quantities(statistics_of(sums), truth, batch), np.stack(left), sums)


def interval(at: AtHorizon, quantity: str, name: str) -> Interval:
    """Return a quantity of a name with its interval."""
    q, k = QUANTITIES.index(quantity), at.names.index(name)
    return jackknife(at.values[q, k], at.left_out[:, q, k])


def difference(a: tuple[AtHorizon, str], b: tuple[AtHorizon, str], quantity: str) -> Interval:
    """Return a quantity of one name less that of another, both measured on the same chunks of starts, with its interval."""
    q = QUANTITIES.index(quantity)
    (x, i), (y, j) = ((at, at.names.index(name)) for at, name in (a, b))
    return jackknife(x.values[q, i] - y.values[q, j], x.left_out[:, q, i] - y.left_out[:, q, j])


def direction(at: AtHorizon, whole: Sums) -> Interval:
    """Return the cosine of the mean gradient of every name with that of other starts, such as the gradient of the return, [K].

    The starts are independent, so the product of the two means is without bias; chunks are left out pairwise.
    """

    def cosine(without: int | None) -> np.ndarray:
        here, there = statistics_of(at.sums, without), statistics_of(whole, without)
        means = []
        for sums in (at.sums, whole):
            keep = np.arange(len(sums.starts)) != (-1 if without is None else without)
            means.append(np.sum(np.asarray(sums.total, float)[keep], axis=0) / np.sum(sums.starts[keep]))
        scale = np.diagonal(here.dots) * there.dots[0, 0]
        return means[0] @ means[1][0] / np.sqrt(np.where(scale > 0.0, scale, np.nan))

    return jackknife(cosine(None), np.stack([cosine(c) for c in range(len(at.sums.starts))]))


class Recommendation(NamedTuple):
    """Which horizon has the least relative MSE, and how sure that is."""

    horizon: int
    indistinct: tuple[int, ...]  # horizons whose MSE cannot be told from the least
    error: Interval  # relative MSE there; 1 is that of no step at all
    useful: bool  # the whole interval lies below 1


def recommended(found: dict[int, AtHorizon], mode: str) -> Recommendation | None:
    """Return the horizon of least relative MSE of a mode; None where it is known of none.

    It is known where the gradient without error is: where its squared norm is told from 0.
    """
    certain = {h: at for h, at in found.items() if TRUE in at.names and interval(at, "signal", TRUE).low > 0.0}
    known = {h: interval(at, "relative_mse", mode) for h, at in certain.items()}
    if not known:
        return None
    best = min(known, key=lambda h: known[h].value)
    apart = {h: difference((found[h], mode), (found[best], mode), "relative_mse") for h in known}
    same = tuple(h for h in known if h == best or not apart[h].low > 0.0)
    return Recommendation(best, same, known[best], bool(known[best].high < 1.0))


def blame(at: AtHorizon) -> dict[str, Interval]:
    """Return by how much the relative bias of dp falls when one component becomes the truth; {} without a truth.

    Swaps are made in dp: what another mode adds to its bias, by detaching or by weights, is not laid to a component.
    """
    return {name: difference((at, SWAPPED), (at, name), "relative_bias") for name in SINGLE if name in at.names}


def readings(subject: GradientSubject, key: Array, horizon: int, readings: int = METER_READINGS) -> np.ndarray:
    """Return readings of the released meter at dp, [readings], each of 20 single gradients (deviation D28)."""
    number = METER_SAMPLES * readings

    def read(who: GradientSubject, key: Array) -> Array:
        rows = jax.tree.map(lambda x: x[jnp.arange(number) % x.shape[0]], who.starts)
        grads = bank_of(who, ("dp",), (), horizon)(rows, jax.random.split(key, number))[0]
        return jax.vmap(lambda g: released_meter(g, horizon + 1))(grads.reshape(readings, METER_SAMPLES, -1))

    return evaluated(subject, read, key)


def whole_return(subject: GradientSubject, study: GradientStudy, key: Array, steps: int) -> Sums:
    """Return the sums of the gradient of the return from the resets, over `steps` of the simulator."""

    def collect(who: GradientSubject, key: Array) -> Sums:
        world = who.world
        assert world is not None  # the caller knows that there is a truth
        bank = lambda starts, keys: return_grads(who.theta, world, starts, keys, steps)[None]  # noqa: E731
        return collect_sums(bank, who.resets, key, study.draws, study.chunks)

    return evaluated(subject, collect, key)


def by_node(subject: GradientSubject, key: Array, horizon: int, chunks: int) -> dict[str, np.ndarray]:
    """Return tr Cov of the parts of the dp gradient, each [h + 1, h + 1]: by the call of the policy they go through (`action`),
    and by the reward or, last, the critic that they are derivatives of (`reward`).
    """

    def collect(parts: Callable, who: GradientSubject, key: Array) -> Sums:
        def bank(starts: Transition, keys: Array) -> Array:
            grads = parts(who.theta, who.chain, starts, keys, horizon)
            leaves = [g.reshape(*g.shape[:2], -1) for g in jax.tree.leaves(grads)]
            return jnp.moveaxis(jnp.concatenate(leaves, axis=-1), 1, 0)

        return collect_sums(bank, who.first, key, 1, chunks)

    measures = {"action": partial(collect, action_grads), "reward": partial(collect, reward_grads)}
    return {name: covariances(evaluated(subject, measure, key)) for name, measure in measures.items()}
