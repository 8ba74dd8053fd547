"""Colours, markers and lines: one look for a horizon, an arm or a part in every figure. No matplotlib on import."""

import math
from typing import Any

import numpy as np

from valex.studies.base import Series
from valex.studies.naming import without_model

INK, FAINT, SOFT = "#1b1f24", "#8a929c", "#4a525c"  # of text and lines; of what is behind; of notes
PALETTE = {  # Okabe and Ito: told apart with any colour vision
    "base": "#000000",
    "ce": "#0072b2",
    "ae": "#d55e00",
    "retrace": "#009e73",
    "rollout": "#0072b2",
    "critic": "#e69f00",
    "actor": "#cc79a7",
    "plain": "#0072b2",
    "doubly_robust": "#d55e00",
    "ce_mean": "#e69f00",
    "ce_min": "#d55e00",
    "ce_td_lambda critic.lam=0.75": "#cc79a7",
    "ce_td_lambda critic.lam=0.25": "#56b4e9",
    "ce_steve": "#009e73",
    "ce critic.td_k=True": "#cc79a7",
    "ce critic.max_disagreement=0.2": "#d55e00",
    "ce model.num_models=1": "#e69f00",
    "ce model.loss_steps=4": "#009e73",
    "ae actor.grad_clip=1.0": "#0072b2",
    "ae actor.normalize_grad=True": "#56b4e9",
    "ae actor.truncate=5": "#009e73",
    "ae actor.adjoint_clip=1.0": "#cc79a7",
    "ae agent.spectral.layers=paper": "#e69f00",
    "ae_learned model.num_models=1 model.deterministic=True": "#0072b2",
    "ae_learned actor.gradient=dr model.num_models=1 model.deterministic=True": "#009e73",
    "ae_learned model.num_models=1 model.spectral.layers=paper model.deterministic=True agent.spectral.layers=paper": "#d55e00",
    "bc": "#8a929c",  # extractors of offline RL, then the error of two of them on their own data, then values
    "awr": "#0072b2",
    "ddpg_bc": "#d55e00",
    "sfbc": "#009e73",
    "awr train": "#56b4e9",
    "ddpg_bc train": "#e69f00",
    "iql": "#0072b2",
    "sarsa": "#d55e00",
    "crl": "#009e73",
    "first": "#0072b2",  # the series of a figure that has neither arms nor horizons nor parts
    "second": "#d55e00",
    "third": "#009e73",
    "fourth": "#cc79a7",
    "fifth": "#e69f00",
    "sixth": "#56b4e9",
    "seventh": "#000000",
    "eighth": "#8a929c",
    "true": "#000000",
    "persistence": "#8a929c",
    "intrinsic": "#cc79a7",
    "linear": "#e69f00",
}
OTHERS = ("#56b4e9", "#cc79a7", "#e69f00", "#666666")
MARKERS = {  # else a circle
    "ae": "s",
    "retrace": "^",
    "ae actor.grad_clip=1.0": "o",
    "ae actor.normalize_grad=True": "^",
    "ae actor.truncate=5": "v",
    "ae actor.adjoint_clip=1.0": "D",
    "ae agent.spectral.layers=paper": "P",
    "doubly_robust": "s",
    "ddpg_bc": "s",
    "ddpg_bc train": "s",
    "sfbc": "^",
    "sarsa": "s",
    "crl": "^",
    "critic": "s",
    "actor": "^",
    "second": "s",
    "third": "^",
    "fourth": "v",
    "fifth": "D",
    "sixth": "P",
    "seventh": "X",
    "eighth": "*",
}
LIGHTER = 0.35  # share of white in the hue of the oracle, for an arm with a learned model
SCALE = {0: 0.0, 1: 0.02, 3: 0.26, 5: 0.46, 10: 0.62, 20: 0.76, 30: 0.88}  # horizon to place on the colour map


def lighter(tint: str) -> str:
    """Return a colour "#rrggbb" mixed with white."""
    parts = (int(tint[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(part + LIGHTER * (255 - part)):02x}" for part in parts)


def colour(name: str) -> str:
    """Return the colour of a horizon ("H3"), an arm or a part.

    Horizons run along matplotlib's `plasma` from dark to light, which keeps their order with any colour vision and in
    grey; those between the ones of SCALE are interpolated in log(1 + H). H = 0 is black.
    """
    if name in PALETTE:
        return PALETTE[name]
    if without_model(name) in PALETTE:
        return lighter(PALETTE[without_model(name)])
    if name.startswith("H") and name[1:].isdigit():
        import matplotlib

        h = int(name[1:])
        place = float(np.interp(math.log1p(h), np.log1p(list(SCALE)), list(SCALE.values())))
        red, green, blue, _ = matplotlib.colormaps["plasma"](place)
        return "#000000" if h == 0 else f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
    return OTHERS[sum(map(ord, name)) % len(OTHERS)]


def line_of(series: Series) -> dict[str, Any]:
    """Return line and marker of a series: an arm with a learned model is dashed and its markers are hollow."""
    if series.style in ("reference", "path"):
        return {"ls": "--" if series.style == "reference" else "-", "marker": ""}
    learned = without_model(series.colour) != series.colour
    line = "" if series.style == "marks" else "--" if learned else "-"
    marker = "" if series.style == "line" else MARKERS.get(without_model(series.colour), "o")
    return {"ls": line, "marker": marker, "mfc": "white"} if learned else {"ls": line, "marker": marker}
