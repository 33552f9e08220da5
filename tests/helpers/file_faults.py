"""Faults planted into miniature datasets, each with its expected report."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.classes import IGNORED, class_table, train_ids
from data.datasets.registry import SPECS
from tests.helpers.trees import Tree, encode_label, png_bytes

ALL = ("gta5", "synthia", "cityscapes", "custom")
_STREETS = ("gta5", "synthia", "cityscapes")
_EIGHT_BITS = ("gta5", "cityscapes", "custom")


class Planted(NamedTuple):
    """A fault of the dataset.

    Attributes:
      kind: expected kind in the report, a key of `data.raw.faults.KINDS`.
      file: file that the report must name.
    """

    kind: str
    file: Path


class Plant(NamedTuple):
    """How to plant a fault.

    Attributes:
      data_sets: datasets in which it can be planted.
      plant: function that plants the fault into the pair with the given index.
      pairs_lost: number of pairs that are left out because of it; None: all.
    """

    data_sets: tuple[str, ...]
    plant: Callable[[Tree, int], Planted]
    pairs_lost: int | None = 1


def plant(name: str, tree: Tree, index: int = 0) -> Planted:
    """Plants the fault `name`, a key of `FAULTS`, into pair `index` of a tree on disk."""
    return FAULTS[name].plant(tree, index)


def _image(kind: str, change: Callable[[np.ndarray, bytes], bytes]) -> Callable[[Tree, int], Planted]:
    """Returns a function that rewrites an image file; `change` gets its pixels and its content."""

    def do(tree: Tree, index: int) -> Planted:
        file = tree.image_files[index]
        file.write_bytes(change(tree.images[index], file.read_bytes()))
        return Planted(kind, file)

    return do


def _label(kind: str, change: Callable[[np.ndarray, bytes], bytes]) -> Callable[[Tree, int], Planted]:
    """Returns a function that rewrites a label file; `change` gets its raw ids and its content."""

    def do(tree: Tree, index: int) -> Planted:
        file = tree.label_files[index]
        file.write_bytes(change(tree.labels[index], file.read_bytes()))
        return Planted(kind, file)

    return do


def _ids(kind: str, change: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[Tree, int], Planted]:
    """Returns a function that changes the raw ids of a label but not its encoding."""

    def do(tree: Tree, index: int) -> Planted:
        file = tree.label_files[index]
        file.write_bytes(encode_label(tree.data_set, change(tree.data_set, tree.labels[index]).astype(np.uint8)))
        return Planted(kind, file)

    return do


def _missing_label(tree: Tree, index: int) -> Planted:
    tree.label_files[index].unlink()
    return Planted("missing label", tree.image_files[index])


def _missing_image(tree: Tree, index: int) -> Planted:
    tree.image_files[index].unlink()
    return Planted("missing image", tree.label_files[index])


def _label_folder_missing(tree: Tree, index: int) -> Planted:
    names = {"gta5": "labels", "synthia": "GT/LABELS", "cityscapes": "gtFine/train", "custom": "masks"}
    folder = tree.root / names[tree.data_set]
    shutil.rmtree(folder)
    return Planted("missing folder", folder)


def _label_size(tree: Tree, index: int) -> Planted:
    file = tree.label_files[index]
    file.write_bytes(encode_label(tree.data_set, tree.labels[index][:-1]))
    return Planted("size mismatch", file)


def _renamed(change: Callable[[Path], Path]) -> Callable[[Tree, int], Planted]:
    """Renames an image, so that its label has none; a file of another name alone is no fault."""

    def do(tree: Tree, index: int) -> Planted:
        file = tree.image_files[index]
        target = change(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
        return Planted("missing image", tree.label_files[index])

    return do


def _no_permission(tree: Tree, index: int) -> Planted:
    """Makes the image unreadable, also for root: replaces it with a dangling link."""
    file = tree.image_files[index]
    file.unlink()
    file.symlink_to(file.parent / "nowhere")
    return Planted("unreadable", file)


def _train_id_label_only(tree: Tree, index: int) -> Planted:
    file = tree.label_files[index]
    file.rename(str(file).replace("_labelIds", "_labelTrainIds"))
    return Planted("missing label", tree.image_files[index])


def _to_train_ids(data_set: str, raw: np.ndarray) -> np.ndarray:
    return train_ids(SPECS[data_set].labels.raw_ids, class_table("cityscapes19"))[raw]


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=30)
    return buffer.getvalue()


def _colours(raw: np.ndarray) -> np.ndarray:
    return np.stack([raw * 7, raw * 3, raw], -1).astype(np.uint8)


def _from_jpeg(data_set: str, raw: np.ndarray) -> np.ndarray:
    """Returns the ids after a round trip through JPEG."""
    return np.asarray(Image.open(io.BytesIO(_jpeg(raw * 7))))


def _flipped_bit(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 40
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


FAULTS = {
    "missing label": Plant(ALL, _missing_label),
    "missing image": Plant(ALL, _missing_image),
    "label folder missing": Plant(ALL, _label_folder_missing, None),
    "size mismatch": Plant(ALL, _label_size),
    "empty image": Plant(ALL, _image("damaged", lambda pixels, content: b"")),
    "empty label": Plant(ALL, _label("damaged", lambda raw, content: b"")),
    "truncated image": Plant(ALL, _image("damaged", lambda pixels, content: content[: len(content) // 2])),
    "truncated label": Plant(ALL, _label("damaged", lambda raw, content: content[: len(content) // 2])),
    "damaged image": Plant(ALL, _image("damaged", lambda pixels, content: _flipped_bit(content))),
    "image is a web page": Plant(ALL, _image("damaged", lambda pixels, content: b"<html>404</html>")),
    "label is a web page": Plant(ALL, _label("damaged", lambda raw, content: b"<html>404</html>")),
    "image of 16 bits": Plant(
        ALL, _image("bit depth", lambda pixels, content: png_bytes(pixels.astype(np.uint16) * 257))
    ),
    "grey image of 16 bits": Plant(
        ALL, _image("bit depth", lambda pixels, content: png_bytes(pixels[..., 0].astype(np.uint16) * 257))
    ),
    "label copied to 8 bits": Plant(
        ("synthia",), _label("bit depth", lambda raw, content: png_bytes(np.stack([raw * 0] * 3, -1)))
    ),
    "grey label": Plant(("synthia",), _label("bit depth", lambda raw, content: png_bytes(raw))),
    "label of 16 bits": Plant(
        ("gta5", "cityscapes"), _label("bit depth", lambda raw, content: png_bytes(raw.astype(np.uint16)))
    ),
    "colour label": Plant(_EIGHT_BITS, _label("colours", lambda raw, content: png_bytes(_colours(raw)))),
    "palette label expanded": Plant(
        ("gta5",),
        _label("colours", lambda raw, content: png_bytes(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))),
    ),
    "label saved as JPEG": Plant(_EIGHT_BITS, _label("lossy label", lambda raw, content: _jpeg(raw))),
    "label was a JPEG": Plant(("gta5", "cityscapes"), _ids("unknown ids", _from_jpeg)),
    "train ids": Plant(_STREETS, _ids("train ids", _to_train_ids)),
    "train ids, none ignored": Plant(
        ("gta5", "cityscapes"), _ids("train ids", lambda data_set, raw: _to_train_ids(data_set, raw) % IGNORED)
    ),
    "unknown ids": Plant(_STREETS, _ids("unknown ids", lambda data_set, raw: raw + 40)),
    "all ignored": Plant(
        ALL, _ids("all ignored", lambda data_set, raw: raw * 0 + (200 if data_set == "custom" else 0))
    ),
    "unreadable image": Plant(ALL, _no_permission),
    "upper case": Plant(_STREETS, _renamed(lambda file: file.with_name(file.stem + ".PNG"))),
    "wrong ending": Plant(ALL, _renamed(lambda file: file.with_suffix(".txt"))),
    "wrong city": Plant(("cityscapes",), _renamed(lambda file: file.parent.with_name("atlantis") / file.name)),
    "extra digits": Plant(("gta5", "synthia"), _renamed(lambda file: file.with_name(f"0{file.name}"))),
    "train id file only": Plant(("cityscapes",), _train_id_label_only),
}
