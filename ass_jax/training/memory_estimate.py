"""Device memory of a training step, calculated from the step compiled for shapes alone: nothing runs."""

import dataclasses
import functools
import os

import jax
import numpy as np
from ml_collections import ConfigDict

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.runtime import compilation

CARDS = (16, 24, 80)  # GB of memory for which the largest batch is reported.
_GB = 1e9
_USABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # Share of a GPU's memory that JAX uses; default 0.75.
_REMEDIES = (
    "fewer images per step (data.batch.*), smaller ones (data.source_size, data.target_size or augment.crop), "
    "model.remat, or model.dtype=bfloat16 on a GPU or TPU"
)

Sizes = dict[str, tuple[int, int, int, bool]]  # By stream: images, height, width, whether there are labels.


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a step needs on one device.

    Attributes:
      fixed: for any number of images.
      per_batch: for the images of the configured batch.
    """

    fixed: float
    per_batch: float

    @property
    def bytes(self) -> float:
        """Bytes for the configured batch."""
        return self.fixed + self.per_batch

    def largest_factor(self, memory: float) -> float:
        """Returns the factor by which the batch can grow to fill `memory` bytes; below 1, it does not fit."""
        return (memory - self.fixed) / self.per_batch


def program_bytes(compiled: jax.stages.Compiled, batch: dict) -> float | None:
    """Returns the bytes that a compiled step and the next batch need on a device; None if unknown.

    Args:
      compiled: the training step.
      batch: its second argument, or its shapes.
    """
    found = compiled.memory_analysis()
    if found is None:
        return None
    own = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    own += found.generated_code_size_in_bytes  # A gigabyte for the paper's step on a TPU.
    devices = max(1, len({device for leaf in jax.tree.leaves(batch) for device in _devices_of(leaf)}))
    ahead = _bytes_of(batch) / devices
    return own - found.alias_size_in_bytes + ahead


def compile_step(config: ConfigDict, num_classes: int, sizes: Sizes) -> jax.stages.Compiled:
    """Compiles the training step for one device, as training does.

    Args:
      config: the whole configuration.
      num_classes: C.
      sizes: of the streams of a step.
    """
    networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
    shared = {"networks": networks, "config": config, "optimizer": optimizer}
    state = jax.eval_shape(functools.partial(create_state, num_classes=num_classes, **shared))
    step = jax.jit(functools.partial(train_step, **shared), donate_argnums=0).lower(state, _batch(sizes))
    return step.compile(compiler_options=compilation.options_of_steps())


def calculate(step: jax.stages.Compiled, sizes: Sizes) -> Need:
    """Parts the memory of a step: state, gradients and the program itself do not depend on the images.

    Other memory counts as that of images: of a network with few or small images, more of them fit than is said.

    Args:
      step: of `compile_step`.
      sizes: of the streams of a step.

    Raises:
      RuntimeError: the backend does not report the memory of its programs.
    """
    needed, found = program_bytes(step, _batch(sizes)), step.memory_analysis()
    if needed is None or found is None:
        raise RuntimeError(f"the backend {jax.default_backend()!r} does not report the memory of its programs")
    state, _ = step.in_avals[0]
    # Gradients are as large as the weights.
    fixed = found.generated_code_size_in_bytes + _bytes_of(state) + _bytes_of(state.params)
    return Need(fixed=fixed, per_batch=needed - fixed)


def report_lines(step: jax.stages.Compiled, sizes: Sizes) -> list[str]:
    """Returns lines on the memory of a training step, the largest batches for `CARDS`, and a lack of memory here.

    Args:
      step: of `compile_step`.
      sizes: of the streams of a step.
    """
    need, platform = calculate(step, sizes), jax.default_backend()
    images = " + ".join(f"{count} {stream}" for stream, (count, *_) in sizes.items())
    share = float(os.environ.get(_USABLE, 0.75)) if platform == "gpu" else 1.0
    largest = [f"{card} GB: {_scaled(sizes, need.largest_factor(card * _GB * share))}" for card in CARDS]
    lines = [
        f"A training step of {images} images needs about {gigabytes(need.bytes)}.",
        f"Largest batch at these sizes ({' + '.join(sizes)}): {'; '.join(largest)}.",
    ]
    if platform == "gpu":
        lines.append(f"JAX uses {share:.0%} of a GPU's memory ({_USABLE} changes it); the batches fit into that.")
    lines.append(f"Calculated from the program for this machine's {platform}; other devices need other amounts.")
    return [*lines, *filter(None, [warning(need.bytes)])]


def warning(needed: float) -> str | None:
    """Returns a warning if the first device has less than `needed` bytes; None if they fit, or if it is unknown."""
    limit = device_bytes()
    if limit is None or needed <= limit:
        return None
    return (
        f"A training step needs about {gigabytes(needed)}, but the {jax.devices()[0].platform} device has "
        f"{gigabytes(limit)}: the run would most likely fail. Use {_REMEDIES}."
    )


def device_bytes() -> int | None:
    """Returns the bytes that programs may use on the first device (on a CPU, all of the machine's); None if unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (device.memory_stats() or {}).get("bytes_limit")


def gigabytes(count: float) -> str:
    """Formats bytes as `12.3 GB`, and less than 1 GB as `0.04 GB`."""
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / _GB:.2f} GB"


def _bytes_of(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _batch(sizes: Sizes) -> dict:
    batch = {}
    for stream, (count, height, width, has_label) in sizes.items():
        shape = (count, height, width)
        batch[stream] = {"image": jax.ShapeDtypeStruct((*shape, 3), np.uint8)}
        if has_label:
            batch[stream]["label"] = jax.ShapeDtypeStruct(shape, np.uint8)
    return batch


def _scaled(sizes: Sizes, factor: float) -> str:
    """Returns the images of each stream in the configured proportions, such as `4 + 2 + 2`."""
    smallest = np.gcd.reduce([count for count, *_ in sizes.values()])
    times = int(factor * smallest)
    return " + ".join(str(count // smallest * times) for count, *_ in sizes.values()) if times > 0 else "none"


def _devices_of(leaf: object) -> set:
    return leaf.sharding.device_set if isinstance(leaf, jax.Array) else set()
