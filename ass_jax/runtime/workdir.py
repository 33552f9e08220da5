"""Names of the files in a working directory, and reading and writing them.

It imports nothing heavy, so that a wrong folder is reported at once.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from configs.user_error import UserError

CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"  # Folder in `CHECKPOINTS` of those whose bytes have changed.
DELETED = "deleted"  # Folder in `CHECKPOINTS` of those that are about to be deleted.
CONFIGURATION = "config.json"
CLASSES = "classes.json"
METRICS = "metrics.jsonl"
SCORES = "eval.json"
PREDICTIONS = "predictions"
LABEL_MAPS = "predicted"  # Of a user's own images.
PREDICTION_PICTURE = "predictions.png"
MIXED_PICTURE = "mixed.png"
COMPILATION_CACHE = "compilation_cache"
LOCK = "training.lock"
CHECK_REPORT = "check.txt"
REPORT = "report.html"
REPORT_DATA = "report.json"  # What the report shows of the last evaluation.
_LONGEST_NAME = 230  # Bytes; leaves room for "_confidence.nii.gz".
_HASH_DIGITS = 12


def of_split(name: str, split: str) -> str:
    """Returns a file or folder of a split: for "validation" `name` itself, for others such as "eval_source.json"."""
    path = Path(name)
    return name if split == "validation" else f"{path.stem}_{split}{path.suffix}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the OSError of a write into a UserError that names the file or folder.

    Raises:
      UserError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). Make room on the disk, allow writing there, or "
            "name another folder."
        ) from error


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, unless it exists.

    Raises:
      UserError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder, or a name that is free.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def shortened(name: str) -> str:
    """Returns a file's name without its ending, made short enough for endings and suffixes if it is long.

    File systems take 255 bytes. The beginning is kept, and a hash of the whole name follows, so that different names
    stay different.
    """
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{name.encode()[: _LONGEST_NAME - _HASH_DIGITS - 1].decode(errors='ignore')}_{digest}"


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether a working directory has a checkpoint, intact or not."""
    folder = workdir / CHECKPOINTS
    return folder.is_dir() and any(is_step(path.name) for path in folder.iterdir())


def is_step(name: str) -> bool:
    """Returns whether a folder's name is the number of a step, in ASCII digits."""
    return name.isascii() and name.isdecimal()


def expect_checkpoint(workdir: Path) -> None:
    """Raises UserError unless a working directory has a checkpoint."""
    if not has_checkpoint(workdir):
        found = "no checkpoint is in it" if workdir.is_dir() else "there is no such folder"
        raise UserError(
            f"{workdir}: expected the working directory of a training run, which has {CHECKPOINTS}/STEP; {found}. "
            "Train first: --mode=train."
        )


def write_json(file: Path, value: Mapping) -> None:
    """Writes a JSON file, indented.

    Raises:
      UserError: the file cannot be written.
    """
    with writing(file):
        file.write_text(json.dumps(value, indent=2) + "\n")


def replace_text(file: Path, text: str) -> None:
    """Writes a text file, which gets its name only when it is complete.

    Raises:
      OSError: the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(file: Path, expected: Mapping[str, type]) -> dict:
    """Reads a JSON file.

    Args:
      file: its path.
      expected: types of the values by key; the keys must be there. A dot leads into a nested dictionary.

    Raises:
      UserError: the file cannot be read or has other content; the message names it.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: it cannot be read ({error}).") from error
    return parse_json(text, str(file), expected)


def parse_json(text: str, place: str, expected: Mapping[str, type]) -> dict:
    """Parses a JSON text as `read_json` does; `place` names its source in messages."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: it is not JSON, or is cut short ({error}).") from error
    for key, kind in {"": dict, **expected}.items():
        value = found
        for part in key.split(".") if key else ():
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float if kind is float else kind):
            there = "nothing" if value is None else f"{value!r:.50}"
            raise UserError(f"{place}: expected {key or 'JSON'} of type {kind.__name__}, found {there}.")
    return found
