"""The memory of the process, in processes of their own, whose allocator is as Python leaves it."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import jax
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


def test_freed_memory_is_used_again_on_linux():
    """Elsewhere the allocator is another one, and stays as it is."""
    kept = page_faults() > 10 * (page_faults("allocator.keep_memory()") + 1)
    assert kept == (sys.platform == "linux")


@pytest.mark.parametrize(
    ("backend", "library", "expected"),
    [("cpu", "glibc", [(-4, 0), (-1, -1)]), ("gpu", "glibc", []), ("cpu", "", [])],  # "": macOS, musl, Windows.
)
def test_where_memory_is_kept(monkeypatch, backend, library, expected):
    """Numbers of glibc's malloc.h: M_MMAP_MAX is -4, M_TRIM_THRESHOLD is -1."""
    calls = []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *pair: calls.append(pair)))
    allocator.keep_memory()
    assert calls == expected
