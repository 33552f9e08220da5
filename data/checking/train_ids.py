"""Whether the labels of a whole split hold train ids of Cityscapes in place of the data set's raw ids.

A single label often cannot tell: 8, 10 and 13 are sidewalk, rail track and fence as raw ids of Cityscapes, and
vegetation, sky and car as train ids. Over a split, what lies above and what lies below tells.
"""

from collections.abc import Mapping

from data.classes import IGNORED, class_table
from data.raw.label_rules import LabelRules

_NAMES = class_table("cityscapes19").names
_ROAD, _SKY = "road", "sky"
# Share of all pixels from which a class counts, and mean row, 0 at the top and 1 at the bottom, beyond which it lies
# where it belongs. Loose for raw ids, strict for train ids, so that honest labels are not refused.
_AS_RAW = {_ROAD: (0.02, 0.55), _SKY: (0.005, 0.5)}
_FEWEST = 3  # Numbers of a split that can be judged.
_AS_TRAIN = {_ROAD: (0.02, 0.65), _SKY: (0.005, 0.4)}


def describe_train_ids(pixels: Mapping[int, int], rows: Mapping[int, float], rules: LabelRules) -> str:
    """Returns why a split's labels look like train ids; empty if they do not, or if that cannot be told.

    They do if neither road lies below nor sky above where the numbers are raw ids, but they do where these are train
    ids: both of them, or, where most classes have raw ids above all train ids and no number is there, either.

    Args:
      pixels: number -> pixels in the whole split.
      rows: number -> mean row of its pixels, from 0, the top of the image, to 1.
      rules: of the dataset.
    """
    raw_ids = {name: raw_id for raw_id, name in rules.raw_ids.items()}
    if rules.known_ids is None or not {_ROAD, _SKY} <= raw_ids.keys() or raw_ids[_SKY] == _NAMES.index(_SKY):
        return ""
    numbers = [number for number in pixels if number != IGNORED]
    if len(numbers) < _FEWEST:
        return ""
    most_are_larger = sum(raw_id >= len(_NAMES) for raw_id in rules.raw_ids) > len(rules.raw_ids) / 2
    if most_are_larger and any(number >= len(_NAMES) for number in numbers):
        return ""
    if any(_is_in_place(name, raw_ids[name], pixels, rows, _AS_RAW) for name in (_ROAD, _SKY)):
        return ""
    train_ids = {name: _NAMES.index(name) for name in (_ROAD, _SKY)}
    found = [name for name, number in train_ids.items() if _is_in_place(name, number, pixels, rows, _AS_TRAIN)]
    if len(found) < (1 if most_are_larger else 2):
        return ""
    places = {_ROAD: "below", _SKY: "above"}
    seen = " and ".join(
        f"{train_ids[name]} (train id of {name}) lies {places[name]}, where {name} would" for name in found
    )
    raw = " and ".join(f"{raw_ids[name]} ({name})" for name in (_ROAD, _SKY))
    return f"its labels look like train ids of Cityscapes: {seen}, and the raw ids {raw} do not"


def _is_in_place(
    name: str, number: int, pixels: Mapping[int, int], rows: Mapping[int, float], limits: Mapping[str, tuple]
) -> bool:
    share, row = limits[name]
    if pixels.get(number, 0) < share * sum(pixels.values()):
        return False
    return rows[number] > row if name == _ROAD else rows[number] < row
