"""Whose gradient is measured, and where: a policy with its critic, a model, starts, and the truth if there is one."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from valex.actor_expansion import without_critic
from valex.diagnostics.swap import Simulated
from valex.diagnostics.visits import visited_segments
from valex.estimators.pathwise import Chain
from valex.models.oracle import make_oracle
from valex.models.passing import passing
from valex.settings import RPGConfig, RunConfig, SpectralConfig
from valex.train import Parts, TrainState
from valex.types import Array, Env, Model, PyTree, Transition


class GradientSubject(NamedTuple):
    """Whose gradient is measured, and where."""

    theta: PyTree  # parameters of the policy
    fixed: PyTree  # what the view reads besides, such as parameters of critics; () for nothing
    view: Callable  # (fixed, theta) -> Bootstrap: policy, critic, bonus
    model: Model  # dynamics and reward
    params: PyTree  # of the model
    gamma: float  # discount per step
    starts: (
        Transition  # leaves [S, T, ...]: stretches of T >= longest horizon + 1 real steps for `dr`; else T = 1 will do
    )
    env: Env | None = None  # the truth: differentiable, with `invert`; None: there is none, and no bias
    resets: Transition | None = None  # leaves [S, ...]: where episodes start; None: no gradient of the return
    refresh: Callable = lambda theta: theta  # one power iteration of a spectrally normalised policy
    spectral: SpectralConfig = SpectralConfig()  # how its layers are normalised

    @property
    def chain(self) -> Chain:
        """Return what a value is made of."""
        return Chain(partial(self.view, self.fixed), self.model, self.params, self.gamma)

    @property
    def world(self) -> Simulated | None:
        """Return the estimate and the simulator that it is held against, if there is one."""
        return Simulated(self.chain, self.env) if self.env else None

    @property
    def first(self) -> Transition:
        """Return the first row of every stretch, leaves [S, ...]."""
        return jax.tree.map(lambda x: x[:, 0], self.starts)


def evaluated(subject: GradientSubject, measure: Callable, *inputs: PyTree) -> PyTree:
    """Return measure(subject, *inputs) of a compiled program that takes the numbers of the subject as its arguments.

    Policies of one shape then share what is compiled, in this process and through JAX's cache on disk.
    """
    names = ("theta", "fixed", "params", "starts", "resets")

    def program(numbers: dict[str, PyTree], inputs: tuple) -> PyTree:
        return measure(subject._replace(**numbers), *inputs)

    return jax.device_get(jax.jit(program)({name: getattr(subject, name) for name in names}, inputs))


def subject_of(
    config: RunConfig, parts: Parts, state: TrainState, key: Array, shape: tuple[int, int], law: str
) -> GradientSubject:
    """Return the policy of a run as a subject, its gradient cut, clipped and closed as in training.

    shape = (rows, starts) of the stretches it starts from, law as in `visits`.

    Without a dynamics model of its own it is judged along the simulator. Raises ValueError, one line that names what to change,
    where there is no actor or no gradient flows through the model.
    """
    side, env, (start_key, reset_key) = parts.agent.actor, parts.env, jax.random.split(key)
    if side is None:
        raise ValueError(
            "agent.name: a learner of discrete actions has no gradient through a model; take sac, rpg, ddpg or td3"
        )
    model, params = (parts.model, state.model) if parts.model else (make_oracle(env), ())
    if not model.differentiable:
        raise ValueError("model.name: no gradient flows through this model; take ensemble, or --env.backend spring")
    drawn = jax.jit(lambda k: visited_segments(parts, state.agent, k, shape, law, config.gamma))(start_key)
    truth = env if env.spec.differentiable and env.invert is not None else None
    resets = jax.jit(lambda k: visited_segments(parts, state.agent, k, (1, shape[1]), "zeta", 1.0))(reset_key)
    closes = without_critic if config.actor.closing == "nothing" else lambda view: view
    view = lambda fixed, theta: closes(partial(side.view, fixed))(theta)  # noqa: E731
    return GradientSubject(
        theta=side.params(state.agent),
        fixed=state.agent,
        view=view,
        model=passing(model, config.actor.truncate, config.actor.adjoint_clip),
        params=params,
        gamma=config.gamma,
        starts=jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), drawn),
        env=truth,
        resets=jax.tree.map(lambda x: x[0], resets) if truth else None,
        refresh=side.refresh,
        spectral=config.agent.spectral if isinstance(config.agent, RPGConfig) else SpectralConfig(),
    )


DETERMINISTIC_MODES = ("dp", "dr", "detach", "first_action")  # of policies without a likelihood


def modes_of(config: RunConfig, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the modes that a run's policy can do, its own first."""
    own = config.actor.gradient if config.actor.horizon else "dp"
    noisy = config.agent.name in ("sac", "rpg")
    return tuple(m for m in dict.fromkeys((own, *asked)) if noisy or m in DETERMINISTIC_MODES)
