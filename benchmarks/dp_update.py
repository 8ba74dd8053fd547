"""Updates of an actor along a learned model per second (RP-DP: gradient and Adam step), against a step-by-step loop in PyTorch.

    python benchmarks/dp_update.py --loop-python VENV/bin/python        # VENV: pip install torch numpy

    ratio  rate of valex / rate of the loop, for each size of nets and number of threads        bar 3
    ratio  the same of the update's matrix products alone: what no program can exceed that multiplies at XLA's rate

The loop (`dp_loop.py`) unrolls as the release of arXiv 2310.19927 does, in Python: policy, rsample, model, reward, append; at the
end critics, backward and Adam. Its model and critics ask for no gradients of their own. Both have the same nets, starts, threads
and batch (512), h = 5 model steps, 17 numbers of observation and 6 of action (HalfCheetah's). Nets:

    released   actor and critics 4 x 512, residual model of an encoder 3 x 256 and a decoder 3 x 256, reward net 2 x 512; the
               `Model` that holds them for valex stands in this file
    rpg        the preset: actor and critics 2 x 256, one deterministic model 4 x 256 of change and reward, normalised
    64,64      the same with these widths everywhere

Before the clock starts both take updates with the same weights and the same noise, and have to agree on the objective and on
the gradient. The release's net that ends episodes is left out on both sides. With two threads beside other work, PyTorch's wait
for each other: a hundred times as long, and the ratio is worth nothing.
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from common import Worker, footer, header, interleave, paired, ratio, show
from dp_loop import (
    ACT,
    ALPHA,
    CHECKED,
    GAMMA,
    MIN_STD,
    OBS,
    RATE,
    SIZES,
    Layers,
    Sizes,
    answers,
    data,
    serve_loop,
    weights,
)

TOLERANCE = {"objective": 1e-4, "norm": 1e-3, "slope": 1e-3}  # relative: of J, of |g|, of g along the parameters


def params_of(layers: Layers) -> dict:
    """Return layers as the parameters of a house net."""
    return {f"Dense_{i}": {"kernel": w, "bias": b} for i, (w, b) in enumerate(layers)}


def released_model(sizes: Sizes, nets: dict[str, Layers]) -> tuple:
    """Return (model, parameters, norm) of s' = s + decoder(encoder(s, a)) with a reward net: one house `Model`."""
    import jax.numpy as jnp

    from valex.networks import mlp
    from valex.types import Model, StepOut

    encoder = mlp(OBS + ACT, sizes.model[:-1], sizes.model[-1])
    decoder, reward = mlp(sizes.model[-1], sizes.decoder, OBS), mlp(OBS + ACT, sizes.reward, 1)

    def step(params, key, obs, action):
        x = jnp.concatenate([obs, action], axis=-1)
        after = obs + decoder.apply(params["decoder"], encoder.apply(params["encoder"], x))
        return after, StepOut(after, reward.apply(params["reward"], x)[..., 0], jnp.zeros(len(obs), bool))

    same = lambda params, key, replay: (params, {})  # noqa: E731
    model = Model(lambda key: (), lambda params, key, obs, sim_state: obs, step, same, False, True)
    return model, {name: params_of(nets[name]) for name in ("encoder", "decoder", "reward")}, lambda obs: obs


def house_model(sizes: Sizes, nets: dict[str, Layers]) -> tuple:
    """Return (model, parameters, norm) of the preset's model, which has seen some steps."""
    import jax
    import jax.numpy as jnp

    from valex import normalize
    from valex.config import RPG_MODEL
    from valex.envs.base import native_env
    from valex.models.ensemble import make_ensemble
    from valex.types import EnvSpec

    unused = lambda *inputs: inputs[0]  # noqa: E731
    spec = EnvSpec("rows", OBS, ACT, 0, 1_000, 1, 1.0, "jax", True)
    env = native_env(spec, unused, unused, unused, lambda *step: jnp.zeros((), bool))
    model = make_ensemble(env, replace(RPG_MODEL, hidden=sizes.model))
    _, seen, changes, _ = data(1)
    inputs, targets = (normalize.update(normalize.init(x.shape[1]), jnp.asarray(x)) for x in (seen, changes))
    params = model.init(jax.random.key(0))
    members = params.members._replace(net=jax.tree.map(lambda x: jnp.asarray(x)[None], params_of(nets["model"])))
    return model, params._replace(members=members, inputs=inputs, targets=targets), partial(normalize.normalize, inputs)


