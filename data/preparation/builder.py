"""TFDS builders of the real data sets and of own data: a prepared split each, in a folder of its own.

The folder's name holds a fingerprint of the files and of all settings that change the records: a data set that was
changed is prepared again instead of being read as it was. Features are image uint8 [Y, X, 3], label (raw ids, uint8
or uint16 [Y, X, 1]) and name (text).
"""

import dataclasses
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import dataset_builder, naming

from data.preparation import locate as located
from data.preparation import prepare
from data.preparation.locate import Wanted, locate
from data.preparation.records import Form, Record


@dataclasses.dataclass(eq=False, kw_only=True)
class SplitConfig(tfds.core.BuilderConfig):
    """A split as it is prepared.

    Attributes:
      split: its name.
      form: of its records.
    """

    split: str
    form: Form


class PreparedSplit(dataset_builder.FileReaderBuilder, skip_registration=True):
    """One split of a real data set; `open_builder` prepares it."""

    VERSION = tfds.core.Version(located.VERSION)

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
        # TFDS would ask its server for the data set before it is prepared, and leave an empty temporary folder.
        info.initialize_from_bucket = lambda: None
        return info

    def _download_and_prepare(self, dl_manager: object, download_config: object = None) -> None:
        raise RuntimeError(
            "data.preparation.builder.open_builder prepares this data set: it resumes, which TFDS does not."
        )

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


class Gta5(PreparedSplit):
    """GTA5."""


class Synthia(PreparedSplit):
    """SYNTHIA-RAND-CITYSCAPES."""


class Cityscapes(PreparedSplit):
    """Cityscapes."""


class Custom(PreparedSplit):
    """Own data."""


_QUIET = threading.Lock()
_BUILDERS = {"gta5": Gta5, "synthia": Synthia, "cityscapes": Cityscapes, "custom": Custom}


def open_builder(wanted: Wanted, processes: int | None = None) -> PreparedSplit:
    """Opens a split, preparing it on first use.

    Args:
      wanted: the split.
      processes: that prepare; None: one for each usable core.

    Returns:
      The prepared builder.

    Raises:
      ValueError: as for `locate`, or too many files are unusable, or the disk lacks room.
    """
    layout, form, folder_name, found = locate(wanted)
    builder = _builder(wanted, folder_name, form)
    if found is not None and not builder.data_path.exists():
        task = prepare.Task(
            layout=layout,
            root=Path(wanted.data_config[f"{wanted.domain}_root"]),
            split=wanted.split,
            form=form,
            rejected_limit=wanted.data_config.rejected_limit,
            folder=Path(builder.data_path),
            shard_name=builder.shard_name,
            serialize=_serialize,
            describe=builder.describe,
        )
        prepare.prepare(task, found, processes)
        builder = _builder(wanted, folder_name, form)
    if not builder.is_prepared():
        raise ValueError(f"{builder.data_path} is not a whole data set; remove it to have it prepared again.")
    return builder


def _builder(wanted: Wanted, folder_name: str, form: Form) -> PreparedSplit:
    config = SplitConfig(name=folder_name, split=wanted.split, form=form)
    directory = wanted.data_config.directory or None
    # TFDS warns of any configuration that is not listed in its class. One thread at a time, or the second would take
    # the first one's silence for the level to go back to.
    with _QUIET:
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            return _BUILDERS[wanted.name](config=config, file_format="array_record", data_dir=directory)
        finally:
            logging.set_verbosity(verbosity)


def _serialize(record: Record) -> bytes:
    """Returns a record as TFDS reads it; the images are encoded already."""
    values = {"image": record.image, "label": record.label, "name": record.name.encode()}
    features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in values.items()}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)
