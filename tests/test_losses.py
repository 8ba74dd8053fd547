"""Losses and gradient summaries by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from valex.losses import gradient_norm, gradient_param_std, td_loss


def test_td_loss_by_hand_and_no_gradient_to_the_target():
    q, y = jnp.array([[1.0, 2.0], [0.0, 4.0]]), jnp.array([0.0, 4.0])
    assert float(td_loss(q, y)) == 0.5 * (1 + 4 + 0 + 0) / 4
    assert not np.any(jax.grad(lambda t: td_loss(q, t))(y))


def test_gradient_statistics_match_numpy():
    tree = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array([3.0])}
    flat = np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(gradient_norm(tree), np.linalg.norm(flat), rtol=1e-6)
    np.testing.assert_allclose(gradient_param_std(tree), flat.std(), rtol=1e-6)
