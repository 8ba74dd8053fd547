"""The decision rule on numbers, without runs."""

import math

import numpy as np
import pytest

from valex.studies.base import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Claim, Component
from valex.studies.judge import decide, edge_text, nothing, region_text


def verdict_of(region, *columns, limit=""):
    claim = Claim("X", "", "", "", region, lambda grid, env: "")
    parts = [
        (Component(f"c{k}", np.array(v, float), 0, "", limit), [np.array(v, float)]) for k, v in enumerate(columns)
    ]
    return decide(claim, parts, "env")


ABOVE, SAME = (0.0, math.inf), (-1.0, 1.0)
UP, DOWN, MIXED = [1, 2, 3, 2, 1], [-1, -2, -3, -2, -1], [-3, -1, 0, 1, 3]


@pytest.mark.parametrize(
    "region, columns, expected",
    [
        (ABOVE, [UP], SUPPORTED),
        (ABOVE, [DOWN], NOT_SUPPORTED),
        (ABOVE, [MIXED], UNDECIDED),
        (ABOVE, [UP, UP], SUPPORTED),
        (ABOVE, [UP, MIXED], UNDECIDED),  # all parts have to hold
        (ABOVE, [UP, DOWN], NOT_SUPPORTED),  # one part refuted refutes the claim
        (SAME, [[0.1, -0.1, 0.2, 0.0, -0.2]], SUPPORTED),
        (SAME, [[2, 3, 2, 3, 2]], NOT_SUPPORTED),
        (SAME, [[-2, -3, -2, -3, -2]], NOT_SUPPORTED),  # equivalence fails on either side
        (SAME, [[0.5, 1.5, 0.9, 1.2, 0.8]], UNDECIDED),
        (ABOVE, [[0, 0, 0, 0, 0]], UNDECIDED),  # the edge itself is neither inside nor outside
        (ABOVE, [UP[:4]], UNDECIDED),  # four seeds never decide
        (ABOVE, [[]], UNDECIDED),
    ],
)
def test_three_verdicts(region, columns, expected):
    assert verdict_of(region, *columns).verdict == expected


def test_too_few_seeds_is_never_supported_however_clear():
    for n in range(5):
        found = verdict_of(ABOVE, [1e6] * n)
        assert found.verdict == UNDECIDED and "5 are needed" in found.reason and found.n == n


def test_the_reported_part_is_the_one_that_decides():
    assert verdict_of(ABOVE, UP, DOWN).statistic == "c1"
    assert verdict_of(ABOVE, [10, 20, 30, 20, 10], UP).statistic == "c1"  # the one closest to failing
    assert verdict_of(ABOVE, UP).value == pytest.approx(5 / 3)


def test_a_limited_quantity_supports_but_cannot_refute():
    assert verdict_of(ABOVE, UP, limit="too short").verdict == SUPPORTED
    found = verdict_of(ABOVE, DOWN, limit="too short")
    assert found.verdict == UNDECIDED and found.reason == "too short"


def test_several_parts_get_wider_intervals():
    rng = np.random.default_rng(0)
    values = list(rng.normal(size=30))
    alone, among = verdict_of(ABOVE, values), verdict_of(ABOVE, values, values, values)
    assert among.high - among.low > alone.high - alone.low


def test_words():
    assert [region_text(r) for r in (ABOVE, (-math.inf, 0.05), SAME, (1.0, 2.0))] == [
        "> 0", "< 0.05", "within ±1", "between 1 and 2",
    ]  # fmt: skip
    assert edge_text(SAME) == "−1 or 1" and edge_text(ABOVE) == "0"
    empty = nothing(Claim("X", "", "", "", ABOVE, lambda grid, env: ""), "env", "not run")
    assert empty.verdict == UNDECIDED and math.isnan(empty.value) and empty.n == 0
