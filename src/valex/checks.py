"""What goes together in a whole-run config; one clear line where it does not. Imports no jax."""

import math
from typing import Any

from valex.fields import ConfigError, check_fields, flatten
from valex.settings import (
    AGENT_CONFIGS,
    GOLDEN,
    HOLDOUT_BLOCK,
    HOLDOUT_CHECK_EVERY,
    LEARNED,
    DDQNConfig,
    ModelConfig,
    RunConfig,
    needs_model,
)
from valex.tables import RULES


def to_learn(config: RunConfig) -> str:
    """Return which dynamics models that learn a config could have: grids of flags are those of discrete games."""
    return f"set model.name {' or '.join(LEARNED) if isinstance(config.agent, DDQNConfig) else 'ensemble'}"


def check(config: RunConfig) -> RunConfig:
    """Return the config if it can run. Raises ConfigError with one line naming the first field that cannot be."""
    check_fields(config)
    _check_agent(config)
    _check_target(config)
    _check_expansion(config)
    if needs_model(config):
        _check_model(config)
    _check_loop(config)
    return config


def _check_agent(config: RunConfig) -> None:
    """Raise ConfigError where the fields are not those of the learner, or ask for what it does not have."""
    agent = config.agent
    if type(agent) is not AGENT_CONFIGS[agent.name]:
        raise ConfigError(f"agent.name: {agent.name} with the fields of {type(agent).__name__}; take its own class")
    spectral = getattr(agent, "spectral", None)
    if spectral and spectral.layers == "release" and len(agent.hidden) < 2:
        raise ConfigError(
            "agent.spectral.layers: release leaves out first and last layer, so one hidden layer has none to normalise; "
            "give agent.hidden two widths, or set it to paper"
        )
    if not agent.hidden:
        raise ConfigError("agent.hidden: () is empty; give one or more widths, each at least 1")
    if isinstance(agent, DDQNConfig) and config.actor.horizon:
        raise ConfigError(
            "actor.horizon: ddqn has no actor, and no gradient reaches a discrete action; set it to 0 and expand the "
            "critic (critic.source model, critic.horizon)"
        )


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
    _check_actor(config)
    if config.actor.horizon == 0 and config.actor.particles > 1:
        raise ConfigError("actor.particles: only model rollouts have particles; set actor.horizon above 0")


def _check_actor(config: RunConfig) -> None:
    """Raise ConfigError where gradient, starts and horizon of the actor do not go together."""
    actor = config.actor
    if actor.horizon == 0:
        for name, asked in (("gradient", actor.gradient != "dp"), ("truncate", actor.truncate > 0)):
            if asked or (name == "truncate" and actor.adjoint_clip is not None):
                raise ConfigError(f"actor.{name}: without a model step there is no choice; set actor.horizon above 0")
    if actor.horizon == 0 and actor.closing == "nothing":
        raise ConfigError("actor.closing: with H = 0 nothing would be left; set actor.horizon above 0")
    if actor.closing != "critic" and config.agent.name == "ddqn":
        raise ConfigError("actor.closing: ddqn has no actor; leave it out")
    if actor.gradient != "dp" and (actor.particles > 1 or actor.estimator != "plain"):
        raise ConfigError(
            f"actor.gradient: {actor.gradient} takes one rollout for each sample; set actor.particles 1 and "
            "actor.estimator plain"
        )
    if actor.gradient not in ("dp", "dr", "detach", "first_action") and config.agent.name in ("ddpg", "td3"):
        raise ConfigError(
            f"actor.gradient: {config.agent.name} has no noise to take a likelihood of; take sac or rpg, or dp"
        )
    if (actor.gradient == "alpha_order") != (actor.bias_budget is not None):
        raise ConfigError(
            "actor.bias_budget: alpha_order needs one, and nothing else reads it; a tenth of actor/grad_norm is a start"
        )
    if actor.grad_clip is not None and actor.normalize_grad:
        raise ConfigError("actor.normalize_grad: a gradient of norm 1 needs no actor.grad_clip; leave one of them out")
    if actor.starts != "replay" and config.agent.name == "ddqn":
        raise ConfigError("actor.starts: ddqn has no actor; leave it out")


