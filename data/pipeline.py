"""Batches for training and evaluation: numpy dictionaries, read by tf.data.

A training batch is a pure function of (config.seed, step). Each stream counts its examples from step 0 on:
step s of a stream of B images per step takes the positions s * B ... s * B + B - 1. Position p belongs to
epoch p // N of the N images; a seeded permutation of the epoch turns p % N into an image, and the
augmentation is seeded by p. So any step is reached at once, every image comes once an epoch, and no stream
depends on another one, on the number of threads or on the number of hosts. Of every step, host h of n takes
the h-th of n equal slices of the positions.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Both must be set before TensorFlow is imported: it prints while it loads. The notice of its oneDNN kernels,
# which reading data does not use, escapes the log level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data import augment, index, splits
from data.datasets import DATASETS
from data.labels import IGNORED, class_table, train_ids
from data.streams import STREAMS, check, host_share, streams

# The accelerators belong to JAX; TensorFlow would take all of their memory.
for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

Batch = dict[str, Any]
Read = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Decode = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]

# Records fetched by one call into Python: more make the calls cheaper and the first batch later.
_RECORDS_PER_READ = 16


_PARTS = {"source": "source_train", "labelled": "target_train", "unlabelled": "target_train"}  # Of DataSet.


def prepare(config: ConfigDict) -> None:
    """Downloads or generates the data sets that a run reads, unless that is done; shows its progress.

    Raises:
      ValueError: as for training.
    """
    _open(config, [_PARTS[name] for name in streams(config)] + ["target_validation"])


def training_batches(config: ConfigDict, start_step: int = 0, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Yields this host's part of the batches of the steps `start_step`, `start_step` + 1, ... without end.

    Args:
      config: the whole configuration.
      start_step: the first step wanted; any step is reached at once.
      host: number of this host, from 0.
      hosts: number of hosts.

    Returns:
      Iterator of {"source": {"image": uint8 [b, H, W, 3] RGB, "label": uint8 [b, H, W]}, "labelled": {same},
      "unlabelled": {"image"}}, with b the stream's images per step / `hosts`, and H, W the stream's size or
      `config.augment.crop`. Only the streams that a term of the loss needs are there, and read.

    Raises:
      ValueError: a setting is out of its range, a split is empty, or images do not divide by `hosts`.
    """
    images = {name: host_share(f"data.batch.{name}", count, hosts) for name, count in streams(config).items()}
    opened = _open(config, [_PARTS[name] for name in images])
    batches = {
        name: _stream(config, name, opened[_PARTS[name]], share, start_step, host, hosts)
        for name, share in images.items()
    }
    return _iterate(tf.data.Dataset.zip(batches), config)


