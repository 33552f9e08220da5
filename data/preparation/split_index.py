"""The index beside the records of a prepared split: names, labels and sizes, without reading the records."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.user_error import UserError
from data.preparation.records import Record
from data.raw.nifti import Frame


class Index(NamedTuple):
    """Facts about the N records of a split, in their order.

    Attributes:
      names: [N].
      labelled: bool [N].
      class_counts: pixels of every raw id in the stored labels, int64 [N, raw ids].
      label_sizes: heights and widths of the labels, int64 [N, 2].
      frames: name of a volume -> its frame; empty unless the records are slices.
    """

    names: list[str]
    labelled: np.ndarray
    class_counts: np.ndarray
    label_sizes: np.ndarray
    frames: dict[str, Frame]


def make_entry(record: Record) -> dict[str, Any]:
    """Returns the entry of a record, in types of JSON."""
    counts = {str(raw_id): count for raw_id, count in record.counts.items()}
    entry = {"name": record.name, "labelled": record.labelled, "counts": counts, "label_size": record.label_size}
    return entry | ({"frame": record.frame._asdict()} if record.frame else {})


def volume_of(name: str) -> str:
    """Returns the volume of a slice, given the slice's name."""
    return name.rpartition("/")[0]


def file_of(folder: Path, split: str) -> Path:
    """Returns the file of a split's index."""
    return folder / f"index_{split}.json"


def write_index(file: Path, entries: Sequence[dict[str, Any]], raw_ids: int) -> None:
    """Writes the index.

    Args:
      file: to write.
      entries: of all records, in their order.
      raw_ids: number of raw ids that are counted; larger ones have no class and are not counted.
    """
    lines = ",\n".join(json.dumps(each) for each in entries)
    file.write_text(f'{{"raw_ids": {raw_ids}, "records": [\n{lines}\n]}}\n')


def read_index(file: Path) -> Index:
    """Reads an index.

    Raises:
      UserError: it is damaged.
    """
    try:
        content = json.loads(file.read_text())
        records = content["records"]
        counts = np.zeros((len(records), content["raw_ids"]), np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); remove {file.parent} to have it prepared again.") from error
    for row, record in zip(counts, records, strict=True):
        for raw_id, count in record["counts"].items():
            if int(raw_id) < len(row):
                row[int(raw_id)] = count
    return Index(
        [record["name"] for record in records],
        np.array([record["labelled"] for record in records], bool),
        counts,
        np.array([record["label_size"] for record in records], np.int64).reshape(-1, 2),
        {
            volume_of(record["name"]): Frame(
                tuple(record["frame"]["shape"]), tuple(map(tuple, record["frame"]["affine"]))
            )
            for record in records
            if "frame" in record
        },
    )


def check_label_sizes(label_sizes: np.ndarray, batch: int) -> None:
    """Raises UserError if labels of these sizes (int64 [N, 2]) cannot be evaluated in batches of `batch`."""
    sizes = np.unique(label_sizes, axis=0)
    if batch > 1 and len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sizes[:8])
        raise UserError(
            f"evaluation.batch is {batch}, but the labels to be scored have {len(sizes)} sizes ({shown}): expected 1. "
            "Set --config.evaluation.batch=1."
        )
