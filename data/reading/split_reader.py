"""Reads splits: random access to records, decoding, and facts about records that are known without reading them."""

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

from configs.user_error import UserError
from data.classes import class_table, train_ids
from data.datasets.registry import find_spec
from data.datasets.spec import domain_of
from data.preparation import split_index as index
from data.preparation.location import Locations, locate_split
from data.preparation.prepare import REJECTED
from data.raw.faults import printable
from data.raw.nifti import Frame
from data.reading.split_builder import open_split_builder
from data.reading.toy_builder import open_toy_builder

# TensorFlow never frees a function given to `numpy_function`, nor the open files that the function holds, so each
# split is opened once in a process. By folder, name and tables of train ids.
_SPLITS: dict[tuple[str, str, bytes], "Split"] = {}
# Part and settings of the data -> key of the above.
_KEYS: dict[tuple[str, ...], tuple[str, str, bytes]] = {}
# Errors of TensorFlow for bytes that it cannot decode; the latter where its message quotes them.
UNDECODABLE = (tf.errors.OpError, UnicodeDecodeError)
# Records fetched by one call into Python: more make the calls cheaper and the first batch later.
RECORDS_PER_READ = 16
_SHOWN = 200  # Characters of a library's message.


class Split:
    """The records of a split: random access, and decoding of chosen features."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, table: np.ndarray, scored_table: np.ndarray):
        """Opens the records of a builder.

        Args:
          builder: its records exist.
          split: its name.
          table: raw id -> train id, uint8 [raw ids].
          scored_table: the same for scores, with the class table's `others`.
        """
        self.count = builder.info.splits[split].num_examples if split in builder.info.splits else 0
        if not self.count:
            raise UserError(f"The dataset {builder.name!r} has no images in its split {split!r}; expected 1 or more.")
        self.table, self._scored_table = table, scored_table
        self.title = f"{builder.name}/{split}"
        # Features of a record -> index -> name of the records of which they do not decode; found while training.
        self.undecodable: dict[tuple[str, ...], dict[int, str]] = collections.defaultdict(dict)
        self._features = builder.info.features
        self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._folder = Path(builder.data_path)
        self._index_file = index.file_of(self._folder, split)

    def read(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns the undecoded records (string [N]) at `indices` (int64 [N])."""
        records = tf.numpy_function(self.fetch, [indices], tf.string, stateful=False)
        return tf.ensure_shape(records, indices.shape)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Does the same for arrays; the result holds objects, as a numpy string would drop zeros at the end.

        A record that cannot be read is empty: it fails where it is decoded, and no other record with it.
        """
        return np.array([self._fetch_one(int(index)) for index in indices], object)

    def _fetch_one(self, index: int) -> bytes:
        try:
            return self._records[index]
        except Exception as error:  # The library for records raises several kinds.
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
        """Returns the name of an image without control characters."""
        return printable(self._index.names[index])

    def decoder(self, *keys: str, scored: bool = False) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """Returns the function from a record (a string) to its features `keys`; no others are decoded.

        Labels become train ids, uint8; with `scored`, pixels of the class table's `others` get the number of classes.
        """
        table = self._scored_table if scored else self.table
        decode = tfds.features.FeaturesDict({key: self._features[key] for key in keys}).deserialize_example
        if "label" not in keys:
            return decode

        def decode_train_ids(record: tf.Tensor) -> dict[str, tf.Tensor]:
            example = decode(record)
            return {**example, "label": tf.gather(table, tf.cast(example["label"], tf.int32))}

        return decode_train_ids

    def shapes(self, *keys: str) -> list[tuple[int | None, ...]]:
        """Returns the shape of each of the decoded features `keys`, all uint8; None for sizes that differ."""
        return [tuple(self._features[key].shape) for key in keys]

    def left_out(self) -> int:
        """Returns how many files preparation could not use, so that their images are not among the records."""
        file = self._folder / REJECTED
        return len(file.read_text().splitlines()) if file.exists() else 0

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

    def frames(self) -> dict[str, Frame]:
        """Returns name -> frame of the volumes whose slices the images are; empty if they are none."""
        return self._index.frames

    @functools.cached_property
    def _index(self) -> index.Index:
        """The index beside the records, or one made by reading all of them."""
        if self._index_file.exists():
            return index.read_index(self._index_file)
        decode_name, decode_label = (
            tfds.features.FeaturesDict({key: self._features[key]}).deserialize_example for key in ("name", "label")
        )
        names, counts, sizes = [], [], []
        for place in range(self.count):
            record = self._fetch_one(place)
            name, label = f"record {place}", np.zeros((0, 0), np.int64)
            # Records that do not decode are reported when they are trained on.
            with contextlib.suppress(*UNDECODABLE):
                name = decode_name(record)["name"].numpy().decode()
                label = decode_label(record)["label"].numpy()
            names.append(name)
            counts.append(np.bincount(label.ravel(), minlength=len(self.table)))
            sizes.append(label.shape[:2])
        return index.Index(names, np.ones(self.count, bool), np.array(counts), np.array(sizes), {})


def open_splits(config: ConfigDict, parts: Iterable[str], locations: Locations | None = None) -> dict[str, Split]:
    """Opens splits, and prepares or generates those that are not there yet.

    Args:
      config: the whole configuration.
      parts: of a run, such as "source_train".
      locations: of these parts, where they are known already; the files of all others are listed.

    Raises:
      UserError: files are missing or unusable.
    """
    # Listing the files of a dataset can take seconds; a process does it once for the same settings.
    settings = {part: (part, config.data.to_json_best_effort()) for part in parts}
    unknown = [part for part in settings if _KEYS.get(settings[part]) not in _SPLITS]
    specs = {part: find_spec(config.data, domain_of(part)) for part in unknown}
    # All are located before any is prepared: that can take an hour, and faults of the others would show late.
    places = dict(locations or {})
    for part in unknown:
        if not specs[part].is_generated and part not in places:
            places[part] = locate_split(config.data, part)
    table = class_table(config.data.classes, config.data.custom)
    for part in unknown:
        if specs[part].is_generated:
            builder = open_toy_builder(config.data)
        else:
            builder = open_split_builder(places[part], config.data)
        split, labels = specs[part].splits[part].name, specs[part].labels
        ids = train_ids(labels.raw_ids, table, labels.values)
        scored_ids = train_ids(labels.raw_ids, table, labels.values, with_others=True)
        key = _KEYS[settings[part]] = (str(builder.data_path), split, ids.tobytes() + scored_ids.tobytes())
        if key not in _SPLITS:
            _SPLITS[key] = Split(builder, split, ids, scored_ids)
    return {part: _SPLITS[_KEYS[settings[part]]] for part in settings}
