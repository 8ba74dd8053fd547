"""What is read off the paths, predictions and derivatives that `model_error.measure` has made. Plain numpy.

Observations are compared in standard deviations sigma of the held-out ones. Sigma is inf where nothing changes, which leaves it
out.
"""

import warnings
from typing import Any

import jax
import numpy as np

from valex.types import StepOut

CAP = 1e6  # an error beyond this, or not a number, counts as this
COVERAGE = ((50, 0.67448975), (90, 1.64485363))  # percent of a normal distribution within so many standard deviations


def capped(errors: np.ndarray) -> np.ndarray:
    """Return errors with 1e6 in place of what is larger or not a number."""
    with np.errstate(invalid="ignore"):
        return np.where(errors < CAP, errors, CAP)


def distance(a: np.ndarray, b: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return e = sqrt(mean_d ((a - b) / sigma)^2) [...] of observations [..., obs_dim], at most 1e6."""
    with np.errstate(invalid="ignore", over="ignore"):
        square = np.square((a.astype(float) - b) / sigma)
        return capped(np.sqrt(np.sum(square, axis=-1) / np.sum(np.isfinite(sigma))))


def quantiles(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return median, 10 % and 90 % quantile of [..., S], NaN left out; NaN without any value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, median, high = np.nanquantile(values, [0.1, 0.5, 0.9], axis=-1)
    return {"median": median, "q10": low, "q90": high}


def summary(errors: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean, median, 10 % and 90 % quantile and root mean square over the valid starts of [..., S]; NaN without any."""
    kept = np.where(valid, errors, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means = {"mean": np.nanmean(kept, axis=-1), "rms": np.sqrt(np.nanmean(np.square(kept), axis=-1))}
    return quantiles(kept) | means


def path_errors(paths: dict[str, Any], truth: Any, valid: np.ndarray, sigma: np.ndarray, gamma: float) -> dict:
    """Return the errors of observations and of sum_t gamma^t r after k steps, k = 1..K, of every path [..., K, S, ...]."""
    discounts = gamma ** np.arange(len(valid))[:, None]
    result: dict = {"obs": {}, "return": {}, "count": np.sum(valid, axis=1)}
    for name, path in paths.items():
        result["obs"][name] = summary(distance(path.obs, truth.obs, sigma), valid)
        with np.errstate(invalid="ignore", over="ignore"):
            missed = np.cumsum(discounts * (path.reward - truth.reward), axis=-2)
        result["return"][name] = summary(capped(np.abs(missed)), valid)
    return result


def explained(miss: np.ndarray, truth: np.ndarray, valid: np.ndarray, sigma: np.ndarray) -> dict[str, np.ndarray]:
    """Return R^2 = 1 - sum miss^2 / sum (truth - mean)^2 of [..., K, S, obs_dim] by dimension, its mean and its least.

    NaN for what never changes, or does not in these rows.
    """
    kept = truth[valid].astype(float)
    total = np.sum(np.square(kept - np.mean(kept, axis=0)), axis=0)
    left, moves = np.sum(np.square(miss.astype(float)[..., valid, :]), axis=-2), np.isfinite(sigma) & (total > 0.0)
    by_dim = np.where(moves, 1.0 - left / np.where(moves, total, 1.0), np.nan)
    if not np.any(moves):
        return {"by_dim": by_dim, "mean": by_dim[..., 0], "worst": by_dim[..., 0]}
    return {"by_dim": by_dim, "mean": np.mean(by_dim[..., moves], -1), "worst": np.min(by_dim[..., moves], -1)}


def one_step_errors(predicted: np.ndarray, window: Any) -> dict:
    """Return error, R^2 of the next observation and R^2 of the change over all recorded steps; persistence beside them.

    Most of a next observation is the one before, so that R^2 of it flatters; that of the change does not.
    """
    rows, flat, result = window.rows, window.valid.reshape(-1), {}
    for name, after in (("members", predicted), ("mean", np.mean(predicted, axis=0)), ("persistence", rows.obs)):
        errors, miss = distance(after, rows.next_obs, window.sigma), after - rows.next_obs
        result[name] = {
            "error": summary(errors.reshape(*errors.shape[:-2], -1), flat),
            "r2_next": explained(miss, rows.next_obs, window.valid, window.sigma),
            "r2_change": explained(miss, rows.next_obs - rows.obs, window.valid, window.sigma),
        }
    return result


def predicted_variance(predicted: np.ndarray, std: np.ndarray, window: Any) -> dict:
    """Return how well predicted standard deviations [N, K, S, obs_dim] fit the one-step errors.

    square        mean of ((s' - mu) / std)^2; 1 is calibrated, above is over-confident, inf where none is predicted
    within_50/90  share of errors inside the central 50 / 90 % of the predicted normal distribution, NaN where none is predicted
    `members` [N] each by itself; `mixture`: mean of the means, and mean of the variances plus variance of the means.
    """
    with np.errstate(invalid="ignore"):
        mixed = np.sqrt(np.mean(np.square(std), axis=0) + np.var(predicted, axis=0))
    result = {}
    for name, mean, spread in (("members", predicted, std), ("mixture", np.mean(predicted, axis=0), mixed)):
        moved = (window.rows.next_obs - mean)[..., window.valid, :][..., np.isfinite(window.sigma)]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.abs(moved) / spread[..., window.valid, :][..., np.isfinite(window.sigma)]
        square = np.mean(np.square(z), axis=(-2, -1))
        shares = {f"within_{percent}": np.mean(z < edge, axis=(-2, -1)) for percent, edge in COVERAGE}
        result[name] = {"square": square} | {k: np.where(np.isfinite(square), v, np.nan) for k, v in shares.items()}
    return result


def spread_of_members(members: np.ndarray, truth: np.ndarray, valid: np.ndarray, sigma: np.ndarray) -> dict:
    """Return the spread of the members' paths [N, K, S, obs_dim] against the error of their average, after k steps.

        spread_k = sqrt( (1 + 1/N) mean_d var_j(z_k,j,d) / sigma_d^2 ),   var unbiased;   ratio = spread / error

    If the truth were one more draw from what the members are drawn from, the ratio of root mean squares would be 1. Members that
    err independently about the truth have a ratio of sqrt(N + 1), as their average is better than each. `ratio_member` is then 1:
    the spread without the factor over the error of a member (medians over starts, mean over members).
    """
    number, members = len(members), members.astype(float)
    with np.errstate(invalid="ignore", over="ignore"):
        average = np.mean(members, axis=0)
        variance = np.sum(np.var(members, axis=0, ddof=1) / np.square(sigma), axis=-1) / np.sum(np.isfinite(sigma))
    spread = summary(capped(np.sqrt((1.0 + 1.0 / number) * variance)), valid)
    error = summary(distance(average, truth, sigma), valid)
    ratios = {f"ratio_{name}": spread[name] / np.maximum(error[name], 1e-12) for name in ("median", "rms")}
    own = np.mean(summary(distance(members, truth, sigma), valid)["median"], axis=0)
    ratios["ratio_member"] = spread["median"] / np.sqrt(1.0 + 1.0 / number) / np.maximum(own, 1e-12)
    return {"spread": spread, "error": error} | ratios


def relative(found: np.ndarray, true: np.ndarray, sigma: np.ndarray) -> dict[str, np.ndarray]:
    """Return quantiles over starts of || found - true ||_F / || true ||_F; columns [M, ..., S, obs_dim].

    Starts where the true derivative is 0 do not count.
    """
    size = lambda x: np.sqrt(np.sum(np.square(x / sigma), axis=(0, -1)))  # noqa: E731
    length = size(true)
    with np.errstate(divide="ignore", invalid="ignore"):
        return quantiles(np.where(length > 0.0, size(found - true) / length, np.nan))


def derivative_errors(columns: Any, sigma: np.ndarray) -> dict:
    """Return relative errors of the derivatives of members [N] and of their mean.

    action        of the next observation with respect to the action
    state         of it along directions of the state
    state_change  the same of the change delta' - delta, as most of delta' is delta
    """
    c, result = columns, {}
    beside = lambda x: x[:, None]  # noqa: E731
    for name, of, true in (("members", lambda x: x, beside), ("mean", lambda x: np.mean(x, axis=1), lambda x: x)):
        after, delta = of(c.model_after), true(c.delta)
        result[name] = {
            "action": relative(of(c.model_action), true(c.action), sigma),
            "state": relative(after, true(c.after), sigma),
            "state_change": relative(after - delta, true(c.after) - delta, sigma),
        }
    return result


def one_loop(raw: Any, loop: int, sigma: np.ndarray, gamma: float) -> dict:
    """Return `path_errors` in open (0) or closed (1) loop, persistence among the paths."""
    window, rows = raw.window, raw.window.rows
    paths, truth = jax.tree.map(lambda x: x[loop], (raw.paths, raw.simulated))
    valid = np.cumsum(truth.terminated, axis=0) - truth.terminated == 0
    if loop == 0:
        truth, valid = StepOut(rows.next_obs, rows.reward, rows.terminated), window.valid
    still: Any = np.broadcast_to(rows.obs[0], rows.obs.shape)
    paths["persistence"] = truth._replace(obs=still, reward=np.zeros_like(rows.reward))
    return path_errors(paths, truth, valid, sigma, gamma)


def read_off(raw: Any, gamma: float) -> dict:
    """Return the dict that `model_error.model_error` documents, from its `Raw` with numpy leaves."""
    window, rows, sigma = raw.window, raw.window.rows, raw.window.sigma
    members, steps = raw.paths["members"].obs[0], np.arange(1, len(rows.reward) + 1)
    open_loop, closed_loop = (one_loop(raw, loop, sigma, gamma) for loop in (0, 1))
    off = distance(raw.simulated.obs[0], rows.next_obs, sigma)
    differentiated = len(raw.columns) > 0
    open_loop["obs"]["intrinsic" if differentiated else "again"] = summary(off, window.valid)
    medians = {name: open_loop["obs"][name]["median"] for name in raw.paths}
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = {name: median / median[..., :1] for name, median in medians.items()}
    result = {
        "steps": steps,
        "sigma": np.where(np.isfinite(sigma), sigma, np.nan),
        "open_loop": open_loop,
        "closed_loop": closed_loop,
        "linear": steps * medians["mean"][0],
        "growth": growth,
        "one_step": one_step_errors(raw.predicted, window),
        "path": {"start": rows.obs[0, 0], "true": rows.next_obs[:, 0], "members": members[:, :, 0]},
    }
    if differentiated:
        result["derivatives"] = derivative_errors(raw.columns, sigma)
    if not isinstance(raw.std, tuple):
        result["predicted_variance"] = predicted_variance(raw.predicted, raw.std, window)
    if len(members) > 1:
        result["spread"] = spread_of_members(members, rows.next_obs, window.valid, sigma)
    return result
