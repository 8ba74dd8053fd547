"""Spectral normalisation: kernels are divided by an estimate of their largest singular value before a net uses them.

    hard   W_eff = c W / sigma            soft   W_eff = W min(1, c / sigma)            sigma = u' W v ~ sigma_max(W)

The unit vectors u and v travel with the parameters, {"net": ..., "vectors": ...}, without gradient: an optimiser leaves them as
they are, and `Network.refresh` moves them by one power iteration once per UPDATE, however often the net is applied. sigma depends
on W and is differentiated: the gradient of W / sigma has the projection u v'. Biases are left alone. Sources: Miyato et al. 2018
(arXiv 1802.05957); which layers: 2310.19927, whose text (`paper`) and release differ (deviation D29).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from valex.networks import Network
from valex.settings import SpectralConfig
from valex.types import Array, PyTree

FIRST_ITERATIONS = 15  # of the power method when a net is made, as in torch's parametrisation
TINY = 1e-12


class Vectors(NamedTuple):
    """What is known of the largest singular value of a kernel [..., n, m]."""

    u: Array  # [..., n] unit vector
    v: Array  # [..., m] unit vector


def normalised_layers(which: str, role: str, count: int) -> tuple[bool, ...]:
    """Return which of `count` layers are normalised, first to last; role: policy or model.

    paper     policy: all                              model: all but the last
    release   policy: neither the first nor the last   model: all but the last
    """
    middle, not_last = ([low <= i < count - 1 for i in range(count)] for low in (1, 0))
    table = {
        "none": [False] * count,
        "all": [True] * count,
        "paper": [True] * count if role == "policy" else not_last,
        "release": middle if role == "policy" else not_last,
    }
    return tuple(table[which])


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), TINY)


def power_iteration(kernel: Array, vectors: Vectors) -> Vectors:
    """Take one step of the power method on kernels [..., n, m]: v <- W'u / |W'u|, u <- W v / |W v|."""
    v = _unit(jnp.einsum("...nm,...n->...m", kernel, vectors.u))
    return Vectors(_unit(jnp.einsum("...nm,...m->...n", kernel, v)), v)


def sigma(kernel: Array, vectors: Vectors) -> Array:
    """Return u' W v [...], the estimate of the largest singular value; its gradient with respect to W is u v'."""
    u, v = jax.lax.stop_gradient(tuple(vectors))
    return jnp.einsum("...n,...nm,...m->...", u, kernel, v)


def layer_names(net: PyTree) -> list[str]:
    """Return the layers of net = {"Dense_0": {"kernel": ...}, ...}, first to last."""
    return sorted(net, key=lambda name: int(name.rsplit("_", 1)[1]))


def spectral_norm(network: Network, config: SpectralConfig, role: str) -> Network:
    """Return the network whose layers are normalised as `config` says; the same network where that is none of them.

    params of the network: {"Dense_0": {"kernel": [..., n, m], "bias": [..., m]}, ...}. `init` scales nothing: kernels start as
    the network draws them, and the net with its first vectors is what is used from the first call on.
    """
    if config.layers == "none":
        return network

    def init(key: Array) -> PyTree:
        net_key, start_key = jax.random.split(key)
        net, vectors = network.init(net_key), {}
        names = layer_names(net)
        for i, (name, chosen) in enumerate(zip(names, normalised_layers(config.layers, role, len(names)), strict=True)):
            if chosen:
                kernel = net[name]["kernel"]
                u = _unit(jax.random.normal(jax.random.fold_in(start_key, i), kernel.shape[:-1]))
                vectors[name] = Vectors(u, jnp.zeros((*kernel.shape[:-2], kernel.shape[-1])))
        params = {"net": net, "vectors": vectors}
        return jax.lax.fori_loop(0, FIRST_ITERATIONS, lambda _, p: refresh(p), params)

    def refresh(params: PyTree) -> PyTree:
        net = params["net"]
        vectors = {name: power_iteration(net[name]["kernel"], x) for name, x in params["vectors"].items()}
        return {"net": net, "vectors": vectors}

    def effective(params: PyTree) -> PyTree:
        """Return the parameters that the net is evaluated with."""
        net = dict(params["net"])
        for name, vectors in params["vectors"].items():
            kernel = net[name]["kernel"]
            ratio = config.coefficient / jnp.maximum(sigma(kernel, vectors), TINY)
            ratio = jnp.minimum(ratio, 1.0) if config.cap == "soft" else ratio
            net[name] = {**net[name], "kernel": kernel * ratio[..., None, None]}
        return net

    def apply(params: PyTree, *inputs: Any) -> PyTree:
        return network.apply(effective(params), *inputs)

    return Network(init, apply, refresh)
