"""How targets change with the horizon on a FIXED agent: mean, variance, bias and distance to Monte-Carlo returns."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.diagnostics.visits import visited_transitions
from valex.evaluate import monte_carlo_steps
from valex.models.oracle import make_oracle
from valex.targets import H_STEP, TD_LAMBDA
from valex.train import Parts
from valex.types import Array, Bootstrap, Model, PyTree, Transition
from valex.windows import Rollout, from_model, real_row, rollout


class TargetStudy(NamedTuple):
    """What is compared."""

    gamma: float
    horizons: tuple[int, ...]
    states: int  # S, at least 2
    particles: int  # P rollouts per state, at least 2


def _paths(oracle: Model, bootstrap: Bootstrap, key: Array, first: Transition, horizon: int) -> Rollout:
    """Follow the policy from next_obs for `horizon` oracle steps."""
    start_key, path_key = jax.random.split(key)
    state = oracle.start((), start_key, first.next_obs, first.next_sim_state)
    return rollout(oracle, (), bootstrap.act, path_key, (first.next_obs, state, ~first.terminated), horizon)


def target_statistics(parts: Parts, state: PyTree, key: Array, study: TargetStudy) -> dict:
    """Return the statistics of Q^H(s, a) over S visited pairs and P oracle rollouts each, per horizon and estimator.

    mean             over states and rollouts
    variance         over the rollouts of one state, averaged over states: the noise of the target itself
    total_variance   over states and rollouts together
    bias             mean minus the mean Monte-Carlo return (independent rollouts until gamma^T < 1e-3)
    w1               1-Wasserstein distance between the P targets and the P Monte-Carlo returns of a state, averaged
    All in units of return (variances squared). Source: the target figure of 2412.20537; its sampling protocol is unknown,
    this one is ours: states come from the final exploring policy.
    """
    bootstrap, oracle = parts.agent.bootstrap(state), make_oracle(parts.env)
    state_key, path_key, value_key, mc_key, mc_value_key = jax.random.split(key, 5)
    first = visited_transitions(parts, state, state_key, study.states)
    many = jax.tree.map(lambda x: jnp.repeat(x, study.particles, axis=0), first)
    head = real_row(many, study.gamma)
    shape = (study.states, study.particles)

    mc_steps = monte_carlo_steps(study.gamma)
    mc_path = _paths(oracle, bootstrap, mc_key, many, mc_steps)
    mc_window = from_model(bootstrap, mc_value_key, mc_path, head, study.gamma, (H_STEP, "plain"))
    truth = H_STEP.fold(mc_window, mc_steps, 1.0).reshape(shape)

    path = _paths(oracle, bootstrap, path_key, many, max(*study.horizons, 1))
    result: dict = {"mc_return": jnp.mean(truth), "mc_variance": jnp.mean(jnp.var(truth, axis=1, ddof=1))}
    for estimator in ("plain", "doubly_robust"):
        window = from_model(bootstrap, value_key, path, head, study.gamma, (TD_LAMBDA, estimator))
        targets = [H_STEP.fold(window, h, 1.0).reshape(shape) for h in study.horizons]
        result[estimator] = _summaries(jnp.stack(targets), truth)
    return result


def _summaries(targets: Array, truth: Array) -> dict[str, Array]:
    """Return the statistics of targets [K, S, P] against Monte-Carlo returns [S, P], each [K]."""
    return {
        "mean": jnp.mean(targets, axis=(1, 2)),
        "variance": jnp.mean(jnp.var(targets, axis=2, ddof=1), axis=1),
        "total_variance": jnp.var(targets, axis=(1, 2)),
        "bias": jnp.mean(targets, axis=(1, 2)) - jnp.mean(truth),
        "w1": jnp.mean(jnp.abs(jnp.sort(targets, axis=2) - jnp.sort(truth, axis=1)), axis=(1, 2)),
    }


def horizons_of(values: Sequence[int]) -> tuple[int, ...]:
    """Return the distinct horizons in rising order."""
    return tuple(sorted(set(values)))
