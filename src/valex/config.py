"""Whole-run configs: presets, checks with one clear line, names, and JSON. Imports no jax."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from valex.settings import (
    ActorConfig,
    CriticConfig,
    DiagnosticsConfig,
    Estimator,
    ModelConfig,
    RunConfig,
    Source,
    StoreConfig,
)
from valex.tables import AGENTS, ENVS, MODELS, RULES


class ConfigError(ValueError):
    """A field that cannot be: one line that names the field, the value and what is allowed."""


PRESETS = {
    "sac": RunConfig(),
    "sac-ce": RunConfig(critic=CriticConfig(rule="h_step", source="model", horizon=3)),
    "sac-ae": RunConfig(actor=ActorConfig(horizon=3)),
    "sac-retrace": RunConfig(
        critic=CriticConfig(rule="retrace", source="replay", horizon=3, estimator="doubly_robust")
    ),
}

PRESET_SUMMARIES = {
    "sac": "soft actor-critic, H = 0",
    "sac-ce": "critic expansion: H model steps in the critic's target",
    "sac-ae": "actor expansion: H differentiable model steps in the actor's objective",
    "sac-retrace": "Retrace on stored sequences of H + 1 steps, no model",
}

_CHOICES = {
    "env.name": tuple(ENVS),
    "agent.name": tuple(AGENTS),
    "critic.rule": tuple(RULES),
    "critic.source": get_args(Source),
    "critic.estimator": get_args(Estimator),
    "actor.estimator": get_args(Estimator),
    "model.name": tuple(MODELS),
}

_RANGES = {  # field: (low, high, low allowed, high allowed); for a tuple, of each of its numbers
    "env.action_repeat": (1, 1000, True, True),
    "env.episode_length": (1, 10**9, True, True),
    "env.reward_offset": (-math.inf, math.inf, False, False),
    "agent.hidden": (1, 16_384, True, True),
    "agent.actor_lr": (0, math.inf, False, False),
    "agent.critic_lr": (0, math.inf, False, False),
    "agent.alpha_lr": (0, math.inf, True, False),
    "agent.init_alpha": (0, math.inf, False, False),
    "agent.target_entropy_per_dim": (-math.inf, math.inf, False, False),
    "agent.tau": (0, 1, False, True),
    "agent.num_critics": (1, 64, True, True),
    "critic.horizon": (0, 1000, True, True),
    "critic.lam": (0, 1, True, True),
    "critic.particles": (1, 4096, True, True),
    "actor.horizon": (0, 1000, True, True),
    "actor.particles": (1, 4096, True, True),
    "train.env_steps": (1, 10**12, True, True),
    "train.num_envs": (1, 10**6, True, True),
    "train.warmup_steps": (1, 10**12, True, True),
    "train.batch_size": (1, 10**6, True, True),
    "train.utd": (1, 10**4, True, True),
    "train.replay_capacity": (1, 10**9, True, True),
    "eval.every": (1, 10**12, True, True),
    "eval.episodes": (1, 10**5, True, True),
    "eval.value_bias_states": (0, 10**5, True, True),
    "eval.grad_samples": (0, 10**5, True, True),
    "diagnostics.target_horizons": (0, 1000, True, True),
    "diagnostics.target_states": (2, 10**6, True, True),
    "diagnostics.target_particles": (2, 10**5, True, True),
    "store.checkpoint_every": (1, 10**9, True, True),
    "store.keep": (2, 1000, True, True),
    "store.keep_finished": (0, 1000, True, True),
    "gamma": (0, 1, True, False),
    "seed": (0, 2**32 - 1, True, True),
}


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted field, value) for every leaf field of nested dataclasses."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def field_types(cls: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted field, type) for every leaf field of nested dataclasses."""
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from field_types(hint, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]
        else:
            yield prefix + name, hint


