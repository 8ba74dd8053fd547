"""The claims of the study trust-your-model: T12 of the specification in parts, T1 with a learned model, T10, and the dial.

Areas under the learning curve (AUC) are compared seed by seed, in return ranges of the environment, as in the horizon study;
its margins hold here too. All were declared before any run: [D] is ours.
"""

import math

import numpy as np

from valex.statistics import rank_correlation
from valex.store import StoredRun
from valex.studies.base import NOT_RUN, Claim, Component
from valex.studies.cells import Grid, arms, auc, cell, finished, horizons, in_words, paired, scores
from valex.studies.horizon_claims import ABOVE, AUC_UNIT, BELOW, MARGIN, SAME
from valex.studies.horizon_measures import auc_contrast, gain_shrinks, learned_on_par, longer_helps, together
from valex.studies.naming import CE, MVE

SOURCE = "2203.14660"
LONG = 10  # the first horizon beyond those at which the source calls a learned model about as good as the oracle
DIALS = {
    "noise": "model.noise=",
    "bias": "model.bias=",
    "data": "model.data_limit=",
}  # what the key of a dial's arm holds


def error_by_steps(run: StoredRun, loop: str = "open_loop", who: str = "rollout", how: str = "rms") -> np.ndarray:
    """Return the error of a run's dynamics model after 1..K steps [K], in standard deviations of the observation.

    Of the model as rollouts follow it, its sampling included, unless `who` says otherwise; [0] where it was not measured.
    """
    found = run.diagnostics.get("model_error")
    return np.array(found[loop]["obs"][who][how], float) if found else np.zeros(0)


def one_step_error(run: StoredRun) -> float:
    """Return the measured one-step error of a run's dynamics model, root mean square over starts; NaN if not measured."""
    errors = error_by_steps(run)
    return float(errors[0]) if len(errors) else math.nan


def dial_arms(grid: Grid, env: str) -> tuple[int, dict[str, list[str]]]:
    """Return (H, {noise, bias, data: arms}): the horizon that the dials were turned at, and the arms of each, none first.

    `noise` and `bias` begin with the oracle, `data` ends with the model that learned from all steps. (0, {}) without any.
    """
    found = {name: [a for a in arms(grid, env) if mark in a] for name, mark in DIALS.items()}
    places = [h for names in found.values() for a in names for h in horizons(grid, env, a) if h]
    if not places:
        return 0, {}
    value = {a: float(a.split(mark)[1].split(" ")[0]) for name, mark in DIALS.items() for a in found[name]}
    found = {name: sorted(names, key=lambda a: value[a]) for name, names in found.items() if names}
    here = min(places)
    return here, {name: [*names, MVE] if name == "data" else [CE, *names] for name, names in found.items()}


def better_model_helps(grid: Grid, env: str) -> list[Component] | str:
    """Return AUC(oracle) - AUC(learned) of critic expansion at H = 10."""
    return together([auc_contrast(grid, env, f"H = {LONG}", {(CE, LONG): 1.0, (MVE, LONG): -1.0})])


def loses_more_beyond(grid: Grid, env: str) -> list[Component] | str:
    """Return the mean gap AUC(oracle) - AUC(learned) over H > 5 less that over 1 <= H <= 5, of all horizons that were run."""
    ran = [h for h in horizons(grid, env, CE) if h in horizons(grid, env, MVE)]
    long, short = [h for h in ran if h > 5], [h for h in ran if 1 <= h <= 5]
    if not long or not short:
        return f"{NOT_RUN}: {in_words(grid, CE)} and {in_words(grid, MVE)} at 1 ≤ H ≤ 5 and at H > 5"
    share = {h: 1.0 / len(long) for h in long} | {h: -1.0 / len(short) for h in short}
    weights = {(CE, h): w for h, w in share.items()} | {(MVE, h): -w for h, w in share.items()}
    detail = f"H {{{', '.join(map(str, long))}}} against {{{', '.join(map(str, short))}}}"
    return together([auc_contrast(grid, env, "gap at long less at short H", weights, detail)])


