"""The upper limit of a device's speed: that of a large matrix product, measured."""

import time

import jax
import jax.numpy as jnp

_SIZES = {"cpu": 2048}  # Rows and columns, by platform.
_LARGE = 8192
_PRODUCTS = 8  # In one program, so that the time to start it does not count.
_TRIES = 5


def product_tflops(dtype: str, size: int = 0) -> float:
    """Returns the TFLOP/s of square matrix products on the first device, in the fastest of several tries.

    Args:
      dtype: of the matrices. On a GPU, XLA multiplies float32 in TF32 where the hardware has it.
      size: rows and columns; default: 2048 on a CPU, 8192 elsewhere.
    """
    size = size or _SIZES.get(jax.default_backend(), _LARGE)
    keys = jax.random.split(jax.random.key(0))
    # Scaled so that products of products neither vanish nor overflow.
    left, right = (jax.random.normal(key, (size, size), jnp.float32).astype(dtype) for key in keys)
    right = right / jnp.sqrt(size).astype(dtype)

    @jax.jit
    def multiply(left: jax.Array, right: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, _PRODUCTS, lambda _, product: product @ right, left)

    seconds = []
    for _ in range(_TRIES + 1):
        begun = time.perf_counter()
        multiply(left, right).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2.0 * size**3 * _PRODUCTS / min(seconds[1:]) / 1e12
