"""Does a longer horizon pay with discrete actions? Double DQN on MinAtar: critic expansion, oracle and learned model, Retrace.

The published text on MinAtar (arXiv 2412.20537, version of 2024) was not at hand: games, steps and horizons are ours, and so is
the target, an H-step rollout of the greedy policy. Scores are compared over games as (return - random) / (best - random).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from valex.config import PRESETS
from valex.settings import LEARNED, DiagnosticsConfig, EnvConfig, EvalConfig, RunConfig, TrainConfig
from valex.statistics import iqm, stratified_bootstrap
from valex.studies.base import Claim, Figure, Panel, Plate, Series, Study
from valex.studies.cells import Grid, arms, auc, column, envs, final, horizons, in_words
from valex.studies.horizon import grid
from valex.studies.horizon_claims import ABOVE, AUC_UNIT, MARGIN, PAPER, SAME
from valex.studies.horizon_diagnostics import DIAGNOSTIC_FIGURES
from valex.studies.horizon_measures import (
    gain_shrinks,
    learned_gain_shrinks,
    learned_on_par,
    little_beyond,
    longer_helps,
    retrace_on_par,
)
from valex.studies.naming import CE, MVE, RETRACE
from valex.studies.return_figures import RETURN_FIGURES
from valex.studies.series import HORIZON, horizon_ticks, seeds_of

RANDOM_RETURNS = {  # of uniformly random actions, defaults otherwise: mean and standard error of 2,000 episodes
    "minatar-asterix": (0.525, 0.020),
    "minatar-breakout": (0.380, 0.014),
    "minatar-freeway": (0.395, 0.014),
    "minatar-seaquest": (0.103, 0.009),
    "minatar-space_invaders": (3.877, 0.069),
}
GRID_MODEL = replace(  # what two CPU cores can train beside the learner
    LEARNED["grid"], num_models=1, hidden=(16, 16), steps_per_env_step=0.25, pretrain_steps=500
)


def smoke() -> list[RunConfig]:
    """Return the least that passes through every part: 2 seeds, 1,500 steps of breakout, H in {0, 1}. Settles no claim."""
    base = replace(
        PRESETS["ddqn"],
        agent=replace(PRESETS["ddqn"].agent, hidden=(32,), filters=4, epsilon_steps=500),
        model=replace(GRID_MODEL, hidden=(4,), pretrain_steps=50),
        train=TrainConfig(env_steps=1_500, warmup_steps=256, batch_size=16),
        eval=EvalConfig(every=250, episodes=4, value_bias_states=4),
        diagnostics=DiagnosticsConfig(target_states=16, target_particles=4),
    )
    return grid(base, {CE: (1,), MVE: (1,), RETRACE: (1,)}, (1, 2), (0, 1))


QUICK_GAMES = ("minatar-breakout", "minatar-space_invaders")
QUICK_ARMS = {CE: (1, 3, 5, 10), MVE: (1, 3), RETRACE: (1, 3, 5)}
LEARNED_ARMS = {
    CE: (1, 3, 5, 10),
    MVE: (1, 3, 5),
    RETRACE: (1, 3, 5, 10),
}  # what T11d and T11e need, half as long again
QUICK_SEEDS = (1, 2, 3, 4, 5)


def base(game: str, env_steps: int, every: int, rate: float) -> RunConfig:
    """Return plain double DQN on a game; epsilon falls over the first fifth of the steps."""
    usual = PRESETS["ddqn"]
    return replace(
        usual,
        env=EnvConfig(game),
        agent=replace(usual.agent, critic_lr=rate, epsilon_steps=env_steps // 5),
        model=GRID_MODEL,
        train=replace(usual.train, env_steps=env_steps),
        eval=EvalConfig(every=every, value_bias_states=8),
        diagnostics=DiagnosticsConfig(target_states=64, target_particles=16),
    )


def quick() -> list[RunConfig]:
    """Return the study that two CPU cores finish in minutes: two games, a few thousand steps, 5 seeds."""
    return on_two_games(QUICK_ARMS)


def quick_learned() -> list[RunConfig]:
    """Return the same study with the learned model at every short horizon, for the claims about it."""
    return on_two_games(LEARNED_ARMS)


def on_two_games(arms: dict[str, tuple[int, ...]]) -> list[RunConfig]:
    """Return the runs of some arms under the budget of the quick study."""
    bases = [base(game, 8_000, 500, 1e-3) for game in QUICK_GAMES]
    return [config for one in bases for config in grid(one, arms, QUICK_SEEDS, (0, 1, 3, 5, 10))]


PAPER_HORIZONS = (0, 1, 3, 5, 10)
PAPER_MODEL = replace(GRID_MODEL, num_models=5, hidden=(32, 32))


def paper() -> list[RunConfig]:
    """Return all five games, a million steps, 9 seeds: 5 x (1 + 3 arms x 4 horizons) x 9 runs. Nobody has published this grid."""
    arms: dict[str, tuple[int, ...]] = dict.fromkeys((CE, MVE, RETRACE), PAPER_HORIZONS)
    bases = [replace(base(game, 1_000_000, 20_000, 3e-4), model=PAPER_MODEL) for game in RANDOM_RETURNS]
    return [config for one in bases for config in grid(one, arms, tuple(range(1, 10)), PAPER_HORIZONS)]


def scale(grid: Grid, env: str) -> tuple[float, float] | str:
    """Return the returns that score 0 and 1 in a task: the random policy's, and the best IQM of final returns of any cell."""
    game = grid.tasks[env].env
    if game not in RANDOM_RETURNS:
        return f"{game} has no measured random return"
    cells = [column(grid, env, arm, h, final) for arm in arms(grid, env) for h in horizons(grid, env, arm)]
    best = max((float(iqm(values)) for values in cells if len(values)), default=-np.inf)
    low = RANDOM_RETURNS[game][0]
    return (low, best) if best > low else f"no cell of {game} beats the random policy"


