"""What is installed, which device jax uses, what is missing and the line that installs it."""

import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version

CORE = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "scipy", "matplotlib", "pyarrow", "rich", "safetensors", "tyro")
EXTRAS = {
    "brax": ("brax", "mujoco", "mujoco-mjx"),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
}


def installed(name: str) -> str | None:
    """Return the version of a distribution, None if it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def findings() -> dict:
    """Return what this installation has and lacks."""
    from valex import __version__, device

    device.set_up_jax()
    import jax

    devices = [f"{d.platform} ({d.device_kind})" for d in jax.devices()]
    missing = {n: f"pip install '{n}'" for n in CORE if installed(n) is None}
    for extra, names in EXTRAS.items():
        if any(installed(name) is None for name in names):
            missing[f"extra {extra}"] = f"pip install 'valex[{extra}]'"
    if jax.default_backend() == "cpu":
        missing["accelerator"] = f"none found; with an NVIDIA GPU: {device.CUDA_HINT}"
    folder = device.cache_folder()
    return {
        "valex": __version__,
        "python": sys.version.split()[0],
        "installed": {n: installed(n) for names in (CORE, *EXTRAS.values()) for n in names if installed(n)},
        "devices": devices,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "compilation_cache": str(folder) if os.access(folder, os.W_OK) else f"off: {folder} cannot be written",
        "missing": missing,
    }


def print_findings(as_json: bool) -> int:
    """Print the findings; return 1 if something that valex cannot do without is missing."""
    found = findings()
    if as_json:
        print(json.dumps(found))
    else:
        for key in ("valex", "python", "cores", "compilation_cache"):
            print(f"{key:18} {found[key]}")
        print(f"{'devices':18} {', '.join(found['devices'])}")
        print(f"{'installed':18} {', '.join(f'{n} {v}' for n, v in found['installed'].items())}")
        for name, remedy in found["missing"].items():
            print(f"{'missing':18} {name}: {remedy}")
    return int(any(name in CORE for name in found["missing"]))
