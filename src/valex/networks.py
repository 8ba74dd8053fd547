"""Networks behind one record, `Network(init, apply)`: agents never see which library made them."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from valex.types import Array, EnvSpec, PyTree


class Network(NamedTuple):
    """A parametrised function."""

    init: Callable[[Array], PyTree]  # (key) -> params
    apply: Callable  # (params, *inputs) -> output
    refresh: Callable = lambda params: params  # (params) -> params after an optimiser's step


ACTIVATIONS = {"relu": nn.relu, "silu": nn.silu, "gelu": nn.gelu}


LAYER_NORM_FLOOR = 1e-6  # added to a variance before it is inverted


def _row_mean(x: Array) -> Array:
    """Return the mean over the last axis, kept; a product, because a sum is taken one by one on a CPU."""
    return jnp.dot(x, jnp.full(x.shape[-1], 1.0 / x.shape[-1]), precision="highest")[..., None]


@jax.custom_vjp
def layer_norm(x: Array) -> Array:
    """Return (x - m) / sqrt(v + 1e-6), m and v mean and variance over the last axis of x [..., width] (Ba et al. 2016).

    Gradient: dx = (dy - mean dy - y mean(y dy)) / sqrt(v + 1e-6). Written with products it takes a fifth off a value's update
    with 64 units (docs/decisions.md).
    """
    return _layer_norm_forward(x)[0]


def _layer_norm_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    centred = x - _row_mean(x)
    scale = jax.lax.rsqrt(_row_mean(jnp.square(centred)) + LAYER_NORM_FLOOR)
    y = centred * scale
    return y, (y, scale)


def _layer_norm_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array]:
    y, scale = saved
    return (scale * (slope - _row_mean(slope) - y * _row_mean(y * slope)),)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class MLP(nn.Module):
    """Layers of the given widths with one activation, then a linear layer of `out` units; Lecun-normal weights, zero biases.

    `layer_norm` brings what leaves an activation to mean 0 and variance 1. It has no gain and no offset of its own: a linear
    layer always follows, which can express both.
    """

    hidden: Sequence[int]
    out: int
    activation: str = "relu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](nn.Dense(width)(x))
            if self.layer_norm:
                x = layer_norm(x)
        return nn.Dense(self.out)(x)


def lecun_normal(key: Array, shapes: PyTree) -> PyTree:
    """Draw kernels [fan_in, fan_out] from N(0, 1 / fan_in) truncated at two standard deviations, and zero biases.

    All kernels are slices of ONE draw: every separate draw of random bits costs a third of a second of compilation.
    """
    leaves, tree = jax.tree.flatten(shapes)
    sizes = [leaf.size if len(leaf.shape) == 2 else 0 for leaf in leaves]
    draw = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),)) / 0.87962566103423978  # its standard deviation
    values, start = [], 0
    for leaf, size in zip(leaves, sizes, strict=True):
        kernel = (
            draw[start : start + size].reshape(leaf.shape) / leaf.shape[0] ** 0.5 if size else jnp.zeros(leaf.shape)
        )
        values.append(kernel)
        start += size
    return jax.tree.unflatten(tree, values)


def mlp(
    in_dim: int, hidden: Sequence[int], out: int, copies: int = 0, activation: str = "relu", layer_norm: bool = False
) -> Network:
    """Build x [..., in_dim] -> [..., out]; `copies` > 0 makes init return a tuple of that many independent trees."""
    module = MLP(tuple(hidden), out, activation, layer_norm)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, in_dim)))["params"])
    wanted = tuple(shapes for _ in range(copies)) if copies else shapes
    return Network(lambda key: lecun_normal(key, wanted), lambda params, x: module.apply({"params": params}, x))


def action_features(spec: EnvSpec) -> tuple[int, Callable]:
    """Return (numbers, encode): a continuous action [..., act_dim] as it is, a discrete one [...] int as one of num_actions."""
    if not spec.num_actions:
        return spec.act_dim, lambda action: action
    return spec.num_actions, lambda action: jax.nn.one_hot(action, spec.num_actions)


def critic_ensemble(
    obs_dim: int,
    act_dim: int,
    hidden: Sequence[int],
    num_critics: int,
    activation: str = "relu",
    layer_norm: bool = False,
) -> Network:
    """Build (obs [..., obs_dim], action [..., act_dim]) -> q [num_critics, ...]; independent initial weights.

    The heads are a tuple of separate parameter trees and are applied one after the other: on a CPU two plain matrix
    products are faster than one batched product of the same size (docs/decisions.md).
    """
    head = mlp(obs_dim + act_dim, hidden, 1, num_critics, activation, layer_norm)

    def apply(params: PyTree, obs: Array, action: Array) -> Array:
        x = jnp.concatenate([obs, action], axis=-1)
        return jnp.stack([head.apply(p, x)[..., 0] for p in params])

    return Network(head.init, apply)


def gaussian_actor(obs_dim: int, act_dim: int, hidden: Sequence[int], min_std: float = 1e-3) -> Network:
    """Build obs [..., obs_dim] -> (mean, std), each [..., act_dim], with std = softplus(s) + min_std."""
    trunk = mlp(obs_dim, hidden, 2 * act_dim)

    def apply(params: PyTree, obs: Array) -> tuple[Array, Array]:
        mean, s = jnp.split(trunk.apply(params, obs), 2, axis=-1)
        return mean, jax.nn.softplus(s) + min_std

    return Network(trunk.init, apply)


LOG_STD_RANGE = (-5.0, 2.0)  # of policies on data: exp(-5) = 0.7 % of half the box


def normal_policy(obs_dim: int, act_dim: int, hidden: Sequence[int], activation: str, std: str) -> Network:
    """Build obs [..., obs_dim] -> (mean, std), each [..., act_dim], of a Gaussian on the actions as they are, without tanh.

    `std` is `unit` (1, not learned), `shared` (one learned number for each action dimension) or `state` (an output of the
    net); log std is clipped to [-5, 2]. Source: OGBench, impls/utils/networks.py, GCActor (`const_std`, log_stds, a head).
    """
    trunk = mlp(obs_dim, hidden, act_dim * (2 if std == "state" else 1), activation=activation)

    def init(key: Array) -> PyTree:
        params = {"trunk": trunk.init(key)}
        return params | {"log_std": jnp.zeros(act_dim)} if std == "shared" else params

    def apply(params: PyTree, obs: Array) -> tuple[Array, Array]:
        out = trunk.apply(params["trunk"], obs)
        if std == "unit":
            return out, jnp.ones_like(out)
        mean, log_std = jnp.split(out, 2, axis=-1) if std == "state" else (out, params["log_std"])
        return mean, jnp.broadcast_to(jnp.exp(jnp.clip(log_std, *LOG_STD_RANGE)), mean.shape)

    return Network(init, apply)


def stacked(one: Network, num: int) -> Network:
    """Build `num` independent nets as one: params leaves [num, ...], inputs [num, B, d] -> outputs [num, B, ...].

    `apply` takes any number of nets that the leading axis of its params says; an input [B, d] goes to all of them.
    """

    def apply(params: PyTree, *inputs: Array) -> PyTree:
        return jax.vmap(one.apply, in_axes=(0, *(0 if x.ndim == 3 else None for x in inputs)))(params, *inputs)

    return Network(lambda key: jax.vmap(one.init)(jax.random.split(key, num)), apply)


def patches(x: Array, pad: int = 0) -> Array:
    """Return the 3 x 3 neighbourhoods of a grid [..., rows, columns, channels] side by side, [..., rows', columns', 9 channels].

    `pad` zeros are put around the grid: 0 loses the rim, 1 keeps the size.
    """
    if pad:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(pad, pad), (pad, pad), (0, 0)])
    rows, columns = x.shape[-3] - 2, x.shape[-2] - 2
    return jnp.concatenate([x[..., i : i + rows, j : j + columns, :] for i in range(3) for j in range(3)], axis=-1)


class QNet(nn.Module):
    """A torso for vectors or grids, hidden layers and one value for each action, with a head of advantages if `dueling`."""

    grid: tuple[int, ...]
    filters: int
    hidden: Sequence[int]
    num_actions: int
    dueling: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.grid:
            lead, channels = x.shape[:-1], self.grid[-1]
            kernel = self.param("kernel", nn.initializers.zeros, (9 * channels, self.filters))
            bias = self.param("bias", nn.initializers.zeros, (self.filters,))
            cells = x.reshape(-1, *self.grid).astype(jnp.float32)
            cells = jnp.asarray(conv(cells, kernel.reshape(3, 3, channels, self.filters), 0))
            x = nn.relu(cells + bias).reshape(*lead, -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        q = nn.Dense(self.num_actions)(x)
        return nn.Dense(1)(x) + q - jnp.mean(q, axis=-1, keepdims=True) if self.dueling else q


def q_ensemble(spec: EnvSpec, filters: int, hidden: Sequence[int], num_critics: int, dueling: bool) -> Network:
    """Build obs [..., obs_dim] -> q [num_critics, ..., num_actions]; independent initial weights.

    A grid is read by one 3 x 3 convolution without padding, a vector as it is (Young and Tian 2019, arXiv 1903.03176).
    `dueling`: Q = V + A - mean_a A (Wang et al. 2016, arXiv 1511.06581).
    """
    module = QNet(spec.grid, filters, tuple(hidden), spec.num_actions, dueling)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, spec.obs_dim)))["params"])

    def apply(params: PyTree, obs: Array) -> Array:
        return jnp.stack([jnp.asarray(module.apply({"params": p}, obs)) for p in params])

    return Network(lambda key: lecun_normal(key, (shapes,) * num_critics), apply)


def stacked_mlps(in_dim: int, hidden: Sequence[int], out: int, num: int, activation: str) -> Network:
    """Build `num` independent nets x [num, B, in_dim] -> [num, B, out] as one, see `stacked`."""
    return stacked(mlp(in_dim, hidden, out, activation=activation), num)


@lru_cache
def _forward_conv(pad: int) -> Callable:
    """Build (x [B, rows, columns, C], kernel [h, w, C, F]) -> [B, ., ., F] with `pad` zeros around x.

    On a CPU a 3 x 3 kernel is one matrix product with the neighbourhoods, up to five times as fast as XLA's convolution, and a
    batch of kernels is worked off one by one: as a grouped convolution it takes six times as long (docs/decisions.md).
    """

    def plain(x: Array, kernel: Array) -> Array:
        if kernel.shape[:2] == (3, 3) and jax.default_backend() == "cpu":
            return patches(x, pad) @ kernel.reshape(-1, kernel.shape[-1])
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=layout)

    forward = custom_vmap(plain)

    @forward.def_vmap
    def batched(size: int, axes: tuple[bool, bool], x: Array, kernel: Array) -> tuple[Array, bool]:
        if not axes[1]:
            y = forward(x.reshape(-1, *x.shape[2:]), kernel)
            return y.reshape(*x.shape[:2], *y.shape[1:]), True
        if jax.default_backend() != "cpu":
            return jax.vmap(plain, in_axes=(0 if axes[0] else None, 0))(x, kernel), True
        return jnp.stack([forward(x[i] if axes[0] else x, kernel[i]) for i in range(size)]), True

    return forward


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: Array, kernel: Array, pad: int) -> Array:
    """Return the cross-correlation of x [B, rows, columns, C] with kernel [3, 3, C, F] -> [B, ., ., F].

        y_{b,i,j,f} = sum_{k,l,c} x_{b,i+k-pad,j+l-pad,c} kernel_{k,l,c,f}

    `pad` zeros are put around x: 1 keeps the size (SAME), 0 takes a border of one cell off (VALID). Both gradients are
    convolutions of the forward kind: in a compiled loop on a CPU those that XLA derives take twenty times as long.
    """
    return _forward_conv(pad)(x, kernel)


def _conv_forward(x: Array, kernel: Array, pad: int) -> tuple[Array, tuple[Array, Array]]:
    return conv(x, kernel, pad), (x, kernel)


def _conv_backward(pad: int, saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    by_x = _forward_conv(2 - pad)(slope, kernel[::-1, ::-1].swapaxes(2, 3))
    by_kernel = _forward_conv(pad)(
        x.transpose(3, 1, 2, 0), slope.transpose(1, 2, 0, 3)
    )  # [C, 3, 3, F]: B is summed over
    return by_x, by_kernel.transpose(1, 2, 0, 3)


conv.defvjp(_conv_forward, _conv_backward)


def conv_same(channels: int, hidden: Sequence[int], activation: str = "relu") -> Network:
    """Build x [B, rows, columns, channels] -> [B, rows, columns, hidden[-1]] of 3x3 layers that keep the size.

    x <- act(x * K_i + b_i)         hidden[i] filters, zeros beyond the border; Lecun-normal weights, zero biases
    """
    shapes, width = {}, channels
    for i, filters in enumerate(hidden):
        parts = {"kernel": (9 * width, filters), "bias": (filters,)}
        shapes[f"layer_{i}"] = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in parts.items()}
        width = filters

    def apply(params: PyTree, x: Array) -> Array:
        for i, filters in enumerate(hidden):
            layer = params[f"layer_{i}"]
            x = ACTIVATIONS[activation](conv(x, layer["kernel"].reshape(3, 3, -1, filters), 1) + layer["bias"])
        return x

    return Network(lambda key: lecun_normal(key, shapes), apply)
