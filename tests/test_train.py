"""The loop: one compilation per shape, what replay keeps, counts, vmapped seeds, values where they are known."""

import re
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from valex import tables
from valex.config import PRESETS
from valex.envs.classic import make_pendulum
from valex.evaluate import episode_returns, monte_carlo_steps, value_bias
from valex.replay import sample_sequences
from valex.settings import (
    ActorConfig,
    CriticConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    SACConfig,
    TrainConfig,
)
from valex.train import make_parts, make_program, total_iterations
from valex.types import ActionSample, Agent, Bootstrap

TINY = RunConfig(
    agent=SACConfig(hidden=(8,)),
    train=TrainConfig(env_steps=120, warmup_steps=40, batch_size=8),
    eval=EvalConfig(every=40, episodes=2, value_bias_states=2, grad_samples=3),
    gamma=0.9,
)
TRACES = {"count": 0}


def make_counting_pendulum(config: EnvConfig):
    """A pendulum that counts how often its step is traced."""
    env = make_pendulum(replace(config, name="pendulum"))

    def step(key, state, action):
        TRACES["count"] += 1
        return env.step(key, state, action)

    return env._replace(step=step)


def test_one_compilation_per_config_shape(monkeypatch):
    monkeypatch.setitem(tables.ENVS, "counting", tables.Entry("test_train:make_counting_pendulum", "counts traces"))
    monkeypatch.setattr(tables, "load", tables.load)
    import sys

    sys.modules.setdefault("test_train", sys.modules[__name__])
    counted = sys.modules["test_train"].TRACES
    config = replace(TINY, env=EnvConfig("counting"))
    state = make_program(config).start(jnp.uint32(0))
    state, *_ = make_program(config).chunk(state, jnp.int32(40))
    traced = counted["count"]
    assert traced > 0
    for seed, steps in ((1, 40), (2, 17)):  # another seed, another chunk length, another storage: no new trace
        program = make_program(replace(config, seed=seed, store=replace(config.store, keep=5)))
        state, *_ = program.chunk(program.start(jnp.uint32(seed)), jnp.int32(steps))
    assert counted["count"] == traced
    make_program(replace(config, gamma=0.5)).start(jnp.uint32(0))
    assert counted["count"] > traced


def run(config: RunConfig, seed: int = 0):
    program = make_program(config)
    return program.chunk(program.start(jnp.uint32(seed)), jnp.int32(total_iterations(config)))


@pytest.mark.parametrize(
    ("preset", "kept"),
    [
        ("sac", set()),
        ("sac-ce", {"next_sim_state"}),
        ("sac-ae", {"sim_state"}),
        ("sac-retrace", {"log_prob", "latent"}),
    ],
)
def test_replay_keeps_what_the_config_reads_back(preset, kept):
    config = replace(PRESETS[preset], agent=TINY.agent, train=TINY.train, eval=TINY.eval)
    layout = jax.eval_shape(make_program(config).start, jnp.uint32(0)).replay.layout
    stored = jax.tree.unflatten(layout.tree, layout.dtypes)
    optional = ("log_prob", "latent", "sim_state", "next_sim_state")
    assert {name for name in optional if jax.tree.leaves(getattr(stored, name))} == kept


def test_every_agent_is_tried():
    assert set(tiny.LEARNERS) == set(tables.AGENTS)


@pytest.mark.parametrize("preset", ["sac", "sac-ce", "sac-retrace", "td3", "ddqn"])
def test_the_compiled_loop_never_copies_the_replay(preset):
    """XLA merged the write of a ring of flags into its gather and copied the ring twice a step; a small loop does not show it."""
    rows = 12_345  # a length that nothing else has
    train = replace(TINY.train, env_steps=rows, warmup_steps=256, batch_size=256)
    agent, _, _ = preset.partition("-")
    base = PRESETS[preset] if agent == "sac" else tiny.LEARNERS[agent]
    base = replace(base, agent=replace(base.agent, hidden=TINY.agent.hidden), train=train, eval=TINY.eval)
    program = make_program(base)
    state = jax.eval_shape(program.start, jnp.uint32(0))
    text = program.chunk.lower(state, jax.ShapeDtypeStruct((), jnp.int32)).compile().as_text()
    assert f"[{rows}," in text and not re.findall(rf"= \w+\[{rows},[^=]*\bcopy\(", text)


def test_counts_of_steps_and_updates():
    """utd updates per control step: Adam's own counter says so."""
    config = replace(TINY, train=replace(TINY.train, num_envs=2, utd=3))
    state, metrics, bad = run(config)
    assert int(state.iterations) == total_iterations(config) == (120 - 40) // 2
    assert int(state.replay.size) == 60 and state.replay.words.shape[:2] == (60, 2)
    assert int(state.agent.critic_opt[0].count) == 40 * 2 * 3
    assert float(state.agent.normalizer.count) == 120
    assert all(int(step) == 40 for step in bad.values())
    assert np.isfinite(float(metrics["critic/loss"])) and float(metrics["grad/nonfinite_share"]) == 0.0


