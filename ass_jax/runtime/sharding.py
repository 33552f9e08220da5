"""Device mesh, shardings and global batches: data parallel over one axis, parameters replicated."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ass_jax.ops import AXIS
from configs.user_error import UserError


def make_mesh(images_per_step: Iterable[int], devices: Sequence[jax.Device] = ()) -> Mesh:
    """Returns a mesh with one axis, `data`, over the largest number of devices that divides every stream of a step.

    On TPUs, the number also divides that of all devices: programs for 3 or 6 of 8 chips do not compile.

    Args:
      images_per_step: images per step of each stream, over all devices.
      devices: to choose from; default: all that JAX finds.

    Raises:
      UserError: with several processes, all devices must be used and do not divide the streams.
    """
    sizes = list(images_per_step)
    devices = list(devices) or jax.devices()
    common = math.gcd(*sizes)
    if devices[0].platform == "tpu":
        common = math.gcd(common, len(devices))
    count = max(n for n in range(1, len(devices) + 1) if common % n == 0)
    if count < len(devices):
        message = (
            f"Images per step {sizes} cannot be divided among {len(devices)} devices: make each a multiple of "
            f"{len(devices)} (--config.data.batch.source=... and so on)"
        )
        if jax.process_count() > 1:
            raise UserError(message + ".")
        logging.warning("%s; using %d of them.", message, count)
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the state, of which every device holds a copy."""
    return NamedSharding(mesh, PartitionSpec())


def by_image(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of batches, which are divided along their first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def global_batch(batch: dict, mesh: Mesh) -> dict:
    """Sends this process's share of a batch to its devices.

    Args:
      batch: tree of host arrays `[B / processes, ...]`.
      mesh: see `make_mesh`.

    Returns:
      The same tree of global arrays `[B, ...]`, divided along their first axis.
    """
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(by_image(mesh), array), batch)


def on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Returns the shapes and types of a tree, replicated over a mesh, as the target of a restore."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), tree)


def local_images(array: jax.Array) -> np.ndarray:
    """Returns this process's share `[B / processes, ...]` of an array that is divided by image."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def local_places(array: jax.Array) -> np.ndarray:
    """Returns the places `[B / processes]` among all images of those that `local_images` returns."""
    slices = sorted((shard.index[0] for shard in array.addressable_shards), key=lambda images: images.start or 0)
    return np.concatenate([np.arange(len(array))[images] for images in slices])


def pad_images(batch: dict[str, np.ndarray], mesh: Mesh, ignored: int) -> dict[str, np.ndarray]:
    """Adds empty, ignored images to this process's evaluation batch until its devices share them evenly.

    Args:
      batch: `image` `[B, ...]`, `label` `[B, ...]`, `valid` `[B]`; of the same size in every process.
      mesh: see `make_mesh`; every process has as many of its devices.
      ignored: label of the added images' pixels.
    """
    missing = -len(batch["valid"]) % len(mesh.local_devices)
    if not missing:
        return batch

    def pad(array: np.ndarray, value: int) -> np.ndarray:
        return np.concatenate([array, np.full((missing, *array.shape[1:]), value, array.dtype)])

    return {
        "image": pad(batch["image"], 0),
        "label": pad(batch["label"], ignored),
        "valid": pad(batch["valid"], 0),
    }
