"""The data sets by name: how each is opened, its splits, and what its labels hold."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data import folders, prepared, toy


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
    return toy.open_builder(data_config)


def _real(name: str, **given: str) -> DataSet:
    """Returns a data set of which the `given` splits, by field of `DataSet`, exist."""
    splits = dict.fromkeys(("source_train", "target_train", "target_validation")) | given

    def wanted(data_config: ConfigDict, part: str) -> prepared.Wanted:
        full_labels = part == "target_validation"  # Scores are taken at full size.
        return prepared.Wanted(name, data_config, part.partition("_")[0], splits[part], full_labels)

    return DataSet(
        open=lambda data_config, part: prepared.open_builder(wanted(data_config, part)),
        **splits,
        raw_ids=functools.partial(prepared.raw_ids, name),
        check=lambda data_config, part: prepared.locate(wanted(data_config, part)),
    )


DATASETS = {
    "toy": DataSet(_open_toy, "source_train", "target_train", "target_validation"),
    "gta5": _real("gta5", source_train="train"),
    "synthia": _real("synthia", source_train="train"),
    "cityscapes": _real("cityscapes", target_train="train", target_validation="val", target_test="test"),
    "custom": _real("custom", **{split: split for split in folders.FOLDERS}),
}
