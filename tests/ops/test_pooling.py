import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.ops import max_pool

SIZES = [(6, 9), (7, 8), (1, 2), (5, 5), (1, 1), (12, 16)]


def windows(height, width, side=3, before=1):
    """Yields each output's row and column, and the input's rows and columns that it sees."""
    outputs = (height // 2 + 1, width // 2 + 1) if before else ((height - side) // 2 + 1, (width - side) // 2 + 1)
    for i, j in np.ndindex(outputs):
        yield i, j, *(slice(max(2 * k - before, 0), 2 * k - before + side) for k in (i, j))


@pytest.mark.parametrize("size", SIZES)
def test_rounds_up(size):
    # Negative values: padding with zeros would win.
    x = -np.random.default_rng(0).uniform(1, 2, (2, *size, 3)).astype(np.float32)
    expected = np.zeros((2, size[0] // 2 + 1, size[1] // 2 + 1, 3), np.float32)
    for i, j, rows, columns in windows(*size):
        expected[:, i, j] = x[:, rows, columns].max(axis=(1, 2))
    np.testing.assert_array_equal(max_pool(jnp.array(x), 3, (1, 2)), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("size", "side", "padding"),
    [*((size, 3, (1, 2)) for size in SIZES), ((6, 8), 2, (0, 0)), ((5, 9), 2, (0, 0)), ((7, 12), 4, (0, 0))],
)
def test_the_first_of_equal_entries_takes_the_gradient(size, side, padding, dtype):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 3, (2, *size, 3))  # Most windows have several maxima, as rectified maps do.
    y, transpose = jax.vjp(functools.partial(max_pool, side=side, padding=padding), jnp.array(x, dtype))
    gradient = generator.integers(-8, 9, y.shape)
    expected = np.zeros(x.shape)
    for i, j, rows, columns in windows(*size, side, padding[0]):
        for image, channel in np.ndindex(2, 3):
            seen = x[image, rows, columns, channel]
            row, column = np.unravel_index(np.argmax(seen), seen.shape)
            expected[image, rows.start + row, columns.start + column, channel] += gradient[image, i, j, channel]
    (found,) = transpose(jnp.array(gradient, dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