def serve_valex(sizes: Sizes, batch: int, horizon: int, threads: int) -> None:
    """The house's gradient and its optimiser step, any number of them as one compiled program."""
    from valex import device

    device.set_up_jax("cpu", threads)
    import jax
    import jax.numpy as jnp
    import optax

    from valex.actor_expansion import make_actor_gradient
    from valex.agents.common import descend
    from valex.agents.sac import bootstrap
    from valex.losses import gradient_norm
    from valex.networks import critic_ensemble, gaussian_actor
    from valex.settings import ActorConfig
    from valex.types import Transition

    nets = jax.tree.map(jnp.asarray, weights(sizes))
    start_obs, _, _, noise = map(jnp.asarray, data(batch))
    model, params, norm = (released_model if sizes.decoder else house_model)(sizes, nets)
    networks = gaussian_actor(OBS, ACT, sizes.policy, MIN_STD), critic_ensemble(OBS, ACT, sizes.critic, 2)
    gradient = make_actor_gradient(ActorConfig(horizon=horizon), GAMMA, model)[0]
    tx, zero, no = optax.adam(RATE), jnp.zeros(batch), jnp.zeros(batch, bool)
    starts = Transition(start_obs, jnp.zeros((batch, ACT)), zero, start_obs, no, no)
    given = tuple(params_of(nets[f"critic_{i}"]) for i in range(2)), params, starts

    def update(carry: tuple, key: Any, given: tuple) -> tuple:
        """Return the actor and its optimiser's state after one update, and what is checked."""
        (actor, opt), (critics, params, starts) = carry, given
        view = lambda actor: bootstrap(networks, actor, critics, jnp.asarray(ALPHA), norm)  # noqa: E731
        grads, (loss, _) = gradient(view, actor, key, starts, params)
        slope = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (grads, actor)), strict=True))
        return descend(tx, grads, opt, actor), {"objective": -loss, "norm": gradient_norm(grads), "slope": slope}

    def many(carry: tuple, given: tuple, count: Any) -> tuple:
        body = lambda i, carry: update(carry, jax.random.fold_in(jax.random.key(1), i), given)[0]  # noqa: E731
        return jax.lax.fori_loop(0, count, body, carry)

    actor = params_of(nets["policy"])
    fresh = actor, tx.init(actor)
    compiled, carry = jax.jit(many).lower(fresh, given, jnp.int32(1)).compile(), fresh

    def check() -> list[dict]:
        with mock.patch.object(jax.random, "normal", lambda key, shape: noise):  # at every step the same
            one = jax.jit(update).lower(fresh, jax.random.key(0), given).compile()
        found, own = [], fresh
        for _ in range(CHECKED):
            own, said = one(own, jax.random.key(0), given)
            found.append({name: float(x) for name, x in said.items()})
        return found

    def run(count: int) -> None:
        nonlocal carry
        carry = jax.block_until_ready(compiled(carry, given, jnp.int32(count)))

    answers(f"jax {jax.__version__}", check, run)


def products(sizes: Sizes, batch: int, horizon: int) -> Counter:
    """Return how often an update multiplies [m, k] by [k, n], {(m, k, n): times}; nothing is computed twice.

    The policy: forward, gradient of its weights and of what it reads, h + 1 times. Model (h times) and critics: without
    gradients of weights.
    """
    count = Counter()
    for name, layers in weights(sizes).items():
        calls = horizon + 1 if name == "policy" else 1 if name.startswith("critic") else horizon
        for i, (fan_in, fan_out) in enumerate(w.shape for w, _ in layers):
            count[batch, fan_in, fan_out] += calls
            count[batch, fan_out, fan_in] += calls - (name == "policy" and i == 0)  # starts have no gradient
            if name == "policy":
                count[fan_in, batch, fan_out] += calls
    return count