def test_the_first_bad_iteration_is_found():
    config = replace(TINY, agent=replace(TINY.agent, critic_lr=1e30))
    _, _, bad = run(config)
    first = {name: int(step) for name, step in bad.items()}
    assert min(first.values()) in (1, 2) and first["critic/loss"] < 80 and first["alpha/value"] >= min(first.values())


FAST = ("sac", "ddqn")  # with an actor, and without one
SOME = [pytest.param(agent, marks=() if agent in FAST else pytest.mark.learning) for agent in tables.AGENTS]


@pytest.mark.parametrize("agent", SOME)
def test_vmapped_seeds_equal_single_runs(agent):
    config = replace(TINY, agent=tiny.LEARNERS[agent].agent, eval=replace(TINY.eval, grad_samples=0))
    config = replace(config, env=tiny.LEARNERS[agent].env if agent == "ddqn" else config.env)
    program = make_program(config)
    seeds = jnp.array([3, 4], jnp.uint32)
    together = jax.jit(jax.vmap(program.start))(seeds)
    _, together, _ = jax.jit(jax.vmap(program.chunk, in_axes=(0, None)))(together, jnp.int32(80))
    for i in range(2):
        _, alone, _ = run(config, int(seeds[i]))
        for name in ("critic/loss", "target/mean", "eval/episode_return", "value/bias"):
            np.testing.assert_allclose(together[name][i], alone[name], rtol=2e-2, err_msg=name)
    assert float(together["critic/loss"][0]) != float(together["critic/loss"][1])


@pytest.mark.parametrize("agent", SOME)
def test_a_run_repeats_itself_exactly(agent):
    """test_runner.py lets every agent go on where it stopped, bit for bit."""
    config = replace(tiny.LEARNERS[agent], eval=TINY.eval)
    a, b = run(config, 5)[1], run(config, 5)[1]
    assert all(float(a[name]) == float(b[name]) for name in a)


def constant_agent(q_value: float) -> Agent:
    """An agent that knows the value of probe_clock, 1 / (1 - gamma), up to a constant."""

    def act(key, obs):
        zero = jnp.zeros((*obs.shape[:-1], 1))
        return ActionSample(zero, zero[..., 0], zero)

    def number(*args):
        return jnp.full(args[-1].shape[:-1], q_value)

    boot = Bootstrap(act, lambda o, u: u[..., 0], number, lambda lp: 0.0 * lp, number, lambda o, a: number(o, a)[None])
    nothing = lambda *args: ()  # noqa: E731
    return Agent(nothing, nothing, lambda s, k, o, explore: act(k, o), nothing, lambda s: boot)


@pytest.mark.parametrize("error", [0.0, 2.0])
def test_value_bias_finds_the_error_of_a_critic(error):
    """gamma^T V closes the Monte-Carlo return, so a constant error e shows as e (1 - gamma^(T+1))."""
    env = make_parts(replace(TINY, env=EnvConfig("probe_clock"))).env
    found = value_bias(env, constant_agent(10.0 + error), (), jax.random.key(0), 0.9, 4)
    np.testing.assert_allclose(found["value/bias"], error, atol=3e-3 * max(error, 1.0))
    np.testing.assert_allclose(found["value/mc_return"], 10.0, atol=1e-2)


def test_monte_carlo_steps():
    assert monte_carlo_steps(0.0) == 1
    for gamma in (0.5, 0.95, 0.99):
        steps = monte_carlo_steps(gamma)
        assert gamma**steps < 1e-3 * (1 + 1e-9) and gamma ** (steps - 1) >= 1e-3


LEARNED = ModelConfig("ensemble", num_models=3, hidden=(32, 32), pretrain_steps=200, batch_size=64)


class Arm(NamedTuple):
    """What differs between the arms of a probe."""

    critic: CriticConfig = CriticConfig()
    actor: ActorConfig = ActorConfig()
    model: ModelConfig = ModelConfig()


ARMS = {
    "td": Arm(),
    "ce": Arm(CriticConfig("h_step", "model", 2)),
    "ce_robust": Arm(CriticConfig("h_step", "model", 2, estimator="doubly_robust")),
    "ce_particles": Arm(CriticConfig("h_step", "model", 2, particles=4)),
    "td_lambda": Arm(CriticConfig("td_lambda", "model", 2, 0.7)),
    "mean": Arm(CriticConfig("mean", "model", 2)),
    "min": Arm(CriticConfig("min", "model", 2)),
    "td_k": Arm(CriticConfig("h_step", "model", 2, td_k=True)),
    "retrace": Arm(CriticConfig("retrace", "replay", 2, estimator="doubly_robust")),
    "retrace_model": Arm(CriticConfig("retrace", "model", 2, estimator="doubly_robust")),
    "ae": Arm(actor=ActorConfig(2)),
    "mve": Arm(CriticConfig("h_step", "model", 2), model=LEARNED),
    "mve_members": Arm(CriticConfig("min", "model", 2, member_agg="min"), model=LEARNED),
    "mve_steve": Arm(CriticConfig("steve", "model", 2, critic_agg="mean", member_agg="mean"), model=LEARNED),
    "mve_uncertain": Arm(CriticConfig("h_step", "model", 2, max_disagreement=0.3), model=LEARNED),
    "mve_fixed": Arm(CriticConfig("h_step", "model", 2, td_k=True), model=replace(LEARNED, propagation="fixed_model")),
    "ae_learned": Arm(actor=ActorConfig(2), model=replace(LEARNED, propagation="expectation", loss_steps=2)),
    "noisy": Arm(CriticConfig("h_step", "model", 2), model=ModelConfig("noisy_oracle", noise=0.01)),
}


