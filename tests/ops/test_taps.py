import jax
import numpy as np
import pytest

from ass_jax.ops.convolution import convolve
from ass_jax.ops.taps import output_size, phases, shifts, without_idle_taps


def example(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("size", "dilation", "kept"), [((5, 9), 4, (3, 3)), ((5, 9), 6, (1, 3)), ((5, 9), 9, (1, 1))])
def test_taps_that_see_padding_alone_are_dropped(size, dilation, kept):
    kernel = example(3, 3, 2, 4)
    rows, columns = (slice(None) if count == 3 else slice(1, 2) for count in kept)
    np.testing.assert_array_equal(without_idle_taps(kernel, size, dilation), kernel[rows, columns])


def test_even_kernels_keep_all_taps():
    kernel = example(4, 4, 2, 4)
    assert without_idle_taps(kernel, (1, 1), 3).shape == kernel.shape


@pytest.mark.parametrize(("side", "stride", "dilation"), [(3, 1, 2), (4, 2, 1), (4, 1, 1), (2, 1, 3), (7, 3, 1)])
def test_output_size_is_that_of_the_convolution(side, stride, dilation):
    found = convolve(example(1, 9, 12, 1), example(side, side, 1, 1), stride, dilation)
    assert output_size((9, 12), (side, side), stride, dilation) == found.shape[1:3]


def test_shifts_are_what_the_taps_read():
    x, kernel = example(2, 5, 6, 3), example(3, 3, 3, 4)
    seen = shifts(x, kernel.shape, 2)
    total = sum(shifted @ tap for shifted, tap in zip(seen, kernel.reshape(9, 3, 4), strict=True))
    np.testing.assert_allclose(total, convolve(x, kernel, 1, 2), atol=1e-5)


@pytest.mark.parametrize("dilation", [2, 3, 7])
def test_an_undilated_kernel_reads_in_phases_what_a_dilated_one_reads_in_the_whole(dilation):
    x, kernel = example(2, 5, 6, 3), example(3, 3, 3, 4)
    found = phases(convolve(x, kernel, 1, dilation), dilation)
    expected = convolve(phases(x, dilation), kernel)
    inside = phases(np.ones_like(x[..., :1]), dilation)  # What lies outside of the map, the undilated one fills in.
    np.testing.assert_allclose(found, expected * inside, atol=1e-5)


def test_phases_lose_nothing():
    x = example(2, 5, 6, 3)
    back = jax.linear_transpose(lambda x: phases(x, 4), x)(phases(x, 4))[0]
    np.testing.assert_array_equal(back, x)
