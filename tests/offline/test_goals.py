"""Goals are drawn as the formulas say: histograms against closed forms, rewards by index, nothing beyond the rows given."""

from functools import cache
from typing import get_args

import jax
import numpy as np
import pytest
from trajectories import numbered

from valex.offline.batch import uniform_rows
from valex.offline.data import DataError, on_device, permuted, prefix_rows
from valex.offline.goals import (
    ACTOR_LAWS,
    VALUE_LAWS,
    GoalLaw,
    GoalRows,
    desired_goals,
    draw_goals,
    goal_obs,
    make_goal_rows,
    policy_sampler,
    value_sampler,
)
from valex.settings.offline import ActorGoals, AWRConfig, CRLConfig, IQLConfig, ValueGoals

DRAWS = 100_000  # of each row
GAMMA = 0.7
ROWS = (0, 4, 9, 13)
BATCH = 20_000  # of all samplers here: operations are compiled for a size


@cache
def shares(law: GoalLaw) -> np.ndarray:
    """Return the measured shares of the states, [4, 18]: from ROWS to the rows 0..13, then the finals of trajectories 0..3."""
    data = numbered()
    rows = np.repeat(ROWS, DRAWS)
    drawn = draw_goals(jax.random.key(0), law, rows, data.offsets, 14, GAMMA)
    trajectory = np.searchsorted(data.offsets, np.asarray(drawn.row), side="right") - 1
    state = np.where(drawn.final, 14 + trajectory, drawn.row).reshape(len(ROWS), DRAWS)
    return np.stack([np.bincount(row, minlength=18) for row in state]) / DRAWS


def expected(law: GoalLaw, row: int) -> np.ndarray:
    """Return the probabilities by the formulas, from scratch: states of the trajectory are row, .., last, final."""
    offsets = np.array([0, 4, 5, 8, 14])
    e = int(np.searchsorted(offsets, row, side="right") - 1)
    later = [*range(row + 1, offsets[e + 1]), 14 + e]  # states 1, 2, .. steps later, the final one last
    p = np.zeros(18)
    p[row] += law.current
    if law.geometric:
        for k, state in enumerate(later, start=1):
            tail = GAMMA ** (k - 1) if state == later[-1] else GAMMA ** (k - 1) * (1 - GAMMA)
            p[state] += law.trajectory * tail
    else:  # round(min(i+1, T) u + T (1 - u)): half a cell at either end
        d = len(later) - 1
        weights = np.ones(1) if d == 0 else np.array([0.5, *([1.0] * (d - 1)), 0.5]) / d
        p[later] += law.trajectory * weights
    p[:14] += (1 - law.current - law.trajectory) / 14
    return p


LAWS = VALUE_LAWS | {f"actor {name}": law for name, law in ACTOR_LAWS.items()} | {"current": GoalLaw(1.0, 0.0, True)}


@pytest.mark.parametrize("name", LAWS)
def test_goals_follow_their_law(name):
    for row, measured in zip(ROWS, shares(LAWS[name]), strict=True):
        p = expected(LAWS[name], row)
        assert p.sum() == pytest.approx(1.0)
        error = np.sqrt(np.maximum(p * (1 - p), 1e-9) / DRAWS)
        assert (np.abs(measured - p) < 5 * error + 1e-12).all(), row


def test_a_wrong_law_would_be_seen():
    """Geom on {0, 1, ...} or gamma for 1 - gamma moves a share by more than the tolerance."""
    assert abs(expected(VALUE_LAWS["crl"], 9)[10] - GAMMA) > 0.1
    assert abs(expected(VALUE_LAWS["crl"], 9)[9]) == 0.0


