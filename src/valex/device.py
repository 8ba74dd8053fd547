"""Choose the device and set up jax: before the first array, once per process."""

import hashlib
import os
import platform
from pathlib import Path

CUDA_HINT = "pip install 'valex[cuda12]' (or 'valex[cuda13]')"


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


def cache_folder() -> Path:
    """Return the folder of the persistent compilation cache, keyed by host CPU and jaxlib version.

    VALEX_CACHE_DIR, else XDG_CACHE_HOME/valex, else ~/.cache/valex. Programs compiled for one CPU do not run on another.
    """
    from importlib.metadata import version

    root = os.environ.get("VALEX_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "valex"
    cpu = platform.processor() + platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = "".join(line for line in lines if line.startswith(("model name", "flags")))
    except OSError:
        pass
    return Path(root) / f"jax-{version('jaxlib')}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}"


def set_up_jax(device: str = "auto") -> None:
    """Select `device` (auto, cpu, cuda) and turn the persistent compilation cache on.

    Raises DeviceError with the pip line if CUDA is asked for and absent. A cache folder that cannot be written is done
    without.
    """
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif device == "cuda":
        os.environ["JAX_PLATFORMS"] = "cuda,cpu"
    import jax

    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        raise DeviceError(f"--device {device}: jax finds no such device; {CUDA_HINT}") from error
    if device == "cuda" and found == "cpu":
        raise DeviceError(f"--device cuda: jax finds no such device; {CUDA_HINT}")
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
