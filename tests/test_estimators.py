"""Gradient estimators against closed forms: linear-quadratic problems, a parabola, a softened step, and one another."""

from functools import partial

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
import pytest

from valex.estimators.pathwise import Chain, Upto, action_grads, follow, one_by_one
from valex.estimators.per_sample import MODES, TRACED, Mixing, alpha_order_share, per_sample_grads
from valex.estimators.total_propagation import propagated_grads
from valex.losses import covariance_trace
from valex.types import ActionSample, Bootstrap, Model, StepOut, Transition


def keys_of(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def rows_at(obs) -> Transition:
    count = obs.shape[0]
    zero, no = jnp.zeros(count), jnp.zeros(count, bool)
    return Transition(obs, jnp.zeros((count, 1)), zero, obs, no, no)


@partial(jax.jit, static_argnums=(1, 4, 5, 6))
def compiled(theta, chain, starts, keys, horizon, mode, mixing=None):
    return per_sample_grads(theta, chain, starts, keys, horizon, mode, mixing)


# ------------------------------------------------------------------------------------------------ one number, no noise

RHO_B = 0.7


def scalar_chain(a: float) -> Chain:
    """s' = a s + b u, u = -theta s, nothing but s_h^2 / 2 at the end."""

    def view(theta):
        def act(key, obs):
            action = -theta * obs
            return ActionSample(action, jnp.zeros(obs.shape[:-1]), action)

        q = lambda obs, action: 0.5 * obs[..., 0] ** 2  # noqa: E731
        none = lambda obs, latent: jnp.zeros(obs.shape[:-1])  # noqa: E731
        return Bootstrap(act, none, lambda k, o: q(o, o), jnp.zeros_like, q, lambda o, u: q(o, u)[None])

    def step(params, key, state, action):
        after = a * state + RHO_B * action
        return after, StepOut(after, jnp.zeros(len(state)), jnp.zeros(len(state), bool))

    return Chain(view, Model(lambda k: (), lambda p, k, o, s: o, step, lambda p, k, r: (p, {}), False, True), (), 1.0)


@pytest.mark.parametrize(("rho", "horizon", "variance"), [(0.9, 3, 3.075), (1.0, 10, 98.0), (1.2, 10, 100026.0)])
def test_variance_grows_with_the_power_of_the_closed_loop(rho, horizon, variance):
    """ghat = -b h rho^(2h-1) s_0^2, Var = 2 b^2 h^2 rho^(4h-2) (spec 1.7, golden test 1)."""
    theta = jnp.float32(0.4)
    chain, obs = scalar_chain(rho + RHO_B * 0.4), jax.random.normal(jax.random.key(0), (200_000, 1))
    grads = compiled(theta, chain, rows_at(obs), keys_of(len(obs)), horizon, "dp")
    exact = -RHO_B * horizon * rho ** (2 * horizon - 1) * obs[:, 0] ** 2
    np.testing.assert_allclose(grads, exact, rtol=1e-4, atol=1e-6 * float(jnp.max(jnp.abs(exact))))
    np.testing.assert_allclose(covariance_trace(grads[:, None]), variance, rtol=0.03)


# ------------------------------------------------------------------------------------------------- one draw, no dynamics

TH, S = 0.7, 0.5
STILL = Model(
    lambda k: (),
    lambda p, k, obs, sim: obs,
    lambda p, k, s, a: (s, StepOut(s, jnp.zeros(len(s)), jnp.zeros(len(s), bool))),
    lambda p, k, r: (p, {}),
    False,
    True,
)


def drawn(f, s: float = S) -> Chain:
    """h = 0: the critic is f of the action theta + s eps."""

    def view(theta):
        def act(key, obs):
            latent = theta + s * jax.random.normal(key, obs.shape)
            return ActionSample(latent, log_prob(obs, latent), latent)

        def log_prob(obs, latent):
            return jnp.sum(-0.5 * ((latent - theta) / s) ** 2, axis=-1)

        q = lambda obs, action: f(action[..., 0])  # noqa: E731
        return Bootstrap(
            act, log_prob, lambda k, o: q(o, act(k, o).action), jnp.zeros_like, q, lambda o, u: q(o, u)[None]
        )

    return Chain(view, STILL, (), 1.0)


def parabola(x):
    return 0.5 * x**2


@pytest.mark.parametrize(
    ("mode", "baseline", "variance"),
    [
        ("dp", 0.0, 0.25),  # s^2
        ("lr", 0.0, 2.8926),  # (th^4 / s^2 + 18 th^2 + 15 s^2) / 4 - th^2
        ("lr", TH**2 / 2, 1.9175),  # 2 th^2 + 15 s^2 / 4
        ("lr", "mean", 2 * TH**2 + 2.5 * S**2),  # b = (th^2 + s^2) / 2
        ("lr", "optimal", 2 * TH**2 + 1.5 * S**2),  # b = E[eps^2 f] = (th^2 + 3 s^2) / 2
    ],
)
def test_means_and_variances_on_a_parabola(mode, baseline, variance):
    """RP has mean th and variance s^2; LR the same mean, and the variances of spec 2.3, golden test 2."""
    count = 100_000
    starts, keys = rows_at(jnp.zeros((count, 1))), keys_of(count)
    grads = np.asarray(compiled(jnp.float32(TH), drawn(parabola), starts, keys, 0, mode, Mixing(baseline)))
    squares = (grads - grads.mean()) ** 2
    assert abs(grads.mean() - TH) < 4 * grads.std() / count**0.5
    assert abs(squares.mean() - variance) < 4 * squares.std() / count**0.5


def test_total_propagation_of_correlated_estimates():
    """Weights by inverse variance are best for independent estimates; these share their noise, so only a bound holds."""
    count = 50_000
    starts, keys = rows_at(jnp.zeros((count, 1))), keys_of(count)
    grads, shares = jax.jit(lambda t, s, k: propagated_grads(t, drawn(parabola), s, k, 0))(
        jnp.float32(TH), starts, keys
    )
    rp, lr = S**2, 2 * TH**2 + 2.5 * S**2
    np.testing.assert_allclose(shares, rp / (rp + lr), rtol=0.1)
    assert abs(float(jnp.mean(grads)) - TH) < 4 * float(jnp.std(grads)) / count**0.5
    assert rp < jnp.var(grads) < float(shares[0] * lr**0.5 + (1 - shares[0]) * rp**0.5) ** 2


@pytest.mark.parametrize("tau", [0.02, 0.005])
def test_a_softened_step(tau):
    """E[g_RP^2] -> p(0) / (6 tau): pathwise variance explodes where a step is softened; lr does not care (golden test 3)."""
    count, density = 400_000, float(np.exp(-0.5 * (TH / S) ** 2) / (S * np.sqrt(2 * np.pi)))
    starts, keys = rows_at(jnp.zeros((count, 1))), keys_of(count)
    chain = drawn(lambda x: jax.nn.sigmoid(x / tau))
    rp = compiled(jnp.float32(TH), chain, starts, keys, 0, "dp")
    lr = compiled(jnp.float32(TH), chain, starts, keys, 0, "lr")
    np.testing.assert_allclose(jnp.mean(rp**2), density / (6 * tau), rtol=0.06)
    for grads in (rp, lr):
        assert abs(float(jnp.mean(grads)) - density) < 4 * float(jnp.std(grads)) / count**0.5 + 3 * tau**2


def test_behind_a_hard_step_only_the_likelihood_ratio_sees_anything():
    count, density = 200_000, float(np.exp(-0.5 * (TH / S) ** 2) / (S * np.sqrt(2 * np.pi)))
    starts, keys = rows_at(jnp.zeros((count, 1))), keys_of(count)
    chain = drawn(lambda x: 1.0 * (x > 0.0))
    assert not np.any(compiled(jnp.float32(TH), chain, starts, keys, 0, "dp"))
    lr = compiled(jnp.float32(TH), chain, starts, keys, 0, "lr")
    assert abs(float(jnp.mean(lr)) - density) < 4 * float(jnp.std(lr)) / count**0.5


# --------------------------------------------------------------------------------------------------- linear-quadratic


def close_to(grads, exact):
    """The mean of per-sample gradients lies within 4 standard errors of `exact` in every entry."""
    flat = np.asarray(grads).reshape(len(grads), -1)
    error = flat.std(0) / len(flat) ** 0.5
    assert np.all(np.abs(flat.mean(0) - np.ravel(exact)) < 4 * error + 1e-5), (flat.mean(0), exact, error)


NOISE = 0.5
MOMENTS = lq.moments(600, NOISE)
TERMS = np.array([lq.GAMMA**t * lq.state_gradient(m)[0] for t, m in enumerate(MOMENTS)])  # gamma^t E[u(s_t)]


def test_the_terms_add_up_to_the_gradient():
    """The sum over t is the derivative of J = -tr(P S) / 2 - noise, by differences of the closed form."""

    def objective(k):
        p = lq.value_matrix(k)
        noise = NOISE**2 * (lq.R + lq.GAMMA * (lq.B.T @ p @ lq.B)[0, 0]) / (1 - lq.GAMMA)
        return -0.5 * (np.trace(p @ lq.START) + noise)

    push = 1e-5 * np.eye(2)
    slope = [(objective(lq.K + d) - objective(lq.K - d)) / 2e-5 for d in push]
    np.testing.assert_allclose(TERMS.sum(0), slope, rtol=1e-5)


@pytest.mark.parametrize("horizon", [0, 3])
def test_starts_at_the_reset_miss_what_comes_after_the_horizon(horizon):
    """E_zeta[ghat] = sum_{t<=h} gamma^t E[u(s_t)], with model and critic exact (spec 1.2)."""
    for mode in ("dp", "lr"):
        grads = compiled(lq.theta(), CHAIN, lq.starts(20_000), keys_of(20_000), horizon, mode)
        close_to(grads, TERMS[: horizon + 1].sum(0))


@pytest.mark.parametrize("horizon", [0, 3])
def test_starts_where_the_policy_goes_weigh_early_steps_less(horizon):
    """E_nu[ghat] = (1 - gamma) sum_t gamma^t min(t + 1, h + 1) E[u(s_t)]; the first action alone: (1 - gamma) of the truth."""
    count = 40_000
    times = np.random.default_rng(1).geometric(1 - lq.GAMMA, count) - 1
    starts = lq.starts(count, after=times)
    weights = np.minimum(np.arange(len(TERMS)) + 1, horizon + 1)
    grads = compiled(lq.theta(), CHAIN, starts, keys_of(count), horizon, "dp")
    close_to(grads, (1 - lq.GAMMA) * (weights[:, None] * TERMS).sum(0))
    grads = compiled(lq.theta(), CHAIN, starts, keys_of(count), horizon, "first_action")
    close_to(grads, (1 - lq.GAMMA) * TERMS.sum(0))


CHAIN = lq.chain(NOISE)


def test_the_recursion_of_sensitivities():
    """M_{i+1} = (A + B Kappa) M_i + B P_i and its sum of rewards (spec 1.2), and without Kappa for detach."""
    count, horizon = 5, 4
    starts, keys = lq.starts(count), keys_of(count)
    grads = {mode: np.asarray(compiled(lq.theta(), CHAIN, starts, keys, horizon, mode)) for mode in ("dp", "detach")}
    p = lq.value_matrix()
    once = jax.jit(lambda theta, row, key: follow(theta, CHAIN, row, key, horizon))
    for j in range(count):
        row = jax.tree.map(lambda x, j=j: x[j : j + 1], starts)
        seen = once(lq.theta(), row, keys[j])
        obs = np.asarray(seen.path.obs)[:, 0]
        action = np.concatenate([np.asarray(seen.path.action)[:, 0], np.asarray(seen.last.action)])
        for mode, inner in (("dp", -lq.K), ("detach", 0 * lq.K)):
            m, total = np.zeros((2, 2)), np.zeros(2)
            for i in range(horizon):
                da = inner @ m - obs[i][None]
                total += lq.GAMMA**i * (-(obs[i] @ lq.Q) @ m - lq.R * action[i] @ da)
                m = lq.A @ m + lq.B @ da
            da = inner @ m - obs[-1][None]
            after = lq.A @ obs[-1] + lq.B @ action[-1]
            moved = lq.A @ m + lq.B @ da
            total += lq.GAMMA**horizon * (
                -(obs[-1] @ lq.Q) @ m - lq.R * action[-1] @ da - lq.GAMMA * (after @ p) @ moved
            )
            np.testing.assert_allclose(grads[mode][j, 0], total, rtol=2e-4, atol=1e-5)


def test_gradients_of_every_call_add_up():
    starts, keys = lq.starts(6), keys_of(6)
    parts = jax.jit(lambda t, s, k: action_grads(t, CHAIN, s, k, 3))(lq.theta(), starts, keys)
    np.testing.assert_allclose(parts.sum(1), compiled(lq.theta(), CHAIN, starts, keys, 3, "dp"), rtol=1e-4)
    np.testing.assert_allclose(parts[:, 0], compiled(lq.theta(), CHAIN, starts, keys, 3, "first_action"), rtol=1e-4)


@pytest.mark.parametrize("edge", [1e9, 0.8])
@pytest.mark.parametrize(("share", "mode"), [(0.0, "dp"), (1.0, "lr")])
def test_total_propagation_contains_both(share, mode, edge):
    """With the share of the likelihood ratio fixed at 0 it is dp, at 1 it is lr, terminations included."""
    chain, starts, keys = lq.chain(NOISE, edge), lq.starts(40), keys_of(40)
    found, shares = jax.jit(lambda t, s, k: propagated_grads(t, chain, s, k, 4, share))(lq.theta(), starts, keys)
    expected = compiled(lq.theta(), chain, starts, keys, 4, mode, Mixing("mean"))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(shares, share)


def test_total_propagation_is_unbiased_and_no_worse():
    count, horizon = 20_000, 6
    starts, keys = lq.starts(count), keys_of(count)
    found, shares = jax.jit(lambda t, s, k: propagated_grads(t, CHAIN, s, k, horizon))(lq.theta(), starts, keys)
    close_to(found, TERMS[: horizon + 1].sum(0))
    others = [covariance_trace(compiled(lq.theta(), CHAIN, starts, keys, horizon, m)) for m in ("dp", "lr")]
    assert covariance_trace(found) < 1.05 * min(others)
    assert np.all((shares > 0) & (shares < 1))


@pytest.mark.parametrize("mode", MODES)
def test_every_estimator_stays_finite_past_a_termination(mode):
    chain = lq.chain(NOISE, edge=0.5)
    starts = lq.starts(32)
    if mode == "dr":
        starts = segments(chain, starts, keys_of(32), 5)
    grads = compiled(lq.theta(), chain, starts, keys_of(32), 5, mode)
    assert grads.shape == (32, 1, 2) and np.all(np.isfinite(grads))


@partial(jax.jit, static_argnums=(0, 3))
def segments(chain: Chain, starts: Transition, keys, horizon: int) -> Transition:
    """Real segments of h + 1 steps, leaves [h + 1, B, ...], by letting the chain's own model make them."""

    def one(row, key):
        seen = follow(lq.theta(), chain, row, key, horizon)
        path, last = seen.path, seen.last
        put = lambda a, b: jnp.concatenate([a, b[None]])  # noqa: E731
        action, latent = put(path.action, last.action), put(path.latent, last.latent)
        log_prob, reward = put(path.log_prob, last.log_prob), put(path.reward, jnp.zeros(1))
        after = put(path.obs[1:], path.obs[-1])
        ended = put(path.terminated, jnp.zeros(1, bool))
        return Transition(path.obs, action, reward, after, ended, jnp.zeros_like(ended), log_prob, latent)

    made = jax.vmap(one)(one_by_one(starts, "dp"), keys)
    return jax.tree.map(lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), made)


