"""Settings of offline RL: every number has a range, the documented one; what is outside is refused naming the field."""

import math
import re
from dataclasses import replace
from typing import get_origin, get_type_hints

import numpy as np
import pytest
from tiny import field_texts

from valex import checks_offline as checks
from valex.fields import ConfigError
from valex.settings import datasets
from valex.settings.offline import EXTRACTION_CONFIGS, TEST_TIME_CONFIGS, VALUE_CONFIGS

FAMILIES = {
    "value": (VALUE_CONFIGS, checks.check_value),
    "policy": (EXTRACTION_CONFIGS, checks.check_policy),
    "test_time": (TEST_TIME_CONFIGS, checks.check_test_time),
}
MADE = {  # (class, rules, prefix of its fields, how it is checked), by a name for the test
    f"{part} {name}": (cls, checks.RULES[part], f"{part}.", check)
    for part, (kinds, check) in FAMILIES.items()
    for name, cls in kinds.items()
} | {
    f"generator {kind}": (cls, checks.GENERATORS[kind], "", lambda settings, kind=kind: checks.check_generator(kind, settings))
    for kind, cls in datasets.GENERATORS.items()
}  # fmt: skip
FIELDS = [(made, field) for made, (cls, *_) in MADE.items() for field in get_type_hints(cls)]
FREE = {"env", "task", "preset"}  # text that an environment or a table of presets knows


def numeric(hint) -> bool:
    return any(kind in str(hint) for kind in ("int", "float"))


def refused(made: str, field: str, value) -> str:
    """Return what is said of a config with one field changed; the others are those by default."""
    cls, _, prefix, check = MADE[made]
    with pytest.raises(ConfigError) as error:
        check(replace(cls(), **{field: value}))
    said = str(error.value)
    assert said.startswith(f"{prefix}{field}: ") and "\n" not in said
    return said


@pytest.mark.parametrize("made", MADE)
def test_defaults_can_be(made):
    cls, rules, prefix, check = MADE[made]
    check(cls())
    for field, hint in get_type_hints(cls).items():
        name = prefix + field
        assert rules.types[name] == hint or field == "name"
        if numeric(hint):
            assert name in rules.ranges, name
        elif hint is not bool and (field not in FREE or get_origin(hint)):
            assert name in rules.choices, name


def test_a_field_of_several_kinds_has_one_type():
    for kinds, _ in FAMILIES.values():
        seen = {(f, hint) for cls in kinds.values() for f, hint in get_type_hints(cls).items() if f != "name"}
        assert len(seen) == len({f for f, _ in seen})


@pytest.mark.parametrize(("made", "field"), FIELDS)
def test_the_range_that_a_field_documents_is_enforced(made, field):
    cls, rules, prefix, _ = MADE[made]
    if prefix + field not in rules.ranges:
        return
    text, (low, high, low_in, high_in) = field_texts(cls)[field], rules.ranges[prefix + field]
    found = re.search(r"\((>=?) (\d+)\)", text)
    if found:
        assert (low, low_in) == (int(found[2]), found[1] == ">="), text
    spans = re.search(r"in ([\[(])(\d+), (\d+)([\])])", text)
    if spans:
        assert (low, high, low_in, high_in) == (int(spans[2]), int(spans[3]), spans[1] == "[", spans[4] == "]"), text
    assert found or spans or field in ("hidden", "seed", "task", "warmup_steps"), f"{made}: {field} documents no range"


@pytest.mark.parametrize(("made", "field"), FIELDS)
def test_what_is_outside_or_of_another_type_is_refused(made, field):
    cls, rules, prefix, _ = MADE[made]
    hint, name = get_type_hints(cls)[field], prefix + field
    if name in rules.choices:
        for value in ("foo", None, 3):
            assert value != "foo" or rules.choices[name][-1] in refused(made, field, value)
            refused(made, field, value)
    if name not in rules.ranges:
        return
    low, high, low_in, high_in = rules.ranges[name]
    step = 1 if "int" in str(hint) else 1e-6
    for value in (low - step if low_in else low, high + step if high_in else high):
        if step != 1 or math.isfinite(value):
            said = refused(made, field, (value,) if get_origin(hint) is tuple else value)
            assert f"{low}, {high}" in said and str(value) in said
    for value in (math.nan, True, "3", np.int64(3), [3], 2.5j if "float" in str(hint) else 2.5):
        refused(made, field, value)


def test_what_goes_together():
    iql, sarsa, crl = (cls() for cls in VALUE_CONFIGS.values())
    awr = EXTRACTION_CONFIGS["awr"]()
    with pytest.raises(ConfigError, match=r"^policy.goals: none over a value with value.goals crl; take navigate"):
        checks.check_policy(awr, crl)
    with pytest.raises(ConfigError, match=r"^policy.goals: stitch over a value with value.goals none; take none"):
        checks.check_policy(replace(awr, goals="stitch"), iql)
    assert checks.check_policy(replace(awr, goals="stitch"), replace(sarsa, goals="hiql")).goals == "stitch"
    with pytest.raises(ConfigError, match=r"^value.batch_size: crl contrasts"):
        checks.check_value(replace(crl, batch_size=1))
    with pytest.raises(ConfigError, match=r"^value.name: sarsa with the fields of IQLConfig; take its own class"):
        checks.check_value(replace(iql, name="sarsa"))
    with pytest.raises(ConfigError, match=r"^warmup_steps: 3 holds no batch; give at least batch_size 256"):
        checks.check_generator("exploration", datasets.ExplorationSettings(warmup_steps=3))
