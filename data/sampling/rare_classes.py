"""Rare-class sampling (DAFormer, arXiv 2111.14887, section 3.2): draws images by their rare classes.

First a class is drawn, with a probability proportional to exp((1 - f) / T), where f is its share of all pixels that
have a class; then one of the images that show it, all equally likely. A low temperature T prefers rare classes, a high
one makes all classes alike. Every draw is a pure function of seed and position.
"""

import numpy as np

from configs.user_error import UserError
from data.classes import IGNORED
from data.datasets.spec import LEAST_SHARE


def by_train_id(counts: np.ndarray, train_ids: np.ndarray) -> np.ndarray:
    """Adds up the pixels of the raw ids of every class.

    Args:
      counts: pixels of every raw id in every image, int64 [N, R].
      train_ids: raw id -> train id or `IGNORED`, uint8 [R or more].

    Returns:
      Pixels of every train id, int64 [N, IGNORED]; all 0 for train ids that do not exist.
    """
    found = np.zeros((len(counts), IGNORED), np.int64)
    for raw_id in np.flatnonzero(train_ids[: counts.shape[1]] != IGNORED):
        found[:, train_ids[raw_id]] += counts[:, raw_id]
    return found


def class_probabilities(counts: np.ndarray, shown: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the probability of drawing each class, float64 [C].

    Args:
      counts: pixels of every class in every image, int64 [N, C].
      shown: whether each image shows each class, bool [N, C]; a class that no image shows is never drawn.
      temperature: above 0.

    Raises:
      UserError: no image shows any class.
    """
    drawn = shown.any(axis=0)
    if not drawn.any():
        raise UserError(
            "data.rare_class_temperature draws images by their classes: expected labels with pixels of some class, "
            f"found none in {len(counts)} images. Check the labels, or set it to 0."
        )
    pixels = counts.sum(axis=0)
    exponents = (1 - pixels / pixels.sum()) / temperature
    # The largest becomes 0: exp of 1 / T itself would overflow at a low temperature.
    weights = np.where(drawn, np.exp(np.minimum(exponents - exponents[drawn].max(), 0)), 0)
    return weights / weights.sum()


class RareClassSampler:
    """Draws images by the rarity of their classes, at any position."""

    def __init__(
        self,
        counts: np.ndarray,
        train_ids: np.ndarray,
        temperature: float,
        seed: tuple[int, int],
        least_share: float = LEAST_SHARE,
    ):
        """Prepares the draws.

        Args:
          counts: pixels of every raw id in every image, int64 [N, R].
          train_ids: raw id -> train id or `IGNORED`, uint8 [R or more].
          temperature: above 0.
          seed: two numbers; each pair gives different draws.
          least_share: an image shows a class that covers this share of its pixels, and at least one.

        Raises:
          UserError: no image shows any class.
        """
        classes = by_train_id(counts, train_ids)
        shown = (classes > 0) & (classes >= least_share * counts.sum(axis=1)[:, None])
        # Of a class that is small everywhere, such as lesions of few pixels, every image counts.
        shown |= (classes > 0) & ~shown.any(axis=0)
        self.probabilities = class_probabilities(classes, shown, temperature)
        self._bounds = np.cumsum(self.probabilities)
        self._images = [np.flatnonzero(column) for column in shown.T]
        self._last = int(np.flatnonzero(self.probabilities)[-1])
        self._key = np.array([number % 2**64 for number in seed], np.uint64)

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Returns the index of the image at each of the `positions` (int64 [P], from 0): int64 [P]."""
        return np.array([self._image(int(position)) for position in positions], np.int64)

    def _image(self, position: int) -> int:
        class_draw, image_draw = self._uniform(position)
        # Rounding may leave the last bound just below 1.
        train_id = min(int(np.searchsorted(self._bounds, class_draw, side="right")), self._last)
        images = self._images[train_id]
        return int(images[int(image_draw * len(images))])

    def _uniform(self, position: int) -> tuple[float, float]:
        """Returns two independent numbers in [0, 1), from a generator without a state."""
        # Raw bits: NumPy keeps them the same in all versions, unlike its distributions.
        bits = np.random.Philox(key=self._key, counter=[0, position, 0, 0]).random_raw(2)
        return tuple((bits >> np.uint64(11)) * 2.0**-53)
