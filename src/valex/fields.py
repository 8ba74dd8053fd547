"""One field of a config at a time: its type, its range, the names it may hold; one clear line where it does not.

What goes together is in `checks.py`. Imports no jax.
"""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from valex.settings import (
    Activation,
    Cap,
    Closing,
    CriticAgg,
    Density,
    Estimator,
    Gradient,
    Layers,
    MemberAgg,
    Policy,
    Propagation,
    Resampling,
    RunConfig,
    Schedule,
    Source,
    Starts,
    Termination,
    WarmupNoise,
)
from valex.tables import AGENTS, ENVS, MODELS, RULES


class ConfigError(ValueError):
    """A field that cannot be: one line that names the field, the value and what is allowed."""


CHOICES = {
    "env.name": tuple(ENVS),
    "agent.name": tuple(AGENTS),
    "agent.density": get_args(Density),
    "agent.policy": get_args(Policy),
    "critic.rule": tuple(RULES),
    "critic.source": get_args(Source),
    "critic.estimator": get_args(Estimator),
    "critic.critic_agg": get_args(CriticAgg),
    "critic.member_agg": get_args(MemberAgg),
    "actor.estimator": get_args(Estimator),
    "actor.gradient": get_args(Gradient),
    "actor.closing": get_args(Closing),
    "actor.starts": get_args(Starts),
    "agent.spectral.layers": get_args(Layers),
    "agent.spectral.cap": get_args(Cap),
    "model.name": tuple(MODELS),
    "model.activation": get_args(Activation),
    "model.spectral.layers": get_args(Layers),
    "model.spectral.cap": get_args(Cap),
    "model.propagation": get_args(Propagation),
    "model.termination": get_args(Termination),
    "model.schedule": get_args(Schedule),
    "model.bootstrap": get_args(Resampling),
    "train.warmup_noise": get_args(WarmupNoise),
}

