"""Files of named arrays: `.safetensors`, `.npz` and, where PyTorch or h5py is installed, state dicts and `.h5`."""

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import safetensors
import safetensors.numpy

from ass_jax.runtime.workdir import writing
from configs.user_error import UserError

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".npz", ".h5", *TORCH_SUFFIXES)
_LEAST_TORCH = (2, 10)  # The restricted unpickler of older versions has known ways to run code from a file.
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # Keys under which training scripts save their state dict.


class WeightFileError(UserError):
    """A weight file cannot be used; the message names the file and says why."""


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads all arrays of a file, with the names and layouts of the file.

    No code from a file is run: `.npz` is read without pickles, PyTorch files with the restricted unpickler.

    Args:
      path: `.safetensors`, `.npz`, `.h5`, which needs h5py, or a PyTorch state dict, which needs PyTorch 2.10 or newer.

    Returns:
      Arrays by name, with the types of the file, and the file's metadata (`.safetensors` only).

    Raises:
      WeightFileError: the file is missing, damaged, of an unknown kind, or holds anything but arrays.
    """
    path = Path(path)
    if not path.exists():
        raise WeightFileError(f"{path}: there is no such file.")
    if not path.is_file():
        raise WeightFileError(f"{path}: expected a file, found a folder.")
    if path.suffix.lower() not in SUFFIXES:
        raise WeightFileError(f"{path}: unknown kind of weight file. Expected one of {', '.join(SUFFIXES)}.")
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".h5": _read_h5}
    arrays, metadata = readers.get(path.suffix.lower(), _read_torch)(path)
    if not arrays:
        raise WeightFileError(f"{path}: expected arrays, found none.")
    return arrays, metadata


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
    torch = _import_torch(path)
    try:
        # With mmap, values are read when they are used and take no memory of their own.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise WeightFileError(
            f"{path}: damaged, or not a file of plain tensors, the only content that is read: a pickle may run code "
            f"({_first_line(error)})."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not any(isinstance(value, torch.Tensor) for value in found.values()):
        raise WeightFileError(f"{path}: expected a state dict of tensors, found {type(found).__name__}.")
    others = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightFileError(f"{path}: expected only tensors, found {type(found[others[0]]).__name__} {others[0]!r}.")
    arrays = {}
    for name, tensor in found.items():
        try:
            # NumPy has no bfloat16.
            arrays[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        except (TypeError, RuntimeError) as error:  # Sparse, quantised, of eight bits.
            raise WeightFileError(
                f"{path}: {name!r} of type {tensor.dtype} cannot be used ({_first_line(error)})."
            ) from error
    return arrays, {}


def _import_torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise WeightFileError(
            f"{path}: PyTorch files need PyTorch {_version(_LEAST_TORCH)} or newer: `pip install torch`. Or, on a "
            f"machine that has it: `python -m ass_jax.weights.pretrained {path.name} --output={path.stem}.safetensors`."
        ) from error
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _LEAST_TORCH:
        raise WeightFileError(
            f"{path}: reading PyTorch files safely needs PyTorch {_version(_LEAST_TORCH)} or newer, "
            f"found {torch.__version__}."
        )
    return torch


def _version(parts: tuple[int, int]) -> str:
    return ".".join(map(str, parts))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
