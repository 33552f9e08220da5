"""Prepares a split: from the user's files to a folder of shards, resumed where it was killed.

Work happens in a folder beside the final one, which is renamed when it is complete. A lock lets a second process
wait for the first one instead of working on the same files.
"""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging
from tqdm import tqdm

from data.preparation import records, shards, split_index, workers
from data.preparation.records import Form
from data.raw.faults import Fault
from data.raw.layout import Layout, explanation
from data.raw.pairs import Found, Pair

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None

# Changes whenever other records would be made of the same files; it is part of the fingerprint.
_VERSION = 1
_SAMPLES = 4  # Pairs that the size on disk is estimated from.
_MARGIN = 1.05
_SHOWN = 10  # Rejected files in an error message.
REJECTED = "rejected.txt"
INCOMPLETE = "incomplete_"  # Begins the name of the folder of work.


class Task(NamedTuple):
    """A split to prepare.

    Attributes:
      layout: of the data set.
      root: its folder.
      split: of the layout.
      form: of the records.
      rejected_limit: more unusable files than these stop the preparation.
      folder: the final one.
      shard_name: from number and count of shards to a file name.
      serialize: a record to bytes.
      describe: writes what TFDS needs into a folder, given the records and bytes of every shard.
    """

    layout: Layout
    root: Path
    split: str
    form: Form
    rejected_limit: int
    folder: Path
    shard_name: Callable[[int, int], str]
    serialize: shards.Serialize
    describe: Callable[[Path, Sequence[int], int], None]


class MissingData(ValueError):  # noqa: N818 (it is no mistake of the program)
    """A split has no files; the text says what to download and where to put it."""

    def __init__(self, layout: Layout, root: str, faults: Sequence[Fault]):
        """Keeps the `faults` that were found in the `root` (empty: not set) of a data set."""
        super().__init__(layout, root, faults)
        self.layout, self.root, self.faults = layout, root, faults

    def __str__(self) -> str:
        found = f"\n\nWhat was found instead:{_list(self.faults)}" if self.faults else ""
        return explanation(self.layout, self.root) + found


def find(layout: Layout, root: str, split: str) -> Found:
    """Finds the pairs of a split.

    Raises:
      MissingData: there are none.
      ValueError: settings of own data are missing.
    """
    found = layout.find(Path(root), split) if root else Found([], [])
    if not found.pairs:
        raise MissingData(layout, root, found.faults)
    return found


def fingerprint(pairs: Sequence[Pair], form: Form) -> str:
    """Returns a text that differs where names or sizes of the files, or the records' form, differ."""
    rules = form.rules
    settings = [
        _VERSION,
        shards.PAIRS_PER_SHARD,
        rules.encoding,
        sorted(rules.raw_ids),
        sorted(rules.known_ids or ()),
        rules.values,
        form.size,
        form.full_labels,
    ]
    files = [[pair.name, pair.label is not None, *pair.size] for pair in pairs]
    return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()[:12]


def prepare(task: Task, found: Found, processes: int | None = None) -> None:
    """Prepares a split unless that is done; shows its progress on the error stream.

    Args:
      task: what to do.
      found: the files of the split, as `find` returns them.
      processes: that read and encode; None: one for each usable core.

    Raises:
      ValueError: too many files are unusable, or the disk lacks room.
    """
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(task.folder.parent / "lock"):
        if task.folder.exists():
            return
        work = task.folder.with_name(f"{INCOMPLETE}{task.folder.name}")
        work.mkdir(exist_ok=True)
        _name_leftovers(work)
        done = _write_shards(task, found, work, processes or workers.usable_cores())
        faults = [*found.faults, *(fault for shard in done for fault in shard.faults)]
        (work / REJECTED).write_text("".join(f"{fault}\n" for fault in faults))
        entries = [entry for shard in done for entry in shard.entries]
        if not entries:
            raise ValueError(f"No image of {task.layout.name} {task.split} can be used:{_list(faults)}")
        rules = task.form.rules
        raw_ids = 256 if rules.values == 256 else max(rules.raw_ids) + 1
        split_index.write(split_index.file_of(work, task.split), entries, raw_ids)
        task.describe(work, [len(shard.entries) for shard in done], sum(shard.bytes for shard in done))
        for file in work.glob("temporary_*"):
            file.unlink()
        work.rename(task.folder)
        # Only now: until here a killed preparation goes on from the notes.
        shards.remove_notes(_shard_files(task, task.folder, len(done)))
        if faults:
            logging.warning("%d files were left out; see %s.", len(faults), task.folder / REJECTED)


