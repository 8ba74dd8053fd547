"""Values from data converge to what is known: linear systems, optimal values, log-ratios; and they read nothing else."""

import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain import DIMS, GAMMA, SHARES, linear_solve, rows, solve, table_of

from valex.losses import contrastive_loss, expectile_loss
from valex.offline.batch import Batch, Dims
from valex.offline.values import make_crl, make_iql, make_sarsa, make_td_value
from valex.settings.offline import VALUE_CONFIGS, CRLConfig, IQLConfig, SARSAConfig
from valex.tables import VALUES, load

SMALL = {"hidden": (32, 32), "activation": "relu", "layer_norm": False, "lr": 3e-3}
TD = SMALL | {"gamma": GAMMA, "tau": 0.05}


@cache
def made(kind: str, **changes):
    """Build a value on the chain: iql with an expectile, or sarsa's variant qq or qv."""
    if kind == "iql":
        return make_iql(IQLConfig(**TD, **changes), DIMS)
    return make_sarsa(SARSAConfig(**TD, variant=kind), DIMS)


@cache
def program(next_action: bool):
    """Compile updates on one and the same batch; number, expectile and lr are traced: one program for a family of values."""

    def run(state, batch, expectile, lr, steps):
        value = make_td_value(IQLConfig(**(TD | {"lr": lr})), DIMS, expectile, next_action)
        one = lambda i, state: value.update(state, jax.random.key(i), batch)  # noqa: E731
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0, state)[1])
        return jax.lax.fori_loop(0, steps, lambda i, carry: one(i, carry[0]), (state, none))

    return jax.jit(run)


@cache
def start():
    """Return the state that all values of the chain begin with."""
    return jax.jit(made("qq").init)(jax.random.key(0))


def updated(kind: str, state, batch, steps: int, expectile: float = 0.5, lr: float = TD["lr"]):
    """Return (state, last metrics) after `steps` updates of `made(kind)`; qv is iql with expectile 0.5, see below."""
    return program(kind == "qq")(state, batch, expectile, lr, steps)


def learned(kind: str, batch, steps: int, expectile: float = 0.5):
    """Return (state, last metrics) after a few updates from the start."""
    return updated(kind, start(), batch, steps, expectile)


def settled(kind: str, expectile: float = 0.5):
    """Return (state, last metrics) where a value has converged: large steps, then small ones that do not go to and fro."""
    state, _ = learned(kind, rows(), 4_000, expectile)
    return updated(kind, state, rows(), 2_000, expectile, 0.1 * TD["lr"])


# ------------------------------------------------------------------------------------------------------------------ losses


def test_expectile_one_half_is_the_mean_and_towards_one_the_maximum():
    x = jnp.asarray(np.random.default_rng(0).normal(size=101), jnp.float32)
    grid = jnp.linspace(-3.0, 3.0, 6_001)
    at = lambda kappa: float(grid[jnp.argmin(jax.vmap(lambda v: expectile_loss(x - v, kappa))(grid))])  # noqa: E731
    assert abs(at(0.5) - float(jnp.mean(x))) < 2e-3
    assert at(0.5) < at(0.9) < at(0.999) < float(jnp.max(x)) and float(jnp.max(x)) - at(0.9999) < 0.1
    np.testing.assert_allclose(expectile_loss(jnp.array([2.0, -1.0]), 0.9), (0.9 * 4 + 0.1 * 1) / 2, rtol=1e-6)