TYPES = dict(field_types())
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a value is what a field's type says; whole numbers are numbers, true and false are not."""
    if get_origin(hint) is UnionType:
        return any(_is_a(value, option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, get_args(hint)[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, str if get_origin(hint) is Literal else hint)


def _kind(hint: Any) -> str:
    """Return a field's type in words."""
    if get_origin(hint) is UnionType:
        return " or ".join(_kind(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return "a tuple of whole numbers"
    return _KINDS.get(hint, "None" if hint is type(None) else "text")


def _wrong(field: str, value: Any) -> str | None:
    """Return what is wrong with the value of one field, or None."""
    if not _is_a(value, TYPES[field]):
        return f"{field}: {value!r} is not {_kind(TYPES[field])}"
    if field in _CHOICES and value not in _CHOICES[field]:
        return f"{field}: {value!r} is not known; choose one of {', '.join(_CHOICES[field])}"
    if field not in _RANGES or value is None:
        return None
    low, high, low_in, high_in = _RANGES[field]
    numbers = value if isinstance(value, tuple) else (value,)
    fit = all((n >= low if low_in else n > low) and (n <= high if high_in else n < high) for n in numbers)
    allowed = f"{'[' if low_in else '('}{low}, {high}{']' if high_in else ')'}"
    return None if fit else f"{field}: {value} is outside {allowed}"


def check(config: RunConfig) -> RunConfig:
    """Return the config if it can run. Raises ConfigError with one line naming the first field that cannot be."""
    for name, value in flatten(config):
        if wrong := _wrong(name, value):
            raise ConfigError(wrong)
    if not config.agent.hidden:
        raise ConfigError("agent.hidden: () is empty; give one or more widths, each at least 1")
    _check_target(config)
    _check_loop(config)
    return config


def _check_target(config: RunConfig) -> None:
    """Raise ConfigError where rule, source, horizon and estimator do not go together."""
    critic = config.critic
    if critic.rule == "td" and critic.horizon > 0:
        allowed = ", ".join(rule for rule in RULES if rule != "td")
        raise ConfigError(f"critic.horizon: rule td looks 0 steps ahead; set critic.rule to one of {allowed}")
    if critic.rule == "retrace" and critic.estimator != "doubly_robust":
        raise ConfigError(
            "critic.estimator: retrace is defined with doubly_robust; set --critic.estimator doubly_robust"
        )
    if critic.particles > 1 and (critic.source == "replay" or critic.horizon == 0):
        raise ConfigError("critic.particles: only model rollouts have particles; set critic.source model and a horizon")
    if config.actor.horizon == 0 and config.actor.particles > 1:
        raise ConfigError("actor.particles: only model rollouts have particles; set actor.horizon above 0")


def _check_loop(config: RunConfig) -> None:
    """Raise ConfigError where the counts of the training loop do not go together."""
    train, every = config.train, config.eval.every
    warmup = -(-train.warmup_steps // train.num_envs) * train.num_envs
    window = config.critic.horizon + 1 if config.critic.source == "replay" else 1
    if train.warmup_steps < train.batch_size:
        raise ConfigError(
            f"train.warmup_steps: {train.warmup_steps} must be at least train.batch_size {train.batch_size}"
        )
    if train.replay_capacity < train.batch_size:
        raise ConfigError(
            f"train.replay_capacity: {train.replay_capacity} must be at least train.batch_size {train.batch_size}"
        )
    if train.env_steps % train.num_envs or train.env_steps < warmup + train.num_envs:
        raise ConfigError(
            f"train.env_steps: {train.env_steps} must be a multiple of num_envs {train.num_envs} above the warm-up ({warmup})"
        )
    if train.env_steps // train.num_envs >= 2**31:
        raise ConfigError(
            f"train.env_steps: {train.env_steps} is 2^31 or more for each of train.num_envs {train.num_envs}"
        )
    if every % train.num_envs:
        raise ConfigError(f"eval.every: {every} must be a multiple of train.num_envs {train.num_envs}")
    for name, steps in (("train.warmup_steps", warmup), ("train.replay_capacity", train.replay_capacity)):
        if steps // train.num_envs < window:
            raise ConfigError(
                f"{name}: {steps} is too little; sequences of {window} steps in each of {train.num_envs} environments "
                f"need at least {window * train.num_envs}"
            )


def canonical(config: RunConfig) -> RunConfig:
    """Return the config with every field that has no effect at its default, so that equal cells are run once."""
    critic, actor = config.critic, config.actor
    if critic.horizon == 0:
        critic = CriticConfig()
    elif critic.rule not in ("td_lambda", "retrace"):
        critic = replace(critic, lam=1.0)
    if actor.horizon == 0:
        actor = ActorConfig(divide_by_length=True)
    rolls_out = (critic.source == "model" and critic.horizon > 0) or actor.horizon > 0
    return replace(config, critic=critic, actor=actor, model=config.model if rolls_out else ModelConfig())


def _as_declared(config: Any) -> Any:
    """Return a config whose number fields hold floats, so that equal configs are written alike (1 and 1.0, 0.0 and -0.0)."""
    values = {}
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        values[name] = _as_declared(value) if is_dataclass(value) else float(value) + 0.0 if hint is float else value
    return replace(config, **values)


def horizon(config: RunConfig) -> int:
    """Return H: the longer of the critic's and the actor's horizon."""
    return max(config.critic.horizon, config.actor.horizon)


def algorithm(config: RunConfig) -> str:
    """Return the short name of what a config trains: sac, sac-ce, sac-ae, sac-retrace and combinations."""
    critic, name = config.critic, config.agent.name
    if critic.horizon > 0:
        if critic.source == "model":
            name += "-ce" if critic.rule == "h_step" else f"-ce_{critic.rule}"
        else:
            name += "-nstep" if critic.rule == "h_step" else f"-{critic.rule}"
    return name + ("-ae" if config.actor.horizon > 0 else "")


def config_hash(config: RunConfig) -> str:
    """Return 8 hex digits of what determines a run's training: the canonical config less storage and diagnostics."""
    core = _as_declared(replace(canonical(config), diagnostics=DiagnosticsConfig(), store=StoreConfig()))
    return hashlib.sha256(json.dumps(asdict(core), sort_keys=True).encode()).hexdigest()[:8]


def run_id(config: RunConfig) -> str:
    """Return the name of a run's directory: <env>__<algorithm>__H<h>__s<seed>__<hash8>."""
    parts = (config.env.name, algorithm(config), f"H{horizon(config)}", f"s{config.seed}", config_hash(config))
    return "__".join(parts)


def to_dict(config: RunConfig) -> dict:
    """Return the config as nested plain dicts, ready for JSON."""
    return asdict(config)


def from_dict(data: dict, cls: type = RunConfig) -> Any:
    """Rebuild a config from `to_dict`. Raises ConfigError naming a field that this version does not know."""
    if not isinstance(data, dict):
        raise ConfigError(f"{cls.__name__}: {data!r} is not an object; is the file damaged?")
    hints = get_type_hints(cls)
    unknown = set(data) - set(hints)
    if unknown:
        raise ConfigError(f"{cls.__name__}: unknown field {sorted(unknown)[0]!r}; written by another version of valex?")
    values = {}
    for name, value in data.items():
        if is_dataclass(hints[name]):
            values[name] = from_dict(value, hints[name])
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)
