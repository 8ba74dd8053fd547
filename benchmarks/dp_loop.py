"""The step-by-step loop in PyTorch that `dp_update.py` races against, and the nets and data that both of them get.

It unrolls as the release of arXiv 2310.19927 does, in Python; written here, from what the release computes. Needs NumPy and
PyTorch alone: `dp_update.py` starts it in another environment.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from common import serve

OBS, ACT, GAMMA, ALPHA, RATE, MIN_STD, CLIP = 17, 6, 0.99, 0.1, 1e-4, 1e-3, 5.0
CHECKED = 3  # updates
Layers = list[tuple[np.ndarray, np.ndarray]]  # weights [fan_in, fan_out] and biases


class Sizes(NamedTuple):
    """Hidden widths; without a decoder one net predicts change and reward, in units of their deviation."""

    policy: tuple[int, ...]
    critic: tuple[int, ...]
    model: tuple[int, ...]  # or of the encoder, whose last layer is linear
    decoder: tuple[int, ...] = ()
    reward: tuple[int, ...] = ()


SIZES = {
    "released": Sizes((512,) * 4, (512,) * 4, (256,) * 3, (256,) * 3, (512,) * 2),
    "rpg": Sizes((256,) * 2, (256,) * 2, (256,) * 4),
    "64,64": Sizes((64,) * 2, (64,) * 2, (64,) * 2),
}


def weights(sizes: Sizes) -> dict[str, Layers]:
    """Draw the layers of every net, the same in both processes."""
    rng = np.random.default_rng(0)

    def net(*widths: int) -> Layers:
        shapes = zip(widths[:-1], widths[1:], strict=True)
        drawn = [(rng.normal(size=(a, b)) / a**0.5, 0.1 * rng.normal(size=b)) for a, b in shapes]
        return [(w.astype(np.float32), b.astype(np.float32)) for w, b in drawn]

    nets = {"policy": net(OBS, *sizes.policy, 2 * ACT)}
    nets |= {f"critic_{i}": net(OBS + ACT, *sizes.critic, 1) for i in range(2)}
    if sizes.decoder:
        nets |= {"encoder": net(OBS + ACT, *sizes.model), "decoder": net(sizes.model[-1], *sizes.decoder, OBS)}
        return nets | {"reward": net(OBS + ACT, *sizes.reward, 1)}
    return nets | {"model": net(OBS + ACT, *sizes.model, OBS + 1)}


def data(batch: int) -> tuple[np.ndarray, ...]:
    """Return (starts [batch, OBS], observations seen, their changes with the reward, noise of the check [batch, ACT])."""
    rng = np.random.default_rng(1)
    starts, seen = rng.normal(size=(batch, OBS)), 2.0 * rng.normal(size=(2_000, OBS)) + 0.3
    changes, noise = 0.3 * rng.normal(size=(2_000, OBS + 1)) + 0.05, rng.normal(size=(batch, ACT))
    return tuple(x.astype(np.float32) for x in (starts, seen, changes, noise))


def answers(version: str, check: Callable, run: Callable) -> None:
    """Serve: 0 asks for the check, every other number for the seconds of so many updates, and those of this process alone."""

    def answer(count: int) -> dict:
        if count == 0:
            return {"check": check()}
        begin, own = time.perf_counter(), time.process_time()
        run(count)
        return {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - own}

    serve({"version": version}, answer)


def torch_step(sizes: Sizes, nets: dict[str, Layers]) -> tuple[Callable, Callable, dict]:
    """Return (obs -> what nets read of it, (obs, that, action) -> (successor, reward), the nets) in PyTorch."""
    import torch

    def module(layers: Layers) -> torch.nn.Sequential:
        parts: list[torch.nn.Module] = []
        for w, b in layers:
            linear = torch.nn.Linear(*w.shape)
            linear.weight.data, linear.bias.data = torch.tensor(w.T.copy()), torch.tensor(b)
            parts += [linear, torch.nn.ReLU(inplace=True)]
        return torch.nn.Sequential(*parts[:-1])

    own = {name: module(layers) for name, layers in nets.items()}
    for name, net in own.items():
        net.requires_grad_(name == "policy")

    def released(obs, seen, action):
        x = torch.cat([seen, action], -1)
        return obs + own["decoder"](own["encoder"](x)), own["reward"](x)[:, 0]

    if sizes.decoder:
        return lambda obs: obs, released, own
    _, seen, changes, _ = (torch.tensor(x) for x in data(1))
    shift, scale = changes.mean(0), changes.std(0, unbiased=False)
    centre, inverse = seen.mean(0), 1.0 / seen.std(0, unbiased=False)
    norm = lambda obs: ((obs - centre) * inverse).clamp(-CLIP, CLIP)  # noqa: E731

    def house(obs, seen, action):
        change = shift + scale * own["model"](torch.cat([seen, action], -1))
        return obs + change[:, :-1], change[:, -1]

    return norm, house, own


def serve_loop(sizes: Sizes, batch: int, horizon: int, threads: int) -> None:
    """The same update, step by step in Python."""
    import torch
    from torch.distributions import Normal
    from torch.nn.functional import softplus

    torch.set_num_threads(threads)
    starts, _, _, table = (torch.tensor(x) for x in data(batch))

    def make() -> Callable:
        """Return (noise or None) -> objective: one update of an actor of its own."""
        norm, step, nets = torch_step(sizes, weights(sizes))
        own = list(nets["policy"].parameters())
        tx = torch.optim.Adam(own, lr=RATE)

        def sample(seen, noise):
            """Return tanh(u) and its log-probability."""
            mean, raw = nets["policy"](seen).chunk(2, -1)
            law = Normal(mean, softplus(raw) + MIN_STD)
            latent = law.rsample() if noise is None else mean + law.scale * noise
            squashed = 2.0 * (np.log(2.0) - latent - softplus(-2.0 * latent))
            return torch.tanh(latent), (law.log_prob(latent) - squashed).sum(-1)

        def update(noise=None) -> dict:
            obs, seen, rewards = starts, norm(starts), []
            for t in range(horizon):
                action, log_prob = sample(seen, noise)
                obs, reward = step(obs, seen, action)
                rewards.append(GAMMA**t * (reward - ALPHA * log_prob))
                seen = norm(obs)
            action, log_prob = sample(seen, noise)
            x = torch.cat([seen, action], -1)
            value = torch.minimum(nets["critic_0"](x), nets["critic_1"](x))[:, 0]
            rewards.append(GAMMA**horizon * (value - ALPHA * log_prob))
            loss = -(torch.stack(rewards).sum(0) / (horizon + 1)).mean()
            tx.zero_grad(set_to_none=True)
            loss.backward()
            said = {}
            if noise is not None:
                grads, parameters = torch.cat([p.grad.ravel() for p in own]), torch.cat([p.ravel() for p in own])
                said = {"objective": -float(loss), "norm": float(grads.norm()), "slope": float(grads @ parameters)}
            tx.step()
            return said

        return update

    def check() -> list[dict]:
        own = make()
        return [own(table) for _ in range(CHECKED)]

    update = make()
    answers(f"torch {torch.__version__}", check, lambda count: [update() for _ in range(count)])
