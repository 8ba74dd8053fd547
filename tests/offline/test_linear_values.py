"""Values without hidden layers are linear: in (s, a) for Q, in s for V; ensembles of two and ten of them and of nets."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.agents.common import smallest
from valex.offline.batch import Dims, uniform_rows
from valex.offline.data import Dataset, from_arrays, on_device
from valex.offline.testtime import opex
from valex.offline.train import make_phase, start_phase
from valex.offline.values import make_iql
from valex.settings.offline import IQLConfig, OPEXConfig

DIMS = Dims(2, 1)
LINEAR = IQLConfig(hidden=(), lr=0.05, tau=0.5, batch_size=64, expectile=0.5)


@cache
def bandit() -> Dataset:
    """One step of reward 1 + 2 s_0 - s_1 + 3 a, then the end."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(400, 2)), rng.uniform(-1, 1, (400, 1))
    reward = 1.0 + obs @ [2.0, -1.0] + 3.0 * action[:, 0]
    steps = {"obs": obs, "action": action, "reward": reward, "next_obs": obs, "terminated": np.ones(400, bool)}
    return on_device(from_arrays(steps, np.arange(401), {}))


def probes(seed: int):
    keys = jax.random.split(jax.random.key(seed), 2)
    return 5.0 * jax.random.normal(keys[0], (7, 2)), 5.0 * jax.random.normal(keys[1], (7, 1))


@pytest.mark.parametrize("critics", [1, 2, 10])
def test_every_critic_is_linear(critics):
    value = make_iql(IQLConfig(hidden=(), num_critics=critics), DIMS)
    state, (s, a), (u, b) = value.init(jax.random.key(0)), probes(1), probes(2)
    q = lambda s, a: value.q(state, s, a)  # noqa: E731
    zero = q(0 * s, 0 * a)
    np.testing.assert_allclose(q(s + u, a + b), q(s, a) + q(u, b) - zero, atol=1e-4)
    np.testing.assert_allclose(q(3 * s, 3 * a), 3 * q(s, a) - 2 * zero, atol=1e-4)
    v = lambda s: value.v(state, s)  # noqa: E731
    np.testing.assert_allclose(v(s + u), v(s) + v(u) - v(0 * s), atol=1e-4)
    assert q(s, a).shape == (critics, 7) and sum(x.size for x in jax.tree.leaves(state.params)) == 4 * critics + 3
    assert critics == 1 or float(jnp.std(q(s, a), axis=0).min()) > 0  # heads begin apart
    np.testing.assert_allclose(value.advantage(state, s, a), q(s, a).min(axis=0) - v(s), rtol=1e-6)


def test_a_linear_reward_is_learned_exactly():
    critics = 10
    value = make_iql(IQLConfig(**{**vars(LINEAR), "num_critics": critics}), DIMS)
    learn = make_phase(value.update, uniform_rows, 64)
    phase, _ = learn(start_phase(value.init, 0, 400), bandit(), (), 400)
    obs, action = probes(3)
    np.testing.assert_allclose(value.q(phase.learner, obs, action), (1 + obs @ jnp.array([2.0, -1.0]) + 3 * action[:, 0])[None]
                               * np.ones((critics, 1)), rtol=2e-2, atol=0.1)  # fmt: skip
    slope = jax.grad(lambda a: jnp.sum(smallest(value.q(phase.learner, obs, a))))(action)
    np.testing.assert_allclose(slope, 3.0, rtol=2e-2)  # the same wherever it is asked
    near = 0.2 * obs  # V averages over 400 actions drawn without a look at s: it is that exact where the data are
    np.testing.assert_allclose(value.v(phase.learner, near), 1 + near @ jnp.array([2.0, -1.0]), atol=0.6)
    climbed = opex(OPEXConfig(beta=1.0), lambda a: value.q(phase.learner, obs, a), jnp.zeros((7, 1)))
    np.testing.assert_allclose(climbed, 1.0)  # to the edge of the box
