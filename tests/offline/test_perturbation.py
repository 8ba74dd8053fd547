"""An error put on a value: as large over the data as asked, smooth, the same for all critics, and nothing with size 0."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from valex.offline.batch import Batch, Dims
from valex.offline.perturbation import perturbed
from valex.offline.testtime import opex
from valex.offline.values import make_iql
from valex.settings.offline import IQLConfig, OPEXConfig, PerturbationConfig

DIMS = Dims(3, 2)
VALUE = make_iql(IQLConfig(hidden=(8,), layer_norm=False), DIMS)
ROUGH = PerturbationConfig(size=0.5, seed=3)


@cache
def rows() -> Batch:
    rng = np.random.default_rng(0)
    obs, action = (
        jnp.asarray(rng.normal(2.0, 5.0, (1_000, 3)), jnp.float32),
        jnp.asarray(rng.uniform(-1, 1, (1_000, 2))),
    )
    return Batch(obs, action.astype(jnp.float32), obs[:, 0], obs, obs[:, 0] > 99, action, obs[:, 0] > 99)


STATE = VALUE.init(jax.random.key(0))


def error(config: PerturbationConfig, obs=None, action=None):
    """Return what is added to every critic, [C, N]."""
    at = (rows().obs, rows().action) if obs is None else (obs, action)
    return np.asarray(perturbed(config, VALUE, STATE, rows()).q(STATE, *at) - VALUE.q(STATE, *at), np.float64)


def test_size_0_is_the_value_itself():
    assert perturbed(PerturbationConfig(seed=3), VALUE, STATE, rows()) is VALUE


@pytest.mark.parametrize(("size", "length"), [(0.5, 1.0), (2.0, 0.3), (1.0, 5.0)])
def test_mean_and_variance_over_the_data(size, length):
    """In standard deviations of the smaller critic over the data."""
    q = np.asarray(VALUE.q(STATE, rows().obs, rows().action).min(axis=0))
    found = error(PerturbationConfig(size, 1, length))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)  # one error for all critics
    assert abs(found[0].mean()) < 1e-3 and found[0].std() == pytest.approx(size * q.std(), rel=1e-3)


def test_seeds_are_other_functions_and_the_same_seed_the_same():
    first, again, other = error(ROUGH)[0], error(ROUGH)[0], error(replace(ROUGH, seed=4))[0]
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_its_correlation_is_that_of_its_length():
    """Over many functions: exp(-r^2 / (2 length^2 d)) at a distance r in standard deviations, short against the data's spread."""
    length, distance = 0.3, 0.45
    few = jax.tree.map(lambda x: x[:200], rows())
    move = jnp.array([distance * jnp.std(few.obs[:, 0]), 0.0, 0.0])
    obs, action = jnp.stack([few.obs[0], few.obs[0] + move]), jnp.stack([few.action[0]] * 2)

    def drawn(seed):
        return perturbed(PerturbationConfig(1.0, seed, length), VALUE, STATE, few).q(STATE, obs, action)[0]

    found = np.asarray(jax.lax.map(drawn, jnp.arange(400)))
    assert np.corrcoef(found.T)[0, 1] == pytest.approx(np.exp(-(distance**2) / (2 * length**2 * 5)), abs=0.06)


def test_gradients_are_finite_and_opex_climbs_the_error():
    value = perturbed(replace(ROUGH, size=3.0), VALUE, STATE, rows())
    slope = jax.grad(lambda a: jnp.sum(value.q(STATE, rows().obs, a).min(axis=0)))(rows().action)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
    climbed = opex(OPEXConfig(beta=0.01, scale="grad_norm"), lambda a: value.q(STATE, rows().obs, a), rows().action)
    before, after = (value.q(STATE, rows().obs, a).min(axis=0) for a in (rows().action, climbed))
    inside = np.abs(rows().action).max(axis=1) < 0.98
    assert (np.asarray(after - before)[inside] > -1e-4).all()


def test_v_stays_and_the_advantage_has_the_error():
    value, obs, action = perturbed(ROUGH, VALUE, STATE, rows()), rows().obs, rows().action
    assert value.v is VALUE.v and value.update is VALUE.update
    moved = value.advantage(STATE, obs, action) - VALUE.advantage(STATE, obs, action)
    np.testing.assert_allclose(moved, error(ROUGH)[0], atol=1e-4)


def test_a_coordinate_that_does_not_move_and_goals():
    dims = Dims(3, 2, 3)
    value = make_iql(IQLConfig(hidden=(8,)), dims)
    state = value.init(jax.random.key(0))
    flat = rows()._replace(obs=rows().obs.at[:, 1].set(7.0), goal=rows().obs)
    q = perturbed(ROUGH, value, state, flat).q(state, flat.obs, flat.action, flat.goal)
    assert q.shape == (2, 1_000) and np.isfinite(q).all()
