"""3x3 convolutions of N members inside a compiled loop on this machine: `networks.conv` against XLA's own and a plain product.

Each contestant takes gradient steps of N nets of three layers on grids of 10 x 10: C channels -> 32 -> 32 -> C.

    python benchmarks/convolution.py [--batch 32] [--channels 4] [--threads 1]
"""

import argparse
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from common import footer, header, interleave, paired, ratio, show
from loops import loop, timer

from valex.device import set_up_jax
from valex.networks import conv, patches
from valex.types import Array

N, FILTERS, STEPS = 5, 32, 4


def plain(x: Array, kernel: Array) -> Array:
    """What XLA makes of a convolution and of its gradients."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def product(x: Array, kernel: Array) -> Array:
    """Multiply the 3x3 neighbourhoods, with the gradients that follow from that."""
    return patches(x, 1) @ kernel.reshape(-1, kernel.shape[-1])


def forward(layer: Callable, batch: int, channels: int) -> Callable[[], float]:
    """Time one layer of one net forward, channels -> channels at least 16."""
    x_key, key = jax.random.split(jax.random.key(1))
    kernel = 0.1 * jax.random.normal(key, (3, 3, channels, max(16, channels)))
    x = jax.random.uniform(x_key, (batch, 10, 10, channels))
    return timer(loop(lambda i, x: x + 1e-9 * jnp.mean(layer(x, kernel)), 100), x, 100)


def net(layer: Callable, kernels: list[Array], x: Array) -> Array:
    """Apply the layers."""
    for kernel in kernels[:-1]:
        x = jax.nn.relu(layer(x, kernel))
    return layer(x, kernels[-1])


def contestant(layer: Callable, one_by_one: bool, batch: int, channels: int) -> Callable[[], float]:
    """Time a gradient step of all members, as one batch of nets or one net after the other."""
    keys = jax.random.split(jax.random.key(0), 4)
    widths = (channels, FILTERS, FILTERS, channels)
    kernels = [
        0.1 * jax.random.normal(k, (N, 3, 3, a, b)) for k, a, b in zip(keys, widths[:-1], widths[1:], strict=False)
    ]
    x = jax.random.uniform(keys[3], (N, batch, 10, 10, channels))

    def loss(kernels: list[Array]) -> Array:
        if one_by_one:
            y = jnp.stack([net(layer, [k[i] for k in kernels], x[i]) for i in range(N)])
        else:
            y = jax.vmap(partial(net, layer))(kernels, x)
        return jnp.mean(y**2)

    def body(i: Array, kernels: list[Array]) -> list[Array]:
        return jax.tree.map(lambda k, g: k - 1e-3 * g, kernels, jax.grad(loss)(kernels))

    return timer(loop(body, STEPS), kernels, STEPS)


def main() -> None:
    """Measure all of them in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    set_up_jax(threads=args.threads)
    header(
        f"gradient step of {N} convolutional nets, batch {args.batch}, {args.channels} channels, {args.threads} threads"
    )
    ways = {
        "networks.conv, vmapped": (lambda x, kernel: conv(x, kernel, 1), False),
        "lax.conv, one by one": (plain, True),
        "product, vmapped": (product, False),
        "product, one by one": (product, True),
    }
    contestants = {name: contestant(*way, args.batch, args.channels) for name, way in ways.items()}
    times = interleave(contestants, args.rounds)
    show(times, "ms", lambda s: 1e3 * s)
    ours = "networks.conv, vmapped"
    for name in list(ways)[1:]:
        ratio(f"{name.replace(', ', '_').replace(' ', '_')}_over_conv", paired(times, lambda s, n=name: s[n] / s[ours]))
    for width in (4, 16, 32):
        layers = {"networks.conv": lambda x, kernel: conv(x, kernel, 1), "lax.conv": plain}
        alone = interleave({name: forward(layer, args.batch, width) for name, layer in layers.items()}, args.rounds)
        ratio(
            f"lax.conv_over_conv_forward_{width}_channels", paired(alone, lambda s: s["lax.conv"] / s["networks.conv"])
        )
    footer()


if __name__ == "__main__":
    main()
