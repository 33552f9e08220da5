"""Where the splits of a run are: the files of the user, and the folders that are prepared of them.

It imports no TensorFlow, so that `--mode=check` answers without.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from data.datasets import cityscapes, custom, gta5, synthia
from data.preparation import prepare
from data.preparation.records import Form
from data.raw.layout import Layout
from data.raw.pairs import Found

# Data set -> part of a run (a field of `data.reading.builders.DataSet`) -> split of the data set.
SPLITS = {
    "toy": {part: part for part in ("source_train", "target_train", "target_validation")},
    "gta5": {"source_train": "train"},
    "synthia": {"source_train": "train"},
    "cityscapes": {"target_train": "train", "target_validation": "val", "target_test": "test"},
    "custom": {part: part for part in custom.FOLDERS},
}
VERSION = "1.0.0"  # Of all prepared splits: the last part of their folder; files and settings are in its parent.
_LAYOUTS = {"gta5": gta5.layout, "synthia": synthia.layout, "cityscapes": cityscapes.layout}


def expect_known(name: str, part: str, splits: Mapping[str, Collection[str]] = SPLITS) -> None:
    """Raises ValueError unless a data set has a part of a run.

    Args:
      name: of the data set.
      part: such as "source_train".
      splits: data set -> its parts.
    """
    valid = [other for other, parts in splits.items() if part in parts]
    if part == "target_test" and name in splits and name not in valid:
        raise ValueError(
            f"The data set {name!r} has no test images: evaluation.split is 'test'; expected 'validation'."
        )
    if name not in valid:
        raise ValueError(f"Unknown data set {name!r} for {part}. Valid: {', '.join(valid)}.")


def layout_of(name: str, data_config: ConfigDict, domain: str) -> Layout:
    """Returns the layout of a real data set.

    Args:
      name: "gta5", "synthia", "cityscapes" or "custom".
      data_config: `config.data`.
      domain: "source" or "target"; matters for own data only.

    Raises:
      ValueError: settings of own data are out of range.
    """
    if name == "custom":
        return custom.layout(data_config.custom, domain)
    return _LAYOUTS[name]()


def raw_ids(name: str, data_config: ConfigDict, domain: str) -> Mapping[int, str]:
    """Returns raw id -> class of a real data set's labels; arguments as for `layout_of`."""
    return layout_of(name, data_config, domain).labels.raw_ids


class Wanted(NamedTuple):
    """A split that is wanted, and how.

    Attributes:
      name: "gta5", "synthia", "cityscapes" or "custom".
      data_config: `config.data`.
      domain: "source" or "target": whose root and size are meant.
      split: of the data set's layout.
      full_labels: whether labels keep their own size.
    """

    name: str
    data_config: ConfigDict
    domain: str
    split: str
    full_labels: bool = False


def wanted(name: str, data_config: ConfigDict, part: str) -> Wanted:
    """Returns the split of a real data set that is a part of a run, such as "target_validation"."""
    full_labels = part == "target_validation"  # Scores are taken at full size.
    return Wanted(name, data_config, part.partition("_")[0], SPLITS[name][part], full_labels)


class Located(NamedTuple):
    """Where a split is, or is to be.

    Attributes:
      layout: of its data set.
      form: of its records.
      folder_name: of the builder's configuration.
      found: its files; None where they are gone and only the prepared split is there.
    """

    layout: Layout
    form: Form
    folder_name: str
    found: Found | None


def locate(wanted: Wanted) -> Located:
    """Finds the files of a split, without reading or preparing them.

    Where the root is not set or gone, a split that was prepared once with these settings is enough.

    Raises:
      ValueError: neither is there, or settings are out of range.
    """
    data_config, domain = wanted.data_config, wanted.domain
    layout = layout_of(wanted.name, data_config, domain)
    size = None if data_config.full_size else tuple(data_config[f"{domain}_size"])
    form = Form(layout.labels, size, wanted.full_labels)
    root = data_config[f"{domain}_root"]
    start = "_".join(
        [wanted.split, "full" if size is None else "{}x{}".format(*size), *(["labels"] * wanted.full_labels)]
    )
    if not root or not Path(root).is_dir():
        return Located(layout, form, _prepared_before(layout, data_config.directory, root, start), None)
    found = prepare.find(layout, root, wanted.split)
    return Located(layout, form, f"{start}_{prepare.fingerprint(found.pairs, form)}", found)


def _prepared_before(layout: Layout, directory: str, root: str, start: str) -> str:
    """Returns the name of the only folder that was prepared with these settings."""
    parent = directory_of(directory) / layout.name
    found = [path.parent.parent.name for path in sorted(parent.glob(f"{start}_*/*/dataset_info.json"))]
    found = [name for name in found if name.rpartition("_")[0] == start and "incomplete" not in name]
    if not found:
        raise prepare.MissingData(layout, root, [])
    if len(found) > 1:
        raise ValueError(
            f"{parent} holds {len(found)} prepared versions of {layout.name}: {', '.join(found)}. "
            f"Set --config.data.{layout.domain}_root to the folder that one is made of, or remove the others."
        )
    logging.warning("%s %s: reading %s, prepared earlier.", layout.name, start, parent / found[0])
    return found[0]


def folder_of(data_config: ConfigDict, located: Located) -> Path:
    """Returns the folder of a prepared split; it is there only once that is done."""
    return directory_of(data_config.directory) / located.layout.name / located.folder_name / VERSION


def directory_of(directory: str) -> Path:
    """Returns the folder of all prepared data sets; `directory` is `config.data.directory`, empty by default."""
    return Path(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
