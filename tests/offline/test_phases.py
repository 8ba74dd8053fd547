"""Both phases as programs: what is drawn, the same bits after a stop, cells side by side, and on from offline to online."""

import ast
import itertools
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from valex import replay
from valex.offline.batch import Dims, batch_at, uniform_rows
from valex.offline.data import Dataset
from valex.offline.extraction import make_ddpg_bc
from valex.offline.train import make_continuation, make_phase, mixed_rows, online_rows, start_phase
from valex.offline.values import make_iql
from valex.settings import offline as settings
from valex.settings.offline import DDPGBCConfig, IQLConfig
from valex.types import Transition

N, LENGTH, DIMS = 40, 10, Dims(2, 1)
TINY = {"hidden": (8,), "activation": "relu"}
VALUE = make_iql(IQLConfig(**TINY, layer_norm=False, lr=1e-2), DIMS)
POLICY = make_ddpg_bc(DDPGBCConfig(**TINY, lr=1e-2), DIMS, VALUE)


@cache
def dataset() -> Dataset:
    """Four trajectories of ten rows whose every field tells the row; the second terminates, the others are cut."""
    row = jnp.arange(N, dtype=jnp.float32)
    last = jnp.arange(N) % LENGTH == LENGTH - 1
    ended = last & (jnp.arange(N) // LENGTH == 1)
    obs = jnp.stack([row, -row], axis=1) / N
    action = jnp.sin(row)[:, None]
    extras = {"names": np.array(["no number"] * N)}
    return Dataset(obs, action, row / N, obs + 0.5, ended, last & ~ended, jnp.arange(0, N + 1, LENGTH), extras)


LEARN = make_phase(VALUE.update, uniform_rows, 16)
MIX = jax.jit(mixed_rows, static_argnums=(0, 4))
EXTRACT = make_phase(POLICY.update, uniform_rows, 16)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------------------------------------------------------ what is drawn


def test_a_batch_holds_the_rows_and_what_the_data_did_next():
    data = dataset()
    batch = batch_at(data, jnp.array([3, 9, 19, 39]))
    np.testing.assert_array_equal(batch.obs[:, 0] * N, [3, 9, 19, 39])
    np.testing.assert_array_equal(batch.next_obs, batch.obs + 0.5)
    np.testing.assert_array_equal(batch.has_next, [True, False, False, False])
    np.testing.assert_array_equal(batch.terminated, [False, False, True, False])
    np.testing.assert_array_equal(batch.next_action[0], data.action[4])
    assert batch.goal == () and np.all(np.isfinite(batch.next_action))


def test_only_the_first_rows_are_drawn_and_all_of_them():
    drawn = np.round(np.asarray(uniform_rows(dataset(), jax.random.key(0), 4_000, jnp.int32(20)).obs[:, 0]) * N)
    counts = np.bincount(drawn.astype(int), minlength=N)
    assert counts[20:].sum() == 0 and counts[:20].min() > 130 and counts[:20].max() < 280


# ---------------------------------------------------------------------------------------------------------------- both phases


def test_a_stop_changes_no_bit():
    """10 updates and then 15 are 25, of the value and of the policy, also through numpy as a checkpoint would take it."""
    data = dataset()
    whole, _ = LEARN(start_phase(VALUE.init, 3, N), data, (), 25)
    part, _ = LEARN(start_phase(VALUE.init, 3, N), data, (), 10)
    stored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), part)
    assert int(stored.steps) == 10
    resumed, _ = LEARN(stored, data, (), 15)
    same(resumed, whole)
    frozen = (whole.learner,)
    full, _ = EXTRACT(start_phase(POLICY.init, 4, N), data, frozen, 25)
    half, _ = EXTRACT(start_phase(POLICY.init, 4, N), data, frozen, 7)
    same(EXTRACT(half, data, frozen, 18)[0], full)


def test_metrics_are_means_over_the_chunk_and_seeds_differ():
    data = dataset()
    phase, each = start_phase(VALUE.init, 0, N), []
    for _ in range(4):
        phase, metrics = LEARN(phase, data, (), 1)
        each.append(float(metrics["value/q_loss"]))
    again, metrics = LEARN(start_phase(VALUE.init, 0, N), data, (), 4)
    np.testing.assert_allclose(metrics["value/q_loss"], np.mean(each), rtol=1e-5)
    same(again, phase)
    _, other = LEARN(start_phase(VALUE.init, 1, N), data, (), 4)
    assert float(other["value/q_loss"]) != float(metrics["value/q_loss"])
    unmoved, nothing = LEARN(start_phase(VALUE.init, 0, N), data, (), 0)
    assert int(unmoved.steps) == 0 and all(float(x) == 0.0 for x in nothing.values())