def normalised(grid: Grid, arm: str, h: int, measure: Callable) -> list[np.ndarray]:
    """Return measure(run) on the scale of its game, one array over seeds for each game that has the cell."""
    strata = []
    for env in envs(grid):
        bounds, values = scale(grid, env), column(grid, env, arm, h, measure)
        if not isinstance(bounds, str) and len(values):
            strata.append((values - bounds[0]) / (bounds[1] - bounds[0]))
    return strata


def score_points(grid: Grid, arm: str, games: list[str], measure: Callable) -> Series | None:
    """Return IQM and interval over games and seeds of an arm's normalised scores by H, where every game has the cell."""
    columns = {h: normalised(grid, arm, h, measure) for h in sorted({h for e in games for h in horizons(grid, e, arm)})}
    columns = {h: strata for h, strata in columns.items() if len(strata) == len(games)}
    if not columns:
        return None
    found = [stratified_bootstrap(strata) for strata in columns.values()]
    value, low, high = (np.array([float(getattr(i, name)) for i in found]) for name in ("value", "low", "high"))
    n = tuple(min(map(len, strata)) for strata in columns.values())
    return Series(in_words(grid, arm), arm, np.array(list(columns), float), value, low, high, n, "points")


def over_games(grid: Grid) -> Plate:
    """Return normalised area and final return against H: IQM over games and seeds, one line per arm."""
    panels, scales = [], {env: scale(grid, env) for env in envs(grid)}
    games = [env for env, found in scales.items() if not isinstance(found, str)]
    for title, measure in (("area under the curve", auc), ("final return", final)):
        series = [s for arm in arms(grid) if (s := score_points(grid, arm, games, measure))]
        if series:
            ticks, name = horizon_ticks(series), f"{len(games)} games · {title}"
            panels.append(Panel(name, HORIZON, "normalised score", series, "horizon", ticks))
    said = "; ".join(f"{env}: {scales[env][0]:.3g} to {scales[env][1]:.3g}" for env in games)
    note = (
        f"0: random policy, 1: best cell's IQM of final returns ({said}). Point: IQM over games and seeds, {seeds_of(panels)} "
        "a game; bar: 95 % bootstrap stratified by game. Cells that a game lacks are left out."
    )
    return Plate(panels, 2, note, [found for found in scales.values() if isinstance(found, str)])


FIGURES = (
    Figure(
        "normalised",
        "Normalised return against the horizon, all games together",
        "Left: area under the learning curve, right: the last evaluation, each between the random policy (0) and the best "
        "cell of its game (1).",
        over_games,
    ),
    *RETURN_FIGURES,
    *(figure for figure in DIAGNOSTIC_FIGURES if figure.name in ("targets", "value_bias")),
)

CLAIMS = (
    Claim(
        "T11a", "With an oracle, a longer critic expansion helps double DQN.", f"{PAPER} [S]; test [D]",
        f"AUC(3) − AUC(0), {AUC_UNIT}", ABOVE, longer_helps,
    ),
    Claim(
        "T11b", "Each further model step gains less.", f"{PAPER} [S]; test [D]",
        f"drop of the gain per model step, {AUC_UNIT}", ABOVE, gain_shrinks,
    ),
    Claim(
        "T11c", "Beyond H = 5 it gains little.", f"{PAPER} [S]; margin [D]",
        f"AUC(longest H) − AUC(5), {AUC_UNIT}", (-np.inf, MARGIN), little_beyond,
    ),
    Claim(
        "T11d", "A learned model of the game does about as well as the oracle, at equal H ≤ 5.", f"{PAPER} [S]; margin [D]",
        f"AUC(learned) − AUC(oracle), {AUC_UNIT}", SAME, learned_on_par,
    ),
    Claim(
        "T11e", "With the learned model each further step gains less as well.", f"{PAPER} [S]; test [D]",
        f"drop of the gain per model step, {AUC_UNIT}", ABOVE, learned_gain_shrinks,
    ),
    Claim(
        "T11f", "Retrace, without a model, is on par with critic expansion at equal H.", "after T3 of 2412.20537 [D]",
        f"AUC(Retrace) − AUC(CE), {AUC_UNIT}", SAME, partial(retrace_on_par, other=CE),
    ),
)  # fmt: skip

REMARKS = (
    "T11d and T11e need the learned model at H = 5: quick-learned and paper have it, quick has not.",
    "The published text on MinAtar was not at hand: which games, how many steps and which horizons is ours. Verdicts speak "
    "about double DQN under this budget. Retrace of the greedy policy is the cut of Watkins: it seldom looks far while much "
    "is explored.",
    f"Margins are those of the horizon study: an AUC difference below {100 * MARGIN:g} % of the return range is no difference.",
)

DISCRETE_HORIZON = Study(
    name="discrete-horizon",
    title="Does a longer horizon pay with discrete actions?",
    summary=(
        "Double DQN on MinAtar with targets that look H steps further ahead: on the game itself as an oracle, restarted "
        "with fresh chance, on a learned model of its grid, and along stored sequences (Retrace)."
    ),
    presets={"smoke": smoke, "quick": quick, "quick-learned": quick_learned, "paper": paper},
    figures=FIGURES,
    claims=CLAIMS,
    remarks=REMARKS,
)
