"""Learning to values that are known (pytest -m learning): probes under every rule, and pendulum swing-up."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import ARMS

from valex.config import PRESETS
from valex.envs.probe import PROBES
from valex.settings import EnvConfig, EvalConfig, RunConfig, SACConfig, TrainConfig
from valex.train import make_program, total_iterations

GAMMA = 0.9
PROBE = RunConfig(
    agent=SACConfig(hidden=(32, 32), actor_lr=1e-3, critic_lr=1e-3, tau=0.05, init_alpha=1e-3, alpha_lr=0.0),
    train=TrainConfig(env_steps=3000, warmup_steps=200, batch_size=64),
    eval=EvalConfig(every=1000, episodes=8, value_bias_states=0, grad_samples=0),
    gamma=GAMMA,
)
pytestmark = pytest.mark.learning


def trained(config: RunConfig, seed: int = 0):
    program = make_program(config)
    state, metrics, _ = program.chunk(program.start(jnp.uint32(seed)), jnp.int32(total_iterations(config)))
    return program, state, metrics


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("probe", PROBES)
def test_probe(probe, arm):
    """The critic's soft value (alpha is 0.001) and the policy's mean reach what the probe's table says."""
    critic, actor, model = ARMS[arm]
    known = PROBES[probe]
    program, state, _ = trained(replace(PROBE, env=EnvConfig(probe), critic=critic, actor=actor, model=model))
    for obs, value in known.values(GAMMA).items():
        obs = jnp.asarray([[obs]], jnp.float32)
        sample = program.parts.agent.act(state.agent, jax.random.key(0), obs, False)
        found = program.parts.agent.bootstrap(state.agent).q(obs, sample.action)
        np.testing.assert_allclose(found, value, atol=0.15 * max(1.0, abs(value)))
        if known.best_action is not None:
            np.testing.assert_allclose(sample.action[0, 0], known.best_action(float(obs[0, 0])), atol=0.15)


TOO_SLOW = {  # H = 3 on returns far from 0 (docs/results/reward_offset.md): one of three seeds does not get there in time
    "sac-ce": "oracle, H = 3: one of three seeds ended at -530, mean -269",
    "sac-mve": "learned model, H = 3: one of three seeds ended at -604, mean -298",
}
ACTING = [name for name, config in PRESETS.items() if config.train.utd]
SWING_UPS = [(preset, 8.0) for preset in ACTING]
for preset in ACTING:
    slow = pytest.mark.xfail(strict=True, reason=TOO_SLOW.get(preset, ""))
    SWING_UPS.append(pytest.param(preset, 0.0, marks=slow if preset in TOO_SLOW else ()))


@pytest.mark.parametrize(("preset", "offset"), SWING_UPS)
def test_pendulum_swing_up(preset, offset):
    """Every preset swings the pendulum up: a mean return above -250 over 3 seeds (random: about -1200).

    Once on the task as it is and once with rewards shifted so that returns lie around 0 (docs/results/reward_offset.md).
    Learned models have the nets of the quick studies.
    """
    env, agent = EnvConfig("pendulum", reward_offset=offset), SACConfig(hidden=(64, 64))
    config = replace(PRESETS[preset], env=env, agent=agent, gamma=0.95, eval=EvalConfig(grad_samples=0))
    if config.model.name == "ensemble":
        config = replace(config, model=replace(config.model, hidden=(64, 64), steps_per_env_step=0.25))
    returns = [float(trained(config, seed)[2]["eval/episode_return"]) for seed in range(3)]
    assert np.mean(returns) > -250.0, returns
