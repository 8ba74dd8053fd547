"""A linear system under a linear policy with Gaussian noise, whose value, critic and policy gradient are known exactly.

s' = A s + B a,   a = -K s + sigma eps,   r = -(s'Q s + R a^2) / 2,   theta = K [1, 2]
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from valex.estimators.pathwise import Chain
from valex.types import ActionSample, Bootstrap, Model, StepOut, Transition

A = np.array([[0.95, 0.2], [-0.15, 0.9]])
B = np.array([[0.1], [0.4]])
Q, R, GAMMA = np.diag([1.0, 0.5]), 0.3, 0.95
K = np.array([[0.25, 0.35]])
START = np.array([[0.7, 0.2], [0.2, 0.4]])  # covariance of s_0, mean 0


def value_matrix(k=K) -> np.ndarray:
    """P of V(s) = -s'P s / 2 - constant."""
    closed, cost = A - B @ k, Q + R * k.T @ k
    p = np.zeros((2, 2))
    for _ in range(3000):
        p = cost + GAMMA * closed.T @ p @ closed
    return p


def state_gradient(second: np.ndarray, k=K) -> np.ndarray:
    """E[u(s)] where E[s s'] = second: u = d a / d K * d Q / d a = -s' (-(R a + gamma B'P s')), a = -K s on average."""
    p = value_matrix(k)
    return (R * k - GAMMA * B.T @ p @ (A - B @ k)) @ -second


def moments(count: int, noise: float, k=K) -> list[np.ndarray]:
    """E[s_t s_t'] for t = 0 .. count - 1."""
    found, closed = [START], A - B @ k
    for _ in range(count - 1):
        found.append(closed @ found[-1] @ closed.T + noise**2 * B @ B.T)
    return found


def bootstrap(theta, noise: float) -> Bootstrap:
    p = jnp.asarray(value_matrix(), jnp.float32)
    a, b, q = (jnp.asarray(x, jnp.float32) for x in (A, B, Q))

    def sample(obs, eps):
        mean = -obs @ theta.T
        latent = mean + noise * eps
        return ActionSample(latent, log_prob(obs, latent), latent)

    def log_prob(obs, latent):
        z = (latent + obs @ theta.T) / (noise or 1.0)
        return jnp.sum(-0.5 * z * z, axis=-1)

    def judge(obs, action):
        after = obs @ a.T + action @ b.T
        square = lambda x, m: jnp.sum((x @ m) * x, axis=-1)  # noqa: E731
        return -0.5 * (square(obs, q) + R * jnp.sum(action**2, axis=-1) + GAMMA * square(after, p))

    act = lambda key, obs: sample(obs, jax.random.normal(key, (*obs.shape[:-1], 1)))  # noqa: E731
    return Bootstrap(
        act,
        log_prob,
        lambda key, obs: judge(obs, act(key, obs).action),
        jnp.zeros_like,
        judge,
        lambda obs, action: judge(obs, action)[None],
        redraw=lambda obs, latent: sample(obs, jax.lax.stop_gradient((latent + obs @ theta.T) / (noise or 1.0))),
    )


def model(edge: float = 1e9) -> Model:
    """The dynamics; over where |s_0| > edge."""
    a, b, q = (jnp.asarray(x, jnp.float32) for x in (A, B, Q))

    def step(params, key, state, action):
        after = state @ a.T + action @ b.T
        reward = -0.5 * (jnp.sum((state @ q) * state, axis=-1) + R * jnp.sum(action**2, axis=-1))
        return after, StepOut(after, reward, jnp.abs(after[:, 0]) > edge)

    return Model(lambda key: (), lambda p, k, obs, sim: obs, step, lambda p, k, r: (p, {}), False, True)


def chain(noise: float = 0.5, edge: float = 1e9) -> Chain:
    return Chain(partial(bootstrap, noise=noise), model(edge), (), GAMMA)


def theta():
    return jnp.asarray(K, jnp.float32)


def starts(count: int, seed: int = 0, after=0, noise: float = 0.5) -> Transition:
    """States of the closed loop at time `after` [] or [count], from s_0 ~ N(0, START); leaves [count, ...]."""
    rng = np.random.default_rng(seed)
    s = rng.multivariate_normal(np.zeros(2), START, count)
    times = np.broadcast_to(after, (count,))
    for t in range(int(times.max(initial=0))):
        moved = s @ (A - B @ K).T + noise * rng.normal(size=(count, 1)) @ B.T
        s = np.where((t < times)[:, None], moved, s)
    zero, no = jnp.zeros(count), jnp.zeros(count, bool)
    obs = jnp.asarray(s, jnp.float32)
    return Transition(obs, jnp.zeros((count, 1)), zero, obs, no, no)
