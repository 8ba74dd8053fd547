"""Expansion on problems with a known answer: every target is the exact soft Q, whatever rule, source, horizon, estimator."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tabular

from valex.actor_expansion import make_actor_objective
from valex.expansion import make_critic_target, make_expansion
from valex.models.oracle import make_oracle
from valex.settings import ActorConfig, CriticConfig, EnvConfig
from valex.tables import RULES, load
from valex.types import ActionSample, Bootstrap, Model, StepOut, Transition
from valex.windows import rollout

MDP = tabular.solve()
HORIZONS = (0, 1, 3, 10)
ESTIMATORS = ("plain", "doubly_robust")
CASES = [
    CriticConfig(rule, source, horizon, lam, estimator)
    for rule in RULES
    for source in ("model", "replay")
    for horizon in HORIZONS
    for lam in (0.4, 1.0)
    for estimator in ESTIMATORS
    if (load(RULES, rule).multi_step or horizon == 0) and (rule in ("td_lambda", "retrace") or lam == 1.0)
    and (rule != "retrace" or estimator == "doubly_robust")
    and (source, estimator, horizon > 0) != ("replay", "plain", True)  # biased by definition: another policy's actions
]  # fmt: skip


@pytest.mark.parametrize("config", CASES, ids=lambda c: f"{c.rule}-{c.source}-H{c.horizon}-{c.lam}-{c.estimator}")
def test_every_target_is_the_exact_soft_q(config):
    """The one test that catches nearly every off-by-one, lost entropy term and wrong bootstrap at an episode's end."""
    batch = tabular.sequences(MDP, config.horizon + 1 if config.source == "replay" else 1, 64)
    target = make_critic_target(config, tabular.GAMMA, tabular.model(MDP))
    found = jax.jit(lambda key, rows: target(tabular.bootstrap(MDP), key, rows, ()))(jax.random.key(3), batch)
    np.testing.assert_allclose(found, tabular.exact(MDP, batch), atol=2e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("horizon", HORIZONS)
def test_actor_objective_is_the_soft_value(horizon, estimator):
    first = jax.tree.map(lambda x: x[0], tabular.sequences(MDP, 1, 64))
    config = ActorConfig(horizon, estimator, divide_by_length=False)
    objective, log_prob = make_actor_objective(config, tabular.GAMMA, tabular.model(MDP))(
        tabular.bootstrap(MDP), jax.random.key(0), first, ()
    )
    expected = MDP.value[np.asarray(first.obs[:, 0], int)]
    np.testing.assert_allclose(objective, expected, atol=2e-5)
    divided = make_actor_objective(replace(config, divide_by_length=True), tabular.GAMMA, tabular.model(MDP))(
        tabular.bootstrap(MDP), jax.random.key(0), first, ()
    )[0]
    np.testing.assert_allclose(divided * (horizon + 1), objective, rtol=1e-5)
    known = MDP.log_pi[np.asarray(first.obs[:, 0], int)]
    assert np.all(np.min(np.abs(known - np.asarray(log_prob)[:, None]), axis=1) < 1e-4)


def biased(bootstrap: Bootstrap) -> Bootstrap:
    """A bootstrap with wrong values, so that targets have a spread."""
    return bootstrap._replace(value=lambda key, obs: 0.0 * obs[..., 0], q=lambda obs, action: 0.3 * action[..., 0])


def test_particles_average_before_the_squared_error():
    """P particles keep the mean of the target and divide its variance by P."""
    batch = jax.tree.map(lambda x: jnp.repeat(x[:, :1], 4000, axis=1), tabular.sequences(MDP, 1, 1, seed=5))
    boot, model = biased(tabular.bootstrap(MDP)), tabular.model(MDP)
    one, many = (
        np.asarray(
            make_critic_target(CriticConfig("h_step", "model", 3, particles=p), tabular.GAMMA, model)(
                boot, jax.random.key(p), batch, ()
            )
        )
        for p in (1, 8)
    )
    assert one.var() > 0.01
    assert abs(one.mean() - many.mean()) < 5 * one.std() / np.sqrt(4000)
    assert 0.8 / 8 < many.var() / one.var() < 1.25 / 8


def test_estimators_have_one_mean_and_two_variances():
    batch = jax.tree.map(lambda x: jnp.repeat(x[:, :1], 20000, axis=1), tabular.sequences(MDP, 1, 1, seed=5))
    exact = tabular.bootstrap(MDP)
    shifted = exact._replace(  # wrong by one constant everywhere: V and Q stay consistent with each other
        value=lambda key, obs: exact.value(key, obs) + 1.0, q=lambda obs, action: exact.q(obs, action) + 1.0
    )
    noisy = shifted._replace(value=lambda key, obs: _sampled_value(shifted, key, obs))
    plain, robust = (
        np.asarray(
            make_critic_target(CriticConfig("h_step", "model", 2, estimator=e), tabular.GAMMA, tabular.model(MDP))(
                noisy._replace(act=_uniform_act, log_prob=_uniform_log_prob), jax.random.key(1), batch, ()
            )
        )
        for e in ESTIMATORS
    )
    standard_error = np.hypot(plain.std(), robust.std()) / np.sqrt(len(plain))
    assert abs(plain.mean() - robust.mean()) < 5 * standard_error
    assert abs(plain.var() / robust.var() - 1) > 0.05


def _uniform_act(key, obs):
    action = jax.random.randint(key, obs.shape, 0, tabular.ACTIONS).astype(jnp.float32)
    return ActionSample(action, jnp.full(obs.shape[:-1], -np.log(tabular.ACTIONS)), action)


def _uniform_log_prob(obs, latent):
    return jnp.full(obs.shape[:-1], -np.log(tabular.ACTIONS))


def _sampled_value(bootstrap, key, obs):
    sample = _uniform_act(key, obs)
    return bootstrap.q(obs, sample.action) + bootstrap.bonus(sample.log_prob)


def test_critic_targets_have_no_gradient_and_actor_objectives_have_one():
    env_model, first = pendulum_model()
    batch = jax.tree.map(lambda x: x[None], first)

    def total(weights, actor):
        boot = linear_bootstrap(weights)
        if actor:
            return jnp.mean(make_actor_objective(ActorConfig(3), 0.9, env_model)(boot, jax.random.key(0), first, ())[0])
        return jnp.mean(
            make_critic_target(CriticConfig("h_step", "model", 3), 0.9, env_model)(boot, jax.random.key(0), batch, ())
        )

    weights = jnp.array([0.3, -0.2, 0.1])
    assert not np.any(jax.grad(total)(weights, False))
    assert np.all(np.abs(jax.grad(total)(weights, True)) > 1e-6)


def pendulum_model():
    from valex.envs.base import make_env

    env = make_env(EnvConfig("pendulum"))
    states = jax.vmap(env.reset)(jax.random.split(jax.random.key(7), 8))
    obs, zeros = jax.vmap(env.obs)(states), jnp.zeros(8)
    sim = jax.vmap(env.sim_state)(states)
    first = Transition(obs, zeros[:, None], zeros, obs, zeros > 0, zeros > 0, sim_state=sim, next_sim_state=sim)
    return make_oracle(env), first


def linear_bootstrap(weights):
    """a = tanh(w . obs + noise), Q = -(obs_0 - 1)^2 - a^2."""

    def act(key, obs):
        latent = obs @ weights + 0.1 * jax.random.normal(key, obs.shape[:-1])
        return ActionSample(jnp.tanh(latent)[..., None], -0.5 * latent, latent[..., None])

    def q(obs, action):
        return -((obs[..., 0] - 1.0) ** 2) - action[..., 0] ** 2

    def value(key, obs):
        sample = act(key, obs)
        return q(obs, sample.action) - 0.2 * sample.log_prob

    return Bootstrap(
        act,
        lambda obs, latent: -0.5 * latent[..., 0],
        value,
        lambda log_prob: -0.2 * log_prob,
        q,
        lambda o, a: q(o, a)[None],
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("horizon", [0, 1, 4])
def test_actor_gradient_matches_finite_differences(horizon, estimator):
    """Central differences with common random numbers, through the pendulum's dynamics."""
    env_model, first = pendulum_model()
    objective = make_actor_objective(ActorConfig(horizon, estimator), 0.9, env_model)

    @jax.jit
    def total(weights):
        return jnp.mean(objective(linear_bootstrap(weights), jax.random.key(0), first, ())[0])

    weights, step = jnp.array([0.3, -0.2, 0.1]), 1e-2
    numeric = [(total(weights + step * e) - total(weights - step * e)) / (2 * step) for e in jnp.eye(3)]
    np.testing.assert_allclose(jax.grad(total)(weights), numeric, rtol=2e-2, atol=2e-3)


def cliff_model() -> Model:
    """x' = sqrt(x) - 0.6 + 0.1 a ends below 0, where the next square root is NaN and its slope infinite."""

    def step(params, key, x, action):
        after = jnp.sqrt(x) - 0.6 + 0.1 * action
        return after, StepOut(after, after[..., 0], after[..., 0] < 0.0)

    return Model(lambda k: (), lambda p, k, obs, sim: obs, step, lambda p, k, r: (p, {}), False, True)


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_gradients_stay_finite_after_a_termination(horizon):
    obs = jnp.array([[0.2], [0.5], [3.0]])
    zeros = jnp.zeros(3)
    first = Transition(obs, obs, zeros, obs, zeros > 0, zeros > 0)

    def act(weight):
        def sample(key, x):
            latent = weight * jnp.sqrt(jnp.maximum(x, 1e-3))
            return ActionSample(jnp.tanh(latent), latent[..., 0], latent)

        return sample

    def total(weight):
        boot = Bootstrap(
            act(weight), lambda o, u: u[..., 0], lambda k, o: o[..., 0], lambda lp: 0.0 * lp, lambda o, a: a[..., 0],
            lambda o, a: a[None, ..., 0],
        )  # fmt: skip
        return jnp.sum(
            make_actor_objective(ActorConfig(horizon), 0.9, cliff_model())(boot, jax.random.key(0), first, ())[0]
        )

    value, slope = jax.value_and_grad(total)(0.5)
    assert np.isfinite(value) and np.isfinite(slope) and slope != 0.0


def test_rollout_stops_paying_after_the_end():
    start = (jnp.array([[0.1], [9.0]]), jnp.array([[0.1], [9.0]]), jnp.array([True, True]))
    act = linear_bootstrap(jnp.zeros(1)).act
    path = rollout(cliff_model(), (), act, jax.random.key(0), start, 6)
    ends = np.argmax(np.asarray(path.terminated), axis=0)
    assert np.all(np.asarray(path.terminated).sum(0) == 1)
    for row, end in enumerate(ends):
        assert np.all(np.asarray(path.reward)[end + 1 :, row] == 0.0)
        assert path.obs[end + 1, row, 0] < 0.0  # the terminal observation is kept
    assert np.all(np.isfinite(path.obs))


def test_a_start_that_has_ended_is_never_stepped():
    half, yes = jnp.full((1, 1, 1), 0.5), jnp.ones((1, 1), bool)
    first = Transition(half, half, jnp.ones((1, 1)), -half, terminated=yes, truncated=~yes)
    boot = linear_bootstrap(jnp.zeros(1))
    target = make_critic_target(CriticConfig("h_step", "model", 3), 0.9, cliff_model())
    np.testing.assert_allclose(target(boot, jax.random.key(0), first, ()), [1.0])


def test_refusals_are_one_clear_line():
    with pytest.raises(ValueError, match="model.name"):
        make_expansion(CriticConfig("h_step", "model", 2), ActorConfig(), 0.9, None)
    rigid = tabular.model(MDP)._replace(differentiable=False)
    with pytest.raises(ValueError, match="spring or positional"):
        make_expansion(CriticConfig(), ActorConfig(2), 0.9, rigid)


@pytest.mark.parametrize(
    ("critic", "window"),
    [(CriticConfig(), 1), (CriticConfig("retrace", "replay", 4), 5), (CriticConfig("h_step", "model", 4), 1)],
)
def test_window_is_what_replay_has_to_supply(critic, window):
    assert make_expansion(critic, ActorConfig(), 0.9, tabular.model(MDP)).window == window
