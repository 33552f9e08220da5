"""Class tables: names, colours and the subsets over which scores are reported.

Train ids are the positions in a table, contiguous from 0. Raw ids are the numbers in the label files of a dataset.
`IGNORED` marks pixels without a class.

The table "custom" is built from `config.data.custom`; `configs/custom.py` is an example.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.user_error import UserError

Colour = tuple[int, int, int]  # Red, green, blue, of 0 to 255.
IGNORED = 255
BACKGROUND = "background"  # Name of the class of all that is not looked for, in tables that have one.

# Names and colours of Cityscapes, in the order of its train ids.
_CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
# CamVid's eleven classes in the order of its raw ids: names of Cityscapes where it has the class, colours of CamVid.
_CAMVID = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "sidewalk": (60, 40, 222),
    "vegetation": (128, 128, 0),
    "traffic sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "person": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
# The regions that BraTS scores, and the parts of a tumour that its labels name.
_BRATS = {
    "whole tumour": ("necrotic core", "oedema", "enhancing tumour"),
    "tumour core": ("necrotic core", "enhancing tumour"),
    "enhancing tumour": ("enhancing tumour",),
}
_LESION_COLOUR = (255, 80, 80)  # Visible in legends, on white.
_POLYP = {BACKGROUND: (0, 0, 0), "polyp": _LESION_COLOUR}
_VESSEL = {BACKGROUND: (0, 0, 0), "vessel": _LESION_COLOUR}
# SYNTHIA has no terrain, truck or train; its 13-class score also leaves out three thin classes.
_NOT_IN_SYNTHIA = {"terrain", "truck", "train"}
_NOT_IN_THIRTEEN = {*_NOT_IN_SYNTHIA, "wall", "fence", "pole"}
_NOT_IN_TOY = {*_NOT_IN_THIRTEEN, "traffic light", "rider", "bus", "motorcycle", "bicycle"} - {
    "terrain",
    "pole",
}

# Raw id of Cityscapes and GTA5 -> class.
CITYSCAPES_RAW_IDS = dict(
    zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), _CITYSCAPES, strict=True)
)
_RAW_ID_OF = {name: raw_id for raw_id, name in CITYSCAPES_RAW_IDS.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ClassTable:
    """Classes of a task; a class is known by its position, its train id.

    Attributes:
      names: [C].
      palette: uint8 [C, 3], RGB.
      subsets: name of a subset -> its train ids, ascending; a mean IoU is reported over each.
      raw_ids: uint8 [C], ids written to prediction files; None: the train ids themselves.
      others: classes that labels may hold and this table lacks. Their pixels are ignored; further means count what is
        predicted there as wrong, as scripts do that score all classes of the labels.
      parts: class of a dataset -> the class of this table to which it belongs, where the names differ.
    """

    names: tuple[str, ...]
    palette: np.ndarray
    subsets: dict[str, tuple[int, ...]]
    raw_ids: np.ndarray | None = None
    others: tuple[str, ...] = ()
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def background(self) -> int | None:
        """Train id of the background; None: the table has none."""
        return self.names.index(BACKGROUND) if BACKGROUND in self.names else None

    def class_of(self, name: str) -> str | None:
        """Returns the class of this table to which a class of a dataset belongs; None if there is none."""
        found = self.parts.get(name, name)
        return found if found in self.names else None


def _table(
    left_out: set[str],
    subsets: dict[str, set[str]],
    raw_ids: bool = True,
    colours: Mapping[str, tuple[int, int, int]] = _CITYSCAPES,
    others: tuple[str, ...] = (),
) -> ClassTable:
    """Builds a table of the classes of Cityscapes or another data set.

    Args:
      left_out: names that are not in the table.
      subsets: name of a subset -> names that are not in it.
      raw_ids: predictions are written in Cityscapes' raw ids, which its test server takes.
      colours: name of a class -> its colour, in the order of the train ids.
      others: as in `ClassTable`.

    Returns:
      The table.
    """
    names = tuple(name for name in colours if name not in left_out)
    palette = np.array([colours[name] for name in names], np.uint8)
    palette.setflags(write=False)
    ids = {
        subset: tuple(train_id for train_id, name in enumerate(names) if name not in outside)
        for subset, outside in subsets.items()
    }
    written = np.array([_RAW_ID_OF[name] for name in names], np.uint8) if raw_ids else None
    return ClassTable(names, palette, ids, written, others)


def _brats_table(region: str) -> ClassTable:
    """Builds the table of a region, whose parts are its foreground; the other parts of a tumour are background."""
    names = dict.fromkeys(part for parts in _BRATS.values() for part in parts)
    parts = {name: region if name in _BRATS[region] else BACKGROUND for name in names}
    colours = {BACKGROUND: (0, 0, 0), region: _LESION_COLOUR}
    return dataclasses.replace(_table(set(), {"2": set()}, raw_ids=False, colours=colours), parts=parts)


CLASS_TABLES = {
    "cityscapes19": _table(set(), {"19": set(), "16": _NOT_IN_SYNTHIA, "13": _NOT_IN_THIRTEEN}),
    "synthia16": _table(_NOT_IN_SYNTHIA, {"16": set(), "13": _NOT_IN_THIRTEEN}, others=tuple(sorted(_NOT_IN_SYNTHIA))),
    "toy": _table(_NOT_IN_TOY, {"toy": set()}, raw_ids=False),
    "camvid11": _table(set(), {"11": set()}, raw_ids=False, colours=_CAMVID),
    "camvid9": _table({"fence", "bicyclist"}, {"9": set()}, raw_ids=False, colours=_CAMVID),  # Shared with "toy".
    "polyp": _table(set(), {"2": set()}, raw_ids=False, colours=_POLYP),
    "vessel": _table(set(), {"2": set()}, raw_ids=False, colours=_VESSEL),
    "brats_whole": _brats_table("whole tumour"),
    "brats_core": _brats_table("tumour core"),
    "brats_enhancing": _brats_table("enhancing tumour"),
}


def class_table(name: str, custom: Mapping[str, Any] | None = None) -> ClassTable:
    """Returns a table of `CLASS_TABLES`, or the table of the user's own classes.

    Args:
      name: as in `config.data.classes`.
      custom: `config.data.custom`, from which "custom" is built; its only subset is "all".

    Returns:
      The table.

    Raises:
      UserError: the name is unknown, or `custom` is not a valid table.
    """
    if name == "custom" and custom is not None:
        return _custom_table(custom)
    if name not in CLASS_TABLES:
        raise UserError(f"data.classes is {name!r}; expected one of {', '.join([*CLASS_TABLES, 'custom'])}.")
    return CLASS_TABLES[name]


def custom_ids(custom: Mapping[str, Any], domain: str) -> dict[int, str]:
    """Returns raw id -> class of the user's own label files; of colours, it is the place in `custom_colours`.

    Args:
      custom: `config.data.custom`.
      domain: "source" or "target".

    Raises:
      UserError: an id is not in 0..65535 or occurs twice, a class is unknown, or there is no id.
    """
    if _holds_colours(custom, domain):
        return dict(enumerate(name for _, name in _colours_and_classes(custom, domain)))
    if not custom["names"]:
        raise UserError(
            "data.custom.names is empty: expected the names of the classes; configs/custom.py is an example."
        )
    _check_ids(custom, domain)
    if not custom[f"{domain}_ids"]:
        raise UserError(
            f"data.custom.{domain}_ids is empty: expected pairs such as (7, {custom['names'][0]!r}), a raw id of the "
            f"{domain} label files and its class."
        )
    return dict(custom[f"{domain}_ids"])


def custom_colours(custom: Mapping[str, Any], domain: str) -> tuple[Colour, ...]:
    """Returns the colours that stand for classes in the user's own label files; none if these hold raw ids.

    Args:
      custom: `config.data.custom`.
      domain: "source" or "target".

    Raises:
      UserError: a colour is not valid or occurs twice, or a class is unknown.
    """
    if not _holds_colours(custom, domain):
        return ()
    return tuple((red, green, blue) for (red, green, blue), _ in _colours_and_classes(custom, domain))


def _holds_colours(custom: Mapping[str, Any], domain: str) -> bool:
    return custom.get(f"{domain}_encoding") == "colours"


def _colours_and_classes(custom: Mapping[str, Any], domain: str) -> list[tuple[Sequence[int], str]]:
    """Returns the table of a domain's colours: its ids or, where there are none, the palette."""
    if custom[f"{domain}_ids"]:
        _check_ids(custom, domain)
        return [(colour, name) for colour, name in custom[f"{domain}_ids"]]
    names, palette = _names_and_palette(custom)
    _expect_once([tuple(colour) for colour in palette], "data.custom.palette", "colours")
    return list(zip(palette, names, strict=True))


