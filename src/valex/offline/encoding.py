"""What nets see of an observation: as recorded, in standard units, or spread over smooth steps of some coordinates.

Every encoding is one-to-one and continuous both ways, so that no information is won or lost: what changes is which states
are near each other for a net.
"""

from collections.abc import Callable

import numpy as np

from valex.offline.data import Dataset

FLOOR = 1e-3  # added to standard deviations, in units of obs, as TD3+BC has it
STEPS = 8  # smooth steps across the range of a coordinate
ENCODINGS = ("none", "standard", "steps")


def make_encoding(name: str, data: Dataset, dims: tuple[int, ...] = (0, 1)) -> Callable:
    """Build obs [..., obs_dim] -> [..., e] float32 by the states of `data`.

        none        s
        standard    (s - mean) / (std + 1e-3)                                    Fujimoto and Gu 2021 (arXiv 2106.06860)
        steps       standard, each of `dims` replaced by tanh((s_i - c_k) / w), k = 1 .. 8, centres c evenly over its range,
                    w the distance between two: monotone in s_i, so one-to-one, yet states a step apart are far from each other

    The last is ours, in the place of the re-encoding in 2406.09329 (figure 9), whose form we do not know.
    Raises ValueError for another name, or dims that there are not.
    """
    if name not in ENCODINGS:
        raise ValueError(f"encoding: {name!r} is not known; choose one of {', '.join(ENCODINGS)}")
    obs = np.asarray(data.obs, np.float64)
    if name == "none":
        return lambda s: np.array(s, np.float32)  # a copy, as the others are: lanes write over their observations
    mean, std = obs.mean(axis=0), obs.std(axis=0) + FLOOR
    if name == "standard":
        return lambda s: ((np.asarray(s, np.float64) - mean) / std).astype(np.float32)
    if not dims or min(dims) < 0 or max(dims) >= obs.shape[1]:
        raise ValueError(f"encoding: coordinates {dims} are not all in 0..{obs.shape[1] - 1}")
    chosen, rest = list(dims), [i for i in range(obs.shape[1]) if i not in dims]
    low, high = obs[:, chosen].min(axis=0), obs[:, chosen].max(axis=0)
    centres, width = np.linspace(low, high, STEPS, axis=-1), (high - low + FLOOR) / (STEPS - 1)

    def encode(s: np.ndarray) -> np.ndarray:
        s = np.asarray(s, np.float64)
        steps = np.tanh((s[..., chosen, None] - centres) / width[:, None])
        others = ((s - mean) / std)[..., rest]
        return np.concatenate([steps.reshape(*s.shape[:-1], -1), others], axis=-1).astype(np.float32)

    return encode


def encoded(data: Dataset, encode: Callable) -> Dataset:
    """Return the dataset as nets see it."""
    return data._replace(obs=encode(data.obs), next_obs=encode(data.next_obs))