def test_contrastive_loss_by_hand():
    logits = jnp.array([[[1.0, -2.0], [0.5, 3.0]]])
    p = 1 / (1 + np.exp(-np.asarray(logits[0])))
    by_hand = -(np.log(p[0, 0]) + np.log(p[1, 1]) + np.log(1 - p[0, 1]) + np.log(1 - p[1, 0])) / 4
    np.testing.assert_allclose(contrastive_loss(logits), by_hand, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------------- SARSA


@pytest.mark.parametrize("variant", ["qq", "qv"])
def test_sarsa_is_the_linear_solve(variant):
    """Both variants, and IQL with expectile 0.5, evaluate the policy that made the data."""
    value = made(variant)
    state, metrics = settled(variant)
    exact = linear_solve()
    np.testing.assert_allclose(table_of(value, state), exact, atol=0.01)
    v = value.v(state, rows().obs)
    expected = np.asarray(rows().obs) @ (exact @ np.array(SHARES) / sum(SHARES))
    np.testing.assert_allclose(v, expected, atol=0.01)
    advantage = value.advantage(state, rows().obs, rows().action)
    assert abs(float(jnp.mean(advantage))) < 0.01
    assert 0.0 < float(metrics["value/q_over_bound"]) < 1.0
    np.testing.assert_allclose(metrics["value/q_bound"], 1.0 / (1 - GAMMA), rtol=1e-5)


def written_out(value) -> str:
    """Return the program of one update as text, without the addresses of functions."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(value.update)(start(), jax.random.key(0), rows())))


def test_qv_is_iql_with_expectile_one_half():
    """The same program, operation by operation; and the values are those of the family that these tests compile once."""
    assert written_out(made("qv")) == written_out(made("iql", expectile=0.5))
    for kind, kappa in (("qq", 0.5), ("qv", 0.5), ("iql", 0.7)):
        value = made(kind, **({"expectile": kappa} if kind == "iql" else {}))
        assert written_out(value) == written_out(make_td_value(IQLConfig(**TD), DIMS, kappa, kind == "qq"))
    assert written_out(made("qq")) != written_out(made("qv")) != written_out(made("iql", expectile=0.7))


def changed(batch: Batch, which, **fields) -> Batch:
    """Return the batch with some fields replaced in the rows `which`."""
    put = lambda x, y: jnp.where(which.reshape(-1, *(1,) * (x.ndim - 1)), y, x)  # noqa: E731
    return batch._replace(**{name: put(getattr(batch, name), value) for name, value in fields.items()})


@pytest.mark.parametrize(("variant", "reads"), [("qq", False), ("qv", True)])
def test_a_truncated_row_has_no_target_of_sarsa(variant, reads):
    """Without a next action qq leaves the row out, whatever stands in it; qv bootstraps at its true successor."""
    cut = (jnp.arange(len(rows().reward)) % 5 == 0) & ~rows().terminated
    batch = changed(rows(), cut, has_next=False)
    other = changed(batch, cut, reward=50.0, next_obs=9.0, next_action=-7.0)
    same = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (
        learned(variant, batch, 3)[0].params, learned(variant, other, 3)[0].params)), strict=True)]  # fmt: skip
    assert all(same) is not reads


@pytest.mark.parametrize("kind", ["iql", "qq", "qv"])
def test_a_terminated_row_bootstraps_nothing_but_counts(kind):
    kappa = 0.7 if kind == "iql" else 0.5
    ended = rows().terminated
    assert bool(jnp.any(ended)) and not bool(jnp.any(rows().has_next & ended))
    plain = learned(kind, rows(), 3, kappa)[0].params
    beyond = learned(kind, changed(rows(), ended, next_obs=9.0, next_action=-7.0), 3, kappa)[0].params
    jax.tree.map(np.testing.assert_array_equal, plain, beyond)
    paid = learned(kind, changed(rows(), ended, reward=5.0), 3, kappa)[0].params
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (plain, paid)), strict=True))


# --------------------------------------------------------------------------------------------------------------------- IQL


def expectile_of(low: np.ndarray, high: np.ndarray, kappa: float) -> np.ndarray:
    """Return the kappa-expectile of two values with the shares of the data, by bisection-free closed form."""
    left, right = np.minimum(low, high), np.maximum(low, high)
    w_low = np.where(low <= high, SHARES[0], SHARES[1]) * (1 - kappa)
    w_high = np.where(low <= high, SHARES[1], SHARES[0]) * kappa
    return (w_low * left + w_high * right) / (w_low + w_high)


@pytest.mark.parametrize("kappa", [0.7, 0.99])
def test_iql_is_the_expectile_fixed_point_and_towards_one_optimal(kappa):
    value = made("iql", expectile=kappa)
    state, _ = settled("iql", kappa)
    exact = solve(lambda q: expectile_of(q[:, 0], q[:, 1], kappa))
    np.testing.assert_allclose(table_of(value, state), exact, atol=0.02)
    optimal = solve(lambda q: q.max(axis=1))
    far = np.abs(table_of(value, state) - optimal).max()
    assert far < 0.03 if kappa == 0.99 else far > 0.03


def test_iql_bootstraps_with_the_online_v_and_fits_the_target_q():
    """OGBench's, not HIQL's: V is fitted to the slow Q, Q to the V of this very step."""
    value = made("iql", expectile=0.7)
    state = start()
    zeroed = state._replace(target=jax.tree.map(jnp.zeros_like, state.target))
    a, b = (updated("iql", s, rows(), 1, 0.7) for s in (state, zeroed))
    assert float(a[1]["value/v_loss"]) != float(b[1]["value/v_loss"])
    np.testing.assert_array_equal(a[1]["value/q_loss"], b[1]["value/q_loss"])
    y = rows().reward + GAMMA * (1 - rows().terminated) * value.v(state, rows().next_obs)
    q = value.q(state, rows().obs, rows().action)
    np.testing.assert_allclose(a[1]["value/q_loss"], 0.5 * jnp.mean((q - y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(value.advantage(state, rows().obs, rows().action),
                               jnp.min(q, axis=0) - value.v(state, rows().obs), rtol=1e-6)  # fmt: skip


def test_the_target_moves_by_tau():
    state = start()
    state = state._replace(target=jax.tree.map(lambda x: x + 1.0, state.target))
    new, _ = updated("iql", state, rows(), 1, 0.7)
    jax.tree.map(
        lambda now, online, old: np.testing.assert_allclose(now, 0.05 * online + 0.95 * old, rtol=1e-5, atol=1e-6),
        new.target, new.params["q"], state.target,
    )  # fmt: skip


def test_divergence_shows():
    """A reward of 1 and a Q of 100 at gamma 0.9: ten times what any return can be."""
    state, last = start(), "Dense_2"
    params = jax.tree.map(jnp.zeros_like, state.params)
    params = params | {
        "q": tuple(p | {last: p[last] | {"bias": jnp.full(1, -100.0, jnp.float32)}} for p in params["q"])
    }
    _, metrics = updated("qq", state._replace(params=params), rows(), 1)
    np.testing.assert_allclose(metrics["value/q_over_bound"], 10.0, rtol=1e-5)
    np.testing.assert_allclose(metrics["value/q_abs_max"], 100.0, rtol=1e-6)


# --------------------------------------------------------------------------------------------------------------------- CRL


def occupancy(discount: float = 0.7, states: int = 4) -> np.ndarray:
    """Return p+(g | s, a) = (1 - gamma) sum_k gamma^k P(s_{k+1} = g | s, a), [S, 2, S], of a random chain."""
    rng = np.random.default_rng(3)
    move = rng.dirichlet(np.full(states, 0.6), size=(states, 2))  # P(s' | s, a)
    under = move.mean(axis=1)  # both actions equally likely
    return (1 - discount) * move @ np.linalg.inv(np.eye(states) - discount * under)


def contrast(value, batch_size: int, steps: int = 4_000):
    """Train on goals drawn from the exact law; return the value's state."""
    table = jnp.log(jnp.asarray(occupancy(), jnp.float32))

    @jax.jit
    def run(state):
        def step(state, key):
            s_key, a_key, g_key = jax.random.split(key, 3)
            s = jax.random.randint(s_key, (batch_size,), 0, 4)
            a = jax.random.randint(a_key, (batch_size,), 0, 2)
            g = jax.random.categorical(g_key, table[s, a])
            obs, goal, none = jnp.eye(4)[s], jnp.eye(4)[g], jnp.zeros(batch_size)
            batch = Batch(obs, 2.0 * a[:, None] - 1.0, none, obs, none, none[:, None], none, goal)
            return value.update(state, key, batch)

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))

    return run(jax.jit(value.init)(jax.random.key(0)))


