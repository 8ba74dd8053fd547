"""Actor expansion at H = 30 on hopper (spring), batch 256: peak memory and seconds per gradient.

    python benchmarks/actor_memory.py [--horizon 30] [--hidden 256,256]

    ratio  the memory of one whole update: what XLA allocates (arguments, results, temporaries), bar 2 GB
    ratio  the same for the peak of the process that compiles and runs it, compiler included

The actor's gradient runs back through 30 steps of a physics engine: it has to be compiled once (a minute), and its
temporaries are kept small by rematerialising every model step.
"""

import argparse
import resource
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
from common import Worker, footer, header, interleave, ratio, serve, show

GB = 1e9


def serve_gradient(task: str, horizon: int, hidden: tuple[int, ...], whole: bool) -> None:
    """Compile the update or the actor's gradient alone, then time it on request."""
    from valex import replay as replays
    from valex.config import PRESETS
    from valex.settings import ActorConfig, EnvConfig, SACConfig, TrainConfig
    from valex.train import make_parts, make_start

    config = replace(
        PRESETS["sac-ae"],
        env=EnvConfig(task),
        agent=SACConfig(hidden=hidden),
        actor=ActorConfig(horizon=horizon),
        train=TrainConfig(env_steps=2_000, warmup_steps=1_000),
    )
    parts = make_parts(config)
    state = jax.jit(make_start(config, parts))(jnp.uint32(0))
    batch = jax.jit(replays.sample_sequences, static_argnums=(2, 3))(state.replay, jax.random.key(1), 256, parts.window)
    begin = time.perf_counter()
    function = parts.agent.update if whole else parts.agent.actor.grads
    compiled = jax.jit(function).lower(state.agent, jax.random.key(2), batch, ()).compile()
    about: dict = {"compile_s": time.perf_counter() - begin}
    memory = compiled.memory_analysis()
    about["temporaries"] = memory.temp_size_in_bytes
    about["allocated"] = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes

    def answer(count: int) -> dict:
        begin = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(compiled(state.agent, jax.random.key(2), batch, ()))
        seconds = (time.perf_counter() - begin) / count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"seconds": seconds, "peak": peak}

    answer(1)
    serve(about, answer)


def main() -> None:
    """Compile and run update and gradient in a process each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="hopper")
    parser.add_argument("--horizon", type=int, default=30)
    parser.add_argument("--hidden", default="256,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--role", choices=("update", "gradient"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        hidden = tuple(int(x) for x in args.hidden.split(","))
        return serve_gradient(args.task, args.horizon, hidden, args.role == "update")
    header(f"actor expansion, {args.task}, H = {args.horizon}, batch 256, nets {args.hidden}")
    common = ["--task", args.task, "--horizon", str(args.horizon), "--hidden", args.hidden]
    environment = {"JAX_PLATFORMS": "cpu"}
    workers = {
        f"{role} H={args.horizon}": Worker(sys.executable, __file__, [*common, "--role", role], environment)
        for role in ("update", "gradient")
    }
    show(interleave({name: lambda w=w: w.seconds(1) for name, w in workers.items()}, args.rounds), "s", lambda s: s)
    update, gradient = workers.values()
    update.ask(1)
    peak = update.answer()["peak"]
    for name, worker in workers.items():
        about = worker.about
        print(
            f"{name:32s} compile {about['compile_s']:.1f} s, temporaries {about['temporaries'] / 1e6:.1f} MB, "
            f"allocated {about['allocated'] / 1e6:.1f} MB"
        )
        worker.close()
    label = f"{args.task}_H{args.horizon}"
    ratio(f"ae_update_allocated_GB_{label}", update.about["allocated"] / GB, at_most=2.0)
    ratio(f"ae_process_peak_GB_{label}", peak / GB, at_most=2.0)
    footer()


if __name__ == "__main__":
    main()
