"""TFDS builders of the datasets that are prepared from files: one builder a split, in a folder of its own.

Features are image uint8 [Y, X, 3], label (raw ids, uint8 or uint16 [Y, X, 1]) and name (text).
"""

import dataclasses
import functools
import os
import threading
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from ml_collections import ConfigDict
from tensorflow_datasets.core import dataset_builder, naming

from configs.user_error import UserError
from data.datasets.spec import domain_of
from data.preparation import location, prepare, split_index
from data.preparation.location import SplitLocation
from data.preparation.records import Form, Record


@dataclasses.dataclass(eq=False, kw_only=True)
class SplitConfig(tfds.core.BuilderConfig):
    """A split as it is stored.

    Attributes:
      split: its name.
      form: of its records.
    """

    split: str
    form: Form


class SplitBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One split of a dataset; `open_split_builder` prepares it."""

    VERSION = tfds.core.Version(location.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        form = self.builder_config.form
        size = form.size or (None, None)
        label_size = (None, None) if form.full_labels else size
        kind = np.uint8 if form.rules.values == 256 else np.uint16
        features = {
            "image": tfds.features.Image(shape=(*size, 3), encoding_format="png"),
            "label": tfds.features.Image(shape=(*label_size, 1), dtype=kind, encoding_format="png"),
            "name": tfds.features.Text(),
        }
        info = self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)
        # Before a dataset is prepared, TFDS would look for it on its server and leave an empty temporary folder.
        info.initialize_from_bucket = lambda: None
        return info

    def _download_and_prepare(self, dl_manager: object, download_config: object = None) -> None:
        raise RuntimeError("open_split_builder prepares this dataset, as TFDS cannot resume.")

    def shard_name(self, number: int, count: int) -> str:
        """Returns the file name of a shard, as TFDS expects it."""
        return self._template(self.data_path).sharded_filepath(shard_index=number, num_shards=count).name

    def describe(self, folder: Path, records: Sequence[int], size: int) -> None:
        """Writes what TFDS reads first, given the number of records of every shard and the bytes of all."""
        template = self._template(self.data_path)
        split = tfds.core.SplitInfo(
            name=self.builder_config.split, shard_lengths=list(records), num_bytes=size, filename_template=template
        )
        self.info.set_splits(tfds.core.SplitDict([split]))
        self.info.write_to_directory(folder)

    def _template(self, folder: os.PathLike) -> naming.ShardedFileTemplate:
        return tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=self.name,
            split=self.builder_config.split,
            filetype_suffix="array_record",
        )


_LOGGING = threading.Lock()


def open_split_builder(place: SplitLocation, data_config: ConfigDict, processes: int | None = None) -> SplitBuilder:
    """Opens a split and prepares it on first use.

    Args:
      place: of its files and records.
      data_config: `config.data`.
      processes: number of processes that prepare; None: one for each usable core.

    Returns:
      The builder, whose records exist.

    Raises:
      UserError: too many files are unusable, the disk is too small, or the records are incomplete.
    """
    builder = _make_builder(place)
    if place.files is not None and not builder.data_path.exists():
        task = prepare.Task(
            location=place,
            root=Path(data_config[f"{domain_of(place.part)}_root"]),
            rejected_limit=data_config.rejected_limit,
            shard_name=builder.shard_name,
            serialize=_serialize,
            describe=builder.describe,
        )
        prepare.prepare_split(task, processes)
        builder = _make_builder(place)
    # Without the index, which says which images have a label, all would seem to have one.
    if not builder.is_prepared() or not split_index.file_of(Path(builder.data_path), place.split.name).exists():
        raise UserError(f"{builder.data_path} is not a complete dataset; remove it to have it prepared again.")
    return builder


def _make_builder(place: SplitLocation) -> SplitBuilder:
    name, directory = place.folder.parent.name, place.folder.parents[2]
    config = SplitConfig(name=name, split=place.split.name, form=place.form)
    # TFDS warns of any configuration that is not listed in its class. The lock keeps a second thread from taking the
    # level that this one sets for the one to restore.
    with _LOGGING:
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            return _builder_class(place.spec.name)(config=config, file_format="array_record", data_dir=directory)
        finally:
            logging.set_verbosity(verbosity)


@functools.cache
def _builder_class(dataset: str) -> type[SplitBuilder]:
    """Returns the builder's class of a dataset: TFDS takes a dataset's name from the class."""
    names = {"name": dataset, "__module__": __name__}
    return types.new_class(dataset, (SplitBuilder,), {"skip_registration": True}, lambda body: body.update(names))


def _serialize(record: Record) -> bytes:
    """Returns a record as TFDS reads it; the images are already encoded."""
    values = {"image": record.image, "label": record.label, "name": record.name.encode()}
    features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in values.items()}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)
