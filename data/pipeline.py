"""Batches for training and evaluation: numpy dictionaries, read by tf.data.

A training batch is a pure function of (config.seed, step). Each stream counts its examples from step 0 on: step s of a
stream of B images per step takes the positions s * B ... s * B + B - 1. `data/sampling/epoch_order.py` maps a position
to an image, and the position seeds the augmentation. So any step is reached at once, every image comes once an epoch,
and no stream depends on another one, on the number of threads or on the number of hosts. Host h of n takes the h-th of
n equal slices of the positions of every step.
"""

import atexit
import functools
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

# Both must be set before TensorFlow is imported, as it prints while it loads. The log level does not silence the notice
# of its oneDNN kernels, which reading data does not use.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from configs.user_error import UserError
from data import augment
from data.classes import IGNORED, class_table
from data.datasets.registry import evaluation_has_labels
from data.datasets.spec import domain_of
from data.preparation import split_index as index
from data.preparation.location import Locations
from data.reading import decoded_cache
from data.reading.bad_records import Stream, check_records, training_steps
from data.reading.split_reader import RECORDS_PER_READ, UNDECODABLE, Split, open_splits
from data.reading.volumes import Volumes, volumes_of
from data.sampling import labelled_subset
from data.sampling.epoch_order import Order, choose_labelled, positions
from data.streams import PARTS, STREAMS, evaluation_part, host_share, parts, reads_target_labels, streams


def _leave_accelerators_to_jax() -> None:
    """Hides accelerators from TensorFlow, which would take all of their memory.

    Raises:
      UserError: it uses one already.
    """
    for kind in ("GPU", "TPU"):
        try:
            tf.config.set_visible_devices([], kind)
        except RuntimeError as error:  # TensorFlow has started; without accelerators nothing is lost.
            if tf.config.list_physical_devices(kind):
                raise UserError(
                    f"TensorFlow already uses a {kind} in this process, and would keep its memory from JAX. Restart "
                    "the process or the notebook's kernel, and import data.pipeline, or ass_jax, before anything "
                    "that runs TensorFlow."
                ) from error


_leave_accelerators_to_jax()

Batch = dict[str, Any]
Read = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Decode = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def prepare(config: ConfigDict, locations: Locations | None = None, *, scored_only: bool = False) -> None:
    """Prepares or generates the datasets that a run reads, unless that is done; shows its progress.

    Args:
      config: the whole configuration.
      locations: of its parts, as `data.checking.check.check_before_training` returns them; None: files are listed here.
      scored_only: prepares only the images that `evaluation_batches` reads.

    Raises:
      UserError: files are missing or unusable.
    """
    open_splits(config, [evaluation_part(config)] if scored_only else parts(config), locations)


