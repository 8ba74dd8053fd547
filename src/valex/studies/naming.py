"""Arms: what the runs of a study are compared as. An arm has a key, the same wherever it is met, and a name for people.

key    mve_td_lambda critic.lam=0.75          what it adds to its learner, then those settings that are not its usual ones
name   TD(λ), λ = 0.75, learned                   rule, what is particular to it, dynamics model
"""

from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from valex.config import PRESETS, canonical, expansion
from valex.fields import flatten
from valex.settings import LEARNED, ActorConfig, CriticConfig, ModelConfig, RunConfig

AGENT_NAMES = {"sac": "SAC", "rpg": "RP-PGM", "ddpg": "DDPG", "td3": "TD3", "ddqn": "DDQN"}
BASELINE = "base"
CE, MVE, AE, AE_LEARNED, RETRACE = "ce", "mve", "ae", "ae_learned", "retrace"
ONE_NET = "model.num_models=1 model.deterministic=True"  # the model of 2310.19927
NORMALISED = "model.num_models=1 model.spectral.layers=paper model.deterministic=True"
NORMALISED_NET = f"{NORMALISED} agent.spectral.layers=paper"  # and its policy
ARM_NAMES = {  # and the order of arms in a report
    BASELINE: "no expansion (H = 0)",
    CE: "critic expansion (CE)",
    MVE: "critic expansion, learned (MVE)",
    AE: "actor expansion (AE)",
    AE_LEARNED: "actor expansion, learned (AE)",
    f"{AE_LEARNED} {ONE_NET}": "RP-DP",
    f"{AE_LEARNED} {NORMALISED_NET}": "RP-DP, spectral normalisation",
    f"{AE_LEARNED} actor.gradient=dr {ONE_NET}": "RP-DR",
    RETRACE: "Retrace",
    f"{CE}_retrace agent.density=released": "critic expansion, released density (B2)",
    f"{RETRACE} agent.density=released": "Retrace, released density (B2)",
}
ORACLE_OF = {MVE: CE, AE_LEARNED: AE}  # an arm with a learned model, and what it is with the oracle
BESIDE_LEARNED = {CE: "critic expansion, oracle (OVE)", AE: "actor expansion, oracle (AE)"}
TRAINING = (  # settings of a learned model that say how it is trained, not what it is
    "model.hidden",
    "model.activation",
    "model.normalize_targets",
    "model.lr",
    "model.batch_size",
    "model.grad_clip",
    "model.schedule",
    "model.steps_per_env_step",
    "model.train_every",
    "model.pretrain_steps",
    "model.max_steps",
    "model.bootstrap",
    "model.holdout",
    "model.patience",
)
MODEL_NAMES = {"noisy_oracle": "noisy oracle"}  # where an arm says which model it has
RULE_NAMES = {
    "": "critic expansion",
    "mean": "mean over horizons",
    "min": "min over horizons",
    "td_lambda": "TD(λ)",
    "retrace": "Retrace on the model",
    "steve": "STEVE",
}
INSTEAD = {  # settings that name the rule better than the rule itself
    "critic.td_k": "TD-k",
    "critic.max_disagreement": "uncertainty-terminated ({})",
}
SETTING_NAMES = {  # "field=value", or "field" with its value filled in
    "critic.lam": "λ = {}",
    "critic.critic_agg": "{} of critics",
    "critic.member_agg": "{} over members",
    "model.num_models=1": "single model",
    "model.num_models": "{} members",
    "model.loss_steps": "{}-step loss",
    "model.data_limit": "first {} steps only",
    "critic.particles": "{} particles",
    "model.noise": "noise {}",
    "model.bias": "bias {}",
    "model.deterministic=True": "without noise",
    "actor.grad_clip": "gradient clipped at {}",
    "actor.normalize_grad=True": "gradient normalised",
    "actor.truncate": "gradient cut every {} steps",
    "actor.adjoint_clip": "adjoint clipped at {}",
    "actor.gradient=dr": "along stored segments (RP-DR)",
    "actor.gradient=lr": "likelihood ratio",
    "actor.gradient": "gradient {}",
    "actor.closing=nothing": "no critic behind it",
    "actor.closing=target_critic": "closed by the target critic",
    "agent.spectral.layers=paper": "spectral normalisation of the policy",
    "agent.spectral.layers=release": "spectral normalisation of the policy (as released)",
    "model.spectral.layers=paper": "of the model",
    "model.spectral.layers=release": "of the model (as released)",
    "agent.density=released": "released density (B2)",
    "agent.policy=boltzmann": "Boltzmann policy",
    "agent.temperature": "temperature {}",
}


AGENT_SETTINGS = (  # of the learner, that make another arm
    "agent.density",
    "agent.policy",
    "agent.temperature",
    "agent.spectral.layers",
    "agent.spectral.coefficient",
    "agent.spectral.cap",
)


