"""Image files and volumes of a user: finding them, reading them, and naming their results."""

import collections
import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from configs.user_error import UserError

SUFFIXES = ("", "_overlay", "_confidence")  # Of the results of an image, before the ending.
VOLUME_ENDINGS = (".nii.gz", ".nii")  # NIfTI.


class UnreadableImageError(UserError):
    """A file cannot be read as an image."""


def find_images(pattern: str) -> list[Path]:
    """Returns the image files and volumes that a path, a folder (without its subfolders) or a glob names, sorted.

    Raises:
      UserError: there are none.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = [file for file in path.iterdir() if file.suffix.lower() in endings or is_volume(file)]
        found = [file for file in found if file.is_file()]
    else:
        found = [file for name in glob.glob(pattern, recursive=True) if (file := Path(name)).is_file()]
    if not found:
        raise UserError(
            f"No images at {pattern!r}: expected an image, a folder of images or a glob such as 'in/*.jpg'."
        )
    return sorted(found)


def is_volume(path: Path) -> bool:
    """Returns whether a file is a volume, by its name."""
    return path.name.lower().endswith(VOLUME_ENDINGS)


def read_image(path: Path) -> np.ndarray:
    """Reads an image of any format and depth that Pillow reads, upright: uint8 [Y, X, 3] RGB.

    Raises:
      UnreadableImageError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I") or image.mode == "F":
                # Pillow would clip at 255 instead of scaling.
                return np.repeat(_to_uint8(np.asarray(image))[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise many kinds for damaged files.
        raise UnreadableImageError(f"{path}: cannot be read as an image ({error}).") from error


def output_names(inputs: Sequence[Path]) -> list[str]:
    """Returns a name for the results of every input, such that no two of their files have the same name.

    The name is that of the input without its ending. Inputs whose names clash, and no others, keep the ending; those
    that still clash also get their folders below the common one; and those that clash even then get a number.
    """
    common = os.path.commonpath([path.parent.absolute() for path in inputs]) if inputs else ""
    choices = [(_stem(path), path.name, "_".join(path.absolute().relative_to(common).parts)) for path in inputs]
    levels = [0] * len(inputs)
    while True:
        names = [choice[level] for choice, level in zip(choices, levels, strict=True)]
        clashing = _clashing(names)
        movable = [place for place in clashing if levels[place] < 2]
        if not movable:
            break
        for place in movable:
            levels[place] += 1
    taken = {file for place, name in enumerate(names) if place not in clashing for file in _result_files(name)}
    for place in sorted(clashing):
        numbered = (f"{names[place]}_{number}" for number in itertools.count(1))
        names[place] = next(name for name in numbered if not _result_files(name) & taken)
        taken |= _result_files(names[place])
    return names


def _stem(path: Path) -> str:
    """Returns the name of a file without its ending, or both of them, as of `brain.nii.gz`."""
    return Path(path.stem).stem if path.name.lower().endswith(VOLUME_ENDINGS[0]) else path.stem


def _clashing(names: Sequence[str]) -> set[int]:
    """Returns the indices of the names that share a result file with another name."""
    count = collections.Counter(file for name in names for file in _result_files(name))
    return {place for place, name in enumerate(names) if any(count[file] > 1 for file in _result_files(name))}


def _result_files(name: str) -> set[str]:
    # Some file systems do not distinguish capitals from small letters.
    return {f"{name}{suffix}".casefold() for suffix in SUFFIXES}


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scales 16-bit grey values [Y, X] from 65535, or floating-point values from their maximum, to 255."""
    largest = 65535 if np.issubdtype(pixels.dtype, np.integer) else max(float(pixels.max()), 1e-9)
    return np.round(pixels / largest * 255).clip(0, 255).astype(np.uint8)
