"""Joins the processes of a run that has several: one a host, or one an accelerator."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

EXIT_CODE_OF_LOST_PROCESS = 75  # "Temporary failure" of sysexits.h: the same command goes on.
HEARTBEAT_TIMEOUT = 30  # Seconds without a sign of life after which a process is given up, and with it the run.


def join(settings: ConfigDict) -> None:
    """Waits for the other processes; afterwards `jax.devices()` are those of all of them.

    Has to come before anything else that asks JAX for devices. A run of one process needs nothing of this.

    Args:
      settings: `config.distributed`.

    Raises:
      ValueError: the settings do not say where this process belongs, or no cluster was detected.
      RuntimeError: the others did not come in time.
    """
    address, processes, index = settings.coordinator, settings.processes, settings.index
    if not address and not settings.detect:
        return
    if address and not (processes >= 1 and 0 <= index < processes):
        raise ValueError(
            f"distributed.coordinator is {address!r}, and so distributed.processes must be 1 or more and "
            f"distributed.index one of 0 to processes - 1; found {processes} and {index}."
        )
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


@contextlib.contextmanager
def ended_together() -> Iterator[None]:
    """Ends this process at once, with a message, where a step that it shares with the others of its run fails.

    Most often another one was killed. Leaving in the ordinary way would wait for it, and then abort.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        place, reason = f"Process {jax.process_index()} of {jax.process_count()}", str(error).splitlines()[0]
        print(
            f"{place}: a shared step failed, most likely because another process has ended ({reason}). Start all of "
            "them again: they go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CODE_OF_LOST_PROCESS)


def say(text: str) -> None:
    """Prints for the person who watches the run: once, however many processes it has."""
    if jax.process_index() == 0:
        print(text, flush=True)
