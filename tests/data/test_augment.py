import functools

import numpy as np
import pytest
import tensorflow as tf

from configs import base
from data import augment
from data.classes import IGNORED

HEIGHT, WIDTH = 12, 20
SEEDS = [tf.constant([7, number], tf.int64) for number in range(40)]
STEP = 13  # Red of a pixel: STEP times its class. No multiple of it is the colour of padding.


def coloured(label):
    """Returns an example of a label [H, W] and an image whose red channel is STEP * label."""
    label = np.asarray(label, np.uint8)[..., None]
    image = np.concatenate([label * STEP, np.full_like(label, 40), 250 - label], axis=-1)
    return {"image": tf.constant(image), "label": tf.constant(label)}


@pytest.fixture
def example():
    return coloured(np.random.default_rng(0).integers(0, 19, (HEIGHT, WIDTH)))


def label_of(example):
    return example["label"].numpy()[..., 0]


def assert_image_matches_label(example):
    label = label_of(example)
    padded = label == IGNORED
    red = example["image"].numpy()[..., 0]
    np.testing.assert_array_equal(red[~padded], label[~padded] * STEP)
    assert (example["image"].numpy()[padded] == augment.PADDING).all()


def test_default_settings_change_nothing(example):
    functions = augment.augmentations(base.default_config().augment, (HEIGHT, WIDTH))
    result = augment.apply(functions, example, SEEDS[0])
    assert result["image"] is example["image"]
    assert result["label"] is example["label"]


