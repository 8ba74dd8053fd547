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
    on_device,
    permuted,
    prefix,
    prefix_rows,
    split_trajectories,
    take_trajectories,
)


def test_flags_follow_from_terminated_and_offsets():
    data = numbered()
    assert np.flatnonzero(data.terminated).tolist() == [4, 7]
    assert np.flatnonzero(data.truncated).tolist() == [3, 13]


def test_on_the_device_nothing_changes_and_extras_stay_where_they_are():
    data = numbered(extras=True)
    there = on_device(data)
    assert isinstance(there.obs, jax.Array) and isinstance(there.extras["qpos"], np.ndarray)
    assert same(there, data)


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
    data = permuted(numbered(lengths, ()), seed)
    check(data)
    sizes = tuple(sorted(max(1, int(share * sum(lengths))) for share in shares))
    chosen = prefix_rows(data, sizes)
    assert list(chosen) == sorted(chosen)  # prefixes of one order are nested
    for size, rows in zip(sizes, chosen, strict=True):
        part = prefix(data, size)
        check(part)
        assert len(part.obs) == rows >= size and (part.obs == data.obs[:rows]).all()
        last = np.diff(part.offsets)[-1]
        assert rows - last < size
        seen, counts = np.unique(part.obs[:, 0].astype(int), return_counts=True)
        assert (counts == np.asarray(lengths)[seen]).all()  # trajectories are whole
    assert prefix_rows(data, (sum(lengths),)) == (sum(lengths),)


def test_the_order_holds_every_trajectory_once_and_depends_on_the_seed_alone():
    lengths = tuple(range(1, 31))
    data = numbered(lengths, (3, 7), extras=True)
    a, b, c = (permuted(data, seed) for seed in (0, 0, 1))
    assert same(a, b) and not same(a, c)
    order = a.obs[np.asarray(a.offsets)[:-1], 0].astype(int)
    assert sorted(order) == list(range(30)) and order.tolist() != list(range(30))
    assert same(take_trajectories(a, np.argsort(order)), data)
    assert (split_trajectories(data, 0.5, 0)[0] != np.sort(order[15:])).any()  # a stream of its own


@pytest.mark.parametrize("sizes", [(), (0,), (15,)])
def test_subsets_refuse_sizes_that_cannot_be(sizes):
    with pytest.raises(DataError, match=r"sizes: .*1\.\.14"):
        prefix_rows(numbered(), sizes)


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
