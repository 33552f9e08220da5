"""Batches of random images and labels for benchmarks, the same for every framework."""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from data.streams import streams

BATCHES = 4  # A benchmark cycles through so many different batches.
_IGNORED = 255
_BLOCK = 16  # Pixels: labels form areas, as in street scenes, instead of noise.

Batch = dict[str, dict[str, np.ndarray]]


def training_batches(config: ConfigDict, num_classes: int, count: int = BATCHES) -> list[Batch]:
    """Returns batches for `train_step`, with the streams that the configuration needs."""
    generator = np.random.default_rng(config.seed)
    return [
        {
            stream: _examples(generator, config, stream, images, num_classes)
            for stream, images in streams(config).items()
        }
        for _ in range(count)
    ]


def evaluation_images(config: ConfigDict, count: int = BATCHES) -> list[np.ndarray]:
    """Returns batches of target images, uint8 `[evaluation.batch, H, W, 3]`."""
    generator = np.random.default_rng(config.seed)
    return [_images(generator, config.evaluation.batch, config.data.target_size) for _ in range(count)]


def labels(generator: np.random.Generator, count: int, size: Sequence[int], num_classes: int) -> np.ndarray:
    """Returns labels uint8 `[count, *size]` in blocks, one class or 255 (ignored) each, all equally often."""
    coarse = generator.integers(0, num_classes + 1, (count, *(-(-length // _BLOCK) for length in size)))
    coarse = np.where(coarse == num_classes, _IGNORED, coarse).astype(np.uint8)
    return coarse.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)[:, : size[0], : size[1]]


def images_per_step(batch: Mapping) -> int:
    """Counts the images of all streams of a training batch."""
    return sum(len(examples["image"]) for examples in batch.values())


def _images(generator: np.random.Generator, count: int, size: Sequence[int]) -> np.ndarray:
    return generator.integers(0, 256, (count, *size, 3), np.uint8)


def _examples(
    generator: np.random.Generator, config: ConfigDict, stream: str, count: int, num_classes: int
) -> dict[str, np.ndarray]:
    size = _size(config, stream)
    examples = {"image": _images(generator, count, size)}
    if stream != "unlabelled":
        examples["label"] = labels(generator, count, size, num_classes)
    return examples


def _size(config: ConfigDict, stream: str) -> tuple[int, int]:
    """Returns height and width of a stream's images as the input pipeline yields them."""
    crop = tuple(config.augment.crop)
    whole = config.data.source_size if stream == "source" else config.data.target_size
    return crop if any(crop) else tuple(whole)
