"""The horizon study on synthetic runs of known shape: presets, cells, figures, and every claim to every verdict."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
from synthetic import World

from valex.config import expansion, horizon
from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED, with_learner
from valex.studies.cells import (
    arms,
    auc,
    envs,
    final,
    horizons,
    make_grid,
    paired,
    return_bounds,
    scores,
    update_seconds,
)
from valex.studies.horizon import (
    HORIZON,
    grid as make_configs,
    paper,
    quick,
    quick_base,
    quick_learned,
    quick_particles,
    smoke,
    with_released_density,
)
from valex.studies.judge import POOLED, judge
from valex.studies.naming import arm
from valex.studies.results import as_text, results

PAPER = {"inverted_pendulum", "cartpole", "hopper", "walker2d", "halfcheetah"}
SHORT = (0, 1, 3, 5, 10)


EVERY = ("ce", "ae", "retrace")
LEARNED = ("mve", "ae_learned")


def configs(env="pendulum", horizons=SHORT, seeds=(1, 2, 3, 4, 5, 6), arms=EVERY):
    return make_configs(quick_base(env), {name: horizons for name in arms}, seeds, horizons)


def world_grid(world=None, **which):
    return make_grid([synthetic.run(world or World(), config) for config in configs(**which)])


def verdict(claim_id, world, env="pendulum", **which):
    return synthetic.judged(HORIZON, claim_id, world_grid(world, env=env, **which))


# presets


@pytest.mark.parametrize("name", HORIZON.presets)
def test_one_seed_of_each_cell_is_timed_and_targets_are_compared_at_horizon_zero(name):
    declared = HORIZON.presets[name]()
    per_cell = Counter((c.env.name, arm(c), horizon(c)) for c in declared if c.diagnostics.overhead)
    assert set(per_cell.values()) == {1}  # one seed of each cell is timed
    assert all(bool(c.diagnostics.target_horizons) == (horizon(c) == 0) for c in declared)


def test_counts_of_the_grids():
    assert len(smoke()) == 2 * 3
    assert Counter((expansion(c) or "base", horizon(c)) for c in quick()) == {
        ("base", 0): 5,
        **{("ce", h): 5 for h in (1, 3, 5, 10)},
        **{("retrace", h): 5 for h in (1, 3, 5)},
    }
    assert [c for c in quick_learned() if expansion(c) != "mve"] == quick()
    assert Counter(horizon(c) for c in quick_learned() if expansion(c) == "mve") == dict.fromkeys((1, 3, 5, 10), 5)
    declared = paper()
    assert len(declared) == 1395
    cells = {(c.env.name, expansion(c), horizon(c)) for c in declared}
    assert Counter(env for env, _, _ in cells) == dict.fromkeys(PAPER, 31)
    assert {name for _, name, _ in cells} == {"", "ce", "mve", "ae", "ae_learned", "retrace"}
    assert {c.seed for c in declared} == set(range(1, 10))


def test_paper_has_the_published_settings():
    one = {c.env.name: c for c in paper() if horizon(c) == 30 and c.seed == 1 and expansion(c) == "ce"}
    table = {
        name: (c.train.num_envs, c.gamma, c.env.action_repeat, c.train.warmup_steps, c.train.batch_size)
        for name, c in one.items()
    }
    assert table == {
        "inverted_pendulum": (1, 0.95, 4, 512, 256),
        "cartpole": (1, 0.99, 2, 512, 256),
        "hopper": (128, 0.99, 2, 65_536, 256),
        "walker2d": (128, 0.99, 2, 65_536, 256),
        "halfcheetah": (128, 0.95, 1, 65_536, 512),
    }
    assert [one[name].env.episode_length for name in table] == [250, 500, 500, 500, 1000]
    assert all(
        c.agent.alpha_lr == 5e-5 and c.agent.hidden == (256, 256) and c.actor.divide_by_length for c in one.values()
    )
    assert 0 <= 1_000_000 - one["hopper"].train.env_steps < 128
    learned = next(c for c in paper() if expansion(c) == "ae_learned").model
    assert (learned.num_models, learned.num_elites, learned.hidden, learned.lr) == (5, None, (256,) * 4, 3e-4)


# cells


def test_horizon_zero_is_one_cell_of_every_arm():
    grid = world_grid()
    assert arms(grid) == ["ce", "ae", "retrace"]
    assert all(horizons(grid, "pendulum", name) == list(SHORT) for name in arms(grid))
    assert scores(grid, "pendulum", "ce", 0) == scores(grid, "pendulum", "retrace", 0)


def test_final_is_the_last_evaluation_and_auc_the_mean_height():
    made = synthetic.run(World(), configs()[0])
    returns = made.metrics["eval/episode_return"]
    returns[3] = 1e6
    assert final(made) == returns[-1]
    returns[:] = 7.0
    assert auc(made) == pytest.approx(7.0)


def test_runs_under_other_settings_are_not_mixed_in():
    few = [replace(c, gamma=0.9) for c in configs(seeds=(1,), arms=())]
    grid = make_grid([synthetic.run(World(), c) for c in [*few, *configs(seeds=(1, 2))]])
    assert len(scores(grid, "pendulum", "base", 0)) == 2
    assert grid.left_out == ["1 run(s) in pendulum with other settings than the rest: gamma = 0.9 (not 0.95)"]


def test_unfinished_and_failed_runs_are_counted_and_shown():
    runs = [synthetic.run(World(failed=frozenset({("ce", 3, 2)})), c) for c in configs(arms=("ce",))]
    runs = [
        r._replace(status={"state": "interrupted"}) if r.path.name.startswith("pendulum__sac-ce__H5__s1_") else r
        for r in runs
    ]
    rows = {(row.arm, row.horizon): row for row in results(make_grid(runs))}
    assert [rows["ce", h][5:8] for h in (1, 3, 5)] == [(6, 0, 0), (5, 1, 0), (5, 0, 1)]
    text = as_text(list(rows.values()))
    assert text.isascii() and "5 (1 diverged)" in text and "5 (1 unfinished)" in text


def test_a_failed_run_scores_the_floor_only_where_asked():
    grid = world_grid(World(failed=frozenset({("ce", 3, 2)})))
    found = paired(grid, "pendulum", [("ce", 3), ("ce", 0)])
    assert not isinstance(found, str) and found.values.shape == (2, 5) and found.failed == 1
    with_floor = scores(grid._replace(floor=True), "pendulum", "ce", 3)
    assert with_floor[2] == return_bounds(grid, "pendulum")[0] == min(with_floor.values())


# claims: every one to every verdict


def levels(**by_arm):
    """Return level(arm, H) from tables H -> return; -200 elsewhere."""
    return lambda name, h: by_arm.get(name.replace("-", "_"), {}).get(h, -200.0)


def ce(*values):
    return World(level=levels(base={0: values[0]}, ce=dict(zip(SHORT[1:], values[1:], strict=True))))


def noisy(world, noise=300.0):
    return replace(world, noise=noise)


FLAT = World()
CASES = [
    ("T1a", ce(-400, -300, -250, -240, -240), ce(-200, -300, -350, -400, -400), noisy(FLAT)),
    ("T1b", ce(-600, -400, -300, -280, -270), ce(-600, -590, -500, -100, -100), noisy(FLAT)),
    ("T1c", ce(-600, -400, -300, -280, -270), ce(-600, -600, -600, -600, -200), noisy(FLAT)),
    ("T1d", FLAT, World(level=lambda name, h: -500.0 if name == "mve" else -200.0), noisy(FLAT)),
    ("T2", World(level=levels(ae={10: -500.0})), World(level=levels(ae={10: -50.0})), noisy(FLAT)),
    ("T3a", FLAT, World(level=lambda name, h: -500.0 if name == "retrace" else -200.0), noisy(FLAT)),
    ("T3b", FLAT, World(level=lambda name, h: -500.0 if name == "ae" else -200.0), noisy(FLAT)),
    ("T5a", FLAT, World(target_mean=lambda h: -50.0 - 2.0 * h), World(target_mean=lambda h: -50.0 - 0.2 * h)),
    ("T5b", FLAT, World(target_mean=lambda h: -90.0), World(target_mean=lambda h: -52.0)),
    ("T9a", FLAT, World(seconds=lambda name, h: 1e-3 * (1 + (name == "retrace"))), None),
    ("T9b", World(seconds=lambda name, h: 1e-3 * (1 + h)), FLAT, None),
    ("T9c", World(seconds=lambda name, h: 1e-3 * (1 + h)), FLAT, None),
]


@pytest.mark.parametrize("claim, yes, no, open_", CASES, ids=[case[0] for case in CASES])
def test_claims_reach_every_verdict(claim, yes, no, open_):
    arms = EVERY + LEARNED
    assert verdict(claim, yes, arms=arms).verdict == SUPPORTED
    assert verdict(claim, no, arms=arms).verdict == NOT_SUPPORTED
    if open_ is None:  # a ratio near its margin
        open_ = World(seconds=lambda name, h: 1e-3 * (1.1 if h else 1.0))
    assert verdict(claim, open_, arms=arms).verdict == UNDECIDED
    assert synthetic.undecided_for_few(verdict(claim, yes, arms=arms, seeds=(1, 2, 3, 4)))


ODD_CE, ODD_RETRACE = "ce_retrace agent.density=released", "retrace agent.density=released"
DDPG_CASES = [
    ("T4a", ce(-600, -400, -300, -280, -270), ce(-600, -590, -500, -100, -100), noisy(FLAT)),
    ("T4b", ce(-600, -400, -300, -280, -270), ce(-600, -600, -600, -600, -200), noisy(FLAT)),
    ("T4c", World(target_variance=lambda h: 0.0), FLAT, None),
    ("T4d", FLAT, World(level=lambda name, h: -500.0 if name == ODD_RETRACE else -200.0), noisy(FLAT)),
    (
        "T4e",
        World(level=lambda name, h: (-600, -400, 0, -300, 0, -280)[min(h, 5)] if name in (ODD_CE, "base") else -200.0),
        World(level=lambda name, h: (-600, -590, 0, -500, 0, -100)[min(h, 5)] if name in (ODD_CE, "base") else -200.0),
        noisy(FLAT),
    ),
]


def ddpg_grid(world, agents=("ddpg",), seeds=(1, 2, 3, 4, 5, 6)):
    """Critic expansion and Retrace with deterministic learners, and DDPG as the release has it."""
    plain = configs(arms=("ce", "retrace"), seeds=seeds)
    runs = [c for agent in agents for c in with_released_density([with_learner(p, agent) for p in plain])]
    return make_grid([synthetic.run(world, config) for config in runs])


@pytest.mark.parametrize("claim, yes, no, open_", DDPG_CASES, ids=[case[0] for case in DDPG_CASES])
def test_claims_about_deterministic_policies(claim, yes, no, open_):
    judged = lambda world, **which: synthetic.judged(HORIZON, claim, ddpg_grid(world, **which))  # noqa: E731
    assert judged(yes).verdict == SUPPORTED and judged(no).verdict == NOT_SUPPORTED
    if open_:
        assert judged(open_).verdict == UNDECIDED
    assert synthetic.undecided_for_few(judged(yes, seeds=(1, 2, 3, 4)))


def test_learners_are_compared_within_themselves():
    """One row of figures and one set of verdicts for each learner; what one does to another is no claim of this study."""
    grid = ddpg_grid(FLAT, agents=("sac", "ddpg", "td3"))
    assert envs(grid) == [f"pendulum · {name}" for name in ("SAC", "DDPG", "TD3")] and not grid.left_out
    assert {name for task, name, _ in grid.cells if "DDPG" in task} == {"base", "ce", "retrace", ODD_CE, ODD_RETRACE}
    assert {name for task, name, _ in grid.cells if "TD3" in task} == {"base", "ce", "retrace"}
    by_claim = {claim.id: [v.env for v in judge(claim, grid)] for claim in HORIZON.claims}
    assert by_claim["T1b"] == ["pendulum · SAC"] and by_claim["T4c"] == ["pendulum · DDPG"]
    assert by_claim["T4a"] == ["pendulum · DDPG", "pendulum · TD3", "pooled"]
    rows = {(r.task, r.env, r.agent) for r in results(grid)}
    assert ("pendulum · TD3", "pendulum", "td3") in rows
    for figure in HORIZON.figures:
        for panel in figure.plate(grid).panels:
            assert "pendulum" in panel.title or figure.name.startswith("overhead")


MANY = "ce critic.particles=8"
FLAT_ABOVE_ONE = World(level=lambda name, h: (-600, -400, 0, -300, 0, -280)[min(h, 5)] if name != "ce" else -200.0)
PARTICLE_CASES = [
    ("T8a", FLAT_ABOVE_ONE, World(level=lambda name, h: (-600, -590, 0, -500, 0, -100)[min(h, 5)]), noisy(FLAT)),
    ("T8b", FLAT, World(level=lambda name, h: -500.0 if name == MANY else -200.0), noisy(FLAT)),
]


@pytest.mark.parametrize("claim, yes, no, open_", PARTICLE_CASES, ids=[case[0] for case in PARTICLE_CASES])
def test_claims_about_particles(claim, yes, no, open_):
    declared = quick_particles()
    assert {(arm(c), horizon(c)) for c in declared} == {("base", 0)} | {(a, h) for a in ("ce", MANY) for h in SHORT[1:]}
    judged = lambda world: synthetic.judged(HORIZON, claim, make_grid([synthetic.run(world, c) for c in declared]))  # noqa: E731
    assert [judged(world).verdict for world in (yes, no, open_)] == [SUPPORTED, NOT_SUPPORTED, UNDECIDED]


LONG = (0, 1, 3, 30)


@pytest.mark.parametrize("claim", ["T5c", "T5d"])
def test_target_variance_claims(claim):
    grows = World(target_variance=lambda h: 10.0 ** (0.2 * h))
    assert verdict(claim, grows).verdict == SUPPORTED  # a hundredfold by H = 10
    assert verdict(claim, grows, horizons=LONG).verdict == SUPPORTED
    assert verdict(claim, World(target_variance=lambda h: 1.0), horizons=LONG).verdict == NOT_SUPPORTED
    short = verdict(claim, World(target_variance=lambda h: 1.0))
    assert short.verdict == UNDECIDED and "up to H = 10" in short.reason  # a short grid cannot refute
    assert verdict(claim, World(target_variance=lambda h: 10.0 if h else 1.0), horizons=LONG).verdict == UNDECIDED


@pytest.mark.parametrize("claim", ["T6a", "T6b"])
def test_actor_gradient_claims_are_about_halfcheetah(claim):
    explodes = World(gradient=lambda h: 1e-3 if h < 3 else 1.0)
    assert verdict(claim, explodes, env="halfcheetah").verdict == SUPPORTED
    flat = verdict(claim, FLAT, env="halfcheetah")
    assert flat.verdict == NOT_SUPPORTED and "1/(H+1) inside" in flat.statistic
    late = World(gradient=lambda h: 1.0 if h > 3 else 1e-2 if h == 3 else 1e-3)
    assert verdict(claim, late, env="halfcheetah").verdict == UNDECIDED
    absent = verdict(claim, explodes, env="hopper")
    assert absent.verdict == UNDECIDED and absent.reason == "not run in this preset: halfcheetah, SAC"


def test_the_learned_actor_gradient_claim_begins_at_twenty_steps():
    arms, horizons = ("ae_learned",), (0, 1, 3, 10, 20, 30)
    late = World(gradient=lambda h: 1e-3 if h < 20 else 1.0)
    assert verdict("T6c", late, env="halfcheetah", arms=arms, horizons=horizons).verdict == SUPPORTED
    assert verdict("T6c", FLAT, env="halfcheetah", arms=arms, horizons=horizons).verdict == NOT_SUPPORTED
    short = verdict("T6c", late, env="halfcheetah", arms=arms)
    assert short.reason == "not run in this preset: actor expansion, learned (AE) at H ≥ 20"


def test_absent_arms_are_undecided_with_the_reason():
    grid = world_grid(arms=("retrace",))
    reasons = {v.claim: v.reason for claim in HORIZON.claims for v in judge(claim, grid)}
    for name in ("T1a", "T1b", "T1c", "T1d", "T2", "T3a", "T3b", "T6a", "T9b", "T9c"):
        assert reasons[name].startswith("not run in this preset"), name


def test_a_verdict_does_not_hang_on_diverged_runs():
    best = ce(-400, -300, -250, -240, -240)
    seeds = tuple(range(1, 10))
    failed = frozenset(("ce", 3, seed) for seed in (1, 2, 3, 4))
    found = verdict("T1a", replace(best, failed=failed), seeds=seeds)
    assert found.verdict == UNDECIDED and found.n == 5 and found.failed == 4 and "diverged" in found.reason
    one = verdict("T1a", replace(best, failed=frozenset({("ce", 3, 1)})), seeds=tuple(range(1, 20)))
    assert one.verdict == SUPPORTED and one.failed == 1


def test_pooled_over_environments():
    claim = next(claim for claim in HORIZON.claims if claim.id == "T1a")
    up, down = ce(-400, -300, -250, -240, -240), ce(-250, -300, -400, -400, -400)
    runs = [synthetic.run(w, c) for w, env in ((up, "hopper"), (down, "walker2d")) for c in configs(env)]
    found = {v.env: v for v in judge(claim, make_grid(runs))}
    assert [found[env].verdict for env in ("hopper", "walker2d", POOLED)] == [SUPPORTED, NOT_SUPPORTED, UNDECIDED]
    assert found[POOLED].n == 12
    few = [
        synthetic.run(up, c)
        for env, seeds in (("hopper", (1, 2, 3, 4, 5)), ("walker2d", (1,)))
        for c in configs(env, seeds=seeds)
    ]
    assert judge(claim, make_grid(few))[-1].reason.startswith("fewer than two environments")


# figures


def test_every_figure_draws_panels_that_hold_data():
    grid = world_grid(World(failed=frozenset({("ce", 3, 2)})), env="halfcheetah")
    for figure in HORIZON.figures:
        plate = figure.plate(grid)
        assert plate.panels and not plate.left_out, figure.name
        for panel in plate.panels:
            assert panel.series and panel.xlabel and panel.ylabel
            assert all(len(s.x) == len(s.y) > 0 and np.all(np.isfinite(s.y)) for s in panel.series)
        assert "n = " in plate.note
    curves = next(f for f in HORIZON.figures if f.name == "learning_curves").plate(grid)
    assert [s.style for s in curves.panels[0].series].count("failed") == 1


def test_figures_without_data_are_left_out_with_the_reason():
    bare = [
        r._replace(diagnostics={}) for r in (synthetic.run(World(), c) for c in configs(arms=("ce",), seeds=(1, 2)))
    ]
    grid = make_grid(bare)
    plates = {figure.name: figure.plate(grid) for figure in HORIZON.figures}
    for name in ("targets", "actor_gradients", "actor_gradient_training", "overhead_split"):
        assert not plates[name].panels and plates[name].left_out, name
    assert plates["learning_curves"].panels


def test_figures_name_estimator_interval_and_factor():
    notes = {figure.name: figure.plate(world_grid()).note for figure in HORIZON.figures}
    assert (
        "critic expansion (CE): plain" in notes["target_variance"]
        and "Retrace: doubly robust" in notes["target_variance"]
    )
    assert "plain and doubly robust" in notes["targets"]
    assert "1/(H+1) is inside" in notes["actor_gradients"] and "1/(H+1) is inside" in notes["actor_gradient_training"]
    assert all("95 % stratified bootstrap" in notes[n] for n in notes if n != "overhead_split")


def test_marginal_gain_is_per_model_step_and_paired():
    steady = replace(ce(-1000, -900, -700, -500, 0), noise=0.0)
    plate = next(f for f in HORIZON.figures if f.name == "marginal_gain").plate(world_grid(steady, arms=("ce",)))
    gains = plate.panels[0].series[0].y
    np.testing.assert_allclose(gains, gains[0], rtol=1e-9)  # 100 a step everywhere
    assert [label for _, label in plate.panels[0].x_ticks] == ["0→1", "1→3", "3→5", "5→10"]


@pytest.mark.parametrize(("seconds", "wanted"), [([0.0, 0.2, 0.4, np.nan], 0.3), ([0.0, 0.0], np.nan), ([], np.nan)])
def test_chunks_too_short_to_be_timed_are_no_time(seconds, wanted):
    run = SimpleNamespace(time={"time/update_s": np.array(seconds, float)})
    np.testing.assert_allclose(update_seconds(run), wanted)
