"""Prepares a split: from the user's files to a folder of shards, resumed where it was killed.

Work happens in a folder beside the final one, which is renamed when it is complete. A lock lets a second process
wait for the first one instead of working on the same files.
"""

import collections
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging
from tqdm import tqdm

from configs.user_error import UserError
from data.datasets.spec import domain_of
from data.preparation import provenance, records, shards, split_index, workers
from data.preparation.location import SplitLocation, list_faults
from data.preparation.records import Form
from data.raw import train_ids
from data.raw.faults import Fault
from data.raw.pairs import Pair

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None  # type: ignore[assignment]

_SAMPLES = 4  # Pairs from which the size on disk is estimated; of volumes, one.
_MARGIN = 1.05
REJECTED = "rejected.txt"


class Task(NamedTuple):
    """A split to prepare.

    Attributes:
      location: of its files and records.
      root: folder of the dataset.
      rejected_limit: preparation stops when more files than these are unusable.
      shard_name: returns the file name of a shard, given its number and the count of shards.
      serialize: turns a record into bytes.
      describe: writes what TFDS needs into a folder, given the records of every shard and the bytes of all.
    """

    location: SplitLocation
    root: Path
    rejected_limit: int
    shard_name: Callable[[int, int], str]
    serialize: shards.Serialize
    describe: Callable[[Path, Sequence[int], int], None]


def prepare_split(task: Task, processes: int | None = None) -> None:
    """Prepares a split unless that is done; shows its progress on the error stream.

    Args:
      task: the split; its location has files.
      processes: number of processes that read and encode; None: one for each usable core.

    Raises:
      UserError: too many files are unusable, the disk is too small, or the folder cannot be written.
    """
    location = task.location
    folder, files = location.folder, location.user_files
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder.parent), _lock(folder.parent / "lock"):
        if folder.exists():
            return
        work = incomplete_folder(folder)
        work.mkdir(exist_ok=True)
        _warn_of_leftovers(work)
        done = _write_shards(task, work, processes or workers.usable_cores())
        faults = [*files.faults, *(fault for shard in done for fault in shard.faults)]
        (work / REJECTED).write_text("".join(f"{fault}\n" for fault in faults))
        entries = [entry for shard in done for entry in shard.entries]
        if not entries:
            raise UserError(f"No image of {location.title} can be used:{list_faults(faults)}")
        _refuse_train_ids(location, done)
        rules = location.form.rules
        raw_ids = 256 if rules.values == 256 else max(rules.raw_ids) + 1
        split_index.write_index(split_index.file_of(work, location.split.name), entries, raw_ids)
        provenance.write(work, files.pairs, {name: source for shard in done for name, source in shard.sources.items()})
        task.describe(work, [len(shard.entries) for shard in done], sum(shard.bytes for shard in done))
        for file in work.glob("temporary_*"):
            file.unlink()
        work.rename(folder)
        # Only now: until here a killed preparation resumes from the notes.
        shards.remove_notes(_shard_files(task, folder, len(done)))
        if faults:
            logging.warning("%d files were left out; see %s.", len(faults), folder / REJECTED)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns the OSError of a write below a folder of records into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); "
            f"{_free(folder)}. Make room, allow writing there, or name another folder: --config.data.directory=FOLDER."
        ) from error


def _free(folder: Path) -> str:
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return f"{gigabytes(shutil.disk_usage(existing).free)} are free there"


def incomplete_folder(folder: Path) -> Path:
    """Returns the folder in which the records of a final folder are written."""
    return folder.with_name(f"incomplete_{folder.name}")


def _warn_of_leftovers(work: Path) -> None:
    """Names the folders of preparations of other versions of the files, so that the user can remove them."""
    start = work.parent.name.rpartition("_")[0]
    for folder in work.parent.parent.glob(f"{start}_*/{work.name}"):
        if folder != work:
            logging.warning("%s is left from a preparation that stopped; it can be removed.", folder.parent)


def _shard_files(task: Task, work: Path, count: int) -> list[Path]:
    return [work / task.shard_name(number, count) for number in range(count)]