def training_batches(config: ConfigDict, start_step: int = 0, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Yields this host's part of the batches of the steps `start_step`, `start_step` + 1, ... without end.

    Args:
      config: the whole configuration.
      start_step: the first step.
      host: number of this host, from 0.
      hosts: number of hosts.

    Returns:
      Iterator of {"source": {"image": uint8 [b, H, W, 3] RGB, "label": uint8 [b, H, W]}, "labelled": {same},
      "unlabelled": {"image"}}, with b the stream's images per step / `hosts`, and H, W the stream's size or
      `config.augment.crop`. Only the streams that a term of the loss needs are read.

    Raises:
      UserError: files are missing or unusable, or images cannot be shared evenly by `hosts`.
    """
    images = {name: host_share(f"data.batch.{name}", count, hosts) for name, count in streams(config).items()}
    splits, orders = _orders(config)

    def make(start: int) -> Iterator[Batch]:
        batches = {
            name: _stream(config, name, splits[name], orders[name], share, start, host, hosts)
            for name, share in images.items()
        }
        return _iterate(tf.data.Dataset.zip(batches), config)

    def indices(name: str, step: int) -> list[int]:
        return (
            orders[name].indices(positions(tf.constant([step], tf.int64), images[name], host, hosts)).numpy().tolist()
        )

    streams_read = {
        name: Stream(splits[name], order.keys, functools.partial(indices, name)) for name, order in orders.items()
    }
    return training_steps(make, streams_read, start_step, config.data.undecodable_limit)


def names_of_step(config: ConfigDict, step: int) -> dict[str, list[str]]:
    """Returns the names of the images of a step, of all hosts, by stream.

    Args:
      config: the whole configuration.
      step: counted from 0, as for `training_batches`.
    """
    splits, orders = _orders(config)
    steps = tf.constant([step], tf.int64)
    return {
        name: [splits[name].name_of(index) for index in orders[name].indices(positions(steps, count)).numpy()]
        for name, count in streams(config).items()
    }


def evaluation_batches(config: ConfigDict, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Yields this host's part of one pass over the images of a split, in the order of the records.

    Args:
      config: the whole configuration; `config.evaluation.split` is "validation", "test" or, for the training images of
        the source, "source".
      host: number of this host, from 0.
      hosts: number of hosts; all of them get the same number of batches, of the same size.

    Returns:
      Iterator of {"image": uint8 [b, H, W, 3] RGB at the size of training, "label": uint8 [b, Y, X] at the size of the
      dataset (of "source": of training), "name": text [b], "valid": bool [b]}, with b = config.evaluation.batch /
      `hosts`, rounded up. Labels are train ids, the number of classes for the class table's `others`, or 255. Places of
      the last step without an image have valid False, no name and a label that is ignored everywhere. Test images
      without labels have no "label". `operator.length_hint` of the iterator is the number of batches left.

    Raises:
      UserError: files are missing or unusable, or labels of several sizes do not fit `config.evaluation.batch`.
    """
    part = evaluation_part(config)
    split = open_splits(config, [part])[part]
    labelled = evaluation_has_labels(config)
    return _evaluation(config, split, np.arange(split.count), labelled, host, hosts, domain_of(part))


def left_out(config: ConfigDict) -> int:
    """Returns how many files of the split that `evaluation_batches` reads could not be used when it was prepared.

    Args:
      config: the whole configuration.

    Raises:
      UserError: files are missing or unusable.
    """
    part = evaluation_part(config)
    return open_splits(config, [part])[part].left_out()


def volumes(config: ConfigDict) -> Volumes | None:
    """Returns the volumes of the images of `evaluation_batches`; None if these are no slices of volumes.

    Args:
      config: the whole configuration.

    Raises:
      UserError: files are missing or unusable.
    """
    part = evaluation_part(config)
    split = open_splits(config, [part])[part]
    return volumes_of(split, np.arange(split.count))


def held_out_volumes(config: ConfigDict) -> Volumes | None:
    """Does the same for `held_out_batches`."""
    split = open_splits(config, ["target_train"])["target_train"]
    return volumes_of(split, choose_labelled(config, split).held_out)


def held_out_batches(config: ConfigDict, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Yields this host's part of one pass over the held-out labelled target images.

    They are `config.data.held_out` images of the target training split (1 or more), see
    `data/sampling/labelled_subset.py`. The labelled stream never holds them; the unlabelled one does.

    Args:
      config: the whole configuration.
      host: number of this host, from 0.
      hosts: number of hosts.

    Returns:
      As `evaluation_batches`.

    Raises:
      UserError: as for `evaluation_batches`.
    """
    split = open_splits(config, ["target_train"])["target_train"]
    return _evaluation(config, split, choose_labelled(config, split).held_out, True, host, hosts)


def labelled_list(config: ConfigDict) -> labelled_subset.Choice | None:
    """Returns the labelled target images of a run; None if it reads no label of them.

    Raises:
      UserError: the chosen images are not all there, or have no labels.
    """
    if not reads_target_labels(config):
        return None
    return choose_labelled(config, open_splits(config, ["target_train"])["target_train"])


def _evaluation(
    config: ConfigDict,
    split: Split,
    chosen: np.ndarray,
    with_labels: bool,
    host: int,
    hosts: int,
    domain: str = "target",
) -> Iterator[Batch]:
    """Returns this host's batches of one pass over the images `chosen` (indices, int64 [N])."""
    images = -(-config.evaluation.batch // hosts)
    if with_labels:
        index.check_label_sizes(split.label_sizes()[chosen], config.evaluation.batch)
    decode = split.decoder("image", "name", *(["label"] if with_labels else []), scored=True)
    size = tuple(config.data[f"{domain}_size"])

    def read(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = positions(steps, images, host, hosts)
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

    def name_faults(step: int) -> None:
        taken = positions(tf.constant([step], tf.int64), images, host, hosts).numpy()
        check_records(split, chosen[taken[taken < len(chosen)]], ("image", "label") if with_labels else ("image",))

    return _Pass(_iterate(_batches(steps, images, read, example, config.data.readers), config), len(steps), name_faults)


class _Pass(Iterator[Batch]):
    """A pass over batches that knows how many are left, and turns names into text."""

    def __init__(self, batches: Iterator[Batch], count: int, name_faults: Callable[[int], None]):
        self._batches, self._count, self._left, self._name_faults = batches, count, count, name_faults

    def __next__(self) -> Batch:
        try:
            batch = next(self._batches)
        except UNDECODABLE:
            self._name_faults(self._count - self._left)
            raise
        self._left -= 1
        return batch | {"name": np.array([name.decode() for name in batch["name"]], str)}

    def __length_hint__(self) -> int:
        return self._left


def _orders(config: ConfigDict) -> tuple[dict[str, Split], dict[str, Order]]:
    """Returns the split and the order of every stream."""
    by_part = open_splits(config, [PARTS[name] for name in streams(config)])
    splits = {name: by_part[PARTS[name]] for name in streams(config)}
    return splits, {name: Order(config, name, split) for name, split in splits.items()}


def _stream(
    config: ConfigDict, name: str, split: Split, order: Order, images: int, start_step: int, host: int, hosts: int
) -> tf.data.Dataset:
    """Returns the endless dataset of this host's batches of one stream, with `images` examples each."""
    limit = config.data.decoded_memory * decoded_cache.MIB
    cache = decoded_cache.decode_all(split, order.keys, order.chosen, limit, config.data.readers)
    fetch, decode = (tf.identity, cache) if cache else (split.read, split.decoder(*order.keys))
    domain = "source" if name == "source" else "target"
    table = class_table(config.data.classes, config.data.custom)
    functions = augment.augmentations(config.augment, config.data[f"{domain}_size"], table.background)
    # The seed of an augmentation holds one number beside the position, different for every seed and stream.
    augment_seed = tf.constant(config.seed * len(STREAMS) + STREAMS.index(name), tf.int64)

    def read(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = positions(steps, images, host, hosts)
        return position, fetch(order.indices(position))

    def example(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        augmented = augment.apply(functions, decode(record), tf.stack([augment_seed, position]))
        # The channel of the label: [H, W, 1] to [H, W].
        return {key: value[..., 0] if key == "label" else value for key, value in augmented.items()}

    steps = range(start_step, np.iinfo(np.int64).max)
    return _batches(steps, images, read, example, config.data.readers)


def _batches(steps: range, images: int, read: Read, example: Decode, readers: int) -> tf.data.Dataset:
    """Returns one batch of `images` examples for each step.

    Args:
      steps: the steps.
      images: examples to a step.
      read: maps steps (int64 [S]) to positions (int64 [S * images]) and records (string [S * images]), or to what
        `example` takes in their place.
      example: maps a position and a record to an example; called in parallel, in deterministic order.
      readers: number of parallel calls.
    """
    plain = tf.autograph.experimental.do_not_convert
    chunks = tf.data.Dataset.range(steps.start, steps.stop).batch(max(1, RECORDS_PER_READ // images))
    records = chunks.map(plain(read)).unbatch()
    return records.map(plain(example), num_parallel_calls=readers, deterministic=True).batch(images)


class _Arrays(Iterator[Batch]):
    """The batches of a dataset as numpy arrays, closed when the process exits.

    A dataset that reads ahead through Python while Python shuts down would hang or abort the process.
    """

    _open: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, batches: tf.data.Dataset):
        self._batches = batches.as_numpy_iterator()
        self._open.add(self)

    def __next__(self) -> Batch:
        return next(self._batches)

    @classmethod
    def close_all(cls) -> None:
        for arrays in list(cls._open):
            arrays._batches = iter(())


atexit.register(_Arrays.close_all)


def _iterate(batches: tf.data.Dataset, config: ConfigDict) -> Iterator[Batch]:
    """Returns the batches as numpy arrays, made ahead by `config.data.readers` threads."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = config.data.readers
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return _Arrays(batches.prefetch(config.data.prefetch).with_options(options))
