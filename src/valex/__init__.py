"""valex: a laboratory for value expansion in reinforcement learning.

Names are imported on first use, so that `import valex` and the command line's help do not wait for jax.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "ActorConfig": "settings", "CriticConfig": "settings", "EnvConfig": "settings", "EvalConfig": "settings",
    "ModelConfig": "settings", "RunConfig": "settings", "TrainConfig": "settings",
    "SACConfig": "settings", "DDPGConfig": "settings", "TD3Config": "settings",
    "DDQNConfig": "settings",
    "Agent": "types", "Bootstrap": "types", "Env": "types", "Model": "types", "ReturnInputs": "types",
    "Transition": "types",
    "AGENTS": "tables", "ENVS": "tables", "MODELS": "tables", "RULES": "tables", "STUDIES": "tables", "load": "tables",
    "PRESETS": "config", "check": "checks",
    "backward_return": "targets",
    "make_expansion": "expansion",
    "make_env": "envs.base", "make_oracle": "models.oracle", "make_noisy_oracle": "models.oracle",
    "make_ensemble": "models.ensemble", "make_grid": "models.grid", "make_sac": "agents.sac",
    "make_ddpg": "agents.ddpg", "make_td3": "agents.td3", "make_ddqn": "agents.ddqn",
    "make_parts": "train", "make_program": "train", "sample_sequences": "replay", "load_agent": "finished",
    "model_error": "diagnostics.model_error", "ErrorStudy": "diagnostics.model_error",
    "gradient_diagnosis": "diagnostics.diagnosis", "GradientStudy": "diagnostics.laboratory",
    "GradientSubject": "diagnostics.subject", "write_diagnosis": "report.diagnosis", "RPGConfig": "settings",
    "make_rpg": "agents.rpg", "per_sample_grads": "estimators.per_sample", "Chain": "estimators.pathwise",
    "diagnose_dataset": "bottleneck.diagnose", "DatasetDiagnosisConfig": "settings.dataset_diagnosis",
    "from_arrays": "offline.data",
    "read_runs": "store", "write_report": "report.html",
}  # fmt: skip

__all__ = sorted([*_EXPORTS, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'valex' has no attribute {name!r}")
    return getattr(import_module(f"valex.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
