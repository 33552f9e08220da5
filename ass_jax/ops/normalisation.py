"""Batch normalisation of a map.

XLA of jaxlib 0.10.2 needs this: its own gradient reads the map more often and keeps more of it. Measured in
docs/performance/cpu.md, "Batch norm in two passes", and gpu.md, "Batch norm".

Returned means and variances pass no gradient on. Sums and results are float32, whatever the type of the input.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.devices import count_cells, sum_over_devices
from ass_jax.ops.platforms import by_platform
from ass_jax.ops.relu import rectify

EPSILON = 1e-5  # Added to variances.

Normalised = tuple[jax.Array, jax.Array, jax.Array]


class Ways(NamedTuple):
    """What the backward pass reads of the map, and how sums over cells are computed."""

    residual: str
    sums: str


def choose(dtype: jnp.dtype, platform: str) -> Ways:
    """Returns the ways that are fastest.

    Args:
      dtype: of the map.
      platform: one of `ass_jax.ops.platforms.PLATFORMS`.
    """
    if platform == "cpu":
        return Ways("distances" if dtype == jnp.float32 else "rounded_input", "separate")
    return Ways("input", "in_pairs" if platform == "cuda" else "separate")


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    relu: bool = False,
    ceiling: float | None = None,
    epsilon: float = EPSILON,
) -> Normalised:
    """Normalises a map by its own mean and biased variance over all but the channels.

    Args:
      x: [B, H, W, channels] of any float type.
      scale: [channels].
      bias: [channels].
      relu: whether to rectify the normalised values.
      ceiling: largest rectified value; None: no limit.
      epsilon: added to the variance.

    Returns:
      The normalised values [B, H, W, channels] float32, mean and variance [channels].
    """
    return _batch_norm(x, scale, bias, epsilon, relu, ceiling)


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
    """Normalises [B, H, W, channels] by given statistics: all but x are [channels], the result is float32."""
    y = _affine(_centred(x, mean), scale * lax.rsqrt(variance + epsilon), bias)
    return rectify(y, ceiling) if relu else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _batch_norm(x, scale, bias, epsilon, relu, ceiling):
    """Has the gradient `a * gradient + b * (x - mean) + c`, whose factors a channel need one pass over the map."""
    return _forward(x, scale, bias, epsilon, relu, ceiling)[0]


def _forward(x, scale, bias, epsilon, relu, ceiling):
    values = x.astype(jnp.float32)
    count = count_cells(x)
    total, total_of_squares = sum_over_devices(channel_sums(values, jnp.square(values)))
    mean = total / count
    variance = jnp.maximum(total_of_squares / count - jnp.square(mean), 0.0)
    inverse = lax.rsqrt(variance + epsilon)
    residual, factor = _residual(x, mean), inverse * scale
    distances = _distances(residual, mean)
    y = _affine(distances, factor, bias)
    if relu:
        y = jnp.where(_exceeds(0.0, distances, factor, bias), y, 0.0)
        if ceiling is not None:
            y = jnp.where(_exceeds(ceiling, distances, factor, bias), ceiling, y)
    return (y, mean, variance), (residual, mean, inverse, factor, bias)


def _backward(epsilon, relu, ceiling, residuals, gradients):
    del epsilon
    residual, mean, inverse, on_gradient, bias = residuals
    gradient, *_ = gradients
    count = count_cells(residual)
    distances = _distances(residual, mean)
    if relu and ceiling is not None:
        gradient = jnp.where(_exceeds(ceiling, distances, on_gradient, bias), 0.0, gradient)
    rectified = jnp.where(_exceeds(0.0, distances, on_gradient, bias), gradient, 0.0) if relu else gradient
    own = channel_sums(rectified, rectified * distances)  # Of this device, as the gradients of scale and bias are.
    total, total_product = sum_over_devices(own)
    on_distances = -on_gradient * inverse * (inverse * total_product) / count
    constant = -on_gradient * total / count
    on_gradient, on_distances, constant, bias = lax.optimization_barrier((on_gradient, on_distances, constant, bias))
    if relu:
        # The opposite of `_exceeds`: written alike, XLA:GPU would store the rectified gradient for both passes.
        rectified = jnp.where(distances * on_gradient <= -bias, 0.0, gradient)
    x_gradient = on_gradient * rectified + on_distances * distances + constant
    return x_gradient.astype(residual.dtype), inverse * own[1], own[0]


_batch_norm.defvjp(_forward, _backward)


def _exceeds(limit: float, distances: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns where `distances * factor + bias` is above a limit, the same bits in the forward and the backward pass.

    XLA may round that sum once or twice, and differently in each pass. A product alone is rounded in one way, and its
    rounding keeps the order: where it is above `-bias`, the sum is above 0, however that is rounded.
    """
    return distances * factor > limit - bias


def _residual(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns what the rest of both passes reads: x, or its distances from the mean.

    XLA:CPU computes the distances in the forward pass in any case, and would keep them beside x. In bfloat16 it would
    read values before they are rounded in the forward pass, and after it in the backward pass.
    """
    ways = {
        "distances": lambda x, mean: lax.optimization_barrier(_centred(x, mean)),
        "rounded_input": lambda x, _: lax.optimization_barrier(x),
        "input": lambda x, _: x,
    }
    return by_platform(lambda platform: choose(x.dtype, platform).residual, ways.__getitem__, x, mean)


def _distances(residual: jax.Array, mean: jax.Array) -> jax.Array:
    ways = {"distances": lambda residual, _: residual, "rounded_input": _centred, "input": _centred}
    return by_platform(lambda platform: choose(residual.dtype, platform).residual, ways.__getitem__, residual, mean)


def _centred(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns `x - mean` in float32."""
    # Without the barrier, XLA:CPU computes the mean again for every pixel.
    return x - lax.optimization_barrier(mean)


def _affine(distances: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns `distances * factor + bias`, of [..., channels] and twice [channels]."""
    factor, bias = lax.optimization_barrier((factor, bias))  # As in `_centred`.
    return distances * factor + bias


def channel_sums(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums two float32 [..., channels] over all but the channels, in one pass over what both are made of."""
    ways = {"separate": _separate_sums, "in_pairs": _sums_in_pairs}
    return by_platform(lambda platform: choose(left.dtype, platform).sums, ways.__getitem__, left, right)


def _separate_sums(left, right):
    axes = tuple(range(left.ndim - 1))
    return jnp.sum(left, axis=axes), jnp.sum(right, axis=axes)


def _sums_in_pairs(left, right):
    """Sums in one reduction: XLA:GPU makes a pass for each of two that follow a matrix product."""
    zeros, axes = (jnp.zeros(()), jnp.zeros(())), tuple(range(left.ndim - 1))
    return lax.reduce((left, right), zeros, lambda sums, pair: (sums[0] + pair[0], sums[1] + pair[1]), axes)
