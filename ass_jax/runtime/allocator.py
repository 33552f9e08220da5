"""The memory of the process."""

import ctypes
import platform

import jax

_TRIM_THRESHOLD, _MOST_MAPPED = -1, -4  # Names of glibc's parameters in `mallopt`: malloc.h.


def keep_memory() -> None:
    """Makes glibc keep memory that is freed, where JAX computes on a CPU. Other C libraries are left as they are.

    XLA allocates a step's temporaries anew at every step. By default, glibc maps such large blocks and unmaps them when
    they are freed, so that each step touches new pages: a quarter of the time of a small network on a virtual machine
    (docs/performance/cpu.md, "Memory allocator").
    """
    if jax.default_backend() != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    set_parameter = ctypes.CDLL(None).mallopt
    set_parameter(_MOST_MAPPED, 0)
    set_parameter(_TRIM_THRESHOLD, -1)  # Never.
