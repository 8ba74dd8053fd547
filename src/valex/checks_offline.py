"""What may stand in the settings of offline RL: values, policies, test time, generators of datasets. Imports no jax.

Field by field as in `fields.py`; what only shapes or objects can tell (goals that CRL needs, a Gaussian that TTT moves) the
builders of `offline/` say themselves.
"""

import math
from typing import Any, Literal, get_args, get_origin

from valex.fields import ConfigError, Rules, check_fields, field_types
from valex.settings import datasets
from valex.settings.offline import (
    EXTRACTION_CONFIGS,
    TEST_TIME_CONFIGS,
    VALUE_CONFIGS,
    ExtractionKind,
    FitConfig,
    PerturbationConfig,
    TestTimeKind,
    ValueKind,
)

COUNT, MOST = 10**6, 2**31 - 1  # environments, rows of a batch; int32 counters
POSITIVE, NOT_NEGATIVE = (0, math.inf, False, False), (0, math.inf, True, False)
SHARED = {  # field: (low, high, low allowed, high allowed); for a tuple, of each of its numbers
    "hidden": (1, 16_384, True, True),
    "lr": POSITIVE,
    "batch_size": (1, COUNT, True, True),
    "seed": (0, 2**32 - 1, True, True),
}
FIT = SHARED | {"steps": (0, MOST, True, True)}
VALUE_RANGES = FIT | {
    "gamma": (0, 1, True, False),
    "num_critics": (1, 64, True, True),
    "tau": (0, 1, False, True),
    "expectile": (0, 1, False, False),
    "latent": (1, 16_384, True, True),
}
POLICY_RANGES = FIT | {
    "components": (1, 1024, True, True),
    "flow_steps": (1, 1000, True, True),
    "alpha": NOT_NEGATIVE,
    "weight_clip": POSITIVE,
    "samples": (1, 4096, True, True),
}
TEST_TIME_RANGES = {
    "beta": NOT_NEGATIVE,
    "steps": (0, 1000, True, True),
    "lr": POSITIVE,
    "batch_size": (1, COUNT, True, True),
    "updates_per_step": (0, 10**4, True, True),
    "max_updates": (0, MOST, True, True),
    "capacity": (1, 10**9, True, True),
    "dataset_share": (0, 1, True, True),
}
GENERATOR_RANGES = SHARED | {
    "sigma": NOT_NEGATIVE,
    "episodes": (1, 10**9, True, True),
    "steps": (1, 10**9, True, True),
    "task": (0, 5, True, True),
    "transitions": (1, MOST, True, True),
    "train_steps": (1, MOST, True, True),
    "train_envs": (1, COUNT, True, True),
    "checks": (3, COUNT, True, True),
    "collect_envs": (1, COUNT, True, True),
    "episode_length": (1, 10**9, True, True),
    "reference_episodes": (1, COUNT, True, True),
    "features": (1, 16_384, True, True),
    "warmup_steps": (1, MOST, True, True),
    "update_every": (1, 10**9, True, True),
    "num_envs": (1, COUNT, True, True),
    "random_actions": (0, 1, True, True),
    "expert_seed": SHARED["seed"],
}
OGBENCH_STEPS = {"steps": (0, 10**9, True, True)}  # 0: as many as OGBench takes


def make_rules(kinds: dict[str, type], ranges: dict, prefix: str = "") -> Rules:
    """Return the rules of one family: types and names as the classes of its `kinds` declare them, ranges by field."""
    types = {name: hint for cls in kinds.values() for name, hint in field_types(cls, prefix)}
    choices = {name: get_args(hint) for name, hint in types.items() if get_origin(hint) is Literal}
    if f"{prefix}name" in types:
        choices[f"{prefix}name"] = tuple(kinds)
    named = {prefix + field: span for field, span in ranges.items() if types.get(prefix + field, str) is not str}
    return Rules(types, choices, named)


RULES = {
    "value": make_rules(VALUE_CONFIGS, VALUE_RANGES, "value."),
    "policy": make_rules(EXTRACTION_CONFIGS, POLICY_RANGES, "policy."),
    "test_time": make_rules(TEST_TIME_CONFIGS, TEST_TIME_RANGES, "test_time."),
}
PERTURBATION = make_rules(
    {"": PerturbationConfig}, {"size": NOT_NEGATIVE, "seed": SHARED["seed"], "length": POSITIVE}, "perturbation."
)
GENERATORS = {
    kind: make_rules({kind: cls}, GENERATOR_RANGES | (OGBENCH_STEPS if hasattr(cls, "maze") else {}))
    for kind, cls in datasets.GENERATORS.items()
}


def _check_kind(config: Any, part: str, kinds: dict[str, Any]) -> None:
    """Raise ConfigError where a field of a config cannot be, or its name is not that of its class."""
    check_fields(config, RULES[part], f"{part}.")
    if type(config) is not kinds[config.name]:
        raise ConfigError(f"{part}.name: {config.name} with the fields of {type(config).__name__}; take its own class")


def check_value(config: ValueKind) -> ValueKind:
    """Return the config of a value if it can be learned. Raises ConfigError with one line naming the field that cannot be."""
    _check_kind(config, "value", VALUE_CONFIGS)
    if config.name == "crl" and config.batch_size < 2:
        raise ConfigError("value.batch_size: crl contrasts the rows of a batch; give at least 2")
    return config


def check_policy(config: ExtractionKind, value: FitConfig | None = None) -> ExtractionKind:
    """Return the config of a policy if it can be read off `value`'s, None where it reads none. Raises ConfigError."""
    _check_kind(config, "policy", EXTRACTION_CONFIGS)
    theirs = getattr(value, "goals", None)
    if theirs is not None and (theirs == "none") != (config.goals == "none"):
        wanted = "none" if theirs == "none" else "navigate, stitch or explore"
        raise ConfigError(f"policy.goals: {config.goals} over a value with value.goals {theirs}; take {wanted}")
    return config


def check_test_time(config: TestTimeKind) -> TestTimeKind:
    """Return the config of an improvement at test time if it can be. Raises ConfigError."""
    _check_kind(config, "test_time", TEST_TIME_CONFIGS)
    return config


def check_perturbation(config: PerturbationConfig) -> PerturbationConfig:
    """Return the config of an error of a value if it can be. Raises ConfigError."""
    check_fields(config, PERTURBATION, "perturbation.")
    return config


def check_generator(kind: str, settings: Any) -> None:
    """Raise ConfigError with one line naming the first of a generator's settings that cannot be."""
    check_fields(settings, GENERATORS[kind])
    warmup, batch = (getattr(settings, name, 0) for name in ("warmup_steps", "batch_size"))
    if warmup < batch:
        raise ConfigError(f"warmup_steps: {warmup} holds no batch; give at least batch_size {batch}")
    train_steps = getattr(settings, "train_steps", None)
    if train_steps is not None and train_steps <= warmup:
        raise ConfigError(
            f"train_steps: {train_steps} leave nothing to learn in behind warmup_steps {warmup}; give more"
        )
