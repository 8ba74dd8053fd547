"""What is particular to the MinAtar games: facts counted by hand, and what pgx is corrected in."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from games import built, needs_pgx, stepper

import valex
from valex.distributions import random_action
from valex.envs import minatar
from valex.envs.base import Choices, VecState, make_env, step_batch
from valex.envs.minatar import GAMES
from valex.settings import EnvConfig
from valex.studies.discrete_horizon import RANDOM_RETURNS
from valex.tables import ENVS

NOOP, LEFT, RIGHT = 0, 1, 2  # of breakout


def follow(game: str, actions: list[int], state=None, settings=(0.0,)):
    """Take `actions` in one instance from `state`, or from a reset; every state and StepOut."""
    step = jax.jit(built(game, *settings).step)
    states, outs = [built(game, *settings).reset(jax.random.key(0)) if state is None else state], []
    for t, action in enumerate(actions):
        after, out = jax.device_get(step(jax.random.key(t), states[-1], jnp.asarray(action)))
        states.append(after)
        outs.append(out)
    return states, outs


# ----------------------------------------------------------------------------------------------------- as it is offered


def test_games_are_the_registered_ones():
    registered = {name.removeprefix("minatar-") for name, entry in ENVS.items() if entry.extra == "minatar"}
    assert registered == set(GAMES) == {name.removeprefix("minatar-") for name in RANDOM_RETURNS}


def test_without_pgx_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx", None)
    monkeypatch.delitem(sys.modules, "pgx.minatar.breakout", raising=False)
    with pytest.raises(ValueError) as error:
        make_env(EnvConfig("minatar-breakout"))
    assert str(error.value) == "env.name: minatar-breakout needs pgx: pip install 'valex[minatar]'"


@needs_pgx
def test_loading_says_nothing():
    script = f"""
from valex.envs.base import make_env
from valex.settings import EnvConfig
for game in {list(GAMES)!r}:
    make_env(EnvConfig("minatar-" + game))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(valex.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_pgx
@pytest.mark.parametrize(
    ("game", "channels", "actions", "length"),
    [
        ("asterix", 4, 5, 1000),
        ("breakout", 4, 3, 1000),
        ("freeway", 7, 3, 2500),
        ("seaquest", 10, 6, 1000),
        ("space_invaders", 6, 4, 1000),
    ],
)
def test_defaults(game, channels, actions, length):
    env = built(game)
    spec = env.spec
    assert (spec.grid, spec.obs_dim, spec.act_dim, spec.num_actions) == ((10, 10, channels), 100 * channels, 0, actions)
    assert (spec.episode_length, spec.dt, spec.backend, spec.differentiable) == (length, 1.0, "jax", False)
    assert env.terminated is None


@needs_pgx
@pytest.mark.parametrize("game", GAMES)
def test_what_is_stored_is_counters_and_flags_and_no_key(game):
    env = built(game)
    stored = jax.eval_shape(lambda key: env.sim_state(env.reset(key)), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} <= {jnp.dtype(jnp.int32), jnp.dtype(bool)}
    assert set(stored) == {*GAMES[game].kept, *GAMES[game].ramp} and "last_action" in stored
    assert not set(GAMES[game].ramp) & set(GAMES[game].kept)


@needs_pgx
@pytest.mark.parametrize("game", GAMES)
def test_what_is_not_kept_is_not_missed(game):
    """64 episodes beside pgx itself, which carries its whole state along, under the same keys and random actions."""
    env, num = built(game), 64
    pgx_env, _ = minatar.load_pgx(Choices(f"minatar-{game}", "jax", 1, 1000, minatar.STICKY_ACTIONS))

    def body(carry, key):
        state, full, alive = carry
        keys, action = jax.random.split(key, num), random_action(key, env.spec, (num,)).action
        state, out = jax.vmap(env.step)(keys, state, action)
        full = jax.vmap(lambda f, a, k: GAMES[game].corrected(f, pgx_env.step(f, a, k)))(full, action, keys)
        seen = jax.vmap(pgx_env.observe)(full).reshape(num, -1)
        same = (out.obs == seen).all(1) & (out.reward == full.rewards[:, 0]) & (out.terminated == full.terminated)
        return (state, full, alive & ~out.terminated), (same | ~alive, alive)

    starts = jax.random.split(jax.random.key(0), num)
    start = (jax.vmap(env.reset)(starts), jax.vmap(pgx_env.init)(starts), jnp.ones(num, bool))
    same, alive = jax.jit(lambda: jax.lax.scan(body, start, jax.random.split(jax.random.key(1), 250))[1])()
    assert same.all() and alive.sum() > 500


# --------------------------------------------------------------------------------------------------- counted by hand


@needs_pgx
def test_breakout_begins_as_published():
    env = built("breakout")
    grids = np.unique(jax.vmap(lambda k: env.obs(env.reset(k)))(jax.random.split(jax.random.key(0), 64)), axis=0)
    assert len(grids) == 2, "the ball starts on the left or on the right"
    for grid, column in zip(grids.reshape(2, 10, 10, 4), (9, 0), strict=True):
        paddle, ball, trail, bricks = np.moveaxis(grid, -1, 0)
        assert np.argwhere(paddle).tolist() == [[9, 4]]
        assert np.argwhere(ball).tolist() == np.argwhere(trail).tolist() == [[3, column]]
        assert bricks.sum() == 30 and bricks[1:4].all()


def from_the_left(**changes):
    """Breakout with the ball at the left edge, on its way down and to the right, whatever the key."""
    state = jax.device_get(built("breakout", 0.0).reset(jax.random.key(0)))
    return state | {"ball_x": np.int32(0), "last_x": np.int32(0), "ball_dir": np.int32(2)} | changes


@needs_pgx
def test_breakout_is_lost_where_the_ball_passes_the_paddle():
    """From column 0, row 3 the ball comes to row 9 at column 6 with its sixth step; the paddle stands at column 4."""
    _, outs = follow("breakout", [NOOP] * 6, from_the_left())
    assert [bool(out.terminated) for out in outs] == [False] * 5 + [True]
    assert not any(out.reward for out in outs)


@needs_pgx
def test_breakout_pays_one_for_a_brick():
    """At column 5 the paddle sends the ball up by columns 7, 8, 9, along the wall, to the lowest brick of column 8."""
    states, outs = follow("breakout", [RIGHT] + [NOOP] * 10, from_the_left())
    assert not any(out.terminated for out in outs)
    assert [float(out.reward) for out in outs] == [0.0] * 10 + [1.0]
    assert [(int(s["ball_x"]), int(s["ball_y"])) for s in states[6:11]] == [(6, 8), (7, 7), (8, 6), (9, 5), (9, 4)]
    assert states[-1]["brick_map"].sum() == 29 and not states[-1]["brick_map"][3, 8]


@needs_pgx
def test_sticky_actions_repeat_the_action_before():
    always = from_the_left(last_action=np.int32(1))  # pgx counts actions as MinAtar does: 1 is left
    states, _ = follow("breakout", [RIGHT] * 4, always, (1.0,))
    assert [int(s["pos"]) for s in states] == [4, 3, 2, 1, 0]
    states, _ = follow("breakout", [RIGHT] * 4, always, (0.0,))
    assert [int(s["pos"]) for s in states] == [4, 5, 6, 7, 8]
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (4000, *np.shape(x))), always)
    after, _ = stepper("breakout")(jax.random.split(jax.random.key(1), 4000), many, jnp.full(4000, RIGHT))
    assert np.mean(after["pos"] == 3) == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 4000) ** 0.5)


