"""Kvasir-SEG (Jha et al. 2020): 1,000 photographs of polyps from colonoscopies in Norway, with masks.

Masks are JPEGs, of which 128 and more is polyp. The set has no official split into three. Here, the 120 images that the
authors hold out in their split for a challenge (880 and 120, in their repository 2020-MediaEval-Medico-polyp-
segmentation) are the test images; of the other 880, ranked by the SHA-256 of "split:{name}", the first 800 are training
images and the last 80 validation images. The files of `data/datasets/lists/kvasir_seg/` name them.

`kvasir_seg_352` is a copy in the repository effisegnet, resized to 352×352 and with numbers for names: which image is
which is not known, so it keeps its own split. As a source, either gives all but its test images.
"""

from pathlib import Path

from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import binary_rules

_LISTS = Path(__file__).parent / "lists" / "kvasir_seg"
# Split -> its names; the training images are a list of all counts, too.
NAMES = {
    split: frozenset((_LISTS / f"{file}.txt").read_text().split())
    for split, file in {"train": "800", "validation": "validation", "test": "test"}.items()
}
NAMES["train_validation"] = NAMES["train"] | NAMES["validation"]
_ALL = NAMES["train_validation"] | NAMES["test"]
_ENDINGS = (".jpg", ".png")
_LABELS = binary_rules("polyp")


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs of a split, a key of `NAMES`.

    Args:
      root: the folder Kvasir-SEG, or the one that holds it.
      split: "train", "validation", "test" or "train_validation".
    """
    folder = _folder(root)
    found = pairs.match_pairs(
        folder / "images",
        folder / "masks",
        _name,
        _name,
        expected="the name of an image of Kvasir-SEG, such as cju0qkwl35piu0993l0dewei2.jpg, alike for image and mask",
    )
    return pairs.select_pairs(found, _name, NAMES[split])


def find_resized(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs of a split of the copy of 352×352 pixels; names are split/number.

    Args:
      root: the clone of effisegnet, or its folder Kvasir-SEG.
      split: as for `find`.
    """
    folder = _folder(root)
    return pairs.join_pairs(_find_part(folder / part, part) for part in split.split("_"))


def _find_part(folder: Path, part: str) -> pairs.SplitFiles:
    def name(file: Path) -> str | None:
        return f"{part}/{file.stem}" if file.suffix in _ENDINGS else None

    return pairs.match_pairs(
        folder / "images", folder / "masks", name, name, expected="a .jpg, named alike for image and mask"
    )


def _folder(root: Path) -> Path:
    return root / "Kvasir-SEG" if (root / "Kvasir-SEG").is_dir() else root


def _name(file: Path) -> str | None:
    return file.stem if file.suffix in _ENDINGS and file.stem in _ALL else None


SPECS = (
    DatasetSpec(
        name="kvasir_seg",
        splits={
            "source_train": Split("train_validation", 880),
            "target_train": Split("train", 800),
            "target_validation": Split("validation", 80),
            "target_test": Split("test", 120),
        },
        labels=_LABELS,
        find=find,
        page="https://datasets.simula.no/kvasir-seg/",
        archives={"kvasir-seg.zip": "images and masks, 46 MB"},
        tree="""
FOLDER/   (the folder Kvasir-SEG of the archive, or the one that holds it)
  images/cju0qkwl35piu0993l0dewei2.jpg ...
  masks/cju0qkwl35piu0993l0dewei2.jpg ...
""",
        listed_counts=(40, 80, 160, 400, 800),
        other_counts=True,
    ),
    DatasetSpec(
        name="kvasir_seg_352",
        splits={
            "source_train": Split("train_validation", 900),
            "target_train": Split("train", 800),
            "target_validation": Split("validation", 100),
            "target_test": Split("test", 100),
        },
        labels=_LABELS,
        find=find_resized,
        sizes=frozenset({(352, 352)}),
        command="git clone --depth=1 https://github.com/ivezakis/effisegnet",
        tree="""
FOLDER/   (the clone, or its folder Kvasir-SEG)
  {train,validation,test}/images/0.jpg ...
  {train,validation,test}/masks/0.jpg ...
""",
    ),
)
