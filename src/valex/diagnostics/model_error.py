"""How wrong a dynamics model is, k steps on: against new episodes of the simulator, in standard deviations of what it predicts.

    e_k = sqrt( mean_d [ (z_k,d - s_k,d) / sigma_d ]^2 )        z_k predicted, s_k true, sigma_d std of held-out observations

over the dimensions d that change within an episode; a flag counts as 0 or 1, its mean prediction is a probability. Starts are
drawn inside new episodes, one in each. From there every model is followed twice: with the recorded actions (open loop), and with
the evaluation policy, which the simulator follows from there too (closed loop). Errors count up to the true termination; what a
model says of the termination is not looked at.

Here stands what is compiled: paths, predictions and derivatives. What is read off them: `model_statistics.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from valex import distributions
from valex.diagnostics import model_statistics
from valex.diagnostics.model_derivatives import STATE_STEP, derivative_columns, perturbed
from valex.models.oracle import make_oracle
from valex.train import Parts, TrainState, uniform_actions
from valex.types import Array, EnvSpec, Model, PyTree, StepOut, Transition

STILL = 1e-6  # a number whose change in a step has a smaller standard deviation counts as one that never changes


class ErrorStudy(NamedTuple):
    """How model error is measured: ErrorStudy(steps=30) follows a model for up to 30 steps from 64 starts in new episodes."""

    steps: int  # K, cut to the length of an episode
    starts: int = 64  # S, each in an episode of its own
    behaviour: str = "policy"  # of the recorded actions: policy (the agent as it explores), uniform or ou
    gamma: float = 0.99  # discount of the sums of rewards, per control step


class Window(NamedTuple):
    """K recorded steps from each of S starts."""

    rows: Transition  # leaves [K, S, ...]
    valid: Array  # [K, S] bool, the step belongs to the episode
    sigma: Array  # [obs_dim] standard deviation over the recorded episodes; inf where nothing changes within an episode


class Raw(NamedTuple):
    """What the compiled part returns; a leading axis [2] is (open loop, closed loop)."""

    window: Window
    paths: dict[str, StepOut]  # members [2, N, K, S, ...]; mean and rollout [2, K, S, ...]
    simulated: StepOut  # [2, K, S, ...] the simulator: from a start off by e_1 (or the very one), and under the evaluation policy
    predicted: Array  # [N, K, S, obs_dim] one step from every recorded state
    std: Any  # the predicted standard deviation of that; () of a simulator and for flags
    columns: Any  # Columns; () where there is nothing to differentiate


class Predictor(NamedTuple):
    """One way to follow a model for a batch of starts."""

    start: Callable  # (key, obs [B, obs_dim], sim_state) -> state
    step: Callable  # (key, state, action) -> (state, StepOut)


def left_out(spec: EnvSpec) -> dict[str, str]:
    """Return what is not measured on an environment, and why."""
    found = {}
    if spec.num_actions or spec.grid:
        why = "flags have no derivatives" if spec.grid else "discrete actions have no derivatives"
        found = {"derivatives": why, "intrinsic": "its start is moved along a derivative of the simulator"}
    if spec.grid:
        found["predicted_variance"] = "the errors of a flag are not normal"
    return found


def numbers(x: Array) -> Array:
    """Return observations as float32: flags as 0 and 1, numbers as they are."""
    return x.astype(jnp.float32)


def follows(model: Model, params: PyTree) -> Predictor:
    """Follow a model as rollouts do, its sampling included."""
    return Predictor(partial(model.start, params), partial(model.step, params))


def believes(say: Callable) -> Predictor:
    """Feed back mean predictions, without sampling; say: (obs, action) -> (obs, reward)."""

    def step(key: Array, obs: Array, action: Array) -> tuple[Array, StepOut]:
        del key
        after, reward = say(obs, action)
        return after, StepOut(after, reward, jnp.zeros(reward.shape, bool))

    return Predictor(lambda key, obs, sim_state: numbers(obs), step)


def recorder(parts: Parts, agent_state: PyTree, behaviour: str) -> Callable:
    """Build (key, obs, z) -> ActionSample; z is the latent of the action before. Raises ValueError for another name."""
    if behaviour == "ou" and parts.env.spec.num_actions:
        raise ValueError(
            f"behaviour: the actions of {parts.env.spec.name} are discrete; take policy or uniform, not ou"
        )
    if behaviour == "ou":
        return lambda key, obs, z: distributions.ou_sample(key, z)
    if behaviour == "uniform":
        return lambda key, obs, z: uniform_actions(parts.env)(key, obs)
    if behaviour == "policy":
        return lambda key, obs, z: parts.agent.act(agent_state, key, obs, explore=True)
    raise ValueError(f"behaviour: got {behaviour!r}, allowed: policy, uniform, ou")


def record(parts: Parts, agent_state: PyTree, key: Array, study: ErrorStudy) -> tuple[Window, PyTree]:
    """Record S new episodes; return a window of each, and the standard deviation of one-step changes of the simulator state."""
    env, (reset_key, walk_key, draw_key) = parts.env, jax.random.split(key, 3)
    choose = recorder(parts, agent_state, study.behaviour)

    def step(carry, step_key):
        (state, z), (act_key, env_key) = carry, jax.random.split(step_key)
        obs = jax.vmap(env.obs)(state)
        sample = choose(act_key, obs, z)
        after, out = jax.vmap(env.step)(jax.random.split(env_key, study.starts), state, sample.action)
        row = Transition(obs, sample.action, out.reward, out.obs, out.terminated, jnp.zeros_like(out.terminated))
        return (after, sample.latent), row._replace(sim_state=jax.vmap(env.sim_state)(state))

    state = jax.vmap(env.reset)(jax.random.split(reset_key, study.starts))
    carry = state, jnp.zeros_like(distributions.random_action(walk_key, env.spec, (study.starts,)).latent)
    _, seen = jax.lax.scan(step, carry, jax.random.split(walk_key, env.spec.episode_length))
    return cut(seen, draw_key, min(study.steps, env.spec.episode_length))


def cut(seen: Transition, key: Array, steps: int) -> tuple[Window, PyTree]:
    """Cut `steps` rows out of each column of `seen` [T, S, ...], which goes on after a termination; the rest as `record`.

    The start is uniform over the rows with that many to go; an episode that is shorter is taken from its beginning.
    """
    alive = jnp.cumsum(seen.terminated, axis=0) - seen.terminated == 0
    length = jnp.sum(alive, axis=0)
    room = jnp.maximum(length - steps, 0) + 1
    first = jnp.minimum((jax.random.uniform(key, length.shape) * room).astype(jnp.int32), room - 1)
    place = first + jnp.arange(steps)[:, None]
    at = jnp.minimum(place, len(alive) - 1), jnp.arange(alive.shape[1])

    def spread(x: Array, counts: Array = alive) -> Array:
        where = jnp.broadcast_to(counts.reshape(*counts.shape, *(1,) * (x.ndim - 2)), x.shape)
        return jnp.std(x.astype(jnp.float32), axis=(0, 1), where=where)

    sigma = jnp.where(spread(numbers(seen.next_obs) - numbers(seen.obs)) > STILL, spread(seen.obs), jnp.inf)
    unit = jax.tree.map(lambda x: spread(numbers(x[1:]) - numbers(x[:-1]), alive[1:]), seen.sim_state)
    return Window(jax.tree.map(lambda x: x[at], seen), place < length, sigma), unit


def both_loops(parts: Parts, agent_state: PyTree, key: Array, rows: Transition) -> Callable:
    """Build (Predictor, sim_states) -> StepOut [2, K, S, ...], open and closed loop, from rows [K, S, ...].

    sim_states is a pair: where the simulator starts in open loop and in closed loop. Everything else starts at rows.obs[0].
    """
    number, (start_key, walk_key) = rows.obs.shape[1], jax.random.split(key)
    together = lambda a, b: jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)  # noqa: E731

    def walk(who: Predictor, sim_states: tuple[PyTree, PyTree]) -> StepOut:
        """Follow recorded actions in the first half of a batch and the policy in the second, all in one."""
        obs = together(rows.obs[0], rows.obs[0])

        def step(carry, x):
            (state, obs), (step_key, recorded) = carry, x
            act_key, model_key = jax.random.split(step_key)
            chosen = parts.agent.act(agent_state, act_key, obs[number:], explore=False).action
            state, out = who.step(model_key, state, together(recorded, chosen))
            out = out._replace(obs=numbers(out.obs))
            return (state, out.obs), out

        carry = who.start(start_key, obs, together(*sim_states)), numbers(obs)
        out = jax.lax.scan(step, carry, (jax.random.split(walk_key, len(rows.action)), rows.action))[1]
        return jax.tree.map(lambda x: jnp.stack([x[:, :number], x[:, number:]]), out)

    return walk


def model_paths(model: Model, params: PyTree, walk: Callable) -> dict[str, StepOut]:
    """Return walk(predictor) of every member's mean prediction, of the average of these, and of the model as rollouts use it."""
    rollout, opinions = walk(follows(model, params)), model.opinions
    if opinions is None:
        return {"members": jax.tree.map(lambda x: x[:, None], rollout), "mean": rollout, "rollout": rollout}

    def member(j: Array) -> StepOut:
        own = model.pick(params, j)
        return walk(believes(lambda obs, action: tuple(x[0] for x in opinions(own, obs, action)[:2])))

    mean = believes(lambda obs, action: tuple(jnp.mean(x, axis=0) for x in opinions(params, obs, action)[:2]))
    members = jax.vmap(member, out_axes=1)(jnp.arange(model.members))
    return {"members": members, "mean": walk(mean), "rollout": rollout}


