"""The gradient laboratory on a linear-quadratic problem with a wrong model and a wrong critic, and on made-up measurements."""

import json
import re

import jax
import jax.numpy as jnp
import linear_quadratic as lq
import numpy as np
import pytest
from benches import cheap_programs  # noqa: F401
from test_estimators import keys_of
from test_moments import MEAN, estimator
from test_swap import believed as believed_world, by_recursion, simulator

from valex.diagnostics import laboratory as lab
from valex.diagnostics.diagnosis import gradient_diagnosis
from valex.diagnostics.laboratory import AtHorizon, GradientStudy
from valex.diagnostics.moments import collect_sums, released_expectation, side_by_side, statistics_of
from valex.diagnostics.subject import GradientSubject
from valex.diagnostics.swap import ALL, NONE, ONE_TRUE
from valex.estimators.per_sample import per_sample_grads
from valex.models.swap import simulator as as_model
from valex.report.diagnosis_words import predicted_growth, sentences, share_words

STUDY = GradientStudy(horizons=(0, 2), modes=("dp", "detach"), draws=2, chunks=8, batch=64)


def subject(count: int = 512, noise: float = 0.0, truth: bool = True) -> GradientSubject:
    """The believed system under a policy with or without noise."""
    chain = believed_world().chain
    judge = chain.view(lq.theta()).q

    def view(fixed, theta):
        return lq.bootstrap(theta, noise)._replace(q=judge, heads=lambda o, a: judge(o, a)[None])

    starts = jax.tree.map(lambda x: x[:, None], lq.starts(count))
    return GradientSubject(lq.theta(), (), view, chain.model, (), lq.GAMMA, starts, simulator() if truth else None)


def test_bias_and_its_parts_are_those_of_the_recursion():
    world, horizon = believed_world(), 2
    at = lab.measured(subject(), STUDY, jax.random.key(0), horizon, ("dp",), lab.SWAPS)
    many = np.random.default_rng(5).multivariate_normal(np.zeros(2), lq.START, 4_000)
    mean = lambda cell: np.mean([by_recursion(s, cell, horizon, world.tail) for s in many], axis=0)  # noqa: E731
    truth = mean(ALL)
    cells = {"dp": NONE} | dict(zip(lab.SINGLE, ONE_TRUE, strict=True))
    for name, cell in cells.items():
        exact = np.sum((mean(cell) - truth) ** 2) / np.sum(truth**2)
        found = lab.interval(at, "relative_bias", name)
        assert abs(found.value - exact) < found.high - found.low + 0.02 * exact, name  # twice the interval
    blame = lab.blame(at)
    assert blame["true critic"].low > 0.0  # this critic is the worst of its parts
    np.testing.assert_allclose(lab.interval(at, "relative_bias", lab.TRUE).value, 0.0, atol=1e-6)


def test_parts_by_node_add_up_to_the_gradient():
    who = subject(64, noise=0.5)
    parts = lab.by_node(who, jax.random.key(1), 2, 8)
    bank = lab.bank_of(who, ("dp",), (), 2)
    whole = collect_sums(bank, who.starts, jax.random.key(1), 1, 8)
    trace = statistics_of(jax.device_get(whole)).trace[0]
    for matrix in parts.values():
        assert matrix.shape == (3, 3)
        np.testing.assert_allclose(np.sum(matrix), trace, rtol=1e-3)
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-4, atol=1e-4)


def test_rewards_before_an_action_do_not_depend_on_it():
    """d r_0 / d theta passes through a_0 alone: of the gradient through a_1 the first reward has no part."""
    from valex.estimators.pathwise import action_grads, reward_grads

    who = subject(5, noise=0.5)
    by_action, by_reward = (f(who.theta, who.chain, who.first, keys_of(5), 2) for f in (action_grads, reward_grads))
    whole = per_sample_grads(who.theta, who.chain, who.first, keys_of(5), 2, "dp")
    np.testing.assert_allclose(jnp.sum(by_action, axis=1), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(by_reward, axis=1), whole, rtol=1e-4, atol=1e-5)
    first = per_sample_grads(who.theta, who.chain._replace(view=without_critic(who)), who.first, keys_of(5), 1, "dp")
    np.testing.assert_allclose(by_reward[:, 0], first, rtol=1e-4, atol=1e-5)  # one step, nothing behind it


def without_critic(who: GradientSubject):
    return lambda theta: who.chain.view(theta)._replace(q=lambda obs, action: 0.0 * obs[..., 0])


