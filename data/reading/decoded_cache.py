"""Decodes small streams, such as a few labelled images, once and keeps them in memory."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from data.reading.split_reader import RECORDS_PER_READ, UNDECODABLE, Split

MIB = 2**20


def decode_all(
    split: Split, keys: tuple[str, ...], chosen: np.ndarray, limit: int, readers: int
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]] | None:
    """Decodes all images of a stream at once, if they fit.

    Args:
      split: of the records.
      keys: features that are decoded.
      chosen: indices of the stream's records, int64 [N].
      limit: bytes that they may take.
      readers: threads that decode.

    Returns:
      The function from an index (int64 scalar) to the decoded features. None if they take more, have several sizes, or
      one does not decode; which image replaces that one is decided at the step that reads it.
    """
    shapes = split.shapes(*keys)
    known = all(None not in shape for shape in shapes)
    if not known or len(chosen) * sum(map(math.prod, shapes)) > limit or split.undecodable[keys]:  # type: ignore[arg-type]
        return None
    records = tf.data.Dataset.from_tensor_slices(chosen).batch(RECORDS_PER_READ).map(split.read).unbatch()
    decoded = records.map(split.decoder(*keys), num_parallel_calls=readers, deterministic=True)
    try:
        examples = decoded.batch(len(chosen)).get_single_element()
    except UNDECODABLE:
        return None
    places = np.zeros(split.count, np.int64)
    places[chosen] = np.arange(len(chosen))
    return lambda index: {key: values[tf.gather(places, index)] for key, values in examples.items()}
