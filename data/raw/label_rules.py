"""Raw ids of labels: which ones a dataset has, and the faults that only they show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.classes import BACKGROUND, IGNORED, Colour
from data.raw.faults import BadFileError
from data.raw.image_files import BINARY_IDS

VOLUME = "volume"  # The encoding of NIfTI files; all other files hold one image.
COLOURS = "colours"  # The encoding of labels that show each class in colours of its own.
# Stray ids are ignored in training; more than this share of a label means that the label is a wrong one.
UNKNOWN_SHARE = 0.001
# Labels with fewer classes are not taken for train ids: a few small numbers can be anything.
_LEAST_TRAIN_IDS = 4
_MOST_TRAIN_ID = 18


class LabelRules(NamedTuple):
    """How the labels of a dataset are stored.

    Attributes:
      encoding: of the files; a key of `data.raw.image_files.ENCODINGS`, which says what each one is, `VOLUME` or
        `COLOURS`.
      raw_ids: raw id -> class; all other raw ids are ignored. Of colours, they are the places in `colours`.
      known_ids: raw ids that labels may hold, with 255 among them if it marks pixels without a class; None: any,
        and all but those of `raw_ids` are ignored.
      values: number of raw ids that a prepared label can hold: 256 (8 bits) or 65536 (16 bits).
      colours: (red, green, blue) of each raw id, where the encoding is `COLOURS`; all others are ignored.
      trusted: whether ids are raw ids even where they look like train ids.
    """

    encoding: str
    raw_ids: Mapping[int, str]
    known_ids: frozenset[int] | None
    values: int = 256
    colours: tuple[Colour, ...] = ()
    trusted: bool = False

    @property
    def is_volume(self) -> bool:
        """Whether a file holds a volume, whose slices are the images."""
        return self.encoding == VOLUME

    @property
    def unlabelled_id(self) -> int:
        """The raw id that fills the label of an image without one: it stands for no class. 255, unless that is one."""
        return next(raw_id for raw_id in (IGNORED, *reversed(range(self.values))) if raw_id not in self.raw_ids)


def binary_rules(foreground: str) -> LabelRules:
    """Returns the rules of masks that hold a class `foreground`, and "background" everywhere else."""
    raw_ids = dict(zip(BINARY_IDS, (BACKGROUND, foreground), strict=True))
    return LabelRules(encoding="binary", raw_ids=raw_ids, known_ids=frozenset(BINARY_IDS))


def count_ids(label: np.ndarray, rules: LabelRules, file: Path) -> np.ndarray:
    """Counts the pixels of every raw id and checks that the ids are plausible.

    Args:
      label: raw ids, uint8 or uint16 [Y, X].
      rules: of the dataset.
      file: of the label, for messages.

    Returns:
      int64 [rules.values].

    Raises:
      BadFileError: train ids in place of raw ids, unknown raw ids, or no pixel of any class.
    """
    counts = np.bincount(label.ravel(), minlength=rules.values)
    ids = np.flatnonzero(counts)
    shown = _show(counts, ids)
    if ids[-1] >= rules.values:
        text = f"the classes have raw ids below {rules.values}, but the label holds {ids[-1]} ({shown})."
        raise BadFileError("unknown ids", file, text)
    if rules.known_ids is not None:
        if not rules.trusted and _are_train_ids(ids, rules):
            text = f"expected raw ids of the dataset, found what looks like train ids ({shown}). Get the raw labels."
            raise BadFileError("train ids", file, text)
        unknown = [raw_id for raw_id in ids if raw_id not in rules.known_ids]
        if counts[unknown].sum() > UNKNOWN_SHARE * label.size:
            valid = f"{min(rules.known_ids)} to {max(rules.known_ids)}"
            text = f"expected raw ids of {valid}, found also {_show(counts, unknown)}."
            raise BadFileError("unknown ids", file, text)
    if not any(raw_id in rules.raw_ids for raw_id in ids):
        raise BadFileError("all ignored", file, f"expected pixels of at least one class, found only {shown}.")
    return counts


def expect_known(label: np.ndarray, rules: LabelRules, file: Path) -> None:
    """Raises BadFileError for any raw id that the dataset does not have: labels without loss hold no stray ones.

    Args:
      label: raw ids, uint8 of any shape.
      rules: of the dataset.
      file: of the label, for messages.
    """
    counts = np.bincount(label.ravel(), minlength=rules.values)
    unknown = [raw_id for raw_id in np.flatnonzero(counts) if raw_id not in rules.raw_ids]
    if unknown:
        text = (
            f"expected the raw ids {', '.join(map(str, sorted(rules.raw_ids)))}, found also {_show(counts, unknown)}."
        )
        raise BadFileError("unknown ids", file, text)


def _are_train_ids(ids: np.ndarray, rules: LabelRules) -> bool:
    """Returns whether a label with these ids certainly holds train ids.

    Train ids end at 18 and mark ignored pixels with 255. Where 255 is not in the label, or is a raw id of the dataset,
    they are recognised only if most classes have larger raw ids, as sky, vegetation and vehicles of Cityscapes do.
    """
    classes = ids[ids != IGNORED]
    if not len(classes) or classes[-1] > _MOST_TRAIN_ID:
        return False
    large = sum(raw_id > _MOST_TRAIN_ID for raw_id in rules.raw_ids) > len(rules.raw_ids) / 2
    ignored = IGNORED in ids and not (rules.known_ids and IGNORED in rules.known_ids)
    return ignored or (large and len(classes) >= _LEAST_TRAIN_IDS and classes[0] == 0)


def _show(counts: np.ndarray, ids: np.ndarray | Sequence[np.integer]) -> str:
    """Returns the most frequent of the ids with their shares, as text."""
    most = sorted(ids, key=lambda raw_id: -counts[raw_id])[:8]
    more = ", ..." if len(most) < len(ids) else ""
    return ", ".join(f"{raw_id}: {counts[raw_id] / counts.sum():.1%}" for raw_id in most) + more
