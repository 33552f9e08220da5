"""SYNTHIA-RAND-CITYSCAPES (Ros et al. 2016): rendered streets with 16 of the classes of Cityscapes.

Labels are PNGs of three channels of 16 bits: the class in the first one, the instance in the second.
"""

import functools
from pathlib import Path

from data.raw import pairs
from data.raw.label_rules import LabelRules
from data.classes import RAW_IDS
from data.raw.layout import Layout


def find(root: Path, split: str) -> pairs.Found:
    """Finds the pairs below the root; there is one split, "train"."""
    del split
    return pairs.find(
        root / "RGB", root / "GT" / "LABELS", _name, _name, expected="seven digits and .png, as 0000000.png"
    )


def _name(file: Path) -> str | None:
    return file.stem if file.suffix == ".png" and len(file.stem) == 7 and file.stem.isdecimal() else None


@functools.cache
def layout() -> Layout:
    """Returns the layout of SYNTHIA-RAND-CITYSCAPES."""
    return Layout(
        name="synthia",
        domain="source",
        labels=LabelRules(
            encoding="first of three", raw_ids=RAW_IDS["synthia"], known_ids=frozenset(range(23)), values=256
        ),
        splits={"train": 9_400},
        unlabelled=frozenset(),
        sizes=frozenset({(960, 1280), (760, 1280)}),
        page="https://synthia-dataset.net/downloads/",
        archives={"SYNTHIA_RAND_CITYSCAPES.rar": "the part SYNTHIA-RAND-CITYSCAPES (CVPR16), 21 GB"},
        tree="""
FOLDER/
  RGB/0000000.png ... 0009399.png
  GT/LABELS/0000000.png ... 0009399.png   (PNG of 16 bits and three channels)
""",
        find=find,
    )
