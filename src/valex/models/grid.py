"""A learned ensemble of N convolutional nets for grids of flags, as MinAtar shows them.

    P(x'_d = 1) = sigmoid( net_d(x, a) + c (2 x_d - 1) ),   r = m + S net_r(x, a),   P(end) = sigmoid( net_end(x, a) )

x the flags of all cells and channels, c = 5: an untrained net expects every flag to stay. A rollout draws each flag and the end,
or takes the likelier one (`model.deterministic`); the reward is its mean. Cells are independent given (x, a): an object that
moves at random may double or vanish in a draw. Gradients do not flow through flags.

How members are fitted stands in `fitting.py`; when, and how rollouts use them, in `learned.py`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import normalize
from valex.models.fitting import Kind
from valex.models.learned import Ensemble, make_learned
from valex.models.termination import known_termination, learned_termination, termination_loss
from valex.networks import Network, action_features, conv_same, mlp, stacked
from valex.settings import ModelConfig
from valex.types import Array, Env, EnvSpec, Model, Opinions, PyTree, StepOut, Transition

STAY = 5.0  # c, the log-odds that a flag stays as it is, before anything is learned


class Prediction(NamedTuple):
    """What a net says of a step."""

    flags: Array  # [..., obs_dim] log-odds of every flag of the next observation
    reward: Array  # [...] mean, in units of the running standard deviation
    end: Array  # [...] log-odds of termination


class Units(NamedTuple):
    """What predictions and errors are measured in."""

    shift: Array  # [] mean of the reward; 0 without normalised targets
    scale: Array  # [] its standard deviation; 1 without; 0 for a reward that has never changed: it is held
    change: Array  # [] variance of the one-step change, summed over the flags; 1 as long as nothing has changed


def units_of(params: Ensemble, config: ModelConfig) -> Units:
    """Return mean and standard deviation of the reward, and how much an observation changes in a step."""
    seen = params.targets
    change = jnp.sum(seen.m2[:-1]) / jnp.maximum(seen.count, 1.0)
    change = jnp.where(change > 0.0, change, 1.0)
    if not config.normalize_targets:
        return Units(jnp.zeros(()), jnp.ones(()), change)
    inverse, _ = normalize.scale_shift(seen)
    return Units(seen.mean[-1], jnp.where(seen.m2[-1] > 0.0, 1.0 / inverse[-1], 0.0), change)


def make_net(spec: EnvSpec, config: ModelConfig) -> Network:
    """Build (flags [B, obs_dim] as numbers, encoded action [B, d]) -> Prediction of one member, leaves [B, ...].

    3x3 convolutions of `model.hidden` filters over the flags and, as planes, the action: these end at the border, which shows
    where it is. From the last of them the flags cell by cell, reward and end from its largest and its mean activation.
    """
    (rows, columns, channels), width = spec.grid, config.hidden[-1]
    torso = conv_same(channels + action_features(spec)[0], config.hidden, config.activation)
    cell, whole = mlp(width, (), channels), mlp(2 * width, (), 2)

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, 3)
        return {"torso": torso.init(keys[0]), "cell": cell.init(keys[1]), "whole": whole.init(keys[2])}

    def apply(params: PyTree, flags: Array, action: Array) -> Prediction:
        planes = jnp.broadcast_to(action[:, None, None], (action.shape[0], rows, columns, action.shape[1]))
        x = torso.apply(params["torso"], jnp.concatenate([flags.reshape(-1, *spec.grid), planes], axis=-1))
        logit = cell.apply(params["cell"], x).reshape(flags.shape) + STAY * (2.0 * flags - 1.0)
        pooled = jnp.concatenate([jnp.max(x, axis=(1, 2)), jnp.mean(x, axis=(1, 2))], axis=-1)
        reward, end = jnp.moveaxis(whole.apply(params["whole"], pooled), -1, 0)
        return Prediction(logit, reward, end)

    return Network(init, apply)


def make_kind(env: Env, config: ModelConfig) -> Kind:
    """Build what a convolutional net predicts of `env`, and its loss. Raises ValueError without a termination function."""
    encode = action_features(env.spec)[1]
    ended = None if config.termination == "learned" else known_termination(env)
    nets, units = stacked(make_net(env.spec, config), config.num_models), partial(units_of, config=config)

    def read(params: Ensemble, obs: Array, action: Array) -> tuple[Array, Array]:
        del params
        return obs.astype(jnp.float32), encode(action)

    def say(members: PyTree, x: tuple[Array, Array]) -> Prediction:
        return nets.apply(members, *x)

    def outcome(params: Ensemble, key: Array | None, at: tuple[Array, Array], said: Prediction) -> StepOut:
        """Draw every flag and the end, or take the likelier one; the reward is its mean."""
        odds = jnp.concatenate([said.flags, said.end[:, None]], axis=-1)
        drawn = learned_termination(odds) if key is None else jax.random.uniform(key, odds.shape) < jax.nn.sigmoid(odds)
        after, (shift, scale, _) = drawn[:, :-1], units(params)
        return StepOut(after, shift + scale * said.reward, drawn[:, -1] if ended is None else ended(*at, after))

    def believe(params: Ensemble, obs: Array, said: Prediction) -> Opinions:
        p, (shift, scale, _) = jax.nn.sigmoid(said.flags), units(params)
        std = jnp.zeros_like(p) if config.deterministic else jnp.sqrt(p * (1.0 - p))
        return Opinions(p, shift + scale * said.reward, std, jnp.zeros_like(said.reward))

    def spread(params: Ensemble, std: Array) -> Array:
        """Return sqrt( sum_d std_d^2 / sum_d S_d^2 ), S_d^2 the variance of the one-step change of flag d."""
        return jnp.sqrt(jnp.sum(jnp.square(std), axis=-1) / units(params).change)

    def judge(members: PyTree, z: Array, row: Transition, units: Units) -> tuple[Array, Array, Array]:
        """Return the probabilities of the next flags, the loss, and the squared error as a share of that of no change.

        sum_d cross-entropy(p_d, x'_d) + ((r_hat - r) / S)^2,   plus the cross-entropy of the end where it is learned
        """
        varies, safe = units.scale > 0.0, jnp.where(units.scale > 0.0, units.scale, 1.0)
        said, truth = say(members, (z.astype(jnp.float32), encode(row.action))), row.next_obs.astype(jnp.float32)
        p = jax.nn.sigmoid(said.flags)
        missed = jnp.square((units.shift + units.scale * said.reward - row.reward) / safe) * varies
        loss = jnp.sum(optax.sigmoid_binary_cross_entropy(said.flags, truth), axis=-1) + missed
        if ended is None:
            loss += termination_loss(said.end, row.terminated)
        square = (jnp.sum(jnp.square(p - truth), axis=-1) / units.change + missed) / (1.0 + varies)
        return p, loss, square

    return Kind(False, False, nets.init, units, read, say, outcome, believe, spread, judge, lambda *unused: 0.0)


def make_grid(env: Env, config: ModelConfig) -> Model:
    """Build the learned model of `env`. Raises ValueError naming the field that does not fit the environment."""
    if not env.spec.grid:
        raise ValueError(
            f"model.name: {env.spec.name} shows no grid of flags, which is what grid predicts; set model.name ensemble"
        )
    return make_learned(env.spec, config, make_kind(env, config))
