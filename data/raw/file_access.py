"""Listing and reading files, on disk or inside a zip file.

A path may go through a zip file as if it were a folder: `root/leftImg8bit_trainvaltest.zip/leftImg8bit/train`.
"""

import functools
import hashlib
import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.raw.faults import BadFileError


class FileState(NamedTuple):
    """What a listing says about a file.

    Attributes:
      size: bytes.
      changed: a number that differs after a change: the time of the last one in nanoseconds, or of a file in a zip file
        the checksum of its content.
    """

    size: int
    changed: int


def list_files(folder: Path, *, deep: bool = False) -> dict[Path, FileState]:
    """Returns the files of a folder and their states, sorted; hidden files are left out.

    Args:
      folder: on disk or in a zip file.
      deep: whether to look into folders within.

    Raises:
      BadFileError: the folder does not exist or cannot be read.
    """
    archive, inner = _split(folder)
    try:
        found = _list_disk(folder, deep) if archive is None else _list_zip(archive, inner, deep)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadFileError("missing folder", folder, "there is no such folder.") from error
    except OSError as error:
        raise BadFileError("unreadable", folder, f"the folder cannot be listed: {error.strerror}.") from error
    except zipfile.BadZipFile as error:
        text = f"the zip file is cut off or damaged ({error}); download it again."
        raise BadFileError("unreadable", archive or folder, text) from error
    return dict(sorted(found.items()))


def expect_folder(folder: Path) -> None:
    """Raises BadFileError, which says why, for a path that is there but leads to no folder."""
    if not os.path.lexists(folder) or folder.is_dir():
        return
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise BadFileError("unreadable", folder, f"it cannot be opened: {error.strerror}.") from error
    raise BadFileError("unreadable", folder, f"expected a folder, found {_kind(mode)}.")


def read_bytes(file: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      BadFileError: the file is missing, empty, unreadable or no regular file.
    """
    archive, inner = _split(file)
    try:
        content = _read_disk(file) if archive is None else _open_zip(archive).read(inner)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BadFileError("damaged", file, f"the zip file is damaged here: {error}.") from error
    except (OSError, KeyError) as error:
        raise BadFileError("unreadable", file, f"it cannot be read: {error}.") from error
    if not content:
        raise BadFileError("damaged", file, "the file is empty; unpack or download it again.")
    return content


def digest(file: Path) -> str:
    """Returns a hash of a file's content, by which the same content is known again; empty if it cannot be read."""
    try:
        return hashlib.blake2b(read_bytes(file), digest_size=16).hexdigest()
    except BadFileError:
        return ""


def _split(path: Path) -> tuple[Path | None, str]:
    """Returns the zip file that a path goes through, or None, and the rest of the path."""
    for parent in (path, *path.parents):
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, PurePosixPath(path.relative_to(parent)).as_posix()
    return None, ""


def _read_disk(file: Path) -> bytes:
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):  # A named pipe would be waited for without end.
        raise BadFileError("unreadable", file, f"expected a regular file, found {_kind(mode)}.")
    return file.read_bytes()


def _kind(mode: int) -> str:
    """Returns what a path leads to, by the mode of its status."""
    kinds = {stat.S_IFREG: "a regular file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or socket")


def _list_disk(folder: Path, deep: bool, above: tuple[Path, ...] = ()) -> dict[Path, FileState]:
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            status, inner = _status(entry), folder / entry.name
            if status is None or not stat.S_ISDIR(status.st_mode):
                found[inner] = FileState(status.st_size, status.st_mtime_ns) if status else FileState(0, 0)
            elif deep:
                if entry.is_symlink() and any(map(inner.samefile, (folder, *above))):
                    raise BadFileError("unreadable", inner, "it is a link to a folder that holds it; remove the link.")
                found.update(_list_disk(inner, deep, (folder, *above)))
    return found


def _status(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # A broken link, or one in a circle: reading it reports the fault.
        return None


def _list_zip(archive: Path, inner: str, deep: bool) -> dict[Path, FileState]:
    start = "" if inner == "." else f"{inner}/"
    members = [member for member in _open_zip(archive).infolist() if member.filename.startswith(start)]
    if not members:
        raise FileNotFoundError(archive / inner)
    found = {}
    for member in members:
        rest = member.filename[len(start) :]
        hidden = any(part.startswith(".") for part in rest.split("/"))
        if rest and not member.is_dir() and not hidden and (deep or "/" not in rest):
            found[archive / member.filename] = FileState(member.file_size, member.CRC)
    return found


@functools.lru_cache(maxsize=4)
def _open_zip(archive: Path) -> zipfile.ZipFile:
    """Returns the open zip file, cached: its list of members takes long to read."""
    return zipfile.ZipFile(archive)
