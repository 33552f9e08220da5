"""Checks the class-wise averages against values worked out by hand, a plain loop and their gradient."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.semantic import class_means

means_of = jax.jit(class_means, static_argnums=2)


def label_of_cell(labels: np.ndarray, row: int, column: int, height: int, width: int) -> int:
    """Returns the label at the place of a cell of a grid whose corners coincide with those of the labels."""

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
    features = jnp.array([[[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [4.0, 40.0]]]])
    means, present = class_means(features, jnp.array([[[0, 2], [0, 255]]], jnp.uint8), 3)
    np.testing.assert_array_equal(means, [[[2, 20], [0, 0], [2, 20]]])
    np.testing.assert_array_equal(present, [[True, False, True]])


def test_full_size_labels_are_read_at_the_cells():
    # Aligned corners put cells 0, 1, 2 of three on pixels 0, 2, 4 of five; all other pixels hold a class that no
    # cell may see.
    labels = np.full((1, 5, 5), 2, np.uint8)
    labels[0, ::2, ::2] = [[0, 1, 0], [1, 1, 0], [255, 0, 1]]
    features = jnp.arange(9.0).reshape(1, 3, 3, 1)
    means, present = class_means(features, labels, 3)
    np.testing.assert_allclose(means[0, :, 0], [(0 + 2 + 5 + 7) / 4, (1 + 3 + 4 + 8) / 4, 0])
    np.testing.assert_array_equal(present, [[True, True, False]])
    for given, expected in zip(class_means(features, labels[:, ::2, ::2], 3), (means, present), strict=True):
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("label_size", [(5, 9), (33, 65), (32, 64), (5, 64)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_means_equal_a_loop(label_size, dtype):
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 5, 9, 7)).astype(np.float32)
    # Each image has its own classes, the last one none.
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
    gradient = jax.grad(lambda x: jnp.sum(weights * means_of(x, labels, 4)[0]))(features)
    expected = np.zeros(features.shape)
    for image, row, column in np.ndindex(labels.shape):
        label = labels[image, row, column]
        if label != 255:
            expected[image, row, column] = weights[image, label] / np.sum(labels[image] == label)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_ignored_images_have_zero_means_and_gradients():
    def total(features: jax.Array) -> jax.Array:
        return jnp.sum(class_means(features, jnp.full((1, 4, 6), 255, jnp.uint8), 3)[0])

    value, gradient = jax.value_and_grad(total)(jnp.ones((1, 2, 3, 5)))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 3, 5)))


def test_bfloat16_features_are_summed_in_float32():
    # A running sum in bfloat16 stops growing at 256: 6400 ones would average 0.04.
    features = jnp.ones((1, 80, 80, 2), jnp.bfloat16) * jnp.array([1.0, 3.015625], jnp.bfloat16)
    labels = jnp.zeros((1, 80, 80), jnp.uint8).at[0, 0, 0].set(1)
    means, _ = means_of(features, labels, 2)
    assert means.dtype == jnp.float32
    np.testing.assert_allclose(means[0], [[1, 3.015625], [1, 3.015625]], rtol=1e-6)
    gradient = jax.grad(lambda x: means_of(x, labels, 2)[0][0, 0, 0])(features)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(gradient[0, 5, 5]), [1 / 6399, 0], rtol=4e-3)
    assert np.float32(gradient[0, 0, 0, 0]) == 0


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 3, 8), (1, 8, 4), (1, 8, 8, 1)])
def test_labels_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"\[1, H, W\] with H >= 4 and W >= 5 .* found \(" + str(shape)[1:-1]):
        class_means(jnp.zeros((1, 4, 5, 2)), jnp.zeros(shape, jnp.uint8), 3)
