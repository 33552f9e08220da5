"""Rectifying a sum, at the end of a residual block."""

import jax
import jax.numpy as jnp
from jax import lax


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `relu(x + y)`, of two arrays of one shape."""
    return _relu_kept(x + y)


@jax.custom_vjp
def _relu_kept(x: jax.Array) -> jax.Array:
    """Acts as `relu`, and keeps its result for the backward pass and for the next block.

    Left to itself, XLA:CPU adds up the results of all blocks before, at each block and once more on the way back.
    """
    return lax.optimization_barrier(jax.nn.relu(x))


def _relu_forward(x):
    y = _relu_kept(x)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


_relu_kept.defvjp(_relu_forward, _relu_backward)
