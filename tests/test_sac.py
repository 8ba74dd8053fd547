"""SAC: H = 0 is the textbook update, gradients at the old parameters, temperature and target network move as they should."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from valex import normalize
from valex.agents.sac import alpha_loss, make_sac
from valex.distributions import tanh_normal_sample
from valex.envs.base import make_env
from valex.expansion import make_expansion
from valex.models.oracle import make_oracle
from valex.networks import critic_ensemble, gaussian_actor
from valex.settings import ActorConfig, CriticConfig, EnvConfig, SACConfig
from valex.types import Transition

CONFIG = SACConfig(hidden=(16, 16), normalize_obs=False)
GAMMA = 0.9
ENV = make_env(EnvConfig("pendulum"))


def batch(rows: int = 32) -> Transition:
    keys = jax.random.split(jax.random.key(1), rows)
    state = jax.vmap(ENV.reset)(keys)
    action = jax.random.uniform(jax.random.key(2), (rows, 1), minval=-1, maxval=1)
    after, out = jax.vmap(ENV.step)(keys, state, action)
    ended = jnp.arange(rows) % 5 == 0
    one = Transition(
        jax.vmap(ENV.obs)(state), action, out.reward, out.obs, ended, ~ended & (jnp.arange(rows) % 7 == 0),
        sim_state=jax.vmap(ENV.sim_state)(state), next_sim_state=jax.vmap(ENV.sim_state)(after),
    )  # fmt: skip
    return jax.tree.map(lambda x: x[None], one)


def agent_of(critic: CriticConfig, actor: ActorConfig, config: SACConfig = CONFIG):
    return make_sac(config, ENV.spec, make_expansion(critic, actor, GAMMA, make_oracle(ENV)))


def test_one_update_is_the_textbook_update():
    """The whole H = 0 update, written again from the equations with the same random keys."""
    agent = agent_of(CriticConfig(), ActorConfig())
    state = agent.init(jax.random.key(0))
    state = state._replace(target_critic=jax.tree.map(lambda x: 0.9 * x, state.critic))
    rows, key = batch(), jax.random.key(5)
    new, metrics = agent.update(state, key, rows, ())

    pi, q = gaussian_actor(3, 1, CONFIG.hidden), critic_ensemble(3, 1, CONFIG.hidden, 2)
    target_key, actor_key = jax.random.split(key)
    first = jax.tree.map(lambda x: x[0], rows)
    alpha = jnp.exp(state.log_alpha)
    # the critic's draw has the window's leading axis
    after = tanh_normal_sample(target_key, *pi.apply(state.actor, first.next_obs[None]))
    next_q = jnp.min(q.apply(state.target_critic, first.next_obs, after.action[0]), axis=0)
    y = first.reward + GAMMA * (1 - first.terminated) * (next_q - alpha * after.log_prob[0])
    np.testing.assert_allclose(metrics["target/mean"], jnp.mean(y), rtol=1e-5)

    def critic_objective(params):
        return jnp.mean(0.5 * (q.apply(params, first.obs, first.action) - y) ** 2)

    def actor_objective(params):
        now = tanh_normal_sample(actor_key, *pi.apply(params, first.obs))
        return jnp.mean(alpha * now.log_prob - jnp.min(q.apply(state.critic, first.obs, now.action), axis=0))

    for params, moved, objective in (
        (state.critic, new.critic, critic_objective), (state.actor, new.actor, actor_objective)
    ):  # fmt: skip
        tx = optax.adam(3e-4)
        step, _ = tx.update(jax.grad(objective)(params), tx.init(params))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), optax.apply_updates(params, step), moved)
    jax.tree.map(
        lambda online, old, now: np.testing.assert_allclose(now, 0.005 * online + 0.995 * old, atol=1e-6),
        new.critic, state.target_critic, new.target_critic,
    )  # fmt: skip


@pytest.mark.parametrize(
    "critic", [CriticConfig("h_step", "model", 0), CriticConfig("retrace", "replay", 0, 1.0, "doubly_robust")]
)
def test_horizon_zero_of_every_arm_is_sac(critic):
    plain, arm = agent_of(CriticConfig(), ActorConfig()), agent_of(critic, ActorConfig(divide_by_length=True))
    state, key = plain.init(jax.random.key(0)), jax.random.key(5)
    a, b = plain.update(state, key, batch(), ())[0], arm.update(state, key, batch(), ())[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a, b)


def test_expansion_changes_its_own_side_only():
    """Critic expansion leaves the actor's step alone, actor expansion the critic's."""
    plain = agent_of(CriticConfig(), ActorConfig())
    state, key = plain.init(jax.random.key(0)), jax.random.key(5)
    base = plain.update(state, key, batch(), ())[0]
    ce = agent_of(CriticConfig("h_step", "model", 3), ActorConfig()).update(state, key, batch(), ())[0]
    ae = agent_of(CriticConfig(), ActorConfig(3)).update(state, key, batch(), ())[0]
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))  # noqa: E731
    assert same(ce.actor, base.actor) and not same(ce.critic, base.critic)
    assert same(ae.critic, base.critic) and not same(ae.actor, base.actor)


def test_temperature_moves_towards_the_target_entropy():
    too_random, too_certain = jnp.float32(5.0), jnp.float32(-5.0)  # entropies
    slope = jax.grad(alpha_loss)
    assert slope(jnp.zeros(()), too_random, -0.5) > 0 and slope(jnp.zeros(()), too_certain, -0.5) < 0
    np.testing.assert_allclose(alpha_loss(jnp.log(2.0), too_random, -0.5), 2.0 * (5.0 + 0.5), rtol=1e-6)


def test_alpha_can_be_fixed():
    agent = agent_of(CriticConfig(), ActorConfig(), replace(CONFIG, alpha_lr=0.0, init_alpha=0.3))
    state = agent.init(jax.random.key(0))
    np.testing.assert_allclose(agent.update(state, jax.random.key(1), batch(), ())[0].log_alpha, np.log(0.3), rtol=1e-6)


def test_observations_are_normalised_everywhere():
    agent = agent_of(CriticConfig(), ActorConfig(), replace(CONFIG, normalize_obs=True))
    state = agent.init(jax.random.key(0))
    rows = 100 + 5 * jax.random.normal(jax.random.key(1), (500, 3))
    state = agent.observe(state, rows)
    raw = agent_of(CriticConfig(), ActorConfig())
    bare = raw.init(jax.random.key(0))
    scaled = normalize.normalize(state.normalizer, rows)
    np.testing.assert_allclose(
        agent.act(state, jax.random.key(2), rows, False).action, raw.act(bare, jax.random.key(2), scaled, False).action
    )
    action = jnp.zeros((500, 1))
    np.testing.assert_allclose(agent.bootstrap(state).q(rows, action), raw.bootstrap(bare).q(scaled, action))


def test_bootstrap_reads_the_target_critic_and_actor_losses_the_online_one():
    agent = agent_of(CriticConfig(), ActorConfig())
    state = agent.init(jax.random.key(0))
    zeroed = state._replace(target_critic=jax.tree.map(jnp.zeros_like, state.critic))
    assert not np.any(agent.bootstrap(zeroed).q(batch().obs[0], batch().action[0]))
    a, b = (agent.actor.grads(s, jax.random.key(1), batch(), ()) for s in (state, zeroed))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_evaluation_acts_with_the_mean():
    agent = agent_of(CriticConfig(), ActorConfig())
    state, obs = agent.init(jax.random.key(0)), batch().obs[0]
    a, b = (agent.act(state, jax.random.key(k), obs, False).action for k in (1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.any(agent.act(state, jax.random.key(1), obs, True).action != a)


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="continuous actions"):
        make_sac(CONFIG, ENV.spec._replace(num_actions=4), make_expansion(CriticConfig(), ActorConfig(), GAMMA, None))
