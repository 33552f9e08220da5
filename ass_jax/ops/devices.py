"""Sums over the devices that share a batch, for functions that see only their own device's images.

Inside `each_device`, arrays are those of one device, and sums over images need the other devices' too. Outside, arrays
are those of all devices, and the functions here return what they get.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

AXIS = "data"  # Of the mesh; batches are divided along it.

_T = TypeVar("_T")


def each_device(function: Callable[..., Any], mesh: Mesh | None, *, images: bool = False) -> Callable[..., Any]:
    """Makes a function of a shared tree and a tree of images run on each device, with that device's images.

    XLA would divide the whole program as well, but it adds up gradients over the devices where they arise: once a
    stream, in the compute type. A function that runs on each device decides itself when it adds up.

    Args:
      function: of a tree that all devices share and a tree of arrays [B, ...]; sums over images are made by
        `sum_over_devices`.
      mesh: devices; None or a single one: the function as it is.
      images: whether the function returns arrays [B, ...] of its images; else what is the same on all devices.

    Returns:
      A function of the same arguments, as arrays of all devices.
    """
    if mesh is None or mesh.size == 1:
        return function
    by_image, shared = PartitionSpec(AXIS), PartitionSpec()
    out_specs = by_image if images else shared
    return jax.shard_map(function, mesh=mesh, in_specs=(shared, by_image), out_specs=out_specs)


def sum_over_devices(tree: _T) -> _T:
    """Adds up a tree of arrays, entry by entry, in one message."""
    return lax.psum(tree, AXIS) if _is_divided() else tree


def mean_over_devices(tree: _T) -> _T:
    """Returns the mean of each array over the devices, whose shares of the batch are equal."""
    return lax.pmean(tree, AXIS) if _is_divided() else tree


def count_devices() -> int:
    """Returns among how many devices the batch is divided, 1 outside `each_device`."""
    return lax.axis_size(AXIS) if _is_divided() else 1


def count_cells(x: jax.Array) -> int:
    """Returns the cells of a map [B, H, W, channels] on all devices."""
    return count_devices() * (x.size // x.shape[-1])


def as_own(tree: _T) -> _T:
    """Returns what all devices share as if it were each device's own: its gradient is then that of the own images."""
    return lax.pcast(tree, AXIS, to="varying") if _is_divided() else tree


def of_first_device(tree: _T) -> _T:
    """Returns the first device's arrays on all devices.

    For arrays that are equal on all devices, but that JAX takes for different ones: a barrier makes it forget.
    """
    if not _is_divided():
        return tree
    is_first = lax.axis_index(AXIS) == 0
    return sum_over_devices(jax.tree.map(lambda leaf: jnp.where(is_first, leaf, jnp.zeros_like(leaf)), tree))


def own_images(array: jax.Array) -> jax.Array:
    """Returns the entries [B / devices, ...] of this device's images of an array [B, ...] over all images."""
    if not _is_divided():
        return array
    count = len(array) // count_devices()
    return lax.dynamic_slice_in_dim(array, lax.axis_index(AXIS) * count, count)


def _is_divided() -> bool:
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes
