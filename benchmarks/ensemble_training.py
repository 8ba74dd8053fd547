"""Gradient steps per second of the dynamics ensemble, against a PyTorch ensemble of batched linear layers, in one run.

    python benchmarks/ensemble_training.py --torch-python TORCH_ENV/bin/python

TORCH_ENV holds `pip install torch`. Both train 5 x (4 x 256) ReLU members, batch 256 for each member, on the same 20,000 steps of
the same sizes (hopper: 11 numbers of observation, 3 of action), with a Gaussian likelihood, learned bounds and Adam. The PyTorch
contestant is written here after the layout of mbrl-lib (one tensor [N, in, out] per layer, a batched product and then the bias,
mini-batches drawn by NumPy on the host), because mbrl-lib itself does not import on Python 3.11. `--fused` lets it use `baddbmm`,
which mbrl-lib does not.
Also printed: the floating point operations per second of both, over those of 256 x 256 matrix products in XLA.
"""

import argparse
import sys
import time

import numpy as np
from common import Worker, footer, header, interleave, paired, ratio, serve, show

OBS, ACT, N, HIDDEN, BATCH, ROWS = 11, 3, 5, (256, 256, 256, 256), 256, 20_000


def flops_per_step() -> float:
    """Return forward, backward and weight-gradient operations of one gradient step: 6 per weight and row."""
    sizes = (OBS + ACT, *HIDDEN, 2 * (OBS + 1))
    weights = sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    return 6.0 * weights * N * BATCH - 2.0 * sizes[0] * sizes[1] * N * BATCH  # no gradient of the inputs


def data() -> tuple[np.ndarray, ...]:
    """Return (obs, action, change, reward), the same for both contestants."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(ROWS, OBS)), rng.uniform(-1, 1, size=(ROWS, ACT))
    change = 0.1 * np.tanh(obs @ rng.normal(size=(OBS, OBS)) + action @ rng.normal(size=(ACT, OBS)))
    return tuple(x.astype(np.float32) for x in (obs, action, change, change.sum(1)))


def serve_valex() -> None:
    """The loop of gradient steps of `valex train`, drawing from a filled replay."""
    import jax
    import jax.numpy as jnp
    import optax

    from valex import device, normalize, replay
    from valex.envs.base import native_env
    from valex.models.ensemble import Units, make_kind
    from valex.models.fitting import make_fit, make_losses
    from valex.settings import ModelConfig
    from valex.types import EnvSpec, Transition

    device.set_up_jax("cpu")
    config = ModelConfig("ensemble", hidden=HIDDEN, batch_size=BATCH, num_models=N)
    obs, action, change, reward = map(jnp.asarray, data())
    rows = Transition(obs, action, reward, obs + change, jnp.zeros(ROWS, bool), jnp.zeros(ROWS, bool))
    ring = replay.init(jax.tree.map(lambda x: x[0], rows), ROWS, 1)
    fill = lambda ring, row: (replay.add(ring, jax.tree.map(lambda x: x[None], row)), None)  # noqa: E731
    ring, _ = jax.jit(lambda ring, rows: jax.lax.scan(fill, ring, rows))(ring, rows)
    spec, unused = EnvSpec("rows", OBS, ACT, 0, ROWS, 1, 1.0, "jax", True), lambda *inputs: inputs[0]
    kind = make_kind(native_env(spec, unused, unused, unused, unused), config)
    members = kind.init(jax.random.key(0))
    tx = optax.adam(config.lr)
    fit = jax.jit(make_fit(make_losses(kind, config), tx, config)[0])
    changes = normalize.update(normalize.init(OBS + 1), jnp.concatenate([change, reward[:, None]], 1))
    scale = 1.0 / normalize.scale_shift(changes)[0]
    known = (ring, Units(changes.mean, scale, normalize.update(normalize.init(OBS), obs)), jnp.uint32(1))
    state = (members, jax.vmap(tx.init)(members))
    jax.block_until_ready(fit(*state, known, jax.random.key(1), jnp.int32(2)))

    def answer(steps: int) -> dict:
        nonlocal state
        begin = time.perf_counter()
        done = jax.block_until_ready(fit(*state, known, jax.random.key(1), jnp.int32(steps)))
        seconds = time.perf_counter() - begin
        state = (done.members, done.opt)
        return {"seconds": seconds, "steps": int(done.steps), "mse": float(jnp.mean(done.mse))}

    serve({"version": f"jax {jax.__version__}, {device.cpu_threads()} threads"}, answer)


def serve_torch(fused: bool) -> None:
    """The same with batched linear layers in PyTorch."""
    import torch

    obs, action, change, reward = data()
    inputs = np.concatenate([obs, action], 1)
    targets = np.concatenate([change, reward[:, None]], 1)
    targets = targets / targets.std(0)
    sizes = (OBS + ACT, *HIDDEN, 2 * (OBS + 1))
    generator = np.random.default_rng(1)

    class Ensemble(torch.nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
            self.weights = torch.nn.ParameterList([torch.randn(N, a, b) / a**0.5 for a, b in pairs])
            self.biases = torch.nn.ParameterList([torch.zeros(N, 1, b) for _, b in pairs])
            self.upper = torch.nn.Parameter(torch.full((1, OBS + 1), 0.5))
            self.lower = torch.nn.Parameter(torch.full((1, OBS + 1), -10.0))

        def forward(self, x):
            for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                x = torch.baddbmm(b, x, w) if fused else x.matmul(w) + b
                if k < len(HIDDEN):
                    x = torch.relu(x)
            mean, raw = x.split(OBS + 1, dim=-1)
            bent = self.upper - torch.nn.functional.softplus(self.upper - raw)
            return mean, self.lower + torch.nn.functional.softplus(bent - self.lower)

    model = Ensemble()
    tx = torch.optim.Adam(model.parameters(), lr=1e-3)

    def answer(steps: int) -> dict:
        begin = time.perf_counter()
        for _ in range(steps):
            rows = generator.integers(ROWS, size=(N, BATCH))
            mean, log_variance = model(torch.from_numpy(inputs[rows]))
            square = (mean - torch.from_numpy(targets[rows])) ** 2
            loss = (square * torch.exp(-log_variance) + log_variance).sum(-1).mean(-1).sum()
            loss = loss + 0.01 * (model.upper - model.lower).sum()
            tx.zero_grad(set_to_none=True)
            loss.backward()
            tx.step()
        return {"seconds": time.perf_counter() - begin, "steps": steps, "mse": float(square.mean())}

    answer(3)
    serve({"version": f"{torch.__version__}, {torch.get_num_threads()} threads"}, answer)


def serve_matmul() -> None:
    """Answer a number of 256 x 256 matrix products with the seconds they took: the machine's rate."""
    import jax
    import jax.numpy as jnp

    from valex import device

    device.set_up_jax("cpu")
    a = jax.random.normal(jax.random.key(0), (256, 256)) / 16.0

    @jax.jit
    def chain(x, n):
        return jax.lax.fori_loop(0, n, lambda i, y: jnp.dot(y, a), x)

    jax.block_until_ready(chain(a, 10))

    def answer(steps: int) -> dict:
        begin = time.perf_counter()
        jax.block_until_ready(chain(a, steps))
        return {"seconds": time.perf_counter() - begin, "steps": steps}

    serve({"version": f"jax {jax.__version__}, {device.cpu_threads()} threads"}, answer)


