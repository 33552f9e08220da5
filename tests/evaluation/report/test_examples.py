"""Which images a report shows, and their pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ass_jax.evaluation.report.examples import ERROR_COLOURS, SAMPLE, ExampleImages, error_map, panels

PALETTE = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)


def choose(scores, order=None):
    """Returns the names chosen of images `0`, `1`, … with these scores, by kind."""
    images = ExampleImages()
    blank = np.zeros((2, 4), np.uint8)
    for number in order or range(len(scores)):
        images.add(str(number), scores[number], np.zeros((2, 4, 3), np.uint8), blank, blank)
    return {kind: [example.name for example in examples] for kind, examples in images.chosen().items()}


def test_worst_median_and_best_images():
    scores = [0.9, 0.1, 0.5, 0.2, 0.45, 0.8, 0.53, 0.3, 0.7, np.nan, 0.6, 0.51]
    assert choose(scores) == {"worst": ["1", "3", "7"], "median": ["11", "2", "6"], "best": ["0", "5", "8"]}


def test_ties_go_by_name_whatever_the_order():
    scores = [0.5] * 12
    expected = {"worst": ["0", "1", "10"], "median": ["11", "2", "3"], "best": []}
    assert choose(scores) == choose(scores, [7, 3, 11, 0, 5, 1, 10, 2, 9, 4, 8, 6]) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], {"worst": [], "median": [], "best": []}),
        ([np.nan], {"worst": [], "median": [], "best": []}),
        ([0.5], {"worst": ["0"], "median": [], "best": []}),
        ([0.5, 0.25], {"worst": ["1"], "median": [], "best": ["0"]}),
        ([0.5, 0.25, 0.75], {"worst": ["1"], "median": ["0"], "best": ["2"]}),
    ],
)
def test_no_image_is_shown_twice(scores, expected):
    assert choose(scores) == expected


def test_many_images_need_the_memory_of_few():
    """The middle ones come from a sample, near the median in any order of the scores, and the same in any order."""
    scores = [number / 1000 for number in range(1000)]
    images, blank = ExampleImages(), np.zeros((2, 4), np.uint8)
    for number, score in enumerate(scores):
        images.add(str(number), score, np.zeros((2, 4, 3), np.uint8), blank, blank)
    assert len(images._sample) == SAMPLE
    found = choose(scores)
    assert found["worst"] == ["0", "1", "2"]
    assert found["best"] == ["999", "998", "997"]
    assert all(abs(int(name) - 500) < 1000 / SAMPLE * 3 for name in found["median"])
    assert found == choose(scores, list(reversed(range(1000))))


def test_errors_are_right_wrong_or_not_counted():
    label = np.array([[0, 1, 255], [1, 1, 255]], np.uint8)
    prediction = np.array([[0, 0, 1], [1, 0, 0]], np.uint8)
    assert error_map(label, prediction).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_pictures_are_small_and_keep_the_labels():
    images = ExampleImages()
    label = np.zeros((1000, 2000), np.uint8)
    label[:, 1000:], label[:500, :10] = 1, 255
    prediction = np.ones((1000, 2000), np.uint8)
    images.add("wide", 0.5, np.full((500, 1000, 3), 77, np.uint8), label, prediction)
    pictures = panels(images.chosen()["worst"][0], PALETTE)
    opened = {name: Image.open(io.BytesIO(base64.b64decode(text))) for name, text in pictures.items()}
    assert {name: (picture.format, picture.size) for name, picture in opened.items()} == {
        "image": ("JPEG", (400, 200)),
        "label": ("PNG", (400, 200)),
        "prediction": ("PNG", (400, 200)),
        "error": ("PNG", (400, 200)),
    }
    colours = {name: np.asarray(picture.convert("RGB")) for name, picture in opened.items()}
    assert colours["label"][0, 0].tolist() == [0, 0, 0]  # Ignored.
    assert colours["label"][150, 0].tolist() == PALETTE[0].tolist()
    assert colours["prediction"][150, 0].tolist() == PALETTE[1].tolist()
    assert colours["error"][[0, 150, 150], [0, 0, 399]].tolist() == [list(ERROR_COLOURS[kind]) for kind in (2, 1, 0)]
    assert np.abs(colours["image"].astype(int) - 77).max() <= 2