def test_the_released_meter_reads_what_its_formula_says():
    who = subject(640, noise=0.5)
    read = lab.readings(who, jax.random.key(2), 2, readings=200)
    at = statistics_of(
        jax.device_get(collect_sums(lab.bank_of(who, ("dp",), (), 2), who.starts, jax.random.key(3), 4, 8))
    )
    expected = released_expectation(at.trace[0], at.dots[0, 0], lab.METER_SAMPLES, 3)
    assert abs(np.mean(read) - expected) < 4 * np.std(read) / 200**0.5 + 0.05 * expected


# ------------------------------------------------------------------------------------------------- made-up measurements


def made_up(error: float, spread: float, signal: float = 1.0, seed: int = 0) -> AtHorizon:
    """A measurement whose relative MSE of dp is `error`, with a jackknife spread."""
    rng, names = np.random.default_rng(seed), ("dp", lab.TRUE)
    values = np.ones((len(lab.QUANTITIES), 2))
    values[lab.QUANTITIES.index("relative_mse"), 0] = error
    values[lab.QUANTITIES.index("signal"), 1] = signal
    left = np.repeat(values[None], 16, axis=0)
    left[:, lab.QUANTITIES.index("relative_mse"), 0] += spread * rng.normal(size=16) / 16
    left[:, lab.QUANTITIES.index("signal"), 1] += 0.1 * rng.normal(size=16) / 16
    return AtHorizon(names, values, left, None)


def test_the_horizon_of_least_error_is_recommended_with_those_that_cannot_be_told_from_it():
    found = {0: made_up(0.9, 0.1), 1: made_up(0.42, 0.4, seed=1), 3: made_up(0.4, 0.1, seed=2), 5: made_up(3.0, 0.1)}
    best = lab.recommended(found, "dp")
    assert (best.horizon, best.indistinct, best.useful) == (3, (1, 3), True)
    worse = lab.recommended({0: made_up(1.2, 0.1)}, "dp")
    assert worse.horizon == 0 and not worse.useful


def test_nothing_is_recommended_where_the_truth_is_not_told_from_zero():
    assert lab.recommended({0: made_up(0.1, 0.1, signal=0.0)}, "dp") is None
    assert lab.recommended({0: made_up(0.1, 0.1, signal=0.0), 1: made_up(0.5, 0.1)}, "dp").horizon == 1


def test_directions_of_independent_starts():
    def sums(order, seed):
        starts = jax.random.normal(jax.random.key(seed), (4096, 4))
        bank = side_by_side([estimator(k) for k in order])
        return jax.device_get(collect_sums(bank, starts, jax.random.key(seed + 1), 2, 16))

    at = lab.summed_up(("a", "b"), sums((0, 1), 0), 64)
    found = lab.direction(at, sums((1,), 7))
    truth = MEAN @ MEAN[1] / np.linalg.norm(MEAN, axis=1) / np.linalg.norm(MEAN[1])
    assert np.all(np.abs(found.value - truth) < found.high - found.low) and np.all(found.low < found.high)


# ------------------------------------------------------------------------------------------------------ the whole thing


@pytest.fixture(scope="module")
def whole():
    who = subject(256, noise=0.5)._replace(resets=subject(256).first)
    return gradient_diagnosis(who, STUDY._replace(modes=("dp", "lr")), jax.random.key(0))


def test_a_diagnosis_is_json_and_holds_every_part(whole):
    again = json.loads(json.dumps(whole))
    assert again == json.loads(json.dumps(whole)) and again["about"]["truth"]
    assert {"cells", "return", "derivatives", "agreement", "nodes", "stretch", "landscape", "numerics", "meter"} <= set(
        again
    )
    assert len(again["cells"]) == 16 and again["cells"]["truth"]["relative_bias"]["value"] == pytest.approx(0, abs=1e-9)
    closed = np.linalg.norm(lq.A - lq.B @ lq.K, 2)
    assert again["stretch"]["simulator"]["step"]["mean"] == pytest.approx(closed, rel=1e-4)
    assert again["numerics"]["doubt"] == "" and max(again["numerics"]["differences"]["error"]) < 1e-4