def error_grows(grid: Grid, env: str) -> list[Component] | str:
    """Return log10(e_K / e_1) of the learned model's open-loop error after 1 and after K steps, K the most measured."""
    here = dial_arms(grid, env)[0]
    found = cell(grid, env, MVE, here) if here else None
    curves = [e for run in finished(grid, env, MVE, here) if len(e := error_by_steps(run)) > 1] if here else []
    if found is None or not curves:
        return "not measured: no finished run with a learned model has diagnostics.model_error_steps"
    steps = min(map(len, curves))
    values = np.array([np.log10(e[steps - 1] / e[0]) for e in curves])
    detail = f"K = {steps}, trained at H = {here}"
    return [Component("log10 e(K) / e(1)", values[np.isfinite(values)], len(found.failed), detail)]


def _correlation(grid: Grid, env: str, label: str, names: list[str], h: int) -> Component | str:
    """Return the rank correlation over arms of measured error and AUC, one value per seed that finished in all of them."""
    cells = [(name, h) for name in names]
    areas = paired(grid, env, cells)
    if isinstance(areas, str):
        return areas
    columns = [scores(grid, env, name, h, measure) for measure in (one_step_error, auc) for name in names]
    seeds = sorted(set.intersection(*map(set, columns)))
    if not seeds:
        return f"not measured: no seed has diagnostics.model_error in all of {len(names)} models"
    values = np.array([[column[seed] for column in columns] for seed in seeds])
    result = rank_correlation(values[:, : len(names)], values[:, len(names) :])
    return Component(label, result[np.isfinite(result)], areas.failed, f"{len(names)} models, H = {h}")


def return_falls_with_error(grid: Grid, env: str) -> list[Component] | str:
    """Return the rank correlations: along the noise dial, oracle included, and over all models, learned ones included."""
    here, dials = dial_arms(grid, env)
    if "noise" not in dials:
        return f"{NOT_RUN}: a noisy oracle"
    every = list(dict.fromkeys(name for names in dials.values() for name in names))
    return together([
        _correlation(grid, env, "along the noise dial", dials["noise"], here),
        _correlation(grid, env, "over all models", every, here),
    ])  # fmt: skip


CLAIMS = (
    Claim(
        "T12a", "Without model error, a longer horizon improves the return.", f"{SOURCE} [S]; test [D]",
        f"AUC(3) − AUC(0) with the oracle, {AUC_UNIT}", ABOVE, longer_helps,
    ),
    Claim(
        "T12b", "Without model error, each further model step gains less.", f"{SOURCE} [S]; test [D]",
        f"drop of the gain per model step with the oracle, {AUC_UNIT}", ABOVE, gain_shrinks,
    ),
    Claim(
        "T12c", f"A better model helps: the oracle is above the learned model at H = {LONG}.", f"{SOURCE} [S]; H ours [D]",
        f"AUC(oracle) − AUC(learned), {AUC_UNIT}", ABOVE, better_model_helps,
    ),
    Claim(
        "T12d", "Beyond H = 5 the learned model loses more to the oracle than up to it.", f"{SOURCE} [S]; test [D]",
        f"mean gap AUC(oracle) − AUC(learned) over H > 5 less over 1 ≤ H ≤ 5, {AUC_UNIT}", ABOVE, loses_more_beyond,
    ),
    Claim(
        "T1d", "A learned model does about as well as the oracle, at equal H ≤ 5.", "2412.20537 [P]; margin [D]",
        f"AUC(learned) − AUC(oracle), {AUC_UNIT}", SAME, learned_on_par,
    ),
    Claim(
        "T10", "The error of the learned model grows with the length of the rollout.", "2412.20537 [U]; test [D]",
        "log10 of the open-loop error after K steps over that after one, root mean square over starts", ABOVE, error_grows,
    ),
    Claim(
        "T12e", "The worse the model, the lower the return.", f"{SOURCE} [S]; test [D]",
        "rank correlation over models of the measured one-step error and the AUC, per seed", BELOW, return_falls_with_error,
    ),
)  # fmt: skip

REMARKS = (
    "The error of a model is measured, on new episodes of the final agent, in standard deviations of the observations, of the "
    "model as rollouts follow it: a member drawn at every step, with its noise. The dial of a noisy oracle is never its x.",
    f"An AUC difference below {100 * MARGIN:g} % of the return range is no difference (margin of the horizon study). The source "
    "of T12 reports means and variances of 5 seeds; they are drawn beside the IQM and its interval.",
)
