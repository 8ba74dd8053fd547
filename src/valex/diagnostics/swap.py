"""Where the bias of a policy gradient comes from: replace one component of its computation at a time by the truth.

    component   the estimate uses                       the truth is
    states      where the model thinks a step leads     where the simulator goes                     (drift)
    jacobians   how the model's step depends on s, a    how the simulator's does
    reward      the model's reward and derivatives      the simulator's
    critic      Q(s_h, a_h)                             the return of the policy itself from (s_h, a_h) on, theta a constant

With all four swapped the estimate is the h-step gradient without error, sum_{t<=h} gamma^t E[u(s_t)] from the same starts: what
is left to the gradient of the return is the weight of the starts (spec 1.2). The sixteen combinations answer whether it is the
model that holds a gradient back, which part of it, or the critic. Everything is asked in the coordinates of the observation.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.diagnostics.moments import flat
from valex.estimators.pathwise import Chain, Upto, one_by_one, pathwise_value
from valex.models.swap import Truth, simulator, swapped
from valex.types import Array, Env, PyTree, Transition
from valex.windows import real_row

COMPONENTS = ("states", "jacobians", "reward", "critic")
CELLS = tuple(itertools.product((0, 1), repeat=len(COMPONENTS)))  # 1: the truth
NONE, ALL = (0,) * len(COMPONENTS), (1,) * len(COMPONENTS)
ONE_TRUE = tuple(tuple(int(i == j) for j in range(len(COMPONENTS))) for i in range(len(COMPONENTS)))
ONE_WRONG = tuple(tuple(int(i != j) for j in range(len(COMPONENTS))) for i in range(len(COMPONENTS)))
TAIL = 0.05  # discount at which the return that stands for the critic is closed by the critic


class Simulated(NamedTuple):
    """A gradient's estimate and the simulator that it is held against."""

    chain: Chain  # policy, critic, model
    env: Env  # differentiable, with `invert`
    longest: int = 200  # steps that stand for the critic, at most

    @property
    def tail(self) -> int:
        """Return the steps that stand for the critic: until gamma^steps <= 0.05, at most `longest`."""
        gamma = self.chain.gamma
        steps = 1 if gamma <= TAIL else math.ceil(math.log(TAIL) / math.log(gamma)) if gamma < 1.0 else self.longest
        return min(steps, self.longest)


def along(world: Simulated) -> Chain:
    """Return the chain with the simulator in the place of the model."""
    return world.chain._replace(model=simulator(world.env), params=())


def judged_by_return(world: Simulated, theta: PyTree, key: Array) -> Callable:
    """Return the chain's view, (theta) -> Bootstrap, with Q(s, a) = r + gamma V, V the return of the policy at `theta`.

    V follows the simulator for `world.tail` steps with noises of `key` and is closed by the critic; theta is a constant in it.
    """
    chain, fixed = along(world), jax.lax.stop_gradient(theta)
    step_key, path_key = jax.random.split(key)

    def q(obs: Array, action: Array) -> Array:
        _, out = chain.model.step((), step_key, obs, action)
        row = Transition(out.obs, action, out.reward, out.obs, out.terminated, out.terminated)
        one = lambda row: pathwise_value(fixed, chain, row, path_key, world.tail, "dp")  # noqa: E731
        reward, discount = real_row(row, chain.gamma)
        return reward + discount * jax.vmap(one)(jax.tree.map(lambda x: x[:, None], row))

    return lambda th: world.chain.view(th)._replace(q=q)


def swapped_grads(
    theta: PyTree,
    world: Simulated,
    starts: Transition,
    keys: Array,
    horizon: int | Upto,
    cells: Sequence[tuple[int, ...]],
) -> Array:
    """Return the gradient of V_h for every sample with the components of every cell replaced, [K, B, P]; starts [B, ...].

    Cells that share the critic are one program. Raises ValueError where the simulator cannot be set to an observation.
    """

    def value(th: PyTree, row: Transition, key: Array, flags: Array, critic: bool) -> Array:
        chain = world.chain._replace(model=swapped(world.chain.model, world.env, Truth(*flags)))
        if critic:
            chain = chain._replace(view=judged_by_return(world, th, jax.random.fold_in(key, 1)))
        return pathwise_value(th, chain, row, key, horizon, "dp")

    rows, found = one_by_one(starts, "dp"), {}
    for critic in (0, 1):
        asked = [cell for cell in dict.fromkeys(cells) if cell[-1] == critic]
        grad = jax.vmap(jax.grad(partial(value, critic=bool(critic))), in_axes=(None, 0, 0, None))
        if asked:
            flags = jnp.array([cell[:-1] for cell in asked], jnp.float32)
            grads = jax.lax.map(lambda flag, grad=grad: flat(grad(theta, rows, keys, flag)), flags)
            found |= dict(zip(asked, grads, strict=True))
    return jnp.stack([found[cell] for cell in cells])


def return_grads(theta: PyTree, world: Simulated, starts: Transition, keys: Array, steps: int) -> Array:
    """Return the gradient of the return itself for every sample, [B, P]: `steps` of the simulator, theta in every action."""
    grad = jax.grad(lambda th, row, key: pathwise_value(th, along(world), row, key, steps, "dp"))
    return flat(jax.vmap(grad, in_axes=(None, 0, 0))(theta, one_by_one(starts, "dp"), keys))
