"""Checks pixel values of the pictures and that a file appears complete or not at all."""

import numpy as np
import pytest
from PIL import Image

from ass_jax.visualization import colourise, outline, prediction_strip, save_picture, save_prediction

PALETTE = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)
NAMES = ("road", "car", "sky")
LABELS = np.array([[0, 1, 2], [2, 255, 0]])
BLACK = [0, 0, 0]


def contains(picture: np.ndarray, colour: np.ndarray) -> bool:
    return bool((picture == colour).all(axis=-1).any())


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_colourise_looks_labels_up(dtype):
    colours = colourise(LABELS.astype(dtype), PALETTE)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0], PALETTE)
    np.testing.assert_array_equal(colours[1], [PALETTE[2], BLACK, PALETTE[0]])


@pytest.mark.parametrize("wrong", [3, 254, 256, -1])
def test_labels_without_a_colour_are_named(wrong):
    with pytest.raises(ValueError, match=rf"Expected labels 0 to 2 or 255, found \[{wrong}\]"):
        colourise(np.array([[0, wrong]]), PALETTE)


def test_saved_prediction_holds_labels_and_shows_colours(tmp_path):
    path = tmp_path / "prediction.png"
    save_prediction(path, LABELS, PALETTE)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(image), LABELS)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colourise(LABELS, PALETTE))


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_picture(path, np.zeros((2, 3, 3), np.uint8))
    before = path.read_bytes()

    def write_half(image, file, **_):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", write_half)
    with pytest.raises(OSError, match="no space left"):
        save_picture(path, np.ones((2, 3, 3), np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_strip_shows_enlarged_rows_of_input_prediction_and_truth():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)
    labels = np.random.default_rng(1).choice([0, 1, 2, 255], (2, 32, 64))
    predictions = np.where(labels == 255, 1, labels)
    strip = prediction_strip(images, predictions, labels, PALETTE)
    assert strip.dtype == np.uint8
    height, width, gap, heading = 128, 256, 2, 20
    assert strip.shape == (heading + 2 * (height + gap), 3 * width + 2 * gap, 3)
    for row in range(2):
        top = heading + row * (height + gap)
        panels = [strip[top : top + height, left : left + width][::4, ::4] for left in (0, 258, 516)]
        np.testing.assert_array_equal(panels[0], images[row])
        np.testing.assert_array_equal(panels[1], colourise(predictions[row], PALETTE))
        np.testing.assert_array_equal(panels[2], colourise(labels[row], PALETTE))
        assert (strip[top : top + height, [256, 257, 514, 515]] == 255).all()


def test_outline_draws_the_borders_of_regions_by_hand():
    image = np.full((1, 5, 5, 3), 100, np.uint8)
    prediction, truth = np.zeros((2, 1, 5, 5), np.uint8)
    prediction[0, :4, :4] = 1  # Its middle, and its sides at the edge of the image, touch no other class.
    truth[0, 3:, 3:], truth[0, 4, 4] = 1, 255
    found = outline(image, prediction, truth, background=0)
    drawn = np.array([list(row) for row in ("...y.", "...y.", "...y.", "yyycc", "...c.")])
    colours = {".": (100,) * 3, "y": (255, 255, 0), "c": (0, 255, 255)}
    np.testing.assert_array_equal(found[0], [[colours[letter] for letter in row] for row in drawn])
    assert (image == 100).all()


def test_strip_of_lesions_shows_borders_over_the_input():
    images = np.full((1, 300, 300, 3), 77, np.uint8)
    prediction, truth = np.zeros((2, 1, 300, 300), np.uint8)
    prediction[0, 100:120, 100:120] = truth[0, 110:140, 110:140] = 1
    plain = prediction_strip(images, prediction, truth, PALETTE[:2], NAMES[:2])
    strip = prediction_strip(images, prediction, truth, PALETTE[:2], NAMES[:2], background=0)
    assert strip.shape[1] > plain.shape[1]
    for colour in ((255, 255, 0), (0, 255, 255)):
        assert contains(strip, np.array(colour))
        assert not contains(plain, np.array(colour))


def test_strip_thins_out_large_images_and_resizes_the_input_to_the_labels():
    images = np.full((1, 64, 128, 3), 7, np.uint8)
    labels = np.zeros((1, 720, 1440), np.uint8)
    strip = prediction_strip(images, labels, labels, PALETTE)
    assert strip.shape == (20 + 240 + 2, 3 * 480 + 4, 3)
    assert (strip[20:260, :480] == 7).all()


def test_legend_has_every_colour_and_text():
    images = np.full((1, 16, 16, 3), 200, np.uint8)
    labels = np.zeros((1, 16, 16), np.uint8)
    plain = prediction_strip(images, labels, labels, PALETTE)
    legend = prediction_strip(images, labels, labels, PALETTE, NAMES)[len(plain) :]
    assert all(contains(legend, colour) for colour in [*PALETTE, BLACK])
    greys = (legend[..., 0] == legend[..., 1]) & (legend[..., 1] == legend[..., 2]) & (legend[..., 0] % 255 > 0)
    assert greys.sum() > 50  # Smoothed edges of letters.
