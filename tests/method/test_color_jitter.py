"""Colour jitter and blur against loops over images, pixels and taps."""

import jax
import numpy as np
import pytest

from ass_jax.method.color_jitter import BLUR_RADIUS, BLURRED, JITTERED, gaussian_blur, jitter_colours, perturb

MATRIX = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
NOTHING = np.zeros(3, np.float32)


def images(count=3, low=0, high=256, size=(9, 13)):
    return np.random.default_rng(0).uniform(low, high - 1, (count, *size, 3)).astype(np.float32)


def jitter_by_hand(image, brightness, contrast, saturation, hue):
    """Jitters one image in float64: brightness, contrast about the mean luma, then each pixel's colour differences."""
    image = np.float64(image) * (1 + brightness)
    mean = np.mean(image @ MATRIX[0])
    image = mean + (1 + contrast) * (image - mean)
    found = np.empty_like(image)
    cosine, sine = np.cos(np.pi * hue), np.sin(np.pi * hue)
    for place in np.ndindex(image.shape[:2]):
        luma, first, second = MATRIX @ image[place]
        first, second = (1 + saturation) * first, (1 + saturation) * second
        turned = np.array([luma, cosine * first - sine * second, sine * first + cosine * second])
        found[place] = np.linalg.solve(MATRIX, turned)
    return np.clip(found, 0, 255)


def blur_by_hand(image, sigma):
    """Blurs one image in float64 with the full square of taps; border pixels are repeated outwards."""
    height, width = image.shape[:2]
    offsets = range(-BLUR_RADIUS, BLUR_RADIUS + 1)
    found, total = np.zeros(image.shape), sum(np.exp(-0.5 * (k / sigma) ** 2) for k in offsets) ** 2
    for row, column in np.ndindex(height, width):
        for down in offsets:
            for right in offsets:
                there = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
                found[row, column] += np.exp(-0.5 * (down**2 + right**2) / sigma**2) / total * image[there]
    return found


def test_jitter_against_numpy():
    changes = np.random.default_rng(1).uniform(-0.5, 0.5, (4, 3)).astype(np.float32)
    found = jax.jit(jitter_colours)(images(), *changes)
    assert found.dtype == np.float32
    for number, image in enumerate(images()):
        np.testing.assert_allclose(found[number], jitter_by_hand(image, *changes[:, number]), atol=2e-3)
    assert (np.asarray(found) == 0).any()
    assert (np.asarray(found) == 255).any()


@pytest.mark.parametrize("change", range(4))
def test_each_change_alone(change):
    changes = np.zeros((4, 3), np.float32)
    changes[change] = (-0.4, 0.1, 0.3)
    found = np.asarray(jitter_colours(images(), *changes))
    for number, image in enumerate(images()):
        np.testing.assert_allclose(found[number], jitter_by_hand(image, *changes[:, number]), atol=2e-3)
        assert np.abs(found[number] - image).max() > 1


def test_no_change_is_the_identity():
    np.testing.assert_allclose(jitter_colours(images(), *[NOTHING] * 4), images(), atol=1e-3)


def test_grey_stays_grey():
    grey = images()[..., :1].repeat(3, axis=-1)
    changes = np.random.default_rng(2).uniform(-0.5, 0.5, (4, 3)).astype(np.float32)
    found = np.asarray(jitter_colours(grey, *changes))
    assert np.ptp(found, axis=-1).max() < 1e-3
    # Hue and saturation have nothing to act on.
    np.testing.assert_allclose(jitter_colours(grey, NOTHING, NOTHING, *changes[2:]), grey, atol=1e-3)


def test_hue_and_saturation_keep_the_luma():
    moderate = images(low=110, high=146)  # Nothing is cut off.
    changed = jitter_colours(moderate, NOTHING, NOTHING, NOTHING + 0.3, NOTHING - 0.4)
    np.testing.assert_allclose(changed @ MATRIX[0], moderate @ MATRIX[0], atol=1e-3)
    assert np.abs(np.asarray(changed) - moderate).max() > 5


def test_results_stay_in_range():
    for extreme in (-1.0, 1.0):
        found = np.asarray(jitter_colours(images(), *[NOTHING + extreme] * 4))
        assert found.min() >= 0
        assert found.max() <= 255


def test_blur_against_numpy():
    sigmas = np.array([0.15, 0.6, 1.15], np.float32)
    found = jax.jit(gaussian_blur)(images(), sigmas)
    for number, image in enumerate(images()):
        np.testing.assert_allclose(found[number], blur_by_hand(np.float64(image), sigmas[number]), atol=2e-3)


def test_blur_leaves_a_constant_image_and_keeps_the_sum_of_a_point():
    sigmas = np.array([0.15, 0.6, 1.15], np.float32)
    constant = np.full((3, 5, 7, 3), 77.25, np.float32)
    np.testing.assert_allclose(gaussian_blur(constant, sigmas), constant, rtol=1e-6)
    point = np.zeros((3, 2 * BLUR_RADIUS + 1, 2 * BLUR_RADIUS + 3, 3), np.float32)
    point[:, BLUR_RADIUS, BLUR_RADIUS + 1] = (10, 100, 200)
    spread = np.asarray(gaussian_blur(point, sigmas))
    np.testing.assert_allclose(spread.sum((1, 2)), [[10, 100, 200]] * 3, rtol=1e-5)
    peaks = spread[:, BLUR_RADIUS, BLUR_RADIUS + 1, 2]
    assert peaks[0] == pytest.approx(200, rel=1e-5)
    assert peaks[0] > peaks[1] > peaks[2] > 0
    # A Gaussian is symmetric.
    np.testing.assert_allclose(spread[2], spread[2][::-1, ::-1], rtol=1e-5)


def test_every_image_has_its_own_draw():
    """The stated shares of many copies of one image change, each copy differently."""
    count = 400
    copies = np.repeat(images(1, low=60, high=180, size=(5, 5)), count, axis=0)
    for jitter, blur, share in ((0.2, False, JITTERED), (0.0, True, BLURRED)):
        found = np.asarray(jax.jit(perturb, static_argnums=(2, 3))(jax.random.key(0), copies, jitter, blur))
        changed = np.abs(found - copies).max(axis=(1, 2, 3)) > 0.01
        # Within five standard deviations; blurs of the smallest sigmas are invisible.
        spread = 5 * np.sqrt(count * share * (1 - share))
        invisible = 0.15 if blur else 0
        assert share * count * (1 - invisible) - spread < changed.sum() < share * count + spread
        assert len(np.unique(found[changed][:, 2, 2, 0])) == changed.sum()


def test_perturb_does_nothing_when_off_and_depends_only_on_the_key():
    changed = jax.jit(perturb, static_argnums=(2, 3))
    np.testing.assert_allclose(changed(jax.random.key(0), images(), 0.0, False), images(), atol=1e-3)
    one, again, other = (np.asarray(changed(jax.random.key(key), images(), 0.5, True)) for key in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1


def test_changes_are_at_most_the_jitter():
    """Only brightness changes grey images: it scales their mean by a factor within the jitter of 1."""
    grey = np.full((500, 2, 2, 3), 100, np.float32)
    scale = np.asarray(perturb(jax.random.key(3), grey, 0.2, False)).mean((1, 2, 3)) / 100
    assert 0.8 - 1e-4 <= scale.min() < 0.805
    assert 1.195 < scale.max() <= 1.2 + 1e-4
