"""Sums over the streams of a step, one stream after the other."""

from collections.abc import Callable, Mapping
from typing import Any

from jax import lax


def sum_by_stream(function: Callable[[Any, dict], tuple[Any, dict]], carry: Any, streams: Mapping[str, Any]) -> tuple:
    """Adds up the results of a function for each stream, and passes a value on from one stream to the next.

    The activations of one stream are freed before those of the next are computed: without the barrier XLA computes all
    streams at once. Needed by jaxlib 0.10.2; measured in docs/performance/cpu.md, "One stream after the other".

    Args:
      function: from the carried value and a dictionary of one stream to the next carried value and a dictionary of
        arrays, which may be nested.
      carry: a tree of arrays, for the first stream.
      streams: by name, at least one, in the order in which they are computed.

    Returns:
      The last carried value and the sums, entry by entry. Entries of only some streams are sums over these.
    """
    sums: dict = {}
    for name, examples in streams.items():
        if sums:
            examples, carry, sums = lax.optimization_barrier((examples, carry, sums))
        carry, found = function(carry, {name: examples})
        sums = _added(sums, found)
    return carry, sums


def _added(sums: dict, found: dict) -> dict:
    both = sums | found
    for name, value in found.items():  # The order of this loop is the program's: the same in every process.
        if name in sums:
            both[name] = _added(sums[name], value) if isinstance(value, dict) else sums[name] + value
    return both
