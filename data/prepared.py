"""TFDS builders of the real data sets and of own data: a prepared split each, in a folder of its own.

The folder's name holds a fingerprint of the files and of all settings that change the records: a data set that was
changed is prepared again instead of being read as it was. Features are image uint8 [Y, X, 3], label (raw ids, uint8
or uint16 [Y, X, 1]) and name (text).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from ml_collections import ConfigDict
from tensorflow_datasets.core import dataset_builder, naming

from data import cityscapes, folders, gta5, preparation, synthia
from data.layouts import Layout, explanation
from data.pairs import Found
from data.records import Form, Record


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

    VERSION = tfds.core.Version("1.0.0")

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
        raise NotImplementedError("data.prepared.open_builder prepares this data set: it resumes, which TFDS does not.")

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


_BUILDERS = {"gta5": Gta5, "synthia": Synthia, "cityscapes": Cityscapes, "custom": Custom}


def layout_of(name: str, data_config: ConfigDict, domain: str) -> Layout:
    """Returns the layout of a real data set.

    Args:
      name: "gta5", "synthia", "cityscapes" or "custom".
      data_config: `config.data`.
      domain: "source" or "target"; matters for own data only.

    Raises:
      ValueError: settings of own data are out of range.
    """
    if name == "custom":
        return folders.layout(data_config.custom, domain)
    return {"gta5": gta5, "synthia": synthia, "cityscapes": cityscapes}[name].layout()


def raw_ids(name: str, data_config: ConfigDict, domain: str) -> Mapping[int, str]:
    """Returns raw id -> class of a real data set's labels; arguments as for `layout_of`."""
    return layout_of(name, data_config, domain).labels.raw_ids


class Wanted(NamedTuple):
    """A split that is wanted, and how.

    Attributes:
      name: "gta5", "synthia", "cityscapes" or "custom".
      data_config: `config.data`.
      domain: "source" or "target": whose root and size are meant.
      split: of the data set's layout.
      full_labels: whether labels keep their own size.
    """

    name: str
    data_config: ConfigDict
    domain: str
    split: str
    full_labels: bool = False


class Located(NamedTuple):
    """Where a split is, or is to be.

    Attributes:
      layout: of its data set.
      form: of its records.
      folder_name: of the builder's configuration.
      found: its files; None where they are gone and only the prepared split is there.
    """

    layout: Layout
    form: Form
    folder_name: str
    found: Found | None


def locate(wanted: Wanted) -> Located:
    """Finds the files of a split, without reading or preparing them.

    Where the root is not set or gone, a split that was prepared once with these settings is enough.

    Raises:
      ValueError: neither is there, or settings are out of range.
    """
    data_config, domain = wanted.data_config, wanted.domain
    layout = layout_of(wanted.name, data_config, domain)
    size = None if data_config.full_size else tuple(data_config[f"{domain}_size"])
    form = Form(layout.labels, size, wanted.full_labels)
    root = data_config[f"{domain}_root"]
    start = "_".join(
        [wanted.split, "full" if size is None else "{}x{}".format(*size), *(["labels"] * wanted.full_labels)]
    )
    if not root or not Path(root).is_dir():
        return Located(layout, form, _prepared_before(layout, data_config.directory, root, start), None)
    found = preparation.find(layout, root, wanted.split)
    return Located(layout, form, f"{start}_{preparation.fingerprint(found.pairs, form)}", found)


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
        task = preparation.Task(
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
        preparation.prepare(task, found, processes)
        builder = _builder(wanted, folder_name, form)
    if not builder.is_prepared():
        raise ValueError(f"{builder.data_path} is not a whole data set; remove it to have it prepared again.")
    return builder


def _prepared_before(layout: Layout, directory: str, root: str, start: str) -> str:
    """Returns the name of the only folder that was prepared with these settings."""
    parent = Path(directory or tfds.core.constants.DATA_DIR).expanduser() / layout.name
    found = [path.parent.parent.name for path in sorted(parent.glob(f"{start}_*/*/dataset_info.json"))]
    found = [name for name in found if name.rpartition("_")[0] == start and "incomplete" not in name]
    if not found:
        raise ValueError(explanation(layout, root))
    if len(found) > 1:
        raise ValueError(
            f"{parent} holds {len(found)} prepared versions of {layout.name}: {', '.join(found)}. "
            f"Set --config.data.{layout.domain}_root to the folder that one is made of, or remove the others."
        )
    logging.warning("%s %s: reading %s, prepared earlier.", layout.name, start, parent / found[0])
    return found[0]


def _builder(wanted: Wanted, folder_name: str, form: Form) -> PreparedSplit:
    # TFDS warns of any configuration that is not listed in its class.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        config = SplitConfig(name=folder_name, split=wanted.split, form=form)
        directory = wanted.data_config.directory or None
        return _BUILDERS[wanted.name](config=config, file_format="array_record", data_dir=directory)
    finally:
        logging.set_verbosity(verbosity)


def _serialize(record: Record) -> bytes:
    """Returns a record as TFDS reads it; the images are encoded already."""
    values = {"image": record.image, "label": record.label, "name": record.name.encode()}
    features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in values.items()}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)
