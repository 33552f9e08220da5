"""Connects the processes of a run: one a host, or one an accelerator."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ass_jax.runtime.console import print_error, print_user_error, say
from configs.user_error import UserError

EXIT_CODE_OF_LOST_PROCESS = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on.
EXIT_CODE_OF_INTERRUPT = 130  # As shells report Ctrl-C.
HEARTBEAT_TIMEOUT = 30  # Seconds without a sign of life after which a process, and with it the run, is given up.
PARTING = 10  # Seconds that a process which ends with an error waits for the others to end too.


def join(settings: ConfigDict) -> None:
    """Waits for the other processes; afterwards `jax.devices()` lists the devices of all of them.

    It must come before anything else that asks JAX for devices. A run of one process needs none of it.

    Args:
      settings: `config.distributed`.

    Raises:
      UserError: no cluster was detected.
      RuntimeError: the others did not come in time.
    """
    address, processes, index = settings.coordinator, settings.processes, settings.index
    if not address and not settings.detect:
        return
    where = {"coordinator_address": address, "num_processes": processes, "process_id": index} if address else {}
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # For processes on CPUs; others ignore it.
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    except ValueError as error:
        raise UserError(
            f"distributed.detect found no cluster that it knows (TPU, Slurm, Kubernetes, MPI): {error} "
            "Set distributed.coordinator, .processes and .index instead."
        ) from error
    say(f"{jax.process_count()} processes, {jax.device_count()} devices.")


class LostError(UserError):
    """An operation shared with the other processes failed, most likely because one of them has ended."""

    exit_code = EXIT_CODE_OF_LOST_PROCESS


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Turns the errors of libraries that mean a lost process into LostError; all other errors pass unchanged."""
    try:
        yield
    except Exception as error:
        reason = sign_of_loss(error)
        if reason is None:
            raise
        raise LostError(
            f"Process {jax.process_index()} of {jax.process_count()}: an operation shared with the others failed, most "
            f"likely because another process has ended ({reason}). Start all of them again: they go on from the last "
            "checkpoint."
        ) from error


@contextlib.contextmanager
def end_together() -> Iterator[None]:
    """Ends this process soon after an error, although the others may wait for it.

    An error that all processes share ends them side by side, each with its own exit code. After an error of this
    process alone, the others wait for it in a step, and Python's ordinary exit would wait for them in turn. A run of
    one process needs none of it.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        code = _print_and_get_code(error)
        if code != EXIT_CODE_OF_LOST_PROCESS:
            parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            parting.start()
            parting.join(PARTING)
        sys.stdout.flush()
        os._exit(code)


def sign_of_loss(error: BaseException | None) -> str | None:
    """Returns the first line of the first error in the chain of causes that means a lost process; None if none does."""
    if error is None or jax.process_count() == 1:
        return None
    if cause := sign_of_loss(error.__cause__):
        return cause
    text = str(error).partition("\n")[0]
    # Gloo raises ValueError; barriers raise TimeoutError or JAX's own error.
    lost = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError) or "Gloo" in text
    return text if lost and "RESOURCE_EXHAUSTED" not in text else None  # RESOURCE_EXHAUSTED: this process lacks memory.


def _print_and_get_code(error: BaseException) -> int:
    """Prints an error as the command line does and returns the exit code of the process."""
    if isinstance(error, UserError):
        return print_user_error(error)
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        print_error("Interrupted. The same command goes on from the last checkpoint.")
        return EXIT_CODE_OF_INTERRUPT
    traceback.print_exception(error)
    sys.stderr.flush()
    return 1


def in_any(flag: bool) -> bool:
    """Returns whether the flag is set in any process. All processes must call it, and wait for each other."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def unless_failing(meet: Callable[..., None]) -> Callable[..., None]:
    """Returns the barrier `meet` as a function that returns at once while an error is being raised.

    Where this process has failed, the others may never reach the barrier; waiting would hide the error.
    """

    def meet_unless_failing(**arguments: Any) -> None:
        if sys.exception() is None:
            meet(**arguments)

    return meet_unless_failing
