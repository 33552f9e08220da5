"""Images and their labels, found by name; whatever lacks its partner is named."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data.raw import file_access
from data.raw.faults import BadFile, Fault


class Pair(NamedTuple):
    """An image and its label.

    Attributes:
      name: unique in the split; sorts as the files do.
      image: file.
      label: file, or None for an image without a label.
      size: bytes of both files, to notice that files were exchanged.
    """

    name: str
    image: Path
    label: Path | None
    size: tuple[int, int]


class Found(NamedTuple):
    """What lies in the folders of a split.

    Attributes:
      pairs: sorted by name.
      faults: files without a partner, wrong names and missing folders.
    """

    pairs: list[Pair]
    faults: list[Fault]


Files = Mapping[Path, int]
NameOf = Callable[[Path], str | None]


def find(
    image_folder: Path,
    label_folder: Path | None,
    image_name: NameOf,
    label_name: NameOf,
    *,
    expected: str,
    deep: bool = False,
    labels_needed: bool = True,
    ignored_endings: tuple[str, ...] = (),
) -> Found:
    """Joins the images and labels of two folders by name.

    Args:
      image_folder: of the images.
      label_folder: of the labels; None if there are none.
      image_name: the name of an image's pair; None if the file's name is not one of the layout.
      label_name: the same for labels.
      expected: how files are named, for messages.
      deep: whether to look into folders within.
      labels_needed: whether an image without a label is a fault; otherwise it is a pair without one.
      ignored_endings: of files that may lie beside the labels.

    Returns:
      Pairs and faults. Where a folder is missing that is the only fault, and there are no pairs.
    """
    listings: list[Files] = []
    faults: list[Fault] = []
    for folder in (image_folder, label_folder):
        try:
            listings.append(file_access.list_files(folder, deep=deep) if folder else {})
        except BadFile as error:
            faults.append(error.fault)
    if faults:
        return Found([], faults)
    images, labels = listings
    wanted = [file for file in labels if not file.name.endswith(ignored_endings)] if ignored_endings else labels
    image_files = _by_name(images, image_name, expected, faults)
    label_files = _by_name(wanted, label_name, expected, faults)
    pairs = []
    for name in sorted(image_files):
        image, label = image_files[name], label_files.get(name)
        if label is not None:
            pairs.append(Pair(name, image, label, (images[image], labels[label])))
        elif labels_needed:
            text = f"expected a label of the same name in {label_folder}, found none."
            faults.append(Fault("missing label", image, text))
        else:
            pairs.append(Pair(name, image, None, (images[image], 0)))
    for name in sorted(label_files.keys() - image_files.keys()):
        text = f"expected an image of the same name in {image_folder}, found none."
        faults.append(Fault("missing image", label_files[name], text))
    return Found(pairs, faults)


def _by_name(group: Iterable[Path], name_of: NameOf, expected: str, faults: list[Fault]) -> dict[str, Path]:
    """Returns name -> file; files without a name of their own are added to the faults."""
    found: dict[str, Path] = {}
    for file in group:
        name = name_of(file)
        if name is None:
            faults.append(Fault("odd name", file, f"expected {expected}."))
        elif name in found:
            faults.append(Fault("odd name", file, f"it is named like {found[name]}; expected one file of each name."))
        else:
            found[name] = file
    return found
