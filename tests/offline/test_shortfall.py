"""Where a score falls short, on scores whose answer is known: one part matters, another, none; few seeds, failed runs."""

import numpy as np
import pytest

from valex.offline.shortfall import Swap, doubled, shortfall

SEEDS = 5
NOISE = np.array([-2.0, 1.0, 0.5, -1.0, 1.5])  # of a seed, shared by all that was trained on it
JITTER = np.random.default_rng(0).normal(0.0, 0.3, (4, SEEDS))
JITTER -= JITTER.mean(axis=1, keepdims=True)  # a swap that gains nothing gains nothing on these seeds


def world(value=0.0, extraction=0.0, generalisation=0.0, seeds=SEEDS):
    """Return (reference, swaps): the reference scores 40, each swap gains what is said."""
    base = 40.0 + NOISE[:seeds]
    gains = {"value": value, "extraction": extraction, "generalisation": generalisation}
    swaps = {
        name: [
            Swap(f"{name} worse", base - 5.0 + JITTER[3, :seeds]),
            Swap(f"{name} better", base + gain + JITTER[k, :seeds]),
        ]
        for k, (name, gain) in enumerate(gains.items())
    }
    return base, swaps


def test_only_extraction_matters():
    base, swaps = world(extraction=30.0)
    found = shortfall(base, 100.0, swaps)
    assert found.first == "extraction" and found.parts["extraction"].setting == "extraction better"
    part = found.parts["extraction"]
    assert part.gain.low > 28.0 and part.gain.high < 32.0 and part.known
    assert part.share.low < 0.5 < part.share.high and part.share.high - part.share.low < 0.06  # 30 of 60
    assert not found.parts["value"].known and not found.parts["generalisation"].known
    assert found.shortfall.low < 60.0 < found.shortfall.high and found.unexplained.value == pytest.approx(30.0, abs=0.8)


def test_only_value_data_matter():
    sizes = (1_000, 10_000, 100_000)
    base, swaps = world()
    grid = base[:, None, None] + 10.0 * np.array([-2.0, -1.0, 0.0])[None, :, None] + np.zeros((1, 1, 3))
    twice = doubled(base, grid, sizes, sizes, "value")
    np.testing.assert_allclose(twice - base, 10.0 * np.log10(2.0))
    np.testing.assert_allclose(doubled(base, grid, sizes, sizes, "policy"), base, atol=1e-9)
    swaps["value"].append(Swap("twice the data", twice, measured=False))
    found = shortfall(base, 100.0, swaps)
    assert found.first == "value" and found.parts["value"].setting == "twice the data"
    assert not found.parts["value"].measured
    assert found.parts["value"].gain.value == pytest.approx(3.01, abs=0.01)


def test_nothing_matters():
    base, swaps = world()
    found = shortfall(base, 100.0, swaps)
    assert found.first == "" and not any(part.known for part in found.parts.values())
    assert found.unexplained.low > 55.0


def test_choosing_among_noise_gains_nothing():
    """Ten settings that are noise: the best by eye is 3 above the reference, the cross-fitted one is not."""
    rng, honest, by_eye = np.random.default_rng(1), [], []
    for _ in range(200):
        base = rng.normal(0.0, 5.0, 6)
        offered = [Swap(str(k), rng.normal(0.0, 5.0, 6)) for k in range(10)]
        part = shortfall(base, 100.0, {"extraction": offered}).parts["extraction"]
        honest.append(part.gain.value)
        by_eye.append(max(swap.value for swap in part.swaps.values()))
    assert abs(np.mean(honest)) < 0.7 and np.mean(by_eye) > 2.5


def test_a_swap_that_hurts_is_known_but_not_advised():
    base, swaps = world()
    swaps["generalisation"] = [Swap("test-time training", base - 10.0 + JITTER[0])]
    part = shortfall(base, 100.0, swaps).parts["generalisation"]
    assert part.known and part.gain.high < 0.0 and shortfall(base, 100.0, swaps).first == ""


def test_few_seeds_tell_nothing():
    base, swaps = world(extraction=30.0, seeds=4)
    found = shortfall(base, 100.0, swaps)
    assert found.parts["extraction"].gain.low > 20.0 and not found.parts["extraction"].known and found.first == ""
    base, swaps = world(extraction=30.0, seeds=1)
    found = shortfall(base, 100.0, swaps)
    assert found.parts["extraction"].gain.value == pytest.approx(30.0, abs=1.0)
    assert np.isnan(found.parts["extraction"].gain.low) and found.first == ""


def test_no_shortfall_has_no_shares():
    base, swaps = world(extraction=3.0)
    found = shortfall(base, 40.0, swaps)
    assert np.isnan(found.parts["extraction"].share.value) and found.first == "extraction"


def test_failed_runs_are_named():
    base, swaps = world(extraction=30.0)
    swaps["value"][0].scores[2] = np.nan
    found = shortfall(base, 100.0, swaps)
    assert found.left_out == ("value: value worse",) and list(found.parts["value"].swaps) == ["value better"]
    base[4] = np.nan
    assert shortfall(base, 100.0, swaps).seeds == 4
    gone = [Swap("all", np.full(SEEDS, np.nan))]
    found = shortfall(base, 100.0, {"value": gone})
    assert found.parts["value"].setting == "" and np.isnan(found.parts["value"].gain.value)
    with pytest.raises(ValueError, match="no finite score"):
        shortfall(np.full(3, np.nan), 1.0, {})
    with pytest.raises(ValueError, match="every swap"):
        shortfall(np.zeros(3), 1.0, {"value": [Swap("x", np.zeros(2))]})
