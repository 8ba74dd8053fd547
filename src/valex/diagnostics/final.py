"""What is measured once, on the final agent of a run, as plain numbers for diagnostics.json."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import jax

from valex import replay as replays
from valex.diagnostics.diagnosis import gradient_diagnosis
from valex.diagnostics.gradients import per_sample_statistics
from valex.diagnostics.laboratory import GradientStudy
from valex.diagnostics.model_error import ErrorStudy, model_error
from valex.diagnostics.overhead import update_split
from valex.diagnostics.plain import plain
from valex.diagnostics.subject import modes_of, subject_of
from valex.diagnostics.targets import TargetStudy, horizons_of, target_statistics
from valex.diagnostics.visits import visited_transitions
from valex.expansion import make_critic_target
from valex.models.oracle import make_oracle
from valex.settings import RunConfig
from valex.train import Parts, TrainState, make_parts, stream
from valex.types import Array, PyTree, Transition

GRADIENT_SAMPLES = 64


@lru_cache(maxsize=8)
def _measures(config: RunConfig) -> tuple[Callable, dict[int, Callable]]:
    """Return the compiled measurements of a config, whatever its seed: (targets, {H: actor gradients})."""
    parts, settings = make_parts(config), config.diagnostics
    horizons = horizons_of(settings.target_horizons)
    study = TargetStudy(config.gamma, horizons, settings.target_states, settings.target_particles)
    targets = jax.jit(lambda s, k: target_statistics(parts, s, k, study))
    gradients: dict[int, Callable] = {}
    if parts.env.spec.differentiable and parts.agent.actor:
        for h in horizons:
            actor = replace(config.actor, horizon=h, particles=1, gradient="dp", starts="replay")
            agent = make_parts(replace(config, actor=actor)).agent
            gradients[h] = jax.jit(lambda s, k, b, agent=agent: per_sample_statistics(agent, s, k, b, ()))
    return targets, gradients


def final_diagnostics(config: RunConfig, parts: Parts, state: TrainState) -> dict:
    """Return what config.diagnostics asks for: targets and actor gradients by horizon, model error, split of an update."""
    settings, result = config.diagnostics, {}
    key = stream(state.seed, "diagnostics")
    if settings.target_horizons:
        horizons = horizons_of(settings.target_horizons)
        targets, gradients = _measures(replace(config, seed=0, store=type(config.store)()))
        counts = {"horizons": list(horizons), "states": settings.target_states, "particles": settings.target_particles}
        result["targets"] = plain(targets(state.agent, key)) | counts
        if gradients:
            first = jax.jit(visited_transitions, static_argnums=(0, 3))(parts, state.agent, key, GRADIENT_SAMPLES)
            starts = jax.tree.map(lambda x: x[None], first)
            result["actor_gradients"] = gradient_statistics(config, gradients, state.agent, key, starts)
    if settings.model_error_steps and parts.model:
        behaviour = config.train.warmup_noise if config.train.utd == 0 else "policy"
        study = ErrorStudy(settings.model_error_steps, settings.model_error_starts, behaviour, config.gamma)
        counts = {"starts": study.starts, "members": parts.model.members, "behaviour": behaviour, "gamma": study.gamma}
        result["model_error"] = plain(model_error(parts, state, key, study)) | counts
    if settings.gradient_horizons:
        result["gradients"] = gradients_apart(config, parts, state, key)
    if settings.overhead:
        result["overhead"] = overhead(config, parts, state)
    return result


def gradient_statistics(
    config: RunConfig, measures: dict[int, Callable], agent_state: PyTree, key: Array, starts: Transition
) -> dict:
    """Return the statistics of oracle actor gradients at each horizon, on states [1, B] that the final policy visits."""
    rows: dict[str, list] = {}
    for measure in measures.values():
        for name, value in plain(measure(agent_state, key, starts)).items():
            rows.setdefault(name, []).append(value)
    return {
        "horizons": list(measures),
        "sample_variance": rows["grad/actor_sample_variance"],
        "param_std": rows["grad/actor_param_std"],
        "norm": rows["grad/actor_mean_norm"],
        "nonfinite_share": rows["grad/nonfinite_share"],
        "divide_by_length": config.actor.divide_by_length,
        "estimator": config.actor.estimator,
        "samples": GRADIENT_SAMPLES,
    }


def gradients_apart(config: RunConfig, parts: Parts, state: TrainState, key: Array) -> dict:
    """Return the actor's gradient taken apart at the horizons that config.diagnostics asks for, on what the policy visits."""
    settings = config.diagnostics
    horizons, modes = horizons_of(settings.gradient_horizons), modes_of(config, ())
    subject = subject_of(config, parts, state, key, (max(horizons) + 1, settings.gradient_starts), "visited")
    study = GradientStudy(horizons, modes, draws=2, batch=config.train.batch_size)
    return gradient_diagnosis(subject, study, key, ("derivatives", "stretch", "landscape"))


def overhead(config: RunConfig, parts: Parts, state: TrainState) -> dict:
    """Return the split of one update on a batch of the final replay."""
    model = parts.model or make_oracle(parts.env)
    target = make_critic_target(config.critic, config.gamma, model)
    batch = replays.sample_sequences(state.replay, jax.random.key(0), config.train.batch_size, parts.window)
    return update_split(parts, target, state.agent, batch, state.model)
