"""Checks the class-wise averages against values worked out by hand, a plain loop and their gradient."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method.class_means import class_means

# Compiled as a whole and without optimisation: both save time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
means_of = jit(class_means, static_argnums=2)


@functools.partial(jit, static_argnums=3)
def gradient_of(features: jax.Array, labels: jax.Array, weights: jax.Array, num_classes: int) -> jax.Array:
    """Gradient of the weighted sum of all means."""
    return jax.grad(lambda features: jnp.sum(weights * class_means(features, labels, num_classes)[0]))(features)


def label_of_cell(labels: np.ndarray, row: int, column: int, height: int, width: int) -> int:
    """Returns the label at a cell of a grid whose corners are aligned with those of the labels."""

    def place(index: int, small: int, large: int) -> int:
        position = Fraction(index * (large - 1), small - 1) if small > 1 else Fraction(0)
        return int(position + Fraction(1, 2))

    return labels[place(row, height, labels.shape[0]), place(column, width, labels.shape[1])]


def means_loop(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    batch, height, width, depth = features.shape
    sums, counts = np.zeros((batch, num_classes, depth)), np.zeros((batch, num_classes))
    for image, row, column in np.ndindex(batch, height, width):
        label = label_of_cell(labels[image], row, column, height, width)
        if label < num_classes:
            sums[image, label] += features[image, row, column]
            counts[image, label] += 1
    return sums / np.maximum(counts, 1)[..., None], counts > 0


def test_means_by_hand():
    features = np.array([[[[1, 10], [2, 20]], [[3, 30], [4, 40]]]], np.float32)
    means, present = means_of(features, np.array([[[0, 2], [0, 255]]], np.uint8), 3)
    np.testing.assert_array_equal(means, [[[2, 20], [0, 0], [2, 20]]])
    np.testing.assert_array_equal(present, [[True, False, True]])


def test_full_size_labels_are_read_at_the_cells():
    # Aligned corners put cells 0, 1, 2 of three on pixels 0, 2, 4 of five; all other pixels hold a class that no
    # cell may see.
    labels = np.full((1, 5, 5), 2, np.uint8)
    labels[0, ::2, ::2] = [[0, 1, 0], [1, 1, 0], [255, 0, 1]]
    features = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    means, present = means_of(features, labels, 3)
    np.testing.assert_allclose(means[0, :, 0], [(0 + 2 + 5 + 7) / 4, (1 + 3 + 4 + 8) / 4, 0])
    np.testing.assert_array_equal(present, [[True, True, False]])
    for given, expected in zip(means_of(features, labels[:, ::2, ::2], 3), (means, present), strict=True):
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize(
    ("label_size", "dtype"), [((5, 9), np.uint8), ((33, 65), np.int32), ((32, 64), np.uint8), ((5, 64), np.int32)]
)
def test_means_equal_a_loop(label_size, dtype):
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 5, 9, 7)).astype(np.float32)
    # Each image has its own classes, the last image none.
    labels = np.stack([random.choice(classes, label_size) for classes in ([0, 1, 3, 255], [2, 3, 9], [255])])
    means, present = means_of(features, labels.astype(dtype), 4)
    expected, expected_present = means_loop(features, labels, 4)
    assert expected_present.any()
    assert not expected_present[2].any()
    np.testing.assert_array_equal(present, expected_present)
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_share_in_the_mean():
    """The derivative of a class's mean by a feature is one over the class's cells if the cell is one of them."""
    random = np.random.default_rng(1)
    features = random.normal(size=(2, 3, 4, 2)).astype(np.float32)
    labels = random.choice([0, 1, 255], (2, 3, 4)).astype(np.uint8)
    labels[1, 0, 0] = 2
    weights = random.normal(size=(2, 4, 2)).astype(np.float32)  # Class 3 is absent: no feature moves its mean.
    gradient = gradient_of(features, labels, weights, 4)
    expected = np.zeros(features.shape)
    for image, row, column in np.ndindex(labels.shape):
        label = labels[image, row, column]
        if label != 255:
            expected[image, row, column] = weights[image, label] / np.sum(labels[image] == label)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_ignored_images_have_zero_means_and_gradients():
    features, labels = np.ones((1, 2, 3, 5), np.float32), np.full((1, 4, 6), 255, np.uint8)
    means, present = means_of(features, labels, 3)
    np.testing.assert_array_equal(means, np.zeros((1, 3, 5)))
    assert not present.any()
    gradient = gradient_of(features, labels, np.ones((1, 3, 5), np.float32), 3)
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 3, 5)))


def test_bfloat16_features_are_summed_in_float32():
    # A running sum in bfloat16 stops growing at 256: 6399 ones would average 0.04. One that is only rounded to
    # bfloat16 would be 6400.
    features = np.ones((1, 80, 80, 2), jnp.bfloat16) * np.array([1, 3.015625], jnp.bfloat16)
    labels = np.zeros((1, 80, 80), np.uint8)
    labels[0, 0, 0] = 1
    means, _ = means_of(features, labels, 2)
    assert means.dtype == jnp.float32
    np.testing.assert_allclose(means[0], [[1, 3.015625], [1, 3.015625]], rtol=1e-6)
    gradient = gradient_of(features, labels, np.array([[[1, 0], [0, 0]]], np.float32), 2)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(gradient[0, 5, 5]), [1 / 6399, 0], rtol=4e-3)
    np.testing.assert_array_equal(np.float32(gradient[0, 0, 0]), [0, 0])


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 3, 8), (1, 8, 4), (1, 8, 8, 1)])
def test_labels_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"\[1, H, W\] with H >= 4 and W >= 5 .* found \(" + str(shape)[1:-1]):
        class_means(np.zeros((1, 4, 5, 2), np.float32), np.zeros(shape, np.uint8), 3)
