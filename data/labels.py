"""Tables of classes: names, colours, the subsets that are reported, and what the label files call them.

Train ids are the positions in a table: contiguous from 0. Raw ids are the numbers in the label files of a data
set. `IGNORED` marks pixels without a class.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

IGNORED = 255

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
# SYNTHIA has no terrain, truck and train; its 13-class score leaves three thin classes out as well.
_NOT_IN_SYNTHIA = {"terrain", "truck", "train"}
_NOT_IN_THIRTEEN = {*_NOT_IN_SYNTHIA, "wall", "fence", "pole"}
_NOT_IN_TOY = {*_NOT_IN_THIRTEEN, "traffic light", "rider", "bus", "motorcycle", "bicycle"} - {
    "terrain",
    "pole",
}

_CITYSCAPES_IDS = dict(
    zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), _CITYSCAPES, strict=True)
)
_RAW_ID_OF = {name: raw_id for raw_id, name in _CITYSCAPES_IDS.items()}
# Data set -> raw id -> class; raw ids that are not there are ignored.
RAW_IDS = {
    "cityscapes": _CITYSCAPES_IDS,
    "gta5": _CITYSCAPES_IDS,
    "synthia": {
        1: "sky",
        2: "building",
        3: "road",
        4: "sidewalk",
        5: "fence",
        6: "vegetation",
        7: "pole",
        8: "car",
        9: "traffic sign",
        10: "person",
        11: "bicycle",
        12: "motorcycle",
        15: "traffic light",
        17: "rider",
        19: "bus",
        21: "wall",
    },
}


@dataclasses.dataclass(frozen=True, eq=False)
class ClassTable:
    """Classes of a task; a class is known by its position, its train id.

    Attributes:
      names: [C].
      palette: uint8 [C, 3], RGB.
      subsets: name of a subset -> its train ids, ascending; a mean IoU is reported over each.
      raw_ids: uint8 [C], what prediction files hold; None: the train ids themselves.
    """

    names: tuple[str, ...]
    palette: np.ndarray
    subsets: dict[str, tuple[int, ...]]
    raw_ids: np.ndarray | None = None


def _table(left_out: set[str], subsets: dict[str, set[str]], raw_ids: bool = True) -> ClassTable:
    """Builds a table of Cityscapes' classes.

    Args:
      left_out: names that are not in the table.
      subsets: name of a subset -> names that are not in it.
      raw_ids: predictions are written in Cityscapes' raw ids, which its test server takes.

    Returns:
      The table.
    """
    names = tuple(name for name in _CITYSCAPES if name not in left_out)
    palette = np.array([_CITYSCAPES[name] for name in names], np.uint8)
    palette.setflags(write=False)
    ids = {
        subset: tuple(train_id for train_id, name in enumerate(names) if name not in outside)
        for subset, outside in subsets.items()
    }
    written = np.array([_RAW_ID_OF[name] for name in names], np.uint8) if raw_ids else None
    return ClassTable(names, palette, ids, written)


CLASS_TABLES = {
    "cityscapes19": _table(set(), {"19": set(), "16": _NOT_IN_SYNTHIA, "13": _NOT_IN_THIRTEEN}),
    "synthia16": _table(_NOT_IN_SYNTHIA, {"16": set(), "13": _NOT_IN_THIRTEEN}),
    "toy": _table(_NOT_IN_TOY, {"toy": set()}, raw_ids=False),
}


def class_table(name: str) -> ClassTable:
    """Returns the table of a name of `CLASS_TABLES`.

    Args:
      name: as in `config.data.classes`.

    Returns:
      The table.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in CLASS_TABLES:
        raise ValueError(f"Unknown class table {name!r}. Valid: {', '.join(CLASS_TABLES)}.")
    return CLASS_TABLES[name]


def train_ids(raw_ids: Mapping[int, str], table: ClassTable, size: int = 256) -> np.ndarray:
    """Returns the train id of every raw id below `size`, uint8 [size].

    Args:
      raw_ids: raw id -> class. Classes that the table does not have are ignored, as are all other raw ids.
      table: of the task.
      size: number of raw ids that a label file can hold: 256 with 8 bits, 65536 with 16.
    """
    found = np.full(size, IGNORED, np.uint8)
    for raw_id, name in raw_ids.items():
        if name in table.names:
            found[raw_id] = table.names.index(name)
    return found
