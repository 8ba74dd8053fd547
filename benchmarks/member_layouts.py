"""Why one member for each row costs more than one net for all rows: the bare products of an ensemble, laid out in different ways.

    python benchmarks/member_layouts.py
    XLA_FLAGS=--xla_cpu_use_xnnpack=true python benchmarks/member_layouts.py

All do the same operations on 260 rows and layers of 4 x 256, five nets with 52 rows each; `one net` takes all of the rows.
Ratio: time of a layout / time of one net.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
from common import footer, header, interleave, paired, ratio, show
from loops import loop, timer

from valex.device import cpu_threads, set_up_jax

NETS, ROWS, WIDTHS = 5, 52, (4, 256, 256, 256, 256, 8)
LAST = len(WIDTHS) - 2
Layers = list[tuple[jax.Array, jax.Array]]


def through(layers: Layers, x: jax.Array, product: Callable) -> jax.Array:
    """Return x behind all layers, ReLU between them."""
    for k, (w, b) in enumerate(layers):
        x = product(x, w) + b
        x = jax.nn.relu(x) if k < LAST else x
    return x


def split(layers: Layers) -> list[Layers]:
    """Return the nets one by one."""
    return [[(w[j], b[j]) for w, b in layers] for j in range(NETS)]


def shares(x: jax.Array) -> jax.Array:
    """Return rows as equal shares of the nets, [NETS, ROWS, d]."""
    return x.reshape(NETS, ROWS, -1)


def each(nets: list[Layers], x: jax.Array) -> jax.Array:
    """Send every share through its net."""
    return jnp.concatenate([through(net, part, jnp.dot) for net, part in zip(nets, shares(x), strict=True)])


def transposed(layers: Layers, x: jax.Array) -> jax.Array:
    """Multiply columns by transposed weights."""
    columns = [(w.swapaxes(1, 2), b.swapaxes(1, 2)) for w, b in layers]
    return through(columns, shares(x).swapaxes(1, 2), lambda y, w: w @ y).swapaxes(1, 2)


def one_by_one(layers: Layers, x: jax.Array) -> jax.Array:
    """Loop over the nets."""
    return jax.lax.map(lambda net: through(net[0], net[1], jnp.dot), (layers, shares(x)))


LAYOUTS: dict[str, tuple[Callable, Callable]] = {  # weights as they are kept, and (weights, rows) -> outputs
    "one net": (lambda layers: split(layers)[0], lambda net, x: through(net, x, jnp.dot)),
    "batched product": (lambda layers: layers, lambda layers, x: through(layers, shares(x), jnp.matmul)),
    "members written out": (lambda layers: layers, lambda layers, x: each(split(layers), x)),
    "weights split beforehand": (split, each),
    "transposed": (lambda layers: layers, transposed),
    "one member after the other": (lambda layers: layers, one_by_one),
}


def timed(keep: Callable, layout: Callable, layers: Layers, x: jax.Array, turns: int) -> Callable[[], float]:
    """Time a layout in a loop that carries the weights, as training does: as constants they would be laid out at compile time."""

    def body(i: jax.Array, carry: tuple) -> tuple:
        x, weights = carry
        return x + 1e-6 * layout(weights, x).reshape(len(x), -1)[:, : x.shape[1]], weights

    return timer(loop(body, turns), (x, keep(layers)), turns)


def main() -> None:
    """Time every layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=300, help="passes per turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each layout")
    args = parser.parse_args()
    set_up_jax("cpu")
    header(f"{NETS} nets of {WIDTHS}, {ROWS} rows each, {cpu_threads()} threads")
    keys = jax.random.split(jax.random.key(0), LAST + 2)
    sizes = zip(keys[1:], WIDTHS[:-1], WIDTHS[1:], strict=True)
    layers = [(jax.random.normal(k, (NETS, a, b)) / a**0.5, jnp.full((NETS, 1, b), 0.01)) for k, a, b in sizes]
    x = jax.random.normal(keys[0], (NETS * ROWS, WIDTHS[0]))
    times = interleave({name: timed(*how, layers, x, args.turns) for name, how in LAYOUTS.items()}, args.rounds)
    show(times, "us", lambda s: 1e6 * s)
    for name in times:
        if name != "one net":
            ratio(f"{name.replace(' ', '_')}_over_one_net", paired(times, lambda s, n=name: s[n] / s["one net"]))
    footer()


if __name__ == "__main__":
    main()
