"""The claims of the horizon study: T1 to T6, T8, T9 of the specification, in parts where a claim has several.

What is measured stands in `horizon_measures.py`. Margins are ours [D], declared here before any run: the sources give no numbers.
"""

import math
from functools import partial

from valex.studies.base import Claim
from valex.studies.horizon_measures import (
    gain_shrinks,
    gradient_explodes,
    learned_on_par,
    little_beyond,
    long_rollouts_hurt,
    longer_helps,
    no_target_variance,
    retrace_on_par,
    same_as,
    same_targets,
    slowdown,
    target_variance_grows,
)
from valex.studies.naming import AE, AE_LEARNED, CE, RETRACE
from valex.studies.stabilisers import PARAM_STD, SAMPLE_STD, STABILISER_CLAIMS, TENFOLD

RELEASED_CE, RELEASED_RETRACE = f"{CE}_retrace agent.density=released", f"{RETRACE} agent.density=released"
MANY = f"{CE} critic.particles=8"  # the released density (B2), and eight rollouts for a target
MARGIN = 0.05  # AUC differences below 5 % of the return range count as the same
TARGET_MARGIN = 0.2  # target means closer than 0.2 standard deviations of the H = 0 target count as the same
OVERHEAD = 1.1  # an update up to 10 % slower counts as no overhead
PAPER = "2412.20537"

ABOVE, BELOW, SAME = (0.0, math.inf), (-math.inf, 0.0), (-MARGIN, MARGIN)
EQUAL_TARGETS, GROWS = (-TARGET_MARGIN, TARGET_MARGIN), (TENFOLD, math.inf)
AUC_UNIT = "paired AUC, in return ranges of the environment"

SAC, DETERMINISTIC = ("sac",), ("ddpg", "td3")