def serve_products(sizes: Sizes, batch: int, horizon: int, threads: int) -> None:
    """The matrix products of an update and nothing else: what no program that multiplies with XLA can be faster than."""
    from valex import device

    device.set_up_jax("cpu", threads)
    import jax
    import jax.numpy as jnp

    todo = products(sizes, batch, horizon)
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)  # noqa: E731
    state = [(draw(0, m, k), draw(1, k, n), jnp.zeros((m, n))) for m, k, n in todo]

    def multiply(i: Any, at: tuple) -> tuple:
        a, b, out = at
        return a.at[0, 0].set(1e-9 * out[0, 0]), b, a @ b  # so that no turn is like the one before

    def body(i: Any, state: list) -> list:
        return [jax.lax.fori_loop(0, n, multiply, at) for n, at in zip(todo.values(), state, strict=True)]

    compiled = (
        jax.jit(lambda state, count: jax.lax.fori_loop(0, count, body, state)).lower(state, jnp.int32(1)).compile()
    )
    giga = sum(2e-9 * m * k * n * times for (m, k, n), times in todo.items())
    run = lambda count: jax.block_until_ready(compiled(state, jnp.int32(count)))  # noqa: E731
    answers(f"{giga:.2f} GFLOP in its products", list, run)


ROLES = {"valex": serve_valex, "loop": serve_loop, "products": serve_products}


def check(workers: dict[str, Worker]) -> None:
    """Stop unless both optimise the same: J, |g| and the product of g with the parameters, at every checked update."""
    said = {}
    for name in ("valex", "loop"):
        workers[name].ask(0)
        said[name] = workers[name].answer()["check"]
    for at, (ours, theirs) in enumerate(zip(said["valex"], said["loop"], strict=True)):
        for name, tolerance in TOLERANCE.items():
            apart = abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-3)
            assert apart < tolerance, f"update {at}: {name} {ours[name]:.6g} and {theirs[name]:.6g} differ"
    said = ", ".join(f"{name} {value:.6g}" for name, value in ours.items())
    print(f"# both take the same updates; in the last one {said}")


def measure(nets: str, threads: int, args: argparse.Namespace) -> None:
    """Let both take turns with one size of nets and one number of threads."""
    sizes = ["--batch", str(args.batch), "--horizon", str(args.horizon)]
    own = ["--nets", nets, "--threads", str(threads), *sizes]
    own += [] if args.kept_steps is None else ["--kept-steps", str(args.kept_steps)]
    workers = {}
    for name in ROLES:
        python = args.loop_python if name == "loop" else sys.executable
        workers[name] = Worker(python, __file__, ["--serve", name, *own], {"JAX_PLATFORMS": "cpu"})
    print(f"## nets {nets}, {threads} threads: {', '.join(w.about['version'] for w in workers.values())}")
    check(workers)
    count = {}
    for name, worker in workers.items():
        worker.seconds(2)
        count[name] = max(1, round(args.seconds * 3 / worker.seconds(3)))

    def turn(worker: Worker, updates: int) -> float:
        worker.ask(updates)
        return worker.answer()["cpu" if args.cpu_time else "seconds"] / updates

    times = interleave({n: partial(turn, w, count[n]) for n, w in workers.items()}, args.rounds)
    for worker in workers.values():
        worker.close()
    show(times, "ms per update", lambda s: 1e3 * s)
    label = f"{nets.replace(',', 'x')}_h{args.horizon}_B{args.batch}_{threads}_threads"
    ratio(f"valex_over_loop_{label}", paired(times, lambda s: s["loop"] / s["valex"]), at_least=3.0)
    ratio(f"products_over_loop_{label}", paired(times, lambda s: s["loop"] / s["products"]))


def main() -> None:
    """Measure every size with every number of threads, or serve one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=tuple(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--loop-python", default=sys.executable, help="interpreter that has torch and numpy")
    parser.add_argument("--nets", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--horizon", type=int, default=5, help="model steps h")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    parser.add_argument(
        "--cpu-time", action="store_true", help="of each process, beside other work; with one thread only"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument(
        "--kept-steps", type=int, help="horizon up to which model steps are kept; 0: all are rematerialised"
    )
    args = parser.parse_args()
    if args.serve == "valex" and args.kept_steps is not None:
        from valex import windows

        windows.KEPT_STEPS = args.kept_steps
    if args.serve:
        return ROLES[args.serve](SIZES[args.nets[0]], args.batch, args.horizon, args.threads[0])
    header(f"actor updates along a learned model, h = {args.horizon}, batch {args.batch}")
    for nets in args.nets:
        for threads in args.threads:
            measure(nets, threads, args)
    footer()


if __name__ == "__main__":
    main()
