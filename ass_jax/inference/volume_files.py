"""Predictions of the slices of volumes, as one file a volume.

Slices that show nothing of the brain are not labelled; they are background.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import jax
import numpy as np

from ass_jax import visualization
from ass_jax.class_table import ClassTable, class_outside
from ass_jax.inference.prediction_files import file_name
from ass_jax.runtime.workdir import make_folder, writing
from configs.user_error import UserError


class Frame(Protocol):
    """Where the voxels of a volume lie."""

    @property
    def shape(self) -> tuple[int, int, int]: ...  # noqa: D102


class Volumes(Protocol):
    """The volumes of a pass over their slices.

    Attributes:
      of_images: name of the volume of each image, in the order of the pass. An image has the name "volume/087".
      frames: name of a volume -> its frame.
    """

    @property
    def of_images(self) -> list[str]: ...  # noqa: D102

    @property
    def frames(self) -> Mapping[str, Frame]: ...  # noqa: D102

    def write(self, name: str, folder: Path, file_name: str, labels: np.ndarray) -> Path:
        """Writes the labels of a volume, uint8 [X, Y, Z], into a folder; returns the file."""


class VolumeFiles:
    """Writes the predictions of a split, a file a volume; a context manager."""

    def __init__(self, path: Path, class_table: ClassTable, volumes: Volumes):
        """Makes the folder.

        Args:
          path: folder of the files.
          class_table: `names` and `raw_ids` of the classes.
          volumes: of the slices.

        Raises:
          UserError: the folder cannot be made, or several processes would each have a part of the slices.
        """
        if jax.process_count() > 1:
            raise UserError(
                f"Predictions of volumes are written by one process, but {jax.process_count()} are running. Start "
                "--mode=eval in a single one."
            )
        self.path, self.count = path, 0
        make_folder(path)
        raw_ids = class_table.raw_ids
        self._raw_ids = np.arange(len(class_table.names)) if raw_ids is None else np.asarray(raw_ids)
        self._outside = self._raw_ids[class_outside(class_table.names)]
        self._volumes = volumes
        self._name, self._labels = "", np.zeros((0, 0, 0), np.uint8)

    def add(self, name: str, prediction: np.ndarray) -> None:
        """Takes the prediction of a slice; slices of a volume come one after the other.

        Args:
          name: of the slice, such as "volume/087".
          prediction: train ids `[Y, X]`.

        Raises:
          UserError: the volume before it cannot be written.
        """
        volume, _, number = name.rpartition("/")
        if volume != self._name:
            self._write()
            shape = self._volumes.frames[volume].shape
            self._name, self._labels = volume, np.full(shape, self._outside, np.uint8)
        columns, rows = self._labels.shape[:2]
        # Held-out and source labels have the size of training.
        labels = visualization.resize_nearest(prediction, (rows, columns))
        self._labels[:, :, int(number)] = self._raw_ids[labels].T
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Writes the last volume unless an error is being raised."""
        if kind is None:
            self._write()

    def _write(self) -> None:
        if self._name:
            file = file_name(self._name).removesuffix(".png")
            with writing(self.path / file):
                self._volumes.write(self._name, self.path, file, self._labels)
