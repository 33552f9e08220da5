"""The operations of `ass_jax.ops` in the plainest form, for the tests and to search for faults: see there.

Sums are float32, or float64 where the arrays are. Gradients are those of JAX.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves with symmetric zero padding of dilation * (size - 1) // 2; see `ass_jax.ops.convolution.convolve`."""
    pads = [(dilation * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=layout
    )


def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies the channels of each cell by a matrix; see `ass_jax.ops.products.multiply`."""
    return x @ matrix


def atrous_sum(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Adds up dilated convolutions; see `ass_jax.ops.pyramid.convolve_pyramid`."""
    return sum(_wide(conv2d(x, kernel, 1, dilation)) for kernel, dilation in zip(kernels, dilations, strict=True))


def batch_norm(
    x: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float, relu: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the statistics of the batch; see `ass_jax.ops.normalisation.normalise_batch`."""
    values = _wide(x)
    mean, variance = jnp.mean(values, (0, 1, 2)), jnp.var(values, (0, 1, 2))
    y = normalise(values, mean, scale * lax.rsqrt(variance + epsilon), offset)
    return jax.nn.relu(y) if relu else y, lax.stop_gradient(mean), lax.stop_gradient(variance)


def matmul_batch_norm(
    x: jax.Array, matrix: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises a product by the statistics of the batch; see `ass_jax.ops.normalisation.normalise_product`."""
    return batch_norm(matmul(x, matrix.astype(x.dtype)), scale, offset, epsilon)


def normalise(x: jax.Array, mean: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Normalises by given statistics; see `ass_jax.ops.normalisation.normalise`."""
    return (_wide(x) - mean) * factor + offset


def max_pool(x: jax.Array, side: int, padding: tuple[int, int] = (0, 0)) -> jax.Array:
    """Takes the maximum of every other window; see `ass_jax.ops.pooling.max_pool`."""
    around = ((0, 0), padding, padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, 2, 2, 1), around)


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """Rectifies a sum; see `ass_jax.ops.relu.add_relu`."""
    return jax.nn.relu(x + y)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
