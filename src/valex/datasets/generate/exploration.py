"""Data of curiosity alone: an agent rewarded by novelty explores, the task's reward is put on afterwards.

The same explorer drives dm_control, stepped on the host, and valex's own environments, stepped in compiled batches. It never
sees the task's reward. After ExORL (Yarats et al. 2022, arXiv 2201.13425), which kept `physics` for relabelling, too; our
sets are made here and their scores compare with no other set's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex import replay as replays
from valex.checks import check
from valex.config import PRESETS
from valex.datasets.base import NEXT
from valex.datasets.card import make_card
from valex.datasets.generate.collect import Made, from_replay, origin
from valex.datasets.generate.control import World, make_world, relabelled
from valex.datasets.generate.rnd import RNDState, make_rnd
from valex.datasets.generate.run import described
from valex.envs.base import make_env, reset_batch
from valex.expansion import make_expansion
from valex.fields import ConfigError
from valex.offline.data import ROWS, from_arrays
from valex.settings import EnvConfig
from valex.settings.datasets import ExplorationSettings
from valex.tables import AGENTS, load
from valex.train import collect, uniform_actions
from valex.types import Array, Env, EnvSpec, PyTree, Transition

DM_CONTROL = "dm_control/"


class ExplorerState(NamedTuple):
    """One explorer: one PyTree, its replay included."""

    agent: PyTree
    rnd: RNDState
    replay: replays.Replay


class Explorer(NamedTuple):
    """A learner that is rewarded by novelty, as pure functions."""

    init: Callable  # (key, example Transition without axes) -> ExplorerState
    act: Callable  # (state, key, obs [B, d]) -> ActionSample, exploring
    remember: Callable  # (state, transition [B]) -> state
    update: Callable  # (state, key) -> state; one step of agent and predictor on one batch


def make_explorer(settings: ExplorationSettings, spec: EnvSpec, num_envs: int) -> Explorer:
    """Build agent, novelty and replay. Raises ConfigError or ValueError where a setting cannot be."""
    base = PRESETS[settings.agent]
    learner = replace(base.agent, hidden=settings.hidden, actor_lr=settings.lr, critic_lr=settings.lr)
    config = replace(base, agent=learner)
    expansion = make_expansion(config.critic, config.actor, config.gamma, None)
    agent = load(AGENTS, settings.agent)(config.agent, spec, expansion)
    rnd = make_rnd(spec.obs_dim, settings.hidden, settings.features, settings.lr)
    capacity = -(-settings.transitions // num_envs)

    def init(key: Array, example: Transition) -> ExplorerState:
        agent_key, rnd_key = jax.random.split(key)
        return ExplorerState(agent.init(agent_key), rnd.init(rnd_key), replays.init(example, capacity, num_envs))

    def act(state: ExplorerState, key: Array, obs: Array):
        return agent.act(state.agent, key, obs, explore=True)

    def remember(state: ExplorerState, step: Transition) -> ExplorerState:
        return state._replace(agent=agent.observe(state.agent, step.obs), replay=replays.add(state.replay, step))

    def update(state: ExplorerState, key: Array) -> ExplorerState:
        sample_key, agent_key = jax.random.split(key)
        batch = replays.sample_sequences(state.replay, sample_key, settings.batch_size, expansion.window)
        learned = rnd.update(state.rnd, batch.next_obs[0])
        batch = batch._replace(reward=rnd.bonus(learned, batch.next_obs))  # the task's reward is not looked at
        return state._replace(agent=agent.update(state.agent, agent_key, batch, ())[0], rnd=learned)

    return Explorer(init, act, remember, update)


def example_step(spec: EnvSpec) -> Transition:
    """Return one step of zeros, to allocate a replay by."""
    obs, no = jnp.zeros(spec.obs_dim), jnp.zeros((), bool)
    return Transition(obs, jnp.zeros(spec.act_dim), jnp.zeros(()), obs, no, no)


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

        def learn(state: ExplorerState) -> ExplorerState:
            return jax.lax.fori_loop(
                0, count, lambda j, s: explorer.update(s, jax.random.fold_in(update_key, j)), state
            )

        due = (i >= warmup) & (i % period == 0)
        return jax.lax.cond(due, learn, lambda state: state, state), envs, run_key

    state = explorer.init(init_key, example_step(env.spec))
    start = state, reset_batch(env, reset_key, num_envs), run_key  # an argument: one program serves all seeds
    steps = -(-settings.transitions // num_envs)
    run = jax.jit(lambda start: jax.lax.fori_loop(0, steps, iteration, start), donate_argnums=0)
    return run(start)[0].replay


def drive_host(settings: ExplorationSettings, world: World) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Explore a world stepped on the host; return the arrays of all steps by name, and the offsets of its episodes."""
    explorer = make_explorer(settings, world.spec, 1)
    init_key, run_key = jax.random.split(jax.random.key(settings.seed))

    def tick(state: ExplorerState, key: Array, step: Transition, obs: Array, learn: bool):
        """Remember a step, learn, and choose the action at `obs`."""
        update_key, act_key = jax.random.split(key)
        state = explorer.remember(state, step)
        state = explorer.update(state, update_key) if learn else state
        return state, explorer.act(state, act_key, obs).action[0]

    ticks = jax.jit(tick, static_argnums=4, donate_argnums=0)
    uniform = np.random.default_rng(settings.seed)
    state, obs = explorer.init(init_key, example_step(world.spec)), world.reset()
    rows, ends, no = [], [], np.zeros(1, bool)
    action = uniform.uniform(-1, 1, world.spec.act_dim).astype(np.float32)
    for i in range(settings.transitions):
        before = world.physics()
        following, last = world.step(action)
        rows.append(
            {"obs": obs, "action": action, "next_obs": following, "physics": before, NEXT + "physics": world.physics()}
        )
        truncates = last or i == settings.transitions - 1
        flags = no, np.array([truncates])
        step: Any = obs[None], action[None], np.zeros(1, np.float32), following[None], *flags
        obs = world.reset() if last else following
        learns = i >= settings.warmup_steps and i % settings.update_every == 0
        state, chosen = ticks(state, jax.random.fold_in(run_key, i), Transition(*step), obs[None], learns)
        still_random = i + 1 < settings.warmup_steps
        action = uniform.uniform(-1, 1, world.spec.act_dim).astype(np.float32) if still_random else np.asarray(chosen)
        if truncates:
            ends.append(i + 1)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, np.array([0, *ends])


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
