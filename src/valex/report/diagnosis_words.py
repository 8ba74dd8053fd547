"""What a gradient diagnosis says, in sentences made from its numbers."""

from typing import Any

import numpy as np

from valex.studies.results import number

MODES = {  # name, colour
    "dp": ("RP-DP", "first"),
    "dr": ("RP-DR", "second"),
    "detach": ("detached DP", "third"),
    "first_action": ("first-action DP", "fourth"),
    "lr": ("likelihood ratio", "fifth"),
    "ivw": ("inverse variance", "sixth"),
    "alpha_order": ("alpha order", "eighth"),
    "total_propagation": ("total propagation", "sixth"),
    "truth": ("without error", "seventh"),
}
SWAPS = {
    "true states": ("true states", "sixth"),
    "true jacobians": ("true Jacobians", "third"),
    "true reward": ("true reward", "fourth"),
    "true critic": ("true critic", "second"),
}


def mode_name(name: str) -> str:
    """Return a mode or a swap as people call it."""
    return (MODES | SWAPS).get(name, (name, ""))[0]


def said(found: dict[str, Any] | None, digits: int = 3) -> str:
    """Return a value with its interval."""
    if not found or found["value"] is None:
        return "not known"
    low, high = (number(np.nan if found[k] is None else found[k]) for k in ("low", "high"))
    return f"{number(found['value'])} [{low}, {high}]"


def at(found: dict[str, list], k: int) -> dict[str, float]:
    """Return the interval at the k-th horizon."""
    return {part: values[k] for part, values in found.items()}


def sentences(d: dict[str, Any]) -> list[str]:
    """Return what the diagnosis says, in the order in which a reader asks: how far, why not better, what to change."""
    about, mode = d["about"], d["about"]["mode"]
    k = d["horizons"].index(about["chosen"])
    lines = [horizon_sentence(d)]
    trace = {q: at(d["quantities"][q][mode], k) for q in ("trace", "between_share", "snr")}
    if trace["trace"]["value"]:
        lines.append(
            f"Variance at h = {about['chosen']}: the trace of the covariance of one {mode_name(mode)} gradient is "
            f"{said(trace['trace'])}; {share_words(trace['between_share'])}. "
            f"A batch of {about['batch']} has a signal-to-noise ratio of {said(trace['snr'])}."
        )
    if about["truth"]:
        lines.append(bias_sentence(d, k))
    told = {
        "derivatives": lambda: derivative_sentence(d),
        "stretch": lambda: growth_sentence(d),
        "agreement": lambda: agreement_sentence(d, k),
        "numerics": lambda: health_sentence(d),
    }
    lines += [sentence() for part, sentence in told.items() if part in d]
    return [line for line in lines if line]


def share_words(found: dict[str, float]) -> str:
    """Return which share of the variance lies between start states: an estimate without bias, so it may be below 0."""
    if any(x is None for x in found.values()):
        return "which share of it lies between start states is not known"
    value, low, high = (round(100 * found[part]) for part in ("value", "low", "high"))
    words = f"{value} % [{low}, {high}] of it lies between start states, the rest is noise"
    return words if found["low"] > 0.0 else f"{words}: that share cannot be told from 0"


def horizon_sentence(d: dict[str, Any]) -> str:
    """Return which horizon to use, and how sure that is."""
    best, about = d["recommendation"], d["about"]
    if best is None:
        why = (
            "without a differentiable simulator that can be set to an observation the bias is not "
            "known, and variance alone would always say h = 0."
            if not about["truth"]
            else "these samples do not tell the gradient without error from zero, as where training "
            "has converged; relative errors mean little then. More starts may help."
        )
        return (
            f"No horizon is recommended: {why} What is said below of h = {about['chosen']}, the "
            "middle one of those measured, is an example and no advice to use it."
        )
    others = [str(h) for h in best["indistinct"] if h != best["horizon"]]
    unsure = f" These samples cannot tell it from h = {', '.join(others)}." if others else ""
    text = (
        f"Horizon: of those measured h = {best['horizon']} has the least relative mean squared error, {said(best['error'])} "
        f"with batches of {about['batch']} (1 is the error of taking no step).{unsure}"
    )
    if not best["useful"]:
        text += " But it is not shown to be below 1: at no horizon is this gradient shown to be better than none."
    return text


