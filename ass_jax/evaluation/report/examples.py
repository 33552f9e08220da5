"""The example images of a report: those that score worst, in the middle and best.

Legend: H W pixels, Y X label pixels, C classes.
"""

import base64
import dataclasses
import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from ass_jax import visualization

EACH = 3  # At most as many of each kind.
SAMPLE = 32  # Images from which the middle ones are taken.
_LONGER_SIDE = 400  # Pixels, at most.
_IGNORED = 255
_QUALITY = 85  # Of JPEG.
# What an error map shows -> its value and its colour.
RIGHT, WRONG, UNCOUNTED = 0, 1, 2
ERROR_COLOURS = {RIGHT: (176, 190, 204), WRONG: (214, 58, 62), UNCOUNTED: (30, 32, 36)}


@dataclasses.dataclass(frozen=True)
class Example:
    """An image, small, with its maps.

    Attributes:
      name: of the image.
      score: from 0 to 1.
      image: uint8 `[Y, X, 3]`.
      label: uint8 `[Y, X]`, 255 for ignored pixels.
      prediction: uint8 `[Y, X]`.
    """

    name: str
    score: float
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


class ExampleImages:
    """Keeps the worst and the best images of a pass, and a sample in which the middle ones are found.

    Which images are in the middle is known at the end only. To keep all of them could take gigabytes, and to read some
    again would not bring their predictions back. So the middle ones are those of a sample whose scores are nearest to
    the median of all. The sample is the images whose names have the smallest hashes, in whatever order they come; up
    to `SAMPLE` images, it is all of them.
    """

    def __init__(self) -> None:
        """Holds no image yet."""
        self._scores: list[float] = []
        self._worst: list[tuple[tuple, Example]] = []
        self._best: list[tuple[tuple, Example]] = []
        self._sample: list[tuple[tuple, Example]] = []

    def add(self, name: str, score: float, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        """Takes an image if it is among those to keep; an image without a score, NaN, is none of them.

        Args:
          name: of the image.
          score: from 0 to 1.
          image: uint8 `[H, W, 3]`.
          label: uint8 `[Y, X]`, 255 for ignored pixels.
          prediction: uint8 `[Y, X]`.
        """
        if np.isnan(score):
            return
        self._scores.append(score)
        places: list[tuple[list, tuple, int]] = [
            (self._worst, (score, name), EACH),
            (self._best, (-score, name), EACH),
            (self._sample, (hashlib.sha256(name.encode(errors="replace")).digest(), name), SAMPLE),
        ]
        wanted = [place for place in places if len(place[0]) < place[2] or place[1] < place[0][-1][0]]
        if not wanted:
            return
        example = Example(name, score, *_small(image, label, prediction))
        for kept, rank, count in wanted:
            kept.append((rank, example))
            kept.sort(key=lambda entry: entry[0])
            del kept[count:]

    def chosen(self) -> dict[str, list[Example]]:
        """Returns the images by kind, "worst", "median" and "best"; ties in the order of the names, none twice."""
        count = min(EACH, -(-len(self._scores) // 3))
        worst, best = ([example for _, example in kept[:count]] for kept in (self._worst, self._best))
        best = [example for example in best if not _is_among(example, worst)]
        others = [example for _, example in self._sample if not _is_among(example, worst + best)]
        middle = np.median(self._scores) if self._scores else np.nan
        others.sort(key=lambda example: (abs(example.score - middle), example.name))
        return {"worst": worst, "median": others[:count], "best": best}


def error_map(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns for each pixel whether its prediction is `RIGHT`, `WRONG` or `UNCOUNTED` (ignored), uint8 `[Y, X]`."""
    return np.where(label == _IGNORED, UNCOUNTED, np.where(label == prediction, RIGHT, WRONG)).astype(np.uint8)


def panels(example: Example, palette: np.ndarray) -> dict[str, str]:
    """Returns the pictures of an example as base64: the image as JPEG; label, prediction and error map as PNG.

    Args:
      example: the image and its maps.
      palette: of the classes, uint8 `[C, 3]`.
    """
    errors = np.array([ERROR_COLOURS[value] for value in sorted(ERROR_COLOURS)], np.uint8)
    return {
        "image": _encoded(lambda file: Image.fromarray(example.image).save(file, "JPEG", quality=_QUALITY)),
        "label": _encoded_map(example.label, palette),
        "prediction": _encoded_map(example.prediction, palette),
        "error": _encoded_map(error_map(example.label, example.prediction), errors),
    }


def _is_among(example: Example, others: list[Example]) -> bool:
    return any(example is other for other in others)


def _small(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns copies whose longer side has at most `_LONGER_SIDE` pixels, all of the size of the labels."""
    step = -(-max(label.shape) // _LONGER_SIDE)
    label, prediction = (np.array(each[::step, ::step], np.uint8) for each in (label, prediction))
    height, width = label.shape
    return np.asarray(Image.fromarray(image).resize((width, height))), label, prediction


def _encoded_map(values: np.ndarray, colours: np.ndarray) -> str:
    return _encoded(lambda file: visualization.save_map(file, values, colours))


def _encoded(save: Callable[[io.BytesIO], None]) -> str:
    file = io.BytesIO()
    save(file)
    return base64.b64encode(file.getvalue()).decode()
