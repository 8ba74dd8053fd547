"""Goals are drawn as the formulas say: histograms against closed forms, and rewards by index."""

import jax
import numpy as np
import pytest
from trajectories import numbered

from valex.offline.data import DataError
from valex.offline.goals import (
    ACTOR_LAWS,
    VALUE_LAWS,
    GoalLaw,
    GoalRows,
    GoalSettings,
    desired_goals,
    draw_goals,
    goal_obs,
    relabel,
)

DRAWS = 200_000
GAMMA = 0.7


def shares(law: GoalLaw, row: int) -> np.ndarray:
    """Return the measured shares of the states of the dataset, [15 + 4]: rows 0..13, then the finals of trajectories 0..3."""
    data = numbered()
    rows = np.full(DRAWS, row)
    drawn = jax.jit(draw_goals, static_argnums=(1, 4))(jax.random.key(row), law, rows, data.offsets, GAMMA)
    trajectory = np.searchsorted(data.offsets, np.asarray(drawn.row), side="right") - 1
    state = np.where(drawn.final, 14 + trajectory, drawn.row)
    return np.bincount(state, minlength=18) / DRAWS


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
@pytest.mark.parametrize("row", [0, 4, 9, 13])
def test_goals_follow_their_law(name, row):
    p = expected(LAWS[name], row)
    assert p.sum() == pytest.approx(1.0)
    error = np.sqrt(np.maximum(p * (1 - p), 1e-9) / DRAWS)
    assert (np.abs(shares(LAWS[name], row) - p) < 5 * error + 1e-12).all()


def test_a_wrong_law_would_be_seen():
    """Geom on {0, 1, ...} or gamma for 1 - gamma moves a share by more than the tolerance."""
    assert abs(expected(VALUE_LAWS["crl"], 9)[10] - GAMMA) > 0.1
    assert abs(expected(VALUE_LAWS["crl"], 9)[9]) == 0.0


def test_far_rows_keep_their_uniform_law():
    """In float32 a row number beyond 2^24 has no neighbours left: the draw must not lose them."""
    start = 2**25
    offsets = np.array([0, start, start + 5], np.int32)
    rows = np.full(DRAWS, start)
    drawn = draw_goals(jax.random.key(0), GoalLaw(0.0, 1.0, False), rows, offsets, GAMMA)
    state = np.asarray(drawn.row) - start + np.asarray(drawn.final)
    assert np.bincount(state, minlength=6) / DRAWS == pytest.approx([0, 1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.006)


def test_reward_and_mask_are_those_of_the_value_goal_by_index():
    data = numbered((6, 6), ())
    same_place = data._replace(obs=np.zeros_like(data.obs), next_obs=np.zeros_like(data.next_obs))  # all states equal
    rows = np.zeros(20_000, int) + 2
    batch = relabel(jax.random.key(0), same_place, rows, GoalSettings(VALUE_LAWS["gciql"]))
    success = np.asarray(batch.mask) == 0
    assert np.mean(success) == pytest.approx(0.2 + 0.3 / 12, abs=0.015)  # p_cur, and row 2 at random
    assert (np.asarray(batch.reward) == np.where(success, 0.0, -1.0)).all()
    positive = relabel(jax.random.key(0), same_place, rows, GoalSettings(VALUE_LAWS["gciql"], negative=False))
    assert (np.asarray(positive.reward) == success).all()


def test_the_final_state_is_no_success_of_the_last_row():
    """Its goal shares the row's index; it is the state behind it."""
    batch = relabel(jax.random.key(0), numbered(), np.array([3, 13]), GoalSettings(VALUE_LAWS["crl"]))
    assert np.asarray(batch.value_goals).tolist() == [[0, 4], [3, 6]]
    assert np.asarray(batch.reward).tolist() == [-1, -1] and np.asarray(batch.mask).tolist() == [1, 1]


def test_value_and_actor_goals_are_independent_draws():
    data = numbered((40,), ())
    batch = relabel(jax.random.key(0), data, np.zeros(20_000, int), GoalSettings(GoalLaw(0, 1, False)))
    value, actor = np.asarray(batch.value_goals)[:, 1], np.asarray(batch.actor_goals)[:, 1]
    assert abs(np.corrcoef(value, actor)[0, 1]) < 0.04
    assert not (value == actor).all()


def test_a_final_goal_is_the_final_observation():
    data = numbered()
    goals = goal_obs(data, GoalRows(np.array([3, 3]), np.array([False, True])))
    assert np.asarray(goals).tolist() == [[0, 3], [0, 4]]


def test_relabelling_compiles_once_for_all_keys():
    data, traces = numbered(), []

    def counted(key, rows):
        traces.append(1)
        return relabel(key, data, rows, GoalSettings())

    compiled = jax.jit(counted)
    for seed in range(3):
        compiled(jax.random.key(seed), np.arange(8))
    assert len(traces) == 1


def test_laws_that_cannot_be_are_refused():
    for law in (GoalLaw(0.6, 0.6, True), GoalLaw(-0.1, 0.5, True)):
        with pytest.raises(DataError, match="^goals: p_cur"):
            draw_goals(jax.random.key(0), law, np.zeros(1, int), np.array([0, 1]), GAMMA)


def test_goals_are_refused_where_there_are_none():
    with pytest.raises(DataError, match="^goals: there are no desired_goal"):
        desired_goals(numbered(extras=True))
    data = numbered()
    with_goals = data._replace(extras={"desired_goal": np.ones((14, 2))})
    assert np.asarray(desired_goals(with_goals)).shape == (14, 2)
