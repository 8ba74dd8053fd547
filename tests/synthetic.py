"""Synthetic runs of known shape for the tests of studies and reports: nothing is trained here."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from valex.config import algorithm, canonical, horizon, run_id, to_dict
from valex.settings import RunConfig
from valex.store import StoredRun
from valex.studies.base import UNDECIDED, Study, Verdict
from valex.studies.cells import Grid
from valex.studies.judge import judge
from valex.studies.naming import TRAINING, arm

START = -1200.0  # return of an untrained agent


def one_step(arm: str) -> float:
    """Return a one-step model error for an arm: its dial, a little for a learned model, none for the oracle."""
    for mark, size in (("model.noise=", 0.1), ("model.bias=", 0.1)):
        if mark in arm:
            return size * float(arm.split(mark)[1].split(" ")[0])
    if "model.data_limit=" in arm:
        return 20.0 / float(arm.split("model.data_limit=")[1])
    return 0.005 if "mve" in arm else 0.0


@dataclass(frozen=True)
class World:
    """What every run of a synthetic study looks like; functions take (arm, H), the arm without how its model is trained."""

    level: Callable[[str, int], float] = lambda arm, h: -200.0  # return that training converges to
    noise: float = 5.0  # sd over runs of that level
    seconds: Callable[[str, int], float] = lambda arm, h: 1e-3  # per update
    target_mean: Callable[[int], float] = lambda h: -50.0
    target_variance: Callable[[int], float] = lambda h: 1.0 + h
    bias: Callable[[str, int], float] = lambda arm, h: 2.0 + h  # of the critic
    model_error: Callable[[str, int], float] = lambda arm, k: one_step(arm) * k**0.5  # after k model steps
    gradient: Callable[[int], float] = lambda h: 1e-3  # std over parameter entries; per-sample std is 10 times that
    failed: frozenset = field(default_factory=frozenset)  # (arm, H, seed) of runs that diverge half way


def _targets(world: World, config: RunConfig, rng: np.random.Generator) -> dict:
    horizons = list(config.diagnostics.target_horizons)
    truth = -50.0 + rng.normal(0, 0.05)
    means = [world.target_mean(h) + rng.normal(0, 0.05) for h in horizons]
    variances = [world.target_variance(h) * np.exp(rng.normal(0, 0.05)) for h in horizons]
    table = {
        "mean": means,
        "variance": variances,
        "total_variance": [v + 100.0 for v in variances],
        "bias": [m - truth for m in means],
        "w1": [1.0 / (1.0 + h) for h in horizons],
    }
    robust = table | {"variance": [v * 2.0 for v in variances]}
    return {
        "horizons": horizons,
        "states": 256,
        "particles": 32,
        "mc_return": truth,
        "plain": table,
        "doubly_robust": robust,
    }


def _model_error(world: World, config: RunConfig, rng: np.random.Generator) -> dict:
    steps, scale = range(1, config.diagnostics.model_error_steps + 1), np.exp(rng.normal(0, 0.02))
    errors = {
        "rollout": [float(scale * world.model_error(arm(config, TRAINING), k)) for k in steps],
        "persistence": [float(0.1 * k) for k in steps],
    }
    loop = {"obs": {name: dict.fromkeys(("median", "rms"), values) for name, values in errors.items()}}
    return {"steps": list(steps), "open_loop": loop, "closed_loop": loop}


def _diagnostics(world: World, config: RunConfig, rng: np.random.Generator) -> dict:
    found = {}
    if config.diagnostics.target_horizons:
        found["targets"] = _targets(world, config, rng)
        spread = [world.gradient(h) * np.exp(rng.normal(0, 0.1)) for h in config.diagnostics.target_horizons]
        found["actor_gradients"] = {
            "horizons": list(config.diagnostics.target_horizons),
            "sample_variance": [(10.0 * s) ** 2 for s in spread],
            "param_std": spread,
            "norm": [30.0 * s for s in spread],
            "nonfinite_share": [0.0 for _ in spread],
            "divide_by_length": True,
            "estimator": "plain",
        }
    if config.diagnostics.model_error_steps and horizon(config):
        found["model_error"] = _model_error(world, config, rng)
    if config.diagnostics.overhead:
        total, share = world.seconds(arm(config, TRAINING), horizon(config)), 1e-3
        split = {"update_s": total, "rollout_s": total - 0.8 * share, "critic_s": 0.5 * share, "actor_s": 0.3 * share}
        found["overhead"] = split | {"repeats": 15, "device": "cpu"}
    return found


def run(world: World, config: RunConfig, root: Path = Path("runs")) -> StoredRun:
    """Return a run whose curve rises from START to the level of its cell."""
    name, h = arm(config, TRAINING), horizon(config)
    drawn_by = " ".join([algorithm(config), *name.split(" ")[1:]])  # learners differ too
    rng = np.random.default_rng(zlib.crc32(f"{config.env.name} {drawn_by} {h} {config.seed}".encode()))
    train = config.train
    steps = np.round(np.linspace(train.warmup_steps, train.env_steps, 17)[1:])
    failed = (name, h, config.seed) in world.failed
    steps = steps[: len(steps) // 2] if failed else steps
    level = world.level(name, h) + rng.normal(0, world.noise)
    returns = level + (START - level) * np.exp(-6.0 * steps / train.env_steps)
    spread = world.gradient(h) * np.exp(rng.normal(0, 0.2, len(steps)))
    metrics = {
        "env_steps": steps,
        "grad_steps": steps - train.warmup_steps,
        "eval/episode_return": returns,
        "target/mean": returns / 20.0,
        "target/variance": 500.0 * (1.0 + h) * np.exp(rng.normal(0, 0.2, len(steps))),
        "value/bias": rng.normal(world.bias(name, h), 1.0, len(steps)),
        "actor/grad_param_std": spread,
        "grad/actor_sample_variance": (10.0 * spread) ** 2,
        "grad/nonfinite_share": np.zeros(len(steps)),
    }
    critic = canonical(config).critic
    if critic.rule in ("min", "steve") or critic.max_disagreement is not None:
        ones = np.ones(len(steps))
        metrics |= {"target/horizon": 0.5 * h * ones, "target/model_use": 0.5 * ones, "target/gap": 0.1 * ones}
    if canonical(config).model.name == "ensemble":
        metrics["model/mse"] = 0.1 * np.exp(-3.0 * steps / train.env_steps)
    seconds = world.seconds(name, h) * np.exp(rng.normal(0, 0.01, len(steps)))
    message = f"critic/loss is not finite from env step {int(steps[-1]) + 1} on <script>" if failed else ""
    status = {"state": "failed" if failed else "finished", "env_steps": int(steps[-1]), "message": message}
    diagnostics = {} if failed else _diagnostics(world, config, rng)
    path = root / run_id(config)
    return StoredRun(path, config, status, metrics, {"env_steps": steps, "time/update_s": seconds}, diagnostics)


def save(run: StoredRun) -> None:
    """Write a run as `valex.store` lays it out."""
    run.path.mkdir(parents=True)
    versions = {"valex": "0.1.0", "jax": "0.10.2"}
    meta = {"versions": versions, "device": "cpu (test)", "commit": "0" * 40, "command": "valex study --preset <b>"}
    documents = {"config": to_dict(run.config), "status": run.status, "meta": meta, "diagnostics": run.diagnostics}
    for name, value in documents.items():
        (run.path / f"{name}.json").write_text(json.dumps(value))
    for name, columns in (("metrics", run.metrics), ("time", run.time)):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (run.path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def judged(study: Study, claim_id: str, grid: Grid) -> Verdict:
    """Return the only verdict on a claim of a study."""
    claim = next(claim for claim in study.claims if claim.id == claim_id)
    (found,) = judge(claim, grid)
    return found


def undecided_for_few(found: Verdict) -> bool:
    """Return whether a verdict on four seeds is undecided, and says that they are too few."""
    return found.verdict == UNDECIDED and found.n == 4 and "5 are needed" in found.reason