def _name_leftovers(work: Path) -> None:
    """Names folders of preparations of other versions of the files: nobody would find them otherwise."""
    start = work.parent.name.rpartition("_")[0]
    for folder in work.parent.parent.glob(f"{start}_*/{work.name}"):
        if folder != work:
            logging.warning("%s is left of a preparation that was stopped; it can be removed.", folder.parent)


def _shard_files(task: Task, work: Path, count: int) -> list[Path]:
    return [work / task.shard_name(number, count) for number in range(count)]


def _write_shards(task: Task, found: Found, work: Path, processes: int) -> list[shards.Shard]:
    """Writes the shards that are not finished, and returns all of them."""
    groups = shards.ranges(found.pairs)
    files = _shard_files(task, work, len(groups))
    done = [shards.finished(file) for file in files]
    faults = [*found.faults, *(fault for shard in done if shard for fault in shard.faults)]
    for fault in faults:
        logging.warning("%s", fault)
    _check_limit(task, faults, work)
    missing = [number for number, shard in enumerate(done) if shard is None]
    if missing:
        left = [pair for number in missing for pair in groups[number]]
        title = f"{task.layout.name} {task.split}"
        _check_room(task, left, len(found.pairs), work)
        results = shards.write(
            [files[number] for number in missing],
            [groups[number] for number in missing],
            task.form,
            task.serialize,
            processes,
        )
        progress = tqdm(
            total=len(found.pairs), initial=len(found.pairs) - len(left), desc=title, unit=" images", file=sys.stderr
        )
        try:
            with contextlib.closing(results), progress:
                for _, fault in results:
                    progress.update()
                    if fault:
                        logging.warning("%s", fault)
                        faults.append(fault)
                        _check_limit(task, faults, work)
        except (OSError, RuntimeError) as error:  # The latter comes from array_record, or from a worker that died.
            text = f"Preparing {title} stopped: {error}. The same command goes on from there ({work})."
            raise ValueError(text) from error
    return [shards.finished(file) for file in files]


def _check_limit(task: Task, faults: Sequence[Fault], work: Path) -> None:
    if len(faults) > task.rejected_limit:
        file = work / REJECTED
        file.write_text("".join(f"{fault}\n" for fault in faults))
        shards.remove_faulty(work)  # They are made again once the files are repaired.
        raise ValueError(
            f"{task.layout.name} {task.split} in {task.root}: more than {task.rejected_limit} files cannot be used "
            f"(config.data.rejected_limit):{_list(faults)}\nAll that were found so far: {file}. "
            "Repair them, or raise the limit to leave them out."
        )


def _list(faults: Sequence[Fault]) -> str:
    more = f"\n  ... {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "".join(f"\n  {fault}" for fault in faults[:_SHOWN]) + more


def needed_bytes(pairs: Sequence[Pair], form: Form) -> int:
    """Returns about how much disk the records of the pairs take, judged by a few of them."""
    made = (records.make(pair, form) for pair in pairs[:: -(-len(pairs) // _SAMPLES) or 1])
    sizes = [len(record.image) + len(record.label) for record in made if isinstance(record, records.Record)]
    return int(_MARGIN * len(pairs) * sum(sizes) / max(len(sizes), 1))


def _check_room(task: Task, left: Sequence[Pair], total: int, work: Path) -> None:
    """Says how much disk the rest takes; raises ValueError if there is not as much."""
    needed = needed_bytes(left, task.form)
    free = shutil.disk_usage(work).free
    title = f"{task.layout.name} {task.split}"
    rest = f"{len(left)} of {total}" if len(left) < total else f"{total}"
    text = f"{title}: {rest} images take about {gigabytes(needed)}, {gigabytes(free)} are free in {work.parent}"
    if needed > free:
        raise ValueError(
            f"{text}. Make room, or name another folder (--config.data.directory), or prepare smaller images "
            f"(--config.data.{task.layout.domain}_size)."
        )
    print(f"Preparing {text}.", file=sys.stderr, flush=True)


def gigabytes(count: int) -> str:
    """Returns a number of bytes as text."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds a lock, which the system releases when this process ends, however it does; waits for another owner."""
    with file.open("a") as opened:
        if fcntl is not None:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.warning("Another process is preparing %s; waiting for it.", file.parent)
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