@pytest.mark.parametrize("batch_size", [16, 48])
def test_crl_is_the_log_ratio_less_the_shift_of_its_batch(batch_size):
    """f against log p+(g|s, a) / p+(g) - log(B - 1); in the advantage the shift is gone."""
    value = make_crl(CRLConfig(hidden=(32,), activation="relu", layer_norm=False, lr=1e-3, latent=8), Dims(4, 1, 4))
    state, _ = contrast(value, batch_size)
    exact = occupancy()
    s, a, g = (x.ravel() for x in np.meshgrid(range(4), (0, 1), range(4), indexing="ij"))
    obs, action, goal = jnp.eye(4)[s], jnp.asarray(2.0 * a[:, None] - 1.0, jnp.float32), jnp.eye(4)[g]
    weight = exact.ravel() / 8.0  # how often a pair is met as a positive
    ratio = np.log(exact / exact.mean(axis=(0, 1))).ravel()
    f = np.mean(value.q(state, obs, action, goal), axis=0)
    off = np.sum(weight * (f - (ratio - np.log(batch_size - 1))))
    assert abs(off) < 0.1, off
    assert np.sqrt(np.sum(weight * (f - ratio + np.log(batch_size - 1)) ** 2)) < 0.25
    advantage = np.asarray(value.advantage(state, obs, action, goal))
    exact_advantage = np.log(exact / exact.mean(axis=1, keepdims=True)).ravel()
    assert np.sqrt(np.sum(weight * (advantage - exact_advantage) ** 2)) < 0.25


def test_crl_needs_goals():
    with pytest.raises(ValueError, match="crl needs goals"):
        make_crl(CRLConfig(), Dims(3, 1))


# ------------------------------------------------------------------------------------------------------------------- table


def goal_batch() -> Batch:
    return rows()._replace(goal=rows().next_obs)


@pytest.mark.parametrize("name", VALUES)
def test_every_registered_value_keeps_the_contract(name):
    """Shapes, finite metrics, an update that draws nothing from its key, a state of unchanged type, goals that are read."""
    config = replace(VALUE_CONFIGS[name](**SMALL), hidden=(16,), activation="gelu", layer_norm=True, num_critics=3)
    value = load(VALUES, name)(config, DIMS._replace(goal=DIMS.obs))
    state, batch = jax.jit(value.init)(jax.random.key(0)), goal_batch()
    new, metrics = jax.jit(value.update)(state, jax.random.key(1), batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), new)
    assert all(bool(jnp.isfinite(x)) for x in metrics.values()) and "value/q_abs_max" in metrics
    heads = value.q(new, batch.obs, batch.action, batch.goal)
    assert heads.shape == (config.num_critics, len(batch.reward))
    assert value.v(new, batch.obs, batch.goal).shape == value.advantage(new, batch.obs, batch.action, batch.goal).shape
    again, _ = jax.jit(value.update)(state, jax.random.key(2), batch)
    jax.tree.map(np.testing.assert_array_equal, new, again)
    assert not np.allclose(heads, value.q(new, batch.obs, batch.action, batch.goal[::-1]))


def test_configs_and_table_agree():
    assert set(VALUES) == set(VALUE_CONFIGS)