def test_chunks_of_any_length_share_a_program():
    traces = itertools.count()

    def update(learner, key, batch):
        next(traces)
        return learner + jnp.sum(batch.reward), {"learner": learner}

    chunk, data = make_phase(update, uniform_rows, 16), dataset()
    phase, _ = chunk(start_phase(lambda key: jnp.zeros(()), 0, N), data, (), 2)
    before = next(traces)
    chunk(phase, data, (), 5)
    assert next(traces) == before + 1


def test_cells_side_by_side_are_the_cells_alone():
    """Seeds, alphas and amounts of data as cells of one program."""
    data, seeds, alphas, rows = dataset(), jnp.arange(3), jnp.array([0.01, 1.0, 30.0]), jnp.array([N, 20, N])
    learn = make_phase(VALUE.update, uniform_rows, 16, cells=True)
    extract = make_phase(POLICY.update, uniform_rows, 16, cells=True)
    values, _ = learn(jax.vmap(lambda s, r: start_phase(VALUE.init, s, r))(seeds, rows), data, (), 10)
    starts = jax.vmap(lambda s, r, a: start_phase(POLICY.init, s, r, a))(seeds, rows, alphas)
    policies, metrics = extract(starts, data, (values.learner,), 10)
    assert metrics["policy/loss"].shape == (3,)
    for i in range(3):
        value, _ = LEARN(start_phase(VALUE.init, int(seeds[i]), int(rows[i])), data, (), 10)
        policy, _ = EXTRACT(
            start_phase(POLICY.init, int(seeds[i]), int(rows[i]), float(alphas[i])), data, (value.learner,), 10
        )
        for together, alone in ((values, value), (policies, policy)):
            jax.tree.map(
                lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=2e-4, atol=2e-5), together, alone
            )  # fmt: skip
    assert float(policies.learner.alpha[2]) == 30.0


def test_a_policy_phase_reads_the_value_and_leaves_it():
    data, frozen = dataset(), VALUE.init(jax.random.key(5))
    before = jax.tree.map(np.asarray, frozen)
    EXTRACT(start_phase(POLICY.init, 0, N), data, (frozen,), 5)
    same(frozen, before)


# ------------------------------------------------------------------------------------------------------ from offline to online


@cache
def ring(steps: int = 8, envs: int = 2) -> replay.Replay:
    """A replay of two environments; rewards are 1,000 + step, actions 100 + step, every fourth step is truncated."""
    no = jnp.zeros(envs, bool)
    at = lambda t: Transition(  # noqa: E731
        jnp.full((envs, 2), 5.0), jnp.full((envs, 1), 100.0 + t), jnp.full(envs, 1_000.0 + t), jnp.full((envs, 2), 6.0),
        no, no | (t % 4 == 3),
    )  # fmt: skip
    store = replay.init(jax.tree.map(lambda x: x[0], at(0)), 16, envs)
    add = jax.jit(replay.add)
    for t in range(steps):
        store = add(store, at(t))
    return store


def test_online_rows_know_what_was_done_next():
    batch = online_rows(ring(), jax.random.key(0), 500)
    step = np.asarray(batch.reward) - 1_000
    assert set(step.astype(int)) == set(range(7))  # the newest step has no next action yet
    np.testing.assert_array_equal(batch.next_action[:, 0], 101.0 + step)
    np.testing.assert_array_equal(batch.has_next, step % 4 != 3)


def test_mixtures():
    data, store = dataset()._replace(extras={}), ring()
    half = MIX("half", data, store, jax.random.key(0), 31)
    assert int(jnp.sum(half.reward > 500.0)) == 15
    uniform = MIX("uniform", data, store, jax.random.key(0), 4_000)
    share = float(jnp.mean(uniform.reward > 500.0))
    assert abs(share - 14 / (14 + N)) < 0.03


def test_continuation_is_the_value_then_the_policy():
    """A value and a policy that write down what they were given: own keys, one batch, the policy the value just updated."""
    value = VALUE._replace(update=lambda state, key, batch: ((state, key, batch), {"value/q_loss": 1.0}))
    policy = POLICY._replace(
        update=lambda state, key, batch, frozen: ((state, key, batch, frozen), {"policy/loss": 2.0})
    )
    states, metrics = make_continuation(value, policy)(("old value", "old policy"), jax.random.key(3), "batch")
    value_key, policy_key = jax.random.split(jax.random.key(3))
    assert states[0] == ("old value", value_key, "batch")
    assert states[1] == ("old policy", policy_key, "batch", states[0])
    assert metrics == {"value/q_loss": 1.0, "policy/loss": 2.0}


# -------------------------------------------------------------------------------------------------------------------- settings


def test_every_field_says_what_it_is():
    for node in ast.parse(Path(settings.__file__).read_text()).body:
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), node.name
            for field, text in itertools.pairwise([*node.body, ast.Pass()]):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), ast.unparse(field)


def test_settings_need_no_jax():
    assert "import jax" not in Path(settings.__file__).read_text()
