"""Whole-run configs: presets, the canonical form, names, and JSON. What may stand in one: `checks.py`. Imports no jax."""

import hashlib
import json
from dataclasses import asdict, is_dataclass, replace
from typing import Any, get_args, get_type_hints

from valex.fields import ConfigError, parts_of
from valex.settings import (
    LEARNED,
    ActorConfig,
    CriticConfig,
    DDPGConfig,
    DDQNConfig,
    DiagnosticsConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RPGConfig,
    RunConfig,
    SpectralConfig,
    StoreConfig,
    TD3Config,
    TrainConfig,
    needs_model,
)

CE = CriticConfig(rule="h_step", source="model", horizon=3)
STEVE = CriticConfig(rule="steve", source="model", horizon=3, critic_agg="mean", member_agg="mean")
RETRACE = CriticConfig(rule="retrace", source="replay", horizon=3, estimator="doubly_robust")

RPG_MODEL = replace(LEARNED["ensemble"], num_models=1, deterministic=True)  # as released: one net without noise
RPG_SN = SpectralConfig("paper")
HARD = RPGConfig(init_alpha=1e-6, alpha_lr=0.0)  # no bonus for entropy to speak of

MINATAR = RunConfig(  # a game, and a loop of its pace: small batches, a schedule of exploration
    env=EnvConfig("minatar-breakout"),
    agent=DDQNConfig(epsilon_steps=10_000),
    train=TrainConfig(env_steps=100_000, warmup_steps=1_000, batch_size=32),
    eval=EvalConfig(every=5_000),
)

PRESETS = {
    "sac": RunConfig(),
    "sac-ce": RunConfig(critic=CE),
    "sac-mve": RunConfig(critic=CE, model=LEARNED["ensemble"]),
    "sac-steve": RunConfig(critic=STEVE, model=LEARNED["ensemble"]),
    "sac-ae": RunConfig(actor=ActorConfig(horizon=3)),
    "sac-retrace": RunConfig(critic=RETRACE),
    "rpg": RunConfig(agent=RPGConfig(), actor=ActorConfig(horizon=3), model=RPG_MODEL),
    "rpg-dr": RunConfig(agent=RPGConfig(), actor=ActorConfig(horizon=3, gradient="dr"), model=RPG_MODEL),
    "rpg-sn": RunConfig(
        agent=RPGConfig(spectral=RPG_SN), actor=ActorConfig(horizon=3), model=replace(RPG_MODEL, spectral=RPG_SN)
    ),
    "rpg-lr": RunConfig(agent=RPGConfig(), actor=ActorConfig(horizon=3, gradient="lr"), model=RPG_MODEL),
    "apg": RunConfig(agent=HARD, actor=ActorConfig(32, closing="nothing", starts="nu", grad_clip=1.0)),
    "shac": RunConfig(
        agent=HARD,
        critic=CriticConfig("td_lambda", "model", 15, lam=0.95, td_k=True, critic_agg="first"),
        actor=ActorConfig(16, closing="target_critic", grad_clip=1.0),
        train=TrainConfig(batch_size=64),
    ),
    "ddpg": RunConfig(agent=DDPGConfig()),
    "ddpg-ce": RunConfig(agent=DDPGConfig(), critic=CE),
    "ddpg-mve": RunConfig(agent=DDPGConfig(), critic=CE, model=LEARNED["ensemble"]),
    "ddpg-ae": RunConfig(agent=DDPGConfig(), actor=ActorConfig(horizon=3)),
    "ddpg-retrace": RunConfig(agent=DDPGConfig(), critic=RETRACE),
    "td3": RunConfig(agent=TD3Config()),
    "td3-ce": RunConfig(agent=TD3Config(), critic=CE),
    "td3-mve": RunConfig(agent=TD3Config(), critic=CE, model=LEARNED["ensemble"]),
    "td3-ae": RunConfig(agent=TD3Config(), actor=ActorConfig(horizon=3)),
    "td3-retrace": RunConfig(agent=TD3Config(), critic=RETRACE),
    "ddqn": MINATAR,
    "ddqn-ce": replace(MINATAR, critic=CE),
    "ddqn-mve": replace(MINATAR, critic=CE, model=LEARNED["grid"]),
    "ddqn-retrace": replace(MINATAR, critic=RETRACE),
    "ddqn-nstep": replace(MINATAR, critic=CriticConfig(rule="h_step", source="replay", horizon=2)),
    "model": RunConfig(model=LEARNED["ensemble"], train=TrainConfig(utd=0)),
    "model-grid": replace(  # all of its actions are random: there is no policy to follow
        MINATAR,
        agent=DDQNConfig(epsilon_start=1.0, epsilon_end=1.0),
        model=LEARNED["grid"],
        train=replace(MINATAR.train, utd=0),
    ),
}

