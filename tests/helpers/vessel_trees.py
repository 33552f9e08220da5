"""Miniature DRIVE and STARE in the folders and encodings of the repository V-GAN."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZES = {"drive": (48, 40), "stare": (40, 56)}
# Dataset -> split -> names.
NAMES = {
    "drive": {"training": ("21", "22", "23"), "test": ("01", "02")},
    "stare": {"training": ("im0001", "im0044"), "test": ("im0162", "im0324")},
}
_FORMATS = {".tif": "TIFF", ".gif": "GIF", ".ppm": "PPM"}


class Photograph(NamedTuple):
    """A photograph of a retina on disk.

    Attributes:
      vessels: bool [Y, X].
      seen: field of view, bool [Y, X].
      image_file: colour.
      vessel_file: the mask of the vessels.
      view_file: the mask of the field of view.
    """

    vessels: np.ndarray
    seen: np.ndarray
    image_file: Path
    vessel_file: Path
    view_file: Path


def write(root: Path, dataset: str) -> dict[str, Photograph]:
    """Writes all splits of a dataset below the folder `data` of a clone; returns the photographs by name."""
    written = {}
    for split, names in NAMES[dataset].items():
        folder = root / "data" / dataset.upper() / split
        for name in names:
            files = _files(folder, dataset, split, name)
            seed = len(written) + 10 * (dataset == "stare")
            image, vessels, seen = scene(seed, SIZES[dataset])
            written[name] = Photograph(vessels, seen, *files)
            for file, pixels in zip(files, (image, vessels, seen), strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encode(pixels, file))
    return written


def scene(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns an image (uint8 [Y, X, 3]) of dark curves in a bright disc, the curves and the disc (bool [Y, X])."""
    random = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    seen = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (0.45 * min(size)) ** 2
    wave = height * (0.5 + 0.15 * np.sin(columns / width * 6 + random.uniform(0, 6)))
    vessels = np.abs(rows - wave) < 2  # Reaches the border, beyond the disc.
    image = np.where(vessels[..., None], (120, 40, 30), (200, 110, 70)) + random.integers(0, 20, (*size, 3))
    return np.where(seen[..., None], image, 0).astype(np.uint8), vessels, seen


def encode(pixels: np.ndarray, file: Path) -> bytes:
    """Returns the content of a file in the format of its ending; bool pixels become 0 and 255."""
    if pixels.dtype == bool:
        pixels = np.where(pixels, 255, 0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, _FORMATS[file.suffix])
    return buffer.getvalue()


def _files(folder: Path, dataset: str, split: str, name: str) -> tuple[Path, Path, Path]:
    if dataset == "drive":
        names = (f"{name}_{split}.tif", f"{name}_manual1.gif", f"{name}_{split}_mask.gif")
    else:
        names = (f"{name}.ppm", f"{name}.ah.ppm", f"{name}.ppm")
    image, vessels, view = names
    return folder / "images" / image, folder / "1st_manual" / vessels, folder / "mask" / view
