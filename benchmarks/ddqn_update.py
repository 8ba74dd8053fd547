"""Where an update of double DQN on MinAtar breakout spends its time: the update, and the same with parts changed or left out.

    python benchmarks/ddqn_update.py [--threads 1] [--horizon 5 10]

    update               the learner's own: draw a batch of 32, targets, gradient, Adam, soft move of the target net
    one pass             the online net reads s and s' as one batch of 64, the rest as it is
    no Adam              a plain step along the gradient
    no Adam, target net still       the same, and the target net is judged by but does not move
    gradient on s alone  neither: targets are 0, so that no net reads s'
    products             the matrix products of an update and a plain step, nothing else; the neighbourhoods are there already
    Retrace, H           the learner's own update on stored sequences of H + 1 rows

    ratio  each of them / update, no bars

Every row is a compiled loop, timed alone, in turns, with one thread as `valex train` has it. Before the clock starts, the update
written here has to make the learner's step, also where it takes one pass.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from common import footer, header, interleave, paired, ratio, show
from loops import BATCH_DISCRETE, base_config, loop, sized, timer, update_loop

from valex import replay as replays
from valex.agents.common import descend
from valex.agents.ddqn import DDQNState, at
from valex.config import RETRACE
from valex.device import cpu_threads, set_up_jax
from valex.expansion import make_critic_target
from valex.losses import td_loss
from valex.networks import q_ensemble
from valex.settings import DDQNConfig, RunConfig
from valex.train import Parts, TrainState, make_parts, make_program
from valex.types import Transition

UPDATE = "update"
WAYS = {
    "one pass": {"one_pass": True},
    "no Adam": {"adam": False},
    "no Adam, target net still": {"adam": False, "moves": False},
    "gradient on s alone": {"adam": False, "moves": False, "targets": False},
}


def make_update(
    config: RunConfig, parts: Parts, one_pass: bool = False, adam: bool = True, moves: bool = True, targets: bool = True
) -> Callable:
    """Build (state, key, batch) -> state: the update of `agents/ddqn.py` at H = 0, parts of it changed."""
    agent = config.agent
    assert isinstance(agent, DDQNConfig)
    net = q_ensemble(parts.env.spec, agent.filters, agent.hidden, agent.num_critics, agent.dueling)
    tx, target_of = optax.adam(agent.critic_lr), make_critic_target(config.critic, config.gamma, None)

    def apart(online: Any, state: DDQNState, key: jax.Array, batch: Transition) -> jax.Array:
        target = jnp.zeros(batch.reward.shape[1])
        if targets:
            target = target_of(parts.agent.bootstrap(state), key, batch, ())
        return td_loss(at(net.apply(online, batch.obs[0]), batch.action[0]), target)

    def together(online: Any, state: DDQNState, key: jax.Array, batch: Transition) -> jax.Array:
        del key
        before, after = jnp.split(net.apply(online, jnp.concatenate([batch.obs[0], batch.next_obs[0]])), 2, axis=1)
        judged = at(net.apply(state.target, batch.next_obs[0]), jnp.argmax(jnp.min(after, axis=0), axis=-1))
        target = batch.reward[0] + config.gamma * (1.0 - batch.terminated[0]) * jnp.min(judged, axis=0)
        return td_loss(at(before, batch.action[0]), target)

    def update(state: DDQNState, key: jax.Array, batch: Transition) -> DDQNState:
        """Take one step."""
        grads, opt = jax.grad(together if one_pass else apart)(state.online, state, key, batch), state.opt
        if adam:
            online, opt = descend(tx, grads, opt, state.online)
        else:
            online = jax.tree.map(lambda p, g: p - agent.critic_lr * g, state.online, grads)
        target = optax.incremental_update(online, state.target, agent.tau) if moves else state.target
        return DDQNState(online, target, state.normalizer, opt, state.steps, state.updates + 1)

    return update


def changed_loop(update: Callable, parts: Parts, state: TrainState, count: int) -> Callable[[], float]:
    """Time an update that `make_update` built, its batch drawn as by `loops.update_loop`."""

    def body(i, agent_state):
        sample_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
        batch = replays.sample_sequences(state.replay, sample_key, BATCH_DISCRETE, parts.window)
        return update(agent_state, key, batch)

    return timer(loop(body, count), state.agent, count)


def products_loop(config: RunConfig, parts: Parts, state: TrainState, count: int) -> Callable[[], float]:
    """Time the products of an update: three passes forward, and back through one of them."""
    del state
    agent, (rows, columns, channels) = config.agent, parts.env.spec.grid
    assert isinstance(agent, DDQNConfig)
    cells, actions, (width,) = (rows - 2) * (columns - 2), parts.env.spec.num_actions, agent.hidden
    sizes = {
        "near": (BATCH_DISCRETE * cells, 9 * channels),  # neighbourhoods of s; of s' they are `near_next`
        "kernel": (9 * channels, agent.filters),
        "dense": (cells * agent.filters, width),
        "head": (width, actions),
    }
    draw = lambda seed: {  # noqa: E731
        name: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape) / shape[0] ** 0.5
        for i, (name, shape) in enumerate(sizes.items())
    }

    def forward(net: dict, near: jax.Array) -> tuple[jax.Array, ...]:
        seen = (near @ net["kernel"]).reshape(BATCH_DISCRETE, -1)
        inner = seen @ net["dense"]
        return seen, inner, inner @ net["head"]

    def body(i, carry):
        """Multiply; every result moves something that the next turn reads, by next to nothing."""
        net, other = carry
        seen, inner, out = forward(net, net["near"])
        slope = out + 1e-9 * (forward(net, other["near"])[2] + forward(other, other["near"])[2])
        d_inner = slope @ net["head"].T
        d_seen = (d_inner @ net["dense"].T).reshape(-1, agent.filters)
        moves = {"kernel": net["near"].T @ d_seen, "dense": seen.T @ d_inner, "head": inner.T @ slope}
        return net | {"near": other["near"]} | {n: net[n] - 1e-9 * x for n, x in moves.items()}, other | {
            "near": net["near"]
        }

    return timer(loop(body, count), (draw(0), draw(1)), count)


def check(config: RunConfig, parts: Parts, state: TrainState) -> None:
    """Stop unless the update written here makes the learner's step, whether its passes are one or two."""
    key = jax.random.key(7)
    batch = jax.jit(replays.sample_sequences, static_argnums=(2, 3))(state.replay, key, BATCH_DISCRETE, parts.window)
    own = jax.jit(parts.agent.update)(state.agent, key, batch, ())[0]
    for one_pass in (False, True):
        made = jax.jit(make_update(config, parts, one_pass))(state.agent, key, batch)
        for a, b in zip(*map(jax.tree.leaves, (own, made)), strict=True):
            assert jnp.allclose(a, b, rtol=1e-4, atol=1e-6), f"another step than the learner's, one_pass={one_pass}"


