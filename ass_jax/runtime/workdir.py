"""The files of a working directory: their names, whether they are those of a run, and reading the ones in JSON.

It imports nothing heavy, so that a wrong folder is answered at once.
"""

import json
from collections.abc import Mapping
from pathlib import Path

CHECKPOINTS = "checkpoints"
CONFIGURATION = "config.json"
CLASSES = "classes.json"
SCORES = "eval.json"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions"
TEST_PREDICTIONS = "predictions_test"
STRIP = "predictions.png"


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether a folder holds a checkpoint, whole or not."""
    folder = workdir / CHECKPOINTS
    return folder.is_dir() and any(is_step(path.name) for path in folder.iterdir())


def is_step(name: str) -> bool:
    """Returns whether a name is the number of a step; other scripts have digits as well."""
    return name.isascii() and name.isdecimal()


def expect_checkpoint(workdir: Path) -> None:
    """Raises FileNotFoundError unless a folder holds a checkpoint."""
    if not has_checkpoint(workdir):
        found = "no checkpoint is in it" if workdir.is_dir() else "there is no such folder"
        raise FileNotFoundError(
            f"{workdir}: expected the working directory of a training run, which has {CHECKPOINTS}/STEP; {found}. "
            "Train first: --mode=train."
        )


def read_json(file: Path, expected: Mapping[str, type]) -> dict:
    """Reads a file in JSON.

    Args:
      file: its path.
      expected: the keys that it must have, dotted where they lie deeper, and the types of their values.

    Raises:
      ValueError: the file cannot be read or holds something else; the message names it.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: it cannot be read ({error}).") from error
    return parse_json(text, str(file), expected)


def parse_json(text: str, place: str, expected: Mapping[str, type]) -> dict:
    """Does the same for a text; `place` says where it comes from."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: it was cut short, or is no JSON ({error}).") from error
    for key, kind in {"": dict, **expected}.items():
        value = found
        for part in key.split(".") if key else ():
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float if kind is float else kind):
            there = "nothing" if value is None else f"{value!r:.50}"
            raise ValueError(f"{place}: expected {key or 'JSON'} of type {kind.__name__}, found {there}.")
    return found
