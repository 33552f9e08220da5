"""Rectifiers: of the sum at the end of a residual block, and with a ceiling."""

import functools

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


def rectify(x: jax.Array, ceiling: float | None) -> jax.Array:
    """Returns `relu(x)`, at most `ceiling` (None: without limit; ReLU6 has 6)."""
    return jax.nn.relu(x) if ceiling is None else _clip(x, ceiling)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _clip(x: jax.Array, ceiling: float) -> jax.Array:
    """Clips to 0 and a ceiling, where the gradient is 0, and stores its result for the backward pass."""
    return lax.optimization_barrier(jnp.clip(x, 0.0, ceiling))


def _clip_forward(x, ceiling):
    y = _clip(x, ceiling)
    return y, y


def _clip_backward(ceiling, y, gradient):
    return (jnp.where((y > 0) & (y < ceiling), gradient, 0),)


_clip.defvjp(_clip_forward, _clip_backward)
