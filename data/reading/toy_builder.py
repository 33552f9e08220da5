"""Toy streets as a TFDS dataset: generated once, then read like any other.

The images are those of `data/toy/scenes.py`. Every combination of settings has a folder of its own.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from ml_collections import ConfigDict

from configs.user_error import UserError
from data.datasets import toy
from data.datasets.spec import domain_of
from data.toy.scenes import render

_FINGERPRINT_SIZE = (32, 64)  # Small: it is drawn whenever the dataset is opened.


@dataclasses.dataclass(eq=False, kw_only=True)
class ToyConfig(tfds.core.BuilderConfig):
    """Settings of a toy dataset: `config.data.toy`, under the same names.

    Attributes:
      height: of the images, in pixels.
      width: of the images, in pixels.
      counts: split to its number of images; only splits that have any.
      seed: of the scenes.
      shift: of the target's look.
      label_shift: of the target's layout.
    """

    height: int
    width: int
    counts: dict[str, int]
    seed: int
    shift: float
    label_shift: float


class ToyStreets(tfds.core.GeneratorBasedBuilder):
    """Generated street scenes of two domains, with labels in the train ids of the class table "toy".

    Record i of a split is its image i. A split without images is left out.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        size = (self.builder_config.height, self.builder_config.width)
        features = {
            "image": tfds.features.Image(shape=(*size, 3), encoding_format="png"),
            "label": tfds.features.Image(shape=(*size, 1), encoding_format="png"),
            "name": tfds.features.Text(),
        }
        # Shuffled, record i would not be image i.
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        counts = self.builder_config.counts
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, np.ndarray | str]]]:
        config = self.builder_config
        for index in range(count):
            shifts = (config.shift, config.label_shift)
            image, label = render(domain_of(split), config.seed, split, index, config.height, config.width, *shifts)
            yield index, {"image": image, "label": label[..., None], "name": f"{split}_{index:06}"}


def open_toy_builder(data_config: ConfigDict) -> ToyStreets:
    """Opens the dataset and generates it on first use.

    It is generated in a temporary folder that is renamed at the end: a process that is killed half way leaves nothing
    that looks like the dataset.

    Args:
      data_config: `config.data`.

    Returns:
      The builder, whose records exist.

    Raises:
      UserError: the dataset has lost files, or cannot be written.
    """
    builder = _make_builder(data_config)
    if not builder.data_path.exists():
        config = builder.builder_config
        numbers = ", ".join(f"{count} {split}" for split, count in config.counts.items())
        logging.info("Generating toy streets of %dx%d pixels: %s.", config.height, config.width, numbers)
        try:
            # Offline: there is nothing to download.
            options = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=1)
            builder.download_and_prepare(download_config=options)
        except (OSError, RuntimeError) as error:  # The latter comes from array_record, also for a full disk.
            # Fine if another process, which made the same images, renamed its folder first.
            builder = _make_builder(data_config)
            if not builder.data_path.exists():
                raise UserError(
                    f"The generated images cannot be written to {builder.data_path} ({error}). Make room, allow "
                    "writing there, or name another folder: --config.data.directory=FOLDER."
                ) from error
    if not builder.is_prepared():
        raise UserError(f"{builder.data_path} is not a complete dataset; remove it to have it generated again.")
    return builder


def _make_builder(data_config: ConfigDict) -> ToyStreets:
    """Returns the builder of the settings, whether its dataset exists or not."""
    settings, splits = data_config.toy, toy.from_settings(data_config, "source").splits
    config = ToyConfig(
        name=folder_name(settings),
        height=settings.height,
        width=settings.width,
        counts={part: split.count for part, split in splits.items() if split.count},
        seed=settings.seed,
        shift=settings.shift,
        label_shift=settings.label_shift,
    )
    # TFDS warns of any configuration that is not listed in its class.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return ToyStreets(config=config, file_format="array_record", data_dir=data_config.directory or None)
    finally:
        logging.set_verbosity(verbosity)


def folder_name(settings: ConfigDict) -> str:
    """Returns a name that differs where any image would.

    It holds all settings and a hash of a few small images. The hash changes with the drawing itself, so that images
    of an older version are never read.

    Args:
      settings: `config.data.toy`.
    """
    digest, shifts = hashlib.sha256(), (settings.shift, settings.label_shift)
    for domain in ("source", "target"):
        for index in range(4):
            for pixels in render(domain, settings.seed, "fingerprint", index, *_FINGERPRINT_SIZE, *shifts):
                digest.update(pixels.tobytes())
    size = f"{settings.height}x{settings.width}"
    numbers = f"{settings.source_count}_{settings.target_count}_{settings.validation_count}"
    shifted = f"shift{float(settings.shift)}" + (f"_{float(settings.label_shift)}" if settings.label_shift else "")
    return f"{size}_{numbers}_seed{settings.seed}_{shifted}_{digest.hexdigest()[:8]}"
