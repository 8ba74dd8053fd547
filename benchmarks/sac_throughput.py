"""SAC (H = 0): control steps per second, one update each, against Stable-Baselines3, SBX and a bare update loop.

    python benchmarks/sac_throughput.py --sb3-python VENV/bin/python --sbx-python VENV/bin/python

Pendulum, batch 256, one update per control step, the same nets and the same numbers of steps. Every library runs in a
process of its own with all cores at its disposal; import, set-up, compilation and warm-up happen before its clock starts.
The processes take turns, so that only one of them computes at a time.
"""

import argparse
import time
from collections.abc import Callable

from common import Worker, footer, header, interleave, paired, ratio, serve, show

WARMUP, BATCH = 512, 256
BARS = {(256, 256): {"sb3": 2.3, "sbx": 1.3}, (64, 64): {"sb3": 8.0, "sbx": 2.5}}
TITLES = {"valex": "valex", "sb3": "Stable-Baselines3", "sbx": "SBX", "bare": "bare update loop"}


def serve_valex(hidden: tuple[int, ...], tuned: int) -> None:
    """The program that `valex train sac` runs, with its threads."""
    from loops import serve_program

    from valex.settings import EvalConfig, RunConfig, SACConfig, TrainConfig

    del tuned
    config = RunConfig(
        agent=SACConfig(hidden=hidden),
        train=TrainConfig(env_steps=1_000_000, warmup_steps=WARMUP, batch_size=BATCH),
        eval=EvalConfig(episodes=1, value_bias_states=0, grad_samples=0),
    )
    serve_program(config, lambda agent: agent.critic_opt[0].count)


def serve_bare(hidden: tuple[int, ...], tuned: int) -> None:
    """The update alone, with the threads that valex takes."""
    import jax
    from bare_sac import make_loop

    from valex import device, launch
    from valex.settings import RunConfig, SACConfig

    del tuned
    device.set_up_jax("cpu", launch.threads_of(RunConfig(agent=SACConfig(hidden=hidden))))
    loop, state = make_loop(hidden)

    def answer(steps: int) -> dict:
        nonlocal state
        begin = time.perf_counter()
        state = jax.block_until_ready(loop(state, jax.random.key(1), steps))
        return {"seconds": time.perf_counter() - begin, "updates": steps}

    answer(100)
    serve({"version": f"jax {jax.__version__}"}, answer)


def _serve_baselines(model, version: str) -> None:
    """Both libraries share an interface. `learn` is called again without a reset and goes on where it stopped."""

    def answer(steps: int) -> dict:
        before = model._n_updates
        begin = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False, log_interval=10**9)
        return {"seconds": time.perf_counter() - begin, "updates": model._n_updates - before}

    model.learn(WARMUP + 100, log_interval=10**9)
    serve({"version": version}, answer)


def serve_sb3(hidden: tuple[int, ...], tuned: int) -> None:
    """Stable-Baselines3's SAC on Gymnasium's Pendulum-v1."""
    import stable_baselines3
    import torch

    if tuned:
        torch.set_num_threads(tuned)
    model = stable_baselines3.SAC(
        "MlpPolicy",
        "Pendulum-v1",
        batch_size=BATCH,
        learning_starts=WARMUP,
        policy_kwargs={"net_arch": list(hidden)},
        device="cpu",
        verbose=0,
    )
    version = f"{stable_baselines3.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    _serve_baselines(model, version)


def serve_sbx(hidden: tuple[int, ...], tuned: int) -> None:
    """SBX's SAC on Gymnasium's Pendulum-v1."""
    import jax
    import sbx

    del tuned
    model = sbx.SAC(
        "MlpPolicy",
        "Pendulum-v1",
        batch_size=BATCH,
        learning_starts=WARMUP,
        policy_kwargs={"net_arch": list(hidden)},
        verbose=0,
    )
    _serve_baselines(model, f"{sbx.__version__}, jax {jax.__version__}")


ROLES: dict[str, Callable[[tuple[int, ...], int], None]] = {
    "valex": serve_valex,
    "sb3": serve_sb3,
    "sbx": serve_sbx,
    "bare": serve_bare,
}


def race(hidden: tuple[int, ...], steps: int, rounds: int, pythons: dict[str, str], threads: int) -> None:
    """Start every contestant that can be started, let them take turns, print rates and ratios."""
    width = "x".join(map(str, hidden))
    workers: dict[str, Worker] = {}
    for name, python in pythons.items():
        try:
            arguments = ["--role", name, "--hidden", ",".join(map(str, hidden)), "--torch-threads", str(threads)]
            workers[name] = Worker(python, __file__, arguments, {"JAX_PLATFORMS": "cpu"})
            print(f"# {TITLES[name]}: {workers[name].about['version']}")
        except (RuntimeError, OSError) as error:
            print(f"# {TITLES[name]} is MISSING in {python}: {error}")

    def turn(worker: Worker) -> float:
        worker.ask(steps)
        result = worker.answer()
        assert result["updates"] == steps, f"{result['updates']} updates in {steps} control steps"
        return result["seconds"]

    times = interleave({name: lambda w=worker: turn(w) for name, worker in workers.items()}, rounds)
    for worker in workers.values():
        worker.close()
    show({f"{TITLES[name]} {width}": values for name, values in times.items()}, "steps/s", lambda s: steps / s)
    if "valex" in times:
        for name in times:
            if name != "valex":
                value = paired(times, lambda s, name=name: s[name] / s["valex"])
                ratio(f"valex/{name}_{width}", value, at_least=BARS.get(hidden, {}).get(name))


def widths(text: str) -> tuple[int, ...]:
    """Parse 256,256."""
    return tuple(int(x) for x in text.split(","))


def main() -> None:
    """Run the race for every width, or serve one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3-python", default="", help="interpreter with stable-baselines3; default: this one")
    parser.add_argument("--sbx-python", default="", help="interpreter with sbx-rl; default: this one")
    parser.add_argument(
        "--hidden", type=widths, action="append", help="widths, may be repeated; default 256,256 and 64,64"
    )
    parser.add_argument("--steps", type=int, default=500, help="control steps per turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument(
        "--torch-threads", type=int, default=0, help="threads of torch; 0 leaves its default, all cores"
    )
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return ROLES[args.role](args.hidden[0], args.torch_threads)
    import sys

    header("SAC, pendulum, batch 256, one update per control step")
    pythons = {
        "valex": sys.executable,
        "sb3": args.sb3_python or sys.executable,
        "sbx": args.sbx_python or sys.executable,
        "bare": sys.executable,
    }
    for hidden in args.hidden or [(256, 256), (64, 64)]:
        race(hidden, args.steps, args.rounds, pythons, args.torch_threads)
    footer()


if __name__ == "__main__":
    main()
