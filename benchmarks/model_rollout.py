"""What critic expansion with a learned ensemble costs, and what one member for each row saves.

    python benchmarks/model_rollout.py [--task pendulum:64,64 ...] [--members 4x256 | 2x128] [--horizon 1 ...]

    ratio 1 = MVE(H) update / (SAC update + H * B single-member forward passes)                      bar 1.2
    ratio 2 = MVE(H) update / (SAC update + H * (B single-member forward passes + a policy sample))  no bar

The denominator of ratio 1 has no policy passes, which a rollout needs H of. A forward pass is one net of the ensemble for a batch
of 256, normalisation included. `random_model` gives each row one member: here as valex does it (rows laid into equal shares, each
share one batch of its member) and by evaluating all members for all rows and picking; the ratio says which is faster.
Every part is a compiled loop of its own, timed alone, in turns.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from common import Times, footer, header, interleave, paired, ratio, show
from loops import BATCH, base_config, loop, policy_loop, sized, timer, update_loop

from valex import replay as replays
from valex.device import cpu_threads, set_up_jax
from valex.launch import threads_of
from valex.models.ensemble import make_nets, predict
from valex.models.learned import draw_slots, propagate
from valex.normalize import normalize
from valex.settings import CriticConfig, ModelConfig, RunConfig
from valex.train import Parts, TrainState, make_parts, make_program

HORIZONS, TASKS = (1, 3, 5, 10), ("pendulum:64,64", "pendulum:256,256")
SINGLE = "forward, single"
SIZES = {"4x256": (256, 256, 256, 256), "2x128": (128, 128)}


def forward_loop(parts: Parts, state: TrainState, count: int, way: str, config: ModelConfig) -> Callable[[], float]:
    """Time one forward pass of a batch: of a `single` member, of one member for each row (`shares`), or of all, then `pick`."""
    say, params = partial(predict, make_nets(parts.env.spec, config), config=config), state.model
    rows = jax.tree.map(lambda x: x[0], replays.sample_sequences(state.replay, jax.random.key(2), BATCH, 1))
    first = jax.tree.map(lambda x: x[:1], params.members)

    def mean_of(key, x):
        if way == "single":
            return say(first, x).mean[0]
        if way == "shares":
            return propagate(say, params, x, draw_slots(key, params, BATCH)).mean
        chosen = jax.random.randint(key, (BATCH,), 0, config.num_models)
        return say(params.members, x).mean[chosen, jnp.arange(BATCH)]

    def body(i, obs):
        key = jax.random.fold_in(jax.random.key(5), i)
        return obs + 1e-6 * mean_of(key, (normalize(params.inputs, obs), rows.action))[:, :-1]

    return timer(loop(body, count), rows.obs, count)


def measure(base: RunConfig, members: str, horizons: tuple[int, ...], seconds: float, rounds: int) -> None:
    """Time every part for one task and print the ratios of all horizons."""
    model = ModelConfig("ensemble", hidden=SIZES[members], pretrain_steps=1)
    expanded = {h: replace(base, critic=CriticConfig("h_step", "model", h), model=model) for h in horizons}
    state = make_program(expanded[horizons[0]]).start(jnp.uint32(0))
    parts = {0: make_parts(base)} | {h: make_parts(config) for h, config in expanded.items()}
    ways = {f"forward, {way}": partial(forward_loop, way=way, config=model) for way in ("single", "shares", "pick")}
    contestants = {"sac update": sized(update_loop, parts[0], state, seconds)}
    contestants |= {f"mve update H={h}": sized(update_loop, parts[h], state, seconds) for h in horizons}
    contestants |= {name: sized(make, parts[0], state, seconds) for name, make in ways.items()}
    contestants |= {"policy sample": sized(policy_loop, parts[0], state, seconds)}
    times: Times = interleave(contestants, rounds)
    label = f"{base.env.name}_{'x'.join(map(str, base.agent.hidden))}_model_{members}"
    print(f"## {label}, 5 members, batch {BATCH}")
    show(times, "us", lambda s: 1e6 * s)
    for h in horizons:
        mve = f"mve update H={h}"
        one = paired(times, lambda s, h=h, mve=mve: s[mve] / (s["sac update"] + h * s[SINGLE]))
        two = paired(times, lambda s, h=h, mve=mve: s[mve] / (s["sac update"] + h * (s[SINGLE] + s["policy sample"])))
        ratio(f"mve_over_sac_and_forward_{label}_H{h}", one, at_most=1.2)
        ratio(f"mve_over_sac_forward_and_policy_{label}_H{h}", two)
    ratio(f"pick_over_shares_{label}", paired(times, lambda s: s["forward, pick"] / s["forward, shares"]))


def main() -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", help=f"env:widths, may be repeated; default {' '.join(TASKS)}")
    parser.add_argument("--members", choices=SIZES, default="4x256", help="layers of a member")
    parser.add_argument("--horizon", type=int, action="append", help="may be repeated; default 1 3 5 10")
    parser.add_argument("--seconds", type=float, default=0.3, help="of every timed loop")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each part")
    args = parser.parse_args()
    tasks = args.task or TASKS
    if len(tasks) > 1:  # XLA is told its threads once per process
        for task in tasks:
            more = [word for h in args.horizon or () for word in ("--horizon", str(h))]
            timing = ["--members", args.members, "--seconds", str(args.seconds), "--rounds", str(args.rounds)]
            subprocess.run([sys.executable, __file__, "--task", task, *more, *timing], check=True)
        return
    config = base_config(tasks[0])
    model = ModelConfig("ensemble", hidden=SIZES[args.members])
    set_up_jax(threads=threads_of(replace(config, critic=CriticConfig("h_step", "model", 1), model=model)))
    header(f"critic expansion with a learned ensemble, {cpu_threads()} threads as in `valex train`")
    measure(config, args.members, tuple(args.horizon or HORIZONS), args.seconds, args.rounds)
    footer()


if __name__ == "__main__":
    main()
