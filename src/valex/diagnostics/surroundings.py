"""What lies around a policy's gradient: how its closed loop stretches, the landscape of its value, the health of its numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from valex.diagnostics import landscape as land, lipschitz, numerics
from valex.diagnostics.subject import GradientSubject, evaluated
from valex.estimators.pathwise import Chain, one_by_one, pathwise_value
from valex.models.swap import simulator
from valex.types import Array, Env, Model, PyTree

STRETCH_STARTS = 64
ADVERSARIAL_STEPS, ADVERSARIAL_RADIUS = 10, 0.1  # of the ascent; in units of the observation
LANDSCAPE_STARTS, GRID = 32, 25  # samples of the value; points along a side
REFRESHES = 8  # power iterations that bring a normalised net to where a landscape has moved it
HEALTH_SAMPLES, HEALTH_DIRECTIONS = 32, 4


def closed_loop(subject: GradientSubject, env: Env | None) -> Callable:
    """Return (obs, key) -> next obs of ONE row under the policy: along the model, or along the simulator `env`."""
    chain, truth = subject.chain, subject.env
    model: Model = simulator(env) if env else chain.model

    def step(obs: Array, key: Array) -> Array:
        start_key, act_key, step_key = jax.random.split(key, 3)
        sim_state = jax.vmap(truth.sim_state)(jax.vmap(truth.invert)(obs[None])) if truth and truth.invert else ()
        action = chain.view(subject.theta).act(act_key, obs[None]).action
        params = () if env else chain.params
        inner = model.start(params, start_key, obs[None], sim_state)
        return model.step(params, step_key, inner, action)[1].obs[0]

    return step


def stretch(subject: GradientSubject, key: Array, horizon: int) -> dict[str, Any]:
    """Return how policy and closed loop stretch: their layers' bound, locally, at worst nearby, and over `horizon` steps.

    policy     of obs -> action without noise: the product over layers, of dense nets only, the local sigma, and in a box around
    model      the closed loop along the model: sigma of a step, the finite-time Lyapunov exponent by step (mean, p95 over starts)
    simulator  the same along the simulator, where there is one
    The noises of both paths are the same. In the coordinates and units of the observation.
    """
    near_key, path_key, fixed_key = *jax.random.split(key), jax.random.key(0)

    def around(who: GradientSubject, key: Array) -> tuple[Array, Array]:
        obs, policy = (
            who.first.obs[:STRETCH_STARTS],
            lambda o: who.chain.view(who.theta).act(fixed_key, o[None]).action[0],
        )
        worst = lipschitz.adversarial(policy, obs, key, ADVERSARIAL_STEPS, ADVERSARIAL_RADIUS)
        return lipschitz.local(policy, obs, key), worst

    local, worst = evaluated(subject, around, near_key)
    result: dict[str, Any] = {"policy": {"local": lipschitz.summary(local), "nearby": lipschitz.summary(worst)}}
    try:
        result["policy"]["layers"] = float(lipschitz.layer_product(subject.theta, subject.spectral).product)
    except (ValueError, TypeError, AttributeError):  # a policy of the user's own, not a chain of dense layers
        result["policy"]["layers"] = None
    for name, env in (("model", None), ("simulator", subject.env)):
        if name == "model" or (env and env.invert):
            result[name] = along_path(subject, env, horizon, path_key)
    return result


def along_path(subject: GradientSubject, env: Env | None, horizon: int, key: Array) -> dict[str, Any]:
    """Return sigma of a step and the Lyapunov exponent over k = 1..h steps, mean and 95th percentile over starts."""

    def path(who: GradientSubject, key: Array) -> lipschitz.Products:
        obs = who.first.obs[:STRETCH_STARTS]
        return lipschitz.products(closed_loop(who, env), obs, horizon, jax.random.split(key, (horizon, len(obs))))

    found = evaluated(subject, path, key)
    rate = np.asarray(lipschitz.lyapunov(found.log_total), float)
    with np.errstate(invalid="ignore"):
        return {
            "step": lipschitz.summary(found.per_step),
            "lyapunov_mean": np.nanmean(rate, axis=1),
            "lyapunov_p95": np.nanpercentile(rate, 95, axis=1),
        }


def landscape(subject: GradientSubject, key: Array, horizon: int) -> dict[str, Any]:
    """Return -V_h around the policy along two random directions, with its roughness; starts and noises are held."""
    how = "filter"  # a step of 1 is as long as the parameters themselves, layer by layer

    def measure(who: GradientSubject, key: Array) -> Array:
        direction_key, noise_key = jax.random.split(key)
        rows = jax.tree.map(lambda x: x[:LANDSCAPE_STARTS], who.first)

        def value(theta: PyTree) -> Array:
            theta = jax.lax.fori_loop(0, REFRESHES, lambda _, th: who.refresh(th), theta)
            return pathwise_value(theta, who.chain, rows, noise_key, horizon, "dp")

        return land.landscape(value, who.theta, land.directions(who.theta, direction_key, how), 1.0, GRID, 5)

    surface = evaluated(subject, measure, key)
    return {"surface": surface, "span": 1.0, "directions": how, "horizon": horizon, **land.roughness(surface)}


def problem(subject: GradientSubject, key: Array, horizon: int) -> numerics.Problem:
    """Return the dp gradient of some starts as a problem whose numbers can be had in float64."""

    def build(fixed: tuple[PyTree, PyTree]) -> tuple[Callable, Callable]:
        chain = Chain(partial(subject.view, fixed[0]), subject.model, fixed[1], subject.gamma)
        value = lambda theta, row, key: pathwise_value(theta, chain, row, key, horizon, "dp")  # noqa: E731
        return value, jax.grad(value)

    rows = one_by_one(jax.tree.map(lambda x: x[:HEALTH_SAMPLES], subject.first), "dp")
    keys = jax.random.split(key, jax.tree.leaves(rows)[0].shape[0])
    return numerics.Problem(build, subject.theta, (subject.fixed, subject.params), rows, keys)


def health(subject: GradientSubject, key: Array, horizon: int) -> dict[str, Any]:
    """Return the numeric health of the dp gradient; `doubt` says why a part could not be had in float64."""
    asked = problem(subject, key, horizon)
    seen = numerics.census(asked)
    result: dict[str, Any] = {"horizon": horizon, "samples": len(asked.keys), "census": seen, "doubt": ""}
    try:
        gap = numerics.precision_gap(asked)
        slopes = numerics.finite_differences(asked, key, HEALTH_DIRECTIONS)
    except (ValueError, TypeError) as error:
        return result | {"doubt": str(error).splitlines()[0]}
    result["float32_gap"] = {name: getattr(gap, name) for name in ("median", "p95", "max", "nonfinite")}
    return result | {"differences": {"error": slopes.error, "step": slopes.step}}
