"""Checksums of checkpoints: finds damaged checkpoints, names them and moves them out of the way.

A checkpoint is a folder named by its step, with the items `state`, `configuration`, `metrics` and `checksums`.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from ass_jax.runtime import distributed
from ass_jax.runtime.workdir import DAMAGED, is_step
from configs.user_error import UserError

# Items in JSON, each with the name of its file.
_JSON_FILES = {"configuration": "metadata", "metrics": "metrics", "checksums": "metadata"}
_LONGEST_MESSAGE = 200  # Characters quoted from the error of a library.
_MOST_LEAVES = 5  # Named in a message; the others are counted.


class DamagedError(UserError):
    """A checkpoint does not hold what was saved."""


class SaveError(UserError):
    """A checkpoint could not be written."""


def checksums(*, state: Any, **values: Any) -> dict[str, Any]:
    """Returns the checksums of a state by leaf, under "state", and of JSON-able values, each under its name."""
    return {"state": leaf_checksums(state)} | {name: _json_checksum(value) for name, value in values.items()}


def leaf_checksums(tree: Any) -> dict[str, str]:
    """Returns path -> type, shape and CRC-32 of the bytes of every leaf, such as `float32[3, 4] crc32 0123abcd`.

    A CRC-32 finds every flip of a single bit and every burst of up to 32 bits, and costs less than writing the bytes.
    """
    return {name: f"{leaf.dtype}{list(leaf.shape)} crc32 {_crc(leaf):08x}" for name, leaf in _leaves(tree)}


def leaf_types(tree: Any) -> dict[str, str]:
    """Returns path -> type and shape of every leaf, such as `float32[3, 4]`."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _leaves(tree)}


def leaf_differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """Returns how many leaves differ and the first of them, a line each; empty if all are equal."""
    lines = [
        f"\n  {name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    more = len(lines) - _MOST_LEAVES
    shown = "".join(lines[:_MOST_LEAVES]) + (f"\n  and {more} more" if more > 0 else "")
    return f"leaves that differ: {len(lines)}.{shown}" if lines else ""


def plain_json(value: dict) -> dict:
    """Returns a value as JSON gives it back; numbers that are not finite, which JSON lacks, become None."""
    return json.loads(json.dumps(value, default=float), parse_constant=lambda name: None)


def find_damaged(directory: str | os.PathLike) -> dict[int, str]:
    """Returns step -> reason of the checkpoints whose files are incomplete or whose JSON differs from its checksums.

    The arrays are not read.

    Raises:
      DamagedError: there are checkpoints, and all of them are damaged.
    """
    root = epath.Path(directory)
    steps = [int(path.name) for path in root.iterdir() if is_step(path.name)] if root.exists() else []
    found = {}
    for step in steps:
        try:
            read_checksums(directory, step)
        except DamagedError as error:
            if (root / str(step)).exists():  # The run that is at work there may have just deleted it.
                found[step] = str(error)
    if found and len(found) == len(steps):
        raise all_damaged_error(directory, found)
    return found


def read_checksums(directory: str | os.PathLike, step: int) -> dict[str, str]:
    """Returns the `leaf_checksums` that were saved with a checkpoint.

    Raises:
      DamagedError: an item is missing, or its JSON differs from its checksum.
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
    saved = values["checksums"]
    differing = [name for name in ("configuration", "metrics") if saved.get(name) != _json_checksum(values[name])]
    if differing or not isinstance(saved.get("state"), dict):
        raise DamagedError(f"its {' and '.join(differing) or 'checksums'} differ from what was saved")
    return saved["state"]


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns the errors that libraries raise for bytes that they cannot read into DamagedError.

    Raises:
      UserError: a file must not be read.
    """
    try:
        yield
    except (DamagedError, MemoryError):  # Lack of memory says nothing about the bytes, nor does lack of permission.
        raise
    except PermissionError as error:
        raise UserError(f"A checkpoint cannot be read ({error}). Allow reading it.") from error
    except Exception as error:
        if distributed.sign_of_loss(error):
            raise
        first = str(error).strip().partition("\n")[0][:_LONGEST_MESSAGE]
        raise DamagedError(f"it cannot be read: {type(error).__name__}: {first}") from error


@contextlib.contextmanager
def saving(directory: str | os.PathLike) -> Iterator[None]:
    """Turns any error of a save into SaveError."""
    try:
        yield
    except Exception as error:
        raise SaveError(
            f"A checkpoint could not be written to {directory}; the older ones are unchanged. Make room on the disk; "
            f"then the same command goes on from the latest of them. The error: {error!r}"
        ) from error


def report_damaged(directory: str | os.PathLike, found: dict[int, str], move: bool) -> None:
    """Warns of damaged checkpoints and, if `move`, moves them aside, out of the way of later saves.

    All processes must call it. The first one does the work; the others wait until it is done.
    """
    for step, reason in found.items() if jax.process_index() == 0 else ():
        place = f"moved to {_move_aside(epath.Path(directory), step)}" if move else "left in its place"
        logging.warning("Checkpoint %d in %s is damaged; not used, %s: %s", step, directory, place, reason)
    distributed.in_any(bool(found))


def all_damaged_error(directory: str | os.PathLike, found: dict[int, str]) -> DamagedError:
    """Returns the error for a directory in which all checkpoints are damaged."""
    lines = "".join(f"\n  {step}: {reason}" for step, reason in sorted(found.items()))
    return DamagedError(
        f"Every checkpoint in {directory} is damaged:{lines}\nNothing was changed. Restore a copy of one, or train "
        "anew in another --workdir."
    )


def _move_aside(root: epath.Path, step: int) -> str:
    """Moves a checkpoint to a folder that does not exist yet and returns its path below `root`."""
    place, number = f"{DAMAGED}/{step}", 1
    while (root / place).exists():
        number += 1
        place = f"{DAMAGED}/{step}_{number}"
    (root / DAMAGED).mkdir(exist_ok=True)
    (root / str(step)).rename(root / place)
    return place


def _json_checksum(value: Any) -> str:
    return f"crc32 {zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _crc(leaf: Any) -> int:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = leaf.addressable_data(0)  # Replicated: each process holds the whole array.
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
