"""Updates per second on a dataset: IQL's value and the policy of DDPG+BC, as one program, against a loop on the host.

    python benchmarks/offline_updates.py [--task small|large]

    small   2 x 64, batch 256, one thread: the phase of valex / a loop that draws rows with NumPy and calls one jitted update per
            step (bar 3). The loop is written here; it calls the very same update on the same data, so that what differs is who
            draws the batch and how often the program is entered. It waits for its results once, at the end. Bound: that ratio
            if the update cost no more than its products do alone, what the loop adds to an update staying as measured.
    large   3 x 512, batch 1024, all threads: floating point operations per second of the phase / of products
            [1024, 512] x [512, 512] in the same process (bar 0.6)

Operations are those of the matrix products that an update cannot do without; what lies between them counts as time only.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from common import footer, header, interleave, paired, ratio, show
from loops import loop, timer

from valex.device import cpu_threads, set_up_jax
from valex.offline.batch import Batch, Dims, uniform_rows
from valex.offline.data import Dataset
from valex.offline.extraction import make_ddpg_bc
from valex.offline.train import make_phase, start_phase
from valex.offline.values import make_iql
from valex.settings.offline import DDPGBCConfig, IQLConfig

OBS, ACT, ROWS, LENGTH = 11, 3, 100_000, 1_000  # numbers of hopper
TASKS = {"small": ((64, 64), 256, 1), "large": ((512, 512, 512), 1024, 0)}  # widths, batch, threads (0: all)


def dataset() -> Dataset:
    """Return rows of noise, as numpy arrays."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(ROWS + 1, OBS)).astype(np.float32)
    action = np.tanh(rng.normal(size=(ROWS, ACT))).astype(np.float32)
    last = np.arange(ROWS) % LENGTH == LENGTH - 1
    reward = obs[:-1].mean(1)
    return Dataset(obs[:-1], action, reward, obs[1:], last & False, last, np.arange(0, ROWS + 1, LENGTH, np.int32), {})


def host_rows(data: Dataset, rng: np.random.Generator, batch_size: int) -> Batch:
    """Draw a batch as a loop on the host does."""
    rows = rng.integers(ROWS, size=batch_size)
    terminated = data.terminated[rows]
    return Batch(
        data.obs[rows], data.action[rows], data.reward[rows], data.next_obs[rows], terminated,
        data.action[np.minimum(rows + 1, ROWS - 1)], ~(terminated | data.truncated[rows]),
    )  # fmt: skip


def host_loop(update: Callable, learner: object, data: Dataset, batch_size: int, count: int) -> Callable[[], float]:
    """Time an update of the loop on the host, over `count` of them; `learner` is donated."""
    step, rng, key = jax.jit(update, donate_argnums=0), np.random.default_rng(1), jax.random.key(0)
    state = [step(learner, key, host_rows(data, rng, batch_size))[0]]

    def seconds() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            state[0], metrics = step(state[0], key, host_rows(data, rng, batch_size))
        jax.block_until_ready((state[0], metrics))
        return (time.perf_counter() - begin) / count

    return seconds


def phase_loop(chunk: Callable, phase: object, data: Dataset, frozen: tuple, count: int) -> Callable[[], float]:
    """Time an update of a phase, over chunks of `count`."""
    state = [chunk(phase, data, frozen, count)[0]]

    def seconds() -> float:
        begin = time.perf_counter()
        state[0], metrics = chunk(state[0], data, frozen, count)
        jax.block_until_ready((state[0], metrics))
        return (time.perf_counter() - begin) / count

    return seconds


def products(batch_size: int, width: int, count: int) -> Callable[[], float]:
    """Time a product [batch, width] x [width, width]."""
    a = jax.random.normal(jax.random.key(0), (width, width)) / width**0.5
    x = jax.random.normal(jax.random.key(1), (batch_size, width))
    return timer(loop(lambda i, y: y @ a, count), x, count)


