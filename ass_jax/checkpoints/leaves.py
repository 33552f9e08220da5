"""What can be said of each leaf of a tree: its path, type, shape and sharding, and a checksum of its bytes."""

import json
import zlib
from typing import Any

import jax
import numpy as np

_NAMED = 5


def describe(tree: Any) -> dict[str, str]:
    """Returns path -> type and shape of every leaf, such as `float32[3, 4]`."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _leaves(tree)}


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """Returns how many leaves differ and the first of them, a line each; empty if none does."""
    lines = [
        f"\n  {name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    more = len(lines) - _NAMED
    shown = "".join(lines[:_NAMED]) + (f"\n  and {more} more" if more > 0 else "")
    return f"leaves that differ: {len(lines)}.{shown}" if lines else ""


def with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape, type and sharding of a leaf; the first device where it has none."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def checksums(tree: Any) -> dict[str, str]:
    """Returns path -> type, shape and CRC-32 of the bytes of every leaf.

    A CRC-32 finds every flip of a single bit and every burst of up to 32 bits; it costs less than writing the bytes.
    """
    return {name: f"{leaf.dtype}{list(leaf.shape)} crc32 {_crc(leaf):08x}" for name, leaf in _leaves(tree)}


def checksum_of_json(value: Any) -> str:
    """Returns the CRC-32 of a JSON-able value."""
    return f"crc32 {zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def checksums_of_items(*, state: Any, **values: Any) -> dict[str, Any]:
    """Returns the checksums of a tree of arrays and of JSON-able values, by name."""
    return {"state": checksums(state)} | {name: checksum_of_json(value) for name, value in values.items()}


def plain_json(value: dict) -> dict:
    """Returns what JSON keeps of a value; numbers that are not finite, which JSON lacks, become None."""
    return json.loads(json.dumps(value, default=float), parse_constant=lambda name: None)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _crc(leaf: Any) -> int:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = leaf.addressable_data(0)  # Replicated: each process holds all of it.
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
