"""Whether the labels of a whole split hold train ids of Cityscapes in place of the data set's raw ids.

A single label often cannot tell: 8, 10 and 13 are sidewalk, rail track and fence as raw ids of Cityscapes, and
vegetation, sky and car as train ids. Over a split, what lies above and what lies below tells.
"""

from collections.abc import Mapping

import numpy as np

from data.classes import IGNORED, class_table
from data.raw.label_rules import LabelRules

_NAMES = class_table("cityscapes19").names
_ROAD, _SKY = "road", "sky"
# Share of all pixels from which a class counts, and mean row, 0 at the top and 1 at the bottom, beyond which it lies
# where it belongs. Loose for raw ids, strict for train ids, so that honest labels are not refused.
_AS_RAW = {_ROAD: (0.02, 0.55), _SKY: (0.005, 0.5)}
_FEWEST = 3  # Numbers of a split that can be judged.
_AS_TRAIN = {_ROAD: (0.02, 0.65), _SKY: (0.005, 0.4)}
# What speaks against raw ids: ground that lies above the horizon, or hardly a pixel that belongs to a class.
_GROUND = ("sidewalk", "terrain")
_GROUND_ABOVE = (0.005, 0.45)
_FEW_PIXELS = 1 / 3
# What to do, after the reason that `describe_train_ids` returns.
REMEDY = (
    "Use the labels as they were downloaded: raw ids are mapped while training. If they are right as they are, set "
    "--config.data.trust_raw_ids."
)


def can_be_judged(rules: LabelRules) -> bool:
    """Returns whether labels of these rules show road and sky as other numbers than train ids do."""
    raw_ids = _numbers(rules)
    return rules.known_ids is not None and {_ROAD, _SKY} <= raw_ids.keys() and raw_ids[_SKY] != _NAMES.index(_SKY)


def sums_of_rows(label: np.ndarray) -> dict[int, float]:
    """Returns for each number of a label, [Y, X], the sum of its pixels' rows, from 0, the top of the image, to 1."""
    height, width = label.shape
    rows = np.repeat((np.arange(height) + 0.5) / height, width)
    sums = np.bincount(label.ravel(), weights=rows)
    return {int(number): float(sums[number]) for number in np.flatnonzero(sums)}


def describe_train_ids(pixels: Mapping[int, int], sums: Mapping[int, float], rules: LabelRules) -> str:
    """Returns why a split's labels look like train ids; empty if not, if it cannot be told, or if they are trusted.

    They do if neither road lies below nor sky above where the numbers are raw ids, but they do where these are train
    ids: both of them; or, where most classes have raw ids above all train ids and no number is there, sky alone, or
    road, if raw ids would also put ground above the horizon or leave most pixels without a class.

    Args:
      pixels: number -> pixels in the whole split.
      sums: number -> sum of the rows of its pixels, of `sums_of_rows`.
      rules: of the dataset.
    """
    if rules.trusted or not can_be_judged(rules):
        return ""
    raw_ids = _numbers(rules)
    # Stray numbers, which neither the dataset nor train ids have, say nothing.
    known = {*range(len(_NAMES)), *(rules.known_ids or ())}
    pixels = {number: count for number, count in pixels.items() if number != IGNORED and number in known}
    rows = {number: sums[number] / count for number, count in pixels.items()}
    numbers = list(pixels)
    if len(numbers) < _FEWEST:
        return ""
    most_are_larger = sum(raw_id >= len(_NAMES) for raw_id in rules.raw_ids) > len(rules.raw_ids) / 2
    if most_are_larger and any(number >= len(_NAMES) for number in numbers):
        return ""
    if any(_is_in_place(name, raw_ids[name], pixels, rows, _AS_RAW) for name in (_ROAD, _SKY)):
        return ""
    train_ids = {name: _NAMES.index(name) for name in (_ROAD, _SKY)}
    found = [name for name, number in train_ids.items() if _is_in_place(name, number, pixels, rows, _AS_TRAIN)]
    # Sky alone tells, since its train id is that of a rail track as a raw id; void pixels may lie where road does.
    is_told = most_are_larger and (_SKY in found or (_ROAD in found and _speaks_against_raw(pixels, rows, rules)))
    if len(found) < 2 and not is_told:
        return ""
    places = {_ROAD: "below", _SKY: "above"}
    seen = " and ".join(
        f"{train_ids[name]} (train id of {name}) lies {places[name]}, where {name} would" for name in found
    )
    raw = " and ".join(f"{raw_ids[name]} ({name})" for name in (_ROAD, _SKY))
    return f"its labels look like train ids of Cityscapes: {seen}, and the raw ids {raw} do not"


def _numbers(rules: LabelRules) -> dict[str, int]:
    """Returns class -> raw id."""
    return {name: raw_id for raw_id, name in rules.raw_ids.items()}


def _speaks_against_raw(pixels: Mapping[int, int], rows: Mapping[int, float], rules: LabelRules) -> bool:
    total, raw_ids = sum(pixels.values()), _numbers(rules)
    share, row = _GROUND_ABOVE
    ground = [raw_ids[name] for name in _GROUND if name in raw_ids]
    if any(pixels.get(number, 0) >= share * total and rows[number] < row for number in ground):
        return True
    return sum(count for number, count in pixels.items() if number in rules.raw_ids) < _FEW_PIXELS * total


def _is_in_place(
    name: str, number: int, pixels: Mapping[int, int], rows: Mapping[int, float], limits: Mapping[str, tuple]
) -> bool:
    share, row = limits[name]
    if pixels.get(number, 0) < share * sum(pixels.values()):
        return False
    return rows[number] > row if name == _ROAD else rows[number] < row
