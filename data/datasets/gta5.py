"""GTA5 ("Playing for Data", Richter et al. 2016): rendered streets with the classes of Cityscapes.

Labels are palette PNGs whose index is the raw id. Their colours would not do: car and licence plate share one.
"""

import functools
from pathlib import Path

from data.raw import pairs
from data.raw.label_rules import LabelRules
from data.classes import RAW_IDS
from data.raw.layout import Layout

_PARTS = 10
# Image and label of these differ in size in the official archives.
BAD_PAIRS = ("15188", "17705")


def find(root: Path, split: str) -> pairs.Found:
    """Finds the pairs below the root; there is one split, "train"."""
    del split
    return pairs.find(root / "images", root / "labels", _name, _name, expected="five digits and .png, as 00001.png")


def _name(file: Path) -> str | None:
    return file.stem if file.suffix == ".png" and len(file.stem) == 5 and file.stem.isdecimal() else None


@functools.cache
def layout() -> Layout:
    """Returns the layout of GTA5."""
    return Layout(
        name="gta5",
        domain="source",
        labels=LabelRules(encoding="indices", raw_ids=RAW_IDS["gta5"], known_ids=frozenset(range(35)), values=256),
        splits={"train": 24_966},
        unlabelled=frozenset(),
        sizes=frozenset({(1052, 1914), (1046, 1914)}),
        page="https://download.visinf.tu-darmstadt.de/data/from_games/",
        archives={
            f"01_images.zip ... {_PARTS}_images.zip": "all parts, about 57 GB together",
            f"01_labels.zip ... {_PARTS}_labels.zip": "all parts, small",
        },
        tree="""
FOLDER/
  images/00001.png ... 24966.png
  labels/00001.png ... 24966.png   (palette PNG; the index is the class)
""",
        find=find,
        known_bad=frozenset(BAD_PAIRS),
    )
