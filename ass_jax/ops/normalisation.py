"""Batch normalisation by the statistics of the batch, of a map or of its product with a matrix."""

import functools

import jax
import jax.numpy as jnp

from ass_jax.ops.moments import moments
from ass_jax.ops.products import transposed_product


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalise_product(
    x: jax.Array, matrix: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises `x @ matrix` by its own mean and biased variance over all but the channels.

    Both follow from mean and covariance of x, and what the gradient needs from one product with it. So the product is
    written once, normalised, and neither it nor its own gradient is ever read. Pays where channels are many more than
    inputs. No gradient passes through the statistics that are returned.

    Args:
      x: [B, H, W, inputs], any float type; sums are float32.
      matrix: [inputs, channels] float32.
      scale: [channels].
      offset: [channels].
      epsilon: added to the variance.

    Returns:
      The normalised values [B, H, W, channels] float32, mean and variance [channels].
    """
    return _product_forward(x, matrix, scale, offset, epsilon)[0]


def _product_forward(x, matrix, scale, offset, epsilon):
    mean_of_x, covariance = moments(x)
    with_covariance = jnp.matmul(covariance, matrix, precision="high")
    mean, variance = _channel_sums(mean_of_x[:, None] * matrix, matrix * with_covariance)
    variance = jnp.maximum(variance, 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    scaled = (matrix * factor).astype(x.dtype)
    scaled_mean = mean * factor
    if x.dtype != jnp.float32:  # That of the rounded matrix, or a channel whose mean is large would be moved.
        scaled_mean = jnp.matmul(mean_of_x, scaled.astype(jnp.float32), precision="highest")
    y = x @ scaled + (offset - scaled_mean)
    return (y, mean, variance), (x, matrix, scaled, mean_of_x, with_covariance, mean, inverse, factor)


def _product_backward(epsilon, residuals, gradients):
    del epsilon
    x, matrix, scaled, mean_of_x, with_covariance, mean, inverse, factor = residuals
    gradient, *_ = gradients
    count = x.size // x.shape[-1]
    # Both sums are of the rounded gradient: where a channel hardly varies, they have to cancel out.
    gradient = jax.lax.optimization_barrier(gradient.astype(x.dtype))
    offset_gradient = jnp.sum(gradient, axis=(0, 1, 2), dtype=jnp.float32)
    product = transposed_product(x, gradient)
    scale_gradient = inverse * (jnp.sum(matrix * product, axis=0) - mean * offset_gradient)
    from_covariance = inverse * scale_gradient
    matrix_gradient = factor * (product - mean_of_x[:, None] * offset_gradient - with_covariance * from_covariance)
    on_x = jnp.matmul((matrix * (-factor * from_covariance / count)).astype(x.dtype), matrix.T.astype(x.dtype))
    constant = jnp.matmul(matrix, factor * (from_covariance * mean - offset_gradient) / count, precision="highest")
    x_gradient = gradient @ scaled.T + x @ on_x + constant
    return x_gradient.astype(x.dtype), matrix_gradient, scale_gradient, offset_gradient


normalise_product.defvjp(_product_forward, _product_backward)


def normalise(x: jax.Array, mean: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns `(x - mean) * factor + offset`, [B, H, W, channels] float32, of x of any float type and [channels]."""
    return _affine(_from(mean, x), factor, offset)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise_batch(
    x: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float, relu: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises [B, H, W, channels] by its own mean and biased variance over all but the channels.

    The gradient is written out: `a * gradient + b * (x - mean) + c` with four numbers a channel, which takes one pass
    for two sums and one for the result. No gradient passes through the statistics that are returned.

    Args:
      x: any float type; sums and result are float32.
      scale: [channels].
      offset: [channels].
      epsilon: added to the variance.
      relu: whether to rectify the normalised values.

    Returns:
      The normalised values float32, mean and variance [channels].
    """
    return _normalise_forward(x, scale, offset, epsilon, relu)[0]


def _normalise_forward(x, scale, offset, epsilon, relu):
    values = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    total, total_of_squares = _channel_sums(values, jnp.square(values))
    mean = total / count
    variance = jnp.maximum(total_of_squares / count - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    kept, factor = _kept(x, mean), inverse * scale
    distances = _distances(kept, mean)
    y = _affine(distances, factor, offset)
    if relu:
        y = jnp.where(_passes(distances, factor, offset), y, 0.0)
    return (y, mean, variance), (kept, mean, inverse, factor, offset)


def _normalise_backward(epsilon, relu, residuals, gradients):
    del epsilon
    kept, mean, inverse, on_gradient, offset = residuals
    gradient, *_ = gradients
    count = kept.size // kept.shape[-1]
    distances = _distances(kept, mean)
    arrived = jnp.where(_passes(distances, on_gradient, offset), gradient, 0.0) if relu else gradient
    offset_gradient, product = _channel_sums(arrived, arrived * distances)
    scale_gradient = inverse * product
    on_distances = -on_gradient * inverse * scale_gradient / count
    constant = -on_gradient * offset_gradient / count
    factors = on_gradient, on_distances, constant, offset
    on_gradient, on_distances, constant, offset = jax.lax.optimization_barrier(factors)
    if relu:
        gradient = jax.lax.platform_dependent(
            arrived, gradient, distances, on_gradient, offset, cpu=lambda arrived, *_: arrived, default=_arrived_again
        )
    x_gradient = on_gradient * gradient + on_distances * distances + constant
    return x_gradient.astype(kept.dtype), scale_gradient, offset_gradient


normalise_batch.defvjp(_normalise_forward, _normalise_backward)


def _passes(distances: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns where `distances * factor + offset` is above 0, the same bits in the forward and the backward pass.

    XLA may round that sum once or twice, and otherwise in each pass. A product alone is rounded in one way, and its
    rounding keeps the order: where it is above `-offset`, the sum is above 0, however that is rounded.
    """
    return distances * factor > -offset


def _arrived_again(_, gradient, distances, on_gradient, offset):
    """Works out once more what passes the rectifier, in another form: of one form, XLA would store it for both passes.

    A CPU stores it in any case, for its sums. The form is the opposite of `_passes`, which decides alike.
    """
    return jnp.where(distances * on_gradient <= -offset, 0.0, gradient)


def _kept(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns what is read of x once its mean is known: on a CPU its distances from it, which take its place in memory.

    Left to itself, XLA:CPU works out those that the gradient needs in the forward pass, and keeps them beside x. Of
    bfloat16, it would read the forward pass's values before they are rounded, and the gradient's after.
    """
    if x.dtype != jnp.float32:
        return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)
    return jax.lax.platform_dependent(
        x, mean, cpu=lambda x, mean: jax.lax.optimization_barrier(_from(mean, x)), default=lambda x, _: x
    )


def _distances(kept: jax.Array, mean: jax.Array) -> jax.Array:
    if kept.dtype != jnp.float32:
        return _from(mean, kept)
    return jax.lax.platform_dependent(mean, kept, cpu=lambda _, kept: kept, default=_from)


def _from(mean: jax.Array, x: jax.Array) -> jax.Array:
    """Returns `x - mean` in float32."""
    # Without the barrier, XLA:CPU works out the mean again for every pixel.
    return x - jax.lax.optimization_barrier(mean)


def _channel_sums(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums two float32 [..., channels] over all but the channels, in one pass over what both are made of."""
    return jax.lax.platform_dependent(left, right, cuda=_in_pairs, default=_apart)


def _apart(left, right):
    axes = tuple(range(left.ndim - 1))
    return jnp.sum(left, axis=axes), jnp.sum(right, axis=axes)


def _in_pairs(left, right):
    """Sums in one reduction: of two, XLA:GPU makes a pass each where a matrix product comes before them."""
    zeros, axes = (jnp.zeros(()), jnp.zeros(())), tuple(range(left.ndim - 1))
    return jax.lax.reduce((left, right), zeros, lambda sums, pair: (sums[0] + pair[0], sums[1] + pair[1]), axes)


def _affine(distances: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns `distances * factor + offset`, of [..., channels] and twice [channels]."""
    # Behind a barrier, as the mean is in `_from`.
    factor, offset = jax.lax.optimization_barrier((factor, offset))
    return distances * factor + offset
