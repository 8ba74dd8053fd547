"""Configs: what is refused, what a run is called, and that JSON gives back what went in."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import get_origin, get_type_hints

import numpy as np
import pytest
import tiny
from hypothesis import given, settings, strategies as st

from valex.checks import check
from valex.config import PRESETS, algorithm, canonical, config_hash, from_dict, horizon, run_id, to_dict
from valex.fields import CHOICES, RANGES, TYPES, ConfigError, flatten
from valex.settings import (
    AGENT_CONFIGS,
    LEARNED,
    ActorConfig,
    CriticConfig,
    DDPGConfig,
    DiagnosticsConfig,
    EnvConfig,
    ModelConfig,
    RunConfig,
    SpectralConfig,
    StoreConfig,
    TrainConfig,
)
from valex.tables import AGENTS, MODELS

NUMERIC = [name for name, hint in TYPES.items() if any(kind in str(hint) for kind in ("int", "float"))]


def put(config, name: str, value):
    """Return the config with one dotted field changed."""
    part, _, rest = name.partition(".")
    if not rest:
        return replace(config, **{part: value})
    if name == "agent.name" and value in AGENT_CONFIGS:
        return replace(config, agent=AGENT_CONFIGS[value]())
    own = getattr(config, part)
    if part == "agent" and not hasattr(own, rest.partition(".")[0]):  # of another learner
        own = next(cls() for cls in AGENT_CONFIGS.values() if hasattr(cls(), rest.partition(".")[0]))
    return replace(config, **{part: put(own, rest, value)})


def error(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_budget_belongs_to_alpha_order_and_release_to_two_layers():
    rpg = PRESETS["rpg"]
    mixed = replace(rpg, actor=replace(rpg.actor, gradient="alpha_order"))
    assert "actor.bias_budget: alpha_order needs one" in error(mixed)
    assert "actor.bias_budget" in error(replace(rpg, actor=replace(rpg.actor, bias_budget=0.1)))
    check(replace(mixed, actor=replace(mixed.actor, bias_budget=0.1)))
    narrow = replace(rpg.agent, hidden=(32,), spectral=SpectralConfig("release"))
    assert "agent.spectral.layers: release leaves out" in error(replace(rpg, agent=narrow))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_run(preset):
    assert check(PRESETS[preset]) is PRESETS[preset]


def test_every_number_has_a_range_and_every_name_a_table():
    assert set(NUMERIC) == set(RANGES)
    words = {n: hint for n, hint in TYPES.items() if hint not in (bool, bool | None)}
    texts = {n for n, hint in words.items() if get_origin(hint) is not tuple and n not in NUMERIC}
    assert texts - {"env.backend"} == set(CHOICES)  # which backends there are, the environment knows
    learners = [dict(flatten(replace(RunConfig(), agent=cls()))) for cls in AGENT_CONFIGS.values()]
    assert set(TYPES) == set().union(*learners)


def test_a_field_of_several_learners_has_one_type():
    seen = [(f, hint) for cls in AGENT_CONFIGS.values() for f, hint in get_type_hints(cls).items() if f != "name"]
    assert len(set(seen)) == len({f for f, _ in seen}) and set(AGENT_CONFIGS) == set(AGENTS)


@pytest.mark.parametrize("name", NUMERIC)
def test_the_range_that_a_field_documents_is_enforced(name):
    text = tiny.documentation()[name]
    low, high, low_in, high_in = RANGES[name]
    if found := re.search(r"\((>=?) (\d+)", text):
        assert (low, low_in) == (int(found[2]), found[1] == ">="), text
    if found := re.search(r"in ([\[(])(\d+), (\d+)([\])])", text):
        assert (low, high, low_in, high_in) == (int(found[2]), int(found[3]), found[1] == "[", found[4] == "]"), text
    if re.search(r"\b0 (turns it off|is the (one-step|ordinary))", text):
        assert (low, low_in) == (0, True), text


def outside(name: str) -> list:
    low, high, low_in, high_in = RANGES[name]
    step = 1 if "int" in str(TYPES[name]) else 1e-6
    values = [low - step if low_in else low, high + step if high_in else high]
    return [v for v in values if step != 1 or math.isfinite(v)]


@pytest.mark.parametrize(("name", "value"), [(name, v) for name in RANGES for v in outside(name)])
def test_a_number_outside_its_range_is_refused(name, value):
    wrong = (value,) if get_origin(TYPES[name]) is tuple else value
    said = error(put(RunConfig(), name, wrong))
    low, high, *_ = RANGES[name]
    assert said.startswith(f"{name}: ") and f"{low}, {high}" in said and str(value) in said


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("value", [math.nan, True, "3", np.int64(3), [3], 2.5])
def test_a_value_of_another_type_is_refused(name, value):
    if value == 2.5 and "float" in str(TYPES[name]):
        value = 2.5j
    assert error(put(RunConfig(), name, value)).startswith(f"{name}: ")


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["foo", None, 3])
def test_a_name_that_is_in_no_table_is_refused(name, value):
    said = error(put(RunConfig(), name, value))
    assert said.startswith(f"{name}: {value!r}") and (value != "foo" or CHOICES[name][-1] in said)


def mve(**changes) -> RunConfig:
    """The learned preset with changed fields of its model."""
    return replace(PRESETS["sac-mve"], model=replace(PRESETS["sac-mve"].model, **changes))


def ce(**changes) -> RunConfig:
    """Critic expansion with changed fields of its target."""
    return replace(PRESETS["sac-ce"], critic=replace(PRESETS["sac-ce"].critic, **changes))


TOGETHER = {
    "members of a replay": (
        RunConfig(critic=CriticConfig("h_step", "replay", 2, member_agg="mean")),
        "critic.member_agg",
    ),
    "td-k at H = 0": (ce(horizon=0, td_k=True), "critic.td_k: .*horizon"),
    "td-k of members": (ce(td_k=True, member_agg="mean"), "critic.td_k: .*sample"),
    "td-k of particles": (ce(td_k=True, particles=2), "critic.td_k: .*particles 1"),
    "cut of a replay": (
        RunConfig(critic=CriticConfig("h_step", "replay", 2, max_disagreement=1.0)),
        "critic.max_disagreement",
    ),
    "steve without members": (ce(rule="steve"), "critic.member_agg: .*mean"),
    "empty clip": (ce(target_min=0.0, target_max=0.0), "critic.target_min: 0.0 .*target_max"),
    "elites": (mve(num_models=3, num_elites=4), "model.num_elites: 4 .*num_models 3"),
    "elites unseen": (mve(num_elites=3), "model.num_elites: .*model.holdout"),
    "no layer": (mve(hidden=()), "model.hidden: .*at least 1"),
    "weights": (mve(loss_steps=3, step_weights=(1.0, 2.0)), "model.step_weights: 2 .*loss_steps 3"),
    "no weight": (mve(loss_steps=2, step_weights=(0.0, 0.0)), "model.step_weights: .*not all 0"),
    "small batch": (mve(loss_steps=8, batch_size=4), "model.batch_size: 4 .*8 steps"),
    "patience": (mve(patience=3), "model.patience: .*model.holdout"),
    "nothing held out": (mve(holdout=0.1, data_limit=100), "model.data_limit: .*raise it to 416"),
    "nothing held out at first": (mve(holdout=0.05), "train.warmup_steps: .*raise it to 1088"),
    "an oracle that learns": (
        mve(name="oracle", num_models=7),
        "model.name: oracle learns nothing, and model.num_models",
    ),
    "an oracle in a preset made for a net": (
        replace(PRESETS["rpg-dr"], model=replace(PRESETS["rpg-dr"].model, name="oracle")),
        "model.name: oracle learns nothing, and model.num_models, model.deterministic would have no effect; "
        "set model.name ensemble, or model.num_models 5, model.deterministic False$",
    ),
    "an oracle in a preset made for grids": (
        replace(PRESETS["ddqn-mve"], model=replace(PRESETS["ddqn-mve"].model, name="oracle")),
        "model.name: oracle learns nothing, .*; set model.name ensemble or grid, or model.hidden 256,256,256,256, ",
    ),
    "one member disagrees": (
        replace(mve(num_models=1), critic=CriticConfig("h_step", "model", 2, max_disagreement=0.1)),
        "critic.max_disagreement: .*raise model.num_models",
    ),
    "an oracle disagrees": (
        replace(RunConfig(), critic=CriticConfig("h_step", "model", 2, max_disagreement=0.1)),
        "critic.max_disagreement: .*set model.name ensemble",
    ),
    "members of an oracle": (
        replace(RunConfig(), critic=CriticConfig("h_step", "model", 2, member_agg="min")),
        "critic.member_agg: .*set model.name ensemble",
    ),
    "td_k with steve": (
        replace(mve(), critic=CriticConfig("steve", "model", 2, critic_agg="mean", member_agg="mean", td_k=True)),
        "critic.td_k: .*another rule",
    ),
    "no model to measure": (
        replace(RunConfig(), diagnostics=DiagnosticsConfig(model_error_steps=5)),
        "diagnostics.model_error_steps: .*critic.source model",
    ),
    "long windows": (mve(holdout=0.1, loss_steps=33), "model.loss_steps: .*model.holdout"),
    "short phases": (mve(patience=3, holdout=0.1, pretrain_steps=10), "model.patience: .*train_every"),
    "overwritten": (
        replace(mve(data_limit=500), train=TrainConfig(replay_capacity=1000)),
        "model.data_limit: .*replay_capacity to 8000",
    ),
    "little data": (mve(data_limit=3, loss_steps=4), "model.data_limit: 3 .*4 steps"),
    "longer windows": (mve(loss_steps=600, batch_size=600), "train.warmup_steps: .*600"),
    "cadence": (replace(mve(train_every=6), train=TrainConfig(num_envs=4)), "model.train_every: 6 .*num_envs 4"),
    "actor through flags": (
        replace(mve(name="grid", termination="learned"), actor=ActorConfig(2)),
        "model.name: .*flags of grid; set model.name ensemble$",
    ),
    "noise of flags": (mve(name="grid", noise=0.1), "model.noise: .*noisy_oracle"),
    "noise of a net": (mve(noise=0.1), "model.noise: .*noisy_oracle"),
    "noise of an oracle": (replace(ce(), model=ModelConfig(bias=0.1)), "model.noise: .*noisy_oracle"),
    "nothing to train": (RunConfig(train=TrainConfig(utd=0)), "train.utd: .*model.name ensemble"),
    "td looks no further": (RunConfig(critic=CriticConfig(horizon=2)), "critic.horizon: .*h_step"),
    "retrace corrects": (RunConfig(critic=CriticConfig("retrace", "replay", 2)), "critic.estimator: .*doubly_robust"),
    "particles replay": (
        RunConfig(critic=CriticConfig("h_step", "replay", 2, particles=2)),
        "critic.particles: .*model",
    ),
    "particles H = 0": (
        RunConfig(critic=CriticConfig("h_step", "model", 0, particles=2)),
        "critic.particles: .*horizon",
    ),
    "particles actor": (RunConfig(actor=ActorConfig(particles=2)), "actor.particles: .*actor.horizon"),
    "fields of another": (replace(RunConfig(), agent=DDPGConfig(name="sac")), "agent.name: sac .*DDPGConfig"),
    "no hidden layer": (put(RunConfig(), "agent.hidden", ()), "agent.hidden: .*at least 1"),
    "batch": (put(RunConfig(), "train.warmup_steps", 255), "train.warmup_steps: 255 .*train.batch_size 256"),
    "warm-up only": (put(RunConfig(), "train.env_steps", 512), "train.env_steps: 512 .*warm-up"),
    "not a multiple": (RunConfig(train=TrainConfig(env_steps=8_000, num_envs=7)), "train.env_steps: .*multiple .*7"),
    "too many": (put(RunConfig(), "train.env_steps", 2**31), "train.env_steps: .*2.31"),
    "evaluations": (
        replace(put(RunConfig(), "train.num_envs", 16), eval=replace(RunConfig().eval, every=24)),
        "eval.every",
    ),
    "short warm-up": (RunConfig(critic=CriticConfig("h_step", "replay", 600)), "train.warmup_steps: .*601"),
    "short replay": (
        RunConfig(critic=CriticConfig("h_step", "replay", 99), train=TrainConfig(num_envs=4, replay_capacity=396)),
        "train.replay_capacity: 396 .*400",
    ),
    "replay below a batch": (RunConfig(train=TrainConfig(replay_capacity=255)), "train.replay_capacity: 255 .*256"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_fields_that_do_not_go_together_are_refused(case):
    config, pattern = TOGETHER[case]
    assert re.match(pattern, error(config)), error(config)


def leaves(name: str) -> st.SearchStrategy:
    """Values that a field may hold."""
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    hint = TYPES[name]
    if name not in RANGES:
        return st.booleans() if hint is bool else st.one_of(st.none(), st.text(max_size=5))
    low, high, low_in, high_in = RANGES[name]
    if "float" in str(hint):
        numbers = st.floats(
            low, high, exclude_min=not low_in, exclude_max=not high_in, allow_nan=False, allow_infinity=False
        )
    else:
        numbers = st.integers(low, high)  # pyright: ignore[reportArgumentType]
    if get_origin(hint) is tuple:
        return st.lists(numbers, max_size=3).map(tuple)
    return numbers if hint in (int, float) else st.one_of(st.none(), numbers)


@st.composite
def configs(draw) -> RunConfig:
    config = RunConfig()
    for name in draw(st.lists(st.sampled_from(sorted(TYPES)), max_size=8, unique=True)):
        config = put(config, name, draw(leaves(name)))
    return config


@settings(max_examples=150, deadline=None)
@given(configs())
def test_json_gives_back_the_config(config):
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config and hash(again) == hash(config) and run_id(again) == run_id(config)


@settings(max_examples=100, deadline=None)
@given(configs(), configs())
def test_a_name_stands_for_one_canonical_config(one, other):
    plain = [replace(canonical(c), diagnostics=DiagnosticsConfig(), store=StoreConfig()) for c in (one, other)]
    assert (run_id(one) == run_id(other)) == (plain[0] == plain[1])
    assert canonical(canonical(one)) == canonical(one) and run_id(canonical(one)) == run_id(one)


@pytest.mark.parametrize(
    "data", [{"gama": 0.9}, {"env": {"nam": "ball"}}, {"env": 3}, {"critic": {"rule": "td", "h": 1}}]
)
def test_json_of_another_version_is_named(data):
    with pytest.raises(ConfigError, match="gama|nam|3|'h'"):
        from_dict(data)


def test_missing_fields_take_their_default():
    assert from_dict({"gamma": 0.5, "train": {"utd": 2}}) == RunConfig(gamma=0.5, train=TrainConfig(utd=2))


def test_names_are_stable_over_processes():
    """Also over Python's hash seeds: names are read again by later processes."""
    code = "from valex.config import *; print(*(run_id(c) for c in PRESETS.values()))"
    environment = dict(os.environ) | {"PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    here = [run_id(config) for config in PRESETS.values()]
    assert there.stdout.split() == here and len(set(here)) == len(here)
    assert here[0].startswith("pendulum__sac__H0__s0__") and here[1].startswith("pendulum__sac-ce__H3__s0__")


def test_names_do_not_depend_on_what_does_not_train():
    base = PRESETS["sac-ce"]
    measured = replace(base, diagnostics=DiagnosticsConfig((0, 1), 8, 8, True), store=StoreConfig(3, 5))
    assert run_id(measured) == run_id(base)
    for name in (
        "gamma",
        "agent.tau",
        "eval.grad_samples",
        "train.utd",
        "critic.particles",
        "env.action_repeat",
        "seed",
    ):
        changed = put(base, name, 0.5 if name in ("gamma", "agent.tau") else 2)
        assert run_id(changed) != run_id(base), name


def test_equal_configs_have_equal_names():
    """1 == 1.0, so they must be one run; JSON writes them differently."""
    assert len({run_id(replace(RunConfig(), gamma=zero)) for zero in (0, 0.0, -0.0)}) == 1
    assert config_hash(put(RunConfig(), "agent.init_alpha", 1)) == config_hash(RunConfig())


def test_all_presets_meet_at_horizon_zero():
    plain = lambda c: replace(c, critic=replace(c.critic, horizon=0), actor=replace(c.actor, horizon=0))  # noqa: E731
    at_zero = {
        name: plain(c)
        for name, c in PRESETS.items()
        if c.train.utd and c.critic.critic_agg == "min"  # a model alone has no agent; mean critics are another SAC
        and name not in ("rpg-sn", "apg", "shac")  # other policies and other critics
    }  # fmt: skip
    assert len(at_zero) == len(PRESETS) - 6
    assert {canonical(config) for config in at_zero.values()} == {canonical(plain(PRESETS[name])) for name in AGENTS}
    assert len({run_id(config) for config in at_zero.values()}) == len(AGENTS)


def test_every_learned_model_is_registered_and_can_run():
    for name, model in LEARNED.items():
        assert name == model.name in MODELS
        config = check(replace(PRESETS["sac-mve"], model=model))
        assert algorithm(config) == "sac-mve" and canonical(config) == config
    assert run_id(mve(name="grid", noise=0.1)) == run_id(mve(name="grid")) != run_id(mve())


def test_settings_of_a_model_that_it_does_not_read_make_no_new_run():
    assert run_id(mve(num_elites=5)) == run_id(mve()) != run_id(mve(num_elites=4))
    assert run_id(mve(noise=0.1)) == run_id(mve())
    assert run_id(mve(schedule="released", train_every=7, max_steps=3)) == run_id(mve(schedule="released"))
    assert run_id(mve(train_every=7)) != run_id(mve())


def test_the_density_counts_only_where_retrace_reads_it():
    odd = DDPGConfig(density="released")
    for preset in ("ddpg", "ddpg-ce", "ddpg-ae"):
        assert run_id(replace(PRESETS[preset], agent=odd)) == run_id(PRESETS[preset])
    assert run_id(replace(PRESETS["ddpg-retrace"], agent=odd)) != run_id(PRESETS["ddpg-retrace"])


def test_canonical_drops_only_what_has_no_effect():
    ce = PRESETS["sac-ce"]
    assert run_id(put(ce, "critic.lam", 0.3)) == run_id(ce), "h_step reads no lambda"
    for rule in ("td_lambda", "retrace"):
        traced = replace(ce, critic=replace(ce.critic, rule=rule, estimator="doubly_robust"))
        assert run_id(put(traced, "critic.lam", 0.3)) != run_id(traced)
    assert run_id(put(ce, "actor.divide_by_length", False)) == run_id(ce), "the actor does not roll out"
    ae = PRESETS["sac-ae"]
    assert run_id(put(ae, "actor.divide_by_length", False)) != run_id(ae)


@pytest.mark.parametrize(
    ("critic", "actor", "name", "h"),
    [
        (CriticConfig(), ActorConfig(), "sac", 0),
        (CriticConfig("h_step", "model", 3), ActorConfig(), "sac-ce", 3),
        (CriticConfig("td_lambda", "model", 3), ActorConfig(), "sac-ce_td_lambda", 3),
        (CriticConfig("h_step", "replay", 2), ActorConfig(), "sac-nstep", 2),
        (CriticConfig("retrace", "replay", 2), ActorConfig(), "sac-retrace", 2),
        (CriticConfig(), ActorConfig(5), "sac-ae", 5),
        (CriticConfig("h_step", "model", 3), ActorConfig(5), "sac-ce-ae", 5),
    ],
)
def test_algorithm_and_horizon(critic, actor, name, h):
    config = RunConfig(env=EnvConfig("ball"), critic=critic, actor=actor, seed=4)
    assert (algorithm(config), horizon(config)) == (name, h)
    assert run_id(config) == f"ball__{name}__H{h}__s4__{config_hash(config)}"


@pytest.mark.parametrize("name", ["rpg-dr", "rpg-sn", "ddqn-mve"])
def test_what_the_advice_says_makes_an_oracle_of_a_preset_that_learns(name):
    """The words after `or` put the preset's settings of a net back, so that the oracle can be used."""
    config = replace(PRESETS[name], model=replace(PRESETS[name].model, name="oracle"))
    advice = dict(word.split(" ") for word in error(config).split(", or ")[1].split(", "))
    usual = ModelConfig()
    for field, said in advice.items():
        value = usual
        for part in field.split(".")[1:]:
            value = getattr(value, part)
        assert said == (",".join(map(str, value)) if isinstance(value, tuple) else str(value))
        config = put(config, field, value)
    check(config)
