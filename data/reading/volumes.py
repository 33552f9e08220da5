"""The volumes whose slices are the images of a pass: by them, slices are scored and predictions written."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.preparation.split_index import volume_of
from data.raw import nifti
from data.reading.split_reader import Split


@dataclasses.dataclass(frozen=True)
class Volumes:
    """The volumes of a pass over images.

    Attributes:
      of_images: the volume of each image, in the order of the pass.
      frames: name of a volume -> its shape [X, Y, Z] and affine.
    """

    of_images: Sequence[str]
    frames: Mapping[str, nifti.Frame]

    def write(self, name: str, folder: Path, file_name: str, labels: np.ndarray) -> Path:
        """Writes labels of the volume `name`, uint8 [X, Y, Z], as NIfTI with its affine; returns the file.

        Raises:
          OSError: it cannot be written.
          UserError: nibabel is not installed.
        """
        file = folder / f"{file_name}{nifti.ENDINGS[0]}"
        nifti.write(file, labels, self.frames[name])
        return file


def volumes_of(split: Split, chosen: np.ndarray) -> Volumes | None:
    """Returns the volumes of a pass over the images `chosen` (indices, int64 [N]); None if they are no slices."""
    frames, names = split.frames(), split.names()
    return Volumes([volume_of(names[index]) for index in chosen], frames) if frames else None
