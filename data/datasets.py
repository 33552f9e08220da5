"""The data sets by name: how each is opened, its splits, and what its labels hold."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data import prepared, toy


class DataSet(NamedTuple):
    """A data set: how its prepared builder is opened, and its splits; None where it has no such split.

    The features of its records are image uint8 [Y, X, 3], label uint8 or uint16 [Y, X, 1] and name (text).
    """

    # Of config.data and the name of one of the fields below; prepares that split on first use.
    open: Callable[[ConfigDict, str], tfds.core.DatasetBuilder]
    source_train: str | None
    target_train: str | None
    target_validation: str | None
    # Of config.data and a domain: raw id -> class. None: labels hold train ids.
    raw_ids: Callable[[ConfigDict, str], Mapping[int, str]] | None = None


def _open_toy(data_config: ConfigDict, part: str) -> tfds.core.DatasetBuilder:
    del part  # All splits lie in one folder.
    return toy.open_builder(data_config)


def _open_real(name: str, data_config: ConfigDict, part: str) -> tfds.core.DatasetBuilder:
    domain, split = part.partition("_")[0], getattr(DATASETS[name], part)
    return prepared.open_builder(name, data_config, domain, split, full_labels=part == "target_validation")


def _real(
    name: str, source_train: str | None = None, target_train: str | None = None, target_validation: str | None = None
) -> DataSet:
    open_real, raw_ids = functools.partial(_open_real, name), functools.partial(prepared.raw_ids, name)
    return DataSet(open_real, source_train, target_train, target_validation, raw_ids)


DATASETS = {
    "toy": DataSet(_open_toy, "source_train", "target_train", "target_validation"),
    "gta5": _real("gta5", source_train="train"),
    "synthia": _real("synthia", source_train="train"),
    "cityscapes": _real("cityscapes", target_train="train", target_validation="val"),
    "custom": _real("custom", "source_train", "target_train", "target_validation"),
}
