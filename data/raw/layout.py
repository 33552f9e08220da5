"""What a real data set looks like on disk, and how to tell the user."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from data.raw.label_rules import LabelRules
from data.raw.pairs import Found


class Layout(NamedTuple):
    """A data set as its authors hand it out.

    Attributes:
      name: as in `config.data.source` and `config.data.target`.
      domain: "source" or "target": which of `config.data.source_root` and `target_root` is its folder.
      labels: how they are stored.
      splits: split -> number of pairs in the complete data set; 0: unknown.
      unlabelled: splits whose images need no labels.
      sizes: heights and widths that images may have; empty: any.
      page: address of the official download.
      archives: name of each archive that is needed -> its contents and size.
      tree: the folders as they should lie below the root.
      find: finds the pairs of a split below the root.
      known_bad: names of pairs that cannot be used in the official archives either.
    """

    name: str
    domain: str
    labels: LabelRules
    splits: Mapping[str, int]
    unlabelled: frozenset[str]
    sizes: frozenset[tuple[int, int]]
    page: str
    archives: Mapping[str, str]
    tree: str
    find: Callable[[Path, str], Found]
    known_bad: frozenset[str] = frozenset()


def explanation(layout: Layout, root: str | Path) -> str:
    """Returns what to download, from where and into which folders: a screen of text.

    Args:
      layout: of the data set.
      root: its folder as the user gave it; empty if he gave none.
    """
    setting = f"--config.data.{layout.domain}_root"
    where = f"{setting} is {str(root)!r}." if str(root) else f"{setting} is not set."
    lines = [f"The data set {layout.name!r} was not found. {where}", ""]
    if layout.page:
        width = max(map(len, layout.archives))
        lines += [f"1. Download from {layout.page} (a free account may be needed):"]
        lines += [f"     {name:{width}}  {contents}" for name, contents in layout.archives.items()]
        lines += ["2. Unpack them into one folder:", ""]
    else:
        lines += ["Expected folders:", ""]
    lines += [f"     {line}" for line in layout.tree.strip("\n").splitlines()]
    lines += ["", f"Then name the folder FOLDER above: {setting}=FOLDER"]
    return "\n".join(lines)
