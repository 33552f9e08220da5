"""Dice and IoU of each image or volume, as the medical field reports them: means over these, with confidence intervals.

Legend: N images, V volumes, C classes.
"""

from collections.abc import Sequence

import numpy as np

from ass_jax.class_table import background_class, binary_classes, foreground_classes
from ass_jax.evaluation.metrics import ratio

RESAMPLES = 1000  # Of the images, with replacement, for an interval.
SEED = 0  # Of the resamples: the same scores have the same interval.
LIMITS = (2.5, 97.5)  # Percentiles between which 95 % of the resampled means lie.


def count_pixels(confusions: np.ndarray) -> np.ndarray:
    """Counts the pixels of every class in every image.

    Args:
      confusions: integers `[N, C, C]`: rows truth, columns prediction.

    Returns:
      int64 `[N, 3, C]`: pixels that are of the class in both maps, in the prediction, in the truth.
    """
    confusions = np.asarray(confusions, np.int64)
    return np.stack([np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(axis=1), confusions.sum(axis=2)], axis=1)


def dice(counts: np.ndarray) -> np.ndarray:
    """Returns each image's Dice coefficient, `2 both / (predicted + true)`.

    Args:
      counts: of `count_pixels`, `[N, 3, C]`.

    Returns:
      float64 `[N, C]`; NaN for a class that is in neither map of the image.
    """
    both, predicted, true = np.moveaxis(counts, 1, 0)
    return ratio(2 * both, predicted + true)


def iou(counts: np.ndarray) -> np.ndarray:
    """Returns each image's IoU, `both / (predicted + true - both)`; argument and result as in `dice`."""
    both, predicted, true = np.moveaxis(counts, 1, 0)
    return ratio(both, predicted + true - both)


def ranking_scores(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Returns a score of each image, by which images are ranked.

    Args:
      counts: of `count_pixels`, `[N, 3, C]`.
      class_names: `C` names.

    Returns:
      float64 `[N]`: the mean over the classes that are in either map: of the Dice of the classes other than the
      background in a table that has one, else of the IoU. NaN for an image without a score or without a pixel that
      counts.
    """
    if background_class(class_names) is None:
        scores = iou(counts)
    else:
        scores = _scored_absent(dice(counts), class_names)[:, foreground_classes(class_names)]
    known = ~np.isnan(scores)
    means = ratio(np.where(known, scores, 0.0).sum(axis=1), known.sum(axis=1))
    return np.where(counts[:, 2].sum(axis=1) > 0, means, np.nan)


def add_slices(counts: np.ndarray, volume_of: Sequence[str]) -> np.ndarray:
    """Adds up the pixels of the slices of every volume.

    Args:
      counts: of `count_pixels`, `[N, 3, C]`.
      volume_of: name of the volume of each image, N.

    Returns:
      int64 `[V, 3, C]`, in the order of the volumes' first slices.
    """
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(name, len(places)) for name in volume_of], np.int64)
    found = np.zeros((len(places), *counts.shape[1:]), np.int64)
    np.add.at(found, rows, counts)
    return found


def volume_report(counts: np.ndarray, class_names: Sequence[str], left_out: int = 0) -> dict:
    """Returns the scores by volume: those of `report`, named "volume" in place of "image", without the background.

    Slices that are not among the images are background in truth and prediction: they change no score of another class.

    Args:
      counts: of `add_slices`, `[V, 3, C]`.
      class_names: `C` names.
      left_out: volumes whose files cannot be used.
    """
    found = _of_volumes(report(counts, class_names, left_out))
    of_classes = [class_names[index] for index in foreground_classes(class_names)]
    by_class = {name: _of_volumes(found["class_by_volume"][name]) for name in of_classes}
    return found | {"class_by_volume": by_class}


def _of_volumes(scores: dict) -> dict:
    return {key.replace("image", "volume"): value for key, value in scores.items()}


def report(counts: np.ndarray, class_names: Sequence[str], left_out: int = 0) -> dict:
    """Returns the scores by image as values that JSON can hold.

    An image that has a class in neither map has no score for the class. In a table of a background and one more class,
    such as a lesion, it counts 1 for the lesion: nothing was there and nothing was found. An image without a pixel that
    counts is left out.

    Args:
      counts: of `count_pixels`, `[N, 3, C]`, in the order of the images.
      class_names: `C` names.
      left_out: images that are not among the N, because their files cannot be used.

    Returns:
      "images": how many are scored; "images_left_out".
      "class_by_image": by class name, the "images" that have a score, the means "dice" and "iou" over them (None
      without any), and the ends of the means' 95 % intervals, "dice_interval" and "iou_interval".
      "dice_by_image", "iou_by_image": the means over the classes other than the background, with
      "dice_by_image_interval" and "iou_by_image_interval".
    """
    scored = counts[:, 2].sum(axis=1) > 0
    counts = counts[scored]
    foreground, found = foreground_classes(class_names), {}
    by_class = {name: {} for name in class_names}
    for kind, scores in {"dice": dice(counts), "iou": iou(counts)}.items():
        scores = _scored_absent(scores, class_names)
        means, resampled = _means(scores), _resampled_means(scores)
        for index, name in enumerate(class_names):
            by_class[name]["images"] = int(np.count_nonzero(~np.isnan(scores[:, index])))
            by_class[name] |= _with_interval(kind, means[index], resampled[:, index])
        of_classes = _means(means[foreground, None])[0], _means(resampled[:, foreground].T)
        found |= _with_interval(f"{kind}_by_image", *of_classes)
    images = {"images": len(counts), "images_left_out": left_out + int(np.count_nonzero(~scored))}
    return images | found | {"class_by_image": by_class}


def _scored_absent(scores: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Returns the scores `[N, C]` with 1 for images without a lesion in which none is found, see `report`."""
    if binary := binary_classes(class_names):
        scores[:, binary.lesion] = np.nan_to_num(scores[:, binary.lesion], nan=1.0)
    return scores


def _means(scores: np.ndarray) -> np.ndarray:
    """Returns the means of the columns of `[N, K]` over the rows that have a score, NaN where none has."""
    columns = (column[~np.isnan(column)] for column in scores.T)
    return np.array([column.mean() if column.size else np.nan for column in columns])


def _resampled_means(scores: np.ndarray) -> np.ndarray:
    """Returns the means of the columns of `[N, K]` over resampled rows, `[RESAMPLES, K]`; NaN as in `_means`."""
    images = len(scores)
    known = ~np.isnan(scores)
    summands = np.concatenate([np.where(known, scores, 0.0), known], axis=1)
    generator = np.random.default_rng(SEED)
    # One resample at a time: all together would take gigabytes for the training images of a large dataset.
    rows = (generator.integers(0, images, images) if images else [] for _ in range(RESAMPLES))
    sums = np.array([summands[chosen].sum(axis=0) for chosen in rows])
    return ratio(*np.split(sums, 2, axis=1))


def _with_interval(name: str, mean: float, resampled: np.ndarray) -> dict[str, float | list[float] | None]:
    """Returns a mean and its interval, from its values in the resamples; None where there is no score."""
    if np.isnan(mean):
        return {name: None, f"{name}_interval": None}
    low, high = np.percentile(resampled[~np.isnan(resampled)], LIMITS)
    return {name: float(mean), f"{name}_interval": [float(low), float(high)]}
