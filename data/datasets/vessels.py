"""Photographs of the retina with masks of the vessels, as the repository V-GAN holds them.

`drive`: DRIVE (Staal et al. 2004), 40 photographs of 565×584, TIFF, from a screening in the Netherlands; the official
split is 20 and 20. `stare`: STARE (Hoover et al. 2000), 20 photographs of 700×605, PPM, from another camera in the USA,
half of them ill. It has no official split: the repository takes the first 10 names for training and the last 10 for
tests. Vessels are those of the first observer, Adam Hoover in STARE. Pixels outside the field of view are ignored.

As a source, a set gives only its training images; as a target, its test images are those that are scored. There are too
few images for a third split: choose settings by `config.data.held_out`.
"""

import functools
import re
from pathlib import Path

from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import binary_rules

_MASKS = binary_rules("vessel")
# Raw id 254 marks pixels outside the field of view.
_LABELS = _MASKS._replace(known_ids=frozenset({*_MASKS.raw_ids, _MASKS.unlabelled_id}))


def find(root: Path, split: str, *, folder: str, files: tuple[str, str, str]) -> pairs.SplitFiles:
    """Lists the pairs of a split and their fields of view.

    Args:
      root: the clone, its folder `data`, or the folder of the dataset.
      split: "training" or "test".
      folder: of the dataset in `data`.
      files: names of image, label and field of view, with NAME for the name of the pair and SPLIT for the split.
    """
    inside = (root / "data" / folder, root / folder, root)
    place = next(each for each in inside if each.is_dir() or each == root) / split
    names = [functools.partial(_name, file.replace("SPLIT", split)) for file in files]
    expected = f"{', '.join(files).replace('SPLIT', split)}: image, label, field of view"
    found = pairs.match_pairs(place / "images", place / "1st_manual", *names[:2], expected=expected)
    return pairs.add_fields_of_view(found, place / "mask", names[2], expected=expected)


def _name(pattern: str, file: Path) -> str | None:
    """Returns the part of a file's name that stands for NAME in the pattern; None if the rest differs."""
    start, end = map(re.escape, pattern.split("NAME"))
    found = re.fullmatch(f"{start}([a-z0-9]+){end}", file.name)
    return found and found[1]


def _spec(name: str, count: int, size: tuple[int, int], files: tuple[str, str, str], tree: str) -> DatasetSpec:
    training, test = Split("training", count), Split("test", count)
    return DatasetSpec(
        name=name,
        splits={"source_train": training, "target_train": training, "target_validation": test},
        labels=_LABELS,
        find=functools.partial(find, folder=name.upper(), files=files),
        sizes=frozenset({size}),
        command="git clone --depth=1 https://github.com/jaeminSon/V-GAN",
        tree=tree,
    )


SPECS = (
    _spec(
        "drive",
        20,
        (584, 565),
        ("NAME_SPLIT.tif", "NAME_manual1.gif", "NAME_SPLIT_mask.gif"),
        """
FOLDER/   (the clone, its folder data, or the folder data/DRIVE)
  {training,test}/images/21_training.tif ...
  {training,test}/1st_manual/21_manual1.gif ...
  {training,test}/mask/21_training_mask.gif ...
""",
    ),
    _spec(
        "stare",
        10,
        (605, 700),
        ("NAME.ppm", "NAME.ah.ppm", "NAME.ppm"),
        """
FOLDER/   (the clone, its folder data, or the folder data/STARE)
  {training,test}/images/im0001.ppm ...
  {training,test}/1st_manual/im0001.ah.ppm ...
  {training,test}/mask/im0001.ppm ...
""",
    ),
)
