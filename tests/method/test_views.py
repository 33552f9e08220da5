"""Windows, mirrored images and scales on a fake network, against plain evaluation and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method.views import labels, probabilities, scores, window_starts
from ass_jax.ops import resize_bilinear
from ass_jax.runtime.sharding import by_image, global_batch, make_mesh
from configs import base

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
SIZE = IMAGES.shape[1:3]


def network(images):
    """Network of stride 4 and three classes; scores depend on the place in the image, as with a real network."""
    pixels = images.astype(jnp.float32)[:, ::4, ::4] / 64
    places = jnp.arange(pixels.shape[2], dtype=jnp.float32)[None, None, :, None]
    return pixels * (1 + 0.1 * places) + jnp.array([0.0, 0.2, 0.4]) * places


def pointwise(images):
    """Network at full resolution that scores each pixel independently."""
    return images.astype(jnp.float32) / 64


def plain(images=IMAGES, size=SIZE):
    return jax.nn.softmax(resize_bilinear(network(jnp.asarray(images)), size))


def settings(**changes):
    evaluation = base.default_config().evaluation
    evaluation.update(changes)
    return evaluation


@pytest.mark.parametrize("options", [{}, {"scales": (1.0,)}, {"window": (16, 24)}, {"window": (99, 30)}])
def test_whole_images_at_one_scale_are_plain_evaluation(options):
    np.testing.assert_array_equal(probabilities(network, IMAGES, **options), plain())
    larger = labels(scores(network, IMAGES, settings(**options)), (32, 48))
    np.testing.assert_array_equal(larger, plain(size=(32, 48)).argmax(-1))


def test_plain_evaluation_needs_no_softmax():
    text = str(jax.make_jaxpr(lambda x: scores(network, x, settings(window=(16, 24))))(IMAGES))
    assert "exp" not in text
    assert "while" not in text


def test_flip_is_the_mean_of_both_views():
    mirrored = np.asarray(plain(IMAGES[:, :, ::-1]))[:, :, ::-1]
    assert np.abs(mirrored - plain()).max() > 0.1
    found = probabilities(network, IMAGES, flip=True)
    np.testing.assert_allclose(found, (plain() + mirrored) / 2, atol=1e-6)


def test_flip_of_a_mirrored_image_is_mirrored():
    found = probabilities(network, IMAGES, flip=True)
    of_mirrored = probabilities(network, IMAGES[:, :, ::-1], flip=True)
    np.testing.assert_array_equal(of_mirrored, found[:, :, ::-1])


def test_overlapping_windows_by_hand():
    """Windows of 4 with stride 2 over a row of 6 pixels: pixels 2 and 3 are seen twice."""
    row = np.zeros((1, 1, 6, 3), np.uint8)
    row[..., 0] = 64 * np.arange(6)

    def place(images):
        # The probability of class 1 grows with the distance from the window's left edge.
        logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))[: images.shape[2]]
        return jnp.stack([jnp.log1p(-jnp.exp(logits)), logits], -1)[None, None]

    found = probabilities(place, row, window=(1, 4), stride=(1, 2))
    expected = [0.1, 0.2, (0.3 + 0.1) / 2, (0.4 + 0.2) / 2, 0.3, 0.4]
    np.testing.assert_allclose(found[0, 0, :, 1], expected, atol=1e-6)


@pytest.mark.parametrize("window", [(4, 4), (5, 7), (16, 9), (1, 24)])
@pytest.mark.parametrize("stride", [(0, 0), (3, 4), (4, 1)])
def test_windows_do_not_change_a_pointwise_network(window, stride):
    stride = tuple(min(pair) for pair in zip(window, stride, strict=True))
    found = probabilities(pointwise, IMAGES, window=window, stride=stride, flip=True)
    np.testing.assert_allclose(found, jax.nn.softmax(pointwise(IMAGES)), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(10, 4, 3, [0, 3, 6]), (10, 4, 4, [0, 4, 6]), (10, 4, 0, [0, 2, 4, 6]), (4, 4, 4, [0]), (5, 4, 4, [0, 1])],
)
def test_last_window_ends_with_the_image(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


def test_scales_have_equal_weights():
    def resized(height, width):
        return jax.image.resize(IMAGES.astype(np.float32), (2, height, width, 3), "linear")

    expected = (plain() + plain(resized(8, 12)) + plain(resized(32, 48))) / 3
    found = probabilities(network, IMAGES, scales=(1.0, 0.5, 2.0))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities(network, IMAGES, scales=(1.0, 1.0)), plain(), atol=1e-6)


def test_all_options_compile_once_and_divide_images_among_devices():
    traced = []

    def counted(images):
        traced.append(images.shape)
        return network(images)

    views = settings(window=(8, 12), stride=(4, 12), flip=True, scales=(0.75, 1.0))

    def evaluate(images):
        return labels(scores(counted, images, views), (32, 48))

    one = jax.jit(evaluate)
    images = np.concatenate([IMAGES, IMAGES[::-1]])
    expected = one(images)
    calls = len(traced)
    np.testing.assert_array_equal(one(images[::-1]), expected[::-1])
    assert len(traced) == calls <= 8  # Each scale is traced a fixed number of times, however many its windows.
    assert set(traced) == {(4, 8, 12, 3)}

    mesh = make_mesh([4])
    batch = global_batch({"image": images}, mesh)["image"]
    four = jax.jit(evaluate, out_shardings=by_image(mesh)).lower(batch).compile()
    np.testing.assert_array_equal(four(batch), expected)
    assert "all-gather" not in four.as_text()


def test_memory_does_not_grow_with_the_number_of_scales():
    """With five scales the program needs hardly more memory than with two."""
    classes, large = 60, jax.ShapeDtypeStruct((2, 128, 192, 3), np.uint8)

    def many_classes(images):
        return jnp.tile(network(images), classes // 3)

    def needed(scales):
        run = jax.jit(lambda images: probabilities(many_classes, images, scales=scales))
        return run.lower(large).compile().memory_analysis().temp_size_in_bytes

    two, five = needed((0.5, 1.0)), needed((0.5, 0.75, 1.0, 1.25, 1.5))
    map_bytes = 2 * 128 * 192 * classes * 4
    assert two >= map_bytes
    assert five < two + map_bytes
