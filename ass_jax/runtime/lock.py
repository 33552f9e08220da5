"""A lock on a working directory: one training at a time.

The lock is a file that names its owner. The owner touches it while it works; a lock whose owner is gone is taken
over: at once where the process can be looked for, on the same host, and elsewhere when it was not touched for long.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from absl import logging

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None

FILE = "training.lock"
_TOUCHED_EVERY = 30.0  # Seconds.
_STALE_AFTER = 600.0  # Seconds since the last touch, for owners on other hosts.


class LockedError(RuntimeError):
    """Another process works in the directory."""


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds the lock of a working directory, which is made if need be; gives it back at the end.

    Raises:
      LockedError: another process holds it; the message names it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / FILE
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": _start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    _take(file, owner)
    done = threading.Event()
    toucher = threading.Thread(target=_keep_touching, args=(file, done), daemon=True)
    toucher.start()
    try:
        yield
    finally:
        done.set()
        toucher.join()
        if _read(file) == owner:  # Else someone found this host silent for too long.
            file.unlink(missing_ok=True)


def _take(file: Path, owner: dict) -> None:
    """Creates the lock file, whole from its first moment on."""
    own = file.with_name(f"{file.name}.{owner['host']}.{owner['process']}")
    own.write_text(json.dumps(owner))
    try:
        with _alone(file.parent):
            if file.exists():
                found = _read(file)
                # By the clock of the file system: those of two hosts may differ.
                silent = own.stat().st_mtime - file.stat().st_mtime
                if not _is_stale(found, owner, silent):
                    raise LockedError(
                        f"{file.parent} is in use by another training: {_in_words(found)}. Wait for it, stop it, or "
                        f"name another --workdir. If it is surely gone, remove {file}."
                    )
                logging.warning("Took over %s from a training that is gone: %s.", file.parent, _in_words(found))
                file.unlink(missing_ok=True)
            try:
                os.link(own, file)  # Fails if another process was faster.
            except FileExistsError:
                raise LockedError(f"{file.parent} is in use by another training: {_in_words(_read(file))}.") from None
    finally:
        own.unlink(missing_ok=True)


def _is_stale(found: dict, owner: dict, silent: float) -> bool:
    if found.get("host") != owner["host"]:
        return silent > _STALE_AFTER
    # The number of a process is given to another one some time after its end.
    return not _is_alive(found["process"]) or _start_of(found["process"]) != found["started"]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # Someone else's.
    return True


def _start_of(process: int) -> str | None:
    """Returns when a process began, in the system's own count; None where that is not told or it has ended."""
    try:
        state, *others = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else others[18]


def _read(file: Path) -> dict:
    try:
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _in_words(found: dict) -> str:
    if not found.keys() >= {"host", "process", "since"}:
        return "its lock names no owner"
    return f"process {found['process']} on {found['host']}, since {found['since']}"


def _keep_touching(file: Path, done: threading.Event) -> None:
    while not done.wait(_TOUCHED_EVERY):
        with contextlib.suppress(OSError):
            os.utime(file)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps the processes of this host from judging the same stale lock at the same time."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
