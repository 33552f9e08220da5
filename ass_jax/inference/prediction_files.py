"""Predictions as files: of a scored split, and of a user's own images."""

import collections
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from PIL import Image

from ass_jax import visualization
from ass_jax.class_table import ClassTable, class_outside
from ass_jax.inference.image_files import (
    SUFFIXES,
    VOLUME_ENDINGS,
    UnreadableImageError,
    is_volume,
    output_names,
    read_image,
)
from ass_jax.inference.predictor import ImageLabeller
from ass_jax.runtime.console import progress
from ass_jax.runtime.workdir import make_folder, shortened, writing
from configs.user_error import UserError

_THREADS = 4
_MOST_WAITING = 32  # Predictions that wait for a thread; more would fill the memory.
_OVERLAY_SHARE = 0.5  # Of the class colours in the overlay.


class PredictionFiles:
    """Writes the predictions of a split in threads while the devices work; a context manager.

    The folder `path` gets 8-bit greyscale PNGs of raw ids, the numbers in the dataset's own label files; for the
    classes of Cityscapes, its test server accepts them. The folder `path` + "_color" gets the same predictions as
    palette PNGs of train ids, which viewers show in the colours of the classes.
    """

    def __init__(self, path: Path, class_table: ClassTable):
        """Makes the folders.

        Args:
          path: folder of the raw ids; the other folder lies beside it.
          class_table: `palette` uint8 `[C, 3]`, and `raw_ids` of the `C` classes or None: the train ids themselves.

        Raises:
          UserError: the folders cannot be made.
        """
        self.path, self.color_path = path, path.with_name(f"{path.name}_color")
        for folder in (self.path, self.color_path):
            make_folder(folder)
        self.count = 0
        self._palette = class_table.palette
        raw_ids = class_table.raw_ids
        self._raw_ids = np.arange(len(self._palette)) if raw_ids is None else np.asarray(raw_ids)
        self._names: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "prediction_files")
        self._waiting: collections.deque[Future] = collections.deque()

    def add(self, name: str, prediction: np.ndarray) -> None:
        """Takes one prediction.

        Args:
          name: of the image, see `file_name`. The number of the image replaces a name that gives no file name.
          prediction: train ids `[Y, X]`, which must not change afterwards.

        Raises:
          UserError: another image has the same file name, or an earlier prediction could not be written.
        """
        number = self.count * jax.process_count() + jax.process_index()
        file = file_name(name) or f"{number:06}.png"
        if file in self._names:
            raise UserError(
                f"The predictions of the images {self._names[file]!r} and {name!r} would both be the file {file}; "
                "expected names that differ in their letters, digits, '-' and '.'."
            )
        self._names[file] = name
        self.count += 1
        while len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._threads.submit(self._write, file, prediction))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Waits until all files are written; raises the first failure unless another error is being raised."""
        self._threads.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()

    def _write(self, file: str, prediction: np.ndarray) -> None:
        with writing(self.path / file):
            visualization.save_picture(self.path / file, self._raw_ids[prediction].astype(np.uint8))
            visualization.save_prediction(self.color_path / file, prediction, self._palette)


def file_name(name: str) -> str:
    """Returns a file name without folders for an image's name; empty if no character of the name can be used.

    Folders become a part of the file name, unless the next part begins with them anyway: `aachen/aachen_000000_000019`
    gives `aachen_000000_000019.png`, the name that Cityscapes' test server expects. Characters other than letters,
    digits, "-", "_" and "." become "_", and dots at the beginning of a part are dropped, so that no name leads out of
    its folder. Names that file systems do not take are shortened, see `ass_jax.runtime.workdir.shortened`.
    """
    parts = [re.sub(r"[^\w.-]", "_", part).lstrip(".") for part in re.split(r"[/\\]", name)]
    parts = [part for part in parts if part]
    pairs = zip(parts, [*parts, ""][1:], strict=True)
    used = [part for part, following in pairs if not following.startswith(f"{part}_")]
    return f"{shortened('_'.join(used))}.png" if used else ""


class VolumeFormat(NamedTuple):
    """How volumes are read as slices, and written.

    Attributes:
      read: returns the frame of a volume, whose `shape` is (X, Y, Z), and the images, uint8 [Y, X, 3], of those slices
        that show something, by number; raises UnreadableImageError.
      write: writes a volume, uint8 [X, Y, Z], given its file, its voxels and a frame.
    """

    read: Callable[[Path], tuple[Any, Mapping[int, np.ndarray]]]
    write: Callable[[Path, np.ndarray, Any], None]


def older_results(inputs: Sequence[Path], output: Path) -> list[Path]:
    """Returns the results of earlier predictions that are in the place of those of `inputs`, in their order."""
    return [file for path, name in _named(inputs) for file in _results(path, name, output) if file.is_file()]


def predict_files(
    predictor: ImageLabeller,
    inputs: Sequence[Path],
    output: Path,
    confidence: bool = False,
    volumes: VolumeFormat | None = None,
) -> list[str]:
    """Writes the label map of every image as a palette PNG and as an overlay on the image; prints its progress.

    The labels of a volume are written as a volume, without an overlay.

    Args:
      predictor: labels the images.
      inputs: image files of any format that Pillow reads, and volumes.
      output: folder of `NAME.png`, `NAME_overlay.png` and, with `confidence`, `NAME_confidence.png` (255: certain).
      confidence: whether to write the last one.
      volumes: reads and writes volumes; None: there are none.

    Returns:
      A line with the reason for each file that could not be read, and with its older results, which stay. All other
      files are done.

    Raises:
      UserError: a result would replace one of the images, or cannot be written.
    """
    named = _named(inputs)
    results = {file.resolve() for path, name in named for file in _results(path, name, output)}
    for path in inputs:
        if path.resolve() in results:
            raise UserError(f"{path} would be replaced by a result. Choose another output folder than {output}.")
    make_folder(output)
    failures = []
    for path, name in progress(named, "images"):
        try:
            if volumes and is_volume(path):
                _label_volume(predictor, path, output / name, confidence, volumes)
                continue
            image = read_image(path)
        except UnreadableImageError as error:
            older = ", ".join(file.name for file in _results(path, name, output) if file.is_file())
            failures.append(f"{error}" + (f" Results of an earlier prediction stay: {older}." if older else ""))
        else:
            with writing(output / f"{name}.png"):
                _write_results(predictor, image, output / name, confidence)
    return failures


def _named(inputs: Sequence[Path]) -> list[tuple[Path, str]]:
    """Returns each input with the name of its results."""
    return list(zip(inputs, map(shortened, output_names(inputs)), strict=True))


def _results(path: Path, name: str, output: Path) -> list[Path]:
    """Returns the files that results of an input may have."""
    ending = VOLUME_ENDINGS[0] if is_volume(path) else ".png"
    return [output / f"{name}{suffix}{ending}" for suffix in SUFFIXES]


def _label_volume(predictor: ImageLabeller, path: Path, place: Path, confidence: bool, volumes: VolumeFormat) -> None:
    """Labels a volume and writes the results; `place` is their path without suffix and ending."""
    frame, images = volumes.read(path)
    labels, certainty = (
        np.full(frame.shape, value, np.uint8) for value in (class_outside(predictor.names), 255)
    )  # Of the slices that show nothing.
    for number, image in images.items():
        of_slice, probabilities = predictor.with_confidence(image)
        labels[:, :, number] = of_slice.T
        certainty[:, :, number] = np.round(255 * probabilities).T
    for suffix, voxels in (("", labels), (SUFFIXES[2], certainty))[: 1 + confidence]:
        file = place.with_name(f"{place.name}{suffix}{VOLUME_ENDINGS[0]}")
        with writing(file):
            volumes.write(file, voxels, frame)


def _write_results(predictor: ImageLabeller, image: np.ndarray, place: Path, confidence: bool) -> None:
    """Writes the results of one image; `place` is their path without suffix and ending."""
    label_map, overlay, certainty = (place.with_name(f"{place.name}{suffix}.png") for suffix in SUFFIXES)
    labels, probabilities = predictor.with_confidence(image)
    visualization.save_prediction(label_map, labels, predictor.palette)
    colours = Image.fromarray(visualization.colourise(labels, predictor.palette))
    visualization.save_picture(overlay, np.asarray(Image.blend(Image.fromarray(image), colours, _OVERLAY_SHARE)))
    if confidence:
        visualization.save_picture(certainty, np.round(255 * probabilities).astype(np.uint8))
