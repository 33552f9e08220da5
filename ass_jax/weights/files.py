"""Files of named arrays: `.safetensors`, `.npz`, state dicts of PyTorch and, where h5py is installed, `.h5`."""

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ass_jax.runtime.console import format_some
from ass_jax.runtime.workdir import writing
from ass_jax.weights import torch_files
from configs.user_error import UserError

SUFFIXES = (".safetensors", ".npz", ".h5", ".pth", ".pt", ".bin", ".ckpt")  # The last four: PyTorch's.


class WeightFileError(UserError):
    """A weight file cannot be used; the message names the file and says why."""


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads all arrays of a file, with the names and layouts of the file.

    No code from a file is run: `.npz` is read without pickles, PyTorch files with an unpickler that knows only tensors.

    Args:
      path: `.safetensors`, `.npz`, a state dict of PyTorch, or `.h5`, which needs h5py.

    Returns:
      Arrays by name, with the types of the file, and the file's metadata (`.safetensors` only).

    Raises:
      WeightFileError: the file is missing, damaged, of an unknown kind, or holds anything but arrays.
    """
    path = Path(path)
    expect_file(path)
    if path.suffix.lower() not in SUFFIXES:
        raise WeightFileError(f"{path}: unknown kind of weight file. Expected one of {', '.join(SUFFIXES)}.")
    _expect_no_substitute(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".h5": _read_h5}
    arrays, metadata = readers.get(path.suffix.lower(), _read_torch)(path)
    if not arrays:
        raise WeightFileError(f"{path}: expected arrays, found none.")
    return arrays, metadata


def expect_file(path: Path) -> None:
    """Raises WeightFileError, which says what was found, unless a path leads to a regular file.

    Nothing is opened: a named pipe would be waited for without end.
    """
    if path.is_file():
        return
    if path.is_dir():
        inside = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
        names = f" Name a file in it: {format_some(inside)}." if inside else ""
        raise WeightFileError(f"{path}: expected a file, found a folder.{names}")
    if path.exists():
        raise WeightFileError(f"{path}: expected a regular file, found a named pipe, a device or a socket.")
    if path.is_symlink():
        raise WeightFileError(f"{path}: expected a file, found a symbolic link that leads to none.")
    raise WeightFileError(
        f"{path}: there is no such file in {path.parent.resolve()}. docs/weights.md says where to get weights."
    )


def _expect_no_substitute(path: Path) -> None:
    """Raises WeightFileError for what downloads leave in place of a file."""
    with path.open("rb") as file:
        begin = file.read(64).lstrip()
    if not begin:
        raise WeightFileError(f"{path}: the file is empty; download it again.")
    if begin.startswith(b"version https://git-lfs"):
        raise WeightFileError(f"{path}: found a pointer of Git LFS, not the file itself: `git lfs pull` gets it.")
    if begin[:1] == b"<":
        raise WeightFileError(f"{path}: found a web page, not a weight file; download it again.")


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a `.safetensors` file; an existing file is replaced only when the new one is complete.

    Raises:
      WeightFileError: the file has another ending, or its folder cannot be made.
      UserError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise WeightFileError(f"{path}: expected a name that ends in .safetensors.")
    # safetensors writes the buffer as it is: a view with other strides would be read back permuted.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replacing(path) as temporary:
        safetensors.numpy.save_file(contiguous, temporary, metadata=dict(metadata))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary file to write, which replaces `path` when the block ends without an error.

    Raises:
      WeightFileError: the folder of the file cannot be made, or the file is a folder.
      UserError: the file cannot be written.
    """
    _make_parent(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightFileError(f"{path}: the folder {path.parent} cannot be made ({error.strerror}).") from error
    if path.is_dir():
        raise WeightFileError(f"{path}: expected a file to write, found a folder.")


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # Of many kinds: each library raises its own.
        raise WeightFileError(f"{path}: damaged, or not a .safetensors file ({_first_line(error)}).") from error


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not zipfile.is_zipfile(path):  # NumPy goes by the content and would read other formats.
        raise WeightFileError(f"{path}: damaged, or not an .npz file of arrays.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise WeightFileError(f"{path}: damaged, or not an .npz file of arrays ({_first_line(error)}).") from error
        raise WeightFileError(
            f"{path}: expected only arrays of numbers, found Python objects, which could run code and are not read. "
            "Save it again with the arrays alone."
        ) from error
    except Exception as error:
        raise WeightFileError(f"{path}: damaged, or not an .npz file of arrays ({_first_line(error)}).") from error
    others = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if others:
        raise WeightFileError(f"{path}: expected only arrays, found another file in it: {others[0]!r}.")
    return arrays, {}


def _read_h5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        import h5py
    except ImportError as error:
        raise WeightFileError(f"{path}: .h5 files need h5py: `pip install h5py`.") from error
    arrays = {}

    def keep(name: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            arrays[name] = np.asarray(entry[()])

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except Exception as error:
        raise WeightFileError(f"{path}: damaged, or not an .h5 file ({_first_line(error)}).") from error
    return arrays, {}


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        return torch_files.read_state_dict(path), {}
    except torch_files.ContentError as error:
        raise WeightFileError(f"{path}: {error}.") from error
    except Exception as error:  # Of many kinds: a pickle can be cut anywhere.
        raise WeightFileError(f"{path}: damaged, or not a state dict of PyTorch ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
