"""The one door to operations that are computed otherwise on one platform than on another.

Each has a fast form, in a file of this folder, and a plain one in `reference.py`, with the same arguments, result and
gradients. `ASS_JAX_OPS=reference` in the environment has a whole program take the plain ones: a number that differs
then comes from a fast one.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ass_jax.ops import convolution as _convolution
from ass_jax.ops import normalisation as _normalisation
from ass_jax.ops import pooling as _pooling
from ass_jax.ops import products as _products
from ass_jax.ops import pyramid as _pyramid
from ass_jax.ops import reference as _reference
from ass_jax.ops import relu as _relu
from ass_jax.ops.resize import interpolation_matrix, nearest_indices, resize_bilinear

VARIABLE = "ASS_JAX_OPS"  # Of the environment.
FORMS = ("fast", "reference")

_P, _R = ParamSpec("_P"), TypeVar("_R")
_chosen: list[str] = []  # The innermost choice of `form` is the last.


@contextlib.contextmanager
def form(name: str) -> Iterator[None]:
    """Takes one of `FORMS` inside a `with` block, whatever the environment says.

    It acts when a function is traced: one that has been compiled before keeps the form it was compiled with.

    Raises:
      ValueError: there is no such form.
    """
    _chosen.append(_checked(name, "form of the operations"))
    try:
        yield
    finally:
        _chosen.pop()


def form_at_hand() -> str:
    """Returns the one of `FORMS` that is taken.

    Raises:
      ValueError: the environment names another one.
    """
    return _chosen[-1] if _chosen else _checked(os.environ.get(VARIABLE) or "fast", VARIABLE)


def _checked(name: str, what: str) -> str:
    if name not in FORMS:
        raise ValueError(f"Unknown {what} {name!r}. Valid: {', '.join(FORMS)}.")
    return name


def _either(fast: Callable[_P, _R], plain: Callable[_P, _R]) -> Callable[_P, _R]:
    @functools.wraps(fast)
    def operation(*arguments: _P.args, **settings: _P.kwargs) -> _R:
        return (plain if form_at_hand() == "reference" else fast)(*arguments, **settings)

    return operation


conv2d = _either(_convolution.convolve, _reference.conv2d)
matmul = _either(_products.multiply, _reference.matmul)
atrous_sum = _either(_pyramid.convolve_pyramid, _reference.atrous_sum)
batch_norm = _either(_normalisation.normalise_batch, _reference.batch_norm)
matmul_batch_norm = _either(_normalisation.normalise_product, _reference.matmul_batch_norm)
normalise = _either(_normalisation.normalise, _reference.normalise)
max_pool = _either(_pooling.max_pool, _reference.max_pool)
add_relu = _either(_relu.add_relu, _reference.add_relu)

__all__ = [
    "FORMS",
    "VARIABLE",
    "add_relu",
    "atrous_sum",
    "batch_norm",
    "conv2d",
    "form",
    "form_at_hand",
    "interpolation_matrix",
    "matmul",
    "matmul_batch_norm",
    "max_pool",
    "nearest_indices",
    "normalise",
    "resize_bilinear",
]
