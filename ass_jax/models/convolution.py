"""The one convolution that all networks use, and its gradients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

# Input channels from which the products of `_filter_gradient_by_taps` are large enough to pay.
CHANNELS_FOR_TAPS = 128
# Output features up to which `_filter_gradient_unfolded` pays instead: the classifier's.
FEATURES_TO_UNFOLD = 32


class Conv(nn.Module):
    """A square convolution with explicit symmetric padding.

    The padding is dilation * (kernel_size - 1) // 2 on every side: an odd kernel of stride 1 keeps the
    size, and kernel 4 of stride 2 halves it. Unlike "SAME", it does not depend on the size of the input.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: in both directions.
      dilation: of the kernel, in both directions.
      use_bias: whether to add a bias, which starts at zero.
      kernel_init: initialiser of the kernel.
      dtype: compute type; parameters are float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = nn.initializers.he_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H', W', features] in the compute type."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves with symmetric zero padding of dilation * (size - 1) // 2.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, channels, features], of the same type as `x`.
      stride: in both directions.
      dilation: of the kernel, in both directions.

    Returns:
      [B, H', W', features] of the type of `x`.
    """
    for axis in (0, 1):
        kernel = _without_idle_taps(kernel, axis, x.shape[axis + 1], dilation)
    if kernel.shape[:2] == (1, 1):
        # XLA:CPU's filter gradient of a matrix product is several times as fast as that of a convolution.
        return _multiply(x[:, ::stride, ::stride], kernel[0, 0])
    if x.shape[-1] < CHANNELS_FOR_TAPS:
        return _convolve(x, kernel, stride, dilation)
    return _convolve_with_own_gradient(x, kernel, stride, dilation)


def _without_idle_taps(kernel: jax.Array, axis: int, cells: int, dilation: int) -> jax.Array:
    """Drops the taps of an odd kernel that lie in the padding wherever the kernel stands."""
    size = kernel.shape[axis]
    if size % 2 == 0:
        return kernel
    centre = size // 2
    reach = (cells - 1) // dilation
    if reach >= centre:
        return kernel
    return lax.slice_in_dim(kernel, centre - reach, centre + reach + 1, axis=axis)


def _padding(kernel_shape: tuple[int, ...], dilation: int) -> tuple[int, int]:
    """Returns the rows above and below, and the columns left and right, that are added."""
    return dilation * (kernel_shape[0] - 1) // 2, dilation * (kernel_shape[1] - 1) // 2


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(pad, pad) for pad in _padding(kernel.shape, dilation)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def _multiply(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies [B, H, W, channels] and [channels, features].

    Left to itself, XLA:CPU transposes the output's gradient for the matrix's, and does all that led to that gradient
    once more on the way. Here, the input is transposed, and the gradient is finished first.
    """
    return x @ matrix


def _multiply_forward(x, matrix):
    return x @ matrix, (x, matrix)


def _multiply_backward(residuals, gradient):
    x, matrix = residuals
    gradient = lax.optimization_barrier(gradient)
    rows = x.reshape(-1, x.shape[-1])
    return gradient @ matrix.T, rows.T @ gradient.reshape(-1, gradient.shape[-1])


_multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_with_own_gradient(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Acts as `_convolve`; on a CPU, the gradient of its kernel is a sum of matrix products."""
    return _convolve(x, kernel, stride, dilation)


def _forward(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, residuals, gradient):
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: _convolve(x, kernel, stride, dilation), x)(gradient)

    def by_transposition(x, gradient):
        transpose = jax.linear_transpose(lambda kernel: _convolve(x, kernel, stride, dilation), kernel)
        return transpose(gradient)[0]

    def by_products(x, gradient):
        few = stride == 1 and kernel.shape[-1] <= FEATURES_TO_UNFOLD
        return (_filter_gradient_unfolded if few else _filter_gradient_by_taps)(
            x, gradient, kernel.shape, stride, dilation
        )

    return x_gradient, lax.platform_dependent(x, gradient, cpu=by_products, default=by_transposition)


_convolve_with_own_gradient.defvjp(_forward, _backward)


def _filter_gradient_by_taps(
    x: jax.Array, gradient: jax.Array, kernel_shape: tuple[int, ...], stride: int, dilation: int
) -> jax.Array:
    """Computes the gradient of a kernel with one matrix product per tap.

    Args:
      x: [B, H, W, channels], the input of the convolution.
      gradient: [B, H', W', features], of its output.
      kernel_shape: (rows, columns, channels, features).
      stride: of the convolution.
      dilation: of its kernel.

    Returns:
      `kernel_shape`, of the type of `x`, accumulated in float32.
    """
    pads = _padding(kernel_shape, dilation)
    taps = []
    for row in range(kernel_shape[0]):
        y_input, y_output = _overlap(row * dilation - pads[0], x.shape[1], gradient.shape[1], stride)
        for column in range(kernel_shape[1]):
            x_input, x_output = _overlap(column * dilation - pads[1], x.shape[2], gradient.shape[2], stride)
            inputs = x[:, y_input, x_input].reshape(-1, x.shape[-1])
            outputs = gradient[:, y_output, x_output].reshape(-1, gradient.shape[-1])
            taps.append(jnp.matmul(inputs.T, outputs, preferred_element_type=jnp.float32))
    return jnp.stack(taps).reshape(kernel_shape).astype(x.dtype)


def _filter_gradient_unfolded(
    x: jax.Array, gradient: jax.Array, kernel_shape: tuple[int, ...], stride: int, dilation: int
) -> jax.Array:
    """Computes what `_filter_gradient_by_taps` does with one product, for few features and a stride of 1.

    The gradient is laid side by side as each tap sees it, which makes a matrix wide enough to multiply fast.
    """
    del stride
    rows, columns, channels, features = kernel_shape
    pads = _padding(kernel_shape, dilation)
    height, width = x.shape[1:3]
    padded = jnp.pad(gradient, ((0, 0), (pads[0], pads[0]), (pads[1], pads[1]), (0, 0)))
    shifted = [
        padded[:, row * dilation : row * dilation + height, column * dilation : column * dilation + width]
        for row in reversed(range(rows))
        for column in reversed(range(columns))
    ]
    # Without the barrier, XLA:CPU computes the entries of the wide matrix anew wherever the product reads them.
    unfolded = lax.optimization_barrier(jnp.concatenate(shifted, axis=-1)).reshape(-1, rows * columns * features)
    inputs = x.reshape(-1, channels)
    products = jnp.matmul(inputs.T, unfolded, preferred_element_type=jnp.float32)
    return products.reshape(channels, rows, columns, features).transpose(1, 2, 0, 3).astype(x.dtype)


def _overlap(offset: int, cells: int, outputs: int, stride: int) -> tuple[slice, slice]:
    """Returns the input cells that a tap reads without padding, and the outputs that it adds them to.

    Output i reads input i * stride + offset.
    """
    first = max(0, -(offset // stride))
    end = max(first, min(outputs, (cells - 1 - offset) // stride + 1))
    start = first * stride + offset
    return slice(start, start + (end - first) * stride, stride), slice(first, end)
