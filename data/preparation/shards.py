"""Shards: files of array_record, written so that a killed preparation resumes where it was.

A shard holds the records of a fixed range of pairs. It is written under a temporary name, together with a note of its
entries in the index, its rejected files and the files that it was made of. The note is renamed first and the shard
last: a shard under its final name is complete and has its note.
"""

import collections
import contextlib
import functools
import json
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python import array_record_module

from data.preparation import provenance, records, split_index, workers
from data.preparation.provenance import Source
from data.preparation.records import Form, Record
from data.raw.faults import Fault
from data.raw.pairs import Pair

PAIRS_PER_SHARD = 64
VOLUMES_PER_SHARD = 4  # Of some 140 records each.
# For so few pairs, starting processes takes longer than the work.
_FEW = 16

Serialize = Callable[[Record], bytes]


class Shard(NamedTuple):
    """A finished shard.

    Attributes:
      entries: of the index, one for each record.
      faults: of the pairs that were left out.
      sources: of all of its pairs, by their names.
      rows: raw id -> sum of the rows of its pixels, as in `Record`, of all records.
      bytes: size of the file.
    """

    entries: list[dict[str, Any]]
    faults: list[Fault]
    sources: dict[str, Source]
    rows: dict[int, float]
    bytes: int


def pairs_per_shard(form: Form) -> int:
    """Returns how many pairs a shard holds."""
    return VOLUMES_PER_SHARD if form.rules.is_volume else PAIRS_PER_SHARD


def group_pairs(pairs: Sequence[Pair], form: Form) -> list[Sequence[Pair]]:
    """Returns the pairs of each shard."""
    size = pairs_per_shard(form)
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def read_note(file: Path) -> Shard | None:
    """Reads the note of a finished shard; None if it is not finished, or of a version with other notes."""
    if not file.exists():
        return None
    note = json.loads(_note(file).read_text())
    if not note.keys() >= {"sources", "rows"}:
        return None
    faults = [Fault(kind, Path(path), text) for kind, path, text in note["faults"]]
    sources = {name: Source(tuple(times), tuple(found)) for name, times, found in note["sources"]}
    rows = {int(raw_id): total for raw_id, total in note["rows"].items()}
    return Shard(note["entries"], faults, sources, rows, file.stat().st_size)


def remove_notes(files: Sequence[Path]) -> None:
    """Removes the notes of shards, whose content is in the index by then."""
    for file in files:
        _note(file).unlink(missing_ok=True)


def remove_faulty(folder: Path) -> None:
    """Removes those finished shards of a folder that leave out pairs."""
    for note in folder.glob("note_*.json"):
        file = folder / note.name.removeprefix("note_").removesuffix(".json")
        shard = read_note(file)
        if shard and shard.faults:
            file.unlink()


def write(
    files: Sequence[Path], groups: Sequence[Sequence[Pair]], form: Form, serialize: Serialize, processes: int
) -> Generator[tuple[int, Fault | None]]:
    """Writes shards, one after the other.

    Args:
      files: of the shards.
      groups: the pairs of each.
      form: of the records.
      serialize: turns a record into bytes, always the same ones.
      processes: number of processes that read and encode.

    Yields:
      For every pair, as soon as it is done, the number of its shard and its fault, if it has one. A shard is
      finished before the first pair of the next one is yielded, and at the end.

    Raises:
      OSError, RuntimeError: a shard cannot be written; array_record raises the latter.
    """
    pairs = [pair for group in groups for pair in group]
    processes = 1 if len(pairs) <= (VOLUMES_PER_SHARD if form.rules.is_volume else _FEW) else processes
    results = workers.map_in_order(functools.partial(_make, form=form), pairs, processes)
    with contextlib.closing(results):
        for number, (file, group) in enumerate(zip(files, groups, strict=True)):
            entries, faults, sources = [], [], []
            rows: collections.Counter = collections.Counter()
            temporary = file.with_name(f"temporary_{file.name}")
            # One record a group, so that each can be read alone.
            writer = array_record_module.ArrayRecordWriter(os.fspath(temporary), "group_size:1")
            try:
                for pair in group:
                    source, result = next(results)
                    sources.append((pair.name, *source))
                    if isinstance(result, Fault):
                        faults.append(result)
                        yield number, result
                        continue
                    for record in result:
                        writer.write(serialize(record))
                        entries.append(split_index.make_entry(record))
                        rows.update(record.rows)
                    yield number, None
            finally:
                writer.close()
            note = _note(file).with_name(f"temporary_{_note(file).name}")
            stored = {
                "entries": entries,
                "faults": [(fault.kind, str(fault.file), fault.text) for fault in faults],
                "sources": sources,
                "rows": rows,
            }
            note.write_text(json.dumps(stored))
            for path in (note, temporary):
                _flush(path)
            note.rename(_note(file))
            temporary.rename(file)


def _make(pair: Pair, form: Form) -> tuple[Source, list[Record] | Fault]:
    """Returns what the records of a pair are made of, and the records."""
    source = provenance.source_of(pair)  # First: of a file that changes meanwhile, the difference is noticed later.
    return source, records.make_records(pair, form)


def _note(file: Path) -> Path:
    return file.with_name(f"note_{file.name}.json")


def _flush(file: Path) -> None:
    """Waits until a file is on the disk, so that a power cut cannot keep its rename but lose its content."""
    with file.open("rb") as content:
        os.fsync(content.fileno())
