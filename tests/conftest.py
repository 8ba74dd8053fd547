"""One folder for compiled programs in a test session, shared by its worker processes and by every `valex` they start."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory):
    """Set VALEX_CACHE_DIR; pytest-xdist gives each of its workers a folder below one that they share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["VALEX_CACHE_DIR"] = str(shared / "compile-cache")
    yield
    del os.environ["VALEX_CACHE_DIR"]
