"""Compiler options of the steps, and a cache of compiled programs in the working directory."""

import contextlib
import zlib
from pathlib import Path

import jax

from ass_jax.runtime.workdir import COMPILATION_CACHE

_LEAST_COMPILE_SECONDS = 0.1  # Programs that compile faster are not worth looking up.
_ONE_USE_OPTIONS_ON_CPU = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
_STEP_OPTIONS_ON_CPU = {
    "xla_backend_optimization_level": 1,  # LLVM's: higher levels compile longer and give no faster step.
    # This pass would undo `config.model.remat`: it merges what is to be computed again with what was computed before.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def use_compilation_cache(workdir: Path) -> None:
    """Caches compiled programs in the working directory, where the next start of the run finds them.

    JAX looks a program up by everything that it depends on, versions and type of processor included, so a program
    that does not fit is never run. If the user has chosen a folder (`JAX_COMPILATION_CACHE_DIR`), that one is used.
    If the folder cannot be written, nothing is cached and the run goes on.

    Args:
      workdir: of the run; it exists.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = workdir.absolute() / COMPILATION_CACHE
    try:
        folder.mkdir(exist_ok=True)
        if jax.process_index() == 0:
            _remove_torn(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_COMPILE_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def options_of_steps() -> dict | None:
    """Returns the compiler options of training and evaluation steps for the platform of this process."""
    return _STEP_OPTIONS_ON_CPU if jax.default_backend() == "cpu" else None


def options_of_one_use() -> dict | None:
    """Returns the compiler options of programs that run once: on a CPU, optimising takes longer than running."""
    return _ONE_USE_OPTIONS_ON_CPU if jax.default_backend() == "cpu" else None


def _remove_torn(folder: Path) -> None:
    """Removes programs that a kill or a full disk has cut short: JAX would never replace them."""
    for file in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # Another run may remove the same file.
            data = file.read_bytes()
            if data and not data.startswith(b"x"):  # Not zlib's format; JAX uses another one on some machines.
                continue
            try:
                zlib.decompress(data)
            except zlib.error:
                file.unlink(missing_ok=True)
