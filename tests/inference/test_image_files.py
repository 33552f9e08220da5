"""A user's image files: found, read in every mode, and given distinct names in the results."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ass_jax.inference.image_files import UnreadableImageError, find_images, output_names, read_image
from configs.user_error import UserError
from tests.helpers.broken_images import write_broken_images
from tests.weights.test_export import PALETTE


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("YCbCr", "jpg"),
        ("RGB", "webp"),
        ("RGB", "tif"),
        ("RGB", "bmp"),
    ],
)
def test_images_of_every_mode_become_rgb(tmp_path, mode, ending):
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode).save(path)
    found = read_image(path)
    assert (found.shape, found.dtype) == ((5, 7, 3), np.uint8)
    assert found.min() >= 250


@pytest.mark.parametrize(
    ("pixels", "ending", "expected"),
    [
        (np.array([[0, 257, 65535]], np.uint16), "png", [0, 1, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), "tif", [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), "tif", [0, 128, 255]),
        (np.array([[0, 65535, 100_000]], np.int32), "tif", [0, 255, 255]),
    ],
)
def test_grey_images_deeper_than_8_bits_are_scaled(tmp_path, pixels, ending, expected):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image(path)[0], np.repeat(np.array(expected)[:, None], 3, axis=1))


def test_palette_images_show_their_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(PALETTE.tobytes())
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png")[0], PALETTE)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 2)), (6, (0, 1)), (8, (2, 0))])
def test_exif_orientation_is_applied(tmp_path, orientation, corner):
    """The bright block in the first corner of the stored image ends up where the EXIF orientation puts it."""
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "image.jpg", exif=exif, quality=95)
    found = read_image(tmp_path / "image.jpg")
    blocks = found.reshape(found.shape[0] // 16, 16, found.shape[1] // 16, 16, 3).mean(axis=(1, 3, 4))
    assert blocks.shape == ((2, 3) if orientation in (1, 3) else (3, 2))
    assert np.unravel_index(blocks.argmax(), blocks.shape) == corner


def test_unreadable_images(tmp_path):
    for path in write_broken_images(tmp_path):
        with pytest.raises(UnreadableImageError, match=rf"^{path}: cannot be read as an image \(.+\)\.$"):
            read_image(path)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([], []),
        (["in/a.jpg", "in/b.png"], ["a", "b"]),
        (["in/a.jpg", "in/a.png", "in/b.png"], ["a.jpg", "a.png", "b"]),
        (["in/a.jpg", "in/A.png"], ["a.jpg", "A.png"]),
        (["in/left/a.jpg", "in/right/a.jpg"], ["left_a.jpg", "right_a.jpg"]),
        (["in/a.jpg", "in/a_overlay.jpg"], ["a.jpg", "a_overlay.jpg"]),
        (["in/a.jpg", "in/a.png", "in/a.png.jpg"], ["a.jpg", "a.png", "a.png.jpg"]),
        (["in/x/y_a.jpg", "in/x_y/a.jpg", "in/z/a.jpg"], ["y_a", "x_y_a.jpg", "z_a.jpg"]),
        (
            ["in/b.jpg", "in/x/y_a.jpg", "in/x_y/a.jpg", "in/z/a.jpg", "in/z/y_a.jpg"],
            ["b", "x_y_a.jpg_1", "x_y_a.jpg_2", "z_a.jpg", "z_y_a.jpg"],
        ),
        (["in/a.jpg", "in/a.jpg", "in/a.jpg_1.png"], ["a.jpg_2", "a.jpg_3", "a.jpg_1"]),
    ],
)
def test_names_of_results_differ(inputs, expected):
    assert output_names([Path(name) for name in inputs]) == expected


def test_names_of_results_do_not_depend_on_images_that_do_not_clash():
    inputs = [Path(folder) / name for folder in ("left", "right") for name in ("a.jpg", "a.png", "b.jpg")]
    names = dict(zip(inputs, output_names(inputs), strict=True))
    others = [Path("left/0.jpg"), *inputs, Path("right/z.jpg")]
    assert dict(zip(others, output_names(others), strict=True)).items() >= names.items()


def test_finding_images(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "note.txt", "paper.pdf", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(str(tmp_path)) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find_images(str(tmp_path / "note.txt")) == [tmp_path / "note.txt"]
    assert find_images(f"{tmp_path}/**/*.png") == [tmp_path / "a.png", tmp_path / "deep" / "c.png"]
    monkeypatch.chdir(tmp_path)
    assert find_images("*.png") == [Path("a.png")]
    (tmp_path / "none").mkdir()
    for pattern in ("none", "absent.png", "*.gif"):
        with pytest.raises(UserError, match=r"No images at '.*': expected an image, a folder of images or a"):
            find_images(pattern)
