"""Batches for training and evaluation: numpy dictionaries, read by tf.data.

A training batch is a pure function of (config.seed, step). Each stream counts its examples from step 0 on:
step s of a stream of B images per step takes the positions s * B ... s * B + B - 1. Position p belongs to
epoch p // N of the N images; a seeded permutation of the epoch turns p % N into an image, and the
augmentation is seeded by p. So any step is reached at once, every image comes once an epoch, and no stream
depends on another one, on the number of threads or on the number of hosts. Of every step, host h of n takes
the h-th of n equal slices of the positions. With `config.data.rare_class_temperature`, positions of labelled
images are turned into images by the draws of `data/rare_classes.py` instead, and there are no epochs.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

# Both must be set before TensorFlow is imported: it prints while it loads. The notice of its oneDNN kernels,
# which reading data does not use, escapes the log level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data import augment, labelled, rare_classes, toy
from data.labels import IGNORED
from data.streams import STREAMS, check, host_share, streams

# The accelerators belong to JAX; TensorFlow would take all of their memory.
for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

Batch = dict[str, Any]
Read = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Decode = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]

# Records fetched by one call into Python: more make the calls cheaper and the first batch later.
_RECORDS_PER_READ = 16


class DataSet(NamedTuple):
    """A data set: how its prepared builder is opened, and its splits; None where it has no such split.

    The features of its records are image uint8 [Y, X, 3], label uint8 [Y, X, 1] (train ids) and name (text).
    """

    open: Callable[[ConfigDict], tfds.core.DatasetBuilder]  # Of config.data; prepares it on first use.
    source_train: str | None
    target_train: str | None
    target_validation: str | None
    target_test: str | None = None  # Its labels are not read.


DATASETS = {
    "toy": DataSet(toy.open_builder, "source_train", "target_train", "target_validation"),
}
_PARTS = {"source": "source_train", "labelled": "target_train", "unlabelled": "target_train"}  # Of DataSet.


def prepare(config: ConfigDict) -> None:
    """Downloads or generates the data sets that a run reads, unless that is done; shows its progress.

    Raises:
      ValueError: as for training.
    """
    held_out = ["target_train"] if config.data.held_out else []
    _open(config, [_PARTS[name] for name in streams(config)] + held_out + [f"target_{config.evaluation.split}"])


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
    """Yields this host's part of one pass over the target's images of a split, in the order of the records.

    Args:
      config: the whole configuration; `config.evaluation.split` is "validation" or "test".
      host: number of this host, from 0.
      hosts: number of hosts; all of them get the same number of batches, of the same size.

    Returns:
      Iterator of {"image": uint8 [b, H, W, 3] RGB at config.data.target_size, "label": uint8 [b, Y, X] at the
      size of the data set, "name": text [b], "valid": bool [b]}, with b = config.evaluation.batch / `hosts`,
      rounded up. Places of the last step without an image have valid False, no name and a label that is ignored
      everywhere. The test split has no "label". `operator.length_hint` of the iterator is the number of batches left.

    Raises:
      ValueError: as for training.
    """
    check(config)
    part = f"target_{config.evaluation.split}"
    split = _open(config, [part])[part]
    return _evaluation(config, split, np.arange(split.count), config.evaluation.split != "test", host, hosts)


def held_out_batches(config: ConfigDict, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Yields this host's part of one pass over the held-out labelled target images.

    They are `config.data.held_out` images of the target training split, see `data/labelled.py`: the labelled
    stream never holds them, the unlabelled one does.

    Args:
      config: the whole configuration.
      host: number of this host, from 0.
      hosts: number of hosts.

    Returns:
      As `evaluation_batches`.

    Raises:
      ValueError: as for training, or no image is held out.
    """
    check(config)
    if not config.data.held_out:
        raise ValueError("data.held_out is 0: no labelled target image is held out.")
    split = _open(config, ["target_train"])["target_train"]
    return _evaluation(config, split, _choice(config, split).held_out, True, host, hosts)


def labelled_list(config: ConfigDict) -> labelled.Choice | None:
    """Returns the labelled target images of a run; None if it reads no label of them.

    Raises:
      ValueError: as for training.
    """
    if "labelled" not in streams(config) and not config.data.held_out:
        return None
    return _choice(config, _open(config, ["target_train"])["target_train"])


