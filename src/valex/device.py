"""The machine: choose the device and set up jax before the first array; say what a run was made with."""

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from valex import __version__

THREADS = "PJRT_NPROC"  # read by XLA when jax makes its first array
CUDA_HINT = "pip install 'valex[cuda12]' (or 'valex[cuda13]')"


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


def available_cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_threads() -> int:
    """Return how many threads XLA spreads a computation over on the CPU: what `set_up_jax` asked for, else one per core."""
    asked = os.environ.get(THREADS, "")
    return int(asked) if asked.isdecimal() and int(asked) else len(available_cores())


def cache_folder() -> Path | None:
    """Return the folder of the persistent compilation cache, keyed by host CPU and jaxlib version; None without a home.

    VALEX_CACHE_DIR, else XDG_CACHE_HOME/valex, else ~/.cache/valex. Programs compiled for one CPU do not run on another.
    """
    from importlib.metadata import version

    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = os.environ.get("VALEX_CACHE_DIR") or Path(base) / "valex"
    except RuntimeError:  # no HOME and no entry in the password file, as in some containers
        return None
    cpu = platform.processor() + platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))})
        )
    return Path(root) / f"jax-{version('jaxlib')}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}"


def set_up_jax(device: str = "auto", threads: int = 0) -> None:
    """Select `device` (auto, cpu, cuda) and turn the persistent compilation cache on.

    `threads` above 0 bounds XLA's thread pool on the CPU; without effect once jax has made an array. Worker processes
    inherit the choice. Raises DeviceError with the pip line if CUDA is asked for and absent. A cache
    folder that cannot be written is done without.
    """
    platforms = {"cpu": "cpu", "cuda": "cuda,cpu"}.get(device)
    if platforms:
        os.environ["JAX_PLATFORMS"] = platforms
    if threads:
        os.environ[THREADS] = str(threads)
    import jax

    if platforms:
        jax.config.update("jax_platforms", platforms)  # the variable is read at import only
    asked = f"--device {device}" if platforms else f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
    hint = f"{asked}: jax finds no such device; {CUDA_HINT}"
    try:
        found = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # jax 0.10 asserts where JAX_PLATFORMS names CUDA and there is none
        raise DeviceError(hint) from error
    if device == "cuda" and found == "cpu":
        raise DeviceError(hint)
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Compile inside: what jax warns about its cache becomes one line, and a torn entry of it is removed.

    jax writes an entry in place and never replaces one. What a kill or a full disk tore would be refused, with a warning
    of two lines, and compiled anew at every start.
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for warning in caught:
            found = re.match(
                r"Error (read|writ)ing persistent compilation cache entry for '(.*?)': (.*)", str(warning.message)
            )
            if found is None:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
                continue
            action, name, why = found.groups()
            print(f"warning: compilation cache, {action}ing {name}: {why}", file=sys.stderr)
            folder = cache_folder() if action == "read" else None
            for torn in folder.glob(f"{name}-*") if folder else ():
                torn.unlink(missing_ok=True)


def commit() -> str:
    """Return the git commit of this source tree, or unknown: not a checkout, no git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # an installed package must not report the repository it happens to lie in
        return "unknown"
    try:
        git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return git.stdout.strip() if git.returncode == 0 else "unknown"


@lru_cache(maxsize=1)
def metadata() -> dict:
    """Return versions, device, cores, XLA's threads, git commit and command of this process."""
    from importlib.metadata import PackageNotFoundError, version

    import jax

    versions = {"valex": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "numpy", "flax", "optax", "brax", "mujoco", "pgx"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": f"{device.platform} ({device.device_kind})",
        "cores": len(available_cores()),
        "threads": cpu_threads(),
        "commit": commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