@needs_pgx
def test_a_repeated_action_is_frames_taken_by_hand():
    one, two = built("breakout"), built("breakout", None, None, 2)
    assert (two.spec.action_repeat, two.spec.dt, two.spec.episode_length) == (2, 2.0, 1000)
    start, key = from_the_left(last_action=np.int32(1), ball_y=np.int32(4)), jax.random.key(5)
    state, out = jax.jit(two.step)(key, start, RIGHT)
    by_hand, rewards = start, 0.0
    for sub in jax.random.split(key, 2):
        by_hand, frame = jax.jit(one.step)(sub, by_hand, RIGHT)
        rewards += float(frame.reward)
    jax.tree.map(np.testing.assert_array_equal, state, by_hand)
    assert float(out.reward) == rewards and out.obs.dtype == bool
    np.testing.assert_array_equal(out.obs, frame.obs)


@needs_pgx
def test_a_reward_offset_is_paid_for_every_step():
    env = make_env(EnvConfig("minatar-breakout", reward_offset=-0.25))
    assert float(jax.jit(env.step)(jax.random.key(0), from_the_left(), NOOP)[1].reward) == -0.25


def spawn_steps(ramping: bool, steps: int = 260) -> np.ndarray:
    """The steps of asterix on which something comes in; it goes on after an end, which this does not change."""
    env = built("asterix", 0.0, ramping)

    def body(state, key):
        state, _ = env.step(key, state, 0)
        return state, state["spawn_timer"]

    keys = jax.random.split(jax.random.key(0), steps)
    timer = jax.jit(lambda: jax.lax.scan(body, env.reset(keys[0]), keys)[1])()
    return np.flatnonzero(np.asarray(timer) == 0)


@needs_pgx
def test_without_ramping_the_difficulty_stays():
    """Asterix: something comes in every 10 frames; with the ramp every 9 after 102 frames and every 8 after 204."""
    assert set(np.diff(spawn_steps(False))) == {10}
    gaps = np.diff(spawn_steps(True))
    assert list(gaps) == sorted(gaps, reverse=True) and set(gaps) == {10, 9, 8}
    assert set(GAMES["asterix"].ramp).isdisjoint(built("asterix", 0.0, False).reset(jax.random.key(0)))


