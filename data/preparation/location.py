"""Locates a split: the user's files, and the folder of the records that are prepared from them.

The folder's name holds a fingerprint of the files and of all settings that change the records, so that a dataset that
has changed is prepared again. `data/preparation/provenance.py` finds the changes that keep names and sizes.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from configs.user_error import UserError
from data.classes import IGNORED
from data.datasets.registry import find_spec
from data.datasets.spec import DatasetSpec, Split, describe_layout, domain_of
from data.preparation import provenance, shards, split_index
from data.preparation.records import Form
from data.raw import file_access
from data.raw.faults import BadFileError, Fault
from data.raw.pairs import Pair, SplitFiles

VERSION = "1.0.0"  # The last part of the folder of every prepared split; its parent tells files and settings apart.
_RECORDS_VERSION = 2  # Changes whenever the same files would give other records; part of the fingerprint.
_SHOWN = 10  # Faults in a message.


class SplitLocation(NamedTuple):
    """Where a split is.

    Attributes:
      spec: its dataset.
      part: the part of a run that it is, such as "target_validation".
      form: of its records.
      folder: of its records; exists once they are prepared.
      files: the user's files; None if they are gone and only the records are there.
    """

    spec: DatasetSpec
    part: str
    form: Form
    folder: Path
    files: SplitFiles | None

    @property
    def split(self) -> Split:
        """The split of the dataset."""
        return self.spec.splits[self.part]

    @property
    def user_files(self) -> SplitFiles:
        """The user's files, where the records alone are not enough.

        Raises:
          MissingDataError: they are gone.
        """
        if self.files is None:
            raise MissingDataError(self.spec, domain_of(self.part), "", [])
        return self.files

    @property
    def title(self) -> str:
        """Dataset and split, for messages."""
        return f"{self.spec.name} {self.split.name}"


Locations = Mapping[str, SplitLocation]  # By part of a run.


class MissingDataError(UserError):
    """A split has no files. The message says what to download and where to put it, or what cannot be read.

    Attributes:
      spec: the dataset.
      domain: "source" or "target".
      root: the folder where it was expected; empty: not set.
      faults: what was found there.
    """

    def __init__(self, spec: DatasetSpec, domain: str, root: str, faults: Sequence[Fault]):
        super().__init__(spec, domain, root, faults)
        self.spec, self.domain, self.root, self.faults = spec, domain, root, faults

    @property
    def unreadable(self) -> list[Fault]:
        """The faults of files and folders that are there, so that nothing is to be downloaded in their place."""
        return [fault for fault in self.faults if fault.kind in ("unreadable", "damaged")]

    def __str__(self) -> str:
        if self.unreadable:
            return f"The dataset {self.spec.name!r} cannot be read:{list_faults(self.unreadable)}"
        found = f"\n\nWhat was found instead:{list_faults(self.faults)}" if self.faults else ""
        return describe_layout(self.spec, self.domain, self.root) + found


def locate_split(data_config: ConfigDict, part: str) -> SplitLocation:
    """Lists the files of a split that is not generated; prepares nothing, and reads only files that may have changed.

    Where the root is not set or gone, records that were prepared earlier with these settings are enough.

    Args:
      data_config: `config.data`.
      part: of a run, such as "source_train".

    Raises:
      MissingDataError: neither files nor records are there, or the files cannot be read.
      UserError: several prepared versions are there, or settings of own data are out of range.
    """
    domain = domain_of(part)
    spec = find_spec(data_config, domain)
    split = spec.splits[part].name
    size = None if data_config.full_size else tuple(data_config[f"{domain}_size"])
    scored = part in ("target_validation", "target_test") and spec.splits[part].labels == "all"
    form = Form(spec.labels, size, full_labels=scored)  # Scores are computed at full size.
    root = data_config[f"{domain}_root"]
    parent = prepared_folder(data_config.directory) / spec.name
    start = "_".join([split, "full" if size is None else "{}x{}".format(*size), *(["labels"] * form.full_labels)])
    if not root or not Path(root).is_dir():
        return SplitLocation(spec, part, form, _earlier_folder(spec, domain, parent, root, start), None)
    if spec.find is None:
        raise ValueError(f"{spec.name} is generated and has no files.")
    files = spec.find(Path(root), split)
    if not files.pairs:
        raise MissingDataError(spec, domain, root, [*files.faults, *files.others])
    first = parent / f"{start}_{fingerprint(files.pairs, form)}" / VERSION
    index = split_index.file_of(first, split).name
    folder = provenance.find_folder(first, index, files.pairs, f"{spec.name} {split}")
    return SplitLocation(spec, part, form, folder, files)


def _earlier_folder(spec: DatasetSpec, domain: str, parent: Path, root: str, start: str) -> Path:
    """Returns the only folder of records that was prepared with these settings."""
    names = [path.parent.parent.name for path in sorted(parent.glob(f"{start}_*/*/dataset_info.json"))]
    names = [name for name in names if name.rpartition("_")[0] == start and "incomplete" not in name]
    if not names:
        try:
            file_access.expect_folder(Path(root))
        except BadFileError as error:
            raise MissingDataError(spec, domain, root, [error.fault]) from error
        raise MissingDataError(spec, domain, root, [])
    if len(names) > 1:
        raise UserError(
            f"{parent} holds {len(names)} prepared versions of {spec.name}: {', '.join(names)}. "
            f"Set --config.data.{domain}_root to the folder from which one is prepared, or remove the others."
        )
    logging.warning("%s %s: reading %s, prepared earlier.", spec.name, start, parent / names[0])
    return parent / names[0] / VERSION


def prepared_folder(directory: str) -> Path:
    """Returns the folder of all prepared datasets; `directory` is `config.data.directory`, empty by default."""
    return Path(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def fingerprint(pairs: Sequence[Pair], form: Form) -> str:
    """Returns a text that differs where names or sizes of the files, or the form of the records, differ."""
    rules = form.rules
    settings = [
        _RECORDS_VERSION,
        shards.pairs_per_shard(form),
        rules.encoding,
        sorted(rules.raw_ids),
        sorted(rules.known_ids or ()),
        rules.values,
        form.size,
        form.full_labels,
        *([rules.colours] if rules.colours else []),
        *([rules.unlabelled_id] if rules.unlabelled_id != IGNORED else []),  # 255 would be a class in older records.
    ]
    files = [[pair.name, pair.label is not None, *pair.size] for pair in pairs]
    return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()[:12]


def list_faults(faults: Sequence[Fault]) -> str:
    """Returns the first faults as text, each on a line of its own below what comes before."""
    more = f"\n  ... {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "".join(f"\n  {fault}" for fault in faults[:_SHOWN]) + more