def test_all_settings_together_keep_types_and_size(example):
    settings = base.default_config().augment
    settings.update(flip=True, scale=(0.5, 2.0), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
    functions = augment.augmentations(settings, (HEIGHT, WIDTH))
    results = [augment.apply(functions, example, seed) for seed in SEEDS[:5]]
    for result in results:
        assert result["image"].shape == (HEIGHT, WIDTH, 3)
        assert result["label"].shape == (HEIGHT, WIDTH, 1)
        assert {result["image"].dtype, result["label"].dtype} == {tf.uint8}
        assert set(np.unique(result["label"])) <= {*range(19), IGNORED}
    assert len({result["image"].numpy().tobytes() for result in results}) == 5
    again = augment.apply(functions, example, SEEDS[0])
    np.testing.assert_array_equal(again["image"], results[0]["image"])


def test_images_without_labels_are_augmented_the_same_way(example):
    settings = base.default_config().augment
    settings.update(flip=True, scale=(0.5, 2.0), crop=(8, 24), brightness=0.2)
    functions = augment.augmentations(settings, (HEIGHT, WIDTH))
    for seed in SEEDS[:5]:
        alone = augment.apply(functions, {"image": example["image"]}, seed)
        assert alone.keys() == {"image"}
        np.testing.assert_array_equal(alone["image"], augment.apply(functions, example, seed)["image"])


def test_one_setting_does_not_change_what_another_draws(example):
    settings = base.default_config().augment
    settings.crop = (6, 8)
    cropped = augment.apply(augment.augmentations(settings, (HEIGHT, WIDTH)), example, SEEDS[3])
    settings.update(brightness=0.2, hue=0.1)
    coloured_too = augment.apply(augment.augmentations(settings, (HEIGHT, WIDTH)), example, SEEDS[3])
    np.testing.assert_array_equal(coloured_too["label"], cropped["label"])


def test_flip_mirrors_image_and_label_of_half_of_the_examples(example):
    mirrored = 0
    for seed in SEEDS:
        result = augment.flip(example, seed)
        assert_image_matches_label(result)
        if (label_of(result) != label_of(example)).any():
            np.testing.assert_array_equal(label_of(result), label_of(example)[:, ::-1])
            mirrored += 1
    assert 10 <= mirrored <= 30


def test_vertical_flip_turns_upside_down_and_changes_no_other_draw(example):
    settings = base.default_config().augment
    settings.update(flip=True, crop=(8, 12))
    plain = augment.augmentations(settings, (HEIGHT, WIDTH))
    settings.flip_vertical = True
    turning = augment.augmentations(settings, (HEIGHT, WIDTH))
    turned = 0
    for seed in SEEDS:
        before, result = label_of(augment.apply(plain, example, seed)), augment.apply(turning, example, seed)
        assert_image_matches_label(result)
        if (label_of(result) != before).any():
            np.testing.assert_array_equal(label_of(result), before[::-1])
            turned += 1
    assert 10 <= turned <= 30


def test_crop_reaches_every_window(example):
    windows = {
        label_of(example)[top : top + 10, left : left + 19].tobytes(): (top, left)
        for top in range(3)
        for left in range(2)
    }
    found = set()
    for seed in SEEDS:
        result = augment.crop(example, seed, size=(10, 19))
        assert_image_matches_label(result)
        found.add(windows[label_of(result).tobytes()])
    assert found == set(windows.values())


@pytest.mark.parametrize("place", [(0, 0), (7, 12), (29, 39)])
def test_class_crop_holds_a_small_class_at_any_place_of_the_window(place):
    label = np.full((30, 40), 2)
    label[place] = 5
    crop = functools.partial(augment.crop, coloured(label), size=(8, 6), class_share=1.0, background=2)
    found = set()
    for seed in SEEDS:
        result = crop(seed)
        assert_image_matches_label(result)
        pixels = np.argwhere(label_of(result) == 5).tolist()
        assert len(pixels) == 1
        found.add(tuple(pixels[0]))
    inside = [min(step, length - 1 - step) for step, length in zip(place, label.shape, strict=True)]
    assert len(found) > 20 or min(inside) == 0  # At an edge of the image, the window cannot go further.
    assert all(row < 8 and column < 6 for row, column in found)


def test_class_crop_draws_classes_evenly_and_leaves_the_other_windows_as_they_were():
    label = np.full((60, 60), 0)
    label[2, 2], label[55:, 50:] = 1, 2
    seeds = [tf.constant([11, number], tf.int64) for number in range(120)]
    held = {share: [] for share in (0.0, 0.4)}
    for share in held:
        for seed in seeds:
            result = augment.crop(coloured(label), seed, size=(4, 4), class_share=share, background=0)
            held[share].append(result["image"].numpy())
    differ = [(one != other).any() for one, other in zip(*held.values(), strict=True)]
    assert 0.25 < np.mean(differ) < 0.55
    shown = [set(np.unique(image[..., 0] // STEP)) - {0} for image in held[0.4]]
    assert {2} in shown
    assert 8 <= shown.count({1}) <= 40


@pytest.mark.parametrize("fill", [0, IGNORED])
def test_class_crop_without_such_a_class_is_a_plain_crop(fill):
    example = coloured(np.full((20, 30), fill))
    without_label = {"image": example["image"]}
    for seed in SEEDS[:5]:
        plain = augment.crop(example, seed, size=(8, 6))
        around = augment.crop(example, seed, size=(8, 6), class_share=1.0, background=0)
        unlabelled = augment.crop(without_label, seed, size=(8, 6), class_share=1.0, background=0)
        for result in (around, unlabelled):
            np.testing.assert_array_equal(result["image"], plain["image"])


def test_class_crop_of_a_small_image_pads():
    label = np.zeros((5, 40), np.uint8)
    label[3, 30] = 1
    for seed in SEEDS[:10]:
        result = augment.crop(coloured(label), seed, size=(8, 6), class_share=1.0, background=0)
        assert label_of(result).shape == (8, 6)
        assert (label_of(result) == 1).sum() == 1
        assert (label_of(result) == IGNORED).sum() == 3 * 6


def test_gamma_is_a_power_of_the_shares_of_white():
    example = {"image": tf.constant(np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3))}
    powers = []
    for seed in SEEDS:
        values = augment.gamma(example, seed, largest=0.5)["image"].numpy()[0, :, 0]
        power = np.log(values[128] / 255) / np.log(128 / 255)
        powers.append(power)
        np.testing.assert_allclose(values, 255 * (np.arange(256) / 255) ** power, atol=1.5)
    assert 1 / 1.5 - 0.02 < min(powers) < 0.8
    assert 1.25 < max(powers) < 1.52
    assert augment.gamma(example, SEEDS[0], largest=0.0) is example


def test_crop_larger_than_the_image_pads(example):
    corners = set()
    for seed in SEEDS:
        result = augment.crop(example, seed, size=(HEIGHT + 1, WIDTH + 1))
        assert_image_matches_label(result)
        inside = np.argwhere(label_of(result) != IGNORED)
        top, left = inside.min(axis=0)
        np.testing.assert_array_equal(label_of(result)[top : top + HEIGHT, left : left + WIDTH], label_of(example))
        assert len(inside) == HEIGHT * WIDTH
        corners.add((int(top), int(left)))
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_crop_may_pad_one_axis_and_cut_the_other(example):
    result = augment.crop(example, SEEDS[0], size=(HEIGHT + 5, WIDTH - 5))
    assert_image_matches_label(result)
    assert (label_of(result) != IGNORED).sum() == HEIGHT * (WIDTH - 5)


def test_resize_by_two_repeats_labels():
    example = coloured([[1, 2], [3, 4]])
    result = augment.resize(example, SEEDS[0], size=(2, 2), scale=(2.0, 2.0))
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(label_of(result), expected)
    # Half-pixel centres: 13, 13 + 13 / 4, 13 + 3 * 13 / 4, 26.
    np.testing.assert_array_equal(result["image"][0, :, 0], [13, 16, 23, 26])


def test_shrinking_averages_pixels():
    # Half the size: a triangle filter over four pixels, weights (1, 3, 3, 1) / 8; at the border (3, 3, 1) / 7.
    row = np.array([0, 80, 160, 0, 0, 80, 0, 240], np.uint8)
    image = tf.constant(np.broadcast_to(row[None, :, None], (4, 8, 3)))
    result = augment.resize({"image": image}, SEEDS[0], size=(2, 4))["image"]
    expected = [(0 * 3 + 80 * 3 + 160) / 7, (80 + 160 * 3) / 8, 240 / 8, (80 + 240 * 3) / 7]
    np.testing.assert_array_equal(result[1, :, 0], np.round(expected))


def test_scale_moves_image_and_label_together():
    label = np.kron([[0, 5, 9], [14, 2, 18]], np.ones((10, 12)))
    sizes = set()
    for seed in SEEDS[:12]:
        result = augment.resize(coloured(label), seed, size=(20, 36), scale=(0.5, 1.5))
        height, width = label_of(result).shape
        assert 10 <= height <= 30
        assert abs(width / height - 36 / 20) < 0.1
        sizes.add(height)
        # Colours mix at the edges; two pixels away from them they are exact.
        around = np.lib.stride_tricks.sliding_window_view(label_of(result), (5, 5))
        uniform = around.min(axis=(2, 3)) == around.max(axis=(2, 3))
        red = result["image"].numpy()[2:-2, 2:-2, 0]
        np.testing.assert_array_equal(red[uniform], label_of(result)[2:-2, 2:-2][uniform] * STEP)
        assert uniform.any()
        assert set(np.unique(label_of(result))) <= {0, 5, 9, 14, 2, 18}
    assert len(sizes) > 6


def test_images_of_unknown_size_get_a_static_shape(example):
    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    def resized(image):
        result = augment.resize({"image": image}, SEEDS[0], size=(HEIGHT, WIDTH))["image"]
        assert result.shape == (HEIGHT, WIDTH, 3)
        return result

    np.testing.assert_array_equal(resized(example["image"]), example["image"])
    assert (resized(tf.fill([5, 7, 3], tf.constant(9, tf.uint8))).numpy() == 9).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_the_image_only(example, name):
    results = [getattr(augment, name)(example, seed, largest=0.3) for seed in SEEDS[:4]]
    assert all(result["label"] is example["label"] for result in results)
    assert all(result["image"].dtype == tf.uint8 for result in results)
    assert len({result["image"].numpy().tobytes() for result in results}) == 4


def test_brightness_adds_one_number_and_saturates():
    image = tf.constant([[[0, 100, 255]]], tf.uint8)
    shifts = []
    for seed in SEEDS:
        low, middle, high = augment.brightness({"image": image}, seed, largest=0.2)["image"].numpy()[0, 0]
        shift = int(middle) - 100
        assert (low, high) == (max(shift, 0), min(255 + shift, 255))
        shifts.append(shift)
    assert -51 <= min(shifts) < -30
    assert 30 < max(shifts) <= 51


def test_contrast_scales_the_difference_from_the_mean():
    image = tf.constant([[[80, 80, 80], [120, 120, 120]]], tf.uint8)
    factors = []
    for seed in SEEDS:
        dark, light = augment.contrast({"image": image}, seed, largest=0.5)["image"].numpy()[0, :, 0]
        assert int(dark) + int(light) == 200
        factors.append((int(light) - 100) / 20)
    assert 0.5 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.5


def test_saturation_scales_the_difference_from_grey():
    # 0.299 * 100 + 0.587 * 150 + 0.114 * 50 = 123.65.
    image = tf.constant([[[100, 150, 50], [77, 77, 77]]], tf.uint8)
    for seed in SEEDS[:10]:
        colour, grey = augment.saturation({"image": image}, seed, largest=0.5)["image"].numpy()[0].astype(int)
        factor = (colour[1] - 123.65) / (150 - 123.65)
        assert 0.45 <= factor <= 1.55
        np.testing.assert_allclose(colour, 123.65 + factor * np.array([-23.65, 26.35, -73.65]), atol=2)
        np.testing.assert_array_equal(grey, 77)


def test_hue_keeps_largest_and_smallest_channel():
    image = tf.constant([[[200, 90, 30], [77, 77, 77]]], tf.uint8)
    results = [augment.hue({"image": image}, seed, largest=0.5)["image"].numpy()[0] for seed in SEEDS[:10]]
    for colour, grey in results:
        assert (colour.max(), colour.min()) == (200, 30)
        np.testing.assert_array_equal(grey, 77)
    assert {int(colour.argmax()) for colour, _ in results} == {0, 1, 2}