ROLES = {"valex": serve_valex, "torch": serve_torch, "matmul": serve_matmul}
TITLES = {"valex": "valex ensemble", "torch": "PyTorch batched linear", "matmul": "256^3 matrix products"}


def main() -> None:
    """Run the race, or serve one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch; default: this one")
    parser.add_argument("--steps", type=int, default=100, help="gradient steps per turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--fused", action="store_true", help="let PyTorch fuse product and bias")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return serve_torch(args.fused) if args.role == "torch" else ROLES[args.role]()
    header("dynamics ensemble, 5 x (4 x 256), batch 256 per member")
    products = round(args.steps * flops_per_step() / (2 * 256**3))  # as many operations as the ensemble's turn
    workers: dict[str, Worker] = {}
    for name, python in (("valex", sys.executable), ("torch", args.torch_python), ("matmul", sys.executable)):
        try:
            workers[name] = Worker(
                python, __file__, ["--role", name, *["--fused"] * args.fused], {"JAX_PLATFORMS": "cpu"}
            )
            print(f"# {TITLES[name]}: {workers[name].about['version']}")
        except (RuntimeError, OSError) as error:
            print(f"# {TITLES[name]} is MISSING in {python}: {error}")
    count = {name: products if name == "matmul" else args.steps for name in workers}
    errors: dict[str, float] = {}

    def turn(name: str) -> float:
        workers[name].ask(count[name])
        said = workers[name].answer()
        assert said["steps"] == count[name]
        errors[name] = said.get("mse", 0.0)
        return said["seconds"]

    times = interleave({name: lambda name=name: turn(name) for name in workers}, args.rounds)
    for worker in workers.values():
        worker.close()
    show({TITLES[n]: t for n, t in times.items() if n != "matmul"}, "gradient steps/s", lambda s: args.steps / s)
    show({TITLES[n]: t for n, t in times.items()}, "GFLOP/s", lambda s: args.steps * flops_per_step() / s / 1e9)
    print("# mean squared error after the last turn:", {n: f"{e:.2g}" for n, e in errors.items() if n != "matmul"})
    if "torch" in times:
        ratio("ensemble/torch", paired(times, lambda s: s["torch"] / s["valex"]), at_least=1.5)
    ratio("ensemble/matmul", paired(times, lambda s: s["matmul"] / s["valex"]), at_least=0.7)
    footer()


if __name__ == "__main__":
    main()
