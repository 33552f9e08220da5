"""Miniature datasets in the encodings of the real ones, drawn as toy street scenes."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.classes import IGNORED, class_table
from data.datasets import cityscapes
from data.datasets.registry import SPECS
from data.toy.scenes import render

# As in the official lists.
CITYSCAPES_NAMES = {
    "train": (
        "aachen/aachen_000000_000019",
        "aachen/aachen_000001_000019",
        "bochum/bochum_000000_000313",
        "bremen/bremen_000000_000019",
        "hamburg/hamburg_000000_000042",
        "ulm/ulm_000093_000019",
    ),
    "val": ("frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019", "munster/munster_000000_000019"),
    "test": ("berlin/berlin_000000_000019", "mainz/mainz_000000_000000"),
}
# Of each official split, some by day and, but for "val", some at dusk.
CAMVID_NAMES = {
    "train": ("0001TP_006690", "0001TP_006720", "0006R0_f00930"),
    "val": ("0016E5_07959", "0016E5_07961"),
    "test": ("0001TP_008550", "Seq05VD_f00000"),
}
# Raw ids of own data; 255 is ignored.
OWN_IDS = tuple(enumerate(class_table("toy").names))
_LICENCE_PLATE = 34
_CAR = 26


class Tree(NamedTuple):
    """A dataset on disk.

    Attributes:
      data_set: "gta5", "synthia", "cityscapes", "camvid" or "custom".
      root: folder of the dataset.
      names: sorted names of the pairs [N].
      images: pixels, uint8 [Y, X, 3].
      labels: raw ids, uint8 [Y, X].
      image_files: paths [N].
      label_files: paths [N].
    """

    data_set: str
    root: Path
    names: list[str]
    images: list[np.ndarray]
    labels: list[np.ndarray]
    image_files: list[Path]
    label_files: list[Path]


def scene(data_set: str, index: int, size: tuple[int, int], split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Returns an image (uint8 [Y, X, 3]) and raw ids (uint8 [Y, X]).

    The first rows of the label hold every raw id of the dataset, as far as there is room.
    """
    domain = "target" if data_set == "cityscapes" else "source"
    image, label = render(domain, 0, split, index, *size)
    ids = {
        name: raw_id for raw_id, name in (OWN_IDS if data_set == "custom" else SPECS[data_set].labels.raw_ids.items())
    }
    table = np.full(256, IGNORED if data_set == "custom" else 0, np.uint8)
    for train_id, name in enumerate(class_table("toy").names):
        table[train_id] = ids.get(name, 0)
    raw = table[label]
    every = np.array(sorted(known_ids(data_set)), np.uint8)
    raw.ravel()[: len(every)] = every[: raw.size]
    return image, raw


def known_ids(data_set: str) -> set[int]:
    """Returns the raw ids that a label of the dataset may hold."""
    last = {"gta5": 34, "cityscapes": 33, "synthia": 22, "camvid": 11, "custom": len(OWN_IDS) - 1}[data_set]
    return {*range(last + 1), *([IGNORED] if data_set == "custom" else [])}


def write_gta5(root: Path, count: int = 4, size: tuple[int, int] = (26, 48)) -> Tree:
    """Writes images/00001.png ... and palette labels."""
    names = [f"{number:05}" for number in range(1, count + 1)]
    return _write(
        "gta5", root, names, [f"images/{name}.png" for name in names], [f"labels/{n}.png" for n in names], size
    )


def write_synthia(root: Path, count: int = 4, size: tuple[int, int] = (24, 32)) -> Tree:
    """Writes RGB/0000000.png ..., 16-bit labels and colour images of the labels."""
    names = [f"{number:07}" for number in range(count)]
    labels = [f"GT/LABELS/{name}.png" for name in names]
    tree = _write("synthia", root, names, [f"RGB/{name}.png" for name in names], labels, size)
    for name, label in zip(names, tree.labels, strict=True):
        _save(root / "GT" / "COLOR" / f"{name}.png", png_bytes(np.stack([label * 11, label, label], -1)))
    return tree


