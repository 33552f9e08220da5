"""The benchmark of the start, with a program in place of `main.py`."""

import time

import pytest

from benchmarks.speed import start

PROGRAM = """
import os, sys, time
assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
print("compiled")
time.sleep(0.2)
print(sys.argv[1], flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text(PROGRAM)
    monkeypatch.setattr(start, "ROOT", tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    return tmp_path


def test_time_ends_with_the_first_step(folder):
    begun = time.monotonic()
    seconds = start.first_step_seconds(["step 1/5  loss"], folder)
    assert 0.2 < seconds <= time.monotonic() - begun < 30


def test_a_run_that_ends_early_is_reported(folder):
    (folder / "main.py").write_text("print('nothing to train')")
    with pytest.raises(RuntimeError, match="before its first step:\\nnothing to train"):
        start.first_step_seconds([], folder)
