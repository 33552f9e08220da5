"""The layers of the networks. Parameters and statistics are float32, whatever the compute type."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops


class Conv(nn.Module):
    """A square convolution with explicit symmetric padding.

    The padding is dilation * (kernel_size - 1) // 2 on every side: an odd kernel of stride 1 keeps the size, and
    kernel 4 of stride 2 halves it. Unlike "SAME", it does not depend on the size of the input.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: in both directions.
      dilation: of the kernel, in both directions.
      use_bias: whether to add a bias, which starts at zero.
      kernel_init: initialiser of the kernel.
      dtype: compute type.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = nn.initializers.he_normal()
    dtype: jnp.dtype = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H', W', features] in the compute type."""
        kernel, bias = self.parameters(x.shape[-1])
        y = ops.conv2d(x.astype(self.dtype), kernel, stride=self.stride, dilation=self.dilation)
        if bias is None:
            return y
        # Added in float32, so that its gradient, a sum over all cells, is float32 too.
        return (y.astype(jnp.float32) + bias).astype(self.dtype)

    @nn.compact
    def parameters(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel, [size, size, channels, features], and the bias, [features] or None."""
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32) if self.use_bias else None


class BatchNorm(nn.Module):
    """The parameters and running statistics of batch normalisation (arXiv 1502.03167).

    Attributes:
      features: channels.
      momentum: share of the running statistics that a batch leaves in place.
      epsilon: added to variances.
    """

    features: int
    momentum: float = 0.9
    epsilon: float = ops.EPSILON

    def setup(self) -> None:
        """Creates them: scale and variance 1, bias and mean 0."""
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones, shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.variance = self.variable("batch_stats", "var", jnp.ones, shape)

    def update(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        """Moves the running statistics towards those of a batch, as PyTorch does.

        The running variance follows the unbiased variance, while a batch is normalised by its biased one.

        Args:
          mean: [features], of the batch.
          variance: [features], biased.
          count: cells of the batch.
        """
        if self.is_initializing():
            return
        unbiased = variance * (count / max(count - 1, 1))
        self.mean.value += (1.0 - self.momentum) * (mean - self.mean.value)
        self.variance.value += (1.0 - self.momentum) * (unbiased - self.variance.value)

    def normalise(self, x: jax.Array, *, relu: bool, ceiling: float | None = None) -> jax.Array:
        """Normalises [B, H, W, features] by the running statistics."""
        statistics = self.mean.value, self.variance.value
        return ops.normalise(x, *statistics, self.scale, self.bias, relu=relu, ceiling=ceiling, epsilon=self.epsilon)


def conv_bn(
    x: jax.Array,
    features: int,
    kernel_size: int = 1,
    stride: int = 1,
    dilation: int = 1,
    *,
    relu: bool = False,
    ceiling: float | None = None,
    same: bool = False,
    norm: Callable[..., BatchNorm] = BatchNorm,
    train: bool,
    dtype: jnp.dtype = jnp.float32,
    name: str,
) -> jax.Array:
    """Applies a convolution without bias, batch norm and, where asked, ReLU, inside a module's compact method.

    The module gets the submodules `name`, a `Conv`, and `name`_norm, a `BatchNorm`. Kernels start He-normal over their
    outputs. On several devices, statistics are those of the whole batch.

    Args:
      x: [B, H, W, channels].
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: in both directions.
      dilation: of the kernel, in both directions.
      relu: whether to rectify the result.
      ceiling: largest rectified value; None: no limit.
      same: whether a kernel of stride 2 is padded as TensorFlow's "SAME" instead of as `Conv`.
      norm: `BatchNorm`, perhaps with a momentum and an epsilon of its own.
      train: whether to normalise by, and move the running statistics towards, statistics of the batch.
      dtype: compute type.
      name: of the convolution.

    Returns:
      [B, H', W', features] in the compute type.
    """
    kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    kernel, _ = Conv(features, kernel_size, stride, dilation, kernel_init=kernel_init, name=name).parameters(
        x.shape[-1]
    )
    if same:
        kernel = _for_same_padding(kernel, x.shape[1:3])
    layer = norm(features, name=f"{name}_norm")
    x = x.astype(dtype)
    with jax.named_scope(name):
        if train:
            y, mean, variance = ops.conv2d_batch_norm(
                x,
                kernel,
                layer.scale,
                layer.bias,
                stride=stride,
                dilation=dilation,
                relu=relu,
                ceiling=ceiling,
                epsilon=layer.epsilon,
            )
            layer.update(mean, variance, ops.count_cells(y))
        else:
            y = layer.normalise(ops.conv2d(x, kernel, stride=stride, dilation=dilation), relu=relu, ceiling=ceiling)
    return y.astype(dtype)


def _for_same_padding(kernel: jax.Array, size: Sequence[int]) -> jax.Array:
    """Returns a kernel of stride 2 that reads with symmetric padding what an odd one reads with TensorFlow's "SAME".

    For even sizes, "SAME" adds one row less above than symmetric padding: a first row of zeros stands in its place.
    """
    rows, columns = ((1 - length % 2, 0) for length in size)
    return jnp.pad(kernel, (rows, columns, (0, 0), (0, 0)))


def depthwise_conv_bn(
    x: jax.Array,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    *,
    ceiling: float | None = None,
    norm: Callable[..., BatchNorm] = BatchNorm,
    train: bool,
    dtype: jnp.dtype = jnp.float32,
    name: str,
) -> jax.Array:
    """Applies a convolution of each channel by itself, batch norm and ReLU, inside a module's compact method.

    Submodules are named as by `conv_bn`; the kernel starts He-normal. Sizes are padded as TensorFlow's "SAME".

    Args:
      x: [B, H, W, channels].
      kernel_size: height and width of the kernel.
      stride: in both directions.
      dilation: of the kernel, in both directions.
      ceiling: largest rectified value; None: no limit.
      norm: see `conv_bn`.
      train: see `conv_bn`.
      dtype: compute type.
      name: of the convolution.

    Returns:
      [B, H / stride, W / stride, channels], rounded up, in the compute type.
    """
    channels = x.shape[-1]
    kernel, _ = Conv(channels, kernel_size, stride, dilation, name=name).parameters(1)
    layer = norm(channels, name=f"{name}_norm")
    with jax.named_scope(name):
        y = ops.depthwise_conv2d(x.astype(dtype), kernel, stride=stride, dilation=dilation)
        if train:
            y, mean, variance = ops.batch_norm(
                y, layer.scale, layer.bias, relu=True, ceiling=ceiling, epsilon=layer.epsilon
            )
            layer.update(mean, variance, ops.count_cells(y))
        else:
            y = layer.normalise(y, relu=True, ceiling=ceiling)
    return y.astype(dtype)
