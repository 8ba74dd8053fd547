"""The records that every layer of valex speaks: plain NamedTuples of arrays and pure functions.

Axes: B batch, T time (arrays are time-major, [T, B, ...]), H horizon, N members of an ensemble, C critics, P particles.
An empty tuple `()` in a field means "not stored": it is a PyTree without leaves and costs nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any


class ActionSample(NamedTuple):
    """One draw from a policy."""

    action: Array  # [..., act_dim] in [-1, 1]; [...] int for discrete actions
    log_prob: Array  # [...] log pi(action | obs); 0 for a deterministic policy
    latent: Array  # what log_prob is evaluated at: [..., act_dim] pre-tanh, or the discrete action itself


class Transition(NamedTuple):
    """One environment step; leading axes [B] or [T, B]."""

    obs: Array  # [..., obs_dim]; bool where it is a grid
    action: Array  # [..., act_dim] in [-1, 1]; [...] int for discrete actions
    reward: Array  # [...] per control step, unscaled
    next_obs: Array  # [..., obs_dim] the true successor, also at the end of an episode
    terminated: Array  # [...] bool, the task ended: no bootstrap
    truncated: Array  # [...] bool, the clock ended: bootstrap
    log_prob: Any = ()  # [...] log mu(action | obs) at collection; kept only where a rule reads it
    latent: Any = ()  # as in ActionSample; kept only where a rule reads it
    sim_state: PyTree = ()  # the least the oracle needs to restart at obs; kept only for actor expansion
    next_sim_state: PyTree = ()  # the same at next_obs; kept only for critic expansion
    age: Any = ()  # [...] int32 control steps since the reset; kept only for a law of starts


class Step(Protocol):
    """What a one-step target reads of a step, wherever it is stored."""

    @property
    def reward(self) -> Array:
        """[B] per control step."""
        ...

    @property
    def terminated(self) -> Array:
        """[B] bool, or 0. and 1.: nothing is bootstrapped."""
        ...


class StepOut(NamedTuple):
    """What one step of an environment or of a dynamics model returns."""

    obs: Array  # [..., obs_dim] the successor
    reward: Array  # [...] per control step
    terminated: Array  # [...] bool


class EnvSpec(NamedTuple):
    """The constants of an environment."""

    name: str
    obs_dim: int
    act_dim: int  # 0 where actions are discrete
    num_actions: int  # 0 where actions are continuous
    episode_length: int  # control steps until the clock truncates
    action_repeat: int  # simulator steps of the base environment per control step
    dt: float  # seconds per control step, action repeat included
    backend: str  # "jax", or the physics backend
    differentiable: bool  # reverse-mode gradients through step are right
    reward_offset: float = 0.0  # what every reward of a control step holds on top of the task's own
    grid: tuple[int, ...] = ()  # (rows, columns, channels) where obs is a flat grid of flags; () for a vector


def _unchanged(first: Any, *unused: Any) -> Any:
    return first


class Env(NamedTuple):
    """An environment without a clock; every function takes ONE instance, callers vmap."""

    spec: EnvSpec
    reset: Callable  # (key) -> state
    step: Callable  # (key, state, action) -> (state, StepOut)
    obs: Callable  # (state) -> obs
    sim_state: Callable  # (state) -> the least PyTree from which `restart` rebuilds the state
    restart: Callable  # (sim_state) -> state
    terminated: Callable | None  # (obs, action, next_obs) -> bool, the known termination function; None: not known
    project: Callable = _unchanged  # (sim_state) -> the sim_state nearest to it from which `restart` can go on
    invert: Callable | None = None  # (obs) -> a state with that obs, differentiable; None: obs does not tell the state


class Bootstrap(NamedTuple):
    """What a target needs from an agent, closed over the parameters it is to be read at."""

    act: Callable  # (key, obs) -> ActionSample
    log_prob: Callable  # (obs, latent) -> log pi                  only off-policy rules read it
    value: Callable  # (key, obs) -> v                             soft for SAC, min or argmax for TD3 and DDQN
    bonus: Callable  # (log_prob) -> reward bonus                  -alpha log pi for SAC, 0 otherwise
    q: Callable  # (obs, action) -> q                              as the agent aggregates its critics
    heads: Callable  # (obs, action) -> q [C, ...]                 every critic by itself: critic_agg, STEVE
    own_log_rho: Callable | None = None  # (obs) -> log pi/mu on the agent's own model rollouts; None: 0, on-policy
    redraw: Callable | None = (
        None  # (obs, latent) -> ActionSample: what gave latent, its noise held; None: not to be had
    )
    draw: Callable | None = (
        None  # (key, obs) -> the noise of act(key, obs), which act takes in place of the key as well
    )


class CriticRows(NamedTuple):
    """What a critic is regressed on; ready made, the agent computes nothing of it."""

    obs: Array  # [R, obs_dim] without gradient
    action: Array  # [R, act_dim]; [R] int for discrete actions
    target: Array  # [R] in units of return, without gradient
    weight: Any = ()  # [R] in [0, 1], of the squared errors; () where all rows count alike
    metrics: Any = ()  # scalars by name, to be logged; () for none


class Opinions(NamedTuple):
    """What every member of an ensemble predicts for the same step; N members."""

    obs: Array  # [N, ..., obs_dim] mean of the successor
    reward: Array  # [N, ...] mean of the reward
    obs_std: Array  # [N, ..., obs_dim] predicted standard deviation of the successor; 0 for a deterministic member
    reward_std: Array  # [N, ...]


class Model(NamedTuple):
    """Dynamics, simulator or learned, under one contract; every array has a batch axis [B, ...]."""

    init: Callable  # (key) -> params
    start: Callable  # (params, key, obs, sim_state) -> model_state
    step: Callable  # (params, key, model_state, action) -> (model_state, StepOut)
    update: Callable  # (params, key, replay) -> (params, metrics)    identity for the oracle
    needs_sim_state: bool  # start reads sim_state, so replay has to keep it
    differentiable: bool  # gradients flow through step
    observe: Callable = (
        _unchanged  # (params, transition [B]) -> params   called once per collected batch, warm-up included
    )
    members: int = 1  # N, models in the ensemble
    pick: Callable = _unchanged  # (params, member) -> params under which every step follows that one member
    opinions: Callable | None = None  # (params, obs, action) -> Opinions    None for a simulator: it has no members
    disagreement: Callable | None = (
        None  # (params, obs, action) -> [...] spread of members, in typical one-step changes
    )


class ActorSide(NamedTuple):
    """What can be asked about the gradient of a learner's actor."""

    params: Callable  # (state) -> the actor's parameters
    view: Callable  # (state, parameters) -> Bootstrap with the critic that the actor climbs
    grads: Callable  # (state, key, batch [T, B], model_params) -> gradient of the actor's loss
    sample_grads: Callable  # the same of every sample, leaves [B, ...], neither clipped nor normalised
    refresh: Callable = _unchanged  # (parameters) -> parameters   what a normalised policy does once per update


