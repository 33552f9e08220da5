"""Unreadable files with the extensions of images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def write_broken_images(folder: Path) -> list[Path]:
    """Writes the files and returns their paths."""
    noise = np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    cut = buffer.getvalue()[:300]
    files = {"cut.png": cut, "empty.jpg": b"", "text.png": b"hello", "page.tif": b"II*\0\xff\xff\xff\xff"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
