"""Counts the work of a training step: the multiply-accumulates of the networks, regardless of the compiler."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from ml_collections import ConfigDict

from ass_jax import ops
from ass_jax.models import Networks

_PASSES = 3  # Forward, gradient of the input, gradient of the weights: the same work each.


def forward_macs(function: Callable, *arguments: Any) -> int:
    """Counts the multiply-accumulates of all convolutions and matrix products that a function calls.

    Args:
      function: is traced, not run.
      *arguments: arrays, or their shapes and types.

    Returns:
      The number, including products with padding, as is usual.
    """
    with ops.form("reference"):  # One convolution or product each, without what a platform adds to be faster.
        return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


@functools.cache
def segmenter_macs(networks: Networks, size: tuple[int, int]) -> int:
    """Counts the forward pass of the segmenter on one image of size (height, width)."""
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return _module_macs(networks.segmenter, images, train=False)


@functools.cache
def global_discriminator_macs(networks: Networks, size: tuple[int, int]) -> int:
    """Counts the forward pass of the global discriminator on one map; 0 if there is none."""
    if networks.global_discriminator is None:
        return 0
    return _module_macs(
        networks.global_discriminator, jax.ShapeDtypeStruct((1, *size, networks.segmenter.num_classes), jnp.float32)
    )


def training_flop(networks: Networks, batch: Mapping[str, Mapping[str, Any]], mixed: bool = False) -> float:
    """Returns the floating-point operations of a training step, two for each multiply-accumulate.

    Every image passes forward and back through the segmenter. So do the source's maps through the global discriminator;
    the unlabelled maps pass forward once and back twice, for the discriminator and for the segmenter. Resizing, losses,
    class means, the semantic discriminator and the update are left out.

    Args:
      networks: of the step.
      batch: its streams.
      mixed: whether a teacher labels the unlabelled images and mixed images are trained on (ASS+). The unlabelled
        images themselves then pass only where the global discriminator reads their maps.
    """
    judged = networks.global_discriminator is not None
    total = 0
    for stream, examples in batch.items():
        count, size = examples["image"].shape[0], tuple(examples["image"].shape[1:3])
        whole = 1 + _PASSES * (1 + judged) if mixed and stream == "unlabelled" else _PASSES
        total += whole * count * segmenter_macs(networks, size)
        passes = {"source": _PASSES, "unlabelled": _PASSES + 1}.get(stream, 0)
        total += passes * count * global_discriminator_macs(networks, size)
    return 2.0 * total


def compiled_flop(compiled: Any) -> float | None:
    """Returns XLA's own count for the program of one device; None if it gives none.

    Work of libraries that XLA calls, such as convolutions on a GPU, may be missing.
    """
    analysis = compiled.cost_analysis()
    found = analysis[0] if isinstance(analysis, list) and analysis else analysis
    flop = (found or {}).get("flops")
    return float(flop) if flop and flop > 0 else None


def paper_table(config: ConfigDict, networks: Networks) -> dict[str, float]:
    """Returns the forward GMAC of the networks on one image of the source's and one of the target's size."""
    return {
        f"{name} {domain}": macs(networks, tuple(config.data[f"{domain}_size"])) / 1e9
        for name, macs in (("segmenter", segmenter_macs), ("global discriminator", global_discriminator_macs))
        for domain in ("source", "target")
    }


def _module_macs(module: Any, inputs: jax.ShapeDtypeStruct, **settings: Any) -> int:
    variables = jax.eval_shape(lambda key, x: module.init(key, x, **settings), jax.random.key(0), inputs)
    return forward_macs(lambda variables, x: module.apply(variables, x, **settings), variables, inputs)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        elif equation.primitive.name == "dot_general":
            total += _product(equation)
        else:
            inner = (getattr(value, "jaxpr", value) for value in equation.params.values())
            total += sum(_count(jaxpr) for jaxpr in inner if isinstance(jaxpr, core.Jaxpr))
    return total


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
