"""Labels images of any size with a trained segmenter."""

import functools
import os
from pathlib import Path
from typing import Protocol

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ass_jax.class_table import ClassTable
from ass_jax.method import views
from ass_jax.method.state import Variables
from ass_jax.models.preprocess import normalise
from ass_jax.ops import interpolation_matrix
from ass_jax.runtime.console import say
from ass_jax.weights.export import PROGRAM_SUFFIX
from ass_jax.weights.files import SUFFIXES, WeightFileError, expect_file
from ass_jax.weights.pretrained import open_weights
from ass_jax.weights.trained_model import Trained, open_description, open_foreign, open_run

# Largest block of the label map that is computed at once, so that images of any size need little memory.
_ROWS, _PIXELS = 256, 2**19


class ImageLabeller(Protocol):
    """Labels single images of any size.

    Attributes:
      names: of the C classes.
      palette: their colours, uint8 [C, 3].
    """

    names: tuple[str, ...]
    palette: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the label map, uint8 [Y, X], of an image, uint8 [Y, X, 3] RGB."""

    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label map and the probability of each label, float32 [Y, X]."""


class Predictor:
    """Labels single images as evaluation does: it resizes them to the size of training, and the scores back.

    Where evaluation averages the probabilities of several views, so does this, at the size of training.

    predictor = Predictor(open_run("runs/toy"))
    labels = predictor(image)
    """

    def __init__(self, trained: Trained, settings: ConfigDict | None = None):
        """Moves the weights to the device.

        Args:
          trained: see `ass_jax.weights.trained_model`.
          settings: `config.evaluation`, for its views; default: those of the training.
        """
        self.names, self.palette = trained.names, trained.palette
        self._size = tuple(trained.config.data.target_size)
        self._variables = jax.device_put(trained.variables)
        settings = trained.config.evaluation if settings is None else settings
        network, config = trained.networks.segmenter, trained.config
        self._single = views.is_single(self._size, settings)

        @jax.jit
        def scores(variables: Variables, images: jax.Array) -> jax.Array:
            def logits(images: jax.Array) -> jax.Array:
                return network.apply(variables, normalise(images, config), train=False)[1]

            return views.scores(logits, images, settings)

        self._scores = scores

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the label map, uint8 [Y, X], of an image, uint8 [Y, X, 3] RGB.

        Raises:
          ValueError: the image has another type or shape.
        """
        return self.with_confidence(image)[0]

    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label map, uint8 [Y, X], and the probability of each label, float32 [Y, X], of an image.

        Raises:
          ValueError: the image is not uint8 [Y, X, 3].
        """
        _expect_image(image)
        height, width = image.shape[:2]
        resized = Image.fromarray(image).resize(self._size[::-1], Image.Resampling.BILINEAR)
        scores = self._scores(self._variables, np.asarray(resized)[None])
        stretched = _stretch(scores, interpolation_matrix(scores.shape[2], width))
        count = min(_ROWS, max(1, _PIXELS // width))
        rows = interpolation_matrix(scores.shape[1], height)
        rows = np.pad(rows, ((0, -height % count), (0, 0)))  # All blocks of all heights share one program.
        blocks = [
            _label_rows(stretched, rows[start : start + count], logits=self._single)
            for start in range(0, height, count)
        ]
        labels, confidence = (np.concatenate(maps)[:height] for maps in zip(*jax.device_get(blocks), strict=True))
        return labels, confidence


class ProgramPredictor:
    """Labels single images with a program that `ass_jax.weights.export` wrote; used like `Predictor`."""

    def __init__(self, path: str | os.PathLike, class_table: ClassTable):
        """Reads the program; `class_table` has the `names` and `palette` of its classes.

        Raises:
          WeightFileError: the file is not such a program.
        """
        self.names, self.palette = tuple(class_table.names), class_table.palette
        try:
            content = bytearray(Path(path).read_bytes())
            self._call = jax.jit(jax.export.deserialize(content).call)  # Compiled once for each size of images.
        except Exception as error:  # Of many kinds, because nothing validates the bytes.
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise WeightFileError(
                f"{path}: damaged, or not a program of ass_jax.weights.export ({reason:.100})."
            ) from error

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the label map, as `Predictor` does."""
        return self.with_confidence(image)[0]

    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label map and the probability of each label, as `Predictor` does."""
        _expect_image(image)
        labels, confidence = self._call(image[None])
        return np.asarray(labels)[0], np.asarray(confidence)[0]


def open_predictor(weights: str | os.PathLike, config: ConfigDict, class_table: ClassTable) -> ImageLabeller:
    """Opens a run, a weight file or an exported program to label images with.

    Args:
      weights: working directory of a run, or a file of any kind that `ass_jax.weights.pretrained` or
        `ass_jax.weights.export` supports.
      config: the whole configuration. A run and a `.safetensors` export have their own, of which all is used but the
        views of `config.evaluation`.
      class_table: `names` and `palette`, for weights without their own.

    Raises:
      UserError: the weights are missing or do not fit; the message says why.
    """
    weights = Path(weights)
    if not weights.exists():
        raise WeightFileError(f"{weights}: expected the working directory of a run or a weight file, found nothing.")
    if weights.is_dir():
        return _with_views_of(config, open_run(weights))
    suffix = weights.suffix.lower()
    if suffix == PROGRAM_SUFFIX:
        expect_file(weights)
        return ProgramPredictor(weights, class_table)
    if suffix not in SUFFIXES:
        raise WeightFileError(
            f"{weights}: unknown kind of weights. Expected one of {', '.join((*SUFFIXES, PROGRAM_SUFFIX))}."
        )
    pretrained = open_weights(weights)
    described = open_description(pretrained)
    return _with_views_of(config, described or open_foreign(pretrained, config, class_table))


def _with_views_of(config: ConfigDict, trained: Trained) -> Predictor:
    """Returns a predictor with the views of `config`, and says which ones the training had if those are others."""
    ours, theirs = (views.arguments(settings.evaluation) for settings in (config, trained.config))
    changed = [
        f"evaluation.{name} {ours[name]} instead of {theirs[name]}" for name in ours if ours[name] != theirs[name]
    ]
    if changed:
        say(f"Labelling with other views than the evaluations of the training: {'; '.join(changed)}.")
    return Predictor(trained, config.evaluation)


def _expect_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"Expected an image uint8 [Y, X, 3], found {image.dtype} {list(image.shape)}.")


@jax.jit
def _stretch(scores: jax.Array, columns: jax.Array) -> jax.Array:
    """Interpolates scores [1, h, w, C] to all columns of the image by a matrix [X, w]: [h, X, C]."""
    return jnp.einsum("Ww,hwk->hWk", columns, scores[0], precision="highest")


@functools.partial(jax.jit, static_argnames="logits")
def _label_rows(stretched: jax.Array, rows: jax.Array, *, logits: bool) -> tuple[jax.Array, jax.Array]:
    """Interpolates stretched scores [h, X, C] to N rows of the image by a matrix [N, h]: labels, confidence [N, X]."""
    scores = jnp.einsum("Hh,hWk->HWk", rows, stretched, precision="highest")
    probabilities = jax.nn.softmax(scores) if logits else scores
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8), jnp.max(probabilities, axis=-1)
