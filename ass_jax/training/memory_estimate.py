"""What device memory a training step takes, by calculation: the step is compiled for shapes, and nothing is run."""

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

CARDS = (16, 24, 80)  # GB of the memories for which the largest batch is told.
_GB = 1e9
_USABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # Share of a GPU's memory that JAX takes for its programs, 0.75 if unset.
_REMEDIES = (
    "fewer images per step (data.batch.*), smaller ones (data.source_size, data.target_size or augment.crop), "
    "model.remat, or model.dtype=bfloat16 on a GPU or TPU"
)

Sizes = dict[str, tuple[int, int, int, bool]]  # By stream: images, height, width, whether there are labels.


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a step takes on one device.

    Attributes:
      fixed: whatever the number of images.
      per_batch: for the images of the configuration's own batch.
    """

    fixed: float
    per_batch: float

    @property
    def bytes(self) -> float:
        """Of the configuration's own batch."""
        return self.fixed + self.per_batch

    def largest_factor(self, memory: float) -> float:
        """Returns by what the images of a step may be multiplied to fit into so many bytes; below 1: they do not."""
        return (memory - self.fixed) / self.per_batch


def program_bytes(compiled: jax.stages.Compiled, batch: dict) -> float | None:
    """Returns the bytes that a compiled step and the batch sent ahead take on a device; None if it is not known.

    Args:
      compiled: the training step.
      batch: its second argument, or the shapes of it.
    """
    found = compiled.memory_analysis()
    if found is None:
        return None
    own = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    devices = max(1, len({device for leaf in jax.tree.leaves(batch) for device in _devices_of(leaf)}))
    ahead = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch)) / devices
    return own - found.alias_size_in_bytes + ahead


def calculate(config: ConfigDict, num_classes: int, sizes: Sizes) -> Need:
    """Compiles the training step for one device twice, for the batch and for twice its images.

    Args:
      config: the whole configuration.
      num_classes: C.
      sizes: of the streams of a step.

    Raises:
      RuntimeError: the backend does not tell the memory of its programs.
    """
    found = [_bytes_of_step(config, num_classes, sizes, factor) for factor in (1, 2)]
    if None in found:
        raise RuntimeError(f"the backend {jax.default_backend()!r} does not tell the memory of its programs")
    return Need(fixed=2 * found[0] - found[1], per_batch=found[1] - found[0])


def lines(config: ConfigDict, num_classes: int, sizes: Sizes) -> list[str]:
    """Tells what a training step takes on one device, the largest batches for `CARDS`, and what is too much here.

    Args:
      config: the whole configuration.
      num_classes: C.
      sizes: of the streams of a step.
    """
    need, platform = calculate(config, num_classes, sizes), jax.default_backend()
    images = " + ".join(f"{count} {stream}" for stream, (count, *_) in sizes.items())
    share = float(os.environ.get(_USABLE, 0.75)) if platform == "gpu" else 1.0
    largest = [f"{card} GB: {_scaled(sizes, need.largest_factor(card * _GB * share))}" for card in CARDS]
    told = [
        f"A training step of {images} images needs about {gigabytes(need.bytes)}.",
        f"Largest batch at these sizes ({' + '.join(sizes)}): {'; '.join(largest)}.",
    ]
    if platform == "gpu":
        told.append(f"JAX takes {share:.0%} of a GPU's memory ({_USABLE} changes it); the batches fit into that.")
    told.append(f"Calculated from the program for this machine's {platform}; other devices need other amounts.")
    return [*told, *filter(None, [warning(need.bytes)])]


def warning(needed: float) -> str | None:
    """Returns what to do if so many bytes are more than the first device has; None if they fit, or none are known."""
    limit = device_bytes()
    if limit is None or needed <= limit:
        return None
    return (
        f"A training step needs about {gigabytes(needed)}, but the {jax.devices()[0].platform} device has "
        f"{gigabytes(limit)}: the run would most likely fail. Take {_REMEDIES}."
    )


def device_bytes() -> int | None:
    """Returns the memory that programs may use on the first device: on a CPU, all of the machine's."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (device.memory_stats() or {}).get("bytes_limit")


def gigabytes(count: float) -> str:
    """Formats bytes as `12.3 GB`, and little ones as `0.04 GB`."""
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / _GB:.2f} GB"


def _bytes_of_step(config: ConfigDict, num_classes: int, sizes: Sizes, factor: int) -> float | None:
    networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
    shared = {"networks": networks, "config": config, "optimizer": optimizer}
    state = jax.eval_shape(functools.partial(create_state, num_classes=num_classes, **shared))
    batch = _batch(sizes, factor)
    step = jax.jit(functools.partial(train_step, **shared), donate_argnums=0).lower(state, batch)
    return program_bytes(step.compile(compiler_options=_options()), batch)


def _options() -> dict | None:
    """As for training, but in a hurry: the memory of a CPU's program does not depend on LLVM's level."""
    options = compilation.options_of_steps()
    return options and options | compilation.options_of_one_use()


def _batch(sizes: Sizes, factor: int) -> dict:
    batch = {}
    for stream, (count, height, width, has_label) in sizes.items():
        shape = (count * factor, height, width)
        batch[stream] = {"image": jax.ShapeDtypeStruct((*shape, 3), np.uint8)}
        if has_label:
            batch[stream]["label"] = jax.ShapeDtypeStruct(shape, np.uint8)
    return batch


def _scaled(sizes: Sizes, factor: float) -> str:
    """Returns the images of each stream in the configuration's proportions, such as `4 + 2 + 2`."""
    smallest = np.gcd.reduce([count for count, *_ in sizes.values()])
    times = int(factor * smallest)
    return " + ".join(str(count // smallest * times) for count, *_ in sizes.values()) if times > 0 else "none"


def _devices_of(leaf: object) -> set:
    return leaf.sharding.device_set if isinstance(leaf, jax.Array) else set()
