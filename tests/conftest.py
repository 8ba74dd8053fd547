"""One thread for XLA, as `valex train` gives small nets, and one folder for compiled programs, shared by all processes."""

import os
import sys

import pytest

from valex.device import THREADS

os.environ[THREADS] = "1"  # before anything imports jax


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory):
    """Set VALEX_CACHE_DIR; pytest-xdist gives each of its workers a folder below one that they share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["VALEX_CACHE_DIR"] = str(shared / "compile-cache")
    yield
    del os.environ["VALEX_CACHE_DIR"]


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Free what a module compiled: by the end of the suite a process would hold five gigabytes of programs."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