@needs_pgx
@pytest.mark.parametrize("ramping", [True, False])
def test_the_next_wave_of_space_invaders_is_faster_only_with_ramping(ramping):
    """One alien is left, above a bullet; a step later 24 new ones stand there, moving every 11 frames instead of 12."""
    state = jax.device_get(built("space_invaders", 0.0, ramping).reset(jax.random.key(0)))
    alone = np.zeros((10, 10), bool)
    alone[5, 5] = True
    state = state | {"alien_map": alone, "f_bullet_map": np.roll(alone, 1, 0), "alien_move_timer": np.int32(1)}
    states, outs = follow("space_invaders", [NOOP, NOOP], state, (0.0, ramping))
    assert float(outs[0].reward) == 1.0 and states[1]["alien_map"].sum() == 24
    assert int(states[2]["alien_move_timer"]) == (10 if ramping else 11), "set to the interval and counted down once"


@needs_pgx
def test_freeway_ends_by_our_clock_alone():
    env = built("freeway")
    start = VecState(jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2)), jnp.zeros(2, jnp.int32))

    def body(vec, key):
        vec, outcome = step_batch(env, key, vec, random_action(key, env.spec, (2,)).action)
        return vec, (outcome.terminated, outcome.truncated)

    keys = jax.random.split(jax.random.key(1), 5100)
    _, (terminated, truncated) = jax.jit(lambda: jax.lax.scan(body, start, keys))()
    assert not terminated.any()
    assert np.argwhere(np.asarray(truncated)[:, 0]).ravel().tolist() == [2499, 4999]


# ------------------------------------------------------------------------------------- seaquest as it was published


def seaquest(**changes):
    state = jax.device_get(built("seaquest", 0.0).reset(jax.random.key(0)))
    return state | {name: np.asarray(value, state[name].dtype) for name, value in changes.items()}


def bullets(*rows):
    return np.array([*rows, *[(-1, -1, -1)] * (25 - len(rows))])


@needs_pgx
def test_what_pgx_is_corrected_in():
    """Bullets that leave, air that is used up, the ramp; in one batch, because this game takes long to compile."""
    under = {"sub_x": 5, "sub_y": 8, "surface": False}
    leaving = bullets((9, 3, 1), (0, 4, 0), (4, 5, 0), (0, 8, 1))
    up = {"sub_y": 1, "surface": False, "diver_count": 2}
    cases = [
        seaquest(**under, e_bullets=leaving),
        seaquest(**under, oxygen=1),
        seaquest(**under, oxygen=0),
        *(seaquest(**up, ramp_index=i, move_speed=5) for i in (0, 1)),
        seaquest(**up, ramp_index=5, move_speed=2),
    ]
    state = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    actions = jnp.array([0, 0, 0, 2, 2, 2])  # 2 is up
    after, out = jax.device_get(stepper("seaquest", 0.0)(jax.random.split(jax.random.key(0), 6), state, actions))
    np.testing.assert_array_equal(after["e_bullets"][0], bullets((3, 5, 0), (1, 8, 1)))
    np.testing.assert_array_equal(out.terminated, [False, False, True, False, False, False])
    gauge = out.obs.reshape(6, 10, 10, 10)[..., 9, :, 7].sum(-1)
    np.testing.assert_array_equal(gauge[:3], [9, 0, 0])
    np.testing.assert_array_equal(after["move_speed"][3:], [5, 4, 2])
    np.testing.assert_array_equal(after["ramp_index"][3:], [1, 2, 6])
    np.testing.assert_array_equal(after["e_spawn_speed"][3:], [19, 19, 19])


# ------------------------------------------------------------------------------------------------------ random actions


def random_returns(game: str, key, episodes: int = 512) -> np.ndarray:
    env = built(game)

    def body(carry, key):
        state, alive, total = carry
        act_key, env_key = jax.random.split(key)
        action = random_action(act_key, env.spec, (episodes,)).action
        state, out = jax.vmap(env.step)(jax.random.split(env_key, episodes), state, action)
        return (state, alive & ~out.terminated, total + jnp.where(alive, out.reward, 0.0)), None

    reset_key, key = jax.random.split(key)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    carry = (start, jnp.ones(episodes, bool), jnp.zeros(episodes))
    keys = jax.random.split(key, env.spec.episode_length)
    return np.asarray(jax.jit(lambda: jax.lax.scan(body, carry, keys)[0][2])())


@needs_pgx
@pytest.mark.parametrize("game", [pytest.param(g, marks=[pytest.mark.learning] * (g != "breakout")) for g in GAMES])
def test_random_returns_are_those_of_the_table(game):
    mean, error = RANDOM_RETURNS[f"minatar-{game}"]
    found = random_returns(game, jax.random.key(3))
    bound = 4 * float(error**2 + found.var() / len(found)) ** 0.5
    assert found.mean() == pytest.approx(mean, abs=bound) and bound < 0.7
