"""What goes wrong with checkpoints on disk: finds those that are not whole, names them, moves them out of the way.

A checkpoint is a folder named by its step, with the items `state`, `configuration`, `metrics` and `checksums`.
"""

import contextlib
import json
import os
from collections.abc import Iterator

import jax
from absl import logging
from etils import epath

from ass_jax.checkpoints import leaves
from ass_jax.runtime import distributed
from ass_jax.runtime.workdir import is_step

FOLDER = "damaged"
# Items in JSON, and the file of each.
_JSON_FILES = {"configuration": "metadata", "metrics": "metrics", "checksums": "metadata"}
_SHOWN = 200  # Characters of a library's message.


class DamagedError(ValueError):
    """What was read of a checkpoint is not what was saved."""


class SaveError(RuntimeError):
    """A checkpoint could not be written."""


def look(directory: str | os.PathLike) -> dict[int, str]:
    """Returns what is wrong, by step, with the checkpoints of a directory, as far as can be told without the arrays.

    Raises:
      DamagedError: something is wrong with each of them.
    """
    root = epath.Path(directory)
    steps = [int(path.name) for path in root.iterdir() if is_step(path.name)] if root.exists() else []
    found = {}
    for step in steps:
        try:
            read_checksums(directory, step)
        except DamagedError as error:
            if (root / str(step)).exists():  # Else the run that is at work there has just removed it.
                found[step] = str(error)
    if found and len(found) == len(steps):
        raise refusal(directory, found)
    return found


def read_checksums(directory: str | os.PathLike, step: int) -> dict[str, str]:
    """Returns the checksums of a checkpoint's arrays, as `leaves.checksums` does.

    Raises:
      DamagedError: an item is missing, or its JSON is not what was saved.
    """
    folder = epath.Path(directory) / str(step)
    missing = [name for name in ("state", *_JSON_FILES) if not (folder / name).exists()]
    if missing:
        raise DamagedError(f"it lacks {', '.join(missing)}")
    values = {}
    for name, file in _JSON_FILES.items():
        try:
            values[name] = json.loads((folder / name / file).read_text())
        except (FileNotFoundError, ValueError) as error:
            raise DamagedError(f"its {name} cannot be read: {error}") from error
    checksums = values["checksums"]
    differing = [
        name for name in ("configuration", "metrics") if checksums.get(name) != leaves.checksum_of_json(values[name])
    ]
    if differing or not isinstance(checksums.get("state"), dict):
        raise DamagedError(f"its {' and '.join(differing) or 'checksums'} differ from what was saved")
    return checksums["state"]


@contextlib.contextmanager
def told_of_reading() -> Iterator[None]:
    """Turns whatever a library says of bytes that it cannot read into DamagedError."""
    try:
        yield
    except (DamagedError, MemoryError, PermissionError):  # The latter two say nothing about the bytes.
        raise
    except Exception as error:
        if distributed.sign_of_loss(error):
            raise
        first = str(error).strip().partition("\n")[0][:_SHOWN]
        raise DamagedError(f"it cannot be read: {type(error).__name__}: {first}") from error


@contextlib.contextmanager
def told_of_saving(directory: str | os.PathLike) -> Iterator[None]:
    """Turns the error of a save into SaveError."""
    try:
        yield
    except Exception as error:
        raise SaveError(
            f"A checkpoint could not be written to {directory}; the older ones are as they were. Look for room on the "
            f"disk; then the same command goes on from the latest of them. The error: {error!r}"
        ) from error


def tell(directory: str | os.PathLike, found: dict[int, str], move: bool) -> None:
    """Warns of damaged checkpoints and, if asked to, moves them into `FOLDER`, out of the way of later saves.

    Of several processes, the first one does so; the others, which call this too, wait until it is done.
    """
    for step, reason in found.items() if jax.process_index() == 0 else ():
        place = f"moved to {_move_aside(epath.Path(directory), step)}" if move else "left where it is"
        logging.warning("Checkpoint %d in %s is damaged; not used, %s: %s", step, directory, place, reason)
    distributed.in_any(bool(found))


def refusal(directory: str | os.PathLike, found: dict[int, str]) -> DamagedError:
    """Returns the error for a directory in which all checkpoints are damaged."""
    lines = "".join(f"\n  {step}: {reason}" for step, reason in sorted(found.items()))
    return DamagedError(
        f"Every checkpoint in {directory} is damaged:{lines}\nNothing was changed. Put back a copy of one, or train "
        "anew in another --workdir."
    )


def _move_aside(root: epath.Path, step: int) -> str:
    """Moves a checkpoint and returns where to; a folder that is there already stays."""
    place, number = f"{FOLDER}/{step}", 1
    while (root / place).exists():
        number += 1
        place = f"{FOLDER}/{step}_{number}"
    (root / FOLDER).mkdir(exist_ok=True)
    (root / str(step)).rename(root / place)
    return place