def one_step(model: Model, params: PyTree, key: Array, rows: Transition) -> tuple[Array, Any]:
    """Return what every member predicts from every recorded state, [N, K, S, obs_dim], and its std; () of a simulator."""
    if model.opinions is not None:
        said = model.opinions(params, rows.obs, rows.action)
        return said.obs, said.obs_std
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (rows.obs, rows.sim_state, rows.action))
    start_key, step_key = jax.random.split(key)
    out = model.step(params, step_key, model.start(params, start_key, *flat[:2]), flat[2])[1]
    return numbers(out.obs).reshape(1, *rows.obs.shape), ()


def distance(window: Window, a: Array, b: Array | float) -> Array:
    """Return sqrt(mean_d ((a - b) / sigma)^2) [...] of observations [..., obs_dim], over what changes."""
    moves = jnp.sum(jnp.isfinite(window.sigma))
    return jnp.sqrt(jnp.sum(jnp.square((a - b) / window.sigma), axis=-1) / moves)


@partial(jax.jit, static_argnums=(0, 1))
def measure(parts: Parts, study: ErrorStudy, agent_state: PyTree, params: PyTree, key: Array) -> Raw:
    """Return what `model_error` reads its numbers from; compiled once per config, whatever its seed."""
    env, model, keys = parts.env, parts.model, jax.random.split(key, 4)
    assert model is not None
    window, unit = record(parts, agent_state, keys[0], study)
    rows, first = window.rows, jax.tree.map(lambda x: x[0], window.rows)
    walk = both_loops(parts, agent_state, keys[1], rows)
    predicted, std = one_step(model, params, keys[2], rows)
    columns, off = (), first.sim_state
    if not left_out(env.spec):
        columns, along = derivative_columns(env, model, params, keys[3], (first, unit))
        size = jnp.nanmedian(distance(window, jnp.mean(predicted, axis=0)[0], rows.next_obs[0]))
        moved = distance(window, columns.delta[0], 0.0) / (2.0 * STATE_STEP)  # by one unit along the first direction
        scale = jnp.where(moved > 0.0, size / jnp.where(moved > 0.0, moved, 1.0), 0.0)
        off = perturbed(env, first.sim_state, jax.tree.map(lambda x: x[0], along), unit, scale)
    kept = rows._replace(obs=numbers(rows.obs), next_obs=numbers(rows.next_obs), sim_state=())
    return Raw(
        window=window._replace(rows=kept),
        paths=model_paths(model, params, lambda who: walk(who, (first.sim_state, first.sim_state))),
        simulated=walk(follows(make_oracle(env), ()), (off, first.sim_state)),
        predicted=predicted,
        std=() if env.spec.grid else std,
        columns=columns,
    )


