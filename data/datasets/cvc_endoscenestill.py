"""CVC-EndoSceneStill (Vázquez et al. 2017): the 612 frames of CVC-ClinicDB and 300 of CVC-ColonDB, with masks.

The official split has 547, 183 and 182 frames, of different patients. That of CVC-612 is in
`data/datasets/cvc_clinicdb.py`, that of CVC-300 in `_BLOCKS`. It was taken from a public loader of the set, since the
page of the set could not be read here: its frames add up to the official numbers, every frame occurs once, and its
bounds are those of sequences. Common benchmarks of polyps take their 60 frames of CVC-300 from 149 on, too.

Labelled frames are chosen by sequence, as in CVC-ClinicDB; of CVC-300, by block of the split, which may hold several
sequences.
"""

from pathlib import Path

from data.datasets import cvc_clinicdb
from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import binary_rules

# First and last frame of the blocks of CVC-300 -> split.
_BLOCKS = {
    (1, 76): "train",
    (77, 97): "validation",
    (98, 148): "train",
    (149, 208): "test",
    (209, 220): "validation",
    (221, 273): "train",
    (274, 300): "validation",
}
FRAMES = {"CVC-300": range(1, 301), "CVC-612": cvc_clinicdb.FRAMES}


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs of a split; names are CVC-300/frame and CVC-612/frame.

    Args:
      root: the folder that holds CVC-300 and CVC-612, or one that holds it as CVC-EndoSceneStill.
      split: "train", "validation", "test" or "train_validation".
    """
    folder = root / "CVC-EndoSceneStill" if (root / "CVC-EndoSceneStill").is_dir() else root
    found = pairs.join_pairs(
        pairs.match_pairs(
            folder / part / "bbdd",
            folder / part / "gtpolyp",
            _name,
            _name,
            expected=f"a frame from 1.bmp to {len(frames)}.bmp (masks of CVC-612: .tif), alike for image and mask",
        )
        for part, frames in FRAMES.items()
    )
    chosen = {
        f"{part}/{frame}"
        for part, frames in FRAMES.items()
        for frame in frames
        if split_of(part, frame) in split.split("_")
    }
    return pairs.select_pairs(found, _name, chosen)


def split_of(part: str, frame: int) -> str:
    """Returns the split of a frame of "CVC-300" or "CVC-612": "train", "validation" or "test"."""
    return cvc_clinicdb.split_of(frame) if part == "CVC-612" else _BLOCKS[_block_of(frame)]


def sequence_of(name: str) -> str:
    """Returns the sequence of an image; of CVC-300, the block of frames."""
    part, frame = name.split("/")
    return f"{part}/{cvc_clinicdb.sequence_of(int(frame)) if part == 'CVC-612' else _block_of(int(frame))[0]}"


def _block_of(frame: int) -> tuple[int, int]:
    return next((first, last) for first, last in _BLOCKS if first <= frame <= last)


def _name(file: Path) -> str | None:
    part = file.parent.parent.name
    frame = cvc_clinicdb.frame_of(file)
    return f"{part}/{frame}" if frame in FRAMES.get(part, ()) else None


SPEC = DatasetSpec(
    name="cvc_endoscenestill",
    splits={
        "source_train": Split("train_validation", 730),
        "target_train": Split("train", 547),
        "target_validation": Split("validation", 183),
        "target_test": Split("test", 182),
    },
    labels=binary_rules("polyp"),
    find=find,
    sizes=frozenset({(500, 574), (288, 384)}),
    page="https://pages.cvc.uab.es/CVC-Colon/index.php/databases/cvc-endoscenestill/",
    tree="""
FOLDER/   (may also hold them in CVC-EndoSceneStill/)
  CVC-300/bbdd/1.bmp ... 300.bmp   CVC-300/gtpolyp/1.bmp ... 300.bmp
  CVC-612/bbdd/1.bmp ... 612.bmp   CVC-612/gtpolyp/1.tif ... 612.tif
""",
    sequence_of=sequence_of,
)
