"""Joins the processes of a run that has several: one a host, or one an accelerator."""

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

from ass_jax.runtime.console import say

EXIT_CODE_OF_LOST_PROCESS = 75  # "Temporary failure" of sysexits.h: the same command goes on.
HEARTBEAT_TIMEOUT = 30  # Seconds without a sign of life after which a process is given up, and with it the run.
PARTING = 10  # Seconds that a process which ends with an error waits for the others to do so too.


def join(settings: ConfigDict) -> None:
    """Waits for the other processes; afterwards `jax.devices()` are those of all of them.

    Has to come before anything else that asks JAX for devices. A run of one process needs nothing of this.

    Args:
      settings: `config.distributed`.

    Raises:
      ValueError: no cluster was detected.
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
        raise ValueError(
            f"distributed.detect found no cluster that it knows (TPU, Slurm, Kubernetes, MPI): {error} "
            "Set distributed.coordinator, .processes and .index instead."
        ) from error
    say(f"{jax.process_count()} processes, {jax.device_count()} devices.")


class LostError(RuntimeError):
    """What this process shares with the others of its run failed, most likely because one of them has ended.

    Attributes:
      exit_code: of this process.
    """

    exit_code = EXIT_CODE_OF_LOST_PROCESS


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Turns what the libraries say when another process is gone into LostError; leaves all other errors as they are."""
    try:
        yield
    except Exception as error:
        reason = sign_of_loss(error)
        if reason is None:
            raise
        raise LostError(
            f"Process {jax.process_index()} of {jax.process_count()}: what it shares with the others failed, most "
            f"likely because another process has ended ({reason}). Start all of them again: they go on from the last "
            "checkpoint."
        ) from error


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """Ends this process, where it has several companions and an error comes, without waiting for them for long.

    An error that all of them share ends them side by side, each with its own exit code. One that this process has
    alone must not: the others wait for it in a step, and the ordinary way out of Python would wait for them.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        code = _told(error)
        if code != EXIT_CODE_OF_LOST_PROCESS:
            parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            parting.start()
            parting.join(PARTING)
        sys.stdout.flush()
        os._exit(code)


def sign_of_loss(error: BaseException | None) -> str | None:
    """Returns the first line of the error, or of the first of its causes, that tells of a lost process; None: none."""
    if error is None or jax.process_count() == 1:
        return None
    if cause := sign_of_loss(error.__cause__):
        return cause
    text = str(error).partition("\n")[0]
    # Gloo's errors come as ValueError, those of barriers as TimeoutError or as JAX's own.
    lost = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError) or "Gloo" in text
    return text if lost and "RESOURCE_EXHAUSTED" not in text else None  # The latter: this process lacks memory.


def _told(error: BaseException) -> int:
    """Returns the exit code of an error, which is told unless that is done already."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        print("Interrupted. The same command goes on from the last checkpoint.", file=sys.stderr, flush=True)
        return 130
    traceback.print_exception(error)
    sys.stderr.flush()
    return 1


def in_any(flag: bool) -> bool:
    """Returns whether the flag is set in any process of the run; all of them ask, and wait for each other."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def unless_failing(meet: Callable[..., None]) -> Callable[..., None]:
    """Returns `meet`, which waits for the other processes, as a function that returns at once while an error is raised.

    The others do not come where one has failed; waiting for them would keep its error from being told.
    """

    def meet_unless_failing(**arguments: Any) -> None:
        if sys.exception() is None:
            meet(**arguments)

    return meet_unless_failing