def write_cityscapes(root: Path, split: str = "train", count: int = 4, size: tuple[int, int] = (32, 64)) -> Tree:
    """Writes one split, with the other files that lie beside the labels."""
    names = list(CITYSCAPES_NAMES[split][:count])
    names += [f"ulm/ulm_{number:06}_000019" for number in range(100, 100 + count - len(names))]
    names.sort()
    images = [f"leftImg8bit/{split}/{name}_leftImg8bit.png" for name in names]
    labels = [f"gtFine/{split}/{name}_gtFine_labelIds.png" for name in names]
    tree = _write("cityscapes", root, names, images, labels, size, split)
    for file, label in zip(tree.label_files, tree.labels, strict=True):
        beside = str(file).removesuffix("_labelIds.png")
        _save(Path(f"{beside}_color.png"), png_bytes(np.stack([label, label, label], -1)))
        _save(Path(f"{beside}_instanceIds.png"), png_bytes(label.astype(np.uint16) * 1000))
        _save(Path(f"{beside}_polygons.json"), b"{}")
    return tree


def write_camvid(root: Path, split: str = "train", size: tuple[int, int] = (24, 32)) -> Tree:
    """Writes the images of one official split in `CAMVID_NAMES`."""
    names = list(CAMVID_NAMES[split])
    images, labels = ([f"{folder}/{name}.png" for name in names] for folder in (split, f"{split}annot"))
    return _write("camvid", root, names, images, labels, size, split)


def write_custom(
    root: Path, images: str = "photos", labels: str = "masks", count: int = 4, size: tuple[int, int] = (24, 40)
) -> Tree:
    """Writes two folders of own data; labels in the order of the toy classes."""
    names = [f"photo {number}" for number in range(count)]
    return _write(
        "custom", root, names, [f"{images}/{n}.png" for n in names], [f"{labels}/{n}.png" for n in names], size
    )


WRITERS = {"gta5": write_gta5, "synthia": write_synthia, "cityscapes": write_cityscapes, "custom": write_custom}


def write_zip_files(tree, root):
    """Writes the two official zip files of a Cityscapes tree."""
    root.mkdir()
    for folder, archive in cityscapes.ARCHIVES.items():
        with zipfile.ZipFile(root / archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("README", "read me")
            for member in sorted((tree / folder).rglob("*.*")):
                file.write(member, member.relative_to(tree))
    return root


def encode_label(data_set: str, raw: np.ndarray) -> bytes:
    """Returns the content of a label file with these raw ids in the dataset's encoding (uint8 [Y, X])."""
    if data_set == "gta5":
        return _palette_png(raw)
    if data_set == "synthia":
        instances = np.arange(raw.size).reshape(raw.shape) % 60_000
        return png_bytes(np.stack([raw, instances, np.zeros_like(raw)], -1).astype(np.uint16))
    return png_bytes(raw)


def png_bytes(pixels: np.ndarray) -> bytes:
    """Returns a PNG of uint8 or uint16 [Y, X] or [Y, X, 3 or 4], written without a library that could change it."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"))).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def _palette_png(raw: np.ndarray) -> bytes:
    """Returns a palette PNG with the colours of Cityscapes; car and licence plate share theirs."""
    height, width = raw.shape
    table = class_table("cityscapes19")
    colours = np.zeros((256, 3), np.uint8)
    for raw_id, name in SPECS["gta5"].labels.raw_ids.items():
        colours[raw_id] = table.palette[table.names.index(name)]
    colours[_LICENCE_PLATE] = colours[_CAR]
    data = b"".join(b"\0" + row.tobytes() for row in raw)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", colours.tobytes()), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _write(
    data_set: str,
    root: Path,
    names: list[str],
    image_files: list[str],
    label_files: list[str],
    size: tuple[int, int],
    split: str = "train",
) -> Tree:
    scenes = [scene(data_set, index, size, split) for index in range(len(names))]
    tree = Tree(
        data_set,
        root,
        names,
        [image for image, _ in scenes],
        [label for _, label in scenes],
        [root / file for file in image_files],
        [root / file for file in label_files],
    )
    for index in range(len(names)):
        _save(tree.image_files[index], png_bytes(tree.images[index]))
        _save(tree.label_files[index], encode_label(data_set, tree.labels[index]))
    return tree


def _save(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
