"""DDPG and TD3: textbook updates at H = 0, the density that Retrace is given, smoothing, delay, what each side reads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from test_sac import ENV, GAMMA, batch

from valex.agents.ddpg import RELEASED_STD, make_ddpg
from valex.agents.td3 import make_td3, smoothed
from valex.expansion import make_critic_target, make_expansion
from valex.models.oracle import make_oracle
from valex.networks import critic_ensemble, mlp
from valex.settings import ActorConfig, CriticConfig, DDPGConfig, TD3Config

DDPG = DDPGConfig(hidden=(16, 16), normalize_obs=False)
TD3 = TD3Config(hidden=(16, 16), normalize_obs=False)
PLAIN, CE = CriticConfig(), CriticConfig("h_step", "model", 3)
RETRACE = CriticConfig("retrace", "replay", 2, estimator="doubly_robust")
NO_ACTOR = ActorConfig()
PI, Q = mlp(3, (16, 16), 1), critic_ensemble(3, 1, (16, 16), 2)


def agent_of(config: DDPGConfig, critic: CriticConfig = PLAIN, actor: ActorConfig = NO_ACTOR):
    make = make_td3 if isinstance(config, TD3Config) else make_ddpg
    return make(config, ENV.spec, make_expansion(critic, actor, GAMMA, make_oracle(ENV)))


def begun(agent, seed: int = 0):
    """A state whose target nets are not the online ones."""
    state = agent.init(jax.random.key(seed))
    return state._replace(target=jax.tree.map(lambda x: 0.9 * x, state.online))


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))


def moved(params, objective, lr: float = 3e-4):
    """The parameters after one step of Adam."""
    tx = optax.adam(lr)
    return optax.apply_updates(params, tx.update(jax.grad(objective)(params), tx.init(params))[0])


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)


def mixed(online, old):
    return jax.tree.map(lambda a, b: 0.005 * a + 0.995 * b, online, old)


def critic_objective(rows, y):
    return lambda params: jnp.mean(0.5 * (Q.apply(params, rows.obs, rows.action) - y) ** 2)


def target_of(state, rows, next_action):
    next_q = jnp.min(Q.apply(state.target.critic, rows.next_obs, next_action), axis=0)
    return rows.reward + GAMMA * (1 - rows.terminated) * next_q


def test_one_ddpg_update_is_the_textbook_update():
    agent, rows = agent_of(DDPG), jax.tree.map(lambda x: x[0], batch())
    state = begun(agent)
    new, metrics = agent.update(state, jax.random.key(5), batch(), ())
    y = target_of(state, rows, jnp.tanh(PI.apply(state.target.actor, rows.next_obs)))
    np.testing.assert_allclose(metrics["target/mean"], jnp.mean(y), rtol=1e-5)

    def actor_objective(params):
        action = jnp.tanh(PI.apply(params, rows.obs))
        return -jnp.mean(jnp.min(Q.apply(state.online.critic, rows.obs, action), axis=0))

    close(moved(state.online.critic, critic_objective(rows, y)), new.online.critic)
    close(moved(state.online.actor, actor_objective), new.online.actor)
    close(mixed(new.online, state.target), new.target)


def test_two_td3_updates_are_the_textbook_updates():
    """Noise zero: the first moves the critics alone, the second also the actor, up the new first critic, and both targets."""
    agent, rows = agent_of(replace(TD3, target_noise=0.0)), jax.tree.map(lambda x: x[0], batch())
    state = begun(agent)
    one, early = agent.update(state, jax.random.key(5), batch(), ())
    y = target_of(state, rows, jnp.tanh(PI.apply(state.target.actor, rows.next_obs)))
    close(moved(state.online.critic, critic_objective(rows, y)), one.online.critic)
    assert same(one.online.actor, state.online.actor) and same(one.target, state.target)
    two, late = agent.update(one, jax.random.key(6), batch(), ())

    def actor_objective(params):
        return -jnp.mean(Q.apply(two.online.critic, rows.obs, jnp.tanh(PI.apply(params, rows.obs)))[0])

    close(moved(one.online.actor, actor_objective), two.online.actor)
    close(mixed(two.online, one.target), two.target)
    np.testing.assert_allclose(late["actor/loss"], actor_objective(one.online.actor), rtol=1e-5)
    assert float(early["actor/loss"]) == 0.0  # none yet
    three, after = agent.update(two, jax.random.key(7), batch(), ())
    assert same(three.online.actor, two.online.actor) and float(after["actor/loss"]) == float(late["actor/loss"])


def test_without_delay_noise_and_second_critic_td3_targets_are_ddpg_targets():
    plain = replace(TD3, target_noise=0.0)
    for critic in (PLAIN, CE, replace(CE, rule="td_lambda", estimator="doubly_robust")):
        ddpg, td3 = agent_of(DDPG, critic), agent_of(plain, critic)
        state = begun(ddpg)
        target = make_critic_target(critic, GAMMA, make_oracle(ENV))
        a = target(ddpg.bootstrap(state), jax.random.key(1), batch(), ())
        b = target(td3.bootstrap(begun(td3)._replace(target=state.target)), jax.random.key(1), batch(), ())
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_target_actions_are_smoothed_within_the_clip_and_the_box():
    action = jnp.broadcast_to(jnp.array([0.0, 0.95]), (4000, 2))
    out = np.asarray(smoothed(replace(TD3, target_noise=0.4, noise_clip=0.5), jax.random.key(0), action))
    assert np.abs(out[:, 0]).max() == pytest.approx(0.5) and out[:, 1].max() == 1.0
    inside = np.abs(out[:, 0]) < 0.5
    assert stats.kstest(out[inside, 0] / 0.4, stats.truncnorm(-1.25, 1.25).cdf).pvalue > 1e-3
    agent = agent_of(TD3)
    state, obs = begun(agent), batch().obs[0]
    first, second = (agent.bootstrap(state).act(jax.random.key(k), obs).action for k in (1, 2))
    assert np.any(first != second)  # and V judges a smoothed action too
    assert np.any(
        agent.bootstrap(state).value(jax.random.key(1), obs) != agent.bootstrap(state).value(jax.random.key(2), obs)
    )


def test_a_deterministic_policy_on_a_deterministic_oracle_has_targets_without_variance():
    """Claim T4 rests on it: whatever the horizon does here, the variance of targets is not the cause."""
    target = make_critic_target(replace(CE, horizon=10), GAMMA, make_oracle(ENV))
    for config, spread in ((DDPG, False), (TD3, True)):
        agent = agent_of(config)
        a, b = (target(agent.bootstrap(begun(agent)), jax.random.key(k), batch(), ()) for k in (1, 2))
        assert bool(np.any(a != b)) == spread


@pytest.mark.parametrize("config", [DDPG, TD3])
def test_the_density_is_that_of_the_exploration_noise(config):
    """log mu is the density of what was drawn, and Retrace's ratio is 1 where the target actor is the behaviour."""
    config = replace(config, exploration_noise=0.3)
    agent = agent_of(config)
    state = agent.init(jax.random.key(0))
    obs = jnp.zeros((20_000, 3)).at[:].set(jnp.array([0.3, -0.2, 0.5]))
    sample = agent.act(state, jax.random.key(1), obs, True)
    mean = PI.apply(state.online.actor, obs)
    z = np.asarray((sample.latent - mean) / 0.3)[:, 0]
    assert stats.kstest(z, "norm").pvalue > 1e-3
    by_hand = stats.norm(np.asarray(mean), 0.3).logpdf(sample.latent) - np.log(1 - np.tanh(sample.latent) ** 2)
    np.testing.assert_allclose(sample.log_prob, by_hand[:, 0], atol=1e-4)
    np.testing.assert_allclose(agent.bootstrap(state).log_prob(obs, sample.latent), sample.log_prob, atol=1e-5)
    off = agent.bootstrap(begun(agent)).log_prob(obs, sample.latent) - sample.log_prob
    assert np.std(off) > 0.01  # another target actor, another ratio


