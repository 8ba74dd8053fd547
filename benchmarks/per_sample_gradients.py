"""Gradients of an actor along a learned model, one for each sample by vmap, against the mean gradient of the same batch.

    python benchmarks/per_sample_gradients.py [--horizon 10] [--batch 256] [--nets rpg 64,64]

    mean          `Expansion.actor_gradient` (mode dp): what an update takes
    each          `Expansion.actor_grads`: the gradient of every sample, all of them kept
    statistics    the same through `moments.collect_sums`: only sums over chunks are kept, as many chunks as --chunks says
    outer         as many numbers as `each` returns, made once from one outer product for each sample and layer

    ratio  each / mean                bar 3
    ratio  statistics / mean, for each number of chunks
    ratio  outer / mean               what writing the answer costs, no bar

Pendulum, the nets of the preset `rpg`, or the given widths for actor, critics and model; one deterministic model that has been
fitted to random steps; the threads of `valex train`. The contestants of one size live in one process and take turns. Before the
clock starts, `each` has to agree with `mean` on one sample.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from common import Worker, footer, header, interleave, paired, ratio, serve, show


def config_of(nets: str, horizon: int):
    """Return the preset `rpg`, with its own nets or with those widths everywhere."""
    from valex.config import PRESETS
    from valex.settings import TrainConfig

    base = PRESETS["rpg"]
    if nets != "rpg":
        hidden = tuple(int(x) for x in nets.split(","))
        base = replace(base, agent=replace(base.agent, hidden=hidden), model=replace(base.model, hidden=hidden))
    return replace(
        base,
        actor=replace(base.actor, horizon=horizon),
        model=replace(base.model, pretrain_steps=200),
        train=TrainConfig(env_steps=2_000, warmup_steps=1_000),
    )


def make_functions(config, batch: int, chunks: tuple[int, ...]) -> dict[str, Callable]:
    """Return every contestant as (key) -> arrays, compiled."""
    import jax
    import jax.numpy as jnp

    from valex import replay as replays
    from valex.diagnostics.moments import collect_sums, side_by_side
    from valex.expansion import make_expansion
    from valex.train import make_parts, make_start

    parts = make_parts(config)
    assert parts.model is not None
    expansion = make_expansion(config.critic, config.actor, config.gamma, parts.model)
    state = jax.jit(make_start(config, parts))(jnp.uint32(0))
    params = jax.jit(parts.model.update)(state.model, jax.random.key(1), state.replay)[0]
    rows = jax.jit(replays.sample_sequences, static_argnums=(2, 3))(state.replay, jax.random.key(2), batch, 1)
    starts = jax.tree.map(lambda x: x[0], rows)

    def view(agent, actor):  # targets would read the target critic
        return parts.agent.bootstrap(agent._replace(actor=actor, target_critic=agent.critic))

    def mean(agent, params, starts, key):
        return expansion.actor_gradient(partial(view, agent), agent.actor, key, starts, params)[0]

    def each(agent, params, starts, key):
        keys = jax.random.split(key, starts.obs.shape[0])
        return expansion.actor_grads(partial(view, agent), agent.actor, keys, starts, params)

    def statistics(chunks, agent, params, starts, key):
        one = lambda part, keys: expansion.actor_grads(partial(view, agent), agent.actor, keys, part, params)  # noqa: E731
        return collect_sums(side_by_side([one]), starts, key, 1, chunks)

    def outer(agent, params, starts, key):
        del params, starts
        like = lambda x: [jax.random.normal(key, (batch, n)) for n in x.shape]  # noqa: E731
        write = lambda v: v[0] if len(v) == 1 else v[0][:, :, None] * v[1][:, None, :]  # noqa: E731
        return [write(like(leaf)) for leaf in jax.tree.leaves(agent.actor)]

    found = (
        {"mean": mean, "each": each} | {f"statistics {c}": partial(statistics, c) for c in chunks} | {"outer": outer}
    )
    key, given = jax.random.key(3), (state.agent, params, starts)
    compiled = {name: jax.jit(f).lower(*given, key).compile() for name, f in found.items()}
    one = jax.tree.map(lambda x: x[:1], starts)
    own = jax.jit(each)(state.agent, params, one, key)
    same = jax.jit(mean)(state.agent, params, one, jax.random.split(key, 1)[0])
    apart = max(float(jnp.max(jnp.abs(a[0] - b))) for a, b in zip(*map(jax.tree.leaves, (own, same)), strict=True))
    largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(same))
    assert apart < 1e-4 * largest, f"each and mean differ by {apart:.2g} on one sample, of {largest:.2g}"
    return {name: partial(f, *given, key) for name, f in compiled.items()}


def serve_nets(args: argparse.Namespace) -> None:
    """Answer the number of a contestant with the seconds of one call."""
    from valex import device, launch

    config = config_of(args.nets[0], args.horizon)
    device.set_up_jax("cpu", launch.threads_of(config))
    import jax

    functions = list(make_functions(config, args.batch, tuple(args.chunks)).values())
    calls = [1] * len(functions)

    def answer(which: int) -> dict:
        begin = time.perf_counter()
        for _ in range(calls[which]):
            jax.block_until_ready(functions[which]())
        return {"seconds": (time.perf_counter() - begin) / calls[which]}

    for i in range(len(functions)):
        answer(i)
        calls[i] = max(1, round(args.seconds / answer(i)["seconds"]))
    size = sum(x.nbytes for x in jax.tree.leaves(functions[1]()))
    serve({"version": f"jax {jax.__version__}, {device.cpu_threads()} threads", "bytes": size}, answer)


def measure(nets: str, args: argparse.Namespace) -> None:
    """Let the contestants of one size take turns, and print their ratios."""
    sizes = ["--horizon", str(args.horizon), "--batch", str(args.batch), "--seconds", str(args.seconds)]
    chunks = ["--chunks", *map(str, args.chunks)]
    worker = Worker(sys.executable, __file__, ["--serve", "--nets", nets, *sizes, *chunks], {"JAX_PLATFORMS": "cpu"})
    names = ["mean", "each", *(f"statistics {c}" for c in args.chunks), "outer"]
    times = interleave({name: lambda i=i: worker.seconds(i) for i, name in enumerate(names)}, args.rounds)
    worker.close()
    print(f"## nets {nets}, {worker.about['version']}, gradients of all samples {worker.about['bytes'] / 1e6:.1f} MB")
    show(times, "ms", lambda s: 1e3 * s)
    label = f"{nets.replace(',', 'x')}_h{args.horizon}_B{args.batch}"
    for name in names[1:]:
        bar = 3.0 if name == "each" else None
        value = paired(times, lambda s, name=name: s[name] / s["mean"])
        ratio(f"{name.replace(' ', '_')}_over_mean_{label}", value, at_most=bar)


def main() -> None:
    """Measure one size after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--nets", nargs="+", default=["rpg", "64,64"], help="rpg, or widths")
    parser.add_argument("--horizon", type=int, default=10, help="model steps h")
    parser.add_argument("--batch", type=int, default=256, help="samples")
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[8, 32], help="chunks of collect_sums, divisors of batch"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each")
    args = parser.parse_args()
    if args.serve:
        return serve_nets(args)
    header(f"per-sample gradients along a learned model, h = {args.horizon}, batch {args.batch}")
    for nets in args.nets:
        measure(nets, args)
    footer()


if __name__ == "__main__":
    main()
