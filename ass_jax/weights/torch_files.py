"""State dicts of PyTorch, read without PyTorch. Nothing in a file is run.

A file is a pickle in which tensors refer to storages by key. Since PyTorch 1.6, the pickle and each storage are entries
of an uncompressed zip archive; in older files, the storages follow the pickle.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from ass_jax.runtime.console import format_some

# Keys under which training scripts save their state dict; the last one is DINOv2's.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher")
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # First of the pickles of an old file.


class ContentError(Exception):
    """A file of PyTorch's holds something other than plain tensors; the message says what."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.length * self.dtype.itemsize


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a state dict, also of one inside a training checkpoint.

    Returns:
      Arrays by name, with the types of the file; bfloat16 becomes float32.

    Raises:
      ContentError: the file holds something other than plain tensors.
      Exception: of any other kind: the file is damaged or not one of PyTorch's.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive)
    with path.open("rb") as file:
        return _read_old(file)


def _read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    folder = next(name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
    if f"{folder}byteorder" in archive.namelist():
        _check_byte_order(archive.read(f"{folder}byteorder").decode())
    tensors = _tensors(_Unpickler(io.BytesIO(archive.read(f"{folder}data.pkl"))).load())
    return _arrays(tensors, lambda storage: archive.read(f"{folder}data/{storage.key}"))


def _read_old(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _MAGIC_NUMBER:
        raise pickle.UnpicklingError("its first bytes are others")
    _, system = (_Unpickler(file).load() for _ in range(2))
    _check_byte_order("little" if system["little_endian"] else "big")
    unpickler = _Unpickler(file)
    tensors = _tensors(unpickler.load())
    keys = _Unpickler(file).load()
    begin, starts = file.tell(), {}
    for key in keys:  # Each one: its number of entries in eight bytes, then these.
        starts[key] = begin + 8
        begin = starts[key] + unpickler.storages[key].size

    def read(storage: _Storage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.size)

    return _arrays(tensors, read)


def _check_byte_order(found: str) -> None:
    if found != sys.byteorder:
        raise ContentError(f"expected the byte order of this machine, {sys.byteorder}, found {found}")


def _tensors(content: object) -> dict[str, _Tensor]:
    """Returns the tensors of a state dict by name."""
    while isinstance(content, Mapping):
        wrapped = (content[wrapper] for wrapper in _WRAPPERS if isinstance(content.get(wrapper), Mapping))
        if (inner := next(wrapped, None)) is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ContentError(f"expected a state dict of tensors, found {type(content).__name__}")
    if not any(isinstance(value, _Tensor) for value in content.values()):
        keys = format_some([str(key) for key in content]) or "nothing"
        raise ContentError(f"expected a state dict of tensors, itself or under {', '.join(_WRAPPERS)}, found {keys}")
    others = [name for name, value in content.items() if not isinstance(value, _Tensor)]
    if others:
        raise ContentError(f"expected only tensors, found {type(content[others[0]]).__name__} {others[0]!r}")
    return dict(content)


def _arrays(tensors: Mapping[str, _Tensor], read: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    values = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        values[storage.key] = np.frombuffer(read(storage), storage.dtype)
    return {name: _view(tensor, values[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """Returns the entries of a tensor, none from outside its storage."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and not (0 <= tensor.offset <= last < len(values) and min(tensor.strides, default=0) >= 0):
        raise IndexError("a tensor reaches over the end of its storage")
    strides = [stride * values.itemsize for stride in tensor.strides]
    array = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


class _Unpickler(pickle.Unpickler):
    """Knows the names of `_KNOWN` and nothing else, so that no code runs that a file names."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.storages = {}  # By key, all that the pickle refers to.

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise ContentError(
                f"expected only plain tensors, found {module}.{name}, which is not run. Save the state dict alone: "
                "`torch.save(model.state_dict(), PATH)`"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise ContentError("expected only plain tensors, found a part of a storage")
        return self.storages.setdefault(key, _Storage(key, dtype, length))


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_STORAGES = {
    "BFloat16": ml_dtypes.bfloat16,
    "Bool": np.bool_,
    "Byte": np.uint8,
    "Char": np.int8,
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "Int": np.int32,
    "Long": np.int64,
    "Short": np.int16,
}
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", f"{name}Storage"): np.dtype(dtype) for name, dtype in _STORAGES.items()},
}
