"""Arms: one key per setting, a name for people, no two alike."""

from dataclasses import replace

import pytest

from valex.settings import LEARNED, ActorConfig, CriticConfig, ModelConfig, RunConfig
from valex.studies.combine_horizons import quick as combine
from valex.studies.horizon import at_horizon, quick_base
from valex.studies.naming import TRAINING, arm, arm_name, rule_name, shared_training, without_model
from valex.studies.trust_your_model import quick as trust

BASE = quick_base()
CE, MVE, AE = (at_horizon(BASE, name, 3) for name in ("ce", "mve", "ae"))


def with_critic(config, **changes):
    return replace(config, critic=replace(config.critic, **changes))


def with_model(config, **changes):
    return replace(config, model=replace(config.model, **changes))


def test_settings_of_an_arm_are_part_of_its_key():
    assert arm(CE) == "ce"
    assert arm(with_critic(CE, particles=8)) == "ce critic.particles=8"
    assert arm(with_critic(CE, estimator="doubly_robust")) == "ce critic.estimator=doubly_robust"
    assert arm(replace(AE, actor=replace(AE.actor, divide_by_length=False))) == "ae actor.divide_by_length=False"
    assert arm(RunConfig()) == "base"
    assert arm(RunConfig(critic=CriticConfig("h_step", "replay", 3))) == "nstep"
    assert arm(RunConfig(critic=CriticConfig(critic_agg="mean"))) == "base critic.critic_agg=mean"
    steve = CriticConfig("steve", "model", 3, critic_agg="mean", member_agg="mean")
    assert arm(RunConfig(critic=steve)) == "ce_steve"
    assert arm(RunConfig(critic=replace(steve, critic_agg="min"))) == "ce_steve critic.critic_agg=min"


def test_what_is_usual_of_a_learned_model_is_unsaid():
    assert arm(replace(CE, model=LEARNED["ensemble"])) == "mve"
    assert arm(replace(CE, model=LEARNED["grid"])) == "mve"
    assert arm(replace(CE, model=replace(LEARNED["grid"], hidden=(8,)))) == "mve model.hidden=8"


def test_how_a_learned_model_is_trained_is_said_only_where_runs_differ_in_it():
    assert arm(MVE) == "mve model.hidden=128,128 model.steps_per_env_step=0.25"
    other = with_model(MVE, loss_steps=4)
    assert shared_training([MVE, other, CE]) == frozenset(TRAINING)
    assert [arm(c, shared_training([MVE, other])) for c in (MVE, other)] == ["mve", "mve model.loss_steps=4"]
    wide = with_model(MVE, hidden=(256,))
    shared = shared_training([MVE, wide])
    assert [arm(c, shared) for c in (MVE, wide)] == ["mve model.hidden=128,128", "mve model.hidden=256"]


def test_all_members_being_used_needs_no_word():
    assert arm(with_model(MVE, num_models=1), TRAINING) == "mve model.num_models=1"
    assert arm(with_model(MVE, num_elites=3, holdout=0.1), TRAINING) == "mve model.num_elites=3"


NAMES = [
    (CE, "critic expansion (CE)", "H = 3"),
    (MVE, "critic expansion, learned (MVE)", "H = 3"),
    (with_critic(MVE, rule="min"), "min over horizons, learned", "min over horizons"),
    (with_critic(CE, rule="mean"), "mean over horizons, oracle", "mean over horizons"),
    (with_critic(CE, rule="td_lambda", lam=0.75), "TD(λ), λ = 0.75, oracle", "TD(λ), λ = 0.75"),
    (with_critic(MVE, rule="steve", critic_agg="mean", member_agg="mean"), "STEVE, learned", "STEVE"),
    (with_critic(MVE, max_disagreement=0.3), "uncertainty-terminated (0.3), learned", "uncertainty-terminated (0.3)"),
    (with_critic(MVE, td_k=True), "TD-k, learned", "TD-k"),
    (with_model(MVE, num_models=1), "critic expansion, learned (MVE), single model", "single model"),
    (with_model(MVE, loss_steps=4), "critic expansion, learned (MVE), 4-step loss", "4-step loss"),
    (
        with_model(MVE, data_limit=512),
        "critic expansion, learned (MVE), first 512 steps only",
        "first 512 steps only",
    ),
    (replace(CE, model=LEARNED["grid"]), "critic expansion, learned (MVE)", "H = 3"),
    (
        replace(CE, model=replace(LEARNED["grid"], num_models=1)),
        "critic expansion, learned (MVE), single model",
        "single model",
    ),
    (replace(CE, model=ModelConfig("noisy_oracle", noise=0.1)), "noisy oracle, noise 0.1", "noise 0.1"),
    (replace(CE, model=ModelConfig("noisy_oracle", bias=0.3)), "noisy oracle, bias 0.3", "bias 0.3"),
    (replace(BASE, actor=ActorConfig(3)), "actor expansion, learned (AE)", "actor expansion, learned (AE)"),
    (with_critic(CE, particles=8), "critic expansion (CE), 8 particles", "8 particles"),
]


@pytest.mark.parametrize(("config", "name", "rule"), NAMES, ids=[name for _, name, _ in NAMES])
def test_names(config, name, rule):
    key = arm(config, TRAINING)
    assert arm_name(key) == name and rule_name(key, 3) == rule


def test_beside_a_learned_model_the_oracle_is_named():
    assert arm_name("ce", ["ce", "mve"]) == "critic expansion, oracle (OVE)"
    assert arm_name("ae", ["ae_learned"]) == "actor expansion, oracle (AE)"
    assert arm_name("ce", ["ce", "retrace"]) == "critic expansion (CE)"
    assert arm_name("base") == "no expansion (H = 0)"


def test_the_oracle_of_a_learned_arm():
    assert without_model("mve_min critic.member_agg=min") == "ce_min critic.member_agg=min"
    assert without_model("mve model.num_models=1") == "ce model.num_models=1"
    assert without_model("ae_learned") == "ae"
    assert [without_model(name) for name in ("base", "ce_min", "retrace", "H3")] == [
        "base",
        "ce_min",
        "retrace",
        "H3",
    ]


@pytest.mark.parametrize("preset", [trust, combine])
def test_no_two_arms_of_a_study_share_a_name(preset):
    keys = {arm(config, TRAINING) for config in preset()}
    assert len({arm_name(key, keys) for key in keys}) == len(keys)
