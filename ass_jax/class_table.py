"""The class table as the networks, scores and pictures need it; `data.classes` builds the tables."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class ClassTable(Protocol):
    """Classes of a task. The train id of a class is its position.

    Attributes:
      names: [C].
      palette: uint8 [C, 3], RGB.
      subsets: name of a subset -> its train ids, ascending; a mean IoU is reported for each.
      raw_ids: uint8 [C], the values in prediction files; None: the train ids themselves.
    """

    @property
    def names(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def palette(self) -> np.ndarray: ...  # noqa: D102

    @property
    def subsets(self) -> Mapping[str, Sequence[int]]: ...  # noqa: D102

    @property
    def raw_ids(self) -> np.ndarray | None: ...  # noqa: D102
