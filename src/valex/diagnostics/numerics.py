"""Whether a gradient can be trusted as numbers: its precision, its agreement with differences, and what is not finite.

    gap            |g_32 - g_64| / |g_64| of every sample      float32 arithmetic against float64 on the same numbers and noises
    differences    |(F(theta + e d) - F(theta - e d)) / 2 e - g . d| / |g . d|     in float64, F the mean of V over samples
    census         shares of samples whose gradient has NaN, has Inf; trap: V is finite and its gradient is not, as that of
                   where(x > 0, sqrt(x), 0) at x < 0

In float64 a draw would be another number, because it takes twice the bits of its key. Keys are therefore given a generator whose
wide words carry the bits of the narrow ones: uniform draws agree to 2^-25, normal ones to the float32 error of the generator
(typically 4e-8, 2e-5 in the tails), and with them what is made of those. Whole numbers of `jax.random.randint` do not agree, nor
does what is drawn from keys that are hidden in the starts. On accelerators the gap holds what their float32 products round off,
too: `jax.default_matmul_precision("highest")` tells how much.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.extend.random import define_prng_impl, threefry_prng_impl

from valex.diagnostics.landscape import held
from valex.diagnostics.model_derivatives import directions as gaussian
from valex.estimators.total_propagation import numbers
from valex.types import Array, PyTree

BATCH = 64  # samples that are evaluated at once
STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # e of differences, in units of a parameter
TINY = np.finfo(float).tiny  # keeps 0 / 0 of a gradient that is 0 and found to be 0 at 0


class Problem(NamedTuple):
    """S samples of a value and of its gradient. What has to be float64 for them to be so stands in it, not in closures."""

    build: Callable  # (fixed) -> (value, grads), each (theta, start, key) of ONE sample: a scalar, a tree shaped like theta
    theta: PyTree  # what the gradient is taken of
    fixed: PyTree  # other numbers: parameters of models and critics, moments of normalisers; () for none
    starts: PyTree  # leaves [S, ...]
    keys: Array  # [S] of threefry, JAX's default


class Gap(NamedTuple):
    """How far float32 gradients are from float64 ones, relative to those; of the samples that are finite in both."""

    median: float
    p95: float
    max: float
    nonfinite: float  # share of the other samples
    each: np.ndarray  # [S], NaN where not finite


class Differences(NamedTuple):
    """Slopes along D random directions, at the best of E steps."""

    error: np.ndarray  # [D] relative; inf where no step gives a finite one
    step: np.ndarray  # [D] e
    slope: np.ndarray  # [D] g . d
    difference: np.ndarray  # [D] (F(theta + e d) - F(theta - e d)) / 2 e
    errors: np.ndarray  # [D, E] of every step


class Census(NamedTuple):
    """Shares of S samples, in float32."""

    nan: float  # a gradient with NaN
    inf: float  # a gradient with Inf; a sample can count in both
    trap: float  # V is finite, its gradient is not
    value: float  # V is not finite
    starts: list[int]  # the first samples whose gradient is not finite


def narrow_bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    """Return the random words [*shape] of a threefry key; those of 64 bits carry the 23 that a float32 would be made of.

    The next lower bit is set: it stands for the half step by which float32 arithmetic shifts the draws behind normal ones.
    """
    if width < 64:
        return threefry_prng_impl.random_bits(key, width, shape)
    word = threefry_prng_impl.random_bits(key, 32, shape) & np.uint32(0xFFFFFE00) | np.uint32(0x80)
    return word.astype(jnp.uint64) << np.uint64(32)


NARROW = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    fold_in=threefry_prng_impl.fold_in,
    random_bits=narrow_bits,
    name="valex_narrow",
    tag="valex_narrow",
)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Return the float32 numbers of a tree as arrays of `dtype`; what is no floating point number stays."""
    real, rebuild = numbers(jax.tree.map(lambda x: x if hasattr(x, "dtype") else np.asarray(x), tree))
    return rebuild([np.asarray(x, np.float32).astype(dtype) for x in real])  # pyright: ignore[reportArgumentType]


def evaluate(problem: Problem, measure: Callable, double: bool, batch: int = BATCH) -> PyTree:
    """Return measure(value, grads, theta, start, key) of every sample, leaves [S, ...] of numpy, in float32 or in float64.

    Raises ValueError where float64 numbers are cast down on the way, or keys are not those of threefry.
    """
    kind = jax.random.key_impl(problem.keys)
    if kind != "threefry2x32":
        raise ValueError(f"keys: got those of {kind}, allowed: threefry2x32, whose draws can be had in both precisions")

    def run(theta: PyTree, fixed: PyTree, starts: PyTree, keys: Array) -> PyTree:
        value, grads = problem.build(fixed)
        one = lambda at: measure(value, grads, theta, *at)  # noqa: E731
        return jax.lax.map(one, (starts, keys), batch_size=min(batch, keys.shape[0]))

    with jax.enable_x64(double):
        numbers_of = cast((problem.theta, problem.fixed, problem.starts), np.float64 if double else np.float32)
        data = jax.random.key_data(problem.keys)
        keys = jax.random.wrap_key_data(data, impl=NARROW) if double else problem.keys
        traced = jax.jit(run).trace(*numbers_of, keys)
        if double and (found := casts_down(traced.jaxpr.jaxpr)):
            raise ValueError(f"build: casts float64 down at {found} places, so there is no gradient in float64")
        return jax.device_get(traced.lower().compile()(*numbers_of, keys))


