"""The agent of reparameterisation gradients: what it shares with SAC, every way to take its gradient, where it starts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
import pytest
from benches import cheap_programs  # noqa: F401
from test_estimators import keys_of, segments

from valex import actor_expansion, replay as replays, windows
from valex.actor_expansion import make_actor_gradient, stabilised
from valex.agents.rpg import target_entropy
from valex.estimators.pathwise import segment_weights
from valex.estimators.per_sample import MODES, per_sample_grads
from valex.losses import gradient_norm
from valex.models.passing import clip_adjoint, passing
from valex.settings import (
    ActorConfig,
    DDPGConfig,
    EnvConfig,
    EvalConfig,
    ModelConfig,
    RPGConfig,
    RunConfig,
    SACConfig,
    SpectralConfig,
    TrainConfig,
)
from valex.spectral import Vectors, sigma
from valex.train import make_program, total_iterations
from valex.types import StepOut, Transition

SMALL = RunConfig(
    env=EnvConfig(episode_length=20),
    agent=RPGConfig(hidden=(16, 16)),
    actor=ActorConfig(horizon=2),
    model=ModelConfig("ensemble", num_models=1, deterministic=True, hidden=(16,), pretrain_steps=20),
    train=TrainConfig(env_steps=120, warmup_steps=60, batch_size=16),
    eval=EvalConfig(every=60, episodes=2, value_bias_states=0, grad_samples=4),
    gamma=0.9,
)


def trained(config: RunConfig):
    program = make_program(config)
    return program.chunk(program.start(jnp.uint32(0)), jnp.int32(total_iterations(config)))


def test_along_no_model_it_is_sac():
    """h = 0, no schedule, no normalisation: RP(0), the same numbers bit for bit."""
    own, _, _ = trained(replace(SMALL, actor=ActorConfig()))
    sac, _, _ = trained(replace(SMALL, agent=SACConfig(hidden=(16, 16)), actor=ActorConfig()))
    for name in ("actor", "critic", "target_critic", "log_alpha"):
        jax.tree.map(np.testing.assert_array_equal, getattr(own.agent, name), getattr(sac.agent, name))


def test_the_model_is_used_when_its_time_has_come():
    free, _, _ = trained(replace(SMALL, actor=ActorConfig()))
    program = make_program(replace(SMALL, agent=replace(SMALL.agent, model_free_updates=30)))
    waiting, along = (program.chunk(program.start(jnp.uint32(0)), jnp.int32(n))[0] for n in (30, 60))
    before = make_program(replace(SMALL, actor=ActorConfig()))
    early = before.chunk(before.start(jnp.uint32(0)), jnp.int32(30))[0]
    close = lambda a, b: all(np.allclose(x, y, rtol=1e-5) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))  # noqa: E731
    assert close(waiting.agent.actor, early.agent.actor)
    assert not close(along.agent.actor, free.agent.actor)


@pytest.mark.parametrize(
    "mode", ["dr", *(pytest.param(m, marks=pytest.mark.learning) for m in ("lr", "total_propagation"))]
)
def test_every_gradient_trains_and_stays_finite(mode):
    config = replace(SMALL, actor=replace(SMALL.actor, gradient=mode))
    state, metrics, _ = trained(config)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.agent))
    assert metrics["grad/actor_sample_variance"] > 0 and metrics["grad/nonfinite_share"] == 0
    before = make_program(config).start(jnp.uint32(0))
    assert any(
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before.agent.actor, state.agent.actor)), strict=True)
    )


def test_normalised_policies_stay_so():
    config = replace(SMALL, agent=replace(SMALL.agent, spectral=SpectralConfig("paper")))
    state, _, _ = trained(config)
    net, vectors = state.agent.actor["net"], state.agent.actor["vectors"]
    assert set(net) == set(vectors)
    for name, found in vectors.items():
        exact = np.linalg.svd(np.asarray(net[name]["kernel"]), compute_uv=False).max()
        np.testing.assert_allclose(sigma(net[name]["kernel"], Vectors(*found)), exact, rtol=0.03)


def test_target_entropy_goes_where_it_is_told():
    config = RPGConfig(
        target_entropy_per_dim=0.0, final_target_entropy_per_dim=-2.0, entropy_decay=4.0, entropy_updates=100
    )
    found = [float(target_entropy(config, jnp.int32(n))) for n in (0, 50, 100, 1000)]
    np.testing.assert_allclose(found, [0.0, -2.0 + 2.0 * 0.5**4, -2.0, -2.0], atol=1e-6)
    assert target_entropy(RPGConfig(), jnp.int32(7)) == RPGConfig().target_entropy_per_dim


# ---------------------------------------------------------------------------------------------------- the actor's side


@pytest.mark.parametrize(("mode", "divide"), [*((mode, False) for mode in MODES), ("dp", True), ("lr", True)])
def test_the_batch_gradient_is_the_mean_over_samples(mode, divide):
    """On a linear-quadratic problem, in every mode; dp, detach, first_action and dr draw their noise for the whole batch."""
    chain, starts, horizon = lq.chain(), lq.starts(4_000), 2
    if mode == "dr":
        starts = segments(chain, starts, keys_of(4_000), horizon)
    config = ActorConfig(horizon, gradient=mode, divide_by_length=divide, segment_weight=None)
    gradient, each = make_actor_gradient(config, lq.GAMMA, chain.model)
    got, (loss, log_prob) = jax.jit(lambda t, s: gradient(chain.view, t, jax.random.key(5), s, ()))(lq.theta(), starts)
    samples = jax.jit(lambda t, s: each(chain.view, t, keys_of(4_000, 6), s, ()))(lq.theta(), starts)
    scale = -1.0 / (horizon + 1) if divide else -1.0
    direct = jax.jit(lambda t, s: per_sample_grads(t, chain, s, keys_of(4_000, 6), horizon, mode))(lq.theta(), starts)
    np.testing.assert_allclose(samples, scale * direct, rtol=1e-4, atol=1e-5)
    error = jnp.std(samples, axis=0) / 4_000**0.5
    assert np.all(np.abs(got - jnp.mean(samples, axis=0)) < 6 * error)
    assert loss > 0 and log_prob.shape == (4_000,)


def test_sizes_of_steps():
    grads = {"w": jnp.array([3.0, 4.0])}
    for config, norm in (
        (ActorConfig(), 5.0),
        (ActorConfig(grad_clip=2.0), 2.0),
        (ActorConfig(grad_clip=9.0), 5.0),
        (ActorConfig(normalize_grad=True), 1.0),
    ):
        np.testing.assert_allclose(gradient_norm(stabilised(config, grads)), norm, rtol=1e-6)


def doubling():
    """s' = 2 s + a, nothing else: d s_h / d s_0 = 2^h."""
    model = lq.model()
    step = lambda p, k, s, a: (2 * s + a, StepOut(2 * s + a, jnp.zeros(len(s)), jnp.zeros(len(s), bool)))  # noqa: E731
    return model._replace(step=step)


