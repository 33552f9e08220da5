"""Compiles the training step for chips of a TPU, which need not be present, and reads the compiler's own estimates.

  python -m benchmarks.speed.compiled_tpu --config=configs/gta5.py:ass --config.model.dtype=bfloat16
  python -m benchmarks.speed.compiled_tpu --config=configs/toy.py --topology=v5e:2x4 --chips=4 --text=runs/step.txt

Needs the compiler (`pip install "jax[tpu]"`) but no TPU. The configuration's images are those of one chip. The
compiler chooses between programs by these estimates; they are no measurements.

The program is compiled in a child process, because the compiler may abort its process.
"""

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.runtime.sharding import by_image, make_mesh, replicated
from benchmarks.common import command, random_batches
from benchmarks.speed.tpu_estimates import estimates, page

# Without these, the compiler looks for a TPU, waits for a server of its cloud, and allows one process at a time.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CHILD = "ASS_JAX_COMPILES_FOR_TPU"


def compile_for_tpu(config: ConfigDict, num_classes: int, topology: str, chips: int) -> jax.stages.Compiled:
    """Compiles the training step for chips of a TPU.

    Args:
      config: the whole configuration; its batch is that of one chip.
      num_classes: C.
      topology: such as "v5e:2x4".
      chips: how many of them take part, the first ones.
    """
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:chips]
    config = config.copy_and_resolve_references()
    for stream, images in config.data.batch.items():
        config.data.batch[stream] = chips * images
    mesh = make_mesh([chips], devices)
    shared = {"networks": build_networks(config, num_classes), "config": config, "optimizer": make_optimizer(config)}
    state = jax.eval_shape(functools.partial(create_state, num_classes=num_classes, **shared))
    batch = random_batches.training_batches(config, num_classes, count=1)[0]

    def placed(sharding: jax.sharding.Sharding, leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(functools.partial(placed, replicated(mesh)), state)
    batch = jax.tree.map(functools.partial(placed, by_image(mesh)), batch)
    step = jax.jit(functools.partial(train_step, **shared, mesh=mesh), donate_argnums=0, out_shardings=replicated(mesh))
    return step.lower(state, batch).compile()


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes that a program needs on a chip: arguments, results of their own, temporaries and code."""
    plan = compiled.memory_analysis()
    return {
        "arguments": plan.argument_size_in_bytes,
        "results": plan.output_size_in_bytes - plan.alias_size_in_bytes,
        "temporaries": plan.temp_size_in_bytes,
        "code": plan.generated_code_size_in_bytes,
    }


def _compile(options: argparse.Namespace, config: ConfigDict, arguments: Sequence[str] | None) -> None:
    compiled = compile_for_tpu(config, options.classes, options.topology, options.chips)
    text = compiled.as_text()
    if options.text:
        options.text.write_text(text)
    costs = compiled.cost_analysis()
    found = {"memory": memory(compiled), "tflop": costs["flops"] / 1e12, "bytes": costs["bytes accessed"]}
    found |= estimates(text)
    about = {
        "command": command.described(__spec__.name, arguments),
        "config": options.config,
        "dtype": config.model.dtype,
        "topology": options.topology,
        "chips": options.chips,
    }
    written = page(about | found)
    print(written)
    if options.page:
        options.page.write_text(written)
    command.write(options.json, about | found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles in a child process, prints a page of figures, and writes what is asked for."""
    parser = command.parser(__doc__)
    parser.add_argument("--topology", default="v5e:2x4", help="chips and how they are connected: %(default)s")
    parser.add_argument("--chips", type=int, default=8, help="how many of them take part: %(default)s")
    parser.add_argument("--page", type=Path, help="file to write the tables to, as Markdown")
    parser.add_argument("--text", type=Path, help="file to write the compiled program to")
    options, config = command.parse(parser, arguments)
    if importlib.util.find_spec("libtpu") is None:
        print('Nothing was compiled: the compiler for TPUs is not installed. Install it with pip install "jax[tpu]".')
        return 0
    if _CHILD in os.environ:
        _compile(options, config, arguments)
        return 0
    given = sys.argv[1:] if arguments is None else arguments
    child = [sys.executable, "-m", __spec__.name, *given]
    code = subprocess.run(child, env=os.environ | _ENVIRONMENT | {_CHILD: "1"}).returncode
    if code:
        print(f"The compiler ended with code {code}: it may not know {options.topology}, or memory ran out.")
    return code


if __name__ == "__main__":
    sys.exit(main())
