"""Gives every test the same four virtual devices, a quiet TensorFlow and a folder of compiled programs."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Before the first import of either library: both read the environment once. Programs that tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Each worker's own: what several of its tests compile, it compiles once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

# Helpers too say what both sides of a plain assert were.
_TESTS = Path(__file__).parent
_HELPERS = [file for file in _TESTS.rglob("*.py") if not file.name.startswith(("test_", "conftest"))]
pytest.register_assert_rewrite(
    *(".".join(("tests", *file.relative_to(_TESTS).with_suffix("").parts)) for file in _HELPERS)
)

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_num_cpu_devices", 4)
