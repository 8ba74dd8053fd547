"""Datasets: what may stand in one, what follows what, and subsets of whole trajectories."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from trajectories import numbered, same

from valex.offline.data import (
    DataError,
    check,
    from_arrays,
    mask,
    nested_subsets,
    next_rows,
    on_device,
    sample_rows,
    sarsa_rows,
    split_trajectories,
    take_trajectories,
    transitions,
)


def test_flags_follow_from_terminated_and_offsets():
    data = numbered()
    assert np.flatnonzero(data.terminated).tolist() == [4, 7]
    assert np.flatnonzero(data.truncated).tolist() == [3, 13]
    assert np.asarray(mask(data)).tolist() == [0.0 if i in (4, 7) else 1.0 for i in range(14)]


def test_next_row_never_crosses_the_end_of_a_trajectory():
    data = numbered()
    row, valid = (np.asarray(x) for x in next_rows(data))
    assert np.flatnonzero(~valid).tolist() == [3, 4, 7, 13]
    assert (data.obs[row][valid] == data.next_obs[valid]).all()
    assert (row[~valid] == np.flatnonzero(~valid)).all()


def test_sarsa_drops_the_last_row_of_a_truncated_trajectory_and_keeps_a_terminated_one():
    assert sarsa_rows(numbered()).tolist() == [i for i in range(14) if i not in (3, 13)]


def test_transitions_are_the_rows():
    data = numbered()
    batch = transitions(data, np.array([7, 3]))
    assert np.asarray(batch.obs).tolist() == [[2, 2], [0, 3]]
    assert np.asarray(batch.terminated).tolist() == [True, False]
    assert np.asarray(batch.truncated).tolist() == [False, True]


def test_on_the_device_nothing_changes_and_extras_stay_where_they_are():
    data = numbered(extras=True)
    there = on_device(data)
    assert isinstance(there.obs, jax.Array) and isinstance(there.extras["qpos"], np.ndarray)
    assert same(there, data)


def test_minibatches_are_uniform_and_come_from_the_rows_asked_for():
    drawn = np.asarray(jax.jit(sample_rows, static_argnums=(1, 2))(jax.random.key(0), 70_000, 7))
    assert (np.abs(np.bincount(drawn, minlength=7) / 70_000 - 1 / 7) < 0.006).all()  # 4.5 standard errors
    rows = np.array([2, 5, 11])
    some = np.asarray(sample_rows(jax.random.key(1), 30_000, rows))
    assert (np.abs(np.bincount(some, minlength=12)[rows] / 30_000 - 1 / 3) < 0.013).all()
    assert set(some) == set(rows)
    assert (np.asarray(sample_rows(jax.random.key(1), 30_000, rows)) == some).all()


def test_taking_all_trajectories_changes_nothing_and_some_keep_their_rows():
    data = numbered(extras=True)
    assert same(take_trajectories(data, np.arange(4)), data)
    part = take_trajectories(data, np.array([3, 1]))
    check(part)
    assert part.offsets.tolist() == [0, 6, 7]
    assert part.obs[:, 0].tolist() == [3] * 6 + [1]
    assert (part.extras["qpos"] == part.obs.astype(np.float64) / 3).all()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12).map(tuple),
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_subsets_are_nested_whole_and_no_larger_than_needed(lengths, shares, seed):
    data = numbered(lengths, ())
    sizes = tuple(sorted(max(1, int(share * sum(lengths))) for share in shares))
    chosen = nested_subsets(data, sizes, seed)
    for size, which in zip(sizes, chosen, strict=True):
        rows = np.asarray(lengths)[which]
        assert rows.sum() >= size
        assert rows.sum() - rows.max() < size or len(which) == 1
        assert (np.diff(which) > 0).all()
    for small, large in zip(chosen, chosen[1:], strict=False):
        assert set(small) <= set(large)
    everything = nested_subsets(data, (sum(lengths),), seed)[0]
    assert same(take_trajectories(data, everything), data)


def test_subsets_depend_on_the_seed_alone():
    data = numbered((1,) * 50, ())
    a, b, c = (nested_subsets(data, (10,), seed)[0] for seed in (0, 0, 1))
    assert (a == b).all()
    assert set(a) != set(c)


@pytest.mark.parametrize("sizes", [(), (0,), (15,)])
def test_subsets_refuse_sizes_that_cannot_be(sizes):
    with pytest.raises(DataError, match=r"sizes: .*1\.\.14"):
        nested_subsets(numbered(), sizes, 0)


def test_the_split_parts_the_trajectories():
    data = numbered((2,) * 20, ())
    train, held = split_trajectories(data, 0.25, 3)
    assert len(held) == 5
    assert sorted([*train, *held]) == list(range(20))
    with pytest.raises(DataError, match="at least 2"):
        split_trajectories(numbered((3,), ()), 0.5, 0)


def steps(**changed):
    rows = {
        "obs": np.zeros((4, 2)),
        "action": np.zeros((4, 1)),
        "reward": np.zeros(4),
        "next_obs": np.zeros((4, 2)),
        "terminated": np.zeros(4, bool),
    }
    return {key: value for key, value in (rows | changed).items() if value is not None}


def nan_at(shape, row):
    value = np.zeros(shape)
    value[row] = np.nan
    return value


BAD = {
    "missing": (steps(reward=None), [0, 4], r"^reward: missing"),
    "length": (steps(reward=np.zeros(3)), [0, 4], r"^reward: 3 rows, obs has 4"),
    "flags": (steps(terminated=np.zeros(5, bool)), [0, 4], r"^terminated: shape \(5,\)"),
    "nan": (steps(next_obs=nan_at((4, 2), 2)), [0, 4], r"^next_obs: row 2 is not finite \(1 such"),
    "infinite": (steps(reward=np.array([0, np.inf, 0, 0])), [0, 4], r"^reward: row 1 is not finite"),
    "box": (
        steps(action=np.array([[0.0], [0.0], [0.0], [1.5]])),
        [0, 4],
        r"^action: row 3 is outside \[-1, 1\] \(1.5\)",
    ),
    "empty trajectory": (steps(), [0, 2, 2, 4], r"^offsets: trajectory 1 at row 2 is empty"),
    "no rows": (steps(obs=np.zeros((0, 2))), [0], r"^obs: no rows"),
    "offsets": (steps(), [0, 3], r"^offsets: have to run from 0 to the number of rows, 4"),
    "crossing": (steps(terminated=np.array([0, 1, 0, 0])), [0, 4], r"^terminated: row 1 is flagged though"),
    "flat obs": (steps(obs=np.zeros(4)), [0, 4], r"^obs: 1 axes"),
    "shapes": (steps(next_obs=np.zeros((4, 3))), [0, 4], r"^next_obs: shape \(4, 3\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused_naming_key_and_row(name):
    arrays, offsets, message = BAD[name]
    with pytest.raises(DataError, match=message):
        from_arrays(arrays, np.array(offsets), {})


def test_an_extra_of_another_length_is_named():
    with pytest.raises(DataError, match=r"^extras.qpos: 2 rows"):
        from_arrays(steps(), np.array([0, 4]), {"qpos": np.zeros((2, 1))})