def _check_expansion(config: RunConfig) -> None:
    """Raise ConfigError where members, critics and the TD-k trick ask for what the target does not have."""
    critic = config.critic
    imagines = critic.source == "model" and critic.horizon > 0
    for name, asked in (
        ("member_agg", critic.member_agg != "sample"),
        ("td_k", critic.td_k),
        ("max_disagreement", critic.max_disagreement is not None),
    ):
        if asked and not imagines:
            raise ConfigError(f"critic.{name}: only model rollouts have that; set critic.source model and a horizon")
    if critic.rule == "steve" and critic.horizon > 0 and critic.member_agg == "sample":
        raise ConfigError(
            "critic.member_agg: steve weighs members by their spread; set --critic.member_agg mean "
            "(and --critic.source model, --critic.critic_agg mean)"
        )
    if critic.td_k and critic.rule == "steve":
        raise ConfigError(
            "critic.td_k: trains on one rollout, rule steve compares many; take another rule or leave td_k out"
        )
    if critic.td_k and (critic.member_agg != "sample" or critic.particles > 1):
        raise ConfigError("critic.td_k: trains on one rollout; set critic.member_agg sample and critic.particles 1")
    if critic.target_min is not None and critic.target_max is not None and critic.target_min >= critic.target_max:
        raise ConfigError(f"critic.target_min: {critic.target_min} must be below target_max {critic.target_max}")


def _check_model(config: RunConfig) -> None:
    """Raise ConfigError where the settings of the dynamics model do not go together."""
    model, train = config.model, config.train
    if train.utd == 0 and model.name not in LEARNED:
        raise ConfigError(
            f"train.utd: 0 trains the dynamics model alone, and {model.name} learns nothing; {to_learn(config)}, or train.utd "
            "above 0"
        )
    if model.name != "noisy_oracle" and (model.noise or model.bias):
        raise ConfigError("model.noise: noise and bias are those of an oracle; set model.name noisy_oracle")
    _check_members(config)
    if model.name not in LEARNED:
        _check_nothing_to_learn(config)
        return
    if model.name == "grid" and config.actor.horizon > 0:  # so the learner is none of discrete actions
        raise ConfigError("model.name: no gradient flows through the flags of grid; set model.name ensemble")
    if model.name == "grid" and model.spectral.layers != "none":
        raise ConfigError("model.spectral.layers: grid has none to normalise; set model.name ensemble, or layers none")
    if not model.hidden:
        raise ConfigError("model.hidden: () is empty; give one or more widths, each at least 1")
    elites = model.num_models if model.num_elites is None else model.num_elites
    if elites > model.num_models:
        raise ConfigError(
            f"model.num_elites: {elites} elites of model.num_models {model.num_models}; lower it, or leave it out"
        )
    if elites < model.num_models and model.holdout == 0:
        raise ConfigError("model.num_elites: elites are chosen on held out steps; set model.holdout above 0")
    if model.step_weights and (len(model.step_weights) != model.loss_steps or not any(model.step_weights)):
        raise ConfigError(
            f"model.step_weights: {len(model.step_weights)} weights for model.loss_steps {model.loss_steps}; "
            "give one for each, not all 0, or none"
        )
    if model.batch_size < model.loss_steps:
        raise ConfigError(f"model.batch_size: {model.batch_size} is less than one window of {model.loss_steps} steps")
    if model.train_every % train.num_envs and model.train_every > 1:
        raise ConfigError(f"model.train_every: {model.train_every} must be a multiple of num_envs {train.num_envs}")
    _check_model_data(config)


def _check_nothing_to_learn(config: RunConfig) -> None:
    """Raise ConfigError where a model that learns nothing comes with settings of one that does, as in a preset made for it."""
    model, usual = config.model, dict(flatten(ModelConfig()))
    kept = ("name", "noise", "bias")
    extra = {f"model.{name}": value for name, value in flatten(model) if name not in kept and value != usual[name]}
    if not extra:
        return
    back = ", ".join(f"{name} {as_word(usual[name.removeprefix('model.')])}" for name in extra)
    raise ConfigError(
        f"model.name: {model.name} learns nothing, and {', '.join(extra)} would have no effect; {to_learn(config)}, or {back}"
    )


def as_word(value: Any) -> str:
    """Return a value as the command line takes it."""
    return (",".join(map(str, value)) or "to nothing") if isinstance(value, tuple) else str(value)


