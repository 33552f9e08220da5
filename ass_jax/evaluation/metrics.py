"""Scores of a segmentation: the confusion matrix on the device, IoU and Dice on the host.

Legend: B batch, H W pixels, C classes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from tabulate import SEPARATING_LINE, tabulate


def confusion_matrix(predictions: Array, labels: Array, num_classes: int) -> Array:
    """Counts pixels by true and predicted class.

    The counts are integers, exact up to 2**31 - 1 pixels a call; add the matrices of several calls as int64.

    Args:
      predictions: integers `[B, H, W]` in `0..C-1`.
      labels: integers `[B, H, W]`; pixels outside `0..C-1`, such as 255, are not counted.
      num_classes: `C`, static.

    Returns:
      int32 `[C, C]`: rows truth, columns prediction.
    """
    # uint8 would overflow in the product below.
    predictions, labels = predictions.astype(jnp.int32), labels.astype(jnp.int32)
    valid = (labels >= 0) & (labels < num_classes)
    cells = num_classes * num_classes
    indices = jnp.where(valid, labels * num_classes + predictions, cells)  # The last cell is for ignored pixels.
    return jnp.bincount(indices.reshape(-1), length=cells + 1)[:cells].reshape(num_classes, num_classes)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Returns the intersection over union, `tp / (tp + fp + fn)`, as the official Cityscapes evaluation defines it.

    Args:
      confusion: integers `[C, C]`: rows truth, columns prediction.

    Returns:
      float64 `[C]`: 0 for a class that is predicted but never true, NaN for one that is neither.
    """
    true_positives, false_positives, false_negatives = _counts(confusion)
    return _ratio(true_positives, true_positives + false_positives + false_negatives)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Returns the Dice coefficient, `2 tp / (2 tp + fp + fn)`; arguments and result as in `iou`."""
    true_positives, false_positives, false_negatives = _counts(confusion)
    return _ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives)


def mean_iou(class_iou: np.ndarray, subset: Sequence[int]) -> float:
    """Returns the mean IoU of the classes of a subset that have a score; NaN if none has.

    Args:
      class_iou: `[C]`, NaN where a class has no score.
      subset: indices of classes.
    """
    scores = [float(class_iou[index]) for index in subset if not np.isnan(class_iou[index])]
    total = 0.0
    for score in scores:  # In the order of the official evaluation: the sums of NumPy and Python round differently.
        total += score
    return total / len(scores) if scores else math.nan


def report(
    confusion: np.ndarray, class_names: Sequence[str], subsets: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float | None] | float | None]:
    """Returns all scores as values that JSON can hold: numbers from 0 to 1, or None where there is no score.

    Args:
      confusion: integers `[C, C]`: rows truth, columns prediction.
      class_names: `C` names.
      subsets: name -> indices of the classes of a mean.

    Returns:
      "class_iou" and "class_dice" by class name, "mean_iou" by name of the subset, and "pixel_accuracy".

    Raises:
      ValueError: the confusion matrix is not `[C, C]`.
    """
    confusion = np.asarray(confusion)
    if confusion.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"Expected a confusion matrix of {len(class_names)} x {len(class_names)} classes, "
            f"found shape {confusion.shape}."
        )
    class_iou = iou(confusion)
    pixels = int(confusion.sum())
    return {
        "class_iou": _by_name(class_names, class_iou),
        "class_dice": _by_name(class_names, dice(confusion)),
        "mean_iou": _by_name(subsets, [mean_iou(class_iou, subset) for subset in subsets.values()]),
        "pixel_accuracy": int(np.trace(confusion)) / pixels if pixels else None,
    }


def format_table(columns: Mapping[str, dict]) -> str:
    """Formats the IoU of several models as a table, a column a model, in percent.

    Args:
      columns: name of the model -> its `report`. A class or mean that only some models have gets a row too.

    Returns:
      Lines of text: a heading, a row a class, a rule, a row a mean; "–" where there is no score.
    """
    reports = list(columns.values())
    classes = [_row(name, name, [scores["class_iou"] for scores in reports]) for name in _union(reports, "class_iou")]
    means = [
        _row(f"mIoU {name}", name, [scores["mean_iou"] for scores in reports]) for name in _union(reports, "mean_iou")
    ]
    return tabulate(
        [*classes, SEPARATING_LINE, *means],
        headers=["IoU in %", *columns],
        tablefmt="simple",
        colalign=["left", *["right"] * len(columns)],
        disable_numparse=True,
    )


def _counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the true positives, false positives and false negatives of every class, int64 `[C]` each."""
    confusion = np.asarray(confusion, np.int64)
    true_positives = np.diagonal(confusion)
    return true_positives, confusion.sum(axis=0) - true_positives, confusion.sum(axis=1) - true_positives


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient in float64, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0)


def _by_name(names: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}


def _union(reports: list[dict], kind: str) -> list[str]:
    """Returns the names in any of the reports, in the order of their first appearance."""
    return list(dict.fromkeys(name for scores in reports for name in scores[kind]))


def _row(title: str, name: str, columns: list[dict[str, float | None]]) -> list[str]:
    scores = [scores.get(name) for scores in columns]
    return [title, *("–" if score is None else f"{100 * score:.1f}" for score in scores)]
