"""How much a map stretches: of a net by its layers, of any map by its Jacobians J, of a path by their products.

    layers      prod_l sigma_max(W_l)           a bound for dense layers one behind the other, 1-Lipschitz activations between
    local       sigma_max(J(x))                 at given points, by power iteration   v <- J'J v / |J'J v|
    adversarial max sigma_max(J(x'))            over x' in a box around every point, by ascent: a lower bound
    products    sigma_max(J_{k-1} ... J_0)      along x_{i+1} = f(x_i), k = 1..h
    Lyapunov    lambda_k = log sigma_max(J_{k-1} ... J_0) / k                                           finite time, per step

Of a closed loop f(x) = model(x, pi(x)) lambda > 0 means that policy gradients through the model explode. Growth of log tr Sigma
per step of the horizon, Sigma the covariance of the gradient of a sum that is discounted by gamma, far out and never below 0:

    2 (lambda + ln gamma)      where the gradients of the reward are bounded
    4 lambda + 2 ln gamma      where they grow linearly with the state, as those of a quadratic cost do

A map takes ONE row, a PyTree without batch axis, and gives a PyTree; leaves that are not floating point numbers are held. A state
that holds the same number twice is measured with both copies. Sources: 2310.19927; Metz et al. 2021 (arXiv 2111.05803).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from valex.estimators.total_propagation import numbers
from valex.networks import Network
from valex.settings import SpectralConfig
from valex.spectral import layer_names, spectral_norm
from valex.types import Array, PyTree


class Layers(NamedTuple):
    """Spectral norms of a net's kernels; of stacked nets one for each of N members."""

    product: Array  # [] or [N]
    sigmas: dict[str, Array]  # [] or [N] of every layer, first to last


class Products(NamedTuple):
    """How S paths of h steps stretch what is near them; natural logarithms, because the products leave the range of floats."""

    per_step: Array  # [h, S] sigma_max(J_i)
    log_total: Array  # [h, S] log sigma_max(J_i ... J_0) of i + 1 steps; -inf where the product is 0


def layer_product(params: PyTree, spectral: SpectralConfig | None = None) -> Layers:
    """Return sigma_max of every kernel that a net is evaluated with, and their product.

    params: {"Dense_0": {"kernel": [..., n, m], ...}, ...}, or {"net": ..., "vectors": ...} of a net under `spectral`.
    Raises ValueError where layers are not dense ones, or a normalised net comes without the config that normalises it.
    """
    if isinstance(params, dict) and "vectors" in params:
        if spectral is None or spectral.layers == "none":
            raise ValueError("spectral: a net with `vectors` has kernels that only its own SpectralConfig gives")
        as_evaluated = spectral_norm(Network(lambda key: (), lambda net: net), spectral, "")
        params = as_evaluated.apply(params)
    if not isinstance(params, dict) or not all(name.startswith("Dense_") for name in params):
        raise ValueError("params: the layer product is that of ONE chain of dense layers, {'Dense_0': ..., ...}")
    sigmas = {name: jnp.linalg.norm(params[name]["kernel"], 2, axis=(-2, -1)) for name in layer_names(params)}
    return Layers(jnp.prod(jnp.stack(list(sigmas.values())), axis=0), sigmas)


def flat_map(f: Callable, point: PyTree) -> tuple[Callable, Array]:
    """Return f as a map g between flat vectors of what has derivatives, and where g is at `point`.

    Raises ValueError where the point has no floating point numbers.
    """
    real, rebuild = numbers(point)
    x, unravel = ravel_pytree(real)
    if not x.size:
        raise ValueError("points: no leaf is a floating point number, so there is no derivative")
    return lambda y: ravel_pytree(numbers(f(rebuild(unravel(y))))[0])[0], x


def unit(x: Array) -> tuple[Array, Array]:
    """Return (x / |x|, |x|) of a vector whose squares may leave the range of floats; (0, 0) of zero."""
    largest = jnp.max(jnp.abs(x))
    scale = jnp.where(largest > 0.0, largest, 1.0)
    norm = jnp.linalg.norm(x / scale)
    return x / scale / jnp.where(norm > 0.0, norm, 1.0), scale * norm


def dominant(g: Callable, x: Array, key: Array, iterations: int) -> tuple[Array, Array, Array]:
    """Return (sigma, u, v) of the Jacobian of g [n] -> [m] at x: sigma = u' J v, u and v unit vectors."""
    push, pull = jax.linearize(g, x)[1], jax.vjp(g, x)[1]
    first = unit(jax.random.normal(key, x.shape, x.dtype))[0]
    v = jax.lax.fori_loop(0, iterations, lambda _, v: unit(pull(unit(push(v))[0])[0])[0], first)
    u, sigma = unit(push(v))
    return sigma, u, v


def local(f: Callable, points: PyTree, key: Array, iterations: int = 20) -> Array:
    """Return sigma_max of the Jacobian of f at every point [S]; no Jacobian is formed.

    points: leaves [S, ...]. Never above the truth; k iterations miss it by a share that falls as (sigma_2 / sigma_1)^(4 k).
    """

    def one(point: PyTree, key: Array) -> Array:
        return dominant(*flat_map(f, point), key, iterations)[0]

    return jax.vmap(one)(points, jax.random.split(key, rows_of(points)))


def rows_of(points: PyTree) -> int:
    """Return S of leaves [S, ...]."""
    return jax.tree.leaves(points)[0].shape[0]