def test_the_released_density_is_reproduced_by_name():
    """B2: noise of 0.1 is drawn, a spread of 0.7454 is written down, and pi's spread comes from a head that nothing trains."""
    config = replace(DDPG, density="released")
    critic = CriticConfig("retrace", "model", 2, estimator="doubly_robust")
    agent = agent_of(config, critic)
    state, obs = agent.init(jax.random.key(0)), batch().obs[0]
    sample = agent.act(state, jax.random.key(1), obs, True)
    mean, raw = jnp.split(mlp(3, (16, 16), 2).apply(state.online.actor, obs), 2, axis=-1)
    assert np.std((sample.latent - mean) / 0.1) == pytest.approx(1.0, abs=0.4)
    by_hand = stats.norm(mean, RELEASED_STD).logpdf(sample.latent) - np.log(1 - np.tanh(sample.latent) ** 2)
    np.testing.assert_allclose(sample.log_prob, by_hand[:, 0], atol=1e-4)
    bootstrap = agent.bootstrap(state)
    std = np.log1p(np.exp(np.asarray(raw))) + 1e-3
    assert bootstrap.own_log_rho is not None
    np.testing.assert_allclose(bootstrap.own_log_rho(obs), np.log(RELEASED_STD / std)[:, 0], rtol=1e-4)
    # on a model rollout, where the ratio really is 1, the trace is cut: another target than the fixed one
    target = make_critic_target(critic, GAMMA, make_oracle(ENV))
    last = state.target.actor["Dense_2"]  # of the head: a spread above 0.7454 cuts
    actor = state.target.actor | {"Dense_2": last | {"bias": jnp.array([0.0, 1.0])}}
    wide = state._replace(target=state.target._replace(actor=actor))
    fixed = agent.bootstrap(wide)._replace(own_log_rho=None)
    key = jax.random.key(2)
    cut, whole = (target(b, key, batch(), ()) for b in (agent.bootstrap(wide), fixed))
    assert np.abs(cut - whole).max() > 1e-3
    h_step = make_critic_target(replace(critic, rule="h_step"), GAMMA, make_oracle(ENV))
    np.testing.assert_allclose(whole, h_step(fixed, key, batch(), ()), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(h_step(agent.bootstrap(wide), key, batch(), ()), h_step(fixed, key, batch(), ()))


@pytest.mark.parametrize("config", [DDPG, TD3])
def test_targets_read_the_target_nets_and_objectives_the_online_ones(config):
    agent = agent_of(config)
    state = agent.init(jax.random.key(0))
    zeroed = state._replace(target=jax.tree.map(jnp.zeros_like, state.target))
    obs = batch().obs[0]
    assert not np.any(agent.bootstrap(zeroed).q(obs, batch().action[0]))
    a, b = (agent.actor.grads(s, jax.random.key(1), batch(), ()) for s in (state, zeroed))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert same(agent.actor.grads(state, jax.random.key(1), batch(), ()), a)  # and no noise enters the objective


@pytest.mark.parametrize("config", [DDPG, TD3])
def test_expansion_changes_its_own_side_only(config):
    config = replace(config, policy_delay=1) if isinstance(config, TD3Config) else config
    plain = agent_of(config)
    state, key = begun(plain), jax.random.key(5)
    base = plain.update(state, key, batch(), ())[0]
    ce = agent_of(config, CE).update(state, key, batch(), ())[0]
    ae = agent_of(config, PLAIN, ActorConfig(3)).update(state, key, batch(), ())[0]
    assert same(ae.online.critic, base.online.critic) and not same(ae.online.actor, base.online.actor)
    assert not same(ce.online.critic, base.online.critic)
    if not isinstance(config, TD3Config):  # whose actor climbs the critics as they have just become
        assert same(ce.online.actor, base.online.actor)


@pytest.mark.parametrize("config", [DDPG, TD3])
@pytest.mark.parametrize("critic", [replace(CE, horizon=0), replace(RETRACE, horizon=0)])
def test_horizon_zero_of_every_arm_is_the_plain_agent(config, critic):
    plain, arm = agent_of(config), agent_of(config, critic)
    state, key = begun(plain), jax.random.key(5)
    close(plain.update(state, key, batch(), ())[0], arm.update(state, key, batch(), ())[0])


@pytest.mark.parametrize("config", [DDPG, TD3])
def test_evaluation_acts_with_the_mean(config):
    agent = agent_of(config)
    state, obs = agent.init(jax.random.key(0)), batch().obs[0]
    a, b = (agent.act(state, jax.random.key(k), obs, False).action for k in (1, 2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, jnp.tanh(PI.apply(state.online.actor, obs)), rtol=1e-6)
    assert np.any(agent.act(state, jax.random.key(1), obs, True).action != a)


@pytest.mark.parametrize("config", [DDPG, TD3])
def test_discrete_actions_are_refused(config):
    make = make_td3 if isinstance(config, TD3Config) else make_ddpg
    with pytest.raises(ValueError, match="agent.name: .* continuous actions"):
        make(config, ENV.spec._replace(num_actions=4), make_expansion(PLAIN, ActorConfig(), GAMMA, None))