def test_without_a_truth_nothing_is_said_of_bias(whole):
    who = subject(256, noise=0.5, truth=False)
    found = gradient_diagnosis(who, STUDY._replace(modes=("dp",)), jax.random.key(0))
    assert found["recommendation"] is None and "cells" not in found and not found["about"]["truth"]
    assert found["quantities"]["relative_bias"]["dp"]["value"] == [None, None]
    np.testing.assert_allclose(
        found["quantities"]["trace"]["dp"]["value"], whole["quantities"]["trace"]["dp"]["value"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunks": 7}, "starts: 32 of them"),
        ({"modes": ("dr",)}, "starts: stretches of 1 steps; dr at h = 2"),
        ({"draws": 1}, "draws: 1; at least 2"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        gradient_diagnosis(subject(32), STUDY._replace(**change), jax.random.key(0))


def test_a_report_has_every_figure_and_says_what_was_found(whole, tmp_path):
    from valex.report.diagnosis import write_diagnosis

    page = write_diagnosis(whole, tmp_path)
    names = ("variance", "bias", "blame", "direction", "nodes", "stretch", "landscape", "meter")
    assert {p.name for p in tmp_path.iterdir()} == {"index.html", "gradients.json"} | {
        f"{n}.{s}" for n in names for s in ("png", "csv")
    }
    text = page.read_text()
    assert all(f"<dt>{name}</dt>" in text for name in whole["about"])  # the scale of what is measured too
    assert "gradients of V_h, not divided by h + 1" in text and "Errors of derivatives" in text
    assert all(f'id="{name}"' in text for name in names) and "Oracle swap table" in text
    said = sentences(whole)
    assert said[0].startswith("Horizon:") and any("To blame: the critic" in line for line in said)
    assert all(
        partial_text in " ".join(said)
        for partial_text in ("Variance at h", "Bias at h", "eps_f", "Lyapunov", "float32")
    )


def test_whatever_goes_by_horizon_is_a_list_in_their_order(whole):
    """No key of the JSON is a horizon."""
    count = len(whole["horizons"])
    tables = [whole["blame"], {"agreement": whole["agreement"]}, whole["quantities"]["between_share"], whole["tails"]]
    assert all(len(x) == count for table in tables for columns in table.values() for x in columns.values())

    def keys(part) -> list[str]:
        return [k for key, value in part.items() for k in (key, *keys(value))] if isinstance(part, dict) else []

    assert not any(key.lstrip("-").isdecimal() for key in keys(whole))


def test_the_share_of_the_starts_has_an_interval(whole):
    """It is that of the jackknife of the quotient, and of the parts that are measured."""
    at = lab.measured(subject(256, noise=0.5), STUDY, jax.random.key(3), 1, ("dp",), {})
    parts = [at.values[lab.QUANTITIES.index(q), 0] for q in ("between", "trace", "within")]
    found = lab.interval(at, "between_share", "dp")
    assert found.value == pytest.approx(parts[0] / parts[1]) and found.low < found.value < found.high
    assert parts[0] + parts[2] == pytest.approx(parts[1])
    assert "% [" in sentences(whole)[1] and "of it lies between start states" in sentences(whole)[1]


@pytest.mark.parametrize(
    ("low", "value", "high", "words"),
    [
        (0.701, 0.84, 0.951, "84 % [70, 95] of it lies between start states, the rest is noise"),
        (-0.11, -0.004, 0.1, "0 % [-11, 10] of it lies .*: that share cannot be told from 0"),
        (None, None, None, "which share .* is not known"),
    ],
)
def test_a_share_is_said_with_its_interval(low, value, high, words):
    assert re.fullmatch(words.replace("[", r"\["), share_words({"value": value, "low": low, "high": high}))


def test_without_a_recommendation_no_horizon_is_spoken_of_as_if_there_were_one(whole):
    said = " ".join(sentences(whole | {"recommendation": None}))
    chosen = whole["about"]["chosen"]
    assert said.startswith("No horizon is recommended") and "More starts may help" in said
    assert f"h = {chosen}, the middle one of those measured, is an example and no advice to use it" in said
    assert "middle one" not in " ".join(sentences(whole))


def test_what_another_mode_adds_is_laid_to_no_component():
    """Along the simulator itself a swap of states, Jacobians or rewards replaces nothing, whatever mode is judged."""
    who = subject(64, noise=0.5)
    at = lab.measured(
        who._replace(model=as_model(who.env), params=()), STUDY, jax.random.key(0), 2, ("detach",), lab.SWAPS
    )
    assert lab.interval(at, "relative_bias", "detach").value != lab.interval(at, "relative_bias", lab.SWAPPED).value
    blame = lab.blame(at)
    for name in ("true states", "true jacobians", "true reward"):
        assert blame[name].value == pytest.approx(0.0, abs=1e-5), name


@pytest.mark.parametrize(
    ("rate", "gamma", "low", "high"),
    [(0.2, 1.0, 0.4, 0.8), (0.2, np.exp(-0.05), 0.3, 0.7), (-0.1, 0.9, 0.0, 0.0), (0.05, np.exp(-0.05), 0.0, 0.1)],
)
def test_predicted_growth_of_a_discounted_sum(rate, gamma, low, high):
    assert predicted_growth(rate, gamma) == pytest.approx((low, high), abs=1e-9)
