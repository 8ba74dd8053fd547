"""The probes have the values that `PROBES` promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.envs.base import make_env, reset_batch, step_batch
from valex.envs.probe import PROBES, ProbeState
from valex.settings import EnvConfig
from valex.tables import ENVS

GAMMA = 0.9
NAMES = [name for name in ENVS if name.startswith("probe_")]


def best_of(name: str, obs: float):
    """The best action of a probe as its environment takes it."""
    act = PROBES[name.removesuffix("_discrete")].best_action
    best = 0.0 if act is None else act(obs)
    return jnp.int32(2 * (best + 1)) if name.endswith("_discrete") else jnp.array([best])


def test_every_registered_probe_is_in_the_table():
    assert {f"{name}{end}" for name in PROBES for end in ("", "_discrete")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_policy_earns_the_promised_value(name):
    """Fold the rewards of the environment itself, past truncation, up to termination."""
    env, probe = make_env(EnvConfig(name=name)), PROBES[name.removesuffix("_discrete")]
    values = probe.values(GAMMA)
    assert set(probe.starts) <= set(values)
    for start, value in values.items():
        state, total, discount = ProbeState(jnp.float32(start)), 0.0, 1.0
        while discount > 1e-4:
            action = best_of(name, float(env.obs(state)[0]))
            state, out = env.step(jax.random.key(0), state, action)
            total += discount * float(out.reward)
            discount *= GAMMA * (not bool(out.terminated))
        assert total == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize("name", PROBES)
def test_the_best_action_is_best_by_a_margin_or_all_are_equal(name):
    probe = PROBES[name]
    for start in probe.starts:
        rewards = {a: float(probe.reward(jnp.float32(start), a)) for a in np.linspace(-1, 1, 41)}
        if probe.best_action is None:
            assert len(set(rewards.values())) == 1
        else:
            best = max(rewards, key=rewards.__getitem__)
            assert best == pytest.approx(probe.best_action(start)) and -1 < best < 1
            assert sorted(rewards.values())[-2] < rewards[best]


def test_resets_draw_every_start_equally_often():
    env = make_env(EnvConfig(name="probe_obs"))
    drawn = np.asarray(reset_batch(env, jax.random.key(0), 2000).state.o)
    assert set(drawn) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 0.1  # four standard errors


def test_the_clock_probe_tells_truncation_from_termination():
    env = make_env(EnvConfig(name="probe_clock"))
    vec = reset_batch(env, jax.random.key(0), 3)
    flags = []
    for t in range(10):
        vec, out = step_batch(env, jax.random.key(t), vec, jnp.zeros((3, 1)))
        assert not out.terminated.any() and (out.reward == 1.0).all()
        flags.append(bool(out.truncated.all()))
    assert flags == [False, False, False, False, True] * 2


def test_the_delay_probe_pays_in_its_second_and_last_step():
    env = make_env(EnvConfig(name="probe_delay"))
    vec = reset_batch(env, jax.random.key(0), 2)
    for reward, ended in [(0.0, False), (1.0, True), (0.0, False), (1.0, True)]:
        vec, out = step_batch(env, jax.random.key(1), vec, jnp.zeros((2, 1)))
        assert (out.reward == reward).all() and (out.terminated == ended).all() and not out.truncated.any()