def _custom_table(custom: Mapping[str, Any]) -> ClassTable:
    names, palette = _names_and_palette(custom)
    for domain in ("source", "target"):
        _check_ids(custom, domain)
    colours = np.array(palette, np.uint8)
    colours.setflags(write=False)
    return ClassTable(tuple(names), colours, {"all": tuple(range(len(names)))})


def _names_and_palette(custom: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    names, palette = custom["names"], custom["palette"]
    if not 2 <= len(names) <= IGNORED or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"data.custom.names: expected the names of 2 to {IGNORED} classes, found {names!r}.")
    _expect_once(names, "data.custom.names", "classes")
    if len(palette) != len(names):
        raise UserError(f"data.custom.palette: expected {len(names)} colours, one for each name, found {len(palette)}.")
    for name, colour in zip(names, palette, strict=True):
        if not _is_colour(colour):
            raise UserError(
                f"data.custom.palette: expected (red, green, blue) in 0..255 for {name!r}, found {colour!r}."
            )
    return names, palette


def _is_colour(value: Any) -> bool:
    channels = value if isinstance(value, Sequence) else ()
    return len(channels) == 3 and all(isinstance(channel, int) and 0 <= channel <= 255 for channel in channels)


def _check_ids(custom: Mapping[str, Any], domain: str) -> None:
    key, names = f"data.custom.{domain}_ids", custom["names"]
    encoding = f"data.custom.{domain}_encoding"
    of_colours = _holds_colours(custom, domain)
    pairs = custom[f"{domain}_ids"]
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UserError(f"{key}: expected pairs such as (7, 'road'), a raw id and its class, found {pair!r}.")
        raw_id, name = pair
        if of_colours and not _is_colour(raw_id):
            raise UserError(
                f"{key}: expected colours such as (128, 64, 128) for {name!r}, since {encoding} is 'colours', found "
                f"{raw_id!r}. Or leave {key} empty: the colours are then those of data.custom.palette."
            )
        if not of_colours and _is_colour(raw_id):
            raise UserError(f"{key}: found the colour {raw_id!r} for {name!r}; colours need {encoding} = 'colours'.")
        if not of_colours and (isinstance(raw_id, bool) or not isinstance(raw_id, int) or not 0 <= raw_id <= 65535):
            raise UserError(f"{key}: expected raw ids in 0..65535, found {raw_id!r} for {name!r}.")
        if name not in names:
            raise UserError(f"{key}: unknown class {name!r} of raw id {raw_id}. Valid: {', '.join(names)}.")
    _expect_once([str(pair[0]) for pair in pairs], key, "colours" if of_colours else "raw ids")


def _expect_once(values: Sequence[Any], key: str, kind: str) -> None:
    repeated = [str(value) for value, count in collections.Counter(values).items() if count > 1]
    if repeated:
        raise UserError(f"{key}: expected different {kind}, found {', '.join(repeated)} more than once.")


def train_ids(
    raw_ids: Mapping[int, str], table: ClassTable, size: int = 256, *, with_others: bool = False
) -> np.ndarray:
    """Returns the train id of every raw id below `size`, uint8 [size].

    Args:
      raw_ids: raw id -> class; all other raw ids are ignored, as are classes that the table does not have.
      table: of the task.
      size: number of raw ids that a label file can hold: 256 with 8 bits, 65536 with 16.
      with_others: the table's `others` get the number C of its classes, instead of being ignored: for scores.
    """
    found = np.full(size, IGNORED, np.uint8)
    for raw_id, name in raw_ids.items():
        if (joined := table.class_of(name)) is not None:
            found[raw_id] = table.names.index(joined)
        elif with_others and name in table.others:
            found[raw_id] = len(table.names)
    return found