PRESET_SUMMARIES = {
    "sac": "soft actor-critic, H = 0",
    "sac-ce": "critic expansion: H oracle steps in the critic's target",
    "sac-mve": "critic expansion with a learned ensemble (MVE)",
    "sac-steve": "critic expansion, horizons weighted by what members and critics agree on (STEVE)",
    "sac-ae": "actor expansion: H differentiable model steps in the actor's objective",
    "sac-retrace": "Retrace on stored sequences of H + 1 steps, no model",
    "rpg": "RP-DP: the actor climbs the value along 3 steps of a learned model (2310.19927)",
    "rpg-dr": "RP-DR: the same along stored segments, with the noises that they imply",
    "rpg-sn": "RP-DP with spectral normalisation of policy and model",
    "rpg-lr": "likelihood ratio in place of the gradient through the model",
    "apg": "analytic policy gradient: 32 steps of the simulator, no critic behind them (deviation D30)",
    "shac": "short-horizon actor-critic: 16 steps of the simulator, TD(lambda) on the same rollouts (deviation D30)",
    "ddpg": "deterministic policy gradient, twin critics, H = 0",
    "ddpg-ce": "DDPG with critic expansion",
    "ddpg-mve": "DDPG with critic expansion and a learned ensemble",
    "ddpg-ae": "DDPG with actor expansion",
    "ddpg-retrace": "DDPG with Retrace, the density that of the exploration noise",
    "td3": "twin delayed DDPG, H = 0",
    "td3-ce": "TD3 with critic expansion",
    "td3-mve": "TD3 with critic expansion and a learned ensemble",
    "td3-ae": "TD3 with actor expansion",
    "td3-retrace": "TD3 with Retrace, the density that of the exploration noise",
    "ddqn": "double DQN on MinAtar breakout, H = 0",
    "ddqn-ce": "DDQN with critic expansion, greedy rollouts of the game itself",
    "ddqn-mve": "DDQN with critic expansion and a learned model of the grid",
    "ddqn-retrace": "DDQN with Retrace, for the greedy policy the cut of Watkins",
    "ddqn-nstep": "DDQN with uncorrected 3-step returns",
    "model": "train the dynamics model alone, on random data",
    "model-grid": "the same for the grid of a MinAtar game",
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
        actor = ActorConfig(
            closing=actor.closing,
            starts=actor.starts,
            start_mix=actor.start_mix,
            grad_clip=actor.grad_clip,
            normalize_grad=actor.normalize_grad,
        )
    if actor.gradient != "dr":
        actor = replace(actor, segment_weight=ActorConfig().segment_weight)
    if actor.gradient != "alpha_order":
        actor = replace(actor, bias_budget=None)
    if actor.starts != "mixture":
        actor = replace(actor, start_mix=ActorConfig().start_mix)
    agent = config.agent
    if isinstance(agent, DDPGConfig) and (critic.rule, critic.horizon > 0) != ("retrace", True):
        agent = replace(agent, density=DDPGConfig().density)  # nobody reads it
    if isinstance(agent, RPGConfig):
        agent = _canonical_rpg(agent, actor.horizon)
    if isinstance(agent, DDQNConfig) and agent.policy == "greedy":
        agent = replace(agent, temperature=DDQNConfig().temperature)
    config = replace(config, critic=critic, actor=actor, agent=agent)
    return replace(config, model=_canonical_model(config.model) if needs_model(config) else ModelConfig())


def _canonical_rpg(agent: RPGConfig, horizon: int) -> RPGConfig:
    """Return the settings of RP-PGM without those that nobody reads."""
    usual = RPGConfig()
    if agent.final_target_entropy_per_dim in (None, agent.target_entropy_per_dim):
        agent = replace(
            agent,
            final_target_entropy_per_dim=None,
            entropy_decay=usual.entropy_decay,
            entropy_updates=usual.entropy_updates,
        )
    if agent.spectral.layers == "none":
        agent = replace(agent, spectral=usual.spectral)
    return agent if horizon else replace(agent, model_free_updates=0)


CADENCE = {  # what the schedule `released` does not read, at its default
    name: getattr(ModelConfig(), name) for name in ("steps_per_env_step", "train_every", "pretrain_steps", "max_steps")
}


def _canonical_model(model: ModelConfig) -> ModelConfig:
    """Return the settings of a dynamics model without those of the others."""
    if model.name in LEARNED:
        elites = None if model.num_elites == model.num_models else model.num_elites
        spectral = SpectralConfig() if model.spectral.layers == "none" else model.spectral
        model = replace(model, noise=0.0, bias=0.0, num_elites=elites, spectral=spectral)
        return replace(model, **CADENCE) if model.schedule == "released" else model
    if model.name == "noisy_oracle":
        return ModelConfig(name=model.name, noise=model.noise, bias=model.bias)
    return ModelConfig(name=model.name)


def as_declared(config: Any) -> Any:
    """Return a config whose number fields hold floats, so that equal configs are written alike (1 and 1.0, 0.0 and -0.0)."""
    values = {}
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        number = hint is float or (float in get_args(hint) and isinstance(value, (int, float)))
        values[name] = as_declared(value) if is_dataclass(value) else float(value) + 0.0 if number else value
    return replace(config, **values)


def digest(values: dict, digits: int) -> str:
    """Return the first hex digits of the sha256 of nested plain dicts; the order of their keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:digits]


def horizon(config: RunConfig) -> int:
    """Return H: the longer of the critic's and the actor's horizon."""
    return max(config.critic.horizon, config.actor.horizon)


def expansion(config: RunConfig) -> str:
    """Return what a config adds to its learner: ce, ae, retrace, nstep and combinations; "" for nothing.

    A model that is not the oracle is named after the part that rolls it out, but ce with a learned model is mve.
    """
    critic, learned, parts = config.critic, config.model.name in LEARNED, []
    if critic.horizon > 0:
        usual = critic.rule == "h_step"
        if critic.source == "model":
            name = "mve" if learned else "ce"
            parts.append(name if usual else f"{name}_{critic.rule}")
        else:
            parts.append("nstep" if usual else critic.rule)
    if config.actor.horizon > 0:
        parts.append("ae_learned" if learned else "ae")
    return "-".join(parts)


def algorithm(config: RunConfig) -> str:
    """Return the short name of what a config trains: sac, ddpg-ce, td3-retrace; model where it is the dynamics model alone."""
    if config.train.utd == 0:
        return "model"
    return "-".join(filter(None, (config.agent.name, expansion(config))))


def config_hash(config: RunConfig) -> str:
    """Return 8 hex digits of what determines a run's training: the canonical config less storage and diagnostics."""
    core = as_declared(replace(canonical(config), diagnostics=DiagnosticsConfig(), store=StoreConfig()))
    return digest(asdict(core), 8)


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
        kinds = parts_of(hints[name])
        if kinds:
            values[name] = from_dict(value, kinds[0] if len(kinds) == 1 else _kind_of(value, kinds))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def _kind_of(data: Any, kinds: tuple[type, ...]) -> type:
    """Return which of several dataclasses a dict was made of, by its name."""
    named = {cls().name: cls for cls in kinds}
    name = data.get("name", kinds[0]().name) if isinstance(data, dict) else None
    if name not in named:
        raise ConfigError(f"{name!r} is none of {', '.join(named)}; written by another version of valex?")
    return named[name]
