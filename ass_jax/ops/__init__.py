"""The one door to numerics that differ by platform.

Each operation has a fast form in a file of this folder and a plain one in `reference.py`, with the same arguments,
results and gradients. `ASS_JAX_OPS=reference` in the environment makes a program use the plain ones: if a wrong number
is right then, a fast form is at fault.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ass_jax.ops import atrous as _atrous
from ass_jax.ops import conv_batch_norm as _conv_batch_norm
from ass_jax.ops import convolution as _convolution
from ass_jax.ops import depthwise as _depthwise
from ass_jax.ops import normalisation as _normalisation
from ass_jax.ops import pooling as _pooling
from ass_jax.ops import reference as _reference
from ass_jax.ops import relu as _relu
from ass_jax.ops.devices import (
    AXIS,
    as_own,
    count_cells,
    count_devices,
    each_device,
    mean_over_devices,
    of_first_device,
    own_images,
    sum_over_devices,
)
from ass_jax.ops.normalisation import EPSILON
from ass_jax.ops.resize import interpolation_matrix, nearest_indices, resize_bilinear
from ass_jax.ops.streams import sum_by_stream
from configs.user_error import UserError

VARIABLE = "ASS_JAX_OPS"  # The environment variable.
FORMS = ("fast", "reference")

_P = ParamSpec("_P")
_R = TypeVar("_R")
_forms: list[str] = []  # Of the `with` blocks of `form`, the innermost last.


@contextlib.contextmanager
def form(name: str) -> Iterator[None]:
    """Uses one of `FORMS` inside a `with` block, whatever the environment says.

    It acts while a function is traced; one that is compiled already keeps its form.

    Raises:
      UserError: there is no such form.
    """
    _forms.append(_valid(name, "form of the operations"))
    try:
        yield
    finally:
        _forms.pop()


def current_form() -> str:
    """Returns the one of `FORMS` that is in use.

    Raises:
      UserError: the environment names another one.
    """
    return _forms[-1] if _forms else _valid(os.environ.get(VARIABLE) or "fast", VARIABLE)


def _valid(name: str, what: str) -> str:
    if name not in FORMS:
        raise UserError(f"Unknown {what} {name!r}. Valid: {', '.join(FORMS)}.")
    return name


def _either(fast: Callable[_P, _R], plain: Callable[_P, _R]) -> Callable[_P, _R]:
    @functools.wraps(fast)
    def operation(*arguments: _P.args, **settings: _P.kwargs) -> _R:
        return (plain if current_form() == "reference" else fast)(*arguments, **settings)

    return operation


conv2d = _either(_convolution.conv2d, _reference.conv2d)
depthwise_conv2d = _either(_depthwise.depthwise_conv2d, _reference.depthwise_conv2d)
conv2d_batch_norm = _either(_conv_batch_norm.conv2d_batch_norm, _reference.conv2d_batch_norm)
batch_norm = _either(_normalisation.batch_norm, _reference.batch_norm)
normalise = _either(_normalisation.normalise, _reference.normalise)
max_pool = _either(_pooling.max_pool, _reference.max_pool)
atrous_sum = _either(_atrous.atrous_sum, _reference.atrous_sum)
add_relu = _either(_relu.add_relu, _reference.add_relu)

__all__ = [
    "AXIS",
    "EPSILON",
    "FORMS",
    "VARIABLE",
    "add_relu",
    "as_own",
    "atrous_sum",
    "batch_norm",
    "conv2d",
    "conv2d_batch_norm",
    "count_cells",
    "count_devices",
    "current_form",
    "depthwise_conv2d",
    "each_device",
    "form",
    "interpolation_matrix",
    "max_pool",
    "mean_over_devices",
    "nearest_indices",
    "normalise",
    "of_first_device",
    "own_images",
    "resize_bilinear",
    "sum_by_stream",
    "sum_over_devices",
]