def main() -> None:
    """Measure all rows in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--horizon", type=int, nargs="+", default=[5, 10], help="of Retrace")
    parser.add_argument("--seconds", type=float, default=0.5, help="of every timed loop")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each row")
    args = parser.parse_args()
    set_up_jax("cpu", args.threads)
    config = base_config("minatar-breakout:128")
    parts, state = make_parts(config), make_program(config).start(jnp.uint32(0))
    header(f"update of double DQN on breakout, batch {BATCH_DISCRETE}, {cpu_threads()} threads")
    check(config, parts, state)
    contestants = {UPDATE: sized(update_loop, parts, state, args.seconds)}
    for name, changes in WAYS.items():
        make = partial(changed_loop, make_update(config, parts, **changes))
        contestants[name] = sized(make, parts, state, args.seconds)
    contestants["products"] = sized(partial(products_loop, config), parts, state, args.seconds)
    for horizon in args.horizon:
        traced = replace(config, critic=replace(RETRACE, horizon=horizon))
        own = make_program(traced).start(jnp.uint32(0))
        contestants[f"Retrace, H = {horizon}"] = sized(update_loop, make_parts(traced), own, args.seconds)
    times = interleave(contestants, args.rounds)
    show(times, "ms", lambda s: 1e3 * s)
    for name in list(contestants)[1:]:
        label = name.replace(" = ", "").replace(",", "").replace(" ", "_")
        ratio(f"{label}_over_update", paired(times, lambda s, name=name: s[name] / s[UPDATE]))
    footer()


if __name__ == "__main__":
    main()
