"""Compiler options for tests of what surrounds a step: it compiles in half the time and runs more slowly.

Numbers of the step itself are tested with the options that a training uses.
"""

import os

OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
_FLAGS = " ".join(f"--{option}={str(value).lower()}" for option, value in OPTIONS.items())


def environment(**others):
    """Returns the environment for a program that trains; `others` are further variables."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _FLAGS} | others
