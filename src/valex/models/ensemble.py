"""A learned ensemble of N probabilistic nets that predict the change of the observation and the reward.

    s' = s + m + S (mu + sigma noise),   r likewise,     mu, sigma = net(N(s), a) in units of the running std S of the change

Each member is one MLP with a softly bounded log-variance (Chua et al. 2018, PETS, arXiv 1805.12114). How it is trained stands in
`fitting.py`; when, in `make_update`: at a rate of gradient steps per control step. N = 1 with `model.deterministic` is the single
deterministic model. Source of the sizes and of the schedule `released`: the code of 2412.20537; deviations D15 to D18.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import normalize
from valex.models.fitting import RELEASED_EPOCHS, Members, Nets, Prediction, init_members, make_fit, make_nets, predict
from valex.models.termination import known_termination, learned_termination
from valex.replay import Replay
from valex.settings import ModelConfig
from valex.types import Array, Env, Model, Opinions, PyTree, StepOut, Transition


class Ensemble(NamedTuple):
    """Everything that the model carries from one update to the next."""

    members: Members
    opt: optax.OptState  # leaves [N, ...]
    inputs: normalize.RunningStats  # of observations
    targets: normalize.RunningStats  # of (change of the observation, reward)
    elites: Array  # [num_elites] int32, the members that rollouts use
    salt: Array  # [] uint32, decides which stored steps are held out and how often a member counts them
    credit: Array  # [] float32, gradient steps due
    pending: Array  # [] int32, control steps since the last phase; -1 before the first
    metrics: dict  # of the last phase


def make_units(config: ModelConfig) -> Callable:
    """Build (Ensemble) -> (m, S), each [obs_dim + 1]: mean and standard deviation of changes and rewards, or (0, 1).

    S is 0 for a number that has never changed: it is held at its mean change and not predicted.
    """

    def units(params: Ensemble) -> tuple[Array, Array]:
        if not config.normalize_targets:
            return jnp.zeros_like(params.targets.mean), jnp.ones_like(params.targets.mean)
        inverse, _ = normalize.scale_shift(params.targets)
        return params.targets.mean, jnp.where(params.targets.m2 > 0.0, 1.0 / inverse, 0.0)

    return units


def elite_members(params: Ensemble) -> Members:
    """Return the members that rollouts use, leaves [num_elites, ...]."""
    if params.elites.shape[0] == params.members.upper.shape[0]:
        return params.members
    return jax.tree.map(lambda x: x[params.elites], params.members)


def draw_slots(key: Array, params: Ensemble, rows: int) -> Array:
    """Give every row a place of its own among equal shares of the elites, [rows] int32: its member is slot // share.

    Every row is equally likely to follow every elite; in a batch each elite serves as many rows, give or take one.
    """
    elites = params.elites.shape[0]
    return jax.random.permutation(key, elites * -(-rows // elites))[:rows].astype(jnp.int32)


def propagate(say: Callable, params: Ensemble, x: tuple[Array, Array], slot: Array) -> Prediction:
    """Evaluate ONE elite for each row of x = (normalised obs, encoded action), each [B, d]; leaves [B, ...].

    Rows are laid into equal shares, each of which is one batch of its elite: B rows are evaluated and not N * B.
    """
    (obs, action), elites = x, params.elites.shape[0]
    share = -(-obs.shape[0] // elites)

    def lay(rows: Array) -> Array:
        laid = jnp.zeros((elites * share, rows.shape[-1])).at[slot].set(rows, unique_indices=True)
        return laid.reshape(elites, share, -1)

    said = say(elite_members(params), (lay(obs), lay(action)))
    return jax.tree.map(lambda y: y.reshape(elites * share, *y.shape[2:])[slot], said)


def make_ensemble(env: Env, config: ModelConfig) -> Model:
    """Build the learned model of `env`. Raises ValueError naming the field that does not fit the environment."""
    spec, num = env.spec, config.num_models
    num_elites = num if config.num_elites is None else config.num_elites
    dim = spec.obs_dim
    if spec.grid:
        raise ValueError(f"model.name: {spec.name} shows a grid of flags, which the ensemble does not predict")
    ended = None if config.termination == "learned" else known_termination(env)
    nets = make_nets(spec, config)
    tx = optax.adam(config.lr)
    units, say = make_units(config), partial(predict, nets, config=config)

    def init(key: Array) -> Ensemble:
        """Return untrained members that have seen nothing."""
        net_key, salt_key = jax.random.split(key)
        members = init_members(nets, net_key, dim, config)
        names = ("loss", "mse", "grad_norm", "grad_steps") + (("holdout_mse",) if config.holdout > 0 else ())
        return Ensemble(
            members=members,
            opt=jax.vmap(tx.init)(members),
            inputs=normalize.init(dim),
            targets=normalize.init(dim + 1),
            elites=jnp.arange(num_elites, dtype=jnp.int32),
            salt=jax.random.bits(salt_key),
            credit=jnp.zeros(()),
            pending=jnp.full((), -1, jnp.int32),
            metrics={f"model/{name}": jnp.zeros(()) for name in names},
        )

    def observe(params: Ensemble, seen: Transition) -> Ensemble:
        """Update the statistics of inputs and targets, as long as the model may learn."""
        change = jnp.concatenate([seen.next_obs - seen.obs, seen.reward[:, None]], axis=-1)
        new = normalize.update(params.inputs, seen.obs), normalize.update(params.targets, change)
        if config.data_limit is not None:
            known, old = params.inputs.count < config.data_limit, (params.inputs, params.targets)
            new = jax.tree.map(lambda a, b: jnp.where(known, a, b), new, old)
        return params._replace(inputs=new[0], targets=new[1])

    def start(params: Ensemble, key: Array, obs: Array, sim_state: PyTree) -> tuple[Array, Array | tuple]:
        del sim_state
        return obs, draw_slots(key, params, obs.shape[0]) if config.propagation == "fixed_model" else ()

    def step(params: Ensemble, key: Array, model_state: tuple, action: Array) -> tuple[tuple, StepOut]:
        """Predict one step of every row with the member that propagation gives it, its noise included."""
        (obs, slot), (pick_key, noise_key) = model_state, jax.random.split(key)
        x = normalize.normalize(params.inputs, obs), nets.encode(action)
        if config.propagation == "expectation":
            said = jax.tree.map(lambda y: jnp.mean(y, axis=0), say(elite_members(params), x))
        else:
            drawn = slot if config.propagation == "fixed_model" else draw_slots(pick_key, params, obs.shape[0])
            said = propagate(say, params, x, drawn)
        change = said.mean
        if not config.deterministic and config.propagation != "expectation":
            change += jnp.exp(0.5 * said.log_variance) * jax.random.normal(noise_key, change.shape)
        shift, scale = units(params)
        change = shift + scale * change
        after = obs + change[:, :-1]
        terminated = learned_termination(said.logit) if ended is None else ended(obs, action, after)
        return (after, slot), StepOut(after, change[:, -1], terminated)

    def pick(params: Ensemble, member: Array) -> Ensemble:
        members = jax.tree.map(lambda x: x[member][None], params.members)
        return params._replace(members=members, elites=jnp.zeros(1, jnp.int32))

    opinions, disagreement = make_opinions(say, units, nets.encode)
    update = make_update(nets, tx, units, config)
    return Model(init, start, step, update, False, True, observe, num, pick, opinions, disagreement)


def make_opinions(say: Callable, units: Callable, encode: Callable) -> tuple[Callable, Callable]:
    """Build (opinions, disagreement), both (params, obs [..., obs_dim], action [..., act_dim]), over ALL members.

    disagreement [...] is the root mean square over dimensions of the standard deviation of the members' means, in units of S.
    """

    def opinions(params: Ensemble, obs: Array, action: Array) -> Opinions:
        lead = obs.shape[:-1]
        rows, known = obs.reshape(-1, obs.shape[-1]), encode(action)
        said = say(params.members, (normalize.normalize(params.inputs, rows), known.reshape(-1, known.shape[-1])))
        said = jax.tree.map(lambda y: y.reshape(y.shape[0], *lead, *y.shape[2:]), said)
        shift, scale = units(params)
        mean, std = shift + scale * said.mean, scale * jnp.exp(0.5 * said.log_variance)
        return Opinions(obs + mean[..., :-1], mean[..., -1], std[..., :-1], std[..., -1])

    def disagreement(params: Ensemble, obs: Array, action: Array) -> Array:
        scale = units(params)[1][:-1]
        spread = jnp.std(opinions(params, obs, action).obs, axis=0) / jnp.where(scale > 0.0, scale, 1.0)
        return jnp.sqrt(jnp.mean(jnp.square(spread), axis=-1, where=scale > 0.0))

    return opinions, disagreement


def steps_due(params: Ensemble, replay: Replay, config: ModelConfig) -> tuple[Array, Array, Array]:
    """Return (gradient steps to take now, credit left, control steps waiting), at one call per collection step.

    Schedule `rate`: pretrain_steps at the first call; then steps_per_env_step gradient steps for every control step, taken
    every train_every control steps, at most max_steps at once (the rest is dropped, not owed).
    Schedule `released`: 200 epochs of the warm-up, then one epoch of the whole replay per collection step (deviation D16).
    """
    num_envs, first = replay.words.shape[1], params.pending < 0
    if config.schedule == "released":
        epoch = jnp.maximum(replay.size * num_envs // config.batch_size, 1)
        return jnp.where(first, RELEASED_EPOCHS * epoch, epoch), params.credit, jnp.zeros((), jnp.int32)
    pending = jnp.maximum(params.pending, 0) + num_envs
    credit = params.credit + config.steps_per_env_step * num_envs
    whole, now = jnp.floor(credit), first | (pending >= config.train_every)
    taken = jnp.minimum(whole, config.max_steps).astype(jnp.int32)
    n = jnp.where(first, config.pretrain_steps, jnp.where(now, taken, 0))
    return n, jnp.where(now, credit - whole, credit), jnp.where(now, 0, pending)


def make_update(nets: Nets, tx: optax.GradientTransformation, units: Callable, config: ModelConfig) -> Callable:
    """Build (Ensemble, key, replay) -> (Ensemble, metrics), called once per collection step; see `steps_due`."""
    fit, holdout_mse = make_fit(nets, tx, config)

    def update(params: Ensemble, key: Array, replay: Replay) -> tuple[Ensemble, dict[str, Array]]:
        """Take the gradient steps that are due, judge members on what is held out, and keep the metrics of the last phase."""
        n, credit, pending = steps_due(params, replay, config)
        data = (replay, (*units(params), params.inputs), params.salt)
        fit_key, check_key = jax.random.split(key)
        done = fit(params.members, params.opt, data, fit_key, n)
        trained, elites = n > 0, params.elites
        now = {"model/loss": done.loss, "model/mse": done.mse, "model/grad_norm": done.grad_norm}
        metrics = {name: jnp.where(trained, jnp.mean(x), params.metrics[name]) for name, x in now.items()}
        if config.holdout > 0:
            unjudged = jnp.full(config.num_models, jnp.inf)
            mse = jax.lax.cond(trained, lambda: holdout_mse(done.members, data, check_key), lambda: unjudged)
            judged, last = jnp.any(jnp.isfinite(mse)), params.metrics["model/holdout_mse"]
            elites = jnp.where(judged, jnp.argsort(mse)[: len(elites)].astype(jnp.int32), elites)
            metrics["model/holdout_mse"] = jnp.where(judged, jnp.mean(mse), last)
        metrics["model/grad_steps"] = done.steps.astype(jnp.float32)
        new = params._replace(
            members=done.members, opt=done.opt, elites=elites, credit=credit, pending=pending, metrics=metrics
        )
        return new, metrics

    return update