def evaluation_batches(config: ConfigDict, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Yields this host's part of one pass over the target's validation images, in the order of the records.

    Args:
      config: the whole configuration.
      host: number of this host, from 0.
      hosts: number of hosts; all of them get the same number of batches, of the same size.

    Returns:
      Iterator of {"image": uint8 [b, H, W, 3] RGB at config.data.target_size, "label": uint8 [b, Y, X] at the
      size of the data set, "valid": bool [b]}, with b = config.evaluation.batch / `hosts`, rounded up. Places of
      the last step without an image have valid False and a label that is ignored everywhere.

    Raises:
      ValueError: as for training.
    """
    check(config)
    images = -(-config.evaluation.batch // hosts)
    split = _open(config, ["target_validation"])["target_validation"]
    index.check_label_sizes(split.label_sizes(), config.evaluation.batch)
    decode = split.decoder("image", "label")
    size = tuple(config.data.target_size)

    def read(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _positions(steps, images, host, hosts)
        # Past the end the last image is read again, only to have something of the right shape.
        return position, split.read(tf.minimum(position, split.count - 1))

    def example(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = decode(record)
        image = augment.resize({"image": decoded["image"]}, tf.zeros(2, tf.int64), size=size)["image"]
        valid = position < split.count
        label = tf.where(valid, decoded["label"][..., 0], tf.constant(IGNORED, tf.uint8))
        return {"image": image, "label": label, "valid": valid}

    steps = range(-(-split.count // (images * hosts)))
    return _iterate(_batches(steps, images, read, example, config.data.readers), config)


def labelled_names(config: ConfigDict) -> list[str]:
    """Returns the names of the labelled target images, sorted."""
    names = _open(config, ["target_train"])["target_train"].names()
    chosen = splits.labelled_indices(names, config.data.labelled_count, config.data.labelled_seed)
    return sorted(names[index] for index in chosen)


def _stream(
    config: ConfigDict, name: str, split: "_Split", images: int, start_step: int, host: int, hosts: int
) -> tf.data.Dataset:
    """Returns the endless data set of this host's batches of one stream, with `images` examples each."""
    chosen = _labelled(config, split) if name == "labelled" else np.arange(split.count)
    decode = split.decoder("image") if name == "unlabelled" else split.decoder("image", "label")
    domain = "source" if name == "source" else "target"
    functions = augment.augmentations(config.augment, config.data[f"{domain}_size"])
    order_seed = tf.constant([[config.seed, STREAMS.index(name)]], tf.int64)
    # An augmentation's seed holds one number beside the position: it differs wherever the two above do.
    augment_seed = tf.constant(config.seed * len(STREAMS) + STREAMS.index(name), tf.int64)

    def read(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _positions(steps, images, host, hosts)
        epoch = position // len(chosen)
        place = tf.raw_ops.RandomIndexShuffle(
            index=position % len(chosen),
            seed=tf.concat([tf.repeat(order_seed, tf.size(epoch), axis=0), epoch[:, None]], axis=1),
            max_index=tf.constant(len(chosen) - 1, tf.int64),
            rounds=8,  # With four, two streams take the same image together more often than by chance.
        )
        return position, split.read(tf.gather(chosen, place))

    def example(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        augmented = augment.apply(functions, decode(record), tf.stack([augment_seed, position]))
        # The channel of the label: [H, W, 1] to [H, W].
        return {key: value[..., 0] if key == "label" else value for key, value in augmented.items()}

    steps = range(start_step, np.iinfo(np.int64).max)
    return _batches(steps, images, read, example, config.data.readers)


def _labelled(config: ConfigDict, split: "_Split") -> np.ndarray:
    """Returns the indices of the labelled target images, int64; names are read only where they matter."""
    count = config.data.labelled_count
    splits.check_count(count, split.count)
    if count == -1:
        return np.arange(split.count)
    return splits.labelled_indices(split.names(), count, config.data.labelled_seed)


def _positions(steps: tf.Tensor, images: int, host: int, hosts: int) -> tf.Tensor:
    """Returns this host's positions in steps (int64 [S]) of `images` per host: int64 [S * images]."""
    own = tf.range(host * images, (host + 1) * images, dtype=tf.int64)
    return tf.reshape(steps[:, None] * (images * hosts) + own, [-1])


def _batches(steps: range, images: int, read: Read, example: Decode, readers: int) -> tf.data.Dataset:
    """Returns one batch of `images` examples for each step.

    Args:
      steps: the steps.
      images: examples to a step.
      read: from steps (int64 [S]) to positions (int64 [S * images]) and records (string [S * images]).
      example: from a position and a record to an example; called in parallel, the order is kept.
      readers: number of such calls at a time.
    """
    plain = tf.autograph.experimental.do_not_convert
    chunks = tf.data.Dataset.range(steps.start, steps.stop).batch(max(1, _RECORDS_PER_READ // images))
    records = chunks.map(plain(read)).unbatch()
    return records.map(plain(example), num_parallel_calls=readers, deterministic=True).batch(images)


def _iterate(batches: tf.data.Dataset, config: ConfigDict) -> Iterator[Batch]:
    """Returns the batches as numpy arrays, made ahead by `config.data.readers` threads."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = config.data.readers
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return batches.prefetch(config.data.prefetch).with_options(options).as_numpy_iterator()


# TensorFlow never lets go of a function given to `numpy_function`, nor of the open files that it holds: each
# split is opened once in a process. By folder, name and table of train ids.
_OPENED: dict[tuple[str, str, bytes], "_Split"] = {}
# Part and settings of the data to keys of the above.
_KEYS: dict[tuple[str, ...], tuple[str, str, bytes]] = {}


class _Split:
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
        self._features = builder.info.features
        self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._index_file = index.file_of(Path(builder.data_path), split)

    def read(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns the undecoded records (string [N]) at `indices` (int64 [N])."""
        records = tf.numpy_function(self.fetch, [indices], tf.string, stateful=False)
        return tf.ensure_shape(records, indices.shape)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Does the same for arrays; of objects, as a numpy string would drop zeros at the end."""
        return np.array([self._records[int(index)] for index in indices], object)

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
        decode = tfds.features.FeaturesDict({key: self._features[key] for key in ("label", "name")}).deserialize_example
        names, counts, sizes = [], [], []
        for place in range(self.count):
            example = decode(self._records[place])
            label = example["label"].numpy()
            names.append(example["name"].numpy().decode())
            counts.append(np.bincount(label.ravel(), minlength=len(self.table)))
            sizes.append(label.shape[:2])
        return index.Index(names, np.ones(self.count, bool), np.array(counts), np.array(sizes))


def _open(config: ConfigDict, parts: Iterable[str]) -> dict[str, _Split]:
    """Opens splits, named by the fields of `DataSet`."""
    names = {part: config.data[part.partition("_")[0]] for part in parts}
    for part, name in names.items():
        valid = [other for other, data_set in DATASETS.items() if getattr(data_set, part)]
        if name not in valid:
            raise ValueError(f"Unknown data set {name!r} for {part}. Valid: {', '.join(valid)}.")
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
            _OPENED[key] = _Split(builder, split, table)
    return {part: _OPENED[_KEYS[settings[part]]] for part in names}


def _table(config: ConfigDict, name: str, domain: str, builder: tfds.core.DatasetBuilder) -> np.ndarray:
    """Returns the train id of every raw id of a data set, uint8 [raw ids]."""
    raw_ids = DATASETS[name].raw_ids
    if raw_ids is None:
        return np.arange(256, dtype=np.uint8)
    values = np.iinfo(builder.info.features["label"].np_dtype).max + 1
    return train_ids(raw_ids(config.data, domain), class_table(config.data.classes), values)
