"""NIfTI files: volumes of voxels [X, Y, Z] and their place in the patient. Needs nibabel, imported on first use."""

import gzip
import io
import types
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.user_error import UserError
from data.raw import file_access
from data.raw.faults import BadFileError

ENDINGS = (".nii.gz", ".nii")
# A gzip file of a megabyte can hold a gigabyte: more than this is no volume of a patient.
_MOST_BYTES = 2**30


class Frame(NamedTuple):
    """Where the voxels of a volume lie.

    Attributes:
      shape: X, Y, Z.
      affine: 4 rows of 4 numbers, from voxel indices to millimetres.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]


class Volume(NamedTuple):
    """The content of a file.

    Attributes:
      voxels: numbers [X, Y, Z], all finite.
      frame: where they lie.
    """

    voxels: np.ndarray
    frame: Frame


def read(file: Path) -> Volume:
    """Reads a volume.

    Args:
      file: `.nii` or `.nii.gz`.

    Raises:
      BadFileError: it cannot be read, is cut off, is no volume of three dimensions, or holds NaN or infinity.
      UserError: nibabel is not installed.
    """
    image = _open(file)
    try:
        voxels = np.asanyarray(image.dataobj)
    except (OSError, ValueError) as error:
        text = f"the NIfTI file is cut off or damaged ({error}); unpack or download it again."
        raise BadFileError("damaged", file, text) from error
    if bad := np.count_nonzero(~np.isfinite(voxels)):
        raise BadFileError("not finite", file, f"{bad} of {voxels.size} voxels are NaN or infinite; expected numbers.")
    return Volume(voxels, Frame(voxels.shape, tuple(map(tuple, image.affine.tolist()))))


def read_labels(file: Path) -> Volume:
    """Reads a volume of raw ids; its voxels are uint8.

    Raises:
      BadFileError: as for `read`, or a voxel is no whole number of 0 to 255.
      UserError: nibabel is not installed.
    """
    voxels, frame = read(file)
    labels = voxels.astype(np.uint8)
    if not np.array_equal(labels, voxels):
        text = f"expected whole numbers of 0 to 255, found also {voxels[labels != voxels][0]}. Get the original label."
        raise BadFileError("unknown ids", file, text)
    return Volume(labels, frame)


def write(file: Path, voxels: np.ndarray, frame: Frame) -> None:
    """Writes voxels [X, Y, Z] in their own type, such as the labels of the volume that `frame` is of.

    Raises:
      OSError: the file cannot be written.
      UserError: nibabel is not installed.
    """
    _nibabel().Nifti1Image(voxels, np.array(frame.affine)).to_filename(file)


def describe(file: Path) -> str:
    """Returns format, size and type of the voxels, such as "NIfTI, 240x240x155 of int16".

    Raises:
      BadFileError: the file cannot be read, or is no volume.
      UserError: nibabel is not installed.
    """
    image = _open(file)
    return f"NIfTI, {'x'.join(map(str, image.shape))} of {image.get_data_dtype()}"


def _open(file: Path) -> Any:
    """Returns nibabel's image of a volume, whose voxels are not read yet."""
    nibabel = _nibabel()
    content = file_access.read_bytes(file)
    try:
        if file.suffix == ".gz":
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(_MOST_BYTES)
        image = nibabel.Nifti1Image.from_bytes(content)
    except (EOFError, OSError, zlib.error) as error:
        text = f"the gzip file is cut off or damaged ({error}); unpack or download it again."
        raise BadFileError("damaged", file, text) from error
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, ValueError) as error:
        raise BadFileError("damaged", file, f"expected a NIfTI file, found another one ({error}).") from error
    kind = image.get_data_dtype()
    if len(image.shape) != 3 or 0 in image.shape or kind.kind not in "iuf":
        found = f"{'x'.join(map(str, image.shape))} of {kind}"
        raise BadFileError("damaged", file, f"expected a volume of numbers in three dimensions, found {found}.")
    if np.prod(image.shape, dtype=float) * kind.itemsize > len(content):  # Before memory is taken for all of them.
        raise BadFileError("damaged", file, "the NIfTI file is cut off; unpack or download it again.")
    return image


def _nibabel() -> types.ModuleType:
    try:
        import nibabel
    except ImportError as error:
        raise UserError('NIfTI files need the package nibabel: pip install -e ".[nifti]".') from error
    return nibabel
