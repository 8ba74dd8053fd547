"""The five MinAtar games (Young & Tian 2019), 10 x 10 grids of flags with discrete actions, through pgx.

pgx is imported inside the factory: it may not be installed. Of pgx's state only those fields live on between steps that a
later step or observation reads (`Game.kept`); everything else, its flags of termination, its clocks and its copies of the
observation among them, is at its default whenever a step begins. What is kept IS the `sim_state`. It holds no random key: a
step draws all its chance, sticky actions and spawns, from the key that it is given, so a restart cannot know what will come.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import jax.numpy as jnp

from valex.envs.base import Choices, native_env, repeat_action, resolve
from valex.settings import EnvConfig
from valex.types import Array, Env, EnvSpec, StepOut

STICKY_ACTIONS = 0.1  # default chance that the action before is taken again, as in MinAtar


def as_pgx(before: Any, after: Any) -> Any:
    """Return pgx's successor as it is."""
    return after


def seaquest_as_published(before: Any, after: Any) -> Any:
    """Return pgx's successor of `before` with three rules as MinAtar 1.0.15 has them (deviation D25).

    Enemy bullets that have left the grid are taken out and the others close up: pgx leaves those on the right for good, and
    counts one on the left as the end of its list, behind which nothing moves or hits. The air is used up where none was left
    before the step, one step earlier. Enemies become faster at every second surfacing, beginning with the second.
    """
    bullets = after._e_bullets
    inside = (bullets[:, 0] >= 0) & (bullets[:, 0] <= 9)
    place = jnp.where(inside, jnp.cumsum(inside) - 1, len(bullets))
    bullets = jnp.full_like(bullets, -1).at[place].set(bullets, mode="drop")
    faster = (after._ramp_index > before._ramp_index) & (before._ramp_index % 2 == 1) & (before._move_speed > 2)
    return after.replace(
        _e_bullets=bullets,
        _oxygen=jnp.maximum(after._oxygen, 0),
        _move_speed=before._move_speed - faster,
        terminated=after.terminated | (before._oxygen <= 0),
    )


class Game(NamedTuple):
    """What is particular to one game; fields by pgx's names without their underscore."""

    maker: str  # class in pgx.minatar.<game>
    kept: tuple[str, ...]  # what a later step or observation reads, last_action for sticky actions among it
    ramp: tuple[str, ...] = ()  # what the ramp of difficulty moves: kept too where it is on, as at the start where off
    episode_length: int = 1000  # control steps
    corrected: Callable = as_pgx  # (pgx state before, after) -> after


GAMES = {
    "asterix": Game(
        maker="MinAtarAsterix",
        kept=("player_x", "player_y", "entities", "spawn_timer", "move_timer", "last_action"),
        ramp=("spawn_speed", "move_speed", "ramp_timer", "ramp_index"),
    ),
    "breakout": Game(
        maker="MinAtarBreakout",
        kept=("ball_y", "ball_x", "ball_dir", "pos", "brick_map", "strike", "last_x", "last_y", "last_action"),
    ),
    "freeway": Game(
        maker="MinAtarFreeway",
        kept=("cars", "pos", "move_timer", "last_action"),
        episode_length=2500,
    ),
    "seaquest": Game(
        maker="MinAtarSeaquest",
        kept=(
            *("oxygen", "diver_count", "sub_x", "sub_y", "sub_or", "f_bullets", "e_bullets", "e_fish", "e_subs"),
            *("divers", "e_spawn_timer", "d_spawn_timer", "shot_timer", "surface", "last_action"),
        ),
        ramp=("e_spawn_speed", "move_speed", "ramp_index"),
        corrected=seaquest_as_published,
    ),
    "space_invaders": Game(
        maker="MinAtarSpaceInvaders",
        kept=(
            *("pos", "f_bullet_map", "e_bullet_map", "alien_map", "alien_dir", "alien_move_timer", "alien_shot_timer"),
            *("shot_timer", "last_action"),
        ),
        ramp=("enemy_move_interval",),
    ),
}


def load_pgx(choices: Choices) -> tuple[Any, Any]:
    """Import pgx; return (its environment, its state with every field at its default).

    Raises ValueError where pgx is not installed.
    """
    game = choices.name.removeprefix("minatar-")
    try:
        module = import_module(f"pgx.minatar.{game}")
    except ModuleNotFoundError as error:
        raise ValueError(f"env.name: {choices.name} needs pgx: pip install 'valex[minatar]'") from error
    return getattr(module, GAMES[game].maker)(sticky_action_prob=choices.sticky_actions), module.State()


def make_minatar(config: EnvConfig) -> Env:
    """Build the game that `config.name` names after `minatar-`.

    Obs [10 * 10 * channels] bool, flat, its shape in `spec.grid`; actions are the game's minimal set. A step is a frame, so
    dt is 1. The state is a dict of what `Game` keeps. Defaults: 1000 control steps, freeway 2500, whose own time limit is
    left out; sticky actions 0.1, drawn anew in every frame of a repeated action; ramp of difficulty on. Reset: breakout
    draws one of two starts, freeway the speeds of its cars, the others begin in one state. Termination is known to the step
    alone: no function of the observations says which of two objects in a cell came when.
    Raises ValueError, one line that begins with the field at fault.
    """
    game = GAMES[config.name.removeprefix("minatar-")]
    has_ramp = {"difficulty_ramping": True} if game.ramp else {}
    choices = resolve(config, ("jax",), game.episode_length, {"sticky_actions": STICKY_ACTIONS, **has_ramp})
    pgx_env, at_default = load_pgx(choices)
    kept = game.kept + (game.ramp if choices.difficulty_ramping else ())

    def keep(full: Any) -> dict[str, Array]:
        return {name: getattr(full, f"_{name}") for name in kept}

    def whole(state: dict[str, Array]) -> Any:
        return at_default.replace(**{f"_{name}": value for name, value in state.items()})

    def obs(state):
        return pgx_env.observe(whole(state)).reshape(-1)

    def step(key, state, action):
        before = whole(state)
        after = game.corrected(before, pgx_env.step(before, action, key))
        state = keep(after)
        return state, StepOut(obs(state), after.rewards[0], after.terminated)

    grid = at_default.observation.shape
    spec = EnvSpec(
        name=choices.name,
        obs_dim=at_default.observation.size,
        act_dim=0,
        num_actions=len(at_default.legal_action_mask),
        episode_length=choices.episode_length,
        action_repeat=1,
        dt=1.0,
        backend=choices.backend,
        differentiable=False,
        grid=grid,
    )
    env = native_env(spec, lambda key: keep(pgx_env.init(key)), step, obs, terminated=None)
    return repeat_action(env, choices.action_repeat)