def summary(sigma: Array) -> dict[str, float]:
    """Return mean, p95 and max of the finite ones of sigma [S], and the share `nonfinite` of the others."""
    values = np.ravel(np.asarray(sigma, float))
    finite = values[np.isfinite(values)]
    share = 1.0 - len(finite) / max(len(values), 1)
    if not len(finite):
        return {"mean": np.nan, "p95": np.nan, "max": np.nan, "nonfinite": share}
    p95 = float(np.quantile(finite, 0.95))
    return {"mean": float(np.mean(finite)), "p95": p95, "max": float(np.max(finite)), "nonfinite": share}


def box(radius: PyTree, points: PyTree) -> Array:
    """Return the half-widths [n] of a box in the order of `flat_map`; radius: a number, or a tree shaped like one point."""
    pairs = zip(jax.tree.leaves(jax.tree.broadcast(radius, points)), jax.tree.leaves(points), strict=True)
    return jnp.concatenate(
        [jnp.broadcast_to(r, x.shape[1:]).ravel() for r, x in pairs if jnp.issubdtype(x.dtype, jnp.floating)]
    )


def adversarial(f: Callable, points: PyTree, key: Array, steps: int, radius: PyTree, iterations: int = 20) -> Array:
    """Return the largest sigma [S] met by ascent from every point, within `radius` of it in every coordinate.

        x <- clip(x + radius (1 - i / steps) sign(d sigma / d x), x_0 - radius, x_0 + radius),   i = 0 .. steps - 1

    radius: a number, or a tree shaped like one point. d sigma / d x = d (u' J v) / d x at fixed u and v. A coordinate where it
    is 0, as it is nearly everywhere in nets of ReLU, is drawn from the box afresh. The start counts, with the very sigma that
    `local` gives under the same key.
    """
    reach = box(radius, points)

    def one(point: PyTree, key: Array) -> Array:
        g, start = flat_map(f, point)

        def climb(carry: tuple, at: tuple[Array, Array]) -> tuple[tuple, None]:
            (x, u, v, best), (size, key) = carry, at
            draw_key, power_key = jax.random.split(key)
            slope = jax.grad(lambda x: jnp.vdot(u, jax.jvp(g, (x,), (v,))[1]))(x)
            steep = jnp.isfinite(slope) & (slope != 0.0)
            drawn = start + reach * jax.random.uniform(draw_key, x.shape, x.dtype, -1.0, 1.0)
            x = jnp.where(steep, jnp.clip(x + size * reach * jnp.sign(slope), start - reach, start + reach), drawn)
            sigma, u, v = dominant(g, x, power_key, iterations)
            return (x, u, v, jnp.where(sigma > best, sigma, best)), None

        sigma, u, v = dominant(g, start, key, iterations)
        sizes, keys = 1.0 - jnp.arange(steps) / steps, jax.random.split(key, steps)
        return jax.lax.scan(climb, (start, u, v, sigma), (sizes, keys))[0][-1]

    return jax.vmap(one)(points, jax.random.split(key, rows_of(points)))


def products(f: Callable, points: PyTree, horizon: int, inputs: PyTree = None) -> Products:
    """Return how h steps of f, a map of states to states, stretch what is near every point; leaves of points [S, ...].

    f: (x) -> x, or (x, input) -> x with `inputs`, leaves [h, S, ...]: the noise or the key of every step and row, so that paths
    under other parameters can be given the same. Exact, not iterated: n tangents a step for n numbers in a state, and its n x n
    products are rescaled at every step.
    """

    def one(point: PyTree, given: PyTree) -> tuple[Array, Array]:
        def step(carry: tuple, at: Any) -> tuple[tuple, tuple[Array, Array]]:
            x, matrix, log = carry
            move = f if inputs is None else lambda x: f(x, at)
            g, flat = flat_map(move, x)
            jacobian = jax.jacfwd(g)(flat)
            matrix = jnp.matmul(jacobian, matrix, precision="highest")
            scale = jnp.max(jnp.abs(matrix))
            matrix, log = matrix / jnp.where(scale > 0.0, scale, 1.0), log + jnp.log(scale)
            stretch = jnp.linalg.norm(jacobian, 2), log + jnp.log(jnp.linalg.norm(matrix, 2))
            return (move(x), matrix, log), stretch

        here = flat_map(lambda x: x, point)[1]
        first = point, jnp.eye(here.size, dtype=here.dtype), jnp.zeros((), here.dtype)
        return jax.lax.scan(step, first, given, length=horizon)[1]

    return Products(*jax.vmap(one, in_axes=(0, 1), out_axes=1)(points, inputs))


def lyapunov(log_total: Array) -> Array:
    """Return lambda_k = log_total_k / k [h, S], k = 1..h, of `Products.log_total`: the growth rate per step."""
    return log_total / jnp.arange(1, log_total.shape[0] + 1)[:, None]


def spectral_radius(f: Callable, point: PyTree) -> float:
    """Return max |eigenvalue| of the Jacobian of f at ONE point, f a map of states to states; NaN where J is not finite."""
    g, x = flat_map(f, point)
    jacobian = np.asarray(jax.jacfwd(g)(x), float)
    return float(np.max(np.abs(np.linalg.eigvals(jacobian)))) if np.all(np.isfinite(jacobian)) else np.nan
