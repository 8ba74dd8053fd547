"""Seconds until a training program is ready, for every preset: first time, and again from the persistent cache.

    python benchmarks/compile_time.py [--env pendulum] [--preset sac ...]

Both are what `valex train` waits for: tracing, lowering, and compiling (or loading) the start and the loop with its
evaluation. Every measurement is a process of its own; the cache lies in a folder that is deleted afterwards.

    ratio  from the cache / first time                                                                  (no bar)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace

from common import footer, header, ratio

from valex.config import PRESETS
from valex.settings import EnvConfig


def ready(preset: str, env: str) -> float:
    """Return the seconds that the runner spends before it can train, in a process with the cache on."""
    from valex.device import set_up_jax
    from valex.runner import compiled
    from valex.train import traceable

    set_up_jax("cpu")
    config = replace(PRESETS[preset], env=EnvConfig(env))
    return compiled(traceable(config), 1)[-1]


def main() -> None:
    """Compile every preset in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="pendulum")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return print(json.dumps(ready(args.preset[0], args.env)))
    header(f"compile time on {args.env}")

    def measured(preset: str, cache: str) -> float:
        command = [sys.executable, __file__, "--role", "--env", args.env, "--preset", preset]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"VALEX_CACHE_DIR": cache}
        )
        return float(done.stdout.strip().splitlines()[-1])

    print(f"{'preset':16s}{'cold s':>10s}{'(max)':>10s}{'cached s':>10s}{'(max)':>10s}")
    for preset in args.preset or PRESETS:
        cold, warm = [], []
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(measured(preset, cache))
                warm.append(measured(preset, cache))
        median = statistics.median
        print(f"{preset:16s}{median(cold):10.2f}{max(cold):10.2f}{median(warm):10.2f}{max(warm):10.2f}")
        pairs = zip(warm, cold, strict=True)
        ratio(f"cached_over_cold_compile_{args.env}_{preset}", median(w / c for w, c in pairs))
    footer()


if __name__ == "__main__":
    main()