def test_real_noise_gives_the_same_gradient_as_drawn_noise():
    """With the noises of a rollout of the model itself, dr is dp exactly (golden test 6)."""
    starts, keys = lq.starts(16), keys_of(16)
    for edge in (1e9, 0.8):
        chain = lq.chain(NOISE, edge)
        real = segments(chain, starts, keys, 5)
        dp = compiled(lq.theta(), chain, starts, keys, 5, "dp")
        np.testing.assert_allclose(compiled(lq.theta(), chain, real, keys, 5, "dr"), dp, rtol=1e-4, atol=1e-4)


def test_a_segment_that_the_clock_cuts_is_bootstrapped_there():
    starts, keys = lq.starts(8), keys_of(8)
    real = segments(CHAIN, starts, keys, 5)
    cut = real._replace(truncated=real.truncated.at[1].set(True))
    other = jax.tree.map(
        lambda x: x.at[2:].set(7) if x.dtype != bool else x, cut
    )  # what follows belongs to another episode
    found = compiled(lq.theta(), CHAIN, cut, keys, 5, "dr")
    np.testing.assert_allclose(found, compiled(lq.theta(), CHAIN, other, keys, 5, "dr"), rtol=1e-5)
    assert not np.allclose(found, compiled(lq.theta(), CHAIN, real, keys, 5, "dr"))


