"""Double DQN: the textbook update, what chooses and what judges, exploration and its density, Watkins' cut, grids."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from valex.agents.ddqn import at, epsilon, make_ddqn
from valex.checks import check
from valex.config import PRESETS
from valex.distributions import categorical_sample, epsilon_greedy_sample
from valex.envs.base import make_env
from valex.expansion import make_critic_target, make_expansion
from valex.fields import ConfigError
from valex.models.oracle import make_oracle
from valex.networks import patches, q_ensemble
from valex.settings import ActorConfig, CriticConfig, DDQNConfig, EnvConfig
from valex.types import ActionSample, Bootstrap, Transition

GAMMA = 0.9
ENV = make_env(EnvConfig("probe_both_discrete"))
CONFIG = DDQNConfig(hidden=(16,), normalize_obs=False)
PLAIN = CriticConfig()
RETRACE = CriticConfig("retrace", "replay", 2, estimator="doubly_robust")


def batch(length: int = 1, rows: int = 32) -> Transition:
    """Steps with observations of their own, some of which end."""
    keys = jax.random.split(jax.random.key(1), 4)
    obs, after = (jax.random.normal(k, (length, rows, 1)) for k in keys[:2])
    after = after.at[:-1].set(obs[1:])
    ended = jnp.arange(length * rows).reshape(length, rows) % 5 == 0
    action = jax.random.randint(keys[2], (length, rows), 0, 5)
    reward = jax.random.normal(keys[3], (length, rows))
    log_mu = jnp.full((length, rows), -jnp.log(5.0))
    return Transition(obs, action, reward, after, ended, ~ended & False, log_mu, action, (), after[..., 0])


def agent_of(config: DDQNConfig = CONFIG, critic: CriticConfig = PLAIN):
    return make_ddqn(config, ENV.spec, make_expansion(critic, ActorConfig(), GAMMA, make_oracle(ENV)))


def q_of(config: DDQNConfig = CONFIG):
    return q_ensemble(ENV.spec, config.filters, config.hidden, config.num_critics, config.dueling)


def begun(agent):
    """A state whose target net is another net."""
    state = agent.init(jax.random.key(0))
    return state._replace(target=agent.init(jax.random.key(7)).online)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("critics", [1, 2])
def test_one_update_is_the_textbook_update(double, critics):
    config = replace(CONFIG, double=double, num_critics=critics)
    agent, q, rows = agent_of(config), q_of(config), jax.tree.map(lambda x: x[0], batch())
    state = begun(agent)
    new, metrics = agent.update(state, jax.random.key(5), batch(), ())
    chooser = jnp.min(q.apply(state.online if double else state.target, rows.next_obs), axis=0)
    judge = jnp.min(q.apply(state.target, rows.next_obs), axis=0)
    next_q = jnp.take_along_axis(judge, jnp.argmax(chooser, -1)[:, None], -1)[:, 0]
    y = rows.reward + GAMMA * (1 - rows.terminated) * next_q
    np.testing.assert_allclose(metrics["target/mean"], jnp.mean(y), rtol=1e-5)

    def objective(params):
        values = q.apply(params, rows.obs)[:, jnp.arange(32), rows.action]
        return jnp.mean(0.5 * (values - y) ** 2)

    tx = optax.adam(3e-4)
    step, _ = tx.update(jax.grad(objective)(state.online), tx.init(state.online))
    close = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)  # noqa: E731
    close(optax.apply_updates(state.online, step), new.online)
    close(jax.tree.map(lambda a, b: 0.005 * a + 0.995 * b, new.online, state.target), new.target)


def test_a_hard_target_moves_when_its_turn_has_come():
    agent = agent_of(replace(CONFIG, tau=1.0, target_every=3))
    state = begun(agent)
    first = jax.tree.leaves(state.target)[0]
    for update in range(1, 7):
        state, _ = agent.update(state, jax.random.key(update), batch(), ())
        copied = bool(jnp.all(jax.tree.leaves(state.target)[0] == jax.tree.leaves(state.online)[0]))
        assert copied == (update % 3 == 0)
    assert np.any(jax.tree.leaves(state.target)[0] != first)


def test_epsilon_falls_linearly_with_the_steps_seen():
    config = replace(CONFIG, epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=100)
    np.testing.assert_allclose([epsilon(config, n) for n in (0, 50, 100, 900)], [0.9, 0.5, 0.1, 0.1], rtol=1e-6)
    agent = agent_of(config)
    state = agent.observe(agent.init(jax.random.key(0)), jnp.zeros((50, 1)))
    obs = jnp.ones((4000, 1))
    sample = agent.act(state, jax.random.key(1), obs, True)
    best = int(agent.act(state, jax.random.key(1), obs[:1], False).action[0])
    counts = np.bincount(sample.action, minlength=5)
    expected = np.full(5, 0.1) + 0.5 * (np.arange(5) == best)
    assert stats.chisquare(counts, 4000 * expected).pvalue > 1e-3
    np.testing.assert_allclose(sample.log_prob, np.log(expected)[sample.action], rtol=1e-5)


def test_densities_of_the_categorical_policies():
    values = jnp.array([0.3, 1.0, -2.0])
    drawn = categorical_sample(jax.random.key(0), jnp.broadcast_to(values / 0.5, (6000, 3)))
    p = np.exp(values / 0.5) / np.sum(np.exp(values / 0.5))
    assert stats.chisquare(np.bincount(drawn.action, minlength=3), 6000 * p).pvalue > 1e-3
    np.testing.assert_allclose(drawn.log_prob, np.log(p)[drawn.action], rtol=1e-4)
    certain = epsilon_greedy_sample(jax.random.key(0), values, jnp.float32(0.0))
    assert int(certain.action) == 1 and float(certain.log_prob) == 0.0


def test_boltzmann_values_are_expectations_and_greedy_is_their_limit():
    obs = jnp.linspace(-2, 2, 9)[:, None]
    greedy, soft, cold = (
        agent_of(replace(CONFIG, policy=policy, temperature=t))
        for policy, t in (("greedy", 1.0), ("boltzmann", 0.5), ("boltzmann", 1e-4))
    )
    state = begun(greedy)
    q = q_of()
    p = jax.nn.softmax(q.apply(state.online, obs)[0] / 0.5)
    np.testing.assert_allclose(
        soft.bootstrap(state).value(jax.random.key(0), obs), jnp.sum(p * q.apply(state.target, obs)[0], -1), rtol=1e-5
    )
    a, b = (agent.bootstrap(state).value(jax.random.key(0), obs) for agent in (greedy, cold))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_retrace_of_the_greedy_policy_is_watkins_cut():
    """Written out for each row: follow the stored rewards as long as the stored action is the greedy one, then bootstrap."""
    agent, rows = agent_of(critic=RETRACE), batch(3)
    state, q = begun(agent), q_of()
    greedy = jnp.argmax(q.apply(state.online, rows.obs)[0], -1)
    action = jnp.where(jnp.arange(32) % 2 == 0, greedy, rows.action)  # every other column is never cut by its actions
    rows = rows._replace(action=action, latent=action)
    target = make_critic_target(RETRACE, GAMMA, None)
    found = target(agent.bootstrap(state), jax.random.key(0), rows, ())
    judged = np.asarray(q.apply(state.target, rows.next_obs)[0])
    best_next = np.argmax(q.apply(state.online, rows.next_obs)[0], -1)
    cut = 0
    for i in range(rows.reward.shape[1]):
        total, discount = 0.0, 1.0
        for t in range(3):
            total += discount * float(rows.reward[t, i])
            discount *= GAMMA * (1 - float(rows.terminated[t, i]))
            follows = t < 2 and int(rows.action[t + 1, i]) == greedy[t + 1, i]
            if not follows or rows.terminated[t, i]:
                total += discount * judged[t, i, best_next[t, i]]
                cut += t < 2
                break
            total += discount * (judged[t, i, best_next[t, i]] - judged[t, i, int(rows.action[t + 1, i])])
        assert found[i] == pytest.approx(total, abs=1e-5)
    assert 0 < cut < rows.reward.shape[1]


def test_critic_expansion_follows_the_greedy_policy():
    """On the exact Q of probe_both no horizon changes the target, and rollouts take the action that Q prefers."""
    actions = jnp.linspace(-1.0, 1.0, 5)

    def value(obs, action):
        return obs[..., 0] - (actions[action] - 0.5 * obs[..., 0]) ** 2

    def best(obs):
        return jnp.argmin(jnp.abs(actions - 0.5 * obs), axis=-1)

    def act(key, obs):
        return ActionSample(best(obs), jnp.zeros(obs.shape[:-1]), best(obs))

    known = Bootstrap(
        act, lambda obs, latent: jnp.log(1.0 * (latent == best(obs))), lambda key, obs: value(obs, best(obs)),
        jnp.zeros_like, value, lambda obs, action: value(obs, action)[None],
    )  # fmt: skip
    obs = jnp.array([[[-1.0], [1.0]]])
    row = Transition(
        obs, jnp.array([[1, 3]]), jnp.array([[0.25, 0.5]]), -obs, jnp.zeros((1, 2), bool), jnp.zeros((1, 2), bool),
        next_sim_state=jax.tree.map(lambda x: x[None], jax.vmap(ENV.restart)(jax.vmap(ENV.sim_state)(
            type(ENV.reset(jax.random.key(0)))(-obs[0, :, 0])))),
    )  # fmt: skip
    targets = [
        make_critic_target(CriticConfig("h_step", "model", h) if h else PLAIN, GAMMA, make_oracle(ENV))(
            known, jax.random.key(0), row, ()
        )
        for h in (0, 1, 5)
    ]
    np.testing.assert_allclose(targets[0], [0.25 + 0.9 * 1.0, 0.5 + 0.9 * -1.0], rtol=1e-6)
    np.testing.assert_allclose(targets[1], targets[0], rtol=1e-6)
    np.testing.assert_allclose(targets[2], targets[0], rtol=1e-6)


def test_advantages_of_a_duelling_head_have_mean_zero():
    config = replace(CONFIG, dueling=True)
    q, plain = q_of(config), q_of()
    params, obs = q.init(jax.random.key(0)), jnp.linspace(-1, 1, 4)[:, None]
    shifted = jax.tree.map(lambda x: x, params)
    shifted[0]["Dense_1"]["bias"] = shifted[0]["Dense_1"]["bias"] + 3.0  # of the advantages: no Q moves
    np.testing.assert_allclose(q.apply(shifted, obs), q.apply(params, obs), atol=1e-5)
    assert q.apply(params, obs).shape == plain.apply(plain.init(jax.random.key(0)), obs).shape == (1, 4, 5)


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_patches_and_a_product_are_a_convolution(pad):
    x, kernel = (jax.random.normal(jax.random.key(k), shape) for k, shape in ((0, (2, 7, 6, 3)), (1, (3, 3, 3, 4))))
    found = patches(x, pad) @ kernel.reshape(27, 4)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_grid_is_read_by_a_convolution():
    spec = ENV.spec._replace(obs_dim=10 * 10 * 4, grid=(10, 10, 4))
    q = q_ensemble(spec, 16, (128,), 1, False)
    params = q.init(jax.random.key(0))
    obs = jax.random.bernoulli(jax.random.key(1), 0.2, (2, 3, 400))
    assert q.apply(params, obs).shape == (1, 2, 3, 5)
    assert params[0]["kernel"].shape == (36, 16)
    assert [params[0][f"Dense_{k}"]["kernel"].shape for k in range(2)] == [(1024, 128), (128, 5)]
    cells = obs.reshape(-1, 10, 10, 4).astype(jnp.float32)
    seen = jax.nn.relu(patches(cells) @ params[0]["kernel"]).reshape(2, 3, -1)
    hidden = jax.nn.relu(seen @ params[0]["Dense_0"]["kernel"])
    np.testing.assert_allclose(q.apply(params, obs)[0], hidden @ params[0]["Dense_1"]["kernel"], atol=1e-4)
    np.testing.assert_allclose(q.apply(params, obs), q.apply(params, obs.astype(jnp.float32)), rtol=1e-6)


def test_values_at_actions():
    values, action = jnp.arange(12.0).reshape(2, 3, 2), jnp.array([[0, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(at(values, action), [[0, 3, 5], [7, 8, 10]])


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="agent.name: ddqn needs discrete actions"):
        make_ddqn(CONFIG, ENV.spec._replace(num_actions=0), make_expansion(PLAIN, ActorConfig(), GAMMA, None))
    with pytest.raises(ConfigError, match="actor.horizon: ddqn has no actor"):
        check(replace(PRESETS["sac-ae"], agent=CONFIG))


def test_evaluation_is_greedy():
    agent = agent_of()
    state, obs = agent.init(jax.random.key(0)), jnp.linspace(-2, 2, 50)[:, None]
    a, b = (agent.act(state, jax.random.key(k), obs, False).action for k in (1, 2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, jnp.argmax(q_of().apply(state.online, obs)[0], -1))
    assert a.dtype == jnp.int32 and np.any(agent.act(state, jax.random.key(1), obs, True).action != a)
