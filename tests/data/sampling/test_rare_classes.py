import collections
import math

import numpy as np
import pytest

from data.classes import IGNORED
from data.sampling.rare_classes import RareClassSampler, by_train_id, class_probabilities

# Raw ids 0 (ignored), 1 and 2 (class 0), 3 (class 1), 4 (class 2) of three images of 1000 pixels.
RAW = np.array([[400, 300, 300, 0, 0], [0, 500, 100, 400, 0], [700, 0, 299, 0, 1]])
TRAIN_IDS = np.array([IGNORED, 0, 0, 1, 2], np.uint8)
# Of 1900 pixels, class 0 has 1499, class 1 has 400 and class 2 has 1.


def test_raw_ids_are_added_up_by_class():
    found = by_train_id(RAW, TRAIN_IDS)
    assert found.dtype == np.int64
    assert found.shape == (3, IGNORED)
    assert found[:, :3].tolist() == [[600, 0, 0], [600, 400, 0], [299, 0, 1]]
    assert not found[:, 3:].any()
    np.testing.assert_array_equal(by_train_id(RAW, np.append(TRAIN_IDS, np.uint8([3, 4]))), found)


def test_probabilities_by_hand():
    counts = np.array([[30, 10, 0], [30, 0, 20], [0, 0, 10]])  # 60, 10 and 30 of 100 pixels.
    weights = [math.exp(0.4 / 0.5), math.exp(0.9 / 0.5), math.exp(0.7 / 0.5)]
    found = class_probabilities(counts, counts > 0, 0.5)
    np.testing.assert_allclose(found, np.array(weights) / sum(weights), rtol=1e-12)


def test_class_that_no_image_shows_is_left_out():
    counts = np.array([[60, 10, 30, 0]])
    shown = np.array([[True, False, True, False]])
    # Its pixels still count: the shares stay 0.6 and 0.3.
    ratio = math.exp((0.7 - 0.4) / 0.1)
    np.testing.assert_allclose(
        class_probabilities(counts, shown, 0.1), [1 / (1 + ratio), 0, ratio / (1 + ratio), 0], rtol=1e-12
    )


def test_low_temperature_takes_the_rarest_class_and_does_not_overflow():
    counts = np.array([[60, 10, 30]])
    np.testing.assert_array_equal(class_probabilities(counts, counts > 0, 1e-5), [0, 1, 0])


def test_left_out_rare_class_does_not_drown_the_others():
    counts = np.array([[600, 390, 10]])
    shown = np.array([[True, True, False]])
    np.testing.assert_array_equal(class_probabilities(counts, shown, 1e-6), [0, 1, 0])


def test_high_temperature_makes_classes_equally_likely():
    counts = np.array([[60, 10, 30]])
    np.testing.assert_allclose(class_probabilities(counts, counts > 0, 1e6), 1 / 3, atol=1e-6)


def test_labels_without_any_class_are_refused():
    raw = np.array([[1000, 0], [1000, 0]])
    with pytest.raises(ValueError, match=r"expected labels with pixels of some class, found none in 2 images"):
        RareClassSampler(raw, np.array([IGNORED, 0], np.uint8), 0.01, (0, 0))


def test_draws_have_the_expected_frequencies():
    sampler = RareClassSampler(RAW, TRAIN_IDS, 0.5, (0, 0))
    weights = np.exp((1 - np.array([1499, 400, 1]) / 1900) / 0.5)
    common, rare, rarest = weights / weights.sum()
    np.testing.assert_allclose(sampler.probabilities[:3], [common, rare, rarest], rtol=1e-12)
    found = collections.Counter(sampler.draw(np.arange(20_000)).tolist())
    # Class 0: each of the three images. Class 1: the second alone. Class 2, of one pixel: the last alone.
    expected = [common / 3, common / 3 + rare, common / 3 + rarest]
    np.testing.assert_allclose([found[image] / 20_000 for image in range(3)], expected, atol=0.012)


def test_small_class_is_drawn_from_the_images_that_show_it_or_from_all_that_hold_it():
    ids = np.array([0, 1], np.uint8)
    lesions = np.array([[9999, 1], [9000, 1000], [9999, 1], [10_000, 0]])
    assert set(RareClassSampler(lesions, ids, 0.01, (0, 0)).draw(np.arange(200)).tolist()) == {1}
    lesions[1] = 9993, 7
    assert set(RareClassSampler(lesions, ids, 0.01, (0, 0)).draw(np.arange(200)).tolist()) == {0, 1, 2}


def test_draws_are_a_function_of_seed_and_position():
    sampler = RareClassSampler(RAW, TRAIN_IDS, 1.0, (0, 0))
    straight = sampler.draw(np.arange(200))
    assert straight.dtype == np.int64
    for start in (0, 7, 199):
        np.testing.assert_array_equal(sampler.draw(np.arange(start, 200)), straight[start:])
    np.testing.assert_array_equal(sampler.draw(np.arange(200)[::-1]), straight[::-1])
    for seed in ((1, 0), (0, 1), (-1, 0)):
        assert (RareClassSampler(RAW, TRAIN_IDS, 1.0, seed).draw(np.arange(200)) != straight).any()
    assert 0 <= sampler.draw(np.array([2**62]))[0] < 3
    assert sampler.draw(np.zeros(0, np.int64)).shape == (0,)


def test_draws_stay_the_same_in_all_versions():
    sampler = RareClassSampler(RAW[:, :4], TRAIN_IDS, 1.0, (0, 0))  # Classes 0 and 1.
    assert sampler.draw(np.arange(12)).tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 2, 1]
