"""SYNTHIA-RAND-CITYSCAPES (Ros et al. 2016): rendered streets with 16 of the classes of Cityscapes.

Labels are PNGs with three channels of 16 bits: the class in the first, the instance in the second.
"""

from pathlib import Path

from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import LabelRules

RAW_IDS = {
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
}


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs below the root; there is one split, "train"."""
    del split
    return pairs.match_pairs(
        root / "RGB", root / "GT" / "LABELS", _name, _name, expected="seven digits and .png, as 0000000.png"
    )


def _name(file: Path) -> str | None:
    return file.stem if file.suffix == ".png" and len(file.stem) == 7 and file.stem.isdecimal() else None


SPEC = DatasetSpec(
    name="synthia",
    splits={"source_train": Split("train", 9_400)},
    labels=LabelRules(encoding="first of three", raw_ids=RAW_IDS, known_ids=frozenset(range(23))),
    find=find,
    sizes=frozenset({(960, 1280), (760, 1280)}),
    page="https://synthia-dataset.net/downloads/",
    archives={"SYNTHIA_RAND_CITYSCAPES.rar": "the part SYNTHIA-RAND-CITYSCAPES (CVPR16), 21 GB"},
    tree="""
FOLDER/
  RGB/0000000.png ... 0009399.png
  GT/LABELS/0000000.png ... 0009399.png   (PNG of 16 bits and three channels)
""",
)
