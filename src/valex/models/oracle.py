"""The oracle: the environment itself, restarted from a stored simulator state.

It has nothing to learn: `init` and `update` are empty. It fits where the simulator is at hand, and removes model error
from a study of value expansion altogether (2412.20537).
"""

import jax

from valex.types import Env, Model, StepOut


def make_oracle(env: Env) -> Model:
    """Wrap `env` as a batched dynamics model; gradients flow where `env.spec.differentiable` says so."""

    def init(key):
        del key
        return ()

    def start(params, key, obs, sim_state):
        del params, key, obs
        return jax.vmap(env.restart)(sim_state)

    def step(params, key, model_state, action) -> tuple[object, StepOut]:
        del params
        keys = jax.random.split(key, action.shape[0])
        return jax.vmap(env.step)(keys, model_state, action)

    def update(params, key, replay):
        del key, replay
        return params, {}

    return Model(init, start, step, update, needs_sim_state=True, differentiable=env.spec.differentiable)
