"""How the steps are compiled: once for a working directory, and without waste on a CPU."""

import contextlib
import zlib
from pathlib import Path

import jax

CACHE = "compilation_cache"  # Folder of a working directory.
_WORTH_KEEPING = 0.1  # Seconds of compiling; what takes less is sooner compiled than found.
_OF_STEPS_ON_A_CPU = {
    "xla_backend_optimization_level": 1,  # LLVM's: higher ones take longer and give no faster step.
    # Would undo `config.model.remat`: what is to be computed again would be recognised and kept.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def keep_programs(workdir: Path) -> None:
    """Keeps what is compiled from now on in a working directory, from where the next start takes it.

    JAX finds a program by everything that it depends on, versions and type of the processor included, so one that
    does not fit is never run. A folder that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) stays the one that is
    used. Where nothing can be written, nothing is kept, and the run goes on.

    Args:
      workdir: of the run; it exists.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = workdir.absolute() / CACHE
    try:
        folder.mkdir(exist_ok=True)
        if jax.process_index() == 0:
            _remove_torn(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def options_of_steps() -> dict | None:
    """Returns the compiler's options for the steps of training and evaluation on the devices at hand."""
    return _OF_STEPS_ON_A_CPU if jax.default_backend() == "cpu" else None


def options_of_one_use() -> dict | None:
    """Returns the compiler's options for what runs once: on a CPU, compiling it well takes longer than running it."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def _remove_torn(folder: Path) -> None:
    """Removes programs whose writing a kill or a full disk has cut short: JAX would never replace them."""
    for file in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # Another run removes them as well.
            data = file.read_bytes()
            if data and not data.startswith(b"x"):  # Not of zlib: JAX compresses otherwise here.
                continue
            try:
                zlib.decompress(data)
            except zlib.error:
                file.unlink(missing_ok=True)
