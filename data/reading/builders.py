"""The data sets by name: how each is opened, its splits, and what its labels hold."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data.preparation import builder, locate
from data.toy import builder as toy_builder


class DataSet(NamedTuple):
    """A data set: how its prepared builder is opened, and its splits; None where it has no such split.

    The features of its records are image uint8 [Y, X, 3], label uint8 or uint16 [Y, X, 1] and name (text).
    """

    # Of config.data and the name of one of the fields below; prepares that split on first use.
    open: Callable[[ConfigDict, str], tfds.core.DatasetBuilder]
    source_train: str | None
    target_train: str | None
    target_validation: str | None
    target_test: str | None = None  # Its labels are not read.
    # Of config.data and a domain: raw id -> class. None: labels hold train ids.
    raw_ids: Callable[[ConfigDict, str], Mapping[int, str]] | None = None
    # As `open`, but only says (ValueError) if that would not find the files. None: there is nothing to find.
    check: Callable[[ConfigDict, str], object] | None = None


def _open_toy(data_config: ConfigDict, part: str) -> tfds.core.DatasetBuilder:
    del part  # All splits lie in one folder.
    return toy_builder.open_builder(data_config)


def _real(name: str) -> DataSet:
    splits = dict.fromkeys(("source_train", "target_train", "target_validation")) | locate.SPLITS[name]
    return DataSet(
        open=lambda data_config, part: builder.open_builder(locate.wanted(name, data_config, part)),
        **splits,
        raw_ids=functools.partial(locate.raw_ids, name),
        check=lambda data_config, part: locate.locate(locate.wanted(name, data_config, part)),
    )


DATASETS = {
    "toy": DataSet(_open_toy, **locate.SPLITS["toy"]),
    "gta5": _real("gta5"),
    "synthia": _real("synthia"),
    "cityscapes": _real("cityscapes"),
    "custom": _real("custom"),
}
