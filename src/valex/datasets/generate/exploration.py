"""Data of curiosity alone: an agent rewarded by novelty explores, the task's reward is put on afterwards.

The same explorer drives dm_control, stepped on the host, and valex's own environments, stepped in compiled batches. It never
sees the task's reward. After ExORL (Yarats et al. 2022, arXiv 2201.13425), which kept `physics` for relabelling, too; our
sets are made here and their scores compare with no other set's.
"""

from dataclasses import replace
from functools import partial

import jax
import numpy as np

from valex import replay as replays
from valex.checks import check
from valex.config import PRESETS
from valex.datasets.base import NEXT
from valex.datasets.card import make_card
from valex.datasets.generate.collect import Made, from_replay, origin
from valex.datasets.generate.control import World, make_world, relabelled
from valex.datasets.generate.host import Leg, make_drive
from valex.datasets.generate.learner import Learner, LearnerState, make_learner
from valex.datasets.generate.rnd import make_rnd
from valex.datasets.generate.run import described
from valex.envs.base import make_env, reset_batch
from valex.fields import ConfigError
from valex.offline.data import ROWS, from_arrays
from valex.settings import EnvConfig, RunConfig
from valex.settings.datasets import ExplorationSettings
from valex.train import collect, uniform_actions
from valex.types import Array, Env, EnvSpec, Transition

DM_CONTROL = "dm_control/"


def explorer_config(settings: ExplorationSettings) -> RunConfig:
    """Return the config of the agent that explores."""
    base = PRESETS[settings.agent]
    learner = replace(base.agent, hidden=settings.hidden, actor_lr=settings.lr, critic_lr=settings.lr)
    return replace(base, agent=learner, train=replace(base.train, batch_size=settings.batch_size))


def make_explorer(settings: ExplorationSettings, spec: EnvSpec, num_envs: int) -> Learner:
    """Build a learner that is rewarded by novelty alone. Raises ConfigError or ValueError where a setting cannot be."""
    rnd = make_rnd(spec.obs_dim, settings.hidden, settings.features, settings.lr)
    return make_learner(explorer_config(settings), spec, (-(-settings.transitions // num_envs), num_envs), rnd)


def drive_jax(settings: ExplorationSettings, env: Env) -> replays.Replay:
    """Explore one of valex's environments in one compiled program; return the replay of all that was seen."""
    num_envs = settings.num_envs
    explorer = make_explorer(settings, env.spec, num_envs)
    init_key, reset_key, run_key = jax.random.split(jax.random.key(settings.seed), 3)
    period, count = max(1, settings.update_every // num_envs), max(1, num_envs // settings.update_every)
    warmup = -(-settings.warmup_steps // num_envs)

    def iteration(i: Array, carry: tuple):
        state, envs, run_key = carry
        act_key, update_key = jax.random.split(jax.random.fold_in(run_key, i))

        def choose(key: Array, obs: Array):
            return jax.lax.cond(i < warmup, uniform_actions(env), partial(explorer.act, state), key, obs)

        envs, out = collect(env, choose, act_key, envs)
        state = explorer.remember(state, Transition(*(getattr(out, key) for key in ROWS)))

        def learn(state: LearnerState) -> LearnerState:
            return jax.lax.fori_loop(
                0, count, lambda j, s: explorer.update(s, jax.random.fold_in(update_key, j)), state
            )

        due = (i >= warmup) & (i % period == 0)
        return jax.lax.cond(due, learn, lambda state: state, state), envs, run_key

    state = explorer.init(init_key)
    start = state, reset_batch(env, reset_key, num_envs), run_key  # an argument: one program serves all seeds
    steps = -(-settings.transitions // num_envs)
    run = jax.jit(lambda start: jax.lax.fori_loop(0, steps, iteration, start), donate_argnums=0)
    return run(start)[0].replay


def drive_host(settings: ExplorationSettings, world: World) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Explore a world stepped on the host; return the arrays of all steps by name, and the offsets of its episodes."""
    explorer = make_explorer(settings, world.spec, 1)
    init_key, run_key = jax.random.split(jax.random.key(settings.seed))
    rows, ends = [], [0]

    def keep(row: dict[str, np.ndarray], last: bool) -> None:
        rows.append(row)
        if last:
            ends.append(len(rows))

    uniform = np.random.default_rng(settings.seed)
    leg = Leg(0, settings.transitions, settings.warmup_steps, settings.update_every, run_key, uniform)
    make_drive(explorer, world)(explorer.init(init_key), leg, keep)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, np.array(ends)


def generate(settings: ExplorationSettings) -> Made:
    """Make one dataset; `run.generate` has checked the settings. Raises ConfigError for an environment that cannot be had."""
    notes = []
    if settings.env.startswith(DM_CONTROL):
        world = make_world(settings.env.removeprefix(DM_CONTROL), settings.task, settings.seed, settings.episode_length)
        arrays, offsets = drive_host(settings, world)
        extras = {name: arrays.pop(name) for name in ("physics", NEXT + "physics")}
        rewards = relabelled(world, extras[NEXT + "physics"])
        steps = arrays | {"reward": rewards, "terminated": np.zeros(len(rewards), bool)}
        data = from_arrays(steps, offsets, extras)
        built = {"task": settings.task, "episode_length": world.spec.episode_length}
        notes.append("rewards worked out afterwards, from next_physics; what explored did not see any")
        notes.append(f"obs is the dict of observations end to end: {', '.join(world.names)}")
    else:
        config = replace(PRESETS[settings.agent], env=EnvConfig(settings.env, episode_length=settings.episode_length))
        env = make_env(check(config).env)
        if env.spec.num_actions:
            raise ConfigError(f"env: the actions of {settings.env} are discrete; choose one with continuous actions")
        notes.append("rewards are the environment's own, recorded beside; what explored did not see them")
        data = from_replay(drive_jax(settings, env), settings.transitions)
        built = {"episode_length": env.spec.episode_length, "backend": env.spec.backend}
    name = f"{settings.env.replace('/', '-')}-rnd"
    source = origin({"id": settings.env, "kwargs": built}, described(settings, "exploration"), settings.seed, notes)
    how = f"{settings.agent} rewarded by random network distillation alone"
    return [(data, make_card(data, name, how, origin=source))]
