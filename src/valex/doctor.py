"""What is installed, which device jax uses, what is missing and the line that installs it."""

import json
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

CORE = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "numpy",
    "scipy",
    "matplotlib",
    "pyarrow",
    "rich",
    "safetensors",
    "tyro",
)
EXTRAS = {
    "brax": ("brax", "mujoco", "mujoco-mjx"),
    "offline": ("h5py", "minari", "ogbench", "gymnasium", "dm_control"),
    "minatar": ("pgx",),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
}


def installed(name: str) -> str | None:
    """Return the version of a distribution, None if it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirement(name: str) -> str:
    """Return the requirement on a distribution as pip takes it, with the versions that valex declares."""
    name = "jax" if name == "jaxlib" else name  # jax brings the jaxlib that fits it
    try:
        declared = requires("valex") or []
    except PackageNotFoundError:  # run from a source tree that is not installed
        declared = []
    for line in declared:
        wanted, _, marker = line.partition(";")
        if "extra" not in marker and re.split(r"[^A-Za-z0-9_.-]", wanted)[0].lower() == name.lower():
            return wanted.strip()
    return name


def devices() -> tuple[list[str], str]:
    """Return the devices of jax, or an empty list and why there are none."""
    from valex import device

    try:
        device.set_up_jax()
        import jax

        found = [f"{d.platform} ({d.device_kind})" for d in jax.devices()]
    except (ImportError, RuntimeError) as error:
        return [], f"{type(error).__name__}: {error}".splitlines()[0]
    return found, ""


def cache() -> str:
    """Return the folder of the compilation cache, or why it is off."""
    from valex import device

    try:
        folder = device.cache_folder()
    except PackageNotFoundError:
        return "off: jaxlib is missing"
    if folder is None:
        return "off: no home directory; set VALEX_CACHE_DIR"
    return str(folder) if os.access(folder, os.W_OK) else f"off: {folder} cannot be written; set VALEX_CACHE_DIR"


def findings() -> dict[str, Any]:
    """Return what this installation has and lacks."""
    from valex import __version__, device

    found, why = devices()
    missing = {n: f"pip install '{requirement(n)}'" for n in CORE if installed(n) is None}
    for extra, names in EXTRAS.items():
        if lacking := [name for name in names if installed(name) is None]:
            missing[f"extra {extra}"] = f"pip install 'valex[{extra}]' ({', '.join(lacking)})"
    if why:
        missing["device"] = why
    elif all(name.startswith("cpu") for name in found):
        missing["accelerator"] = f"none found; with an NVIDIA GPU: {device.CUDA_HINT}"
    return {
        "valex": __version__,
        "python": sys.version.split()[0],
        "installed": {n: installed(n) for names in (CORE, *EXTRAS.values()) for n in names if installed(n)},
        "devices": found,
        "cores": len(device.available_cores()),
        "compilation_cache": cache(),
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
        print(f"{'devices':18} {', '.join(found['devices']) or 'none'}")
        print(f"{'installed':18} {', '.join(f'{n} {v}' for n, v in found['installed'].items())}")
        for name, remedy in found["missing"].items():
            print(f"{'missing':18} {name}: {remedy}")
    return int(any(name in (*CORE, "device") for name in found["missing"]))