RANGES = {  # field: (low, high, low allowed, high allowed); for a tuple, of each of its numbers
    "env.action_repeat": (1, 1000, True, True),
    "env.episode_length": (1, 10**9, True, True),
    "env.reward_offset": (-math.inf, math.inf, False, False),
    "env.sticky_actions": (0, 1, True, True),
    "agent.hidden": (1, 16_384, True, True),
    "agent.actor_lr": (0, math.inf, False, False),
    "agent.critic_lr": (0, math.inf, False, False),
    "agent.alpha_lr": (0, math.inf, True, False),
    "agent.init_alpha": (0, math.inf, False, False),
    "agent.target_entropy_per_dim": (-math.inf, math.inf, False, False),
    "agent.final_target_entropy_per_dim": (-math.inf, math.inf, False, False),
    "agent.entropy_decay": (0, math.inf, False, False),
    "agent.entropy_updates": (1, 10**12, True, True),
    "agent.model_free_updates": (0, 10**12, True, True),
    "agent.spectral.coefficient": (0, math.inf, False, False),
    "agent.tau": (0, 1, False, True),
    "agent.tau_actor": (0, 1, False, True),
    "agent.exploration_noise": (0, math.inf, False, False),
    "agent.policy_delay": (1, 10**6, True, True),
    "agent.target_noise": (0, math.inf, True, False),
    "agent.noise_clip": (0, math.inf, True, False),
    "agent.filters": (1, 4096, True, True),
    "agent.target_every": (1, 10**9, True, True),
    "agent.epsilon_start": (0, 1, True, True),
    "agent.epsilon_end": (0, 1, True, True),
    "agent.epsilon_steps": (1, 10**12, True, True),
    "agent.temperature": (0, math.inf, False, False),
    "agent.num_critics": (1, 64, True, True),
    "critic.horizon": (0, 1000, True, True),
    "critic.lam": (0, 1, True, True),
    "critic.particles": (1, 4096, True, True),
    "critic.max_disagreement": (0, math.inf, True, False),
    "critic.target_min": (-math.inf, math.inf, False, False),
    "critic.target_max": (-math.inf, math.inf, False, False),
    "actor.horizon": (0, 1000, True, True),
    "actor.particles": (1, 4096, True, True),
    "actor.start_mix": (0, 1, True, True),
    "actor.grad_clip": (0, math.inf, False, False),
    "actor.segment_weight": (0, math.inf, False, False),
    "actor.truncate": (0, 1000, True, True),
    "actor.adjoint_clip": (0, math.inf, False, False),
    "actor.bias_budget": (0, math.inf, False, False),
    "model.num_models": (1, 64, True, True),
    "model.num_elites": (1, 64, True, True),
    "model.hidden": (1, 16_384, True, True),
    "model.spectral.coefficient": (0, math.inf, False, False),
    "model.lr": (0, math.inf, False, False),
    "model.batch_size": (1, 10**6, True, True),
    "model.grad_clip": (0, math.inf, False, False),
    "model.steps_per_env_step": (0, 10**4, True, True),
    "model.train_every": (1, 10**9, True, True),
    "model.pretrain_steps": (0, 10**7, True, True),
    "model.max_steps": (1, 10**7, True, True),
    "model.loss_steps": (1, 1000, True, True),
    "model.step_weights": (0, math.inf, True, False),
    "model.holdout": (0, 0.5, True, True),
    "model.patience": (0, 10**6, True, True),
    "model.data_limit": (1, 10**12, True, True),
    "model.noise": (0, math.inf, True, False),
    "model.bias": (0, math.inf, True, False),
    "train.env_steps": (1, 10**12, True, True),
    "train.num_envs": (1, 10**6, True, True),
    "train.warmup_steps": (1, 10**12, True, True),
    "train.batch_size": (1, 10**6, True, True),
    "train.utd": (0, 10**4, True, True),
    "train.replay_capacity": (1, 10**9, True, True),
    "eval.every": (1, 10**12, True, True),
    "eval.episodes": (1, 10**5, True, True),
    "eval.value_bias_states": (0, 10**5, True, True),
    "eval.grad_samples": (0, 10**5, True, True),
    "diagnostics.target_horizons": (0, 1000, True, True),
    "diagnostics.target_states": (2, 10**6, True, True),
    "diagnostics.target_particles": (2, 10**5, True, True),
    "diagnostics.model_error_steps": (0, 10**5, True, True),
    "diagnostics.model_error_starts": (2, 10**5, True, True),
    "diagnostics.gradient_horizons": (0, 200, True, True),
    "diagnostics.gradient_starts": (32, 10**5, True, True),
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


def parts_of(hint: Any) -> tuple[Any, ...]:
    """Return the dataclasses that a field may hold: one, several where it is one of many kinds, () for a leaf."""
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    return tuple(option for option in options if is_dataclass(option))


def field_types(cls: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted field, type) for every leaf field of nested dataclasses, of every kind that a part may be of."""
    for name, hint in get_type_hints(cls).items():
        for part in parts_of(hint):
            yield from field_types(part, f"{prefix}{name}.")
        if not parts_of(hint):
            yield prefix + name, hint


TYPES = dict(field_types())


class Rules(NamedTuple):
    """What the fields of a family of configs may hold, by dotted name."""

    types: dict[str, Any]
    choices: dict[str, tuple[str, ...]]
    ranges: dict[str, tuple[float, float, bool, bool]]


RUN = Rules(TYPES, CHOICES, RANGES)
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
        return "a tuple of whole numbers" if get_args(hint)[0] is int else "a tuple of numbers"
    return _KINDS.get(hint, "None" if hint is type(None) else "text")


def wrong_value(field: str, value: Any, rules: Rules = RUN) -> str | None:
    """Return what is wrong with the value of one field, or None."""
    hint = rules.types[field]
    if not _is_a(value, hint):
        return f"{field}: {value!r} is not {_kind(hint)}"
    if field in rules.choices and value not in rules.choices[field]:
        return f"{field}: {value!r} is not known; choose one of {', '.join(rules.choices[field])}"
    if field not in rules.ranges or value is None:
        return None
    low, high, low_in, high_in = rules.ranges[field]
    numbers = value if isinstance(value, tuple) else (value,)
    fit = all((n >= low if low_in else n > low) and (n <= high if high_in else n < high) for n in numbers)
    allowed = f"{'[' if low_in else '('}{low}, {high}{']' if high_in else ')'}"
    return None if fit else f"{field}: {value} is outside {allowed}"


def check_fields(config: Any, rules: Rules = RUN, prefix: str = "") -> None:
    """Raise ConfigError with one line naming the first field of a config, behind `prefix`, that cannot be."""
    for name, value in flatten(config, prefix):
        if wrong := wrong_value(name, value, rules):
            raise ConfigError(wrong)
