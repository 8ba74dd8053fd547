"""Learning to values that are known (pytest -m learning): probes under every rule, and pendulum swing-up."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import ARMS

from valex.config import PRESETS
from valex.envs.probe import PROBES
from valex.settings import (
    DDPGConfig,
    DDQNConfig,
    EnvConfig,
    EvalConfig,
    RPGConfig,
    RunConfig,
    SACConfig,
    SpectralConfig,
    TD3Config,
    TrainConfig,
)
from valex.tables import AGENTS
from valex.train import make_program, total_iterations

GAMMA = 0.9
LEARNERS = {
    "sac": SACConfig(hidden=(32, 32), actor_lr=1e-3, critic_lr=1e-3, tau=0.05, init_alpha=1e-3, alpha_lr=0.0),
    "rpg": RPGConfig(hidden=(32, 32), actor_lr=1e-3, critic_lr=1e-3, tau=0.05, init_alpha=1e-3, alpha_lr=0.0),
    "ddpg": DDPGConfig(hidden=(32, 32), actor_lr=1e-3, critic_lr=1e-3, tau=0.05, tau_actor=0.05),
    "td3": TD3Config(hidden=(32, 32), actor_lr=1e-3, critic_lr=1e-3, tau=0.05, tau_actor=0.05),
    # probe_clock shows a constant, 0 when normalised: only the last bias can learn, and Adam moves it by critic_lr a step
    "ddqn": DDQNConfig(hidden=(32, 32), critic_lr=1e-2, tau=0.05, epsilon_steps=1_000),
}
PROBE = RunConfig(
    train=TrainConfig(env_steps=3000, warmup_steps=200, batch_size=64),
    eval=EvalConfig(every=1000, episodes=8, value_bias_states=0, grad_samples=0),
    gamma=GAMMA,
)
pytestmark = pytest.mark.learning


def trained(config: RunConfig, seed: int = 0):
    program = make_program(config)
    state, metrics, _ = program.chunk(program.start(jnp.uint32(seed)), jnp.int32(total_iterations(config)))
    return program, state, metrics


def test_every_agent_learns_here():
    assert set(LEARNERS) == set(AGENTS)


CELLS = [(agent, arm) for agent in AGENTS for arm in ARMS if not (agent == "ddqn" and ARMS[arm].actor.horizon)]


@pytest.mark.parametrize(("agent", "arm"), CELLS)
@pytest.mark.parametrize("probe", PROBES)
def test_probe(probe, agent, arm):
    """The critic's value (SAC's alpha is 0.001) and the policy's mean reach what the probe's table says."""
    critic, actor, model = ARMS[arm]
    known, discrete = PROBES[probe], agent == "ddqn"
    env = EnvConfig(f"{probe}_discrete" if discrete else probe)
    config = replace(PROBE, env=env, agent=LEARNERS[agent], critic=critic, actor=actor, model=model)
    program, state, _ = trained(config)
    for obs, value in known.values(GAMMA).items():
        obs = jnp.asarray([[obs]], jnp.float32)
        sample = program.parts.agent.act(state.agent, jax.random.key(0), obs, False)
        found = program.parts.agent.bootstrap(state.agent).q(obs, sample.action)
        np.testing.assert_allclose(found, value, atol=0.15 * max(1.0, abs(value)))
        if known.best_action is not None:
            found = sample.action[0] / 2.0 - 1.0 if discrete else sample.action[0, 0]
            np.testing.assert_allclose(found, known.best_action(float(obs[0, 0])), atol=0.15)


TOO_SLOW = {  # H = 3 on returns far from 0 (docs/results/reward_offset.md): one of three seeds does not get there in time
    "sac-ce": "oracle, H = 3: one of three seeds ended at -530, mean -269",
    "sac-mve": "learned model, H = 3: one of three seeds ended at -604, mean -298",
    "ddpg-ce": "oracle, H = 3: one of three seeds ended at -965, mean -438",
    "ddpg-mve": "learned model, H = 3: one of three seeds ended at -908, mean -407",
}
BOUNDED = {  # a bound of 1 on every layer allows no policy as steep as a swing-up needs (docs/results/gradients.md)
    "rpg-sn": "its policy can be no steeper than its tanh: five seeds of the quick study ended at -877 (IQM)"
}
ACTING = [name for name, config in PRESETS.items() if config.train.utd and config.agent.name != "ddqn"]
SWING_UPS = []
for offset, known in ((8.0, BOUNDED), (0.0, TOO_SLOW | BOUNDED)):
    for preset in ACTING:
        fails = pytest.mark.xfail(strict=True, reason=known.get(preset, ""))
        SWING_UPS.append(pytest.param(preset, offset, marks=fails if preset in known else ()))


@pytest.mark.parametrize(("preset", "offset"), SWING_UPS)
def test_pendulum_swing_up(preset, offset):
    """Every preset swings the pendulum up: a mean return above -250 over 3 seeds (random: about -1200).

    Once on the task as it is and once with rewards shifted so that returns lie around 0 (docs/results/reward_offset.md).
    Learned models have the nets of the quick studies. TD3 moves actor and targets at every other update and gets twice the steps:
    within 8,000 all of its presets but td3-ae, and td3 with shifted rewards, ended at -280 to -750 (mean of the 3 seeds).
    """
    returns = swung_up(preset, offset)
    assert np.mean(returns) > -250.0, returns


def test_pendulum_swing_up_under_a_wider_bound():
    """Normalisation itself does no harm: with layers of norm up to 4 the same preset gets there."""
    returns = swung_up("rpg-sn", 8.0, {"spectral": SpectralConfig("paper", 4.0)})
    assert np.mean(returns) > -250.0, returns


def swung_up(preset: str, offset: float, fields: dict | None = None) -> list[float]:
    """Return the returns of three seeds of a preset, its agent with other fields, after training on pendulum."""
    agent = replace(PRESETS[preset].agent, hidden=(64, 64), **(fields or {}))
    env = EnvConfig("pendulum", reward_offset=offset)
    config = replace(PRESETS[preset], env=env, agent=agent, gamma=0.95, eval=EvalConfig(grad_samples=0))
    if config.model.name == "ensemble":
        config = replace(config, model=replace(config.model, hidden=(64, 64), steps_per_env_step=0.25))
    if config.agent.name == "td3":
        config = replace(config, train=replace(config.train, env_steps=2 * config.train.env_steps))
    return [float(trained(config, seed)[2]["eval/episode_return"]) for seed in range(3)]
