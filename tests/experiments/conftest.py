"""What the tests of the experiments share."""

import jax
import pytest

from experiments.running import runs


@pytest.fixture(scope="package", autouse=True)
def no_figures():
    """Leaves out the learning curves of the runs, which take longer than the training of such small ones.

    The run that ``unbroken`` trains has a real figure.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runs, "learning_curves", lambda path, *_: path.write_bytes(b"figure"))
        yield


@pytest.fixture(autouse=True)
def stored_programs():
    """Stores compiled programs however small they are: workers and the processes of tests need the same few."""
    option = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, option)
    jax.config.update(option, 0.1)
    yield
    jax.config.update(option, before)
