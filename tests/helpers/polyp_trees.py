"""Miniature sets of polyps in the folders and encodings of the real ones."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.datasets import kvasir_seg

KVASIR_SPLITS = ("train", "validation", "test")


class Tree(NamedTuple):
    """A set on disk.

    Attributes:
      root: its folder.
      masks: name of a pair -> bool [Y, X], polyp.
      image_files: name -> file.
      mask_files: name -> file.
    """

    root: Path
    masks: dict[str, np.ndarray]
    image_files: dict[str, Path]
    mask_files: dict[str, Path]


def scene(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a reddish image (uint8 [Y, X, 3]) with a lighter disc, and the disc (bool [Y, X])."""
    random = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    centre = random.uniform(0.3, 0.7, 2) * size
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (0.2 * min(size)) ** 2
    image = np.where(mask[..., None], (220, 140, 120), (150, 60, 50)) + random.integers(0, 20, (*size, 3))
    return image.astype(np.uint8), mask


def encode(pixels: np.ndarray, kind: str, quality: int = 75) -> bytes:
    """Returns a file of a format of Pillow; bool pixels become 0 and 255."""
    if pixels.dtype == bool:
        pixels = np.where(pixels, 255, 0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return buffer.getvalue()


def kvasir_names(split: str, count: int) -> list[str]:
    """Returns the first names of a split of Kvasir-SEG."""
    return sorted(kvasir_seg.NAMES[split])[:count]


def write_kvasir(root: Path, counts: tuple[int, int, int] = (4, 2, 2)) -> Tree:
    """Writes images/{id}.jpg and masks/{id}.jpg of three channels, of varying size."""
    names = [name for split, count in zip(KVASIR_SPLITS, counts, strict=True) for name in kvasir_names(split, count)]
    return _write(
        root,
        names,
        lambda name: f"images/{name}.jpg",
        lambda name: f"masks/{name}.jpg",
        lambda place: (40 + 4 * (place % 3), 48),
        lambda mask: encode(np.stack([np.where(mask, 255, 0).astype(np.uint8)] * 3, -1), "JPEG"),
    )


def write_kvasir_352(root: Path, counts: tuple[int, int, int] = (4, 2, 2)) -> Tree:
    """Writes {train,validation,test}/{images,masks}/0.jpg ... with masks of one channel."""
    names = [f"{split}/{number}" for split, count in zip(KVASIR_SPLITS, counts, strict=True) for number in range(count)]
    return _write(
        root,
        names,
        lambda name: name.replace("/", "/images/") + ".jpg",
        lambda name: name.replace("/", "/masks/") + ".jpg",
        lambda place: (352, 352),
        lambda mask: encode(mask, "JPEG", 90),
    )


def write_cvc(root: Path, frames: tuple[int, ...] = (2, 30, 60, 110, 120, 600), kind: str = "tif") -> Tree:
    """Writes Original/{frame} and Ground Truth/{frame} as TIFF or PNG."""
    return _write(
        root,
        [str(frame) for frame in frames],
        lambda name: f"Original/{name}.{kind}",
        lambda name: f"Ground Truth/{name}.{kind}",
        lambda place: (48, 64),
        lambda mask: encode(mask, {"tif": "TIFF", "png": "PNG"}[kind]),
    )


def write_endoscene(root: Path, frames: tuple[int, ...] = (2, 30, 80, 110, 150, 290)) -> Tree:
    """Writes {CVC-300,CVC-612}/{bbdd,gtpolyp}/{frame}: BMP, but masks of CVC-612 as TIFF."""
    return _write(
        root,
        [f"{part}/{frame}" for part in ("CVC-300", "CVC-612") for frame in frames],
        lambda name: name.replace("/", "/bbdd/") + ".bmp",
        lambda name: name.replace("/", "/gtpolyp/") + (".tif" if "612" in name else ".bmp"),
        lambda place: (48, 64),
        lambda mask: encode(mask, "BMP"),
    )


def _write(root, names, image_file, mask_file, size_of, encode_mask) -> Tree:
    tree = Tree(root, {}, {}, {})
    kinds = {".jpg": "JPEG", ".tif": "TIFF", ".png": "PNG", ".bmp": "BMP"}
    for place, name in enumerate(names):
        image, mask = scene(place, size_of(place))
        tree.masks[name] = mask
        tree.image_files[name], tree.mask_files[name] = root / image_file(name), root / mask_file(name)
        for file, content in (
            (tree.image_files[name], encode(image, kinds[tree.image_files[name].suffix], 90)),
            (tree.mask_files[name], encode_mask(mask)),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return tree
