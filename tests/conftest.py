"""What the tests share."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Compiling is most of what these tests do: leave out what only makes the compiled code faster (4x less time here), and
# do not split a program to compile its parts in parallel (8% less). Four devices, for the data-parallel tests;
# everything else runs on the first.
flags = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_force_host_platform_device_count=4",
]
jaxlib = tuple(map(int, version("jaxlib").split(".")[:2]))  # it aborts at a flag that it does not know
if jaxlib < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

# What one test or worker has compiled, the others need not: they all find this folder in their environment. Storing a
# small program costs more than compiling it twice.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="tlstm_jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1"
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)

# Tracing makes many objects that live on, through which the garbage collector would go again and again.
gc.set_threshold(100_000, 20, 100)

import jax  # noqa: E402 (the flags are read when jax is imported)
import pytest  # noqa: E402


def pytest_collection_finish():
    """Keeps what the imports made out of later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def x64():
    """Float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def tiny(monkeypatch):
    """The digits, replaced by 45 tiny images."""
    from tests.experiments import small_runs  # only here: the tests of the core need nothing that experiments do

    small_runs.replace_digits(monkeypatch)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The workdir of a run that nothing disturbed, for all tests to compare with."""
    from experiments import mnist
    from experiments.running import curves, runs
    from tests.experiments import small_runs

    workdir = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_runs.replace_digits(monkeypatch)
        monkeypatch.setattr(runs, "learning_curves", curves.learning_curves)
        assert mnist.main([*small_runs.TINY, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.fixture
def whole(tiny, unbroken, tmp_path):
    """A copy of that run, to do things to."""
    return Path(shutil.copytree(unbroken, tmp_path / "whole"))
