"""Pasted regions: their classes and rectangles, against loops over pixels; ignored pixels are never pasted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method import mixing
from ass_jax.method.mixing import CUT_AREA, class_regions, cut_regions, paste

CLASSES = 5
IGNORED = 255
SIZE = (6, 8)


def images_of(*classes):
    """Returns labels `[B, 6, 8]`: one image for each group of classes, with every class of the group."""
    random = np.random.default_rng(0)
    images = []
    for group in classes:
        image = random.choice(group, SIZE)
        image.flat[random.choice(image.size, len(group), replace=False)] = group
        images.append(image)
    return np.stack(images).astype(np.uint8)


def classes_in(labels, region):
    return {int(value) for value in labels[region]}


@functools.cache
def batched(function):
    """Returns `function` over many keys at once."""
    return jax.jit(jax.vmap(lambda key, labels: function(key, labels, CLASSES), in_axes=(0, None)))


def draws(function, labels, count, seed=0):
    return np.asarray(batched(function)(jax.random.split(jax.random.key(seed), count), labels))


@pytest.mark.parametrize(
    ("present", "chosen"),
    [((), 0), ((3,), 1), ((0, 4), 1), ((0, 1, 2), 2), ((1, 2, 3, 4), 2), ((0, 1, 2, 3, 4), 3)],
)
@pytest.mark.parametrize("ignored", [(), (IGNORED,)])
def test_half_of_the_present_classes_rounded_up_is_chosen(present, chosen, ignored):
    labels = images_of((*present, *ignored) or (IGNORED,))
    for (region,) in draws(class_regions, labels, 20):
        found = classes_in(labels[0], region)
        assert len(found) == chosen
        assert found <= set(present)
        # All pixels of a chosen class are in the region.
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                assert region[row, column] == (int(labels[0, row, column]) in found)


def test_all_choices_of_classes_are_equally_likely():
    """Three of five classes are chosen: each of the ten triples in a tenth of the draws."""
    count, labels = 4000, images_of(range(CLASSES))
    sets = [frozenset(classes_in(labels[0], region)) for (region,) in draws(class_regions, labels, count)]
    found = [sets.count(triple) for triple in set(sets)]
    assert len(found) == math.comb(5, 3)
    # Five standard deviations of a binomial count.
    assert max(abs(number - count / 10) for number in found) < 5 * math.sqrt(count * 0.1 * 0.9)


def test_images_and_keys_draw_independently():
    labels = images_of((0, 1), (0, 1), (0, 1))
    regions = draws(class_regions, labels, 400)
    zero = np.array(
        [[0 in classes_in(image, region) for image, region in zip(labels, key, strict=True)] for key in regions]
    )
    assert np.array_equal(regions, draws(class_regions, labels, 400))
    # All eight outcomes of three fair coins, none far from an eighth of the draws.
    counts = np.bincount(zero @ [1, 2, 4], minlength=8)
    assert np.abs(counts - 50).max() < 5 * math.sqrt(400 / 8 * 7 / 8)


def test_an_image_does_not_depend_on_its_neighbours():
    one, other = images_of((0, 1, 2), (3, 4, IGNORED)), images_of((0, 1, 2), (IGNORED,))
    np.testing.assert_array_equal(draws(class_regions, one, 9)[:, 0], draws(class_regions, other, 9)[:, 0])


@pytest.mark.parametrize("size", [(64, 128), (33, 50)])
def test_rectangles_have_half_the_area(size):
    labels = np.zeros((2, *size), np.uint8)
    shapes = []
    for region in draws(cut_regions, labels, 100).reshape(-1, *size):
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        height, width = len(rows), len(columns)
        # The region is one full rectangle inside the image.
        assert region.sum() == height * width
        assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (height, width)
        # Each side is rounded by less than a pixel.
        assert abs(height * width - CUT_AREA * size[0] * size[1]) <= height + width + 1
        shapes.append((height / size[0], width / size[1], rows[0] == 0, rows[-1] == size[0] - 1))
    tall, wide, top, bottom = np.array(shapes).T
    assert tall.min() < 0.55
    assert tall.max() > 0.95
    assert wide.min() < 0.55
    assert wide.max() > 0.95
    # The mean of a log-uniform draw from 1/2 to 1 is (1 - 1/2) / ln 2.
    assert tall.mean() == pytest.approx(0.5 / math.log(2), abs=0.05)
    assert top.any()
    assert bottom.any()


def test_rectangles_exclude_ignored_pixels():
    labels = np.zeros((1, *SIZE), np.uint8)
    labels[0, ::2] = IGNORED
    whole = draws(cut_regions, np.zeros_like(labels), 50)
    np.testing.assert_array_equal(draws(cut_regions, labels, 50), whole & (labels == 0))


@pytest.mark.parametrize("kind", mixing.REGIONS)
def test_ignored_pixels_of_the_donor_are_never_pasted(kind):
    labels = images_of((0, 2, IGNORED), (IGNORED,), (1, IGNORED), (0, 1, 2, 3, 4, IGNORED))
    regions = draws(mixing.REGIONS[kind], labels, 50)
    assert not (regions & (labels == IGNORED)).any()
    assert regions[:, [0, 2, 3]].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("kind", mixing.REGIONS)
def test_labels_beyond_the_classes_are_never_pasted(kind):
    labels = np.full((1, *SIZE), CLASSES, np.int32)
    labels[0, 0] = -1
    assert not draws(mixing.REGIONS[kind], labels, 20).any()


def test_paste_against_a_loop():
    random = np.random.default_rng(1)
    shape = (2, *SIZE)
    donor, receiver = (
        {
            "image": random.uniform(0, 255, (*shape, 3)).astype(np.float32),
            "label": random.choice([0, 1, IGNORED], shape).astype(np.int32),
        }
        for _ in range(2)
    )
    regions = class_regions(jax.random.key(0), donor["label"], CLASSES)
    found = paste(regions, {name: jnp.asarray(array) for name, array in donor.items()}, receiver)
    assert found.keys() == receiver.keys()
    for name, array in receiver.items():
        expected = array.copy()
        for place in np.argwhere(regions):
            expected[tuple(place)] = donor[name][tuple(place)]
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == array.dtype
    # Where the donor is ignored, the receiver's pixel stays, even if it is ignored too.
    survives = donor["label"] == IGNORED
    np.testing.assert_array_equal(found["image"][survives], receiver["image"][survives])
    assert (np.asarray(found["label"])[survives & (receiver["label"] == IGNORED)] == IGNORED).all()