# ------------------------------------------------------------------------------------------------------------ mixtures


def test_inverse_variance_weighting():
    starts, keys = lq.starts(500), keys_of(500)
    made = {m: compiled(lq.theta(), CHAIN, starts, keys, 5, m) for m in ("dp", "lr", "ivw", "alpha_order")}
    rp, lr = covariance_trace(made["dp"]), covariance_trace(made["lr"])
    share = lr / (rp + lr)
    np.testing.assert_allclose(made["ivw"], share * made["dp"] + (1 - share) * made["lr"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(made["alpha_order"], made["ivw"], rtol=1e-5)  # without a budget nothing binds


def test_the_budget_of_bias_binds():
    rng = np.random.default_rng(0)
    lr, rp = (jnp.asarray(m + s * rng.normal(size=(50_000, 3))) for m, s in ((1.0, 1.0), (2.0, 0.1)))
    error = np.sqrt(2 * covariance_trace(lr) * np.log(4 / 0.05) / 50_000)  # the bound's second part is small
    share = alpha_order_share(rp, lr, Mixing(bias_budget=0.5))
    np.testing.assert_allclose(share, (0.5 - error) / np.sqrt(3.0), rtol=0.02)
    assert alpha_order_share(rp, lr, Mixing(bias_budget=float(error) / 2)) == 0.0


def test_unknown_modes_are_named():
    with pytest.raises(ValueError, match="mode: got 'rp'"):
        per_sample_grads(lq.theta(), CHAIN, lq.starts(2), keys_of(2), 1, "rp")
    silent = CHAIN._replace(view=lambda th: lq.bootstrap(th, NOISE)._replace(redraw=None))
    with pytest.raises(ValueError, match="dr infers"):
        per_sample_grads(lq.theta(), silent, lq.starts(2), keys_of(2), 1, "dr")


# --------------------------------------------------------------------------------------------------- traced horizons


@pytest.mark.parametrize("mode", TRACED)
def test_one_program_serves_every_horizon(mode):
    """V_h with h traced up to 5 is V_h with h written down; nothing here draws a number."""
    chain, rows = scalar_chain(1.3), rows_at(jax.random.normal(jax.random.key(0), (64, 1)))
    traced = jax.jit(lambda h: per_sample_grads(jnp.float32(0.4), chain, rows, keys_of(64), Upto(5, h), mode))
    for h in (0, 1, 2, 5):
        exact = per_sample_grads(jnp.float32(0.4), chain, rows, keys_of(64), h, mode)
        np.testing.assert_allclose(traced(jnp.int32(h)), exact, rtol=1e-5, atol=1e-6)
    assert traced._cache_size() == 1


def test_what_explodes_behind_a_traced_horizon_spoils_nothing():
    chain, rows = scalar_chain(1e30), rows_at(jnp.ones((4, 1)))
    found = per_sample_grads(jnp.float32(0.4), chain, rows, keys_of(4), Upto(8, jnp.int32(0)), "dp")
    one = per_sample_grads(jnp.float32(0.4), scalar_chain(1e6), rows, keys_of(4), Upto(8, jnp.int32(1)), "dp")
    assert np.all(np.isfinite(found)) and np.all(np.isfinite(one)) and np.all(one != 0.0)


def test_a_traced_horizon_is_refused_where_rows_are_counted():
    for mode in set(MODES) - set(TRACED):
        with pytest.raises(ValueError, match="horizon: traced"):
            per_sample_grads(
                jnp.float32(0.4), scalar_chain(1.0), rows_at(jnp.ones((4, 1))), keys_of(4), Upto(2, jnp.int32(1)), mode
            )
