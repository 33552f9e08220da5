"""One pair of files to arrays, with every check that concerns this pair alone."""

from typing import NamedTuple

import numpy as np

from data.classes import IGNORED
from data.raw import image_files, label_rules
from data.raw.faults import BadFile
from data.raw.label_rules import LabelRules
from data.raw.pairs import Pair


class Read(NamedTuple):
    """A pair's content.

    Attributes:
      image: uint8 [Y, X, 3] RGB.
      label: raw ids, uint8 or uint16 [Y, X]; 255 everywhere for an image without a label.
      counts: pixels of every raw id, int64 [values]; all 0 for an image without a label.
    """

    image: np.ndarray
    label: np.ndarray
    counts: np.ndarray


def read_pair(pair: Pair, rules: LabelRules) -> Read:
    """Reads and checks an image and its label.

    Args:
      pair: files; the label may be missing.
      rules: of the data set's labels.

    Raises:
      BadFile: as `label_files.read_image`, `read_label` and `label_rules.count_ids` do, or the sizes differ.
    """
    image = image_files.read_image(pair.image)
    if pair.label is None:
        return Read(image, np.full(image.shape[:2], IGNORED, np.uint8), np.zeros(rules.values, np.int64))
    label = image_files.read_label(pair.label, rules.encoding)
    if label.shape != image.shape[:2]:
        found = [f"{width}x{height}" for height, width in (image.shape[:2], label.shape)]
        text = f"the image {pair.image} has {found[0]} pixels, its label {found[1]}; expected the same."
        raise BadFile("size mismatch", pair.label, text)
    return Read(image, label, label_rules.count_ids(label, rules, pair.label))
