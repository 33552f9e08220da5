"""Labels images of any size: `Predictor` for notebooks, `predict_files` for `--mode=predict`."""

import collections
import glob
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from ass_jax import visualization
from ass_jax.models.preprocess import normalise
from ass_jax.ops import interpolation_matrix
from ass_jax.runtime.console import format_seconds
from ass_jax.weights.files import SUFFIXES, WeightFileError
from ass_jax.weights.pretrained import open_weights
from ass_jax.weights.trained_model import Trained, open_description, open_foreign, open_run

_ROWS, _PIXELS = 256, 2**19  # Of the label map, at most at a time: an image of any size takes little memory.
_SUFFIXES = ("", "_overlay", "_confidence")  # Of the files of an image, before the ending.
_PROGRAM = ".jaxexport"
_OVERLAY = 0.5  # Share of the class colours.
_TELL_EVERY = 5.0  # Seconds between lines of progress.


class Predictor:
    """Labels single images as evaluation does: resized to the size of training, scores brought back to theirs.

    predictor = Predictor(open_run("runs/toy"))
    labels = predictor(image)
    """

    def __init__(self, trained: Trained):
        """Moves the weights to the device.

        Args:
          trained: of `ass_jax.weights.trained_model`.
        """
        self.names, self.palette = trained.names, trained.palette
        self._size = tuple(trained.config.data.target_size)
        self._variables = jax.device_put(trained.variables)
        network, config = trained.networks.segmenter, trained.config
        self._logits = jax.jit(lambda variables, images: network.apply(variables, normalise(images, config), False)[1])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the label map, uint8 [Y, X], of an image uint8 [Y, X, 3] RGB.

        Raises:
          ValueError: the image is of another type or shape.
        """
        return self.with_confidence(image)[0]

    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label map and the probability of each label, float32 [Y, X]; otherwise as `__call__`."""
        _check_image(image)
        height, width = image.shape[:2]
        resized = Image.fromarray(image).resize(self._size[::-1], Image.Resampling.BILINEAR)
        logits = self._logits(self._variables, np.asarray(resized)[None])
        stretched = _stretch(logits, interpolation_matrix(logits.shape[2], width))
        count = min(_ROWS, max(1, _PIXELS // width))
        rows = interpolation_matrix(logits.shape[1], height)
        rows = np.pad(rows, ((0, -height % count), (0, 0)))  # One program for all blocks and heights.
        blocks = [_label_rows(stretched, rows[start : start + count]) for start in range(0, height, count)]
        labels, confidence = (np.concatenate(maps)[:height] for maps in zip(*jax.device_get(blocks), strict=True))
        return labels, confidence


class ProgramPredictor:
    """As `Predictor`, for a program that `ass_jax.weights.export` wrote."""

    def __init__(self, path: str | os.PathLike, class_table: Any):
        """Reads the program; `class_table` has the `names` and `palette` of its classes.

        Raises:
          WeightFileError: the file is not such a program.
        """
        self.names, self.palette = class_table.names, class_table.palette
        content = bytearray(Path(path).read_bytes())
        try:
            self._call = jax.jit(jax.export.deserialize(content).call)  # Compiled once for each size of images.
        except Exception as error:  # Of many kinds, as the bytes are not checked.
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise WeightFileError(f"{path}: not a whole program of ass_jax.weights.export ({reason:.100}).") from error

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the label map, as `Predictor` does."""
        return self.with_confidence(image)[0]

    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label map and the probability of each label, as `Predictor` does."""
        _check_image(image)
        labels, confidence = self._call(image[None])
        return np.asarray(labels)[0], np.asarray(confidence)[0]


def open_predictor(weights: str | os.PathLike, config: ConfigDict, class_table: Any) -> Predictor | ProgramPredictor:
    """Returns what labels images with the weights of a run, a weight file or an exported program.

    Args:
      weights: working directory of a run, or a file of any kind that `ass_jax.weights.pretrained` or
        `ass_jax.weights.export` know.
      config: the whole configuration; a run and a `.safetensors` export bring their own.
      class_table: `names` and `palette`, where the weights do not bring their own.

    Raises:
      FileNotFoundError, ValueError: the weights are missing or do not fit; the message says why.
    """
    weights = Path(weights)
    if not weights.exists():
        raise FileNotFoundError(f"{weights}: expected the working directory of a run or a weight file, found nothing.")
    if weights.is_dir():
        return Predictor(open_run(weights))
    suffix = weights.suffix.lower()
    if suffix == _PROGRAM:
        return ProgramPredictor(weights, class_table)
    if suffix not in SUFFIXES:
        raise WeightFileError(
            f"{weights}: unknown kind of weights. Expected one of {', '.join((*SUFFIXES, _PROGRAM))}."
        )
    pretrained = open_weights(weights)
    described = open_description(pretrained)
    return Predictor(described or open_foreign(pretrained, config, class_table))


def predict_files(
    predictor: Predictor | ProgramPredictor, inputs: Sequence[Path], output: Path, confidence: bool = False
) -> list[str]:
    """Writes the label map of every image as a palette PNG, and one laid over the image; shows its progress.

    Args:
      predictor: labels the images.
      inputs: image files of any format that Pillow reads.
      output: folder of `NAME.png`, `NAME_overlay.png` and, if wanted, `NAME_confidence.png` (255: certain).
      confidence: whether the last one is wanted.

    Returns:
      A line for each file that could not be read, with the reason; the others are done.

    Raises:
      ValueError: a result would replace one of the images.
    """
    names = output_names(inputs)
    written = {(output / f"{name}{suffix}.png").resolve() for name in names for suffix in _SUFFIXES}
    for path in inputs:
        if path.resolve() in written:
            raise ValueError(f"{path} would be replaced by a result. Choose another output folder than {output}.")
    output.mkdir(parents=True, exist_ok=True)
    failures, begun, told = [], time.monotonic(), 0.0
    for number, (path, name) in enumerate(zip(inputs, names, strict=True), start=1):
        try:
            image = read_image(path)
        except ValueError as error:
            failures.append(str(error))
        else:
            _label_file(predictor, image, output / name, confidence)
        elapsed = time.monotonic() - begun
        if elapsed - told > _TELL_EVERY or number == len(inputs):
            left = format_seconds(elapsed / number * (len(inputs) - number))
            print(f"{number}/{len(inputs)} images  {number / elapsed:.1f} images/s  {left} left", flush=True)
            told = elapsed
    return failures


def _label_file(predictor: Predictor | ProgramPredictor, image: np.ndarray, place: Path, confidence: bool) -> None:
    """Writes the files of one image, whose names begin as that of `place`."""
    labels, certainty = predictor.with_confidence(image)
    visualization.save_prediction(place.with_name(f"{place.name}.png"), labels, predictor.palette)
    colours = Image.fromarray(visualization.colourise(labels, predictor.palette))
    overlay = Image.blend(Image.fromarray(image), colours, _OVERLAY)
    visualization.save_picture(place.with_name(f"{place.name}_overlay.png"), np.asarray(overlay))
    if confidence:
        grey = np.round(255 * certainty).astype(np.uint8)
        visualization.save_picture(place.with_name(f"{place.name}_confidence.png"), grey)


def find_images(pattern: str) -> list[Path]:
    """Returns the image files that a path, a folder (not what lies deeper) or a glob names, sorted.

    Raises:
      FileNotFoundError: there are none.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = [file for file in path.iterdir() if file.suffix.lower() in endings and file.is_file()]
    else:
        found = [file for name in glob.glob(pattern, recursive=True) if (file := Path(name)).is_file()]
    if not found:
        raise FileNotFoundError(
            f"No images at {pattern!r}: expected an image, a folder of images or a glob such as 'in/*.jpg'."
        )
    return sorted(found)


def output_names(inputs: Sequence[Path]) -> list[str]:
    """Returns a name for the results of every input, so that no two files of theirs have the same.

    It is the input's own without the ending. Those that clash, and no others, take theirs with it; where that clashes
    too, behind their folders below the common one; and as a last resort with a number, counted for each such name.
    """
    common = os.path.commonpath([path.parent.absolute() for path in inputs]) if inputs else ""
    choices = [(path.stem, path.name, "_".join(path.absolute().relative_to(common).parts)) for path in inputs]
    levels = [0] * len(inputs)
    while True:
        names = [choice[level] for choice, level in zip(choices, levels, strict=True)]
        clashing = _clashing(names)
        movable = [place for place in clashing if levels[place] < 2]
        if not movable:
            break
        for place in movable:
            levels[place] += 1
    taken = {file for place, name in enumerate(names) if place not in clashing for file in _files(name)}
    for place in sorted(clashing):
        numbered = (f"{names[place]}_{number}" for number in itertools.count(1))
        names[place] = next(name for name in numbered if not _files(name) & taken)
        taken |= _files(names[place])
    return names


def _clashing(names: Sequence[str]) -> set[int]:
    """Returns the places of the names that share a file with another one."""
    count = collections.Counter(file for name in names for file in _files(name))
    return {place for place, name in enumerate(names) if any(count[file] > 1 for file in _files(name))}


def _files(name: str) -> set[str]:
    # Some file systems do not tell capitals from small letters.
    return {f"{name}{suffix}".casefold() for suffix in _SUFFIXES}


def read_image(path: Path) -> np.ndarray:
    """Reads an image of any format and depth that Pillow reads, upright: uint8 [Y, X, 3] RGB.

    Raises:
      ValueError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":
                # Pillow would cut off at 255 instead of scaling.
                return np.repeat(_to_uint8(np.asarray(image))[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise all kinds for damaged files.
        raise ValueError(f"{path}: cannot be read as an image ({error}).") from error


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scales grey values [Y, X] of 16 bits, or floating-point ones by their largest, to 0..255."""
    largest = 65535 if np.issubdtype(pixels.dtype, np.integer) else max(float(pixels.max()), 1e-9)
    return np.round(pixels / largest * 255).clip(0, 255).astype(np.uint8)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"Expected an image uint8 [Y, X, 3], found {image.dtype} {list(image.shape)}.")


@jax.jit
def _stretch(logits: jax.Array, columns: jax.Array) -> jax.Array:
    """Brings logits [1, h, w, C] to all columns [X, w] of the image: [h, X, C]."""
    return jnp.einsum("Ww,hwk->hWk", columns, logits[0], precision="highest")


@jax.jit
def _label_rows(stretched: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Brings stretched logits [h, X, C] to some rows [N, h] of the image: labels and confidence [N, X]."""
    scores = jnp.einsum("Hh,hWk->HWk", rows, stretched, precision="highest")
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8), jnp.max(jax.nn.softmax(scores), axis=-1)