CLAIMS = (
    Claim(
        "T1a", "With an oracle, a longer critic expansion helps.", f"{PAPER} [S, T]; test [D]",
        f"AUC(3) − AUC(0), {AUC_UNIT}", ABOVE, longer_helps, agents=SAC,
    ),
    Claim(
        "T1b", "Each further model step of critic expansion gains less.", f"{PAPER} [S, T]; test [D]",
        f"drop of the gain per model step, {AUC_UNIT}", ABOVE, gain_shrinks, agents=SAC,
    ),
    Claim(
        "T1c", "Beyond H = 5 critic expansion gains little.", f"{PAPER} [S, T]; margin [D]",
        f"AUC(longest H) − AUC(5), {AUC_UNIT}", (-math.inf, MARGIN), little_beyond, agents=SAC,
    ),
    Claim(
        "T1d", "A learned model does about as well as the oracle, at equal H ≤ 5.", f"{PAPER} [P]; margin [D]",
        f"AUC(learned) − AUC(oracle) of critic expansion, {AUC_UNIT}", SAME, learned_on_par, agents=SAC,
    ),
    Claim(
        "T2", "Actor expansion does worse at longer horizons.", f"{PAPER} [S]; test [D]",
        f"mean AUC(H ≥ 10) − mean AUC(1 ≤ H ≤ 5), {AUC_UNIT}", BELOW, long_rollouts_hurt, agents=SAC,
    ),
    Claim(
        "T3a", "Retrace, without a model, is on par with critic expansion at equal H.", f"{PAPER} [P]; margin [D]",
        f"AUC(Retrace) − AUC(CE), {AUC_UNIT}", SAME, partial(retrace_on_par, other=CE), agents=SAC,
    ),
    Claim(
        "T3b", "Retrace, without a model, is on par with actor expansion at equal H.", f"{PAPER} [P]; margin [D]",
        f"AUC(Retrace) − AUC(AE), {AUC_UNIT}", SAME, partial(retrace_on_par, other=AE), agents=SAC,
    ),
    Claim(
        "T4a", "With a deterministic policy each further model step of critic expansion gains less as well.",
        f"{PAPER} [S]; test [D]", f"drop of the gain per model step, {AUC_UNIT}", ABOVE, gain_shrinks, agents=DETERMINISTIC,
    ),
    Claim(
        "T4b", "Beyond H = 5 it gains little.", f"{PAPER} [S]; margin [D]",
        f"AUC(longest H) − AUC(5), {AUC_UNIT}", (-math.inf, MARGIN), little_beyond, agents=DETERMINISTIC,
    ),
    Claim(
        "T4c", "The targets of DDPG with an oracle have no variance given (s, a): it cannot be the cause.",
        f"{PAPER} [S]; test [D]", "within-state variance over total variance of targets at the longest H", (-math.inf, 1e-4),
        no_target_variance, agents=("ddpg",),
    ),
    Claim(
        "T4d", "The density that the release writes down for DDPG (defect B2) makes no difference.", "ours [D]",
        f"AUC(released density) − AUC(that of the noise) at each H, {AUC_UNIT}", SAME,
        partial(same_as, pairs=((RELEASED_RETRACE, RETRACE), (RELEASED_CE, CE))), agents=("ddpg",),
    ),
    Claim(
        "T4e", "Under the released density each further model step gains less, as the paper's own runs would show.",
        f"{PAPER} [S], code [R]; test [D]", f"drop of the gain per model step, {AUC_UNIT}", ABOVE,
        partial(gain_shrinks, arm=RELEASED_CE), agents=("ddpg",),
    ),
    Claim(
        "T5a", "The expected target is nearly equal for all H.", f"{PAPER} [S]; margin [D]",
        "mean target(H) − mean target(0), in sd of the H = 0 target, estimator plain", EQUAL_TARGETS,
        partial(same_targets, key="mean"), agents=SAC,
    ),
    Claim(
        "T5b", "The expected target is close to the true return for all H.", f"{PAPER} [S]; margin [D]",
        "mean target(H) − Monte-Carlo return, in sd of the H = 0 target, estimator plain", EQUAL_TARGETS,
        partial(same_targets, key="bias"), agents=SAC,
    ),
    Claim(
        "T5c", "The variance of the target rises by orders of magnitude with H (estimator plain).",
        f"{PAPER} [S]; tenfold [D]", "log10 ratio of the within-state variance, longest H to H = 0, estimator plain",
        GROWS, partial(target_variance_grows, estimator="plain"), agents=SAC,
    ),
    Claim(
        "T5d", "It does so with the doubly robust estimator too, which the released code computes.",
        f"{PAPER} [S], code [R]; tenfold [D]",
        "log10 ratio of the within-state variance, longest H to H = 0, estimator doubly_robust", GROWS,
        partial(target_variance_grows, estimator="doubly_robust"), agents=SAC,
    ),
    Claim(
        "T6a", "On halfcheetah the std of the actor gradient over PARAMETER ENTRIES explodes for H ≥ 3.",
        f"{PAPER} [S], metric [R]; tenfold [D]", "log10 ratio of actor/grad_param_std to H = 1, mean over training",
        GROWS, partial(gradient_explodes, spread=PARAM_STD), ("halfcheetah",), SAC,
    ),
    Claim(
        "T6b", "So does its std ACROSS SAMPLES, the square root of the per-sample gradient variance.", "ours [D]",
        "log10 ratio of the across-sample std to H = 1, mean over training", GROWS,
        partial(gradient_explodes, spread=SAMPLE_STD), ("halfcheetah",), SAC,
    ),
    Claim(
        "T6c", "With a learned model it explodes for H ≥ 20.", f"{PAPER} [S], metric [R]; tenfold [D]",
        "log10 ratio of actor/grad_param_std to H = 1, mean over training, learned model", GROWS,
        partial(gradient_explodes, spread=PARAM_STD, name=AE_LEARNED, least=20), ("halfcheetah",), SAC,
    ),
    *STABILISER_CLAIMS,
    Claim(
        "T8a", "The mean of eight rollouts for each target does not remove the diminishing return.",
        f"{PAPER} [S], P unknown; test [D]", f"drop of the gain per model step with 8 particles, {AUC_UNIT}", ABOVE,
        partial(gain_shrinks, arm=MANY), agents=SAC,
    ),
    Claim(
        "T8b", "It makes no difference at any horizon.", "ours [D]",
        f"AUC(8 particles) − AUC(1) at each H, {AUC_UNIT}", SAME, partial(same_as, pairs=((MANY, CE),)), agents=SAC,
    ),
    Claim(
        "T9a", "Retrace has no computational overhead.", f"{PAPER} [P]; margin [D]",
        "seconds per update, longest H over H = 0", (-math.inf, OVERHEAD), partial(slowdown, name=RETRACE),
    ),
    Claim(
        "T9b", "The cost of critic expansion grows with H.", "expected by the specification [D]",
        "seconds per update, longest H over H = 0", (OVERHEAD, math.inf), partial(slowdown, name=CE),
    ),
    Claim(
        "T9c", "The cost of actor expansion grows with H.", "expected by the specification [D]",
        "seconds per update, longest H over H = 0", (OVERHEAD, math.inf), partial(slowdown, name=AE),
    ),
)  # fmt: skip

REMARKS = (
    "T4 is about deterministic policies: add --agents ddpg,td3 (with sac, to see both). T8 is settled by the preset "
    "quick-particles, T6d to T6o by quick-stabilisers and, on halfcheetah, quick-contacts (their learner is RP-PGM: SAC, but "
    "its policy can be normalised). "
    "T1d and T6c need a learned model: quick-learned and paper have one, quick has only the oracle. "
    "What the quality of a model buys is the question of the study trust-your-model.",
    "Margins are ours and were fixed before any run, since the sources give none: an AUC difference below "
    f"{100 * MARGIN:g} % of the return range is no difference, target means within {TARGET_MARGIN} sd are equal, "
    "tenfold is the weakest reading of “orders of magnitude” and “explodes”, and "
    f"{100 * (OVERHEAD - 1):.0f} % more time per update is no overhead.",
)
