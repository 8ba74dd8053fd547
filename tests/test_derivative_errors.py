"""Errors of derivatives on a linear-quadratic problem, where all of them are matrices that can be written down."""

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
from test_swap import CRITIC, A, B, believed

from valex.diagnostics.derivative_errors import derivative_errors
from valex.diagnostics.subject import GradientSubject


def subject_in(world) -> GradientSubject:
    """The linear policy of a world as a subject."""
    starts = jax.tree.map(lambda x: x[:, None], lq.starts(2))
    view = lambda fixed, theta: world.chain.view(theta)  # noqa: E731
    return GradientSubject(lq.theta(), (), view, world.chain.model, (), lq.GAMMA, starts, world.env)


def test_errors_are_those_of_the_matrices():
    world = believed()
    starts = lq.starts(64)._replace(action=0.5 * jax.random.normal(jax.random.key(1), (64, 1)))
    found = derivative_errors(subject_in(world), starts, jax.random.key(0), draws=2)
    np.testing.assert_allclose(found.model_by_state.value, np.linalg.norm(A - lq.A), rtol=1e-5)
    np.testing.assert_allclose(found.model_by_action.value, np.linalg.norm(B - lq.B), rtol=1e-5)
    s, a = np.asarray(starts.obs, float), np.asarray(starts.action, float)
    drift = s @ (A - lq.A).T + a @ (B - lq.B).T
    np.testing.assert_allclose(found.prediction.value, np.sqrt(np.mean(np.sum(drift**2, 1))), rtol=1e-4)
    closed, cost, p = lq.A - lq.B @ lq.K, lq.Q + lq.R * lq.K.T @ lq.K, CRITIC
    for _ in range(world.tail + 1):
        p = cost + lq.GAMMA * closed.T @ p @ closed
    apart = lq.GAMMA * (s @ lq.A.T + a @ lq.B.T) @ (CRITIC - p).T  # Q - Q* = -gamma s'' (CRITIC - p) s'' / 2
    by_state, by_action = (np.sqrt(np.mean(np.sum((apart @ m) ** 2, 1))) for m in (lq.A, lq.B))
    np.testing.assert_allclose(found.critic_by_state.value, by_state, rtol=1e-3)
    np.testing.assert_allclose(found.critic_by_action.value, by_action, rtol=1e-3)
    eps_f, eps_v = np.linalg.norm(A - lq.A) + np.linalg.norm(B - lq.B), by_state + by_action
    np.testing.assert_allclose(found.scale.value, eps_v / ((1 - lq.GAMMA) * (eps_f + eps_v)), rtol=1e-3)
    assert found.scale.low < found.scale.value < found.scale.high


def test_the_noise_of_the_return_is_not_taken_for_an_error():
    """A critic that is exact under a noisy policy: single returns scatter, the error is 0 within its interval."""
    chain = lq.chain(0.5)
    world = believed()._replace(chain=chain)
    found = derivative_errors(subject_in(world), lq.starts(512), jax.random.key(0), draws=2)
    scatter = found.critic_by_action.high - found.critic_by_action.low
    assert found.critic_by_action.value < 0.05 and scatter >= 0.0
    assert found.model_by_state.value < 1e-5 and found.prediction.value < 1e-5
    assert jnp.isfinite(found.eps_v.value)
