"""Pairs of an image and its label: matched by name, then read and checked."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.raw import file_access, image_files, label_rules, nifti, slices
from data.raw.faults import BadFileError, Fault
from data.raw.file_access import FileState
from data.raw.label_rules import LabelRules

# Of the numbers of two affines, in millimetres: programs round them differently.
_SAME_PLACE = 1e-3
_NO_FILE = FileState(0, 0)


class Pair(NamedTuple):
    """An image and its label.

    Attributes:
      name: unique in the split; sorts as the files do.
      image: file.
      label: file, or None for an image without a label.
      size: bytes of each file, by which a changed file is noticed.
      changed: of each file, `FileState.changed` of `data.raw.file_access`, by which another change is noticed; 0 where
        there is no label.
      field_of_view: file of a mask, outside of which the label says nothing; None: the label covers the whole image.
    """

    name: str
    image: Path
    label: Path | None
    size: tuple[int, ...]
    changed: tuple[int, ...]
    field_of_view: Path | None = None

    @property
    def files(self) -> tuple[Path | None, ...]:
        """The files, in the order of `size` and `changed`."""
        return (self.image, self.label, *([self.field_of_view] if self.field_of_view else []))


class SplitFiles(NamedTuple):
    """The files of a split.

    Attributes:
      pairs: sorted by name.
      faults: files without a partner, repeated names and missing folders.
      others: files of other names, such as those that tools leave beside the data; no faults.
    """

    pairs: list[Pair]
    faults: list[Fault]
    others: tuple[Fault, ...] = ()


class PairContent(NamedTuple):
    """The content of a pair.

    Attributes:
      image: uint8 [Y, X, 3] RGB.
      label: raw ids, uint8 or uint16 [Y, X]; `LabelRules.unlabelled_id` everywhere for an image without a label.
      counts: pixels of every raw id, int64 [values]; all 0 for an image without a label.
    """

    image: np.ndarray
    label: np.ndarray
    counts: np.ndarray


class PairImages(NamedTuple):
    """The images of a pair.

    Attributes:
      contents: name of each image -> its content. The images of a volume are its slices that show some of the brain,
        or have a label other than 0, named as "patient/087".
      frame: of the volume; None if the pair is a single image.
    """

    contents: dict[str, PairContent]
    frame: nifti.Frame | None


Files = Mapping[Path, FileState]
NameOf = Callable[[Path], str | None]


def make_pair(
    name: str, image: Path, image_state: FileState, label: Path | None = None, label_state: FileState = _NO_FILE
) -> Pair:
    """Returns a pair, given its files and their states in a listing."""
    size, changed = zip(image_state, label_state, strict=True)
    return Pair(name, image, label, size, changed)


def match_pairs(
    image_folder: Path,
    label_folder: Path | None,
    image_name: NameOf,
    label_name: NameOf,
    *,
    expected: str,
    deep: bool = False,
    labels_needed: bool = True,
) -> SplitFiles:
    """Matches the images and labels of two folders by name.

    Args:
      image_folder: of the images.
      label_folder: of the labels; None if there are none.
      image_name: returns the name of an image's pair; None if the file's name does not fit the layout.
      label_name: the same for labels.
      expected: how files are named, for messages.
      deep: whether to list subfolders too.
      labels_needed: whether an image without a label is a fault, or a pair without a label.

    Returns:
      Pairs, faults and other files. Where a folder is missing, that is the only fault and there are no pairs.
    """
    listings: list[Files] = []
    faults: list[Fault] = []
    for folder in (image_folder, label_folder):
        try:
            listings.append(file_access.list_files(folder, deep=deep) if folder else {})
        except BadFileError as error:
            faults.append(error.fault)
    if faults:
        return SplitFiles([], faults)
    images, labels = listings
    others: list[Fault] = []
    image_of = _by_name(images, image_name, expected, faults, others)
    label_of = _by_name(labels, label_name, expected, faults, others)
    pairs = []
    for name in sorted(image_of):
        image, label = image_of[name], label_of.get(name)
        if label is not None:
            pairs.append(make_pair(name, image, images[image], label, labels[label]))
        elif labels_needed:
            text = f"expected a label of the same name in {label_folder}, found none."
            faults.append(Fault("missing label", image, text))
        else:
            pairs.append(make_pair(name, image, images[image]))
    for name in sorted(label_of.keys() - image_of.keys()):
        text = f"expected an image of the same name in {image_folder}, found none."
        faults.append(Fault("missing image", label_of[name], text))
    return SplitFiles(pairs, faults, tuple(others))


def add_fields_of_view(files: SplitFiles, folder: Path, name_of: NameOf, *, expected: str) -> SplitFiles:
    """Adds to each pair the mask that shows which part of its image the camera saw.

    Args:
      files: pairs of image and label.
      folder: of the masks.
      name_of: returns the name of a mask's pair; None if the file's name does not fit the layout.
      expected: how masks are named, for messages.

    Returns:
      The pairs that have a mask, all faults and other files; no pairs where the folder is missing.
    """
    try:
        masks = file_access.list_files(folder)
    except BadFileError as error:
        return SplitFiles([], [*files.faults, error.fault], files.others)
    pairs, faults, others = [], [*files.faults], [*files.others]
    mask_of = _by_name(masks, name_of, expected, faults, others)
    for pair in files.pairs:
        if (mask := mask_of.get(pair.name)) is not None:
            size, changed = (*pair.size, masks[mask].size), (*pair.changed, masks[mask].changed)
            pairs.append(pair._replace(size=size, changed=changed, field_of_view=mask))
        else:
            text = f"expected a mask of the same name in {folder}, found none."
            faults.append(Fault("missing field of view", pair.image, text))
    return SplitFiles(pairs, faults, tuple(others))


def select_pairs(files: SplitFiles, name_of: NameOf, chosen: Collection[str]) -> SplitFiles:
    """Returns the pairs that belong to one of several splits that share folders.

    Args:
      files: of all splits.
      name_of: returns the name of a file's pair; None if the file is not of the dataset.
      chosen: names of the split's pairs.

    Returns:
      Pairs sorted by name, all faults but those of files of the other splits, and all other files.
    """
    names = {fault: name_of(fault.file) for fault in files.faults}
    return SplitFiles(
        sorted(pair for pair in files.pairs if pair.name in chosen),
        [fault for fault, name in names.items() if name is None or name in chosen],
        files.others,
    )


def join_pairs(parts: Iterable[SplitFiles]) -> SplitFiles:
    """Returns what all parts have, but no pairs where a part has none, as where a folder is missing."""
    found = list(parts)
    pairs = [pair for files in found for pair in files.pairs] if all(files.pairs for files in found) else []
    faults = [fault for files in found for fault in files.faults]
    return SplitFiles(pairs, faults, tuple(fault for files in found for fault in files.others))


def read_pair(pair: Pair, rules: LabelRules) -> PairContent:
    """Reads an image and its label, with every check that concerns this pair alone.

    Outside the field of view, the label becomes `LabelRules.unlabelled_id`.

    Args:
      pair: files; the label may be missing.
      rules: of the dataset's labels.

    Raises:
      BadFileError: a file cannot be read, holds something unexpected, or the sizes differ.
    """
    image = image_files.read_image(pair.image)
    if pair.label is None:
        label = np.full(image.shape[:2], rules.unlabelled_id, np.uint8 if rules.values == 256 else np.uint16)
        return PairContent(image, label, np.zeros(rules.values, np.int64))
    label = _read_label(pair.label, rules)
    _check_size(label, image, "label", pair.label, pair)
    if pair.field_of_view is not None:
        seen = image_files.read_label(pair.field_of_view, "binary")
        _check_size(seen, image, "field of view", pair.field_of_view, pair)
        label = np.where(seen > 0, label, label.dtype.type(rules.unlabelled_id))
    return PairContent(image, label, label_rules.count_ids(label, rules, pair.label))


def _read_label(file: Path, rules: LabelRules) -> np.ndarray:
    if rules.encoding == label_rules.COLOURS:
        return image_files.read_colours(file, rules.colours, rules.unlabelled_id)
    return image_files.read_label(file, rules.encoding)


def _check_size(pixels: np.ndarray, image: np.ndarray, what: str, file: Path, pair: Pair) -> None:
    """Raises BadFileError unless a label or a mask, [Y, X], has the size of its image."""
    if pixels.shape != image.shape[:2]:
        found = [f"{width}x{height}" for height, width in (image.shape[:2], pixels.shape)]
        text = f"the image {pair.image} has {found[0]} pixels, its {what} {found[1]}; expected the same."
        if pixels.shape == image.shape[1::-1] and image_files.is_turned(pair.image):
            text += (
                f" The image has an EXIF orientation, so that viewers turn it; its {what} fits the pixels as they are "
                f"stored. Remove the orientation from the image, or turn the {what}."
            )
        raise BadFileError("size mismatch", file, text)


def read_images(pair: Pair, rules: LabelRules) -> PairImages:
    """Reads the images of a pair: one, or the slices of a volume.

    Args:
      pair: files; a volume has a label.
      rules: of the dataset's labels.

    Raises:
      BadFileError: as for `read_pair`; also where a volume and its label lie at different places, or the volume is
        empty.
      UserError: nibabel is not installed.
    """
    if not rules.is_volume or pair.label is None:
        return PairImages({pair.name: read_pair(pair, rules)}, None)
    volume, label = nifti.read(pair.image), nifti.read_labels(pair.label)
    if label.frame.shape != volume.frame.shape:
        found = ["x".join(map(str, each.frame.shape)) for each in (volume, label)]
        text = f"the volume {pair.image} has {found[0]} voxels, its label {found[1]}; expected the same."
        raise BadFileError("size mismatch", pair.label, text)
    if not np.allclose(label.frame.affine, volume.frame.affine, atol=_SAME_PLACE):
        one, other = volume.frame.affine, label.frame.affine
        text = f"the volume {pair.image} has the affine {one}, its label {other}; expected the same."
        raise BadFileError("affine mismatch", pair.label, text)
    label_rules.expect_known(label.voxels, rules, pair.label)
    grey = slices.to_grey(volume.voxels)
    # Outside the brain both truth and prediction are background: slices without any add nothing to a score of a lesion.
    kept = slices.numbers_inside(np.maximum(grey, label.voxels))
    if not len(kept):
        raise BadFileError("damaged", pair.image, "expected a brain, found only voxels of 0.")
    contents = {}
    for z in kept.tolist():
        of_slice = slices.map_of(label.voxels, z)
        counts = np.bincount(of_slice.ravel(), minlength=rules.values)
        contents[f"{pair.name}/{z:03}"] = PairContent(slices.image_of(grey, z), of_slice, counts)
    return PairImages(contents, volume.frame)


def _by_name(
    group: Iterable[Path], name_of: NameOf, expected: str, faults: list[Fault], others: list[Fault]
) -> dict[str, Path]:
    """Returns name -> file; files whose name occurs twice are added to the faults, of other names to the others."""
    found: dict[str, Path] = {}
    for file in group:
        name = name_of(file)
        if name is None:
            others.append(Fault("odd name", file, f"expected {expected}."))
        elif name in found:
            faults.append(Fault("odd name", file, f"it has the same name as {found[name]}; expected different names."))
        else:
            found[name] = file
    return found