def _check_members(config: RunConfig) -> None:
    """Raise ConfigError where a target compares members of a model that has one."""
    critic, model = config.critic, config.model
    if model.name in LEARNED and model.num_models > 1:
        return
    remedy = "raise model.num_models" if model.name in LEARNED else to_learn(config)
    if critic.max_disagreement is not None:
        raise ConfigError(f"critic.max_disagreement: one member cannot disagree; {remedy}")
    if critic.member_agg != "sample" and critic.rule != "steve":  # steve has the critics to compare
        raise ConfigError(f"critic.member_agg: there is one member to aggregate over; {remedy}")


def _check_model_data(config: RunConfig) -> None:
    """Raise ConfigError where the model lacks the stored steps that it is to learn from or be judged on."""
    model, train = config.model, config.train
    if model.patience and model.holdout == 0:
        raise ConfigError("model.patience: early stopping needs held out steps; set model.holdout above 0")
    first = min(train.warmup_steps, model.data_limit or train.warmup_steps)
    if model.holdout and (least := holdout_steps(model.holdout, train.num_envs)) > first:
        name = "train.warmup_steps" if first == train.warmup_steps else "model.data_limit"
        raise ConfigError(
            f"{name}: of {first} steps none may be held out, in blocks of {HOLDOUT_BLOCK}; raise it to {least}, "
            "raise model.holdout or set it to 0"
        )
    if model.holdout and model.loss_steps > HOLDOUT_BLOCK:
        raise ConfigError(
            f"model.loss_steps: windows of {model.loss_steps} do not fit into the held out blocks of {HOLDOUT_BLOCK} steps; "
            "lower it or set model.holdout 0"
        )
    phase = max(model.pretrain_steps, model.steps_per_env_step * max(model.train_every, train.num_envs))
    if model.patience and model.schedule == "rate" and phase < HOLDOUT_CHECK_EVERY:
        raise ConfigError(
            f"model.patience: no phase reaches the first check after {HOLDOUT_CHECK_EVERY} gradient steps; "
            "raise model.train_every"
        )
    if model.data_limit is not None and train.replay_capacity < train.env_steps:
        raise ConfigError(
            f"model.data_limit: the first steps are overwritten; raise train.replay_capacity to {train.env_steps}"
        )
    if model.data_limit is not None and model.data_limit < model.loss_steps * train.num_envs:
        raise ConfigError(
            f"model.data_limit: {model.data_limit} holds no window of {model.loss_steps} steps in each of "
            f"{train.num_envs} environments"
        )


def holdout_steps(share: float, num_envs: int) -> int:
    """Return how many stored steps certainly have a block held out: with fewer the even lattice of blocks may miss them."""
    count, places = 1, [0.0]
    while share >= 1e-3 and max(b - a for a, b in zip(places, [*places[1:], 1.0], strict=True)) > share:
        places = sorted([*places, count * GOLDEN % 1.0])
        count += 1
    if share < 1e-3:  # counting would take long: the bound of the lattice
        count = math.ceil(1.7 / share)
    return -(-count // num_envs) * num_envs * HOLDOUT_BLOCK


def _check_loop(config: RunConfig) -> None:
    """Raise ConfigError where the counts of the training loop do not go together."""
    train, every = config.train, config.eval.every
    warmup = -(-train.warmup_steps // train.num_envs) * train.num_envs
    window = config.critic.horizon + 1 if config.critic.source == "replay" else 1
    window = max(window, config.actor.horizon + 1 if config.actor.gradient == "dr" else 1)
    window = max(window, config.model.loss_steps if needs_model(config) and config.model.name in LEARNED else 1)
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
    diagnostics = config.diagnostics
    if diagnostics.gradient_horizons and config.agent.name == "ddqn":
        raise ConfigError(
            "diagnostics.gradient_horizons: ddqn has no actor whose gradient could be taken apart; leave it out"
        )
    if diagnostics.gradient_starts % 16:
        raise ConfigError(f"diagnostics.gradient_starts: {diagnostics.gradient_starts} is no multiple of 16; take 128")
    if config.diagnostics.model_error_steps and not needs_model(config):
        raise ConfigError(
            "diagnostics.model_error_steps: there is no dynamics model to measure; set critic.source model and a horizon"
        )
    for name, steps in (("train.warmup_steps", warmup), ("train.replay_capacity", train.replay_capacity)):
        if steps // train.num_envs < window:
            raise ConfigError(
                f"{name}: {steps} is too little; sequences of {window} steps in each of {train.num_envs} environments "
                f"need at least {window * train.num_envs}"
            )
