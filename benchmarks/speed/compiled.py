"""Compiles the training step for a GPU, which need not be present, and counts the bytes that move through its memory.

  python -m benchmarks.speed.compiled --config=configs/gta5.py:ass --config.model.dtype=bfloat16
  python -m benchmarks.speed.compiled --config=configs/gta5.py:ass --text=runs/step.txt

Needs JAX for GPUs (`pip install "jax[cuda13]"`) but no GPU. The bytes are the operands and results of all operations of
the compiled program, as if nothing stayed in a cache. Divided by the memory bandwidth of the GPU, they give a lower
bound of the time that is not limited by arithmetic. Autotuning is off: kernels are those of XLA's first guess.
"""

import collections
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.training.memory_estimate import gigabytes, program_bytes
from benchmarks.common import command, random_batches

# Description of an H100 (SXM, 80 GB) in XLA's format.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048 clock_rate_ghz: 1.98
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_NO_TRIALS = {"xla_gpu_autotune_level": 0}
_BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
OPERATION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>.*?) (?P<kind>[\w\-]+)\((?P<operands>.*)")
# Operations that only name values and move nothing.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


def traffic(text: str) -> dict[str, tuple[int, int]]:
    """Returns, by kind of operation, their number and the bytes of their operands and results.

    Args:
      text: of a compiled program. Fusions are listed under the names that XLA gives them, calls of libraries under the
        names of the library functions.
    """
    sizes, found = {}, collections.defaultdict(lambda: (0, 0))
    for line in text[text.index("\nENTRY") :].splitlines():
        if (match := OPERATION.match(line)) is None:
            continue
        name, kind = match["name"], match["kind"]
        sizes[name] = size_of(match["result"])
        if kind in _FREE:
            continue
        operands = re.findall(r"%([\w.\-]+)", match["operands"].split("), ")[0])
        count, moved = found[_kind(line, name, kind)]
        moved += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
        found[_kind(line, name, kind)] = count + 1, moved
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def compile_for_gpu(config: ConfigDict, num_classes: int) -> tuple[jax.stages.Compiled, dict]:
    """Compiles the training step for an H100; returns it and the shapes of its batch."""
    device = topologies.get_topology_desc("", "cuda", target_config=_H100, topology="1x1x1").devices[0]
    shared = {"networks": build_networks(config, num_classes), "config": config, "optimizer": make_optimizer(config)}
    state = jax.eval_shape(functools.partial(create_state, num_classes=num_classes, **shared))
    batch = random_batches.training_batches(config, num_classes, count=1)[0]

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device))

    state, batch = jax.tree.map(placed, (state, batch))
    step = jax.jit(functools.partial(train_step, **shared), donate_argnums=0)
    return step.lower(state, batch).compile(compiler_options=_NO_TRIALS), batch


def size_of(types: str) -> int:
    """Returns the bytes of the arrays in an operation's type."""
    total = 0
    for name, shape in _ARRAY.findall(types):
        entries = 1
        for length in filter(None, shape.split(",")):
            entries *= int(length)
        total += entries * _BYTES[name]
    return total


def _kind(line: str, name: str, kind: str) -> str:
    target = re.search(r'custom_call_target="([^"]+)"', line)
    if kind == "custom-call" and target:
        return target[1]
    return re.sub(r"[.\d]+$", "", name) if kind == "fusion" else kind


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and writes the compiled program's text and the figures as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--text", type=Path, help="file to write the compiled program to")
    options, config = command.parse(parser, arguments)
    jax.config.update("jax_platforms", "cpu")  # Nothing is run, and JAX looks for no GPU.
    compiled, batch = compile_for_gpu(config, options.classes)
    text = compiled.as_text()
    if options.text:
        options.text.write_text(text)
    found = traffic(text)
    for kind, (count, moved) in found.items():
        print(f"{count:6} {moved / 1e9:8.2f} GB  {kind}")
    operations, moved = (sum(entry[index] for entry in found.values()) for index in (0, 1))
    needed = program_bytes(compiled, batch)
    print(f"{operations:6} {moved / 1e9:8.2f} GB  in all; the step needs about {gigabytes(needed)} of memory")
    about = {
        "command": command.described(__spec__.name, arguments),
        "config": options.config,
        "dtype": config.model.dtype,
    }
    command.write(options.json, about | {"traffic": found, "memory": needed})


if __name__ == "__main__":
    main()
