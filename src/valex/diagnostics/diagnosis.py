"""Everything that the gradient laboratory can say about one policy, as plain numbers: what `valex diagnose gradients` stores.

    about           what the numbers are about; `chosen` is the horizon recommended, or the middle one of `horizons` where none is
    variance        by horizon and mode, split into starts and noise, with signal, tails and the released meter
    bias            by horizon and mode, what is left of it with one component swapped, all sixteen cells at the horizon chosen
    direction       cosine with the gradient of the return
    nodes           which actions and which rewards the variance belongs to, at the horizon chosen
    derivatives     errors of the model's and the critic's derivatives, and the scale h'* made of them
    stretch         how much closed loop and nets stretch, by their layers and measured; growth that this predicts
    agreement       pathwise and likelihood-ratio gradients: one mean? which has the smaller variance?
    landscape       the value around the policy, along two random directions
    numerics        float32 against float64, differences, what is not finite

Whatever goes by horizon is a list in the order of `horizons`: quantities[quantity][mode][value, low, high],
blame[component][value, low, high], tails[mode][statistic], agreement[statistic], meter[name], return.cosine[mode][value, low,
high]. No key is a horizon. JSON holds null for what is not finite.

What needs a simulator that can be set to an observation is left out where there is none, and the result says so.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from valex.diagnostics import laboratory as lab
from valex.diagnostics.derivative_errors import derivative_errors
from valex.diagnostics.laboratory import AtHorizon, GradientStudy, Recommendation
from valex.diagnostics.moments import agreement, heavy_tails, released_expectation, statistics_of
from valex.diagnostics.plain import plain
from valex.diagnostics.subject import GradientSubject
from valex.diagnostics.surroundings import health, landscape, stretch
from valex.diagnostics.swap import CELLS, COMPONENTS
from valex.evaluate import monte_carlo_steps
from valex.statistics import Interval
from valex.types import Array

LONGEST_RETURN = 400  # control steps of the return whose gradient is the last truth


PARTS = ("meter", "agreement", "nodes", "cells", "return", "derivatives", "stretch", "landscape", "numerics")


def gradient_diagnosis(
    subject: GradientSubject,
    study: GradientStudy,
    key: Array,
    parts: tuple[str, ...] = PARTS,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Return the diagnosis: variance and bias by horizon, and those of PARTS that are asked for and can be had.

    `say` is told what is being measured. Raises ValueError where too few gradients are finite, or what does not fit is asked for.
    """
    check(subject, study)
    keys = dict(zip(("horizons", "return", "nodes", "other", "health"), jax.random.split(key, 5), strict=True))
    found = lab.swept(subject, study, keys["horizons"], say)
    best = lab.recommended(found, study.modes[0])
    chosen = best.horizon if best else study.horizons[len(study.horizons) // 2]
    result = {
        "about": about(subject, study, chosen),
        "horizons": list(study.horizons),
        "names": list(found[chosen].names),
        "quantities": {q: by_name(found, partial(lab.interval, quantity=q)) for q in lab.QUANTITIES},
        "tails": tails(found),
        "blame": columns([lab.blame(at) for at in found.values()], over_horizons),
        "recommendation": recommendation(best),
    }
    longest = max(*study.horizons, 1)
    measures = {
        "meter": lambda: meter(subject, found, keys["other"]),
        "agreement": lambda: agreements(found),
        "nodes": lambda: lab.by_node(subject, keys["nodes"], chosen, study.chunks),
        "cells": lambda: all_cells(subject, study, keys["return"], chosen),
        "return": lambda: toward_return(subject, study, found, keys["other"]),
        "derivatives": lambda: derivative_errors(subject, subject.first, keys["other"], chunks=study.chunks),
        "stretch": lambda: stretch(subject, keys["other"], longest),
        "landscape": lambda: landscape(subject, keys["other"], chosen),
        "numerics": lambda: health(subject, keys["health"], chosen),
    }
    possible = {
        "agreement": {"dp", "lr"} <= set(study.modes),
        "return": subject.env is not None and subject.resets is not None,
    } | dict.fromkeys(("cells", "derivatives"), subject.env is not None)
    for name in (name for name in PARTS if name in parts and possible.get(name, True)):
        say(name)
        result[name] = measures[name]()
    return plain(result)


def check(subject: GradientSubject, study: GradientStudy) -> None:
    """Raise ValueError naming what does not fit."""
    number, rows = subject.starts.reward.shape
    if number % study.chunks or number < 2 * study.chunks or study.chunks < 3:
        raise ValueError(f"starts: {number} of them; take a multiple of {study.chunks} chunks, at least twice as many")
    if "dr" in study.modes and rows <= max(study.horizons):
        raise ValueError(
            f"starts: stretches of {rows} steps; dr at h = {max(study.horizons)} needs one step more than h"
        )
    if study.draws < 2:
        raise ValueError(f"draws: {study.draws}; at least 2 tell noise from starts")


def about(subject: GradientSubject, study: GradientStudy, chosen: int) -> dict[str, Any]:
    """Return what the numbers are about."""
    theta = subject.theta["net"] if isinstance(subject.theta, dict) and "vectors" in subject.theta else subject.theta
    parameters = sum(x.size for x in jax.tree.leaves(theta))
    return {
        "starts": subject.starts.reward.shape[0],
        "draws": study.draws,
        "chunks": study.chunks,
        "batch": study.batch,
        "gamma": subject.gamma,
        "parameters": int(parameters),
        "chosen": chosen,
        "mode": study.modes[0],
        "truth": subject.env is not None,
        "scale": "gradients of V_h, not divided by h + 1",
        "precision": "float32",
    }


def by_name(found: dict[int, AtHorizon], measure: Callable) -> dict[str, dict[str, np.ndarray]]:
    """Return measure(at, name=name) -> Interval for every name, each bound an array over horizons."""
    names = next(iter(found.values())).names
    rows = {name: [measure(at, name=name) for at in found.values()] for name in names}
    return {name: over_horizons(intervals) for name, intervals in rows.items()}


def columns(rows: list[dict[str, Any]], join: Callable = list) -> dict[str, Any]:
    """Return one dict per horizon as one dict of columns over horizons, each put together by `join`."""
    return {name: join([row[name] for row in rows]) for name in rows[0]}


def over_horizons(intervals: list[Interval]) -> dict[str, np.ndarray]:
    """Return intervals as three arrays."""
    return {part: np.array([getattr(i, part) for i in intervals], float) for part in ("value", "low", "high")}


def tails(found: dict[int, AtHorizon]) -> dict[str, dict[str, list[float]]]:
    """Return what tells heavy tails, and the share of gradients that are not finite, by name and over horizons."""
    result: dict[str, dict[str, list[float]]] = {}
    for at in found.values():
        for k, name in enumerate(at.names):
            row = heavy_tails(np.asarray(at.sums.norms[k])) | {"nonfinite": float(at.sums.nonfinite[k])}
            for stat, value in row.items():
                result.setdefault(name, {}).setdefault(stat, []).append(value)
    return result


def recommendation(best: Recommendation | None) -> dict[str, Any] | None:
    """Return a recommendation as a dict."""
    if best is None:
        return None
    return {**best._asdict(), "error": best.error._asdict(), "indistinct": list(best.indistinct)}


def meter(subject: GradientSubject, found: dict[int, AtHorizon], key: Array) -> dict[str, list[float]]:
    """Return the released meter's mean reading, what it reads in the mean by its formula, and the trace it should have read."""
    result: dict[str, list[float]] = {"released": [], "released_std": [], "expected": [], "trace": []}
    for h, at in found.items():
        read = lab.readings(subject, key, h)
        statistics = statistics_of(at.sums)
        trace, signal = statistics.trace[0], np.diagonal(statistics.dots)[0]
        expected = released_expectation(trace, max(signal, 0.0), lab.METER_SAMPLES, h + 1)
        for name, value in zip(result, (np.mean(read), np.std(read), expected, trace), strict=True):
            result[name].append(float(value))
    return result


def agreements(found: dict[int, AtHorizon]) -> dict[str, list[float]]:
    """Return whether the pathwise and the likelihood-ratio gradient have one mean, each number over horizons."""
    return columns([agreement(at.sums, *map(at.names.index, ("dp", "lr"))) for at in found.values()])


def all_cells(subject: GradientSubject, study: GradientStudy, key: Array, horizon: int) -> dict[str, Any]:
    """Return the oracle swap table: every combination of true and estimated components."""
    names = {" ".join(c for c, flag in zip(COMPONENTS, cell, strict=True) if flag) or "none": cell for cell in CELLS}
    named = {lab.TRUE if all(cell) else name: cell for name, cell in names.items()}
    at = lab.measured(subject, study, key, horizon, (), named)
    shown = ("relative_bias", "relative_mse", "cosine", "trace")
    return {name: {q: lab.interval(at, q, name) for q in shown} | {"true": list(cell)} for name, cell in named.items()}


def toward_return(
    subject: GradientSubject, study: GradientStudy, found: dict[int, AtHorizon], key: Array
) -> dict[str, Any]:
    """Return the direction of every mean gradient against that of the gradient of the return from resets."""
    steps = min(monte_carlo_steps(subject.gamma), LONGEST_RETURN)
    whole = lab.whole_return(subject, study, key, steps)
    statistics = statistics_of(whole)
    toward = {h: lab.direction(at, whole) for h, at in found.items()}
    each = {name: [Interval(*(x[k] for x in i)) for i in toward.values()] for k, name in enumerate(at_names(found))}
    cosine = {name: over_horizons(intervals) for name, intervals in each.items()}
    signal, trace = float(statistics.dots[0, 0]), float(statistics.trace[0])
    return {"steps": steps, "signal": signal, "trace": trace, "cosine": cosine}


def at_names(found: dict[int, AtHorizon]) -> tuple[str, ...]:
    """Return the names that were measured at every horizon."""
    return next(iter(found.values())).names
