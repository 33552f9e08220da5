"""The Vision Transformers of DINOv2 (arXiv 2304.07193), with registers where asked (arXiv 2309.16588).

The plain ones, S/14, B/14 and L/14: ViT-g has another MLP and is not offered. Numbers are those of
https://github.com/facebookresearch/dinov2, whose weights the import reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ass_jax import ops
from ass_jax.models.layers import Conv

PATCH = 14  # Pixels, height and width.
GRID = 37  # Patches, height and width, of the 518 pixels whose positions DINOv2 learnt last.
EXPANSION = 4  # Hidden units of the MLP over the width.
EPSILON = 1e-6  # Of layer norm.
OFFSET = 0.1  # See `resize_positions`.
# Numbers of the blocks whose maps DINOv2's evaluation reads; other depths are divided evenly.
LEVELS = {12: (3, 6, 9, 12), 24: (5, 12, 18, 24)}
STREAM = "stochastic_depth"  # Flax's name of the random numbers.

_init = nn.initializers.truncated_normal(0.02)


class Vit(nn.Module):
    """Vision Transformer without classifier.

    Layer norms have no "norm" in their names: `train_norm_affine` is about batch norm. Tokens are float32 between the
    blocks, and so are layer norm, softmax and the sums with bias and with LayerScale.

    Attributes:
      width: D.
      depth: number of blocks.
      heads: of attention; divides the width.
      registers: number of register tokens.
      stochastic_depth: probability that the last block's branches are left out for an image in training
        (arXiv 1603.09382); it grows linearly from 0 in the first block.
      grid: height and width of the learnt positions, in patches.
      dtype: compute type of products; parameters are float32.
      remat: whether the backward pass computes the inside of each block again instead of storing it.
    """

    width: int
    depth: int
    heads: int
    registers: int = 0
    stochastic_depth: float = 0.0
    grid: int = GRID
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    head_channels, head_scale = 256, 2  # Of a `MultilevelHead`: its cells are seven pixels.

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Maps normalised images [B, H, W, 3] to the last layer's features [B, h, w, D]; see `levels`."""
        return self.levels(images, train)[-1]

    @nn.compact
    def levels(self, images: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Maps normalised images [B, H, W, 3] to the features of four blocks, each after the final layer norm.

        Args:
          images: of any size; zeros below and on the right fill up the last patches.
          train: whether branches are left out at random. If `stochastic_depth` is not 0, this draws from the stream
            `STREAM`: `apply(..., rngs={STREAM: key})`.

        Returns:
          Four maps [B, h, w, D] in the compute type, the last block's last; h is H / 14, rounded up. They cover the
          image with its padding, `padded_size`.
        """
        shape = (images.shape[0], *(length // PATCH for length in padded_size(images.shape[1:3])), self.width)
        tokens = Embedding(self.width, self.registers, self.grid, self.dtype, name="embedding")(images)
        block = nn.remat(Block) if self.remat else Block
        final = nn.LayerNorm(EPSILON, dtype=self.dtype, use_fast_variance=False, name="output")
        chosen, maps = level_blocks(self.depth), {}
        for number in range(1, self.depth + 1):
            drop = self.stochastic_depth * (number - 1) / max(self.depth - 1, 1) if train else 0.0
            tokens = block(self.heads, drop, self.dtype, name=f"block{number}")(tokens)
            if number in chosen:
                maps[number] = final(tokens[:, 1 + self.registers :]).reshape(shape)
        return tuple(maps[number] for number in chosen)


class Embedding(nn.Module):
    """The first tokens: class, registers and patches with their positions.

    Attributes:
      width: D.
      registers: number of register tokens.
      grid: height and width of the learnt positions, in patches.
      dtype: compute type of the product with the patches.
    """

    width: int
    registers: int
    grid: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, 3] to tokens [B, 1 + registers + h * w, D] float32, patches row by row."""
        class_token = self.param("class_token", _init, (1, 1, self.width))
        positions = self.param("positions", _init, (1, 1 + self.grid**2, self.width))
        tokens = [class_token + positions[:, :1]]
        if self.registers:
            tokens.append(self.param("registers", _init, (1, self.registers, self.width)))
        tokens = [jnp.broadcast_to(token, (images.shape[0], *token.shape[1:])) for token in tokens]
        patches = self._patches(images)
        # DINOv2 resizes differently in its networks with registers.
        antialias, offset = (True, 0.0) if self.registers else (False, OFFSET)
        grid = positions[0, 1:].reshape(self.grid, self.grid, self.width)
        patches += resize_positions(grid, patches.shape[1:3], antialias=antialias, offset=offset)
        return jnp.concatenate([*tokens, patches.reshape(images.shape[0], -1, self.width)], axis=1)

    def _patches(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, 3] to [B, h, w, D] float32: a strided convolution as one product of all patches."""
        batch, size = images.shape[0], images.shape[1:3]
        padding = ((0, whole - length) for whole, length in zip(padded_size(size), size, strict=True))
        images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        rows, columns = (length // PATCH for length in images.shape[1:3])
        cells = images.reshape(batch, rows, PATCH, columns, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
        kernel, bias = Conv(self.width, PATCH, use_bias=True, kernel_init=_init, name="patches").parameters(3)
        cells = cells.reshape(batch, rows, columns, -1)
        return _product(cells, kernel.reshape(-1, self.width), self.dtype) + bias


class Block(nn.Module):
    """Attention and MLP, each after layer norm (arXiv 2002.04745) and scaled by LayerScale (arXiv 2103.17239).

    Attributes:
      heads: of attention.
      drop: probability that a branch is left out for an image; 0 draws no random numbers.
      dtype: compute type of products.
    """

    heads: int
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens [B, T, D] float32 to the next ones."""
        width = tokens.shape[-1]
        x = self._normalise(tokens, "attention_input")
        heads = (*x.shape[:2], self.heads, width // self.heads)
        # Attention does not depend on the bias of the keys: its gradient would be rounding, which Adam enlarges to the
        # size of any other.
        query, key, value = (
            Linear(width, self.dtype, trains_bias=name != "key", name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        x = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        tokens += self._scale(self._linear(x, width, "attention_output"), "attention_scale")
        x = self._normalise(tokens, "mlp_input")
        x = nn.gelu(self._linear(x, EXPANSION * width, "mlp_hidden"), approximate=False)
        return tokens + self._scale(self._linear(x, width, "mlp_output"), "mlp_scale")

    def _normalise(self, x: jax.Array, name: str) -> jax.Array:
        return nn.LayerNorm(EPSILON, dtype=self.dtype, use_fast_variance=False, name=name)(x)

    def _linear(self, x: jax.Array, features: int, name: str) -> jax.Array:
        return Linear(features, self.dtype, name=name)(x)

    def _scale(self, branch: jax.Array, name: str) -> jax.Array:
        branch = branch.astype(jnp.float32) * self.param(name, nn.initializers.ones, branch.shape[-1:])
        if self.drop == 0:
            return branch
        count = ops.count_devices() * branch.shape[0]  # The same images drop the branch on any number of devices.
        kept = jax.random.bernoulli(self.make_rng(STREAM), 1 - self.drop, (count, 1, 1))
        kept = ops.own_images(kept)
        return jnp.where(kept, branch / (1 - self.drop), 0.0)


class Linear(nn.Module):
    """A fully connected layer.

    Attributes:
      features: output channels.
      dtype: compute type; parameters are float32.
      trains_bias: whether the bias has a gradient.
    """

    features: int
    dtype: jnp.dtype
    trains_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., channels] to [..., features] in the compute type."""
        kernel = self.param("kernel", _init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        bias = bias if self.trains_bias else jax.lax.stop_gradient(bias)
        return (_product(x, kernel, self.dtype) + bias).astype(self.dtype)


def _product(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Multiplies in the compute type; float32, so that the gradient of a bias, a sum over all tokens, is too."""
    return (x.astype(dtype) @ kernel.astype(dtype)).astype(jnp.float32)


def padded_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """Rounds height and width up to whole patches."""
    return tuple(-(-length // PATCH) * PATCH for length in size)


def level_blocks(depth: int) -> tuple[int, ...]:
    """Returns the numbers of the four blocks, counted from 1, whose maps `Vit.levels` returns."""
    return LEVELS.get(depth) or tuple(-(-depth * quarter // 4) for quarter in range(1, 5))


def resize_positions(grid: jax.Array, size: tuple[int, ...], *, antialias: bool, offset: float) -> jax.Array:
    """Resizes a grid of learnt positions by bicubic interpolation; the same size returns it as it is.

    Programs differ in how they do it:

    | program                        | antialias | offset |
    | DINOv2                         | no        | 0.1    |
    | DINOv2 with registers          | yes       | 0      |
    | transformers, `Dinov2Model`    | no        | 0      |
    | transformers, with registers   | yes       | 0      |
    | timm, both                     | yes       | 0      |

    Args:
      grid: [g, g, D].
      size: (h, w) of the result.
      antialias: whether the kernel is stretched where the grid shrinks, as Pillow's; it is then Keys' cubic with
        a = -0.5, normalised at the border, and otherwise a = -0.75 with the border repeated.
      offset: added to h and w in the spacing of the positions that are read, g / (h + offset); DINOv2's guard against
        rounding, which its weights were trained with.

    Returns:
      [h, w, D] float32.
    """
    if size == grid.shape[:2]:
        return grid
    rows, columns = (
        cubic_matrix(cells, length, antialias=antialias, offset=offset)
        for cells, length in zip(grid.shape[:2], size, strict=True)
    )
    return jnp.einsum("Hh,hwd,Ww->HWd", rows, grid, columns, precision="highest")


def cubic_matrix(cells: int, size: int, *, antialias: bool, offset: float) -> np.ndarray:
    """Returns the matrix float32 [size, cells] that resizes an axis as `resize_positions` says."""
    spacing = cells / (size + offset)
    centres = (np.arange(size) + 0.5) * spacing - 0.5
    if antialias:
        distances = np.arange(cells) - centres[:, None]
        weights = _cubic(distances / max(spacing, 1.0), -0.5)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((size, cells))
    rows = np.arange(size)[:, None]
    np.add.at(matrix, (rows, np.clip(taps, 0, cells - 1)), _cubic(taps - centres[:, None], -0.75))
    return matrix.astype(np.float32)


def _cubic(distances: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    x = np.abs(distances)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
