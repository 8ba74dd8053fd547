"""The MinAtar games as tests need them: built and compiled once."""

import importlib.util
from functools import cache

import jax
import pytest

from valex.envs.base import make_env
from valex.settings import EnvConfig
from valex.types import Env

needs_pgx = pytest.mark.skipif(
    importlib.util.find_spec("pgx") is None, reason="needs pgx: pip install 'valex[minatar]'"
)


@cache
def built(game: str, sticky: float | None = None, ramping: bool | None = None, repeat: int = 1) -> Env:
    """The game under these settings; None: the default."""
    return make_env(EnvConfig(f"minatar-{game}", None, repeat, sticky_actions=sticky, difficulty_ramping=ramping))


@cache
def stepper(game: str, *settings):
    """(keys [N], states [N], actions [N]) -> states, StepOut; compiled once for each N."""
    return jax.jit(jax.vmap(built(game, *settings).step))
