"""What the tests of the experiments share."""

import jax
import pytest


@pytest.fixture(autouse=True)
def stored_programs():
    """Stores compiled programs however small they are: the runs of these tests compile the same few again and again."""
    option = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, option)
    jax.config.update(option, 0.1)
    yield
    jax.config.update(option, before)