def model_error(parts: Parts, state: TrainState, key: Array, study: ErrorStudy) -> dict:
    """Return how wrong the dynamics model of a run is, as nested dicts of arrays; N members, K steps, S starts.

    open_loop, closed_loop   obs and return: {members [N, K], mean, rollout, persistence [K]}, each with mean, median, q10, q90,
                             rms over starts; obs in standard deviations, return: |sum_t gamma^t (r_model - r)| in units of
                             return. `members` follow their own mean predictions, `mean` the average of all, `rollout` is the
                             model as it is used. `count` [K]: starts whose true episode goes on that long
    open_loop.obs.intrinsic  the simulator against itself from a start that is e_1 off; `linear` is k e_1, of `mean`
    growth                   e_k / e_1 of the medians in open loop
    one_step                 from every recorded state: error, R^2 of the next observation and of the change, persistence beside
    predicted_variance, spread   calibration, see `model_statistics`; only where the model has them
    derivatives              relative errors, see `model_derivatives`
    sigma, by_dim            by number of the observation; NaN (null in JSON) for one that never changes in an episode
    left_out                 only where something is: its name, and why. `again` then stands for `intrinsic`: the simulator from
                             the very start with noise of its own, 0 if it has none
    path                     the first start: `start` [obs_dim], `true` [K, obs_dim] and that of each member [N, K, obs_dim]
    A simulator has no opinions: it is followed by its steps, as one member. Raises ValueError without a model.
    The argument that good one-step errors hide bad rollouts is that of Botev's talk (2018).
    """
    if parts.model is None:
        raise ValueError("model_error: this config has no dynamics model; set critic.source model and a horizon")
    raw = jax.device_get(measure(parts, study, state.agent, state.model, key))
    missing = left_out(parts.env.spec)
    return model_statistics.read_off(raw, study.gamma) | ({"left_out": missing} if missing else {})
