"""A learned ensemble of N members as a `Model`, whatever kind they are: when they train, and how rollouts use them.

What a member predicts is its `Kind` (`ensemble.py`: vectors of numbers, `grid.py`: grids of flags), how members are fitted
stands in `fitting.py`; when, in `steps_due`: at a rate of gradient steps per control step. Deviations D15 to D18.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import normalize
from valex.models.fitting import Kind, make_fit
from valex.replay import Replay
from valex.settings import ModelConfig
from valex.types import Array, EnvSpec, Model, Opinions, PyTree, StepOut, Transition

RELEASED_EPOCHS = 200  # of pre-training, in the released schedule


class Ensemble(NamedTuple):
    """Everything that the model carries from one update to the next."""

    members: PyTree  # leaves [N, ...]
    opt: optax.OptState  # leaves [N, ...]
    inputs: Any  # RunningStats of observations; () where the nets read them as they are
    targets: normalize.RunningStats  # of (change of the observation, reward)
    elites: Array  # [num_elites] int32, the members that rollouts use
    salt: Array  # [] uint32, decides which stored steps are held out and how often a member counts them
    credit: Array  # [] float32, gradient steps due
    pending: Array  # [] int32, control steps since the last phase; -1 before the first
    metrics: dict  # of the last phase


def elite_members(params: Ensemble) -> PyTree:
    """Return the members that rollouts use, leaves [num_elites, ...]."""
    if params.elites.shape[0] == jax.tree.leaves(params.members)[0].shape[0]:
        return params.members
    return jax.tree.map(lambda x: x[params.elites], params.members)


def draw_slots(key: Array, params: Ensemble, rows: int) -> Array:
    """Give every row a place of its own among equal shares of the elites, [rows] int32: its member is slot // share.

    Every row is equally likely to follow every elite; in a batch each elite serves as many rows, give or take one.
    """
    elites = params.elites.shape[0]
    return jax.random.permutation(key, elites * -(-rows // elites))[:rows].astype(jnp.int32)


def propagate(say: Callable, params: Ensemble, x: tuple[Array, Array], slot: Array) -> PyTree:
    """Evaluate ONE elite for each row of x = what the nets read, each [B, d]; the prediction has leaves [B, ...].

    Rows are laid into equal shares, each of which is one batch of its elite: B rows are evaluated and not N * B. A single elite
    gets them as they are, so that nobody draws slots, which takes two sorts a step.
    """
    (obs, action), elites = x, params.elites.shape[0]
    if elites == 1:
        return jax.tree.map(lambda y: y[0], say(elite_members(params), x))
    share = -(-obs.shape[0] // elites)

    def lay(rows: Array) -> Array:
        laid = jnp.zeros((elites * share, rows.shape[-1])).at[slot].set(rows, unique_indices=True)
        return laid.reshape(elites, share, -1)

    said = say(elite_members(params), (lay(obs), lay(action)))
    return jax.tree.map(lambda y: y.reshape(elites * share, *y.shape[2:])[slot], said)


def make_learned(spec: EnvSpec, config: ModelConfig, kind: Kind) -> Model:
    """Build the model of `spec` whose N members are of a kind."""
    num, dim = config.num_models, spec.obs_dim
    num_elites = num if config.num_elites is None else config.num_elites
    tx = optax.adam(config.lr)

    def init(key: Array) -> Ensemble:
        """Return untrained members that have seen nothing."""
        net_key, salt_key = jax.random.split(key)
        members = kind.init(net_key)
        names = ("loss", "mse", "grad_norm", "grad_steps") + (("holdout_mse",) if config.holdout > 0 else ())
        return Ensemble(
            members=members,
            opt=jax.vmap(tx.init)(members),
            inputs=normalize.init(dim) if kind.normalizes else (),
            targets=normalize.init(dim + 1),
            elites=jnp.arange(num_elites, dtype=jnp.int32),
            salt=jax.random.bits(salt_key),
            credit=jnp.zeros(()),
            pending=jnp.full((), -1, jnp.int32),
            metrics={f"model/{name}": jnp.zeros(()) for name in names},
        )

    def observe(params: Ensemble, seen: Transition) -> Ensemble:
        """Update the statistics of inputs and targets, as long as the model may learn."""
        obs, after = (x.astype(jnp.float32) for x in (seen.obs, seen.next_obs))
        change = jnp.concatenate([after - obs, seen.reward[:, None]], axis=-1)
        inputs = normalize.update(params.inputs, obs) if kind.normalizes else ()
        new = inputs, normalize.update(params.targets, change)
        if config.data_limit is not None:
            known, old = params.targets.count < config.data_limit, (params.inputs, params.targets)
            new = jax.tree.map(lambda a, b: jnp.where(known, a, b), new, old)
        return params._replace(inputs=new[0], targets=new[1])

    def start(params: Ensemble, key: Array, obs: Array, sim_state: PyTree) -> tuple[Array, Array | tuple]:
        del sim_state
        return obs, draw_slots(key, params, obs.shape[0]) if config.propagation == "fixed_model" else ()

    def step(params: Ensemble, key: Array, model_state: tuple, action: Array) -> tuple[tuple, StepOut]:
        """Predict one step of every row with the member that propagation gives it, its noise included."""
        (obs, slot), (pick_key, noise_key) = model_state, jax.random.split(key)
        x, mean = kind.read(params, obs, action), config.propagation == "expectation"
        if mean:
            said = jax.tree.map(lambda y: jnp.mean(y, axis=0), kind.say(elite_members(params), x))
        else:
            drawn = slot if config.propagation == "fixed_model" else draw_slots(pick_key, params, obs.shape[0])
            said = propagate(kind.say, params, x, drawn)
        out = kind.outcome(params, None if config.deterministic or mean else noise_key, (obs, action), said)
        return (out.obs, slot), out

    def pick(params: Ensemble, member: Array) -> Ensemble:
        members = jax.tree.map(lambda x: x[member][None], params.members)
        return params._replace(members=members, elites=jnp.zeros(1, jnp.int32))

    opinions, disagreement = make_opinions(kind)
    update = make_update(kind, tx, config)
    return Model(init, start, step, update, False, kind.differentiable, observe, num, pick, opinions, disagreement)


def make_opinions(kind: Kind) -> tuple[Callable, Callable]:
    """Build (opinions, disagreement), both (params, obs [..., obs_dim], action [...]), over ALL members.

    disagreement [...] is the standard deviation of the members' means as `Kind.spread` sums it up over the observation.
    """

    def opinions(params: Ensemble, obs: Array, action: Array) -> Opinions:
        lead = obs.shape[:-1]
        x = tuple(part.reshape(-1, part.shape[-1]) for part in kind.read(params, obs, action))
        said = jax.tree.map(lambda y: y.reshape(y.shape[0], *lead, *y.shape[2:]), kind.say(params.members, x))
        return kind.believe(params, obs, said)

    def disagreement(params: Ensemble, obs: Array, action: Array) -> Array:
        return kind.spread(params, jnp.std(opinions(params, obs, action).obs, axis=0))

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


def make_update(kind: Kind, tx: optax.GradientTransformation, config: ModelConfig) -> Callable:
    """Build (Ensemble, key, replay) -> (Ensemble, metrics), called once per collection step; see `steps_due`."""
    fit, holdout_mse = make_fit(kind, tx, config)

    def update(params: Ensemble, key: Array, replay: Replay) -> tuple[Ensemble, dict[str, Array]]:
        """Take the gradient steps that are due, judge members on what is held out, and keep the metrics of the last phase."""
        n, credit, pending = steps_due(params, replay, config)
        data = (replay, kind.units(params), params.salt)
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