def end(model, s0, steps=4):
    state = model.start((), jax.random.key(0), s0, ())
    obs = s0
    for _ in range(steps):
        state, out = model.step((), jax.random.key(0), state, 0.0 * obs)
        obs = out.obs
    return obs


def test_gradients_end_where_they_are_cut():
    s0 = jnp.array([[1.0, -1.0], [0.5, 2.0]])
    slope = lambda model: jax.grad(lambda s: jnp.sum(end(model, s)))(s0)  # noqa: E731
    np.testing.assert_allclose(slope(doubling()), 16.0)
    np.testing.assert_allclose(slope(passing(doubling(), 3, None)), 0.0)
    np.testing.assert_allclose(slope(passing(doubling(), 5, None)), 16.0)
    np.testing.assert_array_equal(end(passing(doubling(), 2, 0.1), s0), end(doubling(), s0))  # values pass


def test_the_adjoint_is_clipped_row_by_row():
    s0 = jnp.array([[1.0, -1.0], [0.5, 2.0]])
    weight = jnp.array([[3.0, 4.0], [0.03, 0.04]])
    slope = jax.grad(lambda s: jnp.sum(weight * end(passing(doubling(), 0, 1.0), s)))(s0)
    np.testing.assert_allclose(
        slope[0], 2.0 * np.array([0.6, 0.8]), rtol=1e-5
    )  # 5, clipped to 1 after every step, times 2
    np.testing.assert_allclose(slope[1], 16.0 * weight[1], rtol=1e-5)  # 0.4 before the last doubling: below the limit
    rows = [jnp.ones((2, 3)), jnp.ones((2,))]
    jax.tree.map(np.testing.assert_array_equal, clip_adjoint(rows, 0.1), rows)


