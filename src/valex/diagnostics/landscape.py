"""What a policy's value looks like from above: F over a plane through its parameters, and how rough F is.

    F(x, y) = -mean V(theta + x d1 + y d2),   (x, y) on a grid over [-span, span]^2

    gaussian   d ~ N(0, I), as it is drawn: |d| is about sqrt(p) for p parameters, so x = 1 moves every parameter by about 1,
               which is far for kernels whose entries are of size 1 / sqrt(fan_in)
    filter     d ~ N(0, I), every leaf scaled to the norm of theta's own leaf. Li et al. 2018 (arXiv 1712.09913) scale every
               filter of a leaf by itself; biases, which they leave alone, are moved by as much as they are
    gradient   d1 along a given gradient, as long as a Gaussian direction; d2 Gaussian, made orthogonal to d1

The vectors of spectral normalisation are no parameters: they are not moved. A value under them has to refresh them itself
(`Network.refresh`, several times), or kernels are divided by a sigma that is not theirs. The grid and the range of 2310.19927 are
not known; 51 x 51 over [-1, 1]^2 is a choice.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from valex.diagnostics.model_derivatives import directions as gaussian
from valex.losses import gradient_norm
from valex.spectral import Vectors
from valex.types import Array, PyTree

HOW = ("gaussian", "filter", "gradient")


def directions(theta: PyTree, key: Array, how: str = "gaussian", gradient: PyTree = None) -> tuple[PyTree, PyTree]:
    """Draw the two directions (d1, d2) of a landscape, shaped like theta; `gradient`, shaped like theta, is for `gradient`.

    Raises ValueError for an unknown `how`, or a gradient that is missing, zero or not finite where it is needed.
    """
    if how not in HOW:
        raise ValueError(f"how: got {how!r}, allowed: {', '.join(HOW)}")
    first, second = (held(theta, gaussian(k, theta)) for k in jax.random.split(key))
    if how == "filter":
        return as_long_as(first, theta), as_long_as(second, theta)
    if how == "gaussian":
        return first, second
    size = float("nan") if gradient is None else float(gradient_norm(gradient))
    if not 0.0 < size < float("inf"):
        raise ValueError(f"gradient: needs one of finite norm above 0, got {'none' if gradient is None else size}")
    along = jax.tree.map(lambda g: g / size, gradient)
    share = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(along), jax.tree.leaves(second), strict=True))
    length = gradient_norm(first)
    return jax.tree.map(lambda a: length * a, along), jax.tree.map(lambda b, a: b - share * a, second, along)


def held(theta: PyTree, drawn: PyTree) -> PyTree:
    """Return a direction that leaves the vectors of spectral normalisation where they are."""
    still = lambda x, d: jax.tree.map(jnp.zeros_like, d) if isinstance(x, Vectors) else d  # noqa: E731
    return jax.tree.map(still, theta, drawn, is_leaf=lambda x: isinstance(x, Vectors))


def as_long_as(drawn: PyTree, theta: PyTree) -> PyTree:
    """Return a direction whose every leaf has the norm of theta's leaf; what is 0 stays 0."""

    def scaled(d: Array, x: Array) -> Array:
        norm = jnp.linalg.norm(d.ravel())
        return d * (jnp.linalg.norm(x.ravel()) / jnp.where(norm > 0.0, norm, 1.0)).astype(d.dtype)

    return jax.tree.map(scaled, drawn, theta)


def landscape(
    value: Callable,
    theta: PyTree,
    directions: tuple[PyTree, PyTree],
    span: float = 1.0,
    count: int = 51,
    batch: int = 51,
) -> Array:
    """Return F [count, count]; row i is x_i along the first direction, column j is y_j along the second.

    value: (theta) -> scalar, the mean of V over a bank of starts and noises that it holds: the same in every cell, so that what
    is rough is the policy's value and not its estimate. `batch` cells are evaluated at once.
    """
    steps = jnp.linspace(-span, span, count)
    cells = jnp.stack(jnp.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)

    def cell(at: Array) -> Array:
        moved = jax.tree.map(lambda x, a, b: (x + at[0] * a + at[1] * b).astype(x.dtype), theta, *directions)
        return -value(moved)

    return jax.lax.map(cell, cells, batch_size=batch).reshape(count, count)


def roughness(surface: Array, span: float = 1.0) -> dict[str, float]:
    """Return scalars of F [count, count] over [-span, span]^2, from neighbours on all lines along x and along y.

    second_difference   mean |F_{i+1} - 2 F_i + F_{i-1}| / step^2: 2 a along x for F = a x^2
    total_variation     mean |F_{i+1} - F_i| times count - 1: of a whole line, in units of F
    sign_changes        share of neighbouring slopes of opposite sign; a slope of 0 counts as the one before it
    largest_slope       max |F_{i+1} - F_i| / step
    nonfinite           share of cells that are not finite; what needs such a cell is left out, NaN where nothing is left

    `span` must be the one that F was made with. Raises ValueError where F is not square, or has fewer than three lines.
    """
    values = np.asarray(surface, float)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 3:
        raise ValueError(f"surface: needs [count, count] with count >= 3, got {list(values.shape)}")
    finite = np.isfinite(values)
    values = np.where(finite, values, np.nan)
    step = 2.0 * span / (len(values) - 1)
    lines = np.concatenate([values, values.T])
    change = np.diff(lines)
    sign = known_signs(change)
    turns = sign[:, 1:] * sign[:, :-1]
    return {
        "second_difference": of_known(np.mean, np.abs(np.diff(change)) / step**2),
        "total_variation": of_known(np.mean, np.abs(change)) * (len(values) - 1),
        "sign_changes": of_known(np.mean, np.where(np.isnan(turns), np.nan, turns < 0.0)),
        "largest_slope": of_known(np.max, np.abs(change) / step),
        "nonfinite": float(1.0 - np.mean(finite)),
    }


def known_signs(change: np.ndarray) -> np.ndarray:
    """Return the signs of changes [..., n] along lines; one of 0 has that of the change before it, if there is one."""
    last = np.maximum.accumulate(np.where(change != 0.0, np.arange(change.shape[-1]), 0), axis=-1)
    return np.sign(np.take_along_axis(change, last, axis=-1))


def of_known(measure: Callable, values: np.ndarray) -> float:
    """Return the measure of what is not NaN; NaN where all is."""
    known = values[~np.isnan(values)]
    return float(measure(known)) if len(known) else float("nan")
