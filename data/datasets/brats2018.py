"""BraTS 2018 (Menze et al. 2015; Bakas et al. 2017): volumes of brains with tumours, each patient in four MR sequences.

A dataset here is one sequence, so that source and target can be any two. All share the folders and the labels: 1 the
necrotic core, 2 the oedema, 4 the enhancing tumour. The class tables `brats_whole`, `brats_core` and `brats_enhancing`
join them to the three regions that the challenge scores, one at a time.

Source and target are different patients. The set has no official split with labels, so the SHA-256 of "split:{patient}"
decides: its first 32 bits, as a share of 2^32, make a patient one of the source (below 0.4), of the target's training
(below 0.8), of its validation (below 0.9) or of its test. That is some 114, 114, 29 and 28 of the 285 patients, and a
patient that is missing on a disk moves no other. A patient is a folder's name without the number of the visit, its last
part.

The page needs a registration. Nothing of the set could be read here; layout and encoding are those that its users
describe.
"""

import collections
import functools
import hashlib
import re
from pathlib import Path

from data.datasets.spec import DatasetSpec, Split
from data.raw import file_access, nifti
from data.raw.faults import BadFileError, Fault
from data.raw.label_rules import VOLUME, LabelRules
from data.raw.pairs import SplitFiles, make_pair

SEQUENCES = ("t2", "flair", "t1", "t1ce")
# Split -> share of the patients up to which it reaches.
SPLITS = {"source": 0.4, "train": 0.8, "validation": 0.9, "test": 1.0}
_GROUPS = ("HGG", "LGG")  # High and low grade gliomas.
_FILE = re.compile(rf"(Brats18_\w+)_({'|'.join(SEQUENCES)}|seg)")
_TREE = "{HGG,LGG}/Brats18_2013_2_1/Brats18_2013_2_1_{flair,t1,t1ce,t2,seg}.nii.gz"


def split_of(name: str) -> str:
    """Returns the split of a volume, a key of `SPLITS`, given the name of its folder."""
    patient = name.rpartition("_")[0]
    share = int(hashlib.sha256(f"split:{patient}".encode()).hexdigest()[:8], 16) / 2**32
    return next(split for split, end in SPLITS.items() if share < end)


def find(root: Path, split: str, sequence: str) -> SplitFiles:
    """Lists the volumes of a split in one sequence; a pair is a volume and its label.

    Args:
      root: the folder with HGG and LGG, or the one that holds it as MICCAI_BraTS_2018_Data_Training.
      split: a key of `SPLITS`.
      sequence: one of `SEQUENCES`.
    """
    inside = root / "MICCAI_BraTS_2018_Data_Training"
    folder = inside if inside.is_dir() else root
    faults: list[Fault] = []
    others: list[Fault] = []
    states: dict[Path, file_access.FileState] = {}
    for group in _GROUPS:
        try:
            states |= file_access.list_files(folder / group, deep=True)
        except BadFileError as error:
            faults.append(error.fault)
    files: dict[str, dict[str, Path]] = collections.defaultdict(dict)
    for file in states:
        match = _FILE.fullmatch(_stem(file))
        if match is None or match[1] != file.parent.name:
            others.append(Fault("odd name", file, f"expected {_TREE}."))
        elif split_of(match[1]) == split:
            name, kind = match.groups()
            if kind in files[name]:
                text = f"it has the same name as {files[name][kind]}; expected different names."
                faults.append(Fault("odd name", file, text))
            else:
                files[name][kind] = file
    pairs = []
    for name, found in sorted(files.items()):
        image, label = found.get(sequence), found.get("seg")
        some = next(iter(found.values())).parent
        if image is None:
            text = f"expected {name}_{sequence}.nii.gz, a sequence of this patient, found none."
            faults.append(Fault("missing image", some, text))
        if label is None:
            faults.append(Fault("missing label", some, f"expected {name}_seg.nii.gz, found none."))
        if image is not None and label is not None:
            pairs.append(make_pair(name, image, states[image], label, states[label]))
    if states and not files:
        rule = "data/datasets/brats2018.py states how names decide the split"
        faults.append(Fault("missing image", folder, f"no patient here is one of the split {split}; {rule}."))
    return SplitFiles(pairs, faults, tuple(others))


def _stem(file: Path) -> str:
    """Returns the name of a NIfTI file without its ending; empty for another file."""
    return next((file.name.removesuffix(ending) for ending in nifti.ENDINGS if file.name.endswith(ending)), "")


def _spec(sequence: str) -> DatasetSpec:
    return DatasetSpec(
        name=f"brats2018_{sequence}",
        splits={
            "source_train": Split("source"),
            "target_train": Split("train"),
            "target_validation": Split("validation"),
            "target_test": Split("test"),
        },
        labels=LabelRules(
            encoding=VOLUME,
            raw_ids={0: "background", 1: "necrotic core", 2: "oedema", 4: "enhancing tumour"},
            known_ids=frozenset({0, 1, 2, 4}),
        ),
        find=functools.partial(find, sequence=sequence),
        sizes=frozenset({(240, 240)}),
        page="https://www.med.upenn.edu/sbia/brats2018/data.html",
        archives={"MICCAI_BraTS_2018_Data_Training.zip": "285 patients, four sequences and labels"},
        tree=f"""
FOLDER/   (the folder of the archive, or the one that holds it)
  {_TREE}
""",
        sequence_of=lambda name: name.partition("/")[0],
        counts_sequences=True,
        least_share=0.0,
    )


SPECS = tuple(map(_spec, SEQUENCES))
