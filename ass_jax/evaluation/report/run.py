"""What a run has left in its working directory, as far as it can be read."""

import base64
import binascii
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from ass_jax.checkpoints.config_diff import flat
from ass_jax.evaluation.metrics import OTHER_SCORES
from ass_jax.evaluation.report.curves import Curve, read_curves
from ass_jax.runtime.workdir import CONFIGURATION, METRICS, REPORT_DATA, SCORES, of_split, read_json
from configs.user_error import UserError

SPLITS = ("validation", "test", "source")
PANELS = ("image", "label", "prediction", "error")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The last evaluation of a split.

    Attributes:
      split: its name.
      scores: the entries of `eval.json`.
      record: the entries of `report.json`, if there is one; see `ass_jax.evaluation.report.record`.
      confusion: integers `[R, C]`, a row a true class and a column a predicted one; None if it is not known.
      examples: `kind`, `name`, `score` and the pictures of `PANELS` in base64.
    """

    split: str
    scores: dict
    record: dict
    confusion: np.ndarray | None
    examples: list[dict]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      folder: its working directory.
      settings: JSON text by dotted key.
      curves: by name of the metric.
      evaluations: by split.
      problems: a sentence for each file that could not be read, wholly or in part.
    """

    folder: Path
    settings: dict[str, str]
    curves: dict[str, Curve]
    evaluations: dict[str, Evaluation]
    problems: list[str]

    @property
    def variant(self) -> str:
        """The variant of the training; empty if it is not known."""
        return self.settings.get("variant", "").strip('"')

    @property
    def last_step(self) -> int:
        """The last step that left a metric; 0 without any."""
        return max((int(curve.steps[-1]) for curve in self.curves.values()), default=0)


def read_run(folder: Path) -> Run:
    """Reads a run that may have only begun, or been killed, or be of an older version.

    Raises:
      UserError: the folder has no file of a run.
    """
    files = [folder / name for name in (CONFIGURATION, METRICS, SCORES, REPORT_DATA)]
    if not any(file.is_file() for file in files):
        raise UserError(
            f"{folder}: expected the working directory of a run, with {CONFIGURATION} or {METRICS}, or a ladder with "
            f"ladder.json; found {'neither' if folder.is_dir() else 'no such folder'}. Train first, or name another."
        )
    problems: list[str] = []
    settings = _readable(folder / CONFIGURATION, {}, problems)
    try:
        curves, damaged = read_curves(folder / METRICS)
    except OSError as error:
        curves, damaged = {}, 0
        problems.append(f"{METRICS}: it cannot be read ({error.strerror}).")
    if damaged:
        problems.append(f"{METRICS}: {damaged} damaged line{'s' * (damaged > 1)} left out.")
    found = {split: _evaluation(folder, split, problems) for split in SPLITS}
    evaluations = {split: evaluation for split, evaluation in found.items() if evaluation}
    return Run(folder, flat(settings), curves, evaluations, problems)


def training_seconds(run: Run) -> float | None:
    """Returns the time of the steps, without evaluations and saves; None if it is not known."""
    speed = run.curves.get("images_per_second")
    known = [evaluation.record.get("images_per_step") for evaluation in run.evaluations.values()]
    images = next((images for images in known if isinstance(images, int) and images > 0), None)
    if speed is None or images is None:
        return None
    taken = np.diff(speed.steps, prepend=0)
    measured = speed.values > 0
    if not measured.any():
        return None
    return float((taken[measured] * images / speed.values[measured]).sum())


def mean_speed(run: Run) -> float | None:
    """Returns the images per second over all steps; None if it is not known."""
    speed = run.curves.get("images_per_second")
    if speed is None:
        return None
    taken, measured = np.diff(speed.steps, prepend=0), speed.values > 0
    seconds = (taken[measured] / speed.values[measured]).sum()
    return float(taken[measured].sum() / seconds) if seconds else None


def _evaluation(folder: Path, split: str, problems: list[str]) -> Evaluation | None:
    record = _readable(folder / of_split(REPORT_DATA, split), {"scores.class_iou": dict}, problems)
    expected = {"class_iou": dict, "mean_iou": dict, "step": int}
    scores = record.get("scores") or _readable(folder / of_split(SCORES, split), expected, problems)
    if not scores:
        return None
    return Evaluation(split, _with_numbers(scores), record, _confusion(record, problems), _examples(record))


def _with_numbers(scores: dict) -> dict:
    """Returns scores whose values are numbers, or None where the file has something else."""
    found = dict(scores)
    for key in ("class_iou", "class_dice", "mean_iou"):
        entries = found.get(key)
        found[key] = {name: _number(value) for name, value in entries.items()} if isinstance(entries, dict) else {}
    for key in {*OTHER_SCORES, "pixel_accuracy"} & found.keys():
        found[key] = _number(found[key])
        ends = found.pop(f"{key}_interval", None)
        if isinstance(ends, list) and len(ends) == 2 and None not in map(_number, ends):
            found[f"{key}_interval"] = ends
    for key in ("average", "held_out"):
        if isinstance(found.get(key), dict):
            found[key] = _with_numbers(found[key])
        else:
            found.pop(key, None)
    return found


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _readable(file: Path, expected: dict[str, type], problems: list[str]) -> dict:
    """Returns the content of a JSON file; empty if there is none, or if it is damaged, which it adds to `problems`."""
    if not file.is_file():
        return {}
    try:
        return read_json(file, expected)
    except UserError as error:
        problems.append(str(error).replace(str(file), file.name))
        return {}


def _confusion(record: dict, problems: list[str]) -> np.ndarray | None:
    rows, classes = record.get("confusion"), record.get("classes")
    if rows is None or not isinstance(classes, list):
        return None
    try:
        matrix = np.array(rows)
    except ValueError:  # Rows of different lengths.
        matrix = np.zeros(0)
    if matrix.ndim != 2 or matrix.dtype.kind != "i" or matrix.shape[1] != len(classes) or len(matrix) < len(classes):
        problems.append(f"{REPORT_DATA}: its confusion matrix is left out; expected whole numbers, a row a class.")
        return None
    return matrix


def _examples(record: dict) -> list[dict]:
    """Returns the examples whose pictures are base64, which leads to no other file."""
    examples: Any = record.get("examples")
    found = [example for example in examples if isinstance(example, dict)] if isinstance(examples, list) else []
    return [example for example in found if _are_pictures(example.get("panels"))]


def _are_pictures(pictures: Any) -> bool:
    try:
        return all(base64.b64decode(pictures[panel], validate=True) for panel in PANELS)
    except (TypeError, KeyError, ValueError, binascii.Error):
        return False
