"""Whole-run configs: presets, the canonical form, names, and JSON. What may stand in one: `checks.py`. Imports no jax."""

import hashlib
import json
from dataclasses import asdict, is_dataclass, replace
from typing import Any, get_type_hints

from valex.fields import ConfigError
from valex.settings import (
    LEARNED,
    ActorConfig,
    CriticConfig,
    DiagnosticsConfig,
    ModelConfig,
    RunConfig,
    StoreConfig,
    TrainConfig,
    needs_model,
)

PRESETS = {
    "sac": RunConfig(),
    "sac-ce": RunConfig(critic=CriticConfig(rule="h_step", source="model", horizon=3)),
    "sac-mve": RunConfig(critic=CriticConfig(rule="h_step", source="model", horizon=3), model=LEARNED["ensemble"]),
    "sac-steve": RunConfig(
        critic=CriticConfig(rule="steve", source="model", horizon=3, critic_agg="mean", member_agg="mean"),
        model=LEARNED["ensemble"],
    ),
    "sac-ae": RunConfig(actor=ActorConfig(horizon=3)),
    "sac-retrace": RunConfig(
        critic=CriticConfig(rule="retrace", source="replay", horizon=3, estimator="doubly_robust")
    ),
    "model": RunConfig(model=LEARNED["ensemble"], train=TrainConfig(utd=0)),
}

PRESET_SUMMARIES = {
    "sac": "soft actor-critic, H = 0",
    "sac-ce": "critic expansion: H oracle steps in the critic's target",
    "sac-mve": "critic expansion with a learned ensemble (MVE)",
    "sac-steve": "critic expansion, horizons weighted by what members and critics agree on (STEVE)",
    "sac-ae": "actor expansion: H differentiable model steps in the actor's objective",
    "sac-retrace": "Retrace on stored sequences of H + 1 steps, no model",
    "model": "train the dynamics model alone, on random data",
}


def canonical(config: RunConfig) -> RunConfig:
    """Return the config with every field that has no effect at its default, so that equal cells are run once."""
    critic, actor, usual = config.critic, config.actor, CriticConfig()
    if critic.horizon == 0:
        critic = replace(
            usual, critic_agg=critic.critic_agg, target_min=critic.target_min, target_max=critic.target_max
        )
    elif critic.rule not in ("td_lambda", "retrace"):
        critic = replace(critic, lam=usual.lam)
    if actor.horizon == 0:
        actor = ActorConfig(divide_by_length=True)
    config = replace(config, critic=critic, actor=actor)
    return replace(config, model=_canonical_model(config.model) if needs_model(config) else ModelConfig())


CADENCE = {  # what the schedule `released` does not read, at its default
    name: getattr(ModelConfig(), name) for name in ("steps_per_env_step", "train_every", "pretrain_steps", "max_steps")
}


def _canonical_model(model: ModelConfig) -> ModelConfig:
    """Return the settings of a dynamics model without those of the others."""
    if model.name in LEARNED:
        elites = None if model.num_elites == model.num_models else model.num_elites
        model = replace(model, noise=0.0, bias=0.0, num_elites=elites)
        return replace(model, **CADENCE) if model.schedule == "released" else model
    if model.name == "noisy_oracle":
        return ModelConfig(name=model.name, noise=model.noise, bias=model.bias)
    return ModelConfig(name=model.name)


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
    """Return the short name of what a config trains: sac, sac-ce, sac-ae, sac-retrace and combinations.

    A model that is not the oracle is named after the part that rolls it out, but sac-ce with a learned model is sac-mve.
    """
    critic, name, learned = config.critic, config.agent.name, config.model.name in LEARNED
    if config.train.utd == 0:
        return "model"
    if critic.horizon > 0:
        if critic.source == "model":
            expansion = "mve" if learned else "ce"
            name += f"-{expansion}" if critic.rule == "h_step" else f"-{expansion}_{critic.rule}"
        else:
            name += "-nstep" if critic.rule == "h_step" else f"-{critic.rule}"
    if config.actor.horizon > 0:
        name += "-ae_learned" if learned else "-ae"
    return name


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