@lru_cache(maxsize=256)
def usual(name: str, critic: CriticConfig) -> RunConfig:
    """Return what an arm need not mention: the preset of its expansion, or its rule with what goes with it."""
    if name in (BASELINE, "model"):
        return canonical(PRESETS["sac" if name == BASELINE else name])
    if f"sac-{name}" in PRESETS:
        return canonical(PRESETS[f"sac-{name}"])
    model = LEARNED["ensemble"] if learned(name) else ModelConfig()
    if critic.rule == "steve":
        expanded = PRESETS["sac-steve"].critic
    else:
        estimator = "doubly_robust" if critic.rule == "retrace" else "plain"
        expanded = CriticConfig(critic.rule, critic.source, horizon=min(critic.horizon, 1), estimator=estimator)
    return canonical(RunConfig(critic=expanded, actor=ActorConfig(horizon=1), model=model))


def learned(name: str) -> bool:
    """Return whether an arm rolls out a learned model."""
    return "mve" in name.split(" ")[0] or name.split(" ")[0].endswith("_learned")


def without_model(key: str) -> str:
    """Return an arm with the oracle in place of a learned model; any other arm as it is: "mve_min" is "ce_min"."""
    for ours, theirs in ORACLE_OF.items():
        if key == ours or key.startswith((f"{ours} ", f"{ours}_")):
            return theirs + key[len(ours) :]
    return key


def arm(config: RunConfig, shared: Collection[str] = ()) -> str:
    """Return the key of the arm of a run, whatever its learner is: "ce critic.particles=8".

    `shared` are settings that every run beside it has in common, as far as it has them at all: they stay unsaid. Without
    them no two runs that train differently, seed, horizon and what surrounds them apart, have the same key.
    """
    config = canonical(config)
    name = "model" if config.train.utd == 0 else expansion(config) or BASELINE
    ours, theirs = dict(flatten(config)), dict(flatten(usual(name, config.critic)))
    theirs |= dict(flatten(type(config.agent)(), "agent."))
    if config.model.name in LEARNED:  # the environment decides which; its usual settings are not said
        theirs |= dict(flatten(LEARNED[config.model.name], "model."))
    settings = [n for n in ours if n.startswith(("critic.", "actor.", "model.")) and not n.endswith(".horizon")]
    settings += [n for n in ours if n in AGENT_SETTINGS]
    said = {n: ours[n] for n in settings if n not in shared and ours[n] != theirs[n]}
    return " ".join([name, *(f"{n}={_text(value)}" for n, value in said.items())])


def _text(value: object) -> str:
    """Return the value of a setting as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def shared_training(configs: Collection[RunConfig]) -> frozenset[str]:
    """Return the settings of TRAINING in which all runs with a learned model agree."""
    models = [canonical(config).model for config in configs]
    found = [dict(flatten(model, "model.")) for model in models if model.name in LEARNED]
    return frozenset(name for name in TRAINING if len({str(settings[name]) for settings in found}) <= 1)


class Words(NamedTuple):
    """An arm of critic expansion on a model, in words."""

    rule: list[str]  # with what is particular to it
    model: str
    particular: list[str]  # to the model


def _words(key: str) -> Words | None:
    """Return the words of an arm of critic expansion; None for any other arm."""
    base, settings = _split(key)
    agent, _, rule = base.partition("_")
    if agent not in (CE, MVE) or rule not in RULE_NAMES:
        return None
    usually = "learned" if learned(base) else "oracle"
    model = MODEL_NAMES.get(settings.pop("model.name", ""), usually)
    what = [text.format(settings.pop(n)) for n, text in INSTEAD.items() if n in settings] or [RULE_NAMES[rule]]
    of_rule = {n: v for n, v in settings.items() if n.startswith(("critic.", "agent."))}
    of_model = {n: v for n, v in settings.items() if n not in of_rule}
    return Words([*what, *_setting_names(of_rule)], model, _setting_names(of_model))


def _split(key: str) -> tuple[str, dict[str, str]]:
    """Return the algorithm of an arm and its settings."""
    base, *rest = key.split(" ")
    return base, {field: value for field, _, value in (part.partition("=") for part in rest)}


def arm_name(key: str, beside: Collection[str] = ()) -> str:
    """Return an arm in words; beside a learned model the oracle is named as such."""
    names = ARM_NAMES | BESIDE_LEARNED if any(map(learned, beside)) else ARM_NAMES
    base, settings = _split(key)
    if settings and key in names:
        return names[key]
    if base in names and "model.name" not in settings and not settings.keys() & INSTEAD.keys():
        return ", ".join([names[base], *_setting_names(settings)])
    words = _words(key)
    if words is None:
        return key
    rule = [] if words.model == "noisy oracle" and words.rule == [RULE_NAMES[""]] else words.rule
    return ", ".join([*rule, words.model, *words.particular])


def rule_name(key: str, h: int) -> str:
    """Return what an arm does at a horizon whatever its model is, in words: "H = 3", "min over horizons", "single model"."""
    words = _words(key)
    if words is None:
        return arm_name(key)
    plain = words.rule[0] == RULE_NAMES[""]
    return ", ".join([*words.rule[plain:], *words.particular]) or f"H = {h}"


def _setting_names(settings: dict[str, str]) -> list[str]:
    """Return settings in words, those without words as they are."""
    texts = {n: SETTING_NAMES.get(f"{n}={v}") or SETTING_NAMES.get(n) for n, v in settings.items()}
    return [text.format(settings[n]) if text else f"{n}={settings[n]}" for n, text in texts.items()]
