"""The splits of the data sets, opened: random access to records, decoding, and what is known of them unread."""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from ml_collections import ConfigDict

from data.classes import class_table, train_ids
from data.preparation import locate
from data.preparation import split_index as index
from data.raw.faults import printable
from data.reading.builders import DATASETS

# TensorFlow never lets go of a function given to `numpy_function`, nor of the open files that it holds: each
# split is opened once in a process. By folder, name and table of train ids.
_OPENED: dict[tuple[str, str, bytes], "Split"] = {}
# What TensorFlow raises of bytes that it cannot decode; the latter where its message quotes them.
UNDECODABLE = (tf.errors.OpError, UnicodeDecodeError)
# Records fetched by one call into Python: more make the calls cheaper and the first batch later.
RECORDS_PER_READ = 16
_SHOWN = 200  # Characters of a library's message.
# Part and settings of the data to keys of the above.
_KEYS: dict[tuple[str, ...], tuple[str, str, bytes]] = {}


class Split:
    """The records of a split: random access, and decoding of the features that are wanted."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, table: np.ndarray):
        """Opens the records of a prepared builder.

        Args:
          builder: prepared.
          split: its name.
          table: raw id -> train id, uint8 [raw ids].
        """
        self.count = builder.info.splits[split].num_examples if split in builder.info.splits else 0
        if not self.count:
            raise ValueError(f"The data set {builder.name!r} has no images in its split {split!r}.")
        self.table = table
        self.title = f"{builder.name}/{split}"
        # Features of a record -> index -> name of those which do not decode; found while training.
        self.undecodable: dict[tuple[str, ...], dict[int, str]] = collections.defaultdict(dict)
        self._features = builder.info.features
        self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._index_file = index.file_of(Path(builder.data_path), split)

    def read(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns the undecoded records (string [N]) at `indices` (int64 [N])."""
        records = tf.numpy_function(self.fetch, [indices], tf.string, stateful=False)
        return tf.ensure_shape(records, indices.shape)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Does the same for arrays; of objects, as a numpy string would drop zeros at the end.

        A record that cannot be read is empty: it fails where it is decoded, and no other one with it.
        """
        return np.array([self._fetch_one(int(index)) for index in indices], object)

    def _fetch_one(self, index: int) -> bytes:
        try:
            return self._records[index]
        except Exception as error:  # Of the library for records: of several kinds.
            logging.warning("Record %d of %s cannot be read: %s", index, self.title, error)
            return b""

    def fault(self, index: int, keys: Sequence[str]) -> str:
        """Returns why the features `keys` of a record do not decode; empty if they do."""
        try:
            self.decoder(*keys)(self._fetch_one(index))
        except UNDECODABLE as error:
            return printable(str(error).partition("\n")[0][:_SHOWN])
        return ""

    def name_of(self, index: int) -> str:
        """Returns the name of an image, as it may be shown."""
        return printable(self._index.names[index])

    def decoder(self, *keys: str) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """Returns the function from a record (a string) to its features `keys`; no others are decoded.

        Labels become train ids, uint8.
        """
        decode = tfds.features.FeaturesDict({key: self._features[key] for key in keys}).deserialize_example
        if "label" not in keys or np.array_equal(self.table, np.arange(len(self.table))):
            return decode

        def decode_train_ids(record: tf.Tensor) -> dict[str, tf.Tensor]:
            example = decode(record)
            return {**example, "label": tf.gather(self.table, tf.cast(example["label"], tf.int32))}

        return decode_train_ids

    def shapes(self, *keys: str) -> list[tuple[int | None, ...]]:
        """Returns the shape of each of the decoded features `keys`, all uint8; None for sizes that differ."""
        return [tuple(self._features[key].shape) for key in keys]

    def names(self) -> list[str]:
        """Returns the name of every image."""
        return self._index.names

    def labelled(self) -> np.ndarray:
        """Returns which images have a label, bool [N]."""
        return self._index.labelled

    def class_counts(self) -> np.ndarray:
        """Returns the pixels of every raw id in every label, int64 [N, raw ids]; `table` has as many or more ids."""
        return self._index.class_counts

    def label_sizes(self) -> np.ndarray:
        """Returns heights and widths of the labels, int64 [N, 2]."""
        height, width, _ = self._features["label"].shape
        if height is not None and width is not None:
            return np.full((self.count, 2), (height, width), np.int64)
        return self._index.label_sizes

    @functools.cached_property
    def _index(self) -> index.Index:
        """What was written beside the records, or what all of them tell."""
        if self._index_file.exists():
            return index.read(self._index_file)
        decode_name, decode_label = (
            tfds.features.FeaturesDict({key: self._features[key]}).deserialize_example for key in ("name", "label")
        )
        names, counts, sizes = [], [], []
        for place in range(self.count):
            record = self._fetch_one(place)
            name, label = f"record {place}", np.zeros((0, 0), np.int64)
            # What does not decode is told when it is trained on.
            with contextlib.suppress(*UNDECODABLE):
                name = decode_name(record)["name"].numpy().decode()
                label = decode_label(record)["label"].numpy()
            names.append(name)
            counts.append(np.bincount(label.ravel(), minlength=len(self.table)))
            sizes.append(label.shape[:2])
        return index.Index(names, np.ones(self.count, bool), np.array(counts), np.array(sizes))


def open_splits(config: ConfigDict, parts: Iterable[str]) -> dict[str, Split]:
    """Opens splits, named by the fields of `DataSet`."""
    names = {part: config.data[part.partition("_")[0]] for part in parts}
    known = {
        name: [part for part in data_set._fields if part.startswith(("source_", "target_")) and getattr(data_set, part)]
        for name, data_set in DATASETS.items()
    }
    for part, name in names.items():
        locate.expect_known(name, part, known)
    # Listing the files of a data set can take seconds; a process does it once for the same settings.
    settings = {part: (part, config.data.to_json_best_effort()) for part in names}
    unknown = {part: name for part, name in names.items() if _KEYS.get(settings[part]) not in _OPENED}
    # All before any: preparing one can take an hour, and then a mistake in another one is found late.
    for part, name in unknown.items():
        if DATASETS[name].check:
            DATASETS[name].check(config.data, part)
    for part, name in unknown.items():
        builder, split = DATASETS[name].open(config.data, part), getattr(DATASETS[name], part)
        table = _table(config, name, part.partition("_")[0], builder)
        key = _KEYS[settings[part]] = (str(builder.data_path), split, table.tobytes())
        if key not in _OPENED:
            _OPENED[key] = Split(builder, split, table)
    return {part: _OPENED[_KEYS[settings[part]]] for part in names}


def _table(config: ConfigDict, name: str, domain: str, builder: tfds.core.DatasetBuilder) -> np.ndarray:
    """Returns the train id of every raw id of a data set, uint8 [raw ids]."""
    raw_ids = DATASETS[name].raw_ids
    if raw_ids is None:
        return np.arange(256, dtype=np.uint8)
    values = np.iinfo(builder.info.features["label"].np_dtype).max + 1
    return train_ids(raw_ids(config.data, domain), class_table(config.data.classes, config.data.custom), values)
