"""Cityscapes (Cordts et al. 2016): photographed streets, read from the unpacked folders or from the zip files."""

import functools
import re
from pathlib import Path

from data.classes import CITYSCAPES_RAW_IDS
from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import LabelRules

# Top folder -> the official zip file that holds it.
ARCHIVES = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
_EXPECTED = "city_000000_000000_leftImg8bit.png in the folder of its city, label city_000000_000000_gtFine_labelIds.png"


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs of "train", "val" or "test"; names are city/city_sequence_frame, as in the official lists.

    The test images have no usable labels and come without.
    """
    return pairs.match_pairs(
        _top_folder(root, "leftImg8bit") / split,
        _top_folder(root, "gtFine") / split if split != "test" else None,
        functools.partial(_name, ending="leftImg8bit"),
        functools.partial(_name, ending="gtFine_labelIds"),
        expected=_EXPECTED,
        deep=True,
        labels_needed=split != "test",
    )


def _top_folder(root: Path, name: str) -> Path:
    """Returns the folder `name` below the root: unpacked, or inside its official zip file where only that is there."""
    folder, archive = root / name, root / ARCHIVES[name]
    return archive / name if archive.is_file() and not folder.is_dir() else folder


def _name(file: Path, ending: str) -> str | None:
    match = re.fullmatch(rf"(([a-z-]+)_\d{{6}}_\d{{6}})_{ending}\.png", file.name)
    return f"{match[2]}/{match[1]}" if match and match[2] == file.parent.name else None


SPEC = DatasetSpec(
    name="cityscapes",
    splits={
        "target_train": Split("train", 2_975),
        "target_validation": Split("val", 500),
        "target_test": Split("test", 1_525, labels="none"),
    },
    labels=LabelRules(encoding="indices", raw_ids=CITYSCAPES_RAW_IDS, known_ids=frozenset(range(34))),
    find=find,
    sizes=frozenset({(1024, 2048)}),
    page="https://www.cityscapes-dataset.com/downloads/",
    archives={ARCHIVES["leftImg8bit"]: "images, 11 GB", ARCHIVES["gtFine"]: "labels, 241 MB"},
    tree="""
FOLDER/
  leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png ...
  gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelIds.png ...
(or leave the two zip files in FOLDER as they are; nothing else need be unpacked or generated)
""",
    listed_counts=(50, 100, 200, 500, 1000, 2975),
)
