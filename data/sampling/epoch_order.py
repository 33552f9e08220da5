"""The order of the images of a stream: a pure function of seed, position and the images on disk.

Position p belongs to epoch p // N of the N images; a seeded permutation of the epoch maps p % N to an image. With
`config.data.rare_class_temperature`, labelled images are drawn by `data/sampling/rare_classes.py` instead. An image
that does not decode is replaced by the image of the next position of the epoch that does, so that every position has
the same image in every run, whenever the fault is found.
"""

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from configs.user_error import UserError
from data.datasets.registry import SPECS
from data.reading.split_reader import Split
from data.sampling import labelled_subset, rare_classes
from data.streams import STREAMS


class Order:
    """The order of one stream's images.

    Attributes:
      keys: features that the stream reads.
      chosen: indices of the records that it draws from, int64 [N].
    """

    def __init__(self, config: ConfigDict, stream: str, split: Split):
        """Makes the order of a stream over the images of a split from which it draws."""
        self.keys = ("image",) if stream == "unlabelled" else ("image", "label")
        self._split = split
        self.chosen = choose_labelled(config, split).training if stream == "labelled" else np.arange(split.count)
        self._seed = (config.seed, STREAMS.index(stream))
        temperature = config.data.rare_class_temperature if stream != "unlabelled" else 0
        self._sampler = None
        if temperature:
            counts = split.class_counts()[self.chosen]
            least_share = SPECS[config.data["source" if stream == "source" else "target"]].least_share
            self._sampler = rare_classes.RareClassSampler(counts, split.table, temperature, self._seed, least_share)

    def indices(self, position: tf.Tensor) -> tf.Tensor:
        """Returns the index of the record (int64 [N]) at each position (int64 [N]).

        Records that are known not to decode when the graph is built are left out: see `data.reading.bad_records`.

        Raises:
          UserError: no image of the stream decodes.
        """
        bad = np.intersect1d(self.chosen, list(self._split.undecodable[self.keys]))
        if not bad.size:
            return self._plain_indices(position)
        if bad.size == len(self.chosen):
            raise UserError(
                f"None of the {bad.size} images of {self._split.title} decodes. Check the disk, and remove the "
                "prepared dataset to have it made again."
            )
        count = len(self.chosen)

        def is_bad(shift: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
            del shift
            return tf.reduce_any(found[:, None] == bad, axis=1)

        def next_one(shift: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            shift += tf.cast(is_bad(shift, found), tf.int64)
            return shift, self._plain_indices(position // count * count + (position % count + shift) % count)

        start = tf.zeros_like(position), self._plain_indices(position)
        return tf.while_loop(lambda *now: tf.reduce_any(is_bad(*now)), next_one, start)[1]

    def _plain_indices(self, position: tf.Tensor) -> tf.Tensor:
        if self._sampler is not None:
            drawn = tf.numpy_function(self._sampler.draw, [position], tf.int64, stateful=False)
            return tf.gather(self.chosen, tf.ensure_shape(drawn, position.shape))
        epoch = position // len(self.chosen)
        seed = tf.repeat(tf.constant([self._seed], tf.int64), tf.size(epoch), axis=0)
        places = tf.raw_ops.RandomIndexShuffle(
            index=position % len(self.chosen),
            seed=tf.concat([seed, epoch[:, None]], axis=1),
            max_index=tf.constant(len(self.chosen) - 1, tf.int64),
            rounds=8,  # With four, two streams take the same image together more often than by chance.
        )
        return tf.gather(self.chosen, places)


def choose_labelled(config: ConfigDict, split: Split) -> labelled_subset.Choice:
    """Chooses the labelled target images, and which of them are held out."""
    return labelled_subset.choose(config.data, split.names(), split.labelled())


def positions(steps: tf.Tensor, images: int, host: int = 0, hosts: int = 1) -> tf.Tensor:
    """Returns a host's positions in steps (int64 [S]) of `images` per host: int64 [S * images]."""
    own = tf.range(host * images, (host + 1) * images, dtype=tf.int64)
    return tf.reshape(steps[:, None] * (images * hosts) + own, [-1])
