"""What a dataset is: where its files lie, how its labels are stored, and which splits of it a run can use."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from ml_collections import ConfigDict

from data.raw.label_rules import LabelRules
from data.raw.pairs import SplitFiles

# DAFormer: 3000 of GTA5's 1914 x 1052 pixels.
LEAST_SHARE = 0.0015


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a dataset.

    Attributes:
      name: as the dataset calls it, such as "val".
      count: number of images in the complete dataset; 0: unknown.
      labels: which images have a label.
    """

    name: str
    count: int = 0
    labels: Literal["all", "some", "none"] = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset as its authors publish it.

    Attributes:
      name: as in `config.data.source` and `config.data.target`.
      splits: part of a run -> split. Parts are "source_train", "target_train", "target_validation" and "target_test".
      labels: how labels are stored, and which class each raw id means.
      find: lists the files of a split, given the root folder and the split's name; None: images are generated.
      sizes: heights and widths that images may have; empty: any.
      page: address of the official download; empty: there is none.
      archives: archives to download: name -> contents and size.
      command: shell command that downloads it; empty: there is none.
      tree: the folders as they should lie below the root.
      known_bad: names of pairs that are unusable in the official archives too.
      listed_counts: numbers of labelled target images for which `data/datasets/lists` has a list, ascending; the last
        is the number of all training images. Empty: any number is valid.
      other_counts: whether other numbers are valid words, too.
      sequence_of: returns the sequence (such as a patient or a drive) of an image, given its name; labelled images are
        then chosen by whole sequences. None: one by one.
      counts_sequences: whether numbers of labelled images, and the names in a user's list, are those of sequences.
      least_share: rare-class sampling takes an image for one of a class that covers this share of its pixels; 0: one
        pixel is enough.
      from_settings: completes the spec from `config.data` and a domain; None: nothing depends on settings.
    """

    name: str
    splits: Mapping[str, Split]
    labels: LabelRules
    find: Callable[[Path, str], SplitFiles] | None = None
    sizes: frozenset[tuple[int, int]] = frozenset()
    page: str = ""
    archives: Mapping[str, str] = dataclasses.field(default_factory=dict)
    command: str = ""
    tree: str = ""
    known_bad: frozenset[str] = frozenset()
    listed_counts: tuple[int, ...] = ()
    other_counts: bool = False
    sequence_of: Callable[[str], str] | None = None
    counts_sequences: bool = False
    least_share: float = LEAST_SHARE
    from_settings: Callable[[ConfigDict, str], "DatasetSpec"] | None = None

    @property
    def is_generated(self) -> bool:
        """Whether images are generated instead of read from the user's files."""
        return self.find is None


def domain_of(part: str) -> str:
    """Returns the domain of a part of a run: "target" for "target_train"."""
    return part.partition("_")[0]


def describe_layout(spec: DatasetSpec, domain: str, root: str | Path) -> str:
    """Returns what to download, from where and into which folders: a screen of text.

    Args:
      spec: the dataset.
      domain: "source" or "target".
      root: its folder as the user gave it; empty: not set.
    """
    setting = f"--config.data.{domain}_root"
    where = f"{setting} is {str(root)!r}." if str(root) else f"{setting} is not set."
    lines = [f"The dataset {spec.name!r} was not found. {where}", ""]
    if spec.page:
        width = max(map(len, spec.archives), default=0)
        lines += [f"1. Download from {spec.page} (a free account may be needed){':' if spec.archives else '.'}"]
        lines += [f"     {name:{width}}  {contents}" for name, contents in spec.archives.items()]
        lines += ["2. Unpack them into one folder:", ""]
    elif spec.command:
        lines += [f"Download it: {spec.command}", "", "Folders:", ""]
    else:
        lines += ["Expected folders:", ""]
    lines += [f"     {line}" for line in spec.tree.strip("\n").splitlines()]
    lines += ["", f"Then name the folder FOLDER above: {setting}=FOLDER"]
    return "\n".join(lines)
