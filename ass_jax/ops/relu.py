"""The rectified sum at the end of a residual block."""

import jax
import jax.numpy as jnp
from jax import lax


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `relu(x + y)` of two arrays of one shape."""
    return _relu(x + y)


@jax.custom_vjp
def _relu(x: jax.Array) -> jax.Array:
    """Acts as `relu`, and stores its result for the backward pass and for the next block.

    XLA:CPU of jaxlib 0.10.2 would add up the results of all earlier blocks again at each block, forward and backward.
    Measured in docs/performance/cpu.md, "Residual sums".
    """
    return lax.optimization_barrier(jax.nn.relu(x))


def _forward(x):
    y = _relu(x)
    return y, y


def _backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


_relu.defvjp(_forward, _backward)
