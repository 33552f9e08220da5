"""The operations of `ass_jax.ops` in plain `lax`: same arguments, same results, gradients by JAX.

Sums are float32, or float64 where the arrays are.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.devices import mean_over_devices
from ass_jax.ops.normalisation import EPSILON, Normalised


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves with symmetric zero padding of dilation * (size - 1) // 2."""
    pads = [(dilation * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=layout
    )


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves each channel with a kernel of its own, padded as TensorFlow's "SAME"."""
    layout, groups = ("NHWC", "HWIO", "NHWC"), x.shape[-1]
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=layout,
        feature_group_count=groups,
    )


def conv2d_batch_norm(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    relu: bool = False,
    ceiling: float | None = None,
    epsilon: float = EPSILON,
) -> Normalised:
    """Convolves and normalises by the statistics of the result."""
    y = conv2d(x, kernel, stride=stride, dilation=dilation)
    return batch_norm(y, scale, bias, relu=relu, ceiling=ceiling, epsilon=epsilon)


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    relu: bool = False,
    ceiling: float | None = None,
    epsilon: float = EPSILON,
) -> Normalised:
    """Normalises by the statistics of the batch."""
    x = _wide(x)
    mean = mean_over_devices(jnp.mean(x, (0, 1, 2)))
    variance = mean_over_devices(jnp.mean(jnp.square(x - mean), (0, 1, 2)))
    y = normalise(x, mean, variance, scale, bias, relu=relu, ceiling=ceiling, epsilon=epsilon)
    return y, lax.stop_gradient(mean), lax.stop_gradient(variance)


def normalise(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    relu: bool = False,
    ceiling: float | None = None,
    epsilon: float = EPSILON,
) -> jax.Array:
    """Normalises by given statistics."""
    y = (_wide(x) - mean) * (scale * lax.rsqrt(variance + epsilon)) + bias
    return rectify(y, ceiling) if relu else y


def max_pool(x: jax.Array, side: int, padding: tuple[int, int] = (0, 0)) -> jax.Array:
    """Takes the maximum of every other window."""
    around = ((0, 0), padding, padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, 2, 2, 1), around)


def atrous_sum(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Adds up dilated convolutions."""
    maps = (_wide(conv2d(x, kernel, dilation=dilation)) for kernel, dilation in zip(kernels, dilations, strict=True))
    return functools.reduce(jnp.add, maps)


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """Rectifies a sum."""
    return jax.nn.relu(x + y)


def rectify(x: jax.Array, ceiling: float | None) -> jax.Array:
    """Returns `relu(x)`, at most `ceiling`; nothing passes the gradient at 0 and at the ceiling."""
    y = jax.nn.relu(x)
    return y if ceiling is None else jnp.where(y < ceiling, y, ceiling)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