COMPILED = (
    "td",
    "ce",
    "td_lambda",
    "retrace",
    "ae",
    "mve",
    "mve_steve",
)  # the others take as long and run with `learning`


@pytest.mark.parametrize("arm", [a if a in COMPILED else pytest.param(a, marks=pytest.mark.learning) for a in ARMS])
def test_every_arm_runs_and_stays_finite(arm):
    critic, actor, model = ARMS[arm]
    lean = replace(TINY.eval, value_bias_states=0, grad_samples=2 if arm.startswith("ae") else 0)
    if model.name == "ensemble":
        model = replace(model, hidden=(8,), pretrain_steps=2, batch_size=8)
    _, metrics, _ = run(replace(TINY, critic=critic, actor=actor, model=model, eval=lean))
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert ("model/loss" in metrics) == (model.name == "ensemble")


@pytest.mark.parametrize(("agent", "arm"), [("sac", arm) for arm in ARMS] + [(name, "ce") for name in tables.AGENTS])
def test_a_state_keeps_its_types(agent, arm):
    """A weakly typed leaf would change its type in the first chunk, and the whole program would be compiled twice."""
    critic, actor, model = ARMS[arm]
    program = make_program(replace(tiny.LEARNERS[agent], critic=critic, actor=actor, model=model, eval=TINY.eval))
    start = jax.eval_shape(program.start, jnp.uint32(0))
    after = jax.eval_shape(program.chunk, start, jnp.int32(1))[0]
    weak = [
        jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_flatten_with_path(start)[0] if leaf.weak_type
    ]
    assert not weak and not [leaf for leaf in jax.tree.leaves(after) if leaf.weak_type]


def test_a_run_may_train_the_model_alone():
    """utd 0: the agent stays as it starts, the model does not; correlated noise moves further than independent noise."""
    config = replace(PRESETS["model"], agent=TINY.agent, model=replace(LEARNED, hidden=(8,), pretrain_steps=5))
    config = replace(config, train=replace(TINY.train, utd=0, batch_size=64, warmup_steps=64), eval=TINY.eval)
    program = make_program(config)
    state, metrics, _ = program.chunk(program.start(jnp.uint32(0)), jnp.int32(total_iterations(config)))
    fresh = program.start(jnp.uint32(0))
    jax.tree.map(np.testing.assert_array_equal, fresh.agent.actor, state.agent.actor)
    assert not np.array_equal(fresh.model.members.upper, state.model.members.upper)
    assert metrics["model/grad_steps"] > 0 and "critic/loss" not in metrics


def test_correlated_warm_up_noise_pushes_one_way_for_a_while():
    found = {}
    for noise in ("uniform", "ou"):
        train = replace(TINY.train, warmup_steps=400, env_steps=440, warmup_noise=noise, num_envs=4)
        replay = make_program(replace(TINY, train=train, eval=replace(TINY.eval, every=40))).start(jnp.uint32(0)).replay
        actions = np.asarray(sample_sequences(replay, jax.random.key(0), 200, 4).action)[..., 0]
        found[noise] = np.corrcoef(actions[0], actions[1])[0, 1]
        assert np.all(np.abs(actions) <= 1) and actions.std() > 0.4
    assert abs(found["uniform"]) < 0.3 and found["ou"] > 0.6


def test_evaluation_reports_the_return_of_the_task_whatever_the_offset():
    returns, rewards = [], []
    for offset in (0.0, 50.0):
        config = replace(TINY, env=EnvConfig("pendulum", episode_length=20, reward_offset=offset))
        parts = make_parts(config)
        agent_state = parts.agent.init(jax.random.key(0))
        returns.append(
            episode_returns(parts.env, parts.agent, agent_state, jax.random.key(1), 3)["eval/episode_return"]
        )
        replay = make_program(config).start(jnp.uint32(0)).replay
        rewards.append(sample_sequences(replay, jax.random.key(2), 8, 1).reward)
    np.testing.assert_allclose(returns[0], returns[1], rtol=1e-4)
    np.testing.assert_allclose(rewards[0] + 50.0, rewards[1], rtol=1e-5)  # and training sees it
