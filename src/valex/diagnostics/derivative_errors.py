"""The errors that a policy gradient feels: those of derivatives, of a model's step and of a critic, not of predictions.

    eps_f = rms |(A - A*) P|_F + rms |B - B*|_F        A = ds'/ds, B = ds'/da of the model, A*, B* of the simulator
    eps_v = rms |(Q_s - Q_s*) P| + rms |Q_a - Q_a*|    Q* the return of the policy itself, see `swap.judged_by_return`
    h'*   = eps_v / ((1 - gamma) (eps_f + eps_v))      a scale, not a selector: its constant is not known (2310.19927)

at real (s, a), in the units of observation and return. P = d obs(invert(s)) / d s leaves the directions in which observations can
differ at all: what a net says beside the circle of (cos, sin) is nobody's error. Root mean squares in place of the means of the
source, because they can be had without the noise of Q*: |q - Q*|^2 is the product of the differences from two independent
estimates. A model can have a small prediction error and bad derivatives; both are given.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex.diagnostics.subject import GradientSubject, evaluated
from valex.diagnostics.swap import Simulated, judged_by_return
from valex.models.swap import simulator
from valex.statistics import Interval, jackknife
from valex.types import Array, PyTree, Transition

NAMES = ("model_by_state", "model_by_action", "critic_by_state", "critic_by_action", "prediction")


class DerivativeErrors(NamedTuple):
    """Root mean squares over states, each with its interval."""

    model_by_state: Interval  # rms |A - A*|_F
    model_by_action: Interval
    critic_by_state: Interval  # rms |Q_s - Q_s*|; 0 where the estimate of its square is below 0
    critic_by_action: Interval
    prediction: Interval  # rms |s' - s'*|, for comparison
    eps_f: Interval
    eps_v: Interval
    scale: Interval  # h'*, steps


def squares_of(theta: PyTree, world: Simulated, starts: Transition, key: Array, draws: int) -> Array:
    """Return the squared errors at every start, [5, S] in the order of NAMES; starts [S, ...], `draws` pairs of returns each."""
    chain, env, invert = world.chain, simulator(world.env), world.env.invert
    assert invert is not None  # simulator has refused
    view = chain.view(theta)

    def at(row: Transition, key: Array) -> Array:
        """Return the squared errors at one start."""
        start_key, step_key, return_key = jax.random.split(key, 3)
        state = jax.vmap(world.env.sim_state)(jax.vmap(invert)(row.obs[None]))

        def believed(obs: Array, action: Array) -> Array:
            inner = chain.model.start(chain.params, start_key, obs[None], state)
            return chain.model.step(chain.params, step_key, inner, action[None])[1].obs[0]

        def real(obs: Array, action: Array) -> Array:
            return env.step((), step_key, obs[None], action[None])[1].obs[0]

        def value(obs: Array, action: Array, key: Array) -> Array:
            return judged_by_return(world, theta, key)(theta).q(obs[None], action[None])[0]

        here = row.obs, row.action
        possible = jax.jacfwd(lambda obs: world.env.obs(invert(obs)))(row.obs)
        models = [jax.jacfwd(f, argnums=(0, 1))(*here) for f in (believed, real)]
        by_state, by_action = (a - b for a, b in zip(*models, strict=True))
        by_model = [jnp.sum(jnp.square(by_state @ possible)), jnp.sum(jnp.square(by_action))]
        own = jax.grad(lambda obs, action: view.q(obs[None], action[None])[0], argnums=(0, 1))(*here)
        each = jax.vmap(jax.grad(value, argnums=(0, 1)), in_axes=(None, None, 0))
        halves = [jax.tree.map(lambda x: jnp.mean(x, axis=0), each(*here, k)) for k in pairs(return_key, draws)]
        apart = [[q - a for q, a in zip(own, half, strict=True)] for half in halves]
        by_critic = [jnp.vdot(apart[0][0] @ possible, apart[1][0] @ possible), jnp.vdot(apart[0][1], apart[1][1])]
        return jnp.stack([*by_model, *by_critic, jnp.sum(jnp.square(believed(*here) - real(*here)))])

    return jax.vmap(at, out_axes=1)(starts, jax.random.split(key, starts.reward.shape[0]))


def pairs(key: Array, draws: int) -> Array:
    """Return two independent sets of `draws` keys, [2, draws]."""
    return jax.random.split(key, (2, draws))


def derivative_errors(
    subject: GradientSubject, starts: Transition, key: Array, draws: int = 4, chunks: int = 16
) -> DerivativeErrors:
    """Measure the errors at real transitions, leaves [S, ...], S a multiple of `chunks`; intervals: jackknife over chunks.

    Errors that are not finite are left out. Raises ValueError where the simulator cannot be set to an observation.
    """

    def squares(who: GradientSubject, starts: Transition, key: Array) -> Array:
        assert who.world is not None  # the caller knows that there is a truth
        return squares_of(who.theta, who.world, starts, key, draws)

    found = np.asarray(evaluated(subject, squares, starts, key), float)
    parts = np.array_split(np.arange(found.shape[1]), chunks)
    gamma = subject.gamma

    def summed_up(keep: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            rms = np.sqrt(np.maximum([np.mean(x[np.isfinite(x)]) for x in found[:, keep]], 0.0))
            eps_f, eps_v = rms[0] + rms[1], rms[2] + rms[3]
            scale = eps_v / ((1.0 - gamma) * (eps_f + eps_v)) if gamma < 1.0 else np.inf
        return np.array([*rms, eps_f, eps_v, scale])

    whole = summed_up(np.arange(found.shape[1]))
    left = np.stack([summed_up(np.delete(np.arange(found.shape[1]), part)) for part in parts])
    all_found = jackknife(whole, left)
    return DerivativeErrors(*(Interval(*(x[i] for x in all_found)) for i in range(len(whole))))
