"""What the text of a program compiled for a TPU says of its time and of what travels between chips, and a page of it.

The compiler chooses between programs by its estimates; they are no measurements.
"""

import collections
import re
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.speed.compiled import OPERATION, size_of


class Chip(NamedTuple):
    """What a chip can do at most, by its maker: bfloat16 arithmetic, and traffic with its own memory."""

    flop_per_second: float
    bytes_per_second: float


CHIPS = {"v5e": Chip(197e12, 819e9), "v6e": Chip(918e12, 1640e9), "v5p": Chip(459e12, 2765e9)}
_LINK = 45e9  # Bytes per second, of one link between chips of v5e.
_CYCLES_PER_SECOND = 1.5e9  # Of v5e; the estimates are in its cycles.
_ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
_PLACE = re.compile(r'op_name="([^"]*)"')
_TYPE = re.compile(r"%([\w.\-]+) = ([a-z]+\d+)\[")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SMALL = 16 * 1024  # Bytes.
_LARGEST = 10  # Copies and pads that are listed.


def estimates(text: str) -> dict:
    """Returns what the text of a program compiled for a TPU says of its time and of what travels.

    Returns:
      `milliseconds`: of all instructions; `by_kind` and `by_layer`: milliseconds, largest first; `collectives`: by kind
      and type, their number, how many are smaller than 16 KiB, and bytes; `float32_products`: by layer, the number of
      products and convolutions with a float32 operand; `largest_moves`: milliseconds, kind, type and place of the
      largest copies and pads.
    """
    by_kind, by_layer = collections.Counter(), collections.Counter()
    moves, travels, wide = [], {}, collections.Counter()
    types = dict(_TYPE.findall(text))
    for line in text.splitlines():
        match = OPERATION.match(line)
        if match is None:
            continue
        kind, result = match["kind"].removesuffix("-start"), match["result"]
        if kind in _COLLECTIVES:
            element = re.search(r"[a-z]+\d+", result)
            found = travels.setdefault(f"{kind} {element[0] if element else '?'}", {"count": 0, "small": 0, "bytes": 0})
            size = size_of(result)
            found["count"] += 1
            found["small"] += size < _SMALL
            found["bytes"] += size
        found_place = _PLACE.search(line)
        place = found_place[1] if found_place else ""
        if kind == "convolution":  # Inside fusions; products are convolutions, too.
            operands = re.findall(r"%([\w.\-]+)", match["operands"].partition(")")[0])
            wide[layer_of(place)] += "f32" in map(types.get, operands)
        if (estimate := _ESTIMATE.search(line)) is None:
            continue
        milliseconds = 1000 * int(estimate[1]) / _CYCLES_PER_SECOND
        by_kind[_kind(kind, match["name"], line)] += milliseconds
        by_layer[layer_of(place)] += milliseconds
        if kind in ("copy", "pad", "transpose"):
            moves.append((milliseconds, kind, result.partition("{")[0], place))
    return {
        "milliseconds": sum(by_kind.values()),
        "by_kind": dict(by_kind.most_common()),
        "by_layer": dict(by_layer.most_common()),
        "collectives": travels,
        "float32_products": {layer: count for layer, count in wide.items() if count},
        "largest_moves": sorted(moves, reverse=True)[:_LARGEST],
    }


def layer_of(place: str) -> str:
    """Returns the layer of an operation: of "jit(f)/jvp(DeepLab)/backbone/stage3_block2/add", "backbone/stage3".

    Blocks of a stage count together, and so do forward and backward pass.
    """
    network = re.search(r"jvp\((\w+)\)", place)
    if network is None:
        return "losses and update" if place else "unnamed"
    if network[1] != "DeepLab":
        return network[1]
    part, *inside = re.split(r"jvp\(DeepLab\)\)?/", place)[-1].split("/")
    part = part.partition(".")[0]  # Flax appends the method.
    if part != "backbone" or len(inside) < 2:
        return part
    return f"{part}/{re.sub(r'_?block[0-9]+$', '', inside[0]) or 'blocks'}"


def limits(flop: float, traffic: float) -> dict[str, dict[str, float]]:
    """Returns by kind of chip the milliseconds that arithmetic alone and memory alone would take.

    Args:
      flop: of a step, on each chip.
      traffic: bytes of operands and results of a step, on each chip.
    """
    return {
        name: {"arithmetic": 1000 * flop / chip.flop_per_second, "memory": 1000 * traffic / chip.bytes_per_second}
        for name, chip in CHIPS.items()
    }


def travel_milliseconds(collectives: Mapping, chips: int) -> float:
    """Returns the time of all sums over the chips in a ring of single links; more links or overlap make it shorter.

    Args:
      collectives: of `estimates`.
      chips: how many take part.
    """
    travelling = sum(found["bytes"] for found in collectives.values())
    return 1000 * 2 * (chips - 1) / chips * travelling / _LINK


def page(found: Mapping) -> str:
    """Returns the figures as Markdown.

    Args:
      found: `config`, `dtype`, `topology`, `chips`, `memory` in bytes, `tflop` and `bytes` of a step on a chip, and
        what `estimates` returns.
    """
    travel = travel_milliseconds(found["collectives"], found["chips"])
    memory = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in found["memory"].items())
    rows = [
        f"# {found['config']}, {found['dtype']}, {found['chips']} chips of {found['topology']}",
        "",
        "| a chip | |",
        "|---|---:|",
        f"| memory, GB | {memory} |",
        f"| arithmetic, TFLOP | {found['tflop']:.3g} |",
        f"| operands and results, GB | {found['bytes'] / 1e9:.3g} |",
        f"| step by the compiler's cycles, ms | {found['milliseconds']:.4g} |",
        f"| sums over the chips at {_LINK / 1e9:.0f} GB/s, ms | {travel:.3g} |",
    ]
    for name, least in limits(1e12 * found["tflop"], found["bytes"]).items():
        both = f"{least['arithmetic']:.3g}, {least['memory']:.3g}"
        rows.append(f"| {name}: arithmetic alone, all operands from memory, ms | {both} |")
    for title in ("by_layer", "by_kind"):
        rows += ["", f"| {title.replace('_', ' ')} | ms |", "|---|---:|"]
        rows += [f"| {name} | {milliseconds:.3f} |" for name, milliseconds in found[title].items()]
    rows += ["", "| collective | number | below 16 KiB | MB |", "|---|---:|---:|---:|"]
    for name, sums in found["collectives"].items():
        rows.append(f"| {name} | {sums['count']} | {sums['small']} | {sums['bytes'] / 1e6:.1f} |")
    rows += ["", "| float32 products | number |", "|---|---:|"]
    rows += [f"| {layer} | {count} |" for layer, count in found["float32_products"].items()]
    rows += ["", "| largest copies and pads | ms | type | where |", "|---|---:|---|---|"]
    for milliseconds, kind, result, place in found["largest_moves"]:
        rows.append(f"| {kind} | {milliseconds:.3f} | `{result}` | {place} |")
    return "\n".join(rows) + "\n"


def _kind(kind: str, name: str, line: str) -> str:
    if kind != "fusion":
        return kind
    if "convolution" in name or "kOutput" in line:
        return "convolution fusion"  # Matrix products, too: the compiler makes convolutions of them.
    return "fusion"
