"""Describes the machine that a benchmark runs on: what affects its figures, without names or paths."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # Flags of x86 processors, the widest first.
_QUERY = "import jax; devices = jax.devices(); print(len(devices), devices[0].device_kind)"


def describe(environment: Mapping[str, str], devices: str = "") -> dict:
    """Returns JSON-able facts: "cpu", "cores", "memory_gib", "system", "python", "packages" and "devices".

    Args:
      environment: variables of the runs; they decide which devices JAX uses.
      devices: number and kind, where the caller knows them; if empty, another process queries JAX.
    """
    return {
        "cpu": _cpu(),
        "cores": len(usable_cores()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": devices or _devices(environment),
    }


def usable_cores() -> list[int]:
    """Returns the numbers of the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def describe_in_words(facts: Mapping) -> str:
    """Formats the facts of `describe` as one line."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} core(s), {facts['memory_gib']} GiB of memory, {facts['system']}; "
        f"Python {facts['python']}; {packages}; devices of JAX: {facts['devices']}"
    )


def _cpu() -> str:
    """Returns the processor's name and its widest vector instructions, on which its speed depends most."""
    file = Path("/proc/cpuinfo")
    facts = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or "processor of unknown model"
    known = facts.get("flags", "").split()
    widest = next((label for flag, label in _INSTRUCTIONS.items() if flag in known), "")
    return f"{name} ({widest})" if widest else name


def _devices(environment: Mapping[str, str]) -> str:
    if environment.get("JAX_PLATFORMS") == "cpu":
        return "cpu"
    # In another process: one that has initialised accelerators keeps their memory.
    query = subprocess.run([sys.executable, "-c", _QUERY], env=environment, capture_output=True, text=True)
    return query.stdout.strip() if query.returncode == 0 else "unknown"
