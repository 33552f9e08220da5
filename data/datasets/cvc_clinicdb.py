"""CVC-ClinicDB (Bernal et al. 2015): 612 frames of 29 colonoscopy sequences in Barcelona, with masks of the polyps.

Frames of a sequence look alike, so whole sequences are training, validation or test images: those of the official split
of CVC-EndoSceneStill (Vázquez et al. 2017), which holds the same frames as CVC-612. It gives 367, 123 and 122 frames
here, and no test frame of one set is a training frame of the other. As a source, the set gives all but its test frames.

Labelled frames are chosen by sequence, too: a clinic labels the frames of a few patients.

The sequences are those of the page of the data set. The page could not be read here; the table was compared with the
one in the repository dataset-ninja/cvc-612, and with the bounds of the official split, which agree with it.
"""

import bisect
from pathlib import Path

from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import binary_rules

FRAMES = range(1, 613)
# First frame of each sequence.
_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
_VALIDATION = (3, 4, 5, 12, 16, 18)
_TEST = (1, 7, 8, 17, 25)
_ENDINGS = (".tif", ".tiff", ".png", ".bmp")


def sequence_of(frame: int) -> int:
    """Returns the sequence of a frame, both counted from 1."""
    return bisect.bisect_right(_STARTS, frame)


def split_of(frame: int) -> str:
    """Returns the split of a frame: "train", "validation" or "test"."""
    sequence = sequence_of(frame)
    return "validation" if sequence in _VALIDATION else "test" if sequence in _TEST else "train"


def find(root: Path, split: str) -> pairs.SplitFiles:
    """Lists the pairs of a split.

    Args:
      root: the folder with `Original` and `Ground Truth`, or one that holds it as CVC-ClinicDB, TIF or PNG.
      split: "train", "validation", "test" or "train_validation".
    """
    inside = [root / top / kind for top in ("", "CVC-ClinicDB") for kind in ("", "TIF", "PNG")]
    folder = next((each for each in inside if (each / "Original").is_dir()), root)
    found = pairs.match_pairs(
        folder / "Original",
        folder / "Ground Truth",
        _name,
        _name,
        expected="a frame from 1.tif to 612.tif (or .png), named alike for image and mask",
    )
    return pairs.select_pairs(found, _name, {str(frame) for frame in FRAMES if split_of(frame) in split.split("_")})


def frame_of(file: Path) -> int:
    """Returns the number that is a file's name; 0 if the file is no numbered image."""
    is_frame = file.stem.isascii() and file.stem.isdigit() and file.suffix.lower() in _ENDINGS
    return int(file.stem) if is_frame else 0


def _name(file: Path) -> str | None:
    frame = frame_of(file)
    return str(frame) if frame in FRAMES else None


SPEC = DatasetSpec(
    name="cvc_clinicdb",
    splits={
        "source_train": Split("train_validation", 490),
        "target_train": Split("train", 367),
        "target_validation": Split("validation", 123),
        "target_test": Split("test", 122),
    },
    labels=binary_rules("polyp"),
    find=find,
    sizes=frozenset({(288, 384)}),
    page="https://polyp.grand-challenge.org/CVCClinicDB/",
    tree="""
FOLDER/   (may also hold them in CVC-ClinicDB/, TIF/ or PNG/)
  Original/1.tif ... 612.tif   (or .png)
  Ground Truth/1.tif ... 612.tif   (or .png)
""",
    listed_counts=(18, 37, 73, 184, 367),
    other_counts=True,
    sequence_of=lambda name: str(sequence_of(int(name))),
)
