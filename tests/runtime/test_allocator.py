"""The memory of the process, in processes of their own, whose allocator is as Python leaves it."""

import ctypes
import subprocess
import sys

import pytest

from ass_jax.runtime import allocator

_PROGRAM = """
import resource
from ass_jax.runtime import allocator
{call}
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytes([1]) * 2**26
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call=""):
    """Returns the page faults of a block of 64 MiB, the third of its kind."""
    program = [sys.executable, "-c", _PROGRAM.format(call=call)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again():
    assert page_faults() > 10 * (page_faults("allocator.keep_memory()") + 1)


def test_other_libraries_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    allocator.keep_memory()
