"""A lock on a working directory: one training at a time.

The lock is a file that names its owner. The owner touches the file while it works. A lock whose owner is gone is taken
over: at once if the owner ran on this host, where its process can be looked up, and else when the file was not
touched for ten minutes.
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

from ass_jax.runtime.workdir import LOCK, make_folder, writing
from configs.user_error import UserError

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

_TOUCH_SECONDS = 30.0
_STALE_SECONDS = 600.0  # Since the last touch, for owners on other hosts.


class LockedError(UserError):
    """Another process trains in the working directory."""


@contextlib.contextmanager
def training_lock(workdir: Path) -> Iterator[None]:
    """Holds the lock of a working directory, which is made if it does not exist.

    Raises:
      LockedError: another process holds the lock; the message names it.
      UserError: the directory cannot be made or written.
    """
    make_folder(workdir)
    file = workdir / LOCK
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": _start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with writing(file):
        _take(file, owner)
    done = threading.Event()
    toucher = threading.Thread(target=_keep_touching, args=(file, done), daemon=True)
    toucher.start()
    try:
        yield
    finally:
        done.set()
        toucher.join()
        if _read(file) == owner:  # Another host takes the lock over if this one was silent for too long.
            file.unlink(missing_ok=True)


def _take(file: Path, owner: dict) -> None:
    """Creates the lock file with its whole content at once."""
    own = file.with_name(f"{file.name}.{owner['host']}.{owner['process']}")
    own.write_text(json.dumps(owner))
    try:
        with _exclusive(file.parent):
            if file.exists():
                found = _read(file)
                # By the clock of the file system: those of two hosts may differ.
                silence = own.stat().st_mtime - file.stat().st_mtime
                if not _is_stale(found, owner, silence):
                    raise LockedError(
                        f"{file.parent} is in use by another training: {_describe(found)}. Wait for it, stop it, or "
                        f"name another --workdir. If it no longer runs, remove {file}."
                    )
                logging.warning("Took over %s from a training that is gone: %s.", file.parent, _describe(found))
                file.unlink(missing_ok=True)
            try:
                os.link(own, file)  # Fails if another process was faster.
            except FileExistsError:
                raise LockedError(f"{file.parent} is in use by another training: {_describe(_read(file))}.") from None
    finally:
        own.unlink(missing_ok=True)


def _is_stale(found: dict, owner: dict, silence: float) -> bool:
    if found.get("host") != owner["host"]:
        return silence > _STALE_SECONDS
    # Systems reuse process numbers, so the time of the start has to agree as well.
    return not _is_alive(found["process"]) or _start_of(found["process"]) != found["started"]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # It belongs to another user.
    return True


def _start_of(process: int) -> str | None:
    """Returns when a process started, in clock ticks of the system; None if it has ended or /proc does not exist."""
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


def _describe(found: dict) -> str:
    if not found.keys() >= {"host", "process", "since"}:
        return "its lock names no owner"
    return f"process {found['process']} on {found['host']}, since {found['since']}"


def _keep_touching(file: Path, done: threading.Event) -> None:
    while not done.wait(_TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(file)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keeps two processes of this host from taking over the same stale lock."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
