"""What the replay costs: bytes per stored step over the sum of its fields, and no copy of it anywhere.

    python benchmarks/replay_memory.py [--env pendulum ...] [--steps 1000000]

    ratio  bytes that the replay occupies / (steps * the bytes of the fields that this algorithm reads back)    bar 1.1

The fields are added up here by hand from the task's dimensions, not read off the program. The compiled training program
is then asked what it allocates: the replay has to be among the donated arguments (alias), the temporaries must not grow
with it, and no instruction may copy an array of its length. The memory of a process that fills it is measured as well.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from common import footer, header, ratio

from valex.config import PRESETS
from valex.device import set_up_jax
from valex.settings import EnvConfig, EvalConfig, RunConfig, SACConfig, TrainConfig
from valex.train import make_parts, make_program

STATUS = Path("/proc/self/status")
STATE_BYTES = {"pendulum": 2 * 4, "hopper": 4 * 13 * 4}  # angle and rate; 4 links with 13 floats each


def config_of(preset: str, env: str, steps: int) -> RunConfig:
    """Return a preset with small nets and little evaluation: neither matters to the replay, both cost compile time."""
    return replace(
        PRESETS[preset],
        env=EnvConfig(env),
        agent=SACConfig(hidden=(8, 8)),
        train=TrainConfig(env_steps=steps, replay_capacity=steps),
        eval=EvalConfig(episodes=1, value_bias_states=0, grad_samples=0),
    )


def field_bytes(preset: str, env: str) -> int:
    """Return the bytes of one step: obs, action, reward, next_obs, two flags, and what the preset needs on top."""
    spec = make_parts(config_of("sac", env, 2_000)).env.spec
    always = 4 * (2 * spec.obs_dim + spec.act_dim + 1) + 2
    extra = {"sac": 0, "sac-ce": STATE_BYTES[env], "sac-ae": STATE_BYTES[env], "sac-retrace": 4 * (1 + spec.act_dim)}
    return always + extra[preset]


def held(field: str) -> int:
    """Return the bytes of memory that this process holds (VmRSS) or has held at most since the last reset (VmHWM); Linux."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(field))


def fill(preset: str, env: str, steps: int) -> None:
    """Print the growth of this process's peak memory, over the replay's size, from making it and training on it."""
    for rows in (2_000, steps):  # the first run pays for everything that does not grow
        program = make_program(config_of(preset, env, rows))
        shapes = jax.eval_shape(program.start, jnp.uint32(0))
        start = program.start.lower(jnp.uint32(0)).compile()
        chunk = program.chunk.lower(shapes, jax.ShapeDtypeStruct((), jnp.int32)).compile()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of compilation
        before = held("VmRSS")
        state = start(jnp.uint32(0))
        state = jax.block_until_ready(chunk(state, jnp.int32(10))[0])
        print((held("VmHWM") - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(state.replay)))


def report(preset: str, env: str, steps: int, measure: bool) -> None:
    """Print what the replay of one preset takes, and every trace of a copy."""
    program, smaller = (make_program(config_of(preset, env, n)) for n in (steps, steps // 2))

    def compiled(program):
        state = jax.eval_shape(program.start, jnp.uint32(0))
        return state, program.chunk.lower(state, jax.ShapeDtypeStruct((), jnp.int32)).compile()

    (state, large), (_, half) = compiled(program), compiled(smaller)
    memory, less = large.memory_analysis(), half.memory_analysis()
    replay = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.replay))
    copies = len(re.findall(rf"= \w+\[{steps},[^=]*\bcopy\(", large.as_text()))
    growth = (memory.temp_size_in_bytes - less.temp_size_in_bytes) / (replay / 2)
    aliased = memory.alias_size_in_bytes / memory.argument_size_in_bytes
    print(
        f"{env:10s}{preset:14s}{field_bytes(preset, env):12d}{replay / steps:14.2f}{replay / 1e6:12.1f}"
        f"{memory.temp_size_in_bytes / 1e6:12.2f}{growth:14.3f}{aliased:10.3f}{copies:8d}",
        flush=True,
    )
    ratio(f"replay_bytes_over_fields_{env}_{preset}", replay / steps / field_bytes(preset, env), at_most=1.1)
    ratio(f"replay_copies_in_program_{env}_{preset}", copies, at_most=0)
    ratio(f"temporaries_growth_over_replay_{env}_{preset}", growth, at_most=0.01)
    if measure:
        command = [sys.executable, __file__, "--fill", preset, "--env", env, "--steps", str(steps)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        ratio(f"peak_memory_growth_over_replay_{env}_{preset}", float(lines[-1]), at_most=1.1)


def main() -> None:
    """Report every preset on every environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", choices=STATE_BYTES, help="may be repeated; default pendulum hopper")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; default all")
    parser.add_argument("--steps", type=int, default=1_000_000, help="rows of the replay")
    parser.add_argument("--fill", choices=PRESETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_up_jax("cpu")
    if args.fill:
        return fill(args.fill, args.env[0], args.steps)
    header(f"replay of {args.steps} steps")
    print(
        f"{'env':10s}{'preset':14s}{'fields B':>12s}{'replay B':>14s}{'replay MB':>12s}{'temp MB':>12s}"
        f"{'temp growth':>14s}{'aliased':>10s}{'copies':>8s}"
    )
    for env in args.env or STATE_BYTES:
        for preset in args.preset or PRESETS:
            report(preset, env, args.steps, measure=env == "pendulum" and STATUS.exists())
    footer()


if __name__ == "__main__":
    main()
