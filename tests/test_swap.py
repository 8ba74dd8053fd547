"""Swapped components on a linear-quadratic problem: every one of the sixteen gradients against a recursion written out."""

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
import pytest
from test_estimators import keys_of

from valex.diagnostics.swap import ALL, CELLS, NONE, ONE_TRUE, Simulated, return_grads, swapped_grads
from valex.envs.base import make_env, native_env
from valex.estimators.pathwise import Chain
from valex.estimators.per_sample import per_sample_grads
from valex.models.ensemble import make_ensemble
from valex.models.swap import Truth, swapped
from valex.settings import EnvConfig, ModelConfig
from valex.types import EnvSpec, Opinions, StepOut

A, B = lq.A + np.array([[0.05, -0.1], [0.1, 0.08]]), lq.B + np.array([[0.15], [-0.1]])  # what the model believes
Q, R = np.diag([0.6, 0.9]), 0.5
CRITIC = 1.4 * lq.value_matrix() + np.array([[0.2, 0.1], [0.1, 0.0]])


def simulator(a=lq.A, b=lq.B, q=lq.Q, r=lq.R):
    """The linear system as an environment whose observation is its state."""
    a, b, q = (jnp.asarray(x, jnp.float32) for x in (a, b, q))

    def step(key, s, action):
        after = a @ s + b @ action
        return after, StepOut(after, -0.5 * (s @ q @ s + r * jnp.sum(action**2)), jnp.zeros((), bool))

    spec = EnvSpec("linear", 2, 1, 0, 100, 1, 1.0, "jax", True)
    env = native_env(spec, lambda key: jax.random.normal(key, (2,)), step, lambda s: s, None)
    return env._replace(invert=lambda obs: obs)


def believed():
    """The same system as the model believes it to be, and a critic that is wrong, under a policy without noise."""
    env = simulator(A, B, Q, R)
    batch = lambda p, k, s, a: jax.vmap(env.step)(jax.random.split(k, len(a)), s, a)  # noqa: E731
    a, b, q, p = (jnp.asarray(x, jnp.float32) for x in (lq.A, lq.B, lq.Q, CRITIC))

    def judge(obs, action):
        after = obs @ a.T + action @ b.T
        square = lambda x, m: jnp.sum((x @ m) * x, axis=-1)  # noqa: E731
        return -0.5 * (square(obs, q) + lq.R * jnp.sum(action**2, axis=-1) + lq.GAMMA * square(after, p))

    view = lambda th: lq.bootstrap(th, 0.0)._replace(q=judge, heads=lambda o, u: judge(o, u)[None])  # noqa: E731
    return Simulated(Chain(view, lq.model()._replace(step=batch), (), lq.GAMMA), simulator())


def by_recursion(s, cell, horizon, tail):
    """d V_h / d K of one start, spec 1.2: M_{i+1} = (A - B K) M_i + B P_i with the A, B, r, Q that the cell asks for."""
    states, jacobians, reward, critic = cell
    av, bv = (lq.A, lq.B) if states else (A, B)
    aj, bj = (lq.A, lq.B) if jacobians else (A, B)
    q, r = (lq.Q, lq.R) if reward else (Q, R)
    k, m, total = lq.K, np.zeros((2, 2)), np.zeros(2)  # m: d s / d K, [state, parameter]
    for i in range(horizon):
        a = -k @ s
        da = -k @ m - s[None]  # [1, 2]
        total += lq.GAMMA**i * (-(q @ s) @ m - r * a @ da)
        s, m = av @ s + bv @ a, aj @ m + bj @ da
    p, closed, cost = CRITIC, lq.A - lq.B @ k, lq.Q + lq.R * k.T @ k
    for _ in range(tail + 1 if critic else 0):  # the critic closes the return at its own Q(s, -K s), `tail` steps on
        p = cost + lq.GAMMA * closed.T @ p @ closed
    a, da = -k @ s, -k @ m - s[None]
    after, dafter = lq.A @ s + lq.B @ a, lq.A @ m + lq.B @ da
    return total + lq.GAMMA**horizon * (-(lq.Q @ s) @ m - lq.R * a @ da - lq.GAMMA * (p @ after) @ dafter)


@pytest.mark.parametrize("horizon", [0, 1, 4])
def test_every_cell_is_the_recursion(horizon):
    world, starts = believed(), lq.starts(5)
    found = jax.jit(lambda th: swapped_grads(th, world, starts, keys_of(5), horizon, CELLS))(lq.theta())
    for cell, grads in zip(CELLS, found, strict=True):
        exact = [by_recursion(np.asarray(s, float), cell, horizon, world.tail) for s in starts.obs]
        np.testing.assert_allclose(grads, exact, rtol=2e-4, atol=2e-4, err_msg=str(cell))
    if horizon:
        assert len({tuple(np.round(np.asarray(g).ravel(), 4)) for g in found}) == len(CELLS)  # all of them differ


