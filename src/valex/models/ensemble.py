"""A learned ensemble of N probabilistic nets that predict the change of the observation and the reward.

    s' = s + m + S (mu + sigma noise),   r likewise,     mu, sigma = net(N(s), a) in units of the running std S of the change

Each member is one MLP with a softly bounded log-variance (Chua et al. 2018, PETS, arXiv 1805.12114). How members are fitted
stands in `fitting.py`; when, and how rollouts use them, in `learned.py`. N = 1 with `model.deterministic` is the single
deterministic model. Source of the sizes: the code of 2412.20537; deviations D15 to D18.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex import normalize
from valex.models.fitting import Kind
from valex.models.learned import Ensemble, make_learned
from valex.models.termination import known_termination, learned_termination, termination_loss
from valex.networks import Network, action_features, stacked_mlps
from valex.settings import ModelConfig
from valex.spectral import spectral_norm
from valex.types import Array, Env, EnvSpec, Model, Opinions, PyTree, StepOut, Transition

LOG_VARIANCE_BOUNDS = (-10.0, 0.5)  # where the learned bounds start, in squared units of the prediction
BOUNDS_WEIGHT = 0.01  # of sum(upper - lower) in the loss, pulls the bounds of the log-variance together


class Nets(NamedTuple):
    """The functions of a member; params leaves [N, ...]."""

    dynamics: Network  # mean and log-variance of the changes
    termination: (
        Network | None
    )  # logit of the end; a net of its own: the sharp likelihood of the changes would drown its loss


class Members(NamedTuple):
    """What is trained; every leaf has a leading axis of members."""

    net: PyTree
    ender: PyTree  # of the termination; () where it is known
    upper: Array  # [N, obs_dim + 1] bound of the log-variance
    lower: Array  # [N, obs_dim + 1]


class Prediction(NamedTuple):
    """What a net says of a step, in units of the running standard deviations."""

    mean: Array  # [..., obs_dim + 1] change of the observation, then reward
    log_variance: Array  # [..., obs_dim + 1]
    logit: Array  # [...] of termination; 0 where it is known


class Units(NamedTuple):
    """What predictions and errors are measured in."""

    shift: Array  # [obs_dim + 1] m, mean of changes and of the reward; 0 without normalised targets
    scale: Array  # [obs_dim + 1] S, their standard deviation; 1 without; 0 for what has never changed: it is held
    inputs: normalize.RunningStats  # of observations


def soft_bounds(x: Array, upper: Array, lower: Array) -> Array:
    """Return x bent into (lower, upper): upper - softplus(upper - x), then lower + softplus(. - lower). Source: PETS."""
    x = upper - jax.nn.softplus(upper - x)
    return lower + jax.nn.softplus(x - lower)


def units_of(params: Ensemble, config: ModelConfig) -> Units:
    """Return m and S of changes and rewards, and the moments of the inputs."""
    if not config.normalize_targets:
        return Units(jnp.zeros_like(params.targets.mean), jnp.ones_like(params.targets.mean), params.inputs)
    inverse, _ = normalize.scale_shift(params.targets)
    return Units(params.targets.mean, jnp.where(params.targets.m2 > 0.0, 1.0 / inverse, 0.0), params.inputs)


def make_nets(spec: EnvSpec, config: ModelConfig) -> Nets:
    """Build the nets of all members: 2 (obs_dim + 1) outputs, half of it for a deterministic member; and one logit."""
    width = spec.obs_dim + action_features(spec)[0]

    def build(outputs: int) -> Network:
        return stacked_mlps(width, config.hidden, outputs, config.num_models, config.activation)

    dynamics = build((spec.obs_dim + 1) * (1 if config.deterministic else 2))
    dynamics = spectral_norm(dynamics, config.spectral, "model")
    return Nets(dynamics, build(1) if config.termination == "learned" else None)


def init_members(nets: Nets, key: Array, obs_dim: int, config: ModelConfig) -> Members:
    """Return members with fresh weights and the bounds of the log-variance where they start."""
    net_key, end_key = jax.random.split(key)
    ender = nets.termination.init(end_key) if nets.termination else ()
    lower, upper = (jnp.full((config.num_models, obs_dim + 1), bound, jnp.float32) for bound in LOG_VARIANCE_BOUNDS)
    return Members(nets.dynamics.init(net_key), ender, upper, lower)


def predict(nets: Nets, members: Members, x: tuple[Array, Array], config: ModelConfig) -> Prediction:
    """Return what members [N, ...] say of x = (normalised obs, encoded action), each [N, B, d] or [B, d]; leaves [N, B, ...]."""
    joined, d = jnp.concatenate(x, axis=-1), x[0].shape[-1] + 1
    out = nets.dynamics.apply(members.net, joined)
    if config.deterministic:
        log_variance = jnp.full_like(out, -jnp.inf)
    else:
        log_variance = soft_bounds(out[..., d:], members.upper[:, None], members.lower[:, None])
    logit = nets.termination.apply(members.ender, joined)[..., 0] if nets.termination else jnp.zeros(out.shape[:-1])
    return Prediction(out[..., :d], log_variance, logit)


def step_errors(said: Prediction, miss: Array, terminated: Array, varies: Array, config: ModelConfig) -> Array:
    """Return the loss of each prediction, leaves [N, B, ...] to [N, B]; `miss` is prediction minus truth, in units of S.

        sum_d [ miss_d^2 exp(-log_variance_d) + log_variance_d ],   or sum_d miss_d^2 for a deterministic member,
        plus the cross-entropy of the termination where it is learned

    over the numbers d that ever change (`varies` [obs_dim + 1]).
    """
    square = jnp.square(miss)
    if not config.deterministic:
        square = square * jnp.exp(-said.log_variance) + said.log_variance
    loss = jnp.sum(square * varies, axis=-1)
    return loss + termination_loss(said.logit, terminated) if config.termination == "learned" else loss


def make_kind(env: Env, config: ModelConfig) -> Kind:
    """Build what a probabilistic net predicts of `env`, and its loss. Raises ValueError without a termination function."""
    spec, encode = env.spec, action_features(env.spec)[1]
    ended = None if config.termination == "learned" else known_termination(env)
    nets = make_nets(spec, config)
    units, say = partial(units_of, config=config), partial(predict, nets, config=config)

    def read(params: Ensemble, obs: Array, action: Array) -> tuple[Array, Array]:
        return normalize.normalize(params.inputs, obs), encode(action)

    def outcome(params: Ensemble, key: Array | None, at: tuple[Array, Array], said: Prediction) -> StepOut:
        """Return s + m + S (mu + sigma noise), the reward likewise, and whether that ends the task."""
        (obs, action), change = at, said.mean
        if key is not None:
            change += jnp.exp(0.5 * said.log_variance) * jax.random.normal(key, change.shape)
        shift, scale, _ = units(params)
        change = shift + scale * change
        after = obs + change[:, :-1]
        terminated = learned_termination(said.logit) if ended is None else ended(obs, action, after)
        return StepOut(after, change[:, -1], terminated)

    def believe(params: Ensemble, obs: Array, said: Prediction) -> Opinions:
        shift, scale, _ = units(params)
        mean, std = shift + scale * said.mean, scale * jnp.exp(0.5 * said.log_variance)
        return Opinions(obs + mean[..., :-1], mean[..., -1], std[..., :-1], std[..., -1])

    def spread(params: Ensemble, std: Array) -> Array:
        """Return the root mean square over dimensions of std [..., obs_dim] in units of S."""
        scale = units(params).scale[:-1]
        in_units = std / jnp.where(scale > 0.0, scale, 1.0)
        return jnp.sqrt(jnp.mean(jnp.square(in_units), axis=-1, where=scale > 0.0))

    def judge(members: Members, z: Array, row: Transition, units: Units) -> tuple[Array, Array, Array]:
        """Return z + m + S mu, its loss, and the mean squared error in units of S^2."""
        shift, scale, inputs = units
        varies, safe = scale > 0.0, jnp.where(scale > 0.0, scale, 1.0)  # what never changed is held, not predicted
        said = say(members, (normalize.normalize(inputs, z), encode(row.action)))
        after = z + shift[:-1] + scale[:-1] * said.mean[..., :-1]
        reward = shift[-1] + scale[-1] * said.mean[..., -1]
        miss = jnp.concatenate([after - row.next_obs, (reward - row.reward)[..., None]], axis=-1) / safe
        square = jnp.mean(jnp.square(miss), axis=-1, where=varies)
        return after, step_errors(said, miss, row.terminated, varies, config), square

    def penalty(members: Members, units: Units) -> Array | float:
        if config.deterministic:
            return 0.0
        return BOUNDS_WEIGHT * jnp.sum((members.upper - members.lower) * (units.scale > 0.0), axis=-1)

    def refresh(members: Members) -> Members:
        return members._replace(net=nets.dynamics.refresh(members.net))

    init = partial(init_members, nets, obs_dim=spec.obs_dim, config=config)
    return Kind(True, True, init, units, read, say, outcome, believe, spread, judge, penalty, refresh)


def make_ensemble(env: Env, config: ModelConfig) -> Model:
    """Build the learned model of `env`. Raises ValueError naming the field that does not fit the environment."""
    if env.spec.grid:
        raise ValueError(
            f"model.name: {env.spec.name} shows a grid of flags, which ensemble does not predict; set model.name grid"
        )
    return make_learned(env.spec, config, make_kind(env, config))
