"""Masks of two values are read as 0 and 255 from every format that they come in; other files are refused in words."""

import numpy as np
import pytest
from PIL import Image

from data.raw import image_files
from data.raw.faults import BadFileError
from tests.helpers import trees

BACKGROUND, FOREGROUND = 0, 255


@pytest.fixture
def mask():
    """A disc and a small square, bool [48, 64]."""
    rows, columns = np.mgrid[:48, :64]
    found = (rows - 20) ** 2 + (columns - 30) ** 2 < 150
    found[40:44, 4:8] = True
    return found


@pytest.fixture
def read(tmp_path):
    """Returns a function that saves an image, or writes bytes, and reads the file as a binary mask."""

    def save_and_read(image, kind="PNG", **options):
        file = tmp_path / f"mask.{kind.lower()}"
        if isinstance(image, bytes):
            file.write_bytes(image)
        else:
            image.save(file, kind, **options)
        return image_files.read_label(file, "binary")

    return save_and_read


def grey(mask, foreground=255):
    return Image.fromarray(np.where(mask, foreground, 0).astype(np.uint8))


def expect(found, mask):
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.where(mask, FOREGROUND, BACKGROUND))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_lossless_masks_are_read_exactly(mask, read, kind, mode):
    expect(read(grey(mask).convert(mode), kind), mask)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_dropped(mask, read, mode):
    image = grey(mask).convert(mode)
    image.putalpha(77)
    expect(read(image), mask)


def palette(mask, colours):
    image = Image.fromarray(mask.astype(np.uint8), "L")
    image.putpalette(colours)
    return image


def test_palettes_of_greys_are_looked_up_and_of_colours_are_not(mask, read):
    expect(read(palette(mask, [0, 0, 0, 255, 255, 255])), mask)
    expect(read(palette(mask, [255, 255, 255, 0, 0, 0])), ~mask)
    expect(read(palette(mask, [0, 0, 0, 128, 0, 0])), mask)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 90])
def test_masks_saved_as_jpeg_are_read_with_a_threshold(mask, read, mode, quality, tmp_path):
    found = read(grey(mask).convert(mode), "JPEG", quality=quality)
    stored = np.asarray(Image.open(tmp_path / "mask.jpeg").convert("L"))
    assert len(np.unique(stored)) > 10  # The compression rings.
    np.testing.assert_array_equal(found, np.where(stored >= 128, 255, 0))
    if quality >= 75:
        expect(found, mask)


def test_copy_of_a_jpeg_as_png_is_read(mask, read, tmp_path):
    large = np.kron(mask, np.ones((4, 4), bool))
    grey(large).save(tmp_path / "a.jpg", quality=90)
    expect(read(Image.open(tmp_path / "a.jpg")), large)


def test_compression_with_loss_inside_tiff_is_recognised(mask, read):
    expect(read(grey(mask), "TIFF", compression="jpeg"), mask)


def test_masks_of_0_and_1_are_read(mask, read):
    expect(read(grey(mask, 1)), mask)
    expect(read(grey(mask, 1).convert("RGB"), "BMP"), mask)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_masks_of_16_bits_are_read(mask, read, white):
    expect(read(trees.png_bytes(np.where(mask, white, 0).astype(np.uint16))), mask)
    expect(read(Image.fromarray(np.where(mask, white, 0).astype(np.uint16)), "TIFF"), mask)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_masks_may_be_empty_or_full(read, kind):
    for mask in (np.zeros((16, 16), bool), np.ones((16, 16), bool)):
        expect(read(grey(mask), kind), mask)


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_few_grey_pixels_are_split_at_the_threshold(share, read):
    pixels = np.zeros((100, 100), np.uint8)
    pixels[50:] = 255
    pixels.ravel()[: int(share * pixels.size)] = 127
    if share > 0.02:
        with pytest.raises(BadFileError, match="not binary"):
            read(Image.fromarray(pixels))
    else:
        expect(read(Image.fromarray(pixels)), pixels == 255)


def photograph():
    columns = np.mgrid[:48, :64][1]
    return np.stack([4 * columns, 4 * columns, 4 * columns], -1).astype(np.uint8)


REFUSED = {
    "grey photograph": (lambda mask: Image.fromarray(photograph()), "PNG", "not binary", "found 64 of 0 to 252"),
    "photograph with loss": (lambda mask: Image.fromarray(photograph()), "JPEG", "not binary", "0 and 255 or 0 and 1"),
    "numbers of classes": (lambda mask: grey(mask, 3), "PNG", "not binary", "found 2 of 0 to 3"),
    "0 and 1 with loss": (lambda mask: grey(mask, 3), "JPEG", "not binary", "found . of 0 to .\\."),
    "colours": (
        lambda mask: Image.fromarray(np.stack([np.where(mask, 220, 0), mask * 20, mask * 60], -1).astype(np.uint8)),
        "PNG",
        "colours",
        "channels differ",
    ),
    "many values of 16 bits": (
        lambda mask: trees.png_bytes(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000),
        "PNG",
        "not binary",
        "found 64 of 0 to 63000",
    ),
    "two odd values of 16 bits": (
        lambda mask: trees.png_bytes(np.where(mask, 700, 0).astype(np.uint16)),
        "PNG",
        "not binary",
        "to 700",
    ),
    "colour of 16 bits": (
        lambda mask: trees.png_bytes(np.zeros((4, 4, 3), np.uint16)),
        "PNG",
        "bit depth",
        "found PNG, colour of 16 bits",
    ),
    "web page": (lambda mask: b"<html>Log in</html>", "PNG", "damaged", "expected an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused(name, mask, read):
    make, file_format, kind, words = REFUSED[name]
    with pytest.raises(BadFileError, match=words) as caught:
        read(make(mask), file_format)
    assert caught.value.fault.kind == kind


def test_cut_off_masks_are_damaged(mask, read, tmp_path):
    grey(mask).save(tmp_path / "whole.png")
    with pytest.raises(BadFileError, match="cut off"):
        read((tmp_path / "whole.png").read_bytes()[:-30])
