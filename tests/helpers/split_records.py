"""Prepares splits of miniature datasets and reads their records."""

from data.preparation.location import locate_split
from data.reading.split_builder import open_split_builder


def open_split(config, part="source_train", processes=None):
    return open_split_builder(locate_split(config.data, part), config.data, processes)


def read(builder):
    """Returns name -> record, as TFDS reads it."""
    split = next(iter(builder.info.splits))
    return {example["name"].decode(): example for example in builder.as_data_source(split)}
