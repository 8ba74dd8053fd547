"""Several seeds on a CPU: one vmapped program against worker processes.

    python benchmarks/seeds_vmap.py [--seeds 4] [--hidden 64,64 ...]

    ratio vmap     updates per second of one program that trains all seeds (all cores)
                   / those of one program that trains one seed (all cores)
    ratio workers  updates per second of one process per core, each training one seed
                   / those of one program that trains one seed (all cores)

The larger one says how seeds should be spread. On a CPU that is processes, which is why `valex study` starts one worker
per core and vmaps seeds on an accelerator only.
"""

import argparse
import os
import sys
import time

from common import Worker, footer, header, interleave, paired, ratio, serve, show


def serve_seeds(hidden: tuple[int, ...], seeds: int, core: int) -> None:
    """Train `seeds` seeds in one program, on one core or on all (core -1)."""
    if core >= 0:
        os.sched_setaffinity(0, {core})  # before jax is imported: XLA sizes its thread pool by this
    import jax
    import jax.numpy as jnp

    from valex.runner import compiled
    from valex.settings import EvalConfig, RunConfig, SACConfig, TrainConfig

    config = RunConfig(
        agent=SACConfig(hidden=hidden),
        train=TrainConfig(env_steps=20_000),
        eval=EvalConfig(episodes=1, value_bias_states=0, grad_samples=0),
    )
    _, start, chunk, _ = compiled(config, seeds)
    state = start(jnp.arange(seeds, dtype=jnp.uint32) if seeds > 1 else jnp.uint32(0))

    def answer(steps: int) -> dict:
        nonlocal state
        begin = time.perf_counter()
        state, *metrics = chunk(state, jnp.int32(steps))
        jax.block_until_ready((state, metrics))
        return {"seconds": time.perf_counter() - begin}

    answer(50)
    serve({}, answer)


def measure(hidden: tuple[int, ...], seeds: int, steps: int, rounds: int) -> None:
    """Let the three arrangements take turns for one width."""
    cores = sorted(os.sched_getaffinity(0))

    def worker(seeds: int, core: int) -> Worker:
        arguments = ["--role", str(seeds), "--core", str(core), "--hidden", ",".join(map(str, hidden))]
        return Worker(sys.executable, __file__, arguments, {"JAX_PLATFORMS": "cpu"})

    single, vmapped, pool = worker(1, -1), worker(seeds, -1), [worker(1, core) for core in cores]

    def together() -> float:
        begin = time.perf_counter()
        for w in pool:
            w.ask(steps)
        for w in pool:
            w.answer()
        return time.perf_counter() - begin

    one, many, workers = (
        "one seed, all cores",
        f"{seeds} seeds vmapped, all cores",
        f"{len(cores)} workers, a core each",
    )
    contestants = {one: lambda: single.seconds(steps), many: lambda: vmapped.seconds(steps) / seeds}
    times = interleave(contestants | {workers: lambda: together() / len(cores)}, rounds)
    for w in (single, vmapped, *pool):
        w.close()
    width = "x".join(map(str, hidden))
    print(f"## nets {width}")
    show(times, "updates/s over all seeds", lambda s: steps / s)
    ratio(f"vmapped_seeds_over_one_{width}", paired(times, lambda s: s[one] / s[many]))
    ratio(f"workers_over_one_{width}", paired(times, lambda s: s[one] / s[workers]))


def widths(text: str) -> tuple[int, ...]:
    """Parse 64,64."""
    return tuple(int(x) for x in text.split(","))


def main() -> None:
    """Measure every width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--hidden", type=widths, action="append", help="may be repeated; default 64,64 and 256,256")
    parser.add_argument("--steps", type=int, default=300, help="control steps per turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--role", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=-1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return serve_seeds(args.hidden[0], args.role, args.core)
    header("seeds: vmapped or in processes")
    for hidden in args.hidden or [(64, 64), (256, 256)]:
        measure(hidden, args.seeds, args.steps, args.rounds)
    footer()


if __name__ == "__main__":
    main()