def operations(hidden: tuple[int, ...], batch_size: int) -> dict[str, float]:
    """Return the floating point operations of the products of one update.

    IQL: critics forward and back, target critics forward at (s, a), V forward and back at s, forward at s'.
    DDPG+BC: policy forward and back, critics forward and back to their inputs. Nobody asks for the gradient of data.
    """

    def forward(inputs: int, out: int) -> float:
        sizes = (inputs, *hidden, out)
        return 2.0 * batch_size * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def trained(inputs: int, out: int) -> float:
        return 3.0 * forward(inputs, out) - 2.0 * batch_size * inputs * hidden[0]

    critic, heads = OBS + ACT, 2
    return {
        "IQL": heads * (trained(critic, 1) + forward(critic, 1)) + trained(OBS, 1) + forward(OBS, 1),
        "DDPG+BC": trained(OBS, ACT) + 2.0 * heads * forward(critic, 1),
    }


def measure(task: str, seconds: float, rounds: int) -> None:
    """Measure one task in this process."""
    hidden, batch_size, threads = TASKS[task]
    set_up_jax("cpu", threads)
    header(f"updates on a dataset, {len(hidden)} x {hidden[0]}, batch {batch_size}, {cpu_threads()} threads")
    host, dims = dataset(), Dims(OBS, ACT)
    data = Dataset(*map(jnp.asarray, host[:-1]), {})
    value = make_iql(IQLConfig(hidden=hidden, batch_size=batch_size), dims)
    policy = make_ddpg_bc(DDPGBCConfig(hidden=hidden, batch_size=batch_size), dims, value)
    frozen = (value.init(jax.random.key(2)),)
    learners = {"IQL": (value.init, value.update, ()), "DDPG+BC": (policy.init, policy.update, frozen)}
    contestants: dict[str, Callable[[], float]] = {}
    for name, (init, update, more) in learners.items():
        chunk = make_phase(update, uniform_rows, batch_size)
        start = partial(start_phase, init, 0, ROWS)
        count = max(1, round(seconds / phase_loop(chunk, start(), data, more, 3)()))
        contestants[name] = phase_loop(chunk, start(), data, more, count)
        if task == "small":
            bound = lambda state, key, batch, update=update, more=more: update(state, key, batch, *more)  # noqa: E731
            contestants[f"{name}, host loop"] = host_loop(bound, init(jax.random.key(0)), host, batch_size, count)
    count = max(1, round(seconds / products(batch_size, hidden[0], 3)()))
    contestants["products"] = products(batch_size, hidden[0], count)
    times = interleave(contestants, rounds)
    flops = operations(hidden, batch_size) | {"products": 2.0 * batch_size * hidden[0] ** 2}
    show({n: t for n, t in times.items() if n != "products"}, "updates/s", lambda s: 1.0 / s)
    for name in learners:
        if task == "small":

            def bound(s: dict[str, float], n: str = name) -> float:
                least = flops[n] * s["products"] / flops["products"]
                return (s[f"{n}, host loop"] - s[n] + least) / least

            ratio(
                f"{name}_phase_over_host_loop",
                paired(times, lambda s, n=name: s[f"{n}, host loop"] / s[n]),
                at_least=3.0,
            )
            ratio(f"{name}_bound_of_its_products", paired(times, bound))
        else:
            share = paired(times, lambda s, n=name: flops[n] / s[n] * s["products"] / flops["products"])
            show({name: times[name], "products": times["products"]}, "us", lambda s: 1e6 * s)
            ratio(f"{name}_share_of_products", share, at_least=0.6)
    footer()


def main() -> None:
    """Measure both tasks, each in a process of its own: threads are chosen once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, help="default: both")
    parser.add_argument("--seconds", type=float, default=1.0, help="of every timed turn")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    args = parser.parse_args()
    if args.task:
        return measure(args.task, args.seconds, args.rounds)
    for task in TASKS:
        more = ["--task", task, "--seconds", str(args.seconds), "--rounds", str(args.rounds)]
        subprocess.run([sys.executable, __file__, *more], check=True)


if __name__ == "__main__":
    main()
