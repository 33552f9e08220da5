"""The class table as the networks, scores and pictures need it; `data.classes` builds the tables."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

BACKGROUND = "background"  # Name of the class of all that is not looked for, in tables that have one.


class ClassTable(Protocol):
    """Classes of a task. The train id of a class is its position.

    Attributes:
      names: [C].
      palette: uint8 [C, 3], RGB.
      subsets: name of a subset -> its train ids, ascending; a mean IoU is reported for each.
      raw_ids: uint8 [C], the values in prediction files; None: the train ids themselves.
      others: classes outside of the table that labels of evaluations hold as the number C.
    """

    @property
    def names(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def palette(self) -> np.ndarray: ...  # noqa: D102

    @property
    def subsets(self) -> Mapping[str, Sequence[int]]: ...  # noqa: D102

    @property
    def raw_ids(self) -> np.ndarray | None: ...  # noqa: D102

    @property
    def others(self) -> Sequence[str]: ...  # noqa: D102


class BinaryClasses(NamedTuple):
    """The train ids of a table of two classes, of which one is the background."""

    background: int
    lesion: int


def background_class(names: Sequence[str]) -> int | None:
    """Returns the train id of the background; None if no class has its name."""
    return list(names).index(BACKGROUND) if BACKGROUND in names else None


def binary_classes(names: Sequence[str]) -> BinaryClasses | None:
    """Returns the train ids of background and lesion; None for a table of other classes."""
    background = background_class(names)
    if len(names) != 2 or background is None:
        return None
    return BinaryClasses(background, 1 - background)


def class_outside(names: Sequence[str]) -> int:
    """Returns the train id of what lies outside of all that is recorded: the background, or 0 in a table without."""
    return background_class(names) or 0


def foreground_classes(names: Sequence[str]) -> list[int]:
    """Returns the train ids of all classes but the background."""
    return [train_id for train_id, name in enumerate(names) if name != BACKGROUND]
