"""Double DQN on MinAtar breakout: control steps per second, one update each, against a step-by-step loop.

    python benchmarks/ddqn_throughput.py --loop-python VENV/bin/python       # VENV: pip install jax flax optax minatar

The loop is what most code bases do: the `minatar` package steps on the host, a numpy ring stores, one jitted call chooses an
action and one takes an update. Both have the same net (3 x 3 convolution of 16 filters, 128 units), batch 32, Adam, soft target
updates, sticky actions 0.1 and one update per step; epsilon is at its end, 0.05. The loop's convolution is flax's, valex's is
its own (docs/decisions.md). Each runs in a process of its own; import, compilation and warm-up happen before its clock starts,
and they take turns.
"""

import argparse
import time

from common import Worker, footer, header, interleave, paired, ratio, serve, show

WARMUP, BATCH, CAPACITY, EPSILON, GAMMA, TAU, RATE = 1_000, 32, 100_000, 0.05, 0.99, 0.005, 3e-4
TITLES = {"valex": "valex", "loop": "step-by-step loop"}


def serve_valex() -> None:
    """The program that `valex train ddqn` runs, with its threads."""
    from dataclasses import replace

    from loops import serve_program

    from valex.config import PRESETS
    from valex.settings import EvalConfig

    base = PRESETS["ddqn"]
    config = replace(
        base,
        agent=replace(base.agent, epsilon_start=EPSILON, epsilon_end=EPSILON),
        train=replace(base.train, env_steps=CAPACITY, warmup_steps=WARMUP, batch_size=BATCH),
        eval=EvalConfig(episodes=1, value_bias_states=0, grad_samples=0),
    )
    serve_program(config, lambda agent: agent.updates)


def make_functions(num_actions: int):
    """Return (state, choose, update) of the loop: jitted, donated, nothing else on the device."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    class Net(nn.Module):
        """Convolution, dense layer, values."""

        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x.astype(jnp.float32)))
            return nn.Dense(num_actions)(nn.relu(nn.Dense(128)(x.reshape(len(x), -1))))

    net, tx = Net(), optax.adam(RATE)
    online = net.init(jax.random.key(0), jnp.zeros((1, 10, 10, 4)))
    state = (online, jax.tree.map(jnp.copy, online), tx.init(online))
    choose = jax.jit(lambda params, obs: jnp.argmax(net.apply(params, obs[None])[0]))

    def update(state, batch):
        """Take one step of double DQN."""
        online, target, opt = state
        obs, action, reward, after, ended = batch
        best = jnp.argmax(net.apply(online, after), -1)
        y = reward + GAMMA * (1.0 - ended) * jnp.take_along_axis(net.apply(target, after), best[:, None], -1)[:, 0]

        def loss(params):
            values = jnp.take_along_axis(net.apply(params, obs), action[:, None], -1)[:, 0]
            return 0.5 * jnp.mean((values - y) ** 2)

        steps, opt = tx.update(jax.grad(loss)(online), opt, online)
        online = optax.apply_updates(online, steps)
        return online, optax.incremental_update(online, target, TAU), opt

    return state, choose, jax.jit(update, donate_argnums=0)


def serve_loop() -> None:
    """The loop: host-side game and ring, one jitted call for an action and one for an update."""
    import jax
    import numpy as np
    from minatar import Environment

    env, rng = Environment("breakout"), np.random.default_rng(0)
    env.seed(0)
    actions = env.minimal_action_set()
    state, choose, update = make_functions(len(actions))
    ring = {
        "obs": np.zeros((CAPACITY, 10, 10, 4), bool), "action": np.zeros(CAPACITY, np.int32),
        "reward": np.zeros(CAPACITY, np.float32), "after": np.zeros((CAPACITY, 10, 10, 4), bool),
        "ended": np.zeros(CAPACITY, np.float32),
    }  # fmt: skip
    env.reset()
    obs, size, clock, updates = env.state(), 0, 0, 0

    def step(train: bool) -> None:
        """Act, store, and take one update."""
        nonlocal obs, size, clock, state, updates
        a = int(rng.integers(len(actions))) if not train or rng.random() < EPSILON else int(choose(state[0], obs))
        reward, ended = env.act(actions[a])
        after = env.state()
        for name, value in zip(ring, (obs, a, reward, after, ended), strict=True):
            ring[name][size % CAPACITY] = value
        size, clock, obs = size + 1, clock + 1, after
        if ended or clock == 1000:
            env.reset()
            obs, clock = env.state(), 0
        if train:
            rows = rng.integers(min(size, CAPACITY), size=BATCH)
            state = update(state, tuple(column[rows] for column in ring.values()))
            updates += 1

    def answer(steps: int) -> dict:
        before, begin = updates, time.perf_counter()
        for _ in range(steps):
            step(True)
        jax.block_until_ready(state)
        return {"seconds": time.perf_counter() - begin, "updates": updates - before}

    for _ in range(WARMUP):
        step(False)
    answer(100)
    serve({"version": f"jax {jax.__version__}, minatar"}, answer)


def main() -> None:
    """Let both take turns and print the ratio of their rates."""
    import sys

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=tuple(TITLES), help=argparse.SUPPRESS)
    parser.add_argument(
        "--loop-python", default=sys.executable, help="interpreter that has jax, flax, optax and minatar"
    )
    parser.add_argument("--steps", type=int, default=3_000, help="control steps per turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    args = parser.parse_args()
    if args.serve:
        {"valex": serve_valex, "loop": serve_loop}[args.serve]()
        return
    header("double DQN on MinAtar breakout, batch 32, one update per control step")
    pythons = {"valex": sys.executable, "loop": args.loop_python}
    workers = {
        name: Worker(python, __file__, ["--serve", name], {"JAX_PLATFORMS": "cpu"}) for name, python in pythons.items()
    }
    for name, worker in workers.items():
        print(f"# {TITLES[name]}: {worker.about['version']}")

    def turn(worker: Worker) -> float:
        worker.ask(args.steps)
        said = worker.answer()
        assert said["updates"] == args.steps, f"{said['updates']} updates in {args.steps} control steps"
        return said["seconds"]

    times = interleave({TITLES[name]: lambda w=worker: turn(w) for name, worker in workers.items()}, args.rounds)
    for worker in workers.values():
        worker.close()
    show(times, "steps/s", lambda s: args.steps / s)
    ratio("valex_over_loop", paired(times, lambda s: s[TITLES["loop"]] / s[TITLES["valex"]]), at_least=3.0)
    footer()


if __name__ == "__main__":
    main()
