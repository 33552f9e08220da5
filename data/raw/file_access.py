"""Listing and reading files, on disk or inside a zip file.

A path may go through a zip file as if it were a folder: `root/leftImg8bit_trainvaltest.zip/leftImg8bit/train`.
"""

import functools
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from data.raw.faults import BadFileError


def list_files(folder: Path, *, deep: bool = False) -> dict[Path, int]:
    """Returns the files of a folder and their sizes in bytes, sorted; hidden files are left out.

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
    except (OSError, zipfile.BadZipFile) as error:
        raise BadFileError("unreadable", folder, f"the folder cannot be listed: {error}.") from error
    return dict(sorted(found.items()))


def read_bytes(file: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      BadFileError: the file is missing, empty or unreadable.
    """
    archive, inner = _split(file)
    try:
        content = file.read_bytes() if archive is None else _open_zip(archive).read(inner)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BadFileError("damaged", file, f"the zip file is damaged here: {error}.") from error
    except (OSError, KeyError) as error:
        raise BadFileError("unreadable", file, f"it cannot be read: {error}.") from error
    if not content:
        raise BadFileError("damaged", file, "the file is empty; unpack or download it again.")
    return content


def _split(path: Path) -> tuple[Path | None, str]:
    """Returns the zip file that a path goes through, or None, and the rest of the path."""
    for parent in (path, *path.parents):
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, PurePosixPath(path.relative_to(parent)).as_posix()
    return None, ""


def _list_disk(folder: Path, deep: bool) -> dict[Path, int]:
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found.update(_list_disk(folder / entry.name, deep) if deep else {})
            else:
                found[folder / entry.name] = _size(entry)
    return found


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # A broken link: reading it reports the fault.
        return 0


def _list_zip(archive: Path, inner: str, deep: bool) -> dict[Path, int]:
    start = "" if inner == "." else f"{inner}/"
    members = [member for member in _open_zip(archive).infolist() if member.filename.startswith(start)]
    if not members:
        raise FileNotFoundError(archive / inner)
    found = {}
    for member in members:
        rest = member.filename[len(start) :]
        hidden = any(part.startswith(".") for part in rest.split("/"))
        if rest and not member.is_dir() and not hidden and (deep or "/" not in rest):
            found[archive / member.filename] = member.file_size
    return found


@functools.lru_cache(maxsize=4)
def _open_zip(archive: Path) -> zipfile.ZipFile:
    """Returns the open zip file, cached: its list of members takes long to read."""
    return zipfile.ZipFile(archive)