@pytest.mark.parametrize("mode", ["dp", "detach", "lr"])
def test_nothing_behind_the_last_step(mode):
    """APG: the gradient of the sum of H rewards alone, in every mode."""
    chain, starts, horizon = lq.chain(), lq.starts(64), 3
    config = ActorConfig(horizon, gradient=mode, divide_by_length=False, closing="nothing")
    _, each = make_actor_gradient(config, lq.GAMMA, chain.model)
    blind = lambda th: chain.view(th)._replace(q=lambda obs, action: 0.0 * obs[..., 0])  # noqa: E731
    found = each(chain.view, lq.theta(), keys_of(64), starts, ())
    exact = per_sample_grads(lq.theta(), chain._replace(view=blind), starts, keys_of(64), horizon, mode)
    with_critic = per_sample_grads(lq.theta(), chain, starts, keys_of(64), horizon, mode)
    np.testing.assert_allclose(found, -exact, rtol=1e-4, atol=1e-4)
    assert not np.allclose(exact, with_critic, rtol=0.1)


@pytest.mark.parametrize("agent", [SACConfig(hidden=(16, 16)), DDPGConfig(hidden=(16, 16))])  # TD3's view is DDPG's
def test_the_target_critic_closes_where_it_is_asked_for(agent):
    config = replace(SMALL, agent=agent, actor=ActorConfig(2, closing="target_critic"), model=ModelConfig())
    program = make_program(config)
    state, side = program.start(jnp.uint32(0)), program.parts.agent.actor
    obs, action = jnp.ones((3, 3)), jnp.zeros((3, 1))
    judged = lambda s: side.view(s, side.params(s)).q(obs, action)  # noqa: E731
    zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
    if isinstance(agent, SACConfig):
        without = state.agent._replace(target_critic=zero(state.agent.target_critic))
    else:
        without = state.agent._replace(target=zero(state.agent.target))
    assert np.all(judged(without) == 0.0) and np.any(judged(state.agent) != 0.0)


def test_segments_of_another_policy_are_weighted():
    """With full weights dr of stored segments is the gradient of the present policy; without, it is that of neither."""
    count, horizon = 60_000, 1
    chain, starts, now = lq.chain(), lq.starts(count), lq.theta() + jnp.array([[0.25, -0.2]])
    stored = segments(chain, starts, keys_of(count), horizon)  # by the policy lq.theta()
    means, errors = {}, {}
    for limit in (1e9, None):
        config = ActorConfig(horizon, gradient="dr", divide_by_length=False, segment_weight=limit)
        _, each = make_actor_gradient(config, lq.GAMMA, chain.model)
        grads = np.asarray(jax.jit(lambda s, each=each: each(chain.view, now, keys_of(count), s, ()))(stored))
        means[limit], errors[limit] = grads.mean(0), grads.std(0) / count**0.5
    fresh = -np.asarray(jax.jit(lambda s: per_sample_grads(now, chain, s, keys_of(count, 9), horizon, "dp"))(starts))
    error = np.hypot(errors[1e9], fresh.std(0) / count**0.5)
    assert np.all(np.abs(means[1e9] - fresh.mean(0)) < 5 * error)
    assert np.any(np.abs(means[None] - fresh.mean(0)) > 20 * error)
    weight = segment_weights(chain.view(lq.theta()), stored, 0.5)
    np.testing.assert_allclose(weight, 1.0, rtol=1e-5)  # their own policy: all alike, whatever the limit


# -------------------------------------------------------------------------------------------------------------- starts