def test_far_rows_keep_their_uniform_law():
    """In float32 a row number beyond 2^24 has no neighbours left: the draw must not lose them."""
    start = 2**25
    offsets = np.array([0, start, start + 5], np.int32)
    rows = np.full(len(ROWS) * DRAWS, start)
    drawn = draw_goals(jax.random.key(0), GoalLaw(0.0, 1.0, False), rows, offsets, start + 5, GAMMA)
    state = np.asarray(drawn.row) - start + np.asarray(drawn.final)
    assert np.bincount(state, minlength=6) / len(rows) == pytest.approx(
        [0, 1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.006
    )


def rows_of(batch) -> np.ndarray:
    """Return the rows [B] of `numbered` that a batch was drawn at."""
    obs = np.asarray(batch.obs).astype(int)
    return np.asarray(numbered().offsets)[obs[:, 0]] + obs[:, 1]


@pytest.mark.parametrize("reward", ["cost", "bonus"])
def test_reward_and_end_are_those_of_the_goal_by_index(reward):
    """On states that are all equal a success is still the row itself, and what ended the task ends nothing."""
    data = on_device(numbered((6, 6), (0, 1)))
    same_place = data._replace(obs=0 * data.obs, next_obs=0 * data.next_obs)
    batch = make_goal_rows(VALUE_LAWS["gciql"], GAMMA, reward)(same_place, jax.random.key(0), BATCH, np.int32(12))
    success = np.asarray(batch.terminated)
    assert np.mean(success) == pytest.approx(0.2 + 0.3 / 12, abs=0.015)  # p_cur, and the row itself at random
    assert (np.asarray(batch.reward) == np.where(success, 0.0, -1.0) + (reward == "bonus")).all()


def test_the_final_state_is_no_success_of_the_last_row():
    """Its goal shares the row's index; it is the state behind it."""
    sample = make_goal_rows(VALUE_LAWS["crl"], GAMMA)
    batch = sample(on_device(numbered()), jax.random.key(0), BATCH, np.int32(14))
    at_the_end = np.isin(rows_of(batch), [3, 4, 7, 13])
    assert at_the_end.any() and (np.asarray(batch.goal) == np.asarray(batch.next_obs))[at_the_end].all()
    assert (np.asarray(batch.reward) == -1).all() and not np.asarray(batch.terminated).any()


def test_a_batch_with_goals_is_the_rows_otherwise():
    data = on_device(numbered())
    batch = make_goal_rows(VALUE_LAWS["gciql"], GAMMA)(data, jax.random.key(0), BATCH, np.int32(14))
    rows = rows_of(batch)
    for name in ("action", "next_obs"):
        assert (np.asarray(getattr(batch, name)) == np.asarray(getattr(data, name))[rows]).all()
    assert (np.asarray(batch.has_next) == ~np.isin(rows, [3, 4, 7, 13])).all()


@pytest.mark.parametrize("law", [*VALUE_LAWS.values(), *ACTOR_LAWS.values()])
def test_rows_and_goals_come_from_the_prefix_alone(law):
    data = permuted(numbered((5,) * 8, ()), 3)
    (rows,) = prefix_rows(data, (12,))
    batch = make_goal_rows(law, GAMMA)(on_device(data), jax.random.key(0), BATCH, np.int32(rows))
    allowed = set(data.obs[:rows, 0])
    assert rows == 15 and len(allowed) == 3
    assert set(np.asarray(batch.obs)[:, 0]) == set(np.asarray(batch.goal)[:, 0]) == allowed


def test_configs_name_the_laws():
    assert set(get_args(ValueGoals)) - {"none"} == set(VALUE_LAWS)
    assert set(get_args(ActorGoals)) - {"none"} == set(ACTOR_LAWS)
    assert value_sampler(IQLConfig()) is policy_sampler(AWRConfig()) is uniform_rows


def test_values_and_policies_draw_by_laws_of_their_own():
    """CRL's goals are near by its gamma, a policy's uniform over what is left; neither reads the other's."""
    data = on_device(numbered((100,), ()))
    value, policy = value_sampler(CRLConfig(gamma=0.5)), policy_sampler(AWRConfig(goals="navigate"))
    ahead = []
    for sample in (value, policy):
        batch = sample(data, jax.random.key(0), BATCH, np.int32(100))
        early = np.asarray(batch.obs)[:, 1] < 50
        ahead.append((np.asarray(batch.goal) - np.asarray(batch.obs))[early, 1].mean())
    assert ahead[0] == pytest.approx(2.0, abs=0.15)  # Geom(0.5) on {1, 2, ...}
    assert ahead[1] == pytest.approx(38.0, abs=1.5)  # from row i on average (1 + 100 - i) / 2, i below 50


def test_a_final_goal_is_the_final_observation():
    data = numbered()
    goals = goal_obs(data, GoalRows(np.array([3, 3]), np.array([False, True])))
    assert np.asarray(goals).tolist() == [[0, 3], [0, 4]]


def test_laws_that_cannot_be_are_refused():
    for law in (GoalLaw(0.6, 0.6, True), GoalLaw(-0.1, 0.5, True)):
        with pytest.raises(DataError, match="^goals: p_cur"):
            make_goal_rows(law)
        with pytest.raises(DataError, match="^goals: p_cur"):
            draw_goals(jax.random.key(0), law, np.zeros(1, int), np.array([0, 1]), 1, GAMMA)


def test_goals_are_refused_where_there_are_none():
    with pytest.raises(DataError, match="^goals: there are no desired_goal"):
        desired_goals(numbered(extras=True))
    data = numbered()
    with_goals = data._replace(extras={"desired_goal": np.ones((14, 2))})
    assert np.asarray(desired_goals(with_goals)).shape == (14, 2)
