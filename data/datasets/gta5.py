"""GTA5 ("Playing for Data", Richter et al. 2016): rendered streets with the classes of Cityscapes.

Labels are palette PNGs whose index is the raw id. Their colours are ambiguous: car and licence plate share one.
"""

from pathlib import Path

from data.classes import CITYSCAPES_RAW_IDS
from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import LabelRules

_PARTS = 10


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs below the root; there is one split, "train"."""
    del split
    return pairs.match_pairs(
        root / "images", root / "labels", _name, _name, expected="five digits and .png, as 00001.png"
    )


def _name(file: Path) -> str | None:
    return file.stem if file.suffix == ".png" and len(file.stem) == 5 and file.stem.isdecimal() else None


SPEC = DatasetSpec(
    name="gta5",
    splits={"source_train": Split("train", 24_966)},
    labels=LabelRules(encoding="indices", raw_ids=CITYSCAPES_RAW_IDS, known_ids=frozenset(range(35))),
    find=find,
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
    known_bad=frozenset({"15188", "17705"}),  # Image and label differ in size.
)
