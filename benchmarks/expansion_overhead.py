"""What critic expansion costs: time per update of CE(H) over the sum of what it cannot do without.

    python benchmarks/expansion_overhead.py [--task pendulum:64,64 ...] [--horizon 1 ...]

    ratio 1 = CE(H) update / (SAC update + H * B oracle steps)                                       bar 1.15
    ratio 2 = CE(H) update / (SAC update + H * B oracle steps + H policy samples for a batch of B)   bar 1.15

On MinAtar (--task minatar-breakout:128) the learner is double DQN with its batch of 32, and the bar 1.2.

A rollout has to choose an action before every step, so ratio 1 charges H policy passes to the overhead; ratio 2 does not.
What is left in ratio 2 is restarting the simulator from its stored state, reading that state from replay, keeping the
window, and the fold. Every part is a compiled loop of its own, timed alone, in turns: no dispatch cost per call. An
update includes drawing its batch of 256 from replay.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from common import Times, footer, header, interleave, paired, ratio, show
from loops import base_config, batch_of, loop, policy_loop, sized, timer, update_loop

from valex import replay as replays
from valex.device import cpu_threads, set_up_jax
from valex.launch import threads_of
from valex.models.oracle import make_oracle
from valex.settings import CriticConfig, RunConfig
from valex.train import Parts, TrainState, make_parts, make_program

HORIZONS = (1, 3, 5, 10)
TASKS = ("pendulum:64,64", "pendulum:256,256", "hopper:256,256", "minatar-breakout:128")


def oracle_loop(parts: Parts, state: TrainState, count: int) -> Callable[[], float]:
    """Time one oracle step of a whole batch, started from replayed states, under varying actions."""
    model = make_oracle(parts.env)
    batch = jax.tree.map(lambda x: x[0], replays.sample_sequences(state.replay, jax.random.key(2), batch_of(parts), 1))
    actions = parts.env.spec.num_actions
    start = jax.jit(lambda: model.start((), jax.random.key(0), batch.next_obs, batch.next_sim_state))()

    def body(i, carry):
        sim, action = carry
        sim, out = model.step((), jax.random.fold_in(jax.random.key(3), i), sim, action)
        if actions:
            return sim, (action + 1 + (out.reward > 1e9)) % actions
        return sim, jnp.where(out.reward[:, None] > 1e9, 0.0, -action)  # reads the step, so that nothing is left out

    return timer(loop(body, count), (start, batch.action), count)


def measure(base: RunConfig, horizons: tuple[int, ...], seconds: float, rounds: int) -> None:
    """Time every part for one task and print the ratios of all horizons."""
    name, hidden = base.env.name, base.agent.hidden
    expanded = {h: replace(base, critic=CriticConfig("h_step", "model", h)) for h in horizons}
    # One state for all: it holds the simulator states, which plain SAC does not read.
    state = make_program(expanded[horizons[0]]).start(jnp.uint32(0))
    parts = {0: make_parts(base)} | {h: make_parts(config) for h, config in expanded.items()}
    plain = f"{base.agent.name} update"
    bar = 1.2 if parts[0].env.spec.num_actions else 1.15
    contestants = {plain: sized(update_loop, parts[0], state, seconds)}
    contestants |= {f"ce update H={h}": sized(update_loop, parts[h], state, seconds) for h in horizons}
    alone = {"oracle step": oracle_loop, "policy sample": policy_loop}
    contestants |= {name: sized(make, parts[0], state, seconds) for name, make in alone.items()}
    times: Times = interleave(contestants, rounds)
    print(f"## {name}, nets {'x'.join(map(str, hidden))}, batch {batch_of(parts[0])}")
    show(times, "us", lambda s: 1e6 * s)
    label = f"{name}_{'x'.join(map(str, hidden))}"
    for h in horizons:
        ce = f"ce update H={h}"
        one = paired(times, lambda s, h=h, ce=ce: s[ce] / (s[plain] + h * s["oracle step"]))
        two = paired(times, lambda s, h=h, ce=ce: s[ce] / (s[plain] + h * (s["oracle step"] + s["policy sample"])))
        ratio(f"ce_over_{base.agent.name}_and_oracle_{label}_H{h}", one, at_most=bar)
        ratio(f"ce_over_{base.agent.name}_oracle_and_policy_{label}_H{h}", two, at_most=bar)


def main() -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", help=f"env:widths, may be repeated; default {' '.join(TASKS)}")
    parser.add_argument("--horizon", type=int, action="append", help="may be repeated; default 1 3 5 10")
    parser.add_argument("--seconds", type=float, default=0.3, help="of every timed loop")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each part")
    args = parser.parse_args()
    tasks = args.task or TASKS
    if len(tasks) > 1:  # XLA is told its threads once per process
        for task in tasks:
            more = [word for h in args.horizon or () for word in ("--horizon", str(h))]
            timing = ["--seconds", str(args.seconds), "--rounds", str(args.rounds)]
            subprocess.run([sys.executable, __file__, "--task", task, *more, *timing], check=True)
        return
    config = base_config(tasks[0])
    set_up_jax(threads=threads_of(config))
    header(f"critic expansion against its parts, {cpu_threads()} threads as in `valex train`")
    measure(config, tuple(args.horizon or HORIZONS), args.seconds, args.rounds)
    footer()


if __name__ == "__main__":
    main()
