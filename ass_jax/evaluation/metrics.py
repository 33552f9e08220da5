"""Scores of a segmentation: the confusion matrix on the device, IoU and Dice on the host.

Legend: B batch, H W pixels, C classes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from tabulate import SEPARATING_LINE, tabulate

from ass_jax.class_table import binary_classes

# Key of a report -> its row in a table, after those of IoU.
OTHER_SCORES = {
    "dice_by_image": "Dice by image",
    "iou_by_image": "IoU by image",
    "dice_by_volume": "Dice by volume",
    "iou_by_volume": "IoU by volume",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
COUNTS = {
    "images": "images",
    "images_left_out": "images left out",
    "volumes": "volumes",
    "volumes_left_out": "volumes left out",
}


def confusion_matrices(predictions: Array, labels: Array, num_classes: int, others: bool = False) -> Array:
    """Counts the pixels of each image by true and predicted class.

    The counts are integers, exact up to 2**31 - 1 pixels an image; add the matrices of several images as int64.

    Args:
      predictions: integers `[B, H, W]` in `0..C-1`.
      labels: integers `[B, H, W]`; pixels outside `0..C-1`, such as 255, are not counted.
      num_classes: `C`, static.
      others: also counts pixels of label `C`, which are of a class that is never predicted; static.

    Returns:
      int32 `[B, C, C]`: rows truth, columns prediction; with `others`, `[B, C + 1, C]`.
    """
    rows = num_classes + others
    # uint8 would overflow in the product below.
    predictions, labels = predictions.astype(jnp.int32), labels.astype(jnp.int32)
    valid = (labels >= 0) & (labels < rows)
    images, cells = len(labels), rows * num_classes
    indices = jnp.where(valid, labels * num_classes + predictions, cells)  # The last cell is for ignored pixels.
    indices += (cells + 1) * jnp.arange(images)[:, None, None]
    counts = jnp.bincount(indices.reshape(-1), length=images * (cells + 1))
    return counts.reshape(images, cells + 1)[:, :cells].reshape(images, rows, num_classes)


def iou(confusion: np.ndarray, elsewhere: np.ndarray | int = 0) -> np.ndarray:
    """Returns the intersection over union, `tp / (tp + fp + fn)`, as the official Cityscapes evaluation defines it.

    Args:
      confusion: integers `[C, C]`: rows truth, columns prediction.
      elsewhere: integers `[C]`, further false positives: predictions on pixels of classes that the matrix lacks.

    Returns:
      float64 `[C]`: 0 for a class that is predicted but never true, NaN for one that is neither.
    """
    true_positives, false_positives, false_negatives = _counts(confusion)
    return ratio(true_positives, true_positives + false_positives + elsewhere + false_negatives)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Returns the Dice coefficient, `2 tp / (2 tp + fp + fn)`; arguments and result as in `iou`."""
    true_positives, false_positives, false_negatives = _counts(confusion)
    return ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives)


def recall(confusion: np.ndarray) -> np.ndarray:
    """Returns the share of each class's pixels that is found, `tp / (tp + fn)`; arguments as in `iou`.

    Returns:
      float64 `[C]`: NaN for a class that is never true.
    """
    true_positives, _, false_negatives = _counts(confusion)
    return ratio(true_positives, true_positives + false_negatives)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient in float64, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0)


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
    confusion: np.ndarray,
    class_names: Sequence[str],
    subsets: Mapping[str, Sequence[int]],
    others: Sequence[str] = (),
) -> dict[str, dict[str, float | None] | float | None]:
    """Returns all scores as values that JSON can hold: numbers from 0 to 1, or None where there is no score.

    Args:
      confusion: integers `[C, C]`: rows truth, columns prediction; with `others`, a last row holds their pixels.
      class_names: `C` names.
      subsets: name -> indices of the classes of a mean.
      others: further classes of the labels, which are never predicted.

    Returns:
      "class_iou" and "class_dice" by class name, "mean_iou" by name of the subset, and "pixel_accuracy". For a
      background and a lesion also "sensitivity" and "specificity", the recalls of the lesion and of the background.
      With `others`, "mean_iou" has each subset a second time, as "16_of_19": what is predicted on pixels of the others
      is wrong there, and ignored everywhere else.

    Raises:
      ValueError: the confusion matrix has another shape.
    """
    confusion, count = np.asarray(confusion), len(class_names)
    if confusion.shape != (count + bool(others), count):
        raise ValueError(
            f"Expected a confusion matrix of {count + bool(others)} x {count} classes, found shape {confusion.shape}."
        )
    confusion, elsewhere = confusion[:count], confusion[count:].sum(axis=0)
    class_iou = iou(confusion)
    means = {name: mean_iou(class_iou, subset) for name, subset in subsets.items()}
    if others:
        wider = iou(confusion, elsewhere)
        of_all = f"of_{count + len(others)}"
        means |= {f"{name}_{of_all}": mean_iou(wider, subset) for name, subset in subsets.items()}
    pixels = int(confusion.sum())
    found = {
        "class_iou": _by_name(class_names, class_iou),
        "class_dice": _by_name(class_names, dice(confusion)),
        "mean_iou": _by_name(means, means.values()),
        "pixel_accuracy": int(np.trace(confusion)) / pixels if pixels else None,
    }
    if binary := binary_classes(class_names):
        recalls = recall(confusion)
        found |= _by_name(("sensitivity", "specificity"), [recalls[binary.lesion], recalls[binary.background]])
    return found