class Agent(NamedTuple):
    """A learner as pure functions over one state PyTree."""

    init: Callable  # (key) -> state
    observe: Callable  # (state, obs) -> state                     called once per collected batch of obs [B, obs_dim]
    act: Callable  # (state, key, obs, explore) -> ActionSample    explore False: the evaluation policy
    update: Callable  # (state, key, batch [T, B], model_params, starts [T', B] | None) -> (state, metrics)
    bootstrap: Callable  # (state) -> Bootstrap                    target parameters; also read by diagnostics
    actor: ActorSide | None = None  # None: there is no actor


class ReturnInputs(NamedTuple):
    """What a target rule folds; all [T, B] or [T, J, B] with J samples. Row t is s_t -> s_{t+1}, the last row bootstraps."""

    reward: Array  # r_t, with the bonus of a_t where the estimator is `plain` and t > 0
    discount: Array  # gamma * (1 - terminated_t); gamma enters nowhere else
    value: Array  # V(s_{t+1})
    q: Array  # what the trace subtracts: Q(s_{t+1}, a_{t+1}), or V again for `plain`
    log_rho: Array  # log pi/mu at (s_{t+1}, a_{t+1}); exactly 0 on a model rollout
    continues: Array  # 1. where row t+1 may follow row t: the same episode, a model still trusted; else 0.
