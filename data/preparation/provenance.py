"""The files that records were made of: whether those on disk are still the same.

Names and sizes are part of the folder's name. A change that keeps both, such as a label corrected in an uncompressed
image, shows in the time of the last change. Where that differs, the content decides, since a copy of a dataset has
other times: `sources.json` beside the records holds the times and a hash of every file as it was prepared.
`listings.txt` holds a hash of the times of every listing whose files were compared and found the same, a line each, so
that several copies of a dataset share records and each is compared once.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from absl import logging
from tqdm import tqdm

from data.raw import file_access
from data.raw.faults import printable
from data.raw.pairs import Pair

SOURCES = "sources.json"
LISTINGS = "listings.txt"
_THREADS = 8  # That read files: a network answers several at once.
_HASH_DIGITS = 12


class Source(NamedTuple):
    """The files of a pair as they were prepared, in the order of `Pair.files`.

    Attributes:
      changed: as in `Pair`.
      digests: of their content; empty for a file that is missing or could not be read.
    """

    changed: tuple[int, ...]
    digests: tuple[str, ...]


Sources = Mapping[str, Source]  # By name of the pair.


def source_of(pair: Pair) -> Source:
    """Returns the files of a pair as they are now; to be called before they are decoded."""
    return Source(pair.changed, tuple(file_access.digest(file) if file else "" for file in pair.files))


def write(folder: Path, pairs: Sequence[Pair], sources: Sources) -> None:
    """Writes what the records in a folder were made of.

    Args:
      folder: of the records.
      pairs: all of the split, as they were listed.
      sources: of the pairs.

    Raises:
      OSError: the folder cannot be written.
    """
    content = {name: [source.changed, source.digests] for name, source in sources.items()}
    (folder / SOURCES).write_text(json.dumps(content))
    (folder / LISTINGS).write_text(f"{_listing(pairs)}\n")


def find_folder(first: Path, index: str, pairs: Sequence[Pair], title: str) -> Path:
    """Returns the folder of the records of these files, which exists unless they are to be prepared.

    It reads files only where the times of their last change are others than when they were prepared.

    Args:
      first: folder of the first records of files with these names and sizes; those of changed files lie beside it.
      index: name of a file in it that was written when the records were complete.
      pairs: of the split, as they are listed now.
      title: of the split, for messages.
    """
    parent, version = first.parents[1], first.name
    folders = sorted(parent.glob(f"{first.parent.name}*/{version}"))
    listing = _listing(pairs)
    for folder in folders:
        if listing in _listings(folder):
            return folder
    digests: dict[Path, str] = {}
    changed: list[Path] = []
    for folder in folders:
        found = _changed_files(folder, index, pairs, digests, title)
        if not found:
            with contextlib.suppress(OSError), (folder / LISTINGS).open("a") as file:  # Records may be read-only.
                file.write(f"{listing}\n")
            return folder
        if folder == first:
            changed = found
    if not changed:
        return first
    names = _names_below(pairs)
    content = [[names[file], digests[file]] for file in changed]
    token = hashlib.sha256(json.dumps(sorted(content)).encode()).hexdigest()[:_HASH_DIGITS]
    logging.warning(
        "%s: %d files have changed since %s was prepared, such as %s; it is prepared again.",
        title,
        len(changed),
        first.parent,
        printable(str(changed[0])),
    )
    return parent / f"{first.parent.name}{token}" / version


def differing(sources: Sources, pairs: Sequence[Pair], digests: dict[Path, str], title: str) -> list[Path]:
    """Returns the files whose content is another one than when they were prepared.

    Args:
      sources: of all pairs, as they were prepared.
      pairs: as they are listed now.
      digests: of files that were read before; those that are read here are added.
      title: of the split, for the progress on the error stream.
    """
    doubtful: dict[Path | None, str] = {}
    for pair in pairs:
        before = sources.get(pair.name, Source((), ()))
        known = dict(zip(pair.files, zip(before.changed, before.digests, strict=True), strict=False))
        for file, now in zip(pair.files, pair.changed, strict=True):
            time, digest = known.get(file, (None, ""))
            if time != now:
                doubtful[file] = digest
    _read([file for file in doubtful if file], digests, title)
    return [file for file, before in doubtful.items() if file and digests[file] != before]


def _changed_files(folder: Path, index: str, pairs: Sequence[Pair], digests: dict[Path, str], title: str) -> list[Path]:
    """Returns the files that have changed since the records in a folder were made.

    Records without `sources.json` are older: of these, the files that were changed after them.
    """
    try:
        content = json.loads((folder / SOURCES).read_text())
        sources = {name: Source(tuple(changed), tuple(found)) for name, (changed, found) in content.items()}
    except (OSError, ValueError):
        made = (folder / index).stat().st_mtime_ns if (folder / index).exists() else sys.maxsize
        found = [
            file
            for pair in pairs
            for file, changed in zip(pair.files, pair.changed, strict=True)
            if file and changed > made
        ]
        _read(found, digests, title)
        return found
    return differing(sources, pairs, digests, title)


def _read(files: Sequence[Path], digests: dict[Path, str], title: str) -> None:
    """Adds the digests of files that are not there yet; shows the progress on the error stream."""
    missing = [file for file in files if file not in digests]
    if not missing:
        return
    with ThreadPoolExecutor(_THREADS) as threads:
        found = tqdm(
            threads.map(file_access.digest, missing),
            total=len(missing),
            desc=f"{title}: comparing files",
            unit=" files",
            file=sys.stderr,
            leave=False,
        )
        digests.update(zip(missing, found, strict=True))


def _names_below(pairs: Sequence[Pair]) -> dict[Path, str]:
    """Returns for each file the name of its pair with the file's place in it: the same in every copy of a dataset."""
    return {file: f"{pair.name} {place}" for pair in pairs for place, file in enumerate(pair.files) if file}


def _listing(pairs: Sequence[Pair]) -> str:
    times = [[pair.name, *pair.changed] for pair in pairs]
    return hashlib.sha256(json.dumps(times).encode()).hexdigest()


def _listings(folder: Path) -> set[str]:
    try:
        return set((folder / LISTINGS).read_text().split())
    except OSError:
        return set()