def bias_sentence(d: dict[str, Any], k: int) -> str:
    """Return which component the bias comes from."""
    mode, h = d["about"]["mode"], d["horizons"][k]
    blame = {name: at(found, k) for name, found in d["blame"].items() if found["value"][k] is not None}
    bias = said(at(d["quantities"]["relative_bias"][mode], k))
    text = f"Bias at h = {h}: its square is {bias} of the squared gradient without error."
    sure = {name: found for name, found in blame.items() if found["low"] is not None and found["low"] > 0}
    if not sure:
        return f"{text} No single component, replaced by the truth, is shown to lessen it."
    worst = max(sure, key=lambda name: sure[name]["value"])
    rest = "; ".join(f"{mode_name(n).removeprefix('true ')} {said(f)}" for n, f in blame.items() if n != worst)
    worst_name = mode_name(worst).removeprefix("true ")
    return f"{text} To blame: the {worst_name}; with the true one it falls by {said(sure[worst])} (for comparison: {rest})."


def derivative_sentence(d: dict[str, Any]) -> str:
    """Return the errors of derivatives and the scale of the source."""
    found = d["derivatives"]
    return (
        f"Derivatives: eps_f = {said(found['eps_f'])} of the model's step, eps_v = {said(found['eps_v'])} of the critic; the "
        f"rms error of a step that the model takes is {said(found['prediction'])}. The scale h'* of 2310.19927 made of them is "
        f"{said(found['scale'])}: a scale, whose constant is not known, not a choice."
    )


def growth_sentence(d: dict[str, Any]) -> str:
    """Return whether the closed loop expands, and how fast the variance grew beside it."""
    rates = d["stretch"]["model"]["lyapunov_mean"]
    if not rates or rates[-1] is None:
        return "Stretch: the Jacobians of the closed loop are not finite."
    traces = d["quantities"]["trace"][d["about"]["mode"]]["value"]
    points = [(h, np.log(t)) for h, t in zip(d["horizons"], traces, strict=True) if h > 0 and t and t > 0]
    x, y = np.array(points).reshape(-1, 2).T
    slope = np.polyfit(x, y, 1)[0] if len(points) > 1 else np.nan
    grows = "expands" if rates[-1] > 0 else "contracts"
    text = (
        f"Stretch: along the model the closed loop {grows}, with a finite-time Lyapunov exponent of {number(rates[-1])} per step "
        f"over {len(rates)} steps"
    )
    if "simulator" in d["stretch"]:
        text += f" (along the simulator {number(d['stretch']['simulator']['lyapunov_mean'][-1])})"
    if not np.isfinite(slope):
        return f"{text}."
    low, high = predicted_growth(rates[-1], d["about"]["gamma"])
    return f"{text}; log variance grew by {number(slope)} per step, predicted between {number(low)} and {number(high)}."


def predicted_growth(rate: float, gamma: float) -> tuple[float, float]:
    """Return between what log tr Cov of V_h should grow by per step, far out, where the loop grows by `rate`.

        2 (rate + ln gamma) if the reward's gradients are bounded, 4 rate + 2 ln gamma if they grow with the state; never below 0

    The term of step i carries gamma^i; a sum of terms that shrink stays where it is.
    """
    fade = 2.0 * np.log(gamma) if gamma > 0.0 else -np.inf
    low, high = sorted(max(power * rate + fade, 0.0) for power in (2.0, 4.0))
    return low, high


def agreement_sentence(d: dict[str, Any], k: int) -> str:
    """Return whether the pathwise and the likelihood-ratio gradient have one mean."""
    found = {name: values[k] for name, values in d["agreement"].items()}
    if found["p_value"] is None:
        return ""
    apart = found["p_value"] < 0.05
    verdict = (
        "disagree: look for discontinuities, or for gradients that the model hides" if apart else "are not told apart"
    )
    ratio = found["trace_ratio"]
    size = f"; the variance of the pathwise one is {ratio:.2g} times that of the other" if ratio is not None else ""
    return f"Pathwise and likelihood-ratio gradients along this model {verdict} (p = {number(found['p_value'])}){size}."


def health_sentence(d: dict[str, Any]) -> str:
    """Return whether the numbers can be trusted."""
    found = d["numerics"]
    bad = max(found["census"]["nan"], found["census"]["inf"])
    text = f"Numerics: {100 * bad:.0f} % of {found['samples']} gradients are not finite"
    if found["doubt"]:
        return f"{text}; float64 could not be had ({found['doubt']})."
    gap, differences = found["float32_gap"], found["differences"]["error"]
    worst = max((x for x in differences if x is not None), default=np.nan)
    if gap["median"] is not None:
        text += f"; float32 is off by {gap['median']:.1e} (median), {gap['max']:.1e} at most"
    return f"{text}; central differences in float64 agree to {worst:.1e}."