def casts_down(jaxpr: Jaxpr) -> int:
    """Return how often a program turns float64 numbers that it computes into narrower ones, in its parts as well."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "convert_element_type" and not isinstance(eqn.invars[0], Literal):
            before: Any = eqn.invars[0].aval
            after = np.dtype(eqn.params["new_dtype"])
            wide = before.dtype == np.float64 and not before.weak_type
            count += wide and jnp.issubdtype(after, jnp.floating) and after.itemsize < 8
        parts = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: isinstance(x, (Jaxpr, ClosedJaxpr)))
        for part in parts:
            if isinstance(part, (Jaxpr, ClosedJaxpr)):
                count += casts_down(part.jaxpr if isinstance(part, ClosedJaxpr) else part)
    return int(count)


def rows(grads: PyTree) -> np.ndarray:
    """Return gradients, leaves [S, ...], as one array [S, P] of float64."""
    return np.concatenate([np.asarray(g, float).reshape(len(g), -1) for g in numbers(grads)[0]], axis=1)


def precision_gap(problem: Problem, batch: int = BATCH) -> Gap:
    """Return how far the float32 gradient of every sample is from the float64 one; keeps S gradients of either.

    Both start from the same float32 numbers. Raises ValueError as `evaluate` does.
    """

    def measure(value: Callable, grads: Callable, theta: PyTree, start: PyTree, key: Array) -> PyTree:
        return grads(theta, start, key)

    single, double = (rows(evaluate(problem, measure, wide, batch)) for wide in (False, True))
    with np.errstate(invalid="ignore"):
        each = np.linalg.norm(single - double, axis=1) / np.maximum(np.linalg.norm(double, axis=1), TINY)
    each = np.where(np.isfinite(each), each, np.nan)
    finite = each[np.isfinite(each)]
    share = 1.0 - len(finite) / len(each)
    if not len(finite):
        return Gap(np.nan, np.nan, np.nan, share, each)
    median, p95 = np.quantile(finite, [0.5, 0.95])
    return Gap(float(median), float(p95), float(np.max(finite)), share, each)


def finite_differences(
    problem: Problem, key: Array, count: int = 4, steps: tuple[float, ...] = STEPS, batch: int = BATCH
) -> Differences:
    """Return how far the mean gradient is from central differences of the mean value along `count` directions d ~ N(0, I).

    The best of `steps` counts: large ones bend, small ones are rounded off. The vectors of spectral normalisation, which are no
    parameters, are not moved. Raises ValueError as `evaluate` does.
    """
    theta = cast(problem.theta, np.float32)
    along = jax.device_get(jax.vmap(lambda k: held(theta, gaussian(k, theta)))(jax.random.split(key, count)))
    pushes = np.array([sign * e for e in steps for sign in (1.0, -1.0)])

    def measure(value: Callable, grads: Callable, theta: PyTree, start: PyTree, key: Array) -> tuple[Array, Array]:
        real, rebuild = numbers(theta)
        gradient = numbers(grads(theta, start, key))[0]

        def of_direction(d: list[Array]) -> tuple[Array, Array]:
            moved = lambda e: value(rebuild([x + e * y for x, y in zip(real, d, strict=True)]), start, key)  # noqa: E731
            slope = sum((jnp.vdot(g, y) for g, y in zip(gradient, d, strict=True)), jnp.zeros(()))
            return slope, jax.lax.map(moved, jnp.asarray(pushes))

        return jax.lax.map(of_direction, [jnp.asarray(d, jnp.float64) for d in numbers(along)[0]])

    slopes, values = evaluate(problem, measure, True, batch)
    slope, sides = np.mean(slopes, axis=0), np.mean(values, axis=0).reshape(count, len(steps), 2)
    found = (sides[..., 0] - sides[..., 1]) / (2.0 * np.array(steps))
    errors = np.abs(found - slope[:, None]) / np.maximum(np.abs(slope), TINY)[:, None]
    errors = np.where(np.isnan(errors), np.inf, errors)
    best = np.argmin(errors, axis=1)[:, None]
    take = lambda x: np.take_along_axis(x, best, axis=1)[:, 0]  # noqa: E731
    return Differences(take(errors), np.array(steps)[best[:, 0]], slope, take(found), errors)


def census(problem: Problem, first: int = 8, batch: int = BATCH) -> Census:
    """Return what is not finite among values and gradients, in float32, and the `first` samples where a gradient is not."""

    def measure(value: Callable, grads: Callable, theta: PyTree, start: PyTree, key: Array) -> tuple[Array, ...]:
        leaves = numbers(grads(theta, start, key))[0]
        has = lambda what: jnp.any(jnp.stack([jnp.any(what(g)) for g in leaves]))  # noqa: E731
        return has(jnp.isnan), has(jnp.isinf), jnp.isfinite(value(theta, start, key))

    nan, inf, finite = evaluate(problem, measure, False, batch)
    bad = np.logical_or(nan, inf)
    share = lambda flags: float(np.mean(flags))  # noqa: E731
    return Census(share(nan), share(inf), share(bad & finite), share(~finite), np.flatnonzero(bad)[:first].tolist())