def ring(length: int = 25, episodes: int = 40, capacity: int = 900) -> replays.Replay:
    """Episodes of two environments whose obs is (episode, age, environment); the oldest have been overwritten."""
    count = length * episodes
    age = jnp.tile(jnp.arange(length), episodes)
    episode = jnp.repeat(jnp.arange(episodes), length)
    two = lambda x: jnp.stack([x, x], axis=1)  # noqa: E731
    obs = jnp.stack([two(episode), two(age), jnp.stack([0 * age, 0 * age + 1], 1)], axis=-1).astype(jnp.float32)
    last = two(age == length - 1)
    steps = Transition(obs, obs[..., :1], two(0.0 * age), obs, jnp.zeros_like(last), last, age=two(age))
    ring = replays.init(jax.tree.map(lambda x: x[0, 0], steps), capacity, 2)
    return jax.lax.scan(lambda r, row: (replays.add(r, row), None), ring, steps)[0], count


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_starts_follow_their_law(share):
    gamma, (full, _) = 0.9, ring()
    found = jax.jit(lambda k: replays.sample_starts(full, k, (20_000, 3), gamma, share))(jax.random.key(0))
    age = np.asarray(found.obs[0, :, 1]).astype(int)
    law = gamma ** np.arange(25)
    expected = share * law / law.sum()
    expected[0] += 1.0 - share
    seen = np.bincount(age, minlength=25) / len(age)
    np.testing.assert_allclose(seen, expected, atol=0.015)
    np.testing.assert_array_equal(found.age, found.obs[..., 1].astype(int))
    ahead = np.diff(np.asarray(found.obs[..., 0] * 25 + found.obs[..., 1]), axis=0)
    assert np.all(ahead == 1) and np.all(np.diff(found.obs[..., 2], axis=0) == 0)  # in a row, of one environment
    assert np.abs(np.mean(found.obs[0, :, 2]) - 0.5) < 0.02
    assert found.obs[0, :, 0].min() >= 3  # 900 of 1,000 rows: the first four episodes are gone


def test_starts_are_kept_where_a_law_reads_them():
    for starts, kept in (("replay", False), ("zeta", True), ("nu", True), ("mixture", True)):
        config = replace(SMALL, actor=replace(SMALL.actor, starts=starts))
        layout = jax.eval_shape(make_program(config).start, jnp.uint32(0)).replay.layout
        stored = jax.tree.unflatten(layout.tree, layout.dtypes)
        assert (stored.age == "int32") == kept


def lowered(horizon: int) -> tuple:
    """Return the gradient along `horizon` steps of a step with 256 hidden units, not compiled yet, and what it is asked for."""
    chain, starts = lq.chain(), lq.starts(64)
    wide = jax.random.normal(jax.random.key(1), (2, 256)) / 16

    def step(params, key, state, action):
        state, out = chain.model.step(params, key, state, action)
        push = 0.1 * jnp.tanh(jnp.tanh(out.obs @ wide) ** 2 @ wide.T)
        return state + push, out._replace(obs=out.obs + push)

    gradient, _ = make_actor_gradient(ActorConfig(horizon), lq.GAMMA, chain.model._replace(step=step))
    asked = lq.theta(), starts
    return jax.jit(lambda t, s: gradient(chain.view, t, jax.random.key(5), s, ())[0]).lower(*asked), asked


@pytest.mark.parametrize("horizon", [windows.KEPT_STEPS, windows.KEPT_STEPS + 1])
def test_noises_drawn_before_the_rollout_are_those_that_it_would_draw(horizon, monkeypatch):
    """One draw for all steps, and not one number differs; the last action draws for itself."""
    config = replace(SMALL, actor=ActorConfig(horizon), model=replace(SMALL.model, pretrain_steps=1))
    program = make_program(config)
    run = program.start(0)
    batch = replays.sample_sequences(run.replay, jax.random.key(1), 8, 1)
    asked = run.agent, jax.random.key(2), batch, run.model
    ask = lambda: jax.jit(lambda *given: program.parts.agent.actor.grads(*given)).lower(*asked)  # noqa: E731  traced anew
    before = ask()
    monkeypatch.setattr(actor_expansion, "drawn_before", lambda view, *unused: (view.act, None))
    inside = ask()
    assert before.as_text() != inside.as_text()
    jax.tree.map(np.testing.assert_array_equal, before.compile()(*asked), inside.compile()(*asked))


@pytest.mark.parametrize("horizon", [windows.KEPT_STEPS, windows.KEPT_STEPS + 1, 30])
def test_rematerialisation_changes_memory_and_no_number(horizon, monkeypatch):
    """`jax.checkpoint` on the rollout's step is no stabiliser: the gradient is the same without it. Short ones do without."""
    ours, asked = lowered(horizon)
    monkeypatch.setattr(windows, "KEPT_STEPS", 1_000)
    kept = lowered(horizon)[0]
    again = horizon > 5
    assert (ours.as_text() != kept.as_text()) == again
    ours, kept = ours.compile(), kept.compile()
    np.testing.assert_allclose(ours(*asked), kept(*asked), rtol=1e-5, atol=1e-6)
    if horizon == 30:
        memory = [program.memory_analysis().temp_size_in_bytes for program in (ours, kept)]
        assert memory[0] < memory[1] / 5 and memory[1] > 30 * 64 * 256 * 4  # what all of its steps compute
