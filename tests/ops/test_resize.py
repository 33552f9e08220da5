import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.ops import nearest_indices, resize_bilinear


def resize_by_loop(x, height, width):
    """Aligned corners, one output cell after the other, in float64."""
    result = np.zeros((x.shape[0], height, width, x.shape[3]))
    for row in range(height):
        y = row * (x.shape[1] - 1) / (height - 1) if height > 1 else 0.0
        top, down = int(np.floor(y)), y % 1
        bottom = min(top + 1, x.shape[1] - 1)
        for column in range(width):
            z = column * (x.shape[2] - 1) / (width - 1) if width > 1 else 0.0
            left, across = int(np.floor(z)), z % 1
            right = min(left + 1, x.shape[2] - 1)
            above = (1 - across) * x[:, top, left] + across * x[:, top, right]
            below = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
            result[:, row, column] = (1 - down) * above + down * below
    return result


def test_bilinear_worked_by_hand():
    x = jnp.array([[0.0, 3.0], [6.0, 9.0]])[None, :, :, None]
    expected = [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    np.testing.assert_allclose(resize_bilinear(x, (3, 4))[0, :, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((9, 17), (64, 128)),
        ((5, 4), (13, 4)),
        ((5, 4), (5, 9)),
        ((12, 10), (5, 7)),
        ((1, 4), (6, 8)),
        ((3, 1), (5, 5)),
        ((4, 6), (1, 1)),
    ],
)
def test_bilinear_equals_loop(small, large):
    x = np.random.default_rng(0).normal(size=(2, *small, 3)).astype(np.float32)
    result = resize_bilinear(jnp.array(x), large)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, resize_by_loop(x.astype(np.float64), *large), atol=1e-5)


def test_bilinear_keeps_the_same_size():
    x = jnp.arange(30.0).reshape(1, 3, 5, 2)
    np.testing.assert_array_equal(resize_bilinear(x, (3, 5)), x)


@pytest.mark.parametrize("size", [(3, 5), (7, 11)])
def test_bilinear_of_bfloat16_accumulates_in_float32(size):
    x = jnp.array(np.random.default_rng(0).normal(size=(1, 3, 5, 2)), jnp.bfloat16)
    result = resize_bilinear(x, size)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, resize_by_loop(np.asarray(x, np.float64), *size), atol=1e-6)


def test_bilinear_gradient_is_the_share_of_each_cell():
    # Two cells to three: the middle output is half of each.
    gradient = jax.grad(lambda x: jnp.sum(resize_bilinear(x, (1, 3)) * jnp.array([1.0, 10.0, 100.0])[:, None]))
    np.testing.assert_allclose(gradient(jnp.zeros((1, 1, 2, 1)))[0, 0, :, 0], [6.0, 105.0])


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (3, 5, [0, 2, 4]),
        (3, 4, [0, 2, 3]),  # 1.5 goes up.
        (5, 3, [0, 1, 1, 2, 2]),  # 0, 0.5, 1, 1.5, 2
        (4, 2, [0, 0, 1, 1]),
        (2, 9, [0, 8]),
        (1, 7, [0]),
        (3, 1, [0, 0, 0]),
        (4, 4, [0, 1, 2, 3]),
    ],
)
def test_nearest_worked_by_hand(small, large, expected):
    indices = nearest_indices(small, large)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices, expected)


def test_nearest_at_the_sizes_of_the_paper():
    indices = nearest_indices(129, 1024)
    assert (indices[0], indices[64], indices[128]) == (0, 512, 1023)  # 64 * 1023 / 128 = 511.5
    np.testing.assert_array_equal(np.unique(np.diff(indices)), [7, 8])
