"""A random MDP whose exact soft-optimal values are known, as a Model and a Bootstrap: the answer to every target.

Transitions are deterministic and pi(a|s) is proportional to exp(Q(s, a) / alpha), so Q - alpha log pi = V for EVERY action and
every target equals Q(s_0, a_0) sample by sample, whatever the horizon, rule and estimator. A lost entropy term, a
discount off by one or a bootstrap across a termination shows at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from valex.types import ActionSample, Bootstrap, Model, StepOut, Transition

STATES, ACTIONS, ALPHA, GAMMA = 7, 3, 0.3, 0.9


class Tabular(NamedTuple):
    reward: np.ndarray  # [S, A]
    successor: np.ndarray  # [S, A]
    ends: np.ndarray  # [S, A] bool
    q: np.ndarray  # [S, A]
    log_pi: np.ndarray  # [S, A]
    value: np.ndarray  # [S]


def solve(seed: int = 0, ending: float = 0.15) -> Tabular:
    """Draw an MDP and iterate the soft Bellman equation to its fixed point."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(STATES, ACTIONS))
    successor = rng.integers(STATES, size=(STATES, ACTIONS))
    ends = rng.random((STATES, ACTIONS)) < ending
    q = np.zeros((STATES, ACTIONS))
    for _ in range(2000):
        value = ALPHA * np.log(np.exp(q / ALPHA).sum(1))
        q = reward + GAMMA * (1 - ends) * value[successor]
    value = ALPHA * np.log(np.exp(q / ALPHA).sum(1))
    return Tabular(reward, successor, ends, q, (q - value[:, None]) / ALPHA, value)


def bootstrap(mdp: Tabular) -> Bootstrap:
    """Act by pi; observations are [..., 1] state numbers, actions [..., 1] action numbers."""
    q, log_pi, value = (jnp.asarray(x, jnp.float32) for x in (mdp.q, mdp.log_pi, mdp.value))

    def index(x):
        return x[..., 0].astype(int)

    def act(key, obs):
        action = jax.random.categorical(key, log_pi[index(obs)])
        wide = action[..., None].astype(jnp.float32)
        return ActionSample(wide, log_pi[index(obs), action], wide)

    def soft_value(key, obs):
        del key
        return value[index(obs)]

    return Bootstrap(
        act,
        lambda obs, latent: log_pi[index(obs), index(latent)],
        soft_value,
        lambda log_prob: -ALPHA * log_prob,
        lambda obs, action: q[index(obs), index(action)],
        lambda obs, action: jnp.stack([q[index(obs), index(action)]] * 2),
    )


def model(mdp: Tabular) -> Model:
    """The exact dynamics; its state is the observation."""
    reward, successor, ends = jnp.asarray(mdp.reward, jnp.float32), jnp.asarray(mdp.successor), jnp.asarray(mdp.ends)

    def step(params, key, state, action):
        del params, key
        s, a = state[..., 0].astype(int), action[..., 0].astype(int)
        after = successor[s, a][..., None].astype(jnp.float32)
        return after, StepOut(after, reward[s, a], ends[s, a])

    return Model(lambda key: (), lambda p, k, obs, sim: obs, step, lambda p, k, r: (p, {}), False, True)


def sequences(mdp: Tabular, length: int, batch: int, seed: int = 1, clock: float = 0.2) -> Transition:
    """Roll a UNIFORM behaviour policy, with episodes that end, or are cut by a clock, at random; leaves [length, batch, ...]."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {name: [] for name in ("s", "a", "r", "s2", "end", "cut")}
    s = rng.integers(STATES, size=batch)
    for _ in range(length):
        a = rng.integers(ACTIONS, size=batch)
        s2, end = mdp.successor[s, a], mdp.ends[s, a]
        cut = (rng.random(batch) < clock) & ~end
        for name, value in zip(rows, (s, a, mdp.reward[s, a], s2, end, cut), strict=True):
            rows[name].append(value)
        s = np.where(end | cut, rng.integers(STATES, size=batch), s2)
    x = {name: jnp.asarray(np.stack(value)) for name, value in rows.items()}
    as_obs = {name: x[name][..., None].astype(jnp.float32) for name in ("s", "a", "s2")}
    return Transition(
        obs=as_obs["s"],
        action=as_obs["a"],
        reward=x["r"].astype(jnp.float32),
        next_obs=as_obs["s2"],
        terminated=x["end"],
        truncated=x["cut"],
        log_prob=jnp.full((length, batch), -np.log(ACTIONS), jnp.float32),
        latent=as_obs["a"],
    )


def exact(mdp: Tabular, batch: Transition) -> np.ndarray:
    """Return Q(s_0, a_0) of the first row."""
    return mdp.q[np.asarray(batch.obs[0, :, 0], int), np.asarray(batch.action[0, :, 0], int)]