def test_nothing_swapped_is_the_estimate_and_states_swapped_are_its_dr():
    world, starts, horizon = believed(), lq.starts(6), 3
    dp, drift = swapped_grads(lq.theta(), world, starts, keys_of(6), horizon, (NONE, ONE_TRUE[0]))
    np.testing.assert_allclose(
        dp, per_sample_grads(lq.theta(), world.chain, starts, keys_of(6), horizon, "dp").reshape(6, -1), rtol=1e-5
    )
    rows = [starts]
    for _ in range(horizon):
        before = rows[-1]._replace(action=-rows[-1].obs @ lq.theta().T)
        out = jax.vmap(world.env.step)(keys_of(6), before.obs, before.action)[1]
        rows[-1] = before._replace(reward=out.reward, next_obs=out.obs, latent=before.action)
        rows.append(before._replace(obs=out.obs))
    last = rows[-1]._replace(action=-rows[-1].obs @ lq.theta().T)
    rows[-1] = last._replace(next_obs=last.obs, latent=last.action)
    segments = jax.tree.map(lambda *x: jnp.stack(x), *(r._replace(latent=r.action) for r in rows))
    model = world.chain.model._replace(opinions=None)
    dr = per_sample_grads(lq.theta(), world.chain._replace(model=restarted(model)), segments, keys_of(6), horizon, "dr")
    np.testing.assert_allclose(drift, dr.reshape(6, -1), rtol=1e-4, atol=1e-5)


def restarted(model):
    """The model at the real states: `dr` steps a model without opinions by itself, so it is told where the data are."""

    def opinions(params, obs, action):
        after, out = jax.vmap(lambda s, a: simulator(A, B, Q, R).step(None, s, a))(obs, action)
        zero = jnp.zeros_like(after)
        return Opinions(out.obs[None], out.reward[None], zero[None], jnp.zeros_like(out.reward)[None])

    return model._replace(opinions=opinions)


def test_the_gradient_without_error_is_the_weighted_sum_of_the_truth():
    """E = sum_{t <= h} gamma^t E[u(s_t)], and to the end the gradient of the return: spec 1.2, with a noisy policy."""
    horizon, noise = 3, 0.5
    chain = lq.chain(noise)
    world, starts = Simulated(chain, simulator()), lq.starts(20_000, noise=noise)
    grads = jax.jit(lambda th: swapped_grads(th, world, starts, keys_of(20_000), horizon, (ALL,))[0])(lq.theta())
    seconds = lq.moments(120, noise)
    exact = sum(lq.GAMMA**t * lq.state_gradient(seconds[t]) for t in range(horizon + 1))
    error = np.std(grads, axis=0) / 20_000**0.5
    assert np.all(np.abs(np.mean(grads, axis=0) - exact.ravel()) < 5 * error)
    whole = jax.jit(lambda th: return_grads(th, world, starts, keys_of(20_000), 120))(lq.theta())
    exact = sum(lq.GAMMA**t * lq.state_gradient(seconds[t]) for t in range(120))
    assert np.all(np.abs(np.mean(whole, axis=0) - exact.ravel()) < 5 * np.std(whole, axis=0) / 20_000**0.5)


@pytest.mark.parametrize("name", ["pendulum", "cartpole", "ball", "linear_quadratic"])
def test_an_observation_tells_the_state(name):
    """obs(invert(obs(x))) = obs(x), the next observation is the same, and so is how it depends on the observation."""
    env = make_env(EnvConfig(name))
    keys = jax.random.split(jax.random.key(0), 64)
    state = jax.vmap(env.reset)(keys)
    action = jax.random.uniform(jax.random.key(1), (64, env.spec.act_dim), minval=-0.9, maxval=0.9)
    obs = jax.vmap(env.obs)(state)
    back = jax.vmap(env.invert)(obs)
    np.testing.assert_allclose(jax.vmap(env.obs)(back), obs, atol=1e-6)
    after, again = (jax.vmap(env.step)(keys, s, action)[1] for s in (state, back))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), after, again)
    slope = jax.vmap(jax.jacfwd(lambda s, k, a: env.step(k, s, a)[1].obs))(state, keys, action)
    into = jax.vmap(jax.jacfwd(env.obs))(state)
    through = jax.vmap(jax.jacfwd(lambda o, k, a: env.step(k, env.invert(o), a)[1].obs))(obs, keys, action)
    for exact, move in zip(jax.tree.leaves(slope), jax.tree.leaves(into), strict=True):
        columns = [x.reshape(64, x.shape[1], -1) for x in (exact, move)]
        np.testing.assert_allclose(through @ columns[1], columns[0], rtol=1e-3, atol=1e-3)


def test_where_observations_do_not_tell_the_state_it_is_said():
    env = make_env(EnvConfig("pendulum"))._replace(invert=None)
    with pytest.raises(ValueError, match="env: the observation of pendulum"):
        swapped(make_ensemble(env, ModelConfig("ensemble", hidden=(8,))), env, Truth(1, 1, 1))