def _evaluation(
    config: ConfigDict, split: "_Split", chosen: np.ndarray, with_labels: bool, host: int, hosts: int
) -> Iterator[Batch]:
    """Returns this host's batches of one pass over the images `chosen` (indices, int64 [N])."""
    images = -(-config.evaluation.batch // hosts)
    decode = split.decoder("image", "name", "label") if with_labels else split.decoder("image", "name")
    size = tuple(config.data.target_size)

    def read(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _positions(steps, images, host, hosts)
        # Past the end the last image is read again, only to have something of the right shape.
        return position, split.read(tf.gather(chosen, tf.minimum(position, len(chosen) - 1)))

    def example(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = decode(record)
        image = augment.resize({"image": decoded["image"]}, tf.zeros(2, tf.int64), size=size)["image"]
        valid = position < len(chosen)
        found = {"image": image, "name": tf.where(valid, decoded["name"], ""), "valid": valid}
        if with_labels:
            found["label"] = tf.where(valid, decoded["label"][..., 0], tf.constant(IGNORED, tf.uint8))
        return found

    steps = range(-(-len(chosen) // (images * hosts)))
    return _Pass(_iterate(_batches(steps, images, read, example, config.data.readers), config), len(steps))


class _Pass(Iterator[Batch]):
    """A pass over batches that knows how many are left, and gives their names as text."""

    def __init__(self, batches: Iterator[Batch], count: int):
        self._batches, self._left = batches, count

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._left -= 1
        return batch | {"name": np.array([name.decode() for name in batch["name"]], str)}

    def __length_hint__(self) -> int:
        return self._left


def _stream(
    config: ConfigDict, name: str, split: "_Split", images: int, start_step: int, host: int, hosts: int
) -> tf.data.Dataset:
    """Returns the endless data set of this host's batches of one stream, with `images` examples each."""
    chosen = _choice(config, split).training if name == "labelled" else np.arange(split.count)
    decode = split.decoder("image") if name == "unlabelled" else split.decoder("image", "label")
    domain = "source" if name == "source" else "target"
    functions = augment.augmentations(config.augment, config.data[f"{domain}_size"])
    order_seed = tf.constant([[config.seed, STREAMS.index(name)]], tf.int64)
    # An augmentation's seed holds one number beside the position: it differs wherever the two above do.
    augment_seed = tf.constant(config.seed * len(STREAMS) + STREAMS.index(name), tf.int64)

    rarity = config.data.rare_class_temperature if name != "unlabelled" else 0
    if rarity:
        seed = (config.seed, STREAMS.index(name))
        sampler = rare_classes.RareClassSampler(split.class_counts()[chosen], split.table, rarity, seed)

    def places(position: tf.Tensor) -> tf.Tensor:
        if rarity:
            drawn = tf.numpy_function(sampler.draw, [position], tf.int64, stateful=False)
            return tf.ensure_shape(drawn, position.shape)
        epoch = position // len(chosen)
        return tf.raw_ops.RandomIndexShuffle(
            index=position % len(chosen),
            seed=tf.concat([tf.repeat(order_seed, tf.size(epoch), axis=0), epoch[:, None]], axis=1),
            max_index=tf.constant(len(chosen) - 1, tf.int64),
            rounds=8,  # With four, two streams take the same image together more often than by chance.
        )

    def read(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _positions(steps, images, host, hosts)
        return position, split.read(tf.gather(chosen, places(position)))

    def example(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        augmented = augment.apply(functions, decode(record), tf.stack([augment_seed, position]))
        # The channel of the label: [H, W, 1] to [H, W].
        return {key: value[..., 0] if key == "label" else value for key, value in augmented.items()}

    steps = range(start_step, np.iinfo(np.int64).max)
    return _batches(steps, images, read, example, config.data.readers)


def _choice(config: ConfigDict, split: "_Split") -> labelled.Choice:
    return labelled.choose(config.data, split.names(), split.labelled())


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
# split is opened once in a process. By folder and name.
_OPENED: dict[tuple[str, str], "_Split"] = {}


class _Split:
    """The records of a split: random access, and decoding of the features that are wanted."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        self.count = builder.info.splits[split].num_examples if split in builder.info.splits else 0
        if not self.count:
            raise ValueError(f"The data set {builder.name!r} has no images in its split {split!r}.")
        self.table = np.arange(256, dtype=np.uint8)  # Raw id -> train id.
        self._class_counts = None
        self._features = builder.info.features
        self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

    def read(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns the undecoded records (string [N]) at `indices` (int64 [N])."""
        records = tf.numpy_function(self.fetch, [indices], tf.string, stateful=False)
        return tf.ensure_shape(records, indices.shape)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Does the same for arrays; of objects, as a numpy string would drop zeros at the end."""
        return np.array([self._records[int(index)] for index in indices], object)

    def decoder(self, *keys: str) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """Returns the function from a record (a string) to its features `keys`; no others are decoded."""
        return tfds.features.FeaturesDict({key: self._features[key] for key in keys}).deserialize_example

    def names(self) -> list[str]:
        """Returns the name of every image; reads all records."""
        examples = (tf.train.Example.FromString(self._records[index]) for index in range(self.count))
        return [example.features.feature["name"].bytes_list.value[0].decode() for example in examples]

    def labelled(self) -> np.ndarray:
        """Returns whether every image has a label: bool [N]."""
        return np.ones(self.count, bool)

    def class_counts(self) -> np.ndarray:
        """Returns the pixels of every raw id in every image, int64 [N, number of raw ids]; reads all records once."""
        if self._class_counts is None:
            decode = self.decoder("label")
            records = (self._records[index] for index in range(self.count))
            labels = (decode(record)["label"].numpy() for record in records)
            self._class_counts = np.array([np.bincount(label.ravel(), minlength=256) for label in labels])
        return self._class_counts


def _open(config: ConfigDict, parts: Iterable[str]) -> dict[str, _Split]:
    """Opens splits, named by the fields of `DataSet`, and every data set only once."""
    names = {part: config.data[part.partition("_")[0]] for part in parts}
    for part, name in names.items():
        valid = [other for other, data_set in DATASETS.items() if getattr(data_set, part)]
        if part == "target_test" and name in DATASETS and name not in valid:
            raise ValueError(
                f"The data set {name!r} has no test images: evaluation.split is 'test'; expected 'validation'."
            )
        if name not in valid:
            raise ValueError(f"Unknown data set {name!r} for {part}. Valid: {', '.join(valid)}.")
    builders = {name: DATASETS[name].open(config.data) for name in sorted(set(names.values()))}
    opened = {}
    for part, name in names.items():
        builder, split = builders[name], getattr(DATASETS[name], part)
        key = (str(builder.data_path), split)
        if key not in _OPENED:
            _OPENED[key] = _Split(builder, split)
        opened[part] = _OPENED[key]
    return opened