def format_table(columns: Mapping[str, dict]) -> str:
    """Formats the scores of several models as a table, a column a model, in percent.

    Args:
      columns: name of the model -> its `report`, with or without that of `ass_jax.evaluation.image_scores`. A class or
        mean that only some models have gets a row too.

    Returns:
      Lines of text: a heading, a row a class, a rule, a row a mean IoU; then a rule and a row each further score that
      a model has, with its 95 % interval, and the numbers of images. "–" where there is no score.
    """
    rows = score_rows(list(columns.values()))
    classes, means, others, counts = rows["classes"], rows["means"], rows["others"], rows["counts"]
    if others or counts:
        means.append(SEPARATING_LINE)
    return tabulate(
        [*classes, SEPARATING_LINE, *means, *others, *counts],
        headers=["IoU in %", *columns],
        tablefmt="simple",
        colalign=["left", *["right"] * len(columns)],
        disable_numparse=True,
    )


def score_rows(reports: Sequence[dict]) -> dict[str, list[list[str]]]:
    """Returns the rows of a table of scores, each a title and a text a report, in percent; see `format_table`.

    Args:
      reports: as the columns of `format_table`.

    Returns:
      The rows of the "classes", of the "means" of their IoU, of "others" and of the "counts" of images.
    """
    return {
        "classes": [
            _row(name, name, [scores["class_iou"] for scores in reports]) for name in _union(reports, "class_iou")
        ],
        "means": [
            _row(f"mIoU {name}", name, [scores["mean_iou"] for scores in reports])
            for name in _union(reports, "mean_iou")
        ],
        "others": [
            [title, *(format_score(scores.get(key), scores.get(f"{key}_interval")) for scores in reports)]
            for key, title in OTHER_SCORES.items()
            if any(key in scores for scores in reports)
        ],
        "counts": [
            [title, *(str(scores.get(key, "–")) for scores in reports)]
            for key, title in COUNTS.items()
            if any(key in scores for scores in reports)
        ],
    }


def format_score(score: float | None, interval: Sequence[float] | None = None) -> str:
    """Formats a share of 1 in percent, and its interval if there is one; "–" where there is no score."""
    if score is None:
        return "–"
    ends = f" ({'–'.join(f'{100 * end:.1f}' for end in interval)})" if interval else ""
    return f"{100 * score:.1f}{ends}"


def _counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the true positives, false positives and false negatives of every class, int64 `[C]` each."""
    confusion = np.asarray(confusion, np.int64)
    true_positives = np.diagonal(confusion)
    return true_positives, confusion.sum(axis=0) - true_positives, confusion.sum(axis=1) - true_positives


def _by_name(names: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}


def _union(reports: Sequence[dict], kind: str) -> list[str]:
    """Returns the names in any of the reports, in the order of their first appearance."""
    return list(dict.fromkeys(name for scores in reports for name in scores[kind]))


def _row(title: str, name: str, columns: list[dict[str, float | None]]) -> list[str]:
    return [title, *(format_score(scores.get(name)) for scores in columns)]