def _write_shards(task: Task, work: Path, processes: int) -> list[shards.Shard]:
    """Writes the shards that are missing, and returns all of them."""
    location = task.location
    title, pairs = location.title, location.user_files.pairs
    groups = shards.group_pairs(pairs, location.form)
    files = _shard_files(task, work, len(groups))
    done = [_read_finished(file, group, location) for file, group in zip(files, groups, strict=True)]
    faults = [*location.user_files.faults, *(fault for shard in done if shard for fault in shard.faults)]
    for fault in faults:
        logging.warning("%s", fault)
    _check_limit(task, faults, work)
    missing = [number for number, shard in enumerate(done) if shard is None]
    if missing:
        left = [pair for number in missing for pair in groups[number]]
        _check_room(location, left, work)
        results = shards.write(
            [files[number] for number in missing],
            [groups[number] for number in missing],
            location.form,
            task.serialize,
            processes,
        )
        unit = f" {_unit(location.form)}"
        progress = tqdm(total=len(pairs), initial=len(pairs) - len(left), desc=title, unit=unit, file=sys.stderr)
        try:
            with contextlib.closing(results), progress:
                for _, new_fault in results:
                    progress.update()
                    if new_fault:
                        logging.warning("%s", new_fault)
                        faults.append(new_fault)
                        _check_limit(task, faults, work)
        except (OSError, RuntimeError) as error:  # The latter comes from array_record, or from a worker that died.
            free = gigabytes(shutil.disk_usage(work).free)
            text = f"Preparing {title} stopped: {error}. The same command resumes from there ({work}; {free} are free)."
            raise UserError(text) from error
    return [shard for file in files if (shard := shards.read_note(file))]


def _read_finished(file: Path, group: Sequence[Pair], location: SplitLocation) -> shards.Shard | None:
    """Reads the note of a finished shard; None if it is not finished, or would hold other records now."""
    shard = shards.read_note(file)
    if shard is None or provenance.differing(shard.sources, group, {}, location.title):
        return None
    trusted_since = location.form.rules.trusted and any(fault.kind == "train ids" for fault in shard.faults)
    return None if trusted_since else shard


def _check_limit(task: Task, faults: Sequence[Fault], work: Path) -> None:
    if len(faults) > task.rejected_limit:
        file = work / REJECTED
        file.write_text("".join(f"{fault}\n" for fault in faults))
        shards.remove_faulty(work)  # They are written again once the files are repaired.
        raise UserError(
            f"{task.location.title} in {task.root}: more than {task.rejected_limit} files cannot be used "
            f"(config.data.rejected_limit):{list_faults(faults)}\nAll faults so far: {file}. "
            "Repair them, or raise the limit to leave them out."
        )


def _refuse_train_ids(location: SplitLocation, done: Sequence[shards.Shard]) -> None:
    """Raises UserError if the labels of the whole split look like train ids; finished shards stay."""
    pixels: collections.Counter = collections.Counter()
    sums: collections.Counter = collections.Counter()
    for shard in done:
        sums.update(shard.rows)
        for entry in shard.entries:
            pixels.update({int(raw_id): count for raw_id, count in entry["counts"].items()})
    if reason := train_ids.describe_train_ids(pixels, sums, location.form.rules):
        raise UserError(f"{location.title}: {reason}. {train_ids.REMEDY}")


def needed_bytes(pairs: Sequence[Pair], form: Form) -> int:
    """Estimates how much disk the records of the pairs take, from a few of them."""
    samples = 1 if form.rules.is_volume else _SAMPLES
    made = (records.make_records(pair, form) for pair in pairs[:: -(-len(pairs) // samples) or 1])
    sizes = [
        sum(len(record.image) + len(record.label) for record in found) for found in made if not isinstance(found, Fault)
    ]
    return int(_MARGIN * len(pairs) * sum(sizes) / max(len(sizes), 1))


def _check_room(location: SplitLocation, left: Sequence[Pair], work: Path) -> None:
    """Prints how much disk the remaining pairs take; raises UserError if it is not free."""
    needed, free = needed_bytes(left, location.form), shutil.disk_usage(work).free
    total = len(location.user_files.pairs)
    rest = f"{len(left)} of {total}" if len(left) < total else f"{total}"
    sizes = f"{gigabytes(needed)}, {gigabytes(free)} are free in {work.parent}"
    text = f"{location.title}: {rest} {_unit(location.form)} take about {sizes}"
    if needed > free:
        raise UserError(
            f"{text}. Make room, or name another folder (--config.data.directory), or prepare smaller images "
            f"(--config.data.{domain_of(location.part)}_size)."
        )
    print(f"Preparing {text}.", file=sys.stderr, flush=True)


def _unit(form: Form) -> str:
    return "volumes" if form.rules.is_volume else "images"


def gigabytes(count: int) -> str:
    """Returns a number of bytes as text."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Holds a lock, which the system releases when this process ends in any way; waits for another owner."""
    with file.open("a") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.warning("Another process is preparing %s; waiting for it.", file.parent)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
