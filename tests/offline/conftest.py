"""Programs here are many and small: compiling them costs more than running them, so XLA is told to optimise little."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def cheap_programs():
    """Turn most of XLA's optimisations off for a module, whose programs are forgotten at its end."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
