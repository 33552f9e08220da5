"""Four virtual devices, a quiet TensorFlow and a folder of compiled programs for every test; little memory for all."""

import atexit
import ctypes
import gc
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

# Before the first import of either library: both read the environment once. Programs that tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# The level at which a training compiles its steps; XLA's own default compiles longer.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()
# What several tests compile is compiled once; workers find the folder in the environment of the first process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

# Helpers too say what both sides of a plain assert were.
_TESTS = Path(__file__).parent
_HELPERS = [file for file in _TESTS.rglob("*.py") if not file.name.startswith(("test_", "conftest"))]
pytest.register_assert_rewrite(
    *(".".join(("tests", *file.relative_to(_TESTS).with_suffix("").parts)) for file in _HELPERS)
)

jax.config.update("jax_num_cpu_devices", 4)

_peaks = {}  # Worker -> gigabytes.


@pytest.fixture(scope="module", autouse=True)
def _release_memory():
    """Gives back what a module's tests leave behind: compiled programs and the allocator's free pages."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _peak():
    """Returns the most memory that this process has had, in gigabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = _peak()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    _peaks[node.gateway.id] = node.workeroutput["peak"] if not error else float("nan")


def pytest_terminal_summary(terminalreporter):
    peaks = _peaks or {"this process": _peak()}
    terminalreporter.write_line("Peak memory: " + ", ".join(f"{name} {peak:.1f} GB" for name, peak in peaks.items()))
