"""What improves a policy while it is tested; the value stays as it is and no reward is read.

    opex   a <- clip(a + beta grad_a Q(s, a) / scale)                    at every action, nothing is trained
    ttt    max_pi E_visited[ Q(s, mu(s)) - beta KL(pi_off(.|s) || pi(.|s)) ]       the policy goes on learning, pi_off does not

Sources: 2406.09329, section 5 (OPEX, TTT). What its text leaves open is a field of `settings/offline.py`: how often a step is
repeated, what the gradient is divided by, which critic is climbed; how many updates, on which states, up to which budget.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from valex import replay as replays
from valex.agents.common import descend, smallest
from valex.distributions import normal_kl
from valex.losses import gradient_norm
from valex.offline.batch import Dims, with_goal
from valex.offline.extraction import Q_FLOOR, Policy, PolicyState, box, q_scale
from valex.offline.values import Value
from valex.settings.offline import OPEXConfig, TTTConfig
from valex.targets import aggregate
from valex.types import ActionSample, Array, PyTree


def opex(config: OPEXConfig, q: Callable, action: Array) -> Array:
    """Return `action` [..., act_dim] after `config.steps` steps along the gradient of q, each clipped to the box.

    q: (action) -> [C, ...] critics in units of return. With `q_abs_mean` the mean |Q| is that of these rows, before each step.
    """

    def total(action: Array) -> tuple[Array, Array]:
        value = aggregate(q(action), config.q_agg)
        return jnp.sum(value), value

    def step(action: Array, _: None) -> tuple[Array, None]:
        slope, value = jax.grad(total, has_aux=True)(action)
        scale = {
            "raw": lambda: 1.0,
            "q_abs_mean": lambda: q_scale(value, "abs_mean"),
            "grad_norm": lambda: jnp.linalg.norm(slope, axis=-1, keepdims=True) + Q_FLOOR,
        }[config.scale]()
        return box(action + config.beta * slope / scale), None

    return jax.lax.scan(step, action, None, config.steps)[0]


def with_opex(config: OPEXConfig, policy: Policy, value: Value) -> Policy:
    """Return the policy with every action improved by `opex`; it is trained as before."""

    def climb(action: Array, obs: Array, goal: Any, frozen: PyTree) -> Array:
        return opex(config, lambda a: value.q(frozen, obs, a, goal), action)

    def act(
        state: PolicyState, key: Array, obs: Array, goal: Any = (), explore: bool = False, frozen: Any = ()
    ) -> ActionSample:
        sample = policy.act(state, key, obs, goal, explore, frozen)
        return sample._replace(action=climb(sample.action, obs, goal, frozen))

    def mean(state: PolicyState, obs: Array, goal: Any = (), frozen: Any = ()) -> Array:
        return climb(policy.mean(state, obs, goal, frozen), obs, goal, frozen)

    return policy._replace(act=act, mean=mean)


class Visited(NamedTuple):
    """A state that training at test time may read."""

    obs: Array  # [..., obs_dim]
    goal: Any = ()  # [..., goal_dim]; () where the task has one goal


class TTTState(NamedTuple):
    """Everything that a policy carries from one step at test time to the next."""

    policy: PolicyState  # what acts
    offline: PyTree  # parameters of the policy as training left them
    opt: optax.OptState
    visited: replays.Replay
    updates: Array  # [] int32 gradient steps taken


class TestTimeTraining(NamedTuple):
    """Training at test time as pure functions; `frozen` is the state of the value."""

    start: Callable  # (policy state) -> TTTState
    step: Callable  # (state, key, visited [num_envs, ...], frozen, dataset's states | None) -> (state, metrics)


def make_ttt(config: TTTConfig, dims: Dims, policy: Policy, value: Value, num_envs: int = 1) -> TestTimeTraining:
    """Build training at test time for `num_envs` environments side by side.

    Raises ValueError for a policy that is no Gaussian.
    """
    gaussian = policy.gaussian
    if gaussian is None:
        raise ValueError("test_time.name: ttt moves a Gaussian policy; take awr, ddpg_bc, or bc with a Gaussian")
    tx, from_data = optax.adam(config.lr), round(config.dataset_share * config.batch_size)

    def start(state: PolicyState) -> TTTState:
        example = Visited(jnp.zeros(dims.obs), jnp.zeros(dims.goal) if dims.goal else ())
        ring = replays.init(example, -(-config.capacity // num_envs), num_envs)
        own = state._replace(params=jax.tree.map(jnp.copy, state.params))
        return TTTState(own, state.params, tx.init(state.params), ring, jnp.int32(0))

    def loss(params: PyTree, offline: PyTree, rows: Visited, frozen: PyTree) -> tuple[Array, dict[str, Array]]:
        x = with_goal(rows.obs, rows.goal)
        (mean, std), (old_mean, old_std) = gaussian(params, x), gaussian(offline, x)
        q = smallest(value.q(frozen, rows.obs, box(mean), rows.goal))
        kl = jnp.mean(normal_kl(old_mean, old_std, mean, std))
        total = -jnp.mean(q) / q_scale(q, config.q_norm) + config.beta * kl
        return total, {"policy/loss": total, "policy/q": jnp.mean(q), "policy/kl": kl}

    def draw(key: Array, ring: replays.Replay, dataset: Visited | None) -> Visited:
        seen_key, data_key = jax.random.split(key)
        rows = jax.tree.map(lambda x: x[0], replays.sample_sequences(ring, seen_key, config.batch_size, 1))
        if not from_data:
            return rows
        if dataset is None:
            raise ValueError(f"test_time.dataset_share: {config.dataset_share:g} needs the states of the dataset")
        chosen = replays.draw_below(data_key, from_data, jnp.int32(len(dataset.obs)))
        return jax.tree.map(lambda data, own: own.at[:from_data].set(data[chosen]), dataset, rows)

    def step(
        state: TTTState, key: Array, visited: Visited, frozen: PyTree, dataset: Visited | None = None
    ) -> tuple[TTTState, dict[str, Array]]:
        """Remember what was just visited, then take the updates of one step, as far as the budget goes."""
        ring = replays.add(state.visited, visited)

        def update(carry, key):
            params, opt, updates = carry
            rows = draw(key, ring, dataset)
            grads, metrics = jax.grad(loss, has_aux=True)(params, state.offline, rows, frozen)
            moved, within = descend(tx, grads, opt, params), updates < config.max_updates
            params, opt = jax.tree.map(lambda new, old: jnp.where(within, new, old), moved, (params, opt))
            return (params, opt, updates + within), metrics | {"policy/grad_norm": gradient_norm(grads)}

        carry = (state.policy.params, state.opt, state.updates)
        keys = jax.random.split(key, config.updates_per_step)
        (params, opt, updates), metrics = jax.lax.scan(update, carry, keys)
        own = state.policy._replace(params=params)
        return TTTState(own, state.offline, opt, ring, updates), jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    return TestTimeTraining(start, step)
