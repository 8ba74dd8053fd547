"""From offline to online: checks where they belong, nothing moves that does not learn, and a stop leaves no trace."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benches import AWR, BC, DDPG, IQL, cell_of, cheap_programs, maze_set, pendulum_set  # noqa: F401

from valex import continuation, store
from valex.artefacts import Hooks
from valex.continuation import (
    check_continuation,
    collect,
    continuation_name,
    follow,
    fresh,
    jobs,
    make_course,
    record_path,
    slopes,
    table,
    work,
)
from valex.fields import ConfigError
from valex.replay import gather
from valex.settings.bottleneck import Continuation

SHARED = replace(DDPG, std="shared", alpha=1.0)


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    """Return (root, path, config) over a dataset of our pendulum: three checks offline, two online."""
    root = tmp_path_factory.mktemp("pendulum")
    card = pendulum_set(root / "data")
    config = Continuation(
        card.sha256, cell_of(card).env, IQL, SHARED, 0, 2, 60, 30, num_envs=2, episodes=2, val_share=0.2
    )
    return root, root / "data", config


@pytest.fixture(scope="module")
def record(pendulum):
    root, path, config = pendulum
    return follow(root, path, config, Hooks())


def test_checks_stand_where_they_belong(pendulum, record):
    root, path, config = pendulum
    at = [(r["check"], r["phase"], r["grad_steps"], r["env_steps"]) for r in record["rows"]]
    assert at == [
        (0, "offline", 0, 0),
        (1, "offline", 10, 0),
        (2, "offline", 20, 0),
        (3, "online", 20 + 28, 30),
        (4, "online", 20 + 58, 60),
    ]  # fmt: skip  the first of all has no update
    assert {"score", "unit", "fit/train", "fit/val", "action/max"} <= set(record["rows"][0])
    scores = [r["score"] for r in record["rows"]]
    assert len(set(scores)) == 5 and np.isfinite(scores).all()
    assert follow(root, root / "gone", config, Hooks(tell=lambda event: pytest.fail("again"))) == record
    folder = root / "continuations" / continuation_name(config)
    assert not store.checkpoint_steps(folder)  # the rows are what stays
    assert json.loads(record_path(root, config).read_text()) == record


class Killed(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("at", [15, 26, 35])
def test_a_kill_changes_no_row(at, pendulum, record, tmp_path):
    """In the first stretch online, behind its check, and in the second one."""
    _, path, config = pendulum
    calls = iter(range(at))

    def tell(event):
        if next(calls, None) is None:
            raise Killed

    with pytest.raises(Killed):
        follow(tmp_path, path, config, Hooks(tell=tell, chunk=5))
    assert not record_path(tmp_path, config).exists()
    assert follow(tmp_path, path, config, Hooks()) == record


def test_what_is_collected_is_what_happened(pendulum):
    """Rewards of the pendulum by hand from what lies in the replay, episodes that end by their clock or by the check."""
    root, path, config = pendulum
    course = make_course(root, path, config, Hooks())
    state = collect(course, fresh(course), 0, Hooks())
    rows = gather(state.ring, jnp.arange(30).reshape(15, 2))
    mean, std = course.bench.raw.obs.mean(0), course.bench.raw.obs.std(0) + 1e-3
    obs = np.asarray(rows.obs) * std + mean
    cost = (
        np.arctan2(obs[..., 1], obs[..., 0]) ** 2
        + 0.1 * obs[..., 2] ** 2
        + 0.004 * np.asarray(rows.action)[..., 0] ** 2
    )
    np.testing.assert_allclose(rows.reward, -cost, rtol=1e-3, atol=1e-3)
    assert np.asarray(rows.truncated).tolist() == [[t in (11, 14)] * 2 for t in range(15)]
    assert not np.asarray(rows.terminated).any()
    np.testing.assert_allclose(rows.obs[1:12], rows.next_obs[:11], rtol=1e-6)
    assert np.abs(rows.obs[12] - rows.next_obs[11]).max() > 1e-3  # a fresh episode
    assert np.asarray(rows.action).std() > 0.1 and np.abs(rows.action).max() <= 1.0  # by its own spread, in the box
    again = collect(course, fresh(course), 0, Hooks())
    other = collect(course, fresh(course), 1, Hooks())
    np.testing.assert_array_equal(again.ring.words, state.ring.words)
    assert not np.array_equal(other.ring.words, state.ring.words)


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """Return (root, path, config) of one task of a maze, with all learning rates next to 0."""
    pytest.importorskip("ogbench", reason="pip install 'valex[offline]'")
    root = tmp_path_factory.mktemp("maze")
    card = maze_set(root / "data", task=1)
    value, policy = replace(IQL, lr=1e-12), replace(SHARED, lr=1e-12)
    config = Continuation(card.sha256, cell_of(card).env, value, policy, 0, 1, 40, 20, mixing="half", episodes=2)
    return root, root / "data", config


def test_the_errors_of_what_does_not_learn_do_not_move(maze):
    root, path, config = maze
    found = [follow(root, path, config, Hooks())]
    for name in ("train", "val", "eval"):
        errors = table(found, f"error/{name}")
        assert errors.shape == (1, 4) and (errors[:, 0] > 0.01).all()
        np.testing.assert_allclose(errors, errors[:, :1] * np.ones(4), rtol=1e-4)
        np.testing.assert_allclose(slopes(found, f"error/{name}"), 0.0, atol=1e-2)
        assert (table(found, f"error/{name}_se") > 0).all()


def test_numbers_of_records():
    rows = [{"phase": "offline", "env_steps": 0, "x": 5.0}, {"phase": "offline", "env_steps": 0, "x": 3.0},
            {"phase": "online", "env_steps": 500, "x": 2.0}, {"phase": "online", "env_steps": 1_000, "x": None}]  # fmt: skip
    other = [row | {"x": 3.0 - row["env_steps"] / 500.0} for row in rows]
    records = [{"rows": rows}, {"rows": other}]
    np.testing.assert_array_equal(table(records, "x", "offline"), [[5, 3], [3, 3]])
    np.testing.assert_array_equal(table(records, "x", "online"), [[3, 2, np.nan], [3, 2, 1]])
    np.testing.assert_allclose(slopes(records, "x"), [np.nan, -2.0])  # per 1,000 steps


def test_jobs_stop_and_go_on(pendulum, record, tmp_path):
    _, path, config = pendulum
    (job,) = jobs(tmp_path, path, [config])
    calls = iter(range(1_000))
    assert job.work(lambda: next(calls) > 20, lambda event: None) == {job.names[0]: ("interrupted", "")}
    told: list[dict] = []
    assert work(tmp_path, path, config, lambda: False, told.append) == {job.names[0]: ("finished", "")}
    assert told[-1]["env_steps"] == told[-1]["total"] == 4
    assert follow(tmp_path, path, config, Hooks()) == record and not jobs(tmp_path, path, [config])
    wild = replace(config, policy=replace(SHARED, lr=1e30))
    ((state, message),) = work(tmp_path, path, wild, lambda: False, told.append).values()
    assert state == "failed" and "lower policy.lr" in message


WRONG = {
    "goals": ({"policy": replace(AWR, goals="navigate"), "value": replace(IQL, goals="gciql")}, "take a task of one goal"),
    "bc": ({"policy": BC}, "policy.name: bc is read off no value"),
    "checks": ({"offline_checks": 0}, "offline_checks: 0 is below 1"),
    "every": ({"check_every": 40}, "check_every: 40 has to be a multiple of num_envs 2 and divide online_steps 60"),
    "lanes": ({"num_envs": 7}, "check_every: 30 has to be a multiple of num_envs 7"),
    "mixing": ({"mixing": "none"}, "mixing: 'none' is not known"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused_in_one_line(what, pendulum):
    change, message = WRONG[what]
    with pytest.raises(ConfigError) as error:
        check_continuation(replace(pendulum[2], **change))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_value_goes_on_learning_and_the_artefact_stays(pendulum, record):
    """What is donated online is a copy: the value on disk and in memory is that of the offline part."""
    root, path, config = pendulum
    course = make_course(root, path, config, Hooks(tell=lambda event: pytest.fail("trained again")))
    before = jax.tree.map(np.asarray, course.value.phase.learner)
    state = collect(course, fresh(course), 0, Hooks())
    jax.tree.map(np.testing.assert_array_equal, course.value.phase.learner, before)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.value.params, before.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert continuation.ONLINE not in (0, 1)  # streams of the phases
