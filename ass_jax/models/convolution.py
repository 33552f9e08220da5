"""Convolutions as modules: their parameters, and what they do with them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops


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
        y = ops.conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation)
        if self.use_bias:
            # Added in float32, and so its gradient, a sum over all cells, is summed in float32 too.
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = (y.astype(jnp.float32) + bias).astype(self.dtype)
        return y


class Matrix(nn.Module):
    """The kernel of a 1x1 convolution alone, for who multiplies by it.

    Attributes:
      features: output channels.
      kernel_init: initialiser of the kernel.
    """

    features: int
    kernel_init: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, channels: int) -> jax.Array:
        """Returns [channels, features] float32; kept as `Conv` keeps it, [1, 1, channels, features]."""
        return self.param("kernel", self.kernel_init, (1, 1, channels, self.features), jnp.float32)[0, 0]
