"""Critics, members and horizons combined: exact on a random MDP, by hand on a chain, and equal to known rules in the limit."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tabular

from valex.expansion import make_critic_rows, make_critic_target
from valex.settings import CriticConfig
from valex.tables import RULES, load
from valex.types import ActionSample, Bootstrap, Model, Opinions, StepOut, Transition

MDP = tabular.solve()
MULTI = [name for name in RULES if load(RULES, name).multi_step]
ESTIMATORS = ("plain", "doubly_robust")


def ensemble(members: int = 3) -> Model:
    """The exact dynamics of the MDP, as that many members who agree."""
    exact = tabular.model(MDP)

    def opinions(params, obs, action):
        _, out = exact.step((), None, obs, action)
        same = lambda x: jnp.broadcast_to(x[None], (members, *x.shape))  # noqa: E731
        return Opinions(same(out.obs), same(out.reward), same(0.0 * out.obs), same(0.0 * out.reward))

    return exact._replace(members=members, opinions=opinions, disagreement=lambda p, obs, action: 0.0 * obs[..., 0])


def rows_of(config: CriticConfig, model: Model, bootstrap: Bootstrap, batch: Transition, gamma=tabular.GAMMA, key=3):
    make = make_critic_rows(config, gamma, model)
    return jax.jit(lambda k, b: make(bootstrap, k, b, ()))(jax.random.key(key), batch)


# exact on a random MDP: entropy terms, discounts, ends, in every combination


@pytest.mark.parametrize("rule", MULTI)
@pytest.mark.parametrize(
    ("estimator", "member_agg", "critic_agg"),
    [("plain", "mean", "mean"), ("doubly_robust", "mean", "min"), ("plain", "min", "first")],
)
def test_members_and_critics_that_agree_change_nothing(rule, estimator, member_agg, critic_agg):
    config = CriticConfig(rule, "model", 4, 0.6, estimator, member_agg=member_agg, critic_agg=critic_agg)
    batch = tabular.sequences(MDP, 1, 64)
    found = rows_of(config, ensemble(), tabular.bootstrap(MDP), batch)
    np.testing.assert_allclose(found.target, tabular.exact(MDP, batch), atol=3e-5)


@pytest.mark.parametrize("rule", MULTI)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("horizon", [4])
def test_every_imagined_row_has_its_exact_soft_q(rule, estimator, horizon):
    """The TD-k trick: each imagined pair is regressed on ITS value, without the bonus of its own action."""
    config = CriticConfig(rule, "model", horizon, 0.6, estimator, td_k=True)
    batch = tabular.sequences(MDP, 1, 64)
    rows = rows_of(config, ensemble(), tabular.bootstrap(MDP), batch)
    assert rows.target.shape == rows.weight.shape == ((horizon + 1) * 64,)
    alive = np.asarray(rows.weight) > 0
    known = MDP.q[np.asarray(rows.obs[:, 0], int), np.asarray(rows.action[:, 0], int)]
    np.testing.assert_allclose(rows.target[alive], known[alive], atol=3e-5)
    np.testing.assert_array_equal(rows.weight[:64], 1.0)
    assert 0 < (~alive).sum() < 64 * horizon  # some rollouts did end, and their rows count for nothing
    np.testing.assert_array_equal(rows.weight[64:128], 1.0 - np.asarray(batch.terminated[0]))


@pytest.mark.parametrize("rule", MULTI)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_rollout_cut_by_disagreement_is_still_exact(rule, estimator):
    config = CriticConfig(rule, "model", 5, 0.6, estimator, max_disagreement=0.5)
    split = ensemble()._replace(disagreement=lambda p, obs, action: (obs[..., 0] % 2).astype(jnp.float32))
    batch = tabular.sequences(MDP, 1, 64)
    rows = rows_of(config, split, tabular.bootstrap(MDP), batch)
    np.testing.assert_allclose(rows.target, tabular.exact(MDP, batch), atol=1e-4)
    if rule in ("h_step", "mean"):  # among equal horizons the others choose by rounding
        assert 0 < rows.metrics["target/horizon"] < 5


# a chain whose every number can be written down: s' = s + 1, r = s + bias of the member, V known, no entropy


BIASES = jnp.array([0.0, 1.0, 5.0])
GAMMA = 0.5


def chain_bootstrap(heads=(0.0, 2.0)) -> Bootstrap:
    """a = 0 without entropy; critic k says heads[k] everywhere."""
    zero = lambda obs: jnp.zeros(obs.shape[:-1])  # noqa: E731

    def act(key, obs):
        return ActionSample(0.0 * obs[..., :1], zero(obs), 0.0 * obs[..., :1])

    def every(obs, action):
        return jnp.stack([zero(obs) + h for h in heads])

    low = lambda obs, action: zero(obs) + min(heads)  # noqa: E731
    return Bootstrap(act, lambda o, u: zero(o), lambda k, o: low(o, None), lambda lp: 0.0 * lp, low, every)


def chain_model() -> Model:
    """Members differ in the reward they believe in; params are the biases of the members that are asked."""

    def step(params, key, s, action):
        after = s + 1.0
        return after, StepOut(after, s[..., 0] + params[0], jnp.zeros(s.shape[:-1], bool))

    def opinions(params, obs, action):
        shape = (3, *obs.shape[:-1])
        reward = obs[..., 0] + BIASES.reshape(3, *(1,) * (obs.ndim - 1))
        return Opinions(
            jnp.broadcast_to(obs + 1.0, (3, *obs.shape)), reward, jnp.zeros((3, *obs.shape)), jnp.zeros(shape)
        )

    pick = lambda params, j: BIASES[j][None]  # noqa: E731
    spread = lambda params, obs, action: obs[..., 0]  # noqa: E731  disagree more the further they are
    return Model(
        lambda key: BIASES, lambda p, k, obs, sim: obs, step, lambda p, k, r: (p, {}), False, True,
        members=3, pick=pick, opinions=opinions, disagreement=spread,
    )  # fmt: skip


START = Transition(*(jnp.array(x)[None] for x in ([[0.0], [3.0]], [[0.0], [0.0]], [10.0, 20.0], [[1.0], [4.0]], [False, False], [False, False])))  # fmt: skip  # noqa: E501


@lru_cache(maxsize=64)
def chain(config: CriticConfig, heads: tuple[float, ...] = (0.0, 2.0)):
    make = make_critic_rows(config, GAMMA, chain_model())
    return jax.jit(lambda key: make(chain_bootstrap(heads), key, START, BIASES[:1]))(jax.random.key(0))


def known(horizon: int, bias: float, value: float) -> np.ndarray:
    """T_h of both rows: 10 or 20, then the rewards s + bias from s = 1 or 4, then the value."""
    first, s = np.array([10.0, 20.0]), np.array([1.0, 4.0])
    later = sum(GAMMA ** (t + 1) * (s + t + bias) for t in range(horizon))
    return first + later + GAMMA ** (horizon + 1) * value


@pytest.mark.parametrize(("critic_agg", "value"), [("min", 0.0), ("mean", 1.0), ("first", 0.0)])
@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_critics_are_aggregated_as_asked(critic_agg, value, horizon):
    config = CriticConfig("h_step" if horizon else "td", "model", horizon, critic_agg=critic_agg)
    np.testing.assert_allclose(chain(config).target, known(horizon, 0.0, value), rtol=1e-6)


def test_the_first_critic_is_the_first():
    found = chain(CriticConfig(critic_agg="first"), (2.0, 0.0))
    np.testing.assert_allclose(found.target, known(0, 0.0, 2.0))


@pytest.mark.parametrize(("member_agg", "bias"), [("mean", 2.0), ("min", 0.0)])
@pytest.mark.parametrize("rule", ["h_step", "mean", "min", "td_lambda"])
def test_members_are_aggregated_before_horizons(rule, member_agg, bias):
    config = CriticConfig(rule, "model", 3, 0.5, member_agg=member_agg)
    each = np.stack([known(h, bias, 0.0) for h in range(4)])
    weights = np.array([0.5, 0.25, 0.125, 0.125])
    expected = {"h_step": each[3], "mean": each.mean(0), "min": each.min(0), "td_lambda": weights @ each}[rule]
    np.testing.assert_allclose(chain(config).target, expected, rtol=1e-6)


def test_steve_weighs_by_the_spread_of_members_and_critics():
    """3 dynamics x 3 rewards x 2 critics; only rewards and critics differ, so T_h has 6 equally likely values."""
    found = chain(CriticConfig("steve", "model", 2, critic_agg="mean", member_agg="mean"))
    samples = np.array([[known(h, b, v) for b in BIASES for v in (0.0, 2.0)] for h in range(3)])  # [H + 1, J, B]
    weights = 1.0 / (samples.var(axis=1) + 1e-8)
    expected = (weights * samples.mean(axis=1)).sum(0) / weights.sum(0)
    np.testing.assert_allclose(found.target, expected, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["target/model_use"], np.mean(1 - weights[0] / weights.sum(0)), rtol=1e-5)


def test_steve_with_the_minimum_of_critics_or_members_loses_their_spread():
    by_critic = chain(CriticConfig("steve", "model", 2, critic_agg="min", member_agg="mean"))
    samples = np.array([[known(h, b, 0.0) for b in BIASES] for h in range(3)])
    weights = 1.0 / (samples.var(axis=1) + 1e-8)
    np.testing.assert_allclose(by_critic.target, (weights * samples.mean(1)).sum(0) / weights.sum(0), rtol=1e-5)
    by_member = chain(CriticConfig("steve", "model", 2, critic_agg="mean", member_agg="min"))
    samples = np.array([[known(h, 0.0, v) for v in (0.0, 2.0)] for h in range(3)])
    weights = 1.0 / (samples.var(axis=1) + 1e-8)
    np.testing.assert_allclose(by_member.target, (weights * samples.mean(1)).sum(0) / weights.sum(0), rtol=1e-5)


def test_steve_without_any_spread_is_the_mean():
    exact = chain_bootstrap(heads=(1.0, 1.0))
    model = chain_model()._replace(opinions=None, pick=lambda params, j: params)
    make = make_critic_rows(CriticConfig("steve", "model", 3, critic_agg="mean", member_agg="mean"), GAMMA, model)
    found = make(exact, jax.random.key(0), START, BIASES[:1])
    np.testing.assert_allclose(found.target, np.mean([known(h, 0.0, 1.0) for h in range(4)], axis=0), rtol=1e-5)


# a rollout ends where members disagree: the chain's members disagree by s


@pytest.mark.parametrize("rule", ["h_step", "mean", "min", "td_lambda"])
def test_disagreement_limits(rule):
    config = CriticConfig(rule, "model", 3, 0.5)
    free, never = chain(config), chain(replace(config, max_disagreement=1e9))
    np.testing.assert_allclose(never.target, free.target, rtol=1e-6)
    np.testing.assert_allclose(chain(replace(config, max_disagreement=0.0)).target, known(0, 0.0, 0.0), rtol=1e-6)


def test_a_rollout_stops_at_the_first_step_that_is_not_trusted():
    """From s = 1 two steps are below 3 (s = 1, 2); from s = 4 none is."""
    config = CriticConfig("h_step", "model", 3, max_disagreement=3.0)
    found = chain(config)
    np.testing.assert_allclose(found.target, [known(2, 0.0, 0.0)[0], known(0, 0.0, 0.0)[1]], rtol=1e-6)
    assert found.metrics["target/horizon"] == 1.0  # 2 and 0
    mean = chain(replace(config, rule="mean"))  # over the horizons that are reached, not over copies of the last
    expected = [np.mean([known(h, 0.0, 0.0)[0] for h in range(3)]), known(0, 0.0, 0.0)[1]]
    np.testing.assert_allclose(mean.target, expected, rtol=1e-6)


def test_imagined_rows_beyond_the_cut_count_for_nothing():
    rows = chain(CriticConfig("h_step", "model", 3, td_k=True, max_disagreement=3.0))
    np.testing.assert_array_equal(rows.weight.reshape(4, 2), [[1, 1], [1, 0], [1, 0], [0, 0]])


def test_imagined_rows_of_a_data_dependent_rule_choose_among_their_own_horizons():
    """From s the rewards are s, s + 1, ...: the smallest T_{u,h} is always the one that bootstraps (with 0) at once."""
    rows = chain(CriticConfig("min", "model", 2, td_k=True))
    s = np.array([1.0, 4.0])
    np.testing.assert_allclose(rows.target.reshape(3, 2), [[10, 20], s, s + 1], rtol=1e-6)
    np.testing.assert_allclose(rows.obs.reshape(3, 2), [[0, 3], s, s + 1])


# the end of the line


def test_clipping_comes_after_the_rule():
    config = CriticConfig("mean", "model", 2)
    free = np.asarray(chain(config).target)
    edge = 21.0  # between the horizons of the second row: 20, 22 and 23.25
    np.testing.assert_allclose(chain(replace(config, target_max=edge)).target, np.minimum(free, edge))
    np.testing.assert_allclose(chain(replace(config, target_min=edge)).target, np.maximum(free, edge))
    each = np.clip([known(h, 0.0, 0.0) for h in range(3)], None, edge).mean(0)
    assert not np.allclose(each, np.minimum(free, edge))  # clipping each horizon first is another number


def test_no_gradient_leaves_the_rows():
    def total(shift):
        boot = chain_bootstrap()
        moved = boot._replace(
            heads=lambda o, a: boot.heads(o, a) + shift, act=lambda k, o: ActionSample(shift + o, o[..., 0], o)
        )
        make = make_critic_rows(
            CriticConfig("steve", "model", 2, critic_agg="mean", member_agg="mean"), GAMMA, chain_model()
        )
        rows = make(moved, jax.random.key(0), START, BIASES[:1])
        return jnp.sum(rows.target)

    assert jax.grad(total)(0.5) == 0.0
    imagine = make_critic_rows(CriticConfig("h_step", "model", 2, td_k=True), GAMMA, chain_model())

    def rows(shift):
        return imagine(
            chain_bootstrap(), jax.random.key(0), START._replace(next_obs=START.next_obs + shift), BIASES[:1]
        )

    assert jax.grad(lambda shift: jnp.sum(rows(shift).obs))(0.1) == 0.0


def test_targets_alone_are_those_of_the_rows():
    config = CriticConfig("min", "model", 3)
    target = make_critic_target(config, GAMMA, chain_model())
    found = target(chain_bootstrap(), jax.random.key(0), START, BIASES[:1])
    np.testing.assert_array_equal(found, chain(config).target)
