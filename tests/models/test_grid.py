"""The learned model of grids on a world whose probabilities are known: what it learns, and how rollouts use it."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid_world import CELLS, FLICKER, LAMP_FLAG, PERIL, make_grid_world, walks
from linear_system import make_linear, ring_of

from valex.expansion import make_critic_rows
from valex.models import fitting
from valex.models.ensemble import make_ensemble
from valex.models.grid import STAY, make_grid, make_kind
from valex.models.oracle import make_noisy_oracle, make_oracle
from valex.settings import LEARNED, CriticConfig, ModelConfig
from valex.types import ActionSample, Bootstrap, Transition

SMALL = replace(LEARNED["grid"], num_models=2, hidden=(16, 16), pretrain_steps=2000)
LONG = replace(SMALL, num_models=1, batch_size=64, pretrain_steps=3000)
SETTLE = replace(
    LONG, lr=3e-4, batch_size=256, pretrain_steps=1000
)  # takes the noise of the steps out of probabilities
BRIEF = replace(SMALL, hidden=(4,), pretrain_steps=20)
OTHERS = np.arange(CELLS) != LAMP_FLAG


@lru_cache
def world():
    return make_grid_world()


@lru_cache
def seen(steps: int = 1500, seed: int = 0) -> Transition:
    return walks(world(), steps, seed=seed)._replace(sim_state=(), next_sim_state=())


@lru_cache
def fitted(config: ModelConfig = SMALL):
    """Return (model, params, metrics) after the pre-training on random walks."""
    model, rows = make_grid(world(), config), seen()
    params = model.observe(model.init(jax.random.key(0)), rows)
    params, metrics = jax.jit(model.update)(params, jax.random.key(1), ring_of(rows))
    return model, params, metrics


@lru_cache
def settled():
    """Return (model, params, metrics) after a long phase and one of small steps."""
    model, params = make_grid(world(), SETTLE), fitted(LONG)[1]._replace(pending=jnp.int32(-1))
    return model, *jax.jit(model.update)(params, jax.random.key(2), ring_of(seen()))


def ends_of(model, params, rows: Transition, times: int = 200):
    """Return how often a step of the model lights the lamp and ends the episode, each [rows]."""
    one = lambda key: jax.jit(model.step)(params, key, (rows.obs, ()), rows.action)[1]  # noqa: E731
    out = jax.lax.map(one, jax.random.split(jax.random.key(5), times))
    return np.mean(out.obs[..., LAMP_FLAG], axis=0), np.mean(out.terminated, axis=0)


# what is learned


def test_it_learns_the_world():
    """On new walks: every next grid is right, the lamp is lit as often as it is, reward and end as well."""
    model, params, metrics = settled()
    x = seen(100, seed=9)
    said = model.opinions(params, x.obs, x.action)
    wrong = (said.obs > 0.5) != x.next_obs
    assert not np.any(wrong[..., OTHERS]), np.sum(wrong[..., OTHERS])
    assert np.all(np.round(said.reward) == x.reward) and np.sqrt(np.mean((said.reward - x.reward) ** 2)) < 0.05
    peril = np.asarray(x.next_obs).reshape(-1, 5, 5, 3)[:, :, 4, 0].any(axis=1)
    lit, ended = ends_of(model, params, x)
    for found in (lit, said.obs[..., LAMP_FLAG]):
        np.testing.assert_allclose(np.mean(found), FLICKER, atol=0.03)
    np.testing.assert_allclose(ended[peril].mean(), PERIL, atol=0.06)
    assert ended[~peril].mean() < 0.01
    assert all(np.isfinite(v) for v in metrics.values()) and metrics["model/mse"] < 0.1


@pytest.mark.parametrize("changes", [{"loss_steps": 3, "bootstrap": "poisson", "holdout": 0.1}, {"activation": "silu"}])
def test_other_ways_of_fitting_learn_the_moves(changes):
    model, params, _ = fitted(replace(SMALL, **changes))
    x = seen(100, seed=9)
    wrong = (model.opinions(params, x.obs, x.action).obs > 0.5) != x.next_obs
    assert np.mean(np.any(wrong[..., OTHERS], axis=-1)) < 0.01


def test_an_untrained_model_expects_no_change():
    model, x = make_grid(world(), BRIEF), seen()
    params = model.init(jax.random.key(0))
    p = model.opinions(params, x.obs[:50], x.action[:50]).obs
    assert np.all((p > 0.5) == x.obs[:50]) and jax.nn.sigmoid(STAY) > 0.9
    _, out = make_grid(world(), replace(BRIEF, deterministic=True)).step(
        params, jax.random.key(0), (x.obs[:50], ()), x.action[:50]
    )
    np.testing.assert_array_equal(out.obs, x.obs[:50])


def test_the_loss_by_hand():
    """Two members, k = 2: probabilities are fed back, rewards count in units of their standard deviation."""
    config, x = replace(BRIEF, loss_steps=2, step_weights=(1.0, 3.0)), seen()
    model, kind, params, _ = make_grid(world(), config), make_kind(world(), config), *fitted(config)[1:]
    batch = fitting.draw(ring_of(x), jax.random.key(5), params.salt, config)
    loss, mse = fitting.make_losses(kind, config)(params.members, batch, kind.units(params))
    unit, rates = np.std(x.reward), np.asarray(params.targets.m2[:-1] / params.targets.count)
    for j in range(2):
        rows = jax.tree.map(lambda leaf, j=j: np.asarray(leaf[j]), batch.rows)
        z, alive, total, norm = rows.obs[0], np.ones(rows.obs.shape[1]), 0.0, 0.0
        for k, weight in enumerate(config.step_weights):
            said = model.opinions(model.pick(params, j), jnp.asarray(z), rows.action[k])
            p, truth = np.asarray(said.obs[0], float), rows.next_obs[k]
            cross = -np.sum(np.where(truth, np.log(p), np.log(1.0 - p)), axis=1)
            missed = np.square((said.reward[0] - rows.reward[k]) / unit)
            end = jax.nn.sigmoid(kind.say(model.pick(params, j).members, kind.read(params, z, rows.action[k])).end[0])
            cross -= np.where(rows.terminated[k], np.log(end), np.log(1.0 - end))
            total, norm = total + weight * np.sum(alive * (cross + missed)), norm + weight * np.sum(alive)
            if k == 0:
                square = np.mean((np.sum(np.square(p - truth), axis=1) / np.sum(rates) + missed) / 2.0)
            z, alive = p, alive * ~(rows.terminated[k] | rows.truncated[k])
        np.testing.assert_allclose(loss[j], total / norm, rtol=2e-4)
        np.testing.assert_allclose(mse[j], square, rtol=2e-4)
    assert np.min(batch.weight) == 0.0  # some window did end


def test_a_reward_that_never_changes_is_held():
    x = seen()._replace(reward=jnp.ones_like(seen().reward))
    model = make_grid(world(), BRIEF)
    params = model.observe(model.init(jax.random.key(0)), x)
    params, metrics = jax.jit(model.update)(params, jax.random.key(1), ring_of(x))
    np.testing.assert_allclose(model.opinions(params, x.obs[:9], x.action[:9]).reward, 1.0)
    assert np.isfinite(metrics["model/loss"])


def garbage(steps: Transition, where: np.ndarray) -> Transition:
    """Return the steps with nonsense in some rows."""
    wrong = jnp.asarray(where)
    return steps._replace(next_obs=steps.next_obs ^ wrong[:, None], reward=jnp.where(wrong, -50.0, steps.reward))


def test_what_is_held_out_is_never_trained_on():
    config, x = replace(BRIEF, holdout=0.3), seen()
    model = make_grid(world(), config)
    params = model.observe(model.init(jax.random.key(0)), x)
    kept = np.asarray(fitting.held_out(params.salt, jnp.arange(len(x.reward)), 1, 0.3))
    members = [
        jax.jit(model.update)(params, jax.random.key(1), ring_of(s))[0].members
        for s in (x, garbage(x, kept), garbage(x, ~kept))
    ]
    jax.tree.map(np.testing.assert_array_equal, *members[:2])
    assert not np.array_equal(members[0]["cell"]["Dense_0"]["bias"], members[2]["cell"]["Dense_0"]["bias"])


def test_members_do_not_touch_each_other():
    """Another start of member 0 leaves member 1 as it was, to the last bit."""
    model, x = make_grid(world(), BRIEF), seen()
    params = model.observe(model.init(jax.random.key(0)), x)
    other = params._replace(members=jax.tree.map(lambda leaf: leaf.at[0].mul(1.5), params.members))
    first, second = (jax.jit(model.update)(p, jax.random.key(1), ring_of(x))[0].members for p in (params, other))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), first, second)
    assert not np.array_equal(first["cell"]["Dense_0"]["kernel"][0], second["cell"]["Dense_0"]["kernel"][0])


# how rollouts use it


def test_members_are_asked_one_by_one():
    model, params, _ = fitted(BRIEF)
    x = jax.tree.map(lambda leaf: leaf[:30].reshape(5, 6, *leaf.shape[1:]), seen())
    said = model.opinions(params, x.obs, x.action)
    assert said.obs.shape == said.obs_std.shape == (2, 5, 6, CELLS) and said.reward.shape == (2, 5, 6)
    np.testing.assert_allclose(said.obs_std, np.sqrt(said.obs * (1.0 - said.obs)), rtol=1e-5)
    assert np.all(said.reward_std == 0.0)
    sure = make_grid(world(), replace(BRIEF, deterministic=True)).opinions(params, x.obs, x.action)
    assert np.all(sure.obs_std == 0.0)
    for j in range(2):
        own = model.opinions(model.pick(params, j), x.obs, x.action)
        np.testing.assert_allclose(own.obs[0], said.obs[j], atol=1e-6)
    every = jax.vmap(lambda j: model.opinions(model.pick(params, j), x.obs, x.action).obs[0])(jnp.arange(2))
    np.testing.assert_allclose(every, said.obs, atol=1e-6)
    typical = np.sum(np.var(np.asarray(seen().next_obs, float) - seen().obs, axis=0))
    spread = np.sqrt(np.sum(np.var(said.obs, axis=0), axis=-1) / typical)
    np.testing.assert_allclose(model.disagreement(params, x.obs, x.action), spread, rtol=1e-4)


@pytest.mark.parametrize("propagation", ["random_model", "fixed_model", "expectation"])
def test_a_step_keeps_shape_and_type(propagation):
    model, x = make_grid(world(), replace(BRIEF, propagation=propagation)), seen()
    params = model.init(jax.random.key(0))
    state = model.start(params, jax.random.key(1), x.obs[:7], ())
    after, out = model.step(params, jax.random.key(2), state, x.action[:7])
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert out.obs.dtype == out.terminated.dtype == bool and out.obs.shape == (7, CELLS)


def walker(weights: jax.Array) -> Bootstrap:
    """An agent that walks right or up, and values a state by a sum over its flags."""

    def act(key, obs):
        action = 3 * jax.random.bernoulli(key, 0.6, obs.shape[:-1]).astype(jnp.int32)
        return ActionSample(action, jnp.zeros(obs.shape[:-1]), action)

    value = lambda key, obs: obs @ weights  # noqa: E731
    q = lambda obs, action: obs @ weights  # noqa: E731
    return Bootstrap(
        act, lambda obs, latent: 0.0, value, lambda log_prob: 0.0 * log_prob, q, lambda o, a: q(o, a)[None]
    )


def test_its_targets_are_those_of_the_oracle():
    """Critic expansion through windows.rollout, H = 3, in the mean over many rollouts; weights tell all flags apart."""
    x = walks(world(), 40, seed=3)
    batch = jax.tree.map(lambda leaf: leaf[None], x)
    config = CriticConfig("h_step", "model", 3, particles=400)
    agent, found = walker(jax.random.normal(jax.random.key(0), (CELLS,))), []
    for model, params in ((make_oracle(world()), ()), settled()[:2]):
        rows = jax.jit(lambda p, model=model: make_critic_rows(config, 0.9, model)(agent, jax.random.key(1), batch, p))
        found.append(np.asarray(rows(params).target))
    off = found[1] - found[0]
    assert np.std(found[0]) > 0.5 and np.std(off) < 0.1 and abs(np.mean(off)) < 0.05, (np.std(off), np.mean(off))


@pytest.mark.parametrize(
    "critic",
    [
        CriticConfig("steve", "model", 2, critic_agg="mean", member_agg="mean"),
        CriticConfig("min", "model", 2, member_agg="min"),
        CriticConfig("h_step", "model", 2, max_disagreement=0.05),
        CriticConfig("h_step", "model", 2, td_k=True),
    ],
    ids=lambda c: f"{c.rule}-{c.member_agg}-{c.max_disagreement}-{c.td_k}",
)
def test_every_expansion_takes_it(critic):
    model, params, _ = fitted(BRIEF)
    batch = jax.tree.map(lambda leaf: leaf[None, :16], seen())
    rows = jax.jit(lambda p: make_critic_rows(critic, 0.9, model)(walker(jnp.ones(CELLS)), jax.random.key(1), batch, p))
    made = rows(params)
    assert np.all(np.isfinite(made.target)) and made.obs.dtype == bool


# what is refused


def test_models_and_environments_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="model.name: linear .*set model.name ensemble"):
        make_grid(make_linear(), SMALL)
    with pytest.raises(ValueError, match="model.name: grid_world .*set model.name grid"):
        make_ensemble(world(), ModelConfig("ensemble"))
    with pytest.raises(ValueError, match="model.name: noisy_oracle .*set model.name oracle"):
        make_noisy_oracle(world(), ModelConfig("noisy_oracle", noise=0.1))
    with pytest.raises(ValueError, match="model.termination: grid_world .*learned"):
        make_grid(world(), replace(SMALL, termination="known"))
