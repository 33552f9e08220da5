"""Times the training step of a configuration on random images.

  python -m benchmarks.speed.step --config=configs/toy.py:ass
  python -m benchmarks.speed.step --config=configs/gta5.py --config.model.dtype=bfloat16 --profile=runs/profile
  python -m benchmarks.speed.step --config=configs/toy.py --devices=2 --json=runs/step.json

Any setting can be changed with `--config.KEY=VALUE`, including image sizes (`data.source_size`, `data.target_size`) and
batch sizes (`data.batch`). The state is built and the step compiled as in training; batches are on the device.
"""

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, create_state
from ass_jax.method.train_step import PASSES, train_step
from ass_jax.models import build_networks
from ass_jax.runtime import allocator, compilation
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from benchmarks.common import command, limits, machine, random_batches, timing, turns
from benchmarks.speed import work

_PROFILED = 3  # Steps: more make a profile slow to open.


class Training:
    """A training step that is ready to run.

    Attributes:
      networks: see `ass_jax.models.Networks`.
      batches: on the devices; steps cycle through them.
      state: after the last step.
      mesh: of the devices.
      compiled: the step.
      compile_seconds: time to trace and compile it.
      metrics: of the last step.
    """

    def __init__(self, config: ConfigDict, num_classes: int, devices: int = 0):
        """Builds everything.

        Args:
          config: the whole configuration.
          num_classes: C.
          devices: number of devices to use; 0: all that JAX finds.
        """
        allocator.keep_memory()
        self.networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
        batches = random_batches.training_batches(config, num_classes)
        counts = [len(examples["image"]) for examples in batches[0].values()]
        self.mesh = make_mesh(counts, jax.devices()[: devices or None])
        if devices and self.mesh.size != devices:
            raise ValueError(f"{devices} devices do not divide {counts} images a step, or JAX finds fewer devices.")
        self.state = initial_state(config, num_classes, self.mesh)
        self.batches = [global_batch(batch, self.mesh) for batch in batches]
        begun = time.perf_counter()
        shared = {"networks": self.networks, "config": config, "optimizer": optimizer, "mesh": self.mesh}
        step = jax.jit(functools.partial(train_step, **shared), donate_argnums=0, out_shardings=replicated(self.mesh))
        lowered = step.lower(self.state, self.batches[0])
        self.compiled = lowered.compile(compiler_options=compilation.options_of_steps())
        self.compile_seconds = time.perf_counter() - begun
        self.metrics = None

    def run(self, steps: int) -> float:
        """Runs a number of steps and returns the seconds until the last one is done."""
        begun = time.perf_counter()
        for number in range(steps):
            self.state, self.metrics = self.compiled(self.state, self.batches[number % len(self.batches)])
        jax.block_until_ready((self.state, self.metrics))
        return time.perf_counter() - begun


def initial_state(config: ConfigDict, num_classes: int, mesh: Mesh) -> TrainState:
    """Returns random weights on the devices, as training draws them."""
    initialise = functools.partial(
        create_state,
        networks=build_networks(config, num_classes),
        optimizer=make_optimizer(config),
        config=config,
        num_classes=num_classes,
    )
    once = compilation.options_of_one_use()
    return jax.jit(initialise, out_shardings=replicated(mesh), compiler_options=once)()


def measure(training: Training, config: ConfigDict, samples: int) -> dict:
    """Returns all figures of a step as JSON-able values; see `docs/results/performance.md` for what they mean."""
    seconds, known = timing.step_seconds(training.run, samples), work_and_limit(training, config)
    images, speed = random_batches.images_per_step(training.batches[0]), known["tflop"] / seconds["median"]
    return known | {
        "seconds": seconds,
        "images_per_second": images / seconds["median"],
        "tflop_per_second": speed,
        "share_of_limit": speed / known["limit_tflop_per_second"],
        "memory": memory(training.compiled, training.mesh),
    }


def work_and_limit(training: Training, config: ConfigDict) -> dict:
    """Returns what is known about a step without timing it, and the measured speed of the matrix product."""
    batch, devices = training.batches[0], training.mesh.size
    return {
        "streams": sizes(batch),
        "images_per_step": random_batches.images_per_step(batch),
        "steps_of_run": config.steps,
        "compile_seconds": training.compile_seconds,
        "tflop": work.training_flop(training.networks, batch, config.teacher.mixed_weight > 0) / 1e12,
        "tflop_by_compiler": (work.compiled_flop(training.compiled) or 0.0) * devices / 1e12 or None,
        "limit_tflop_per_second": limits.product_tflops(config.model.dtype) * physical_devices(training.mesh),
    }


def sizes(batch: dict) -> dict[str, list[int]]:
    """Returns images, height and width of every stream."""
    return {stream: list(batch[stream]["image"].shape[:3]) for stream in PASSES if stream in batch}


def physical_devices(mesh: Mesh) -> int:
    """Counts the devices of a mesh; those of a CPU share its cores and count as one."""
    return 1 if jax.default_backend() == "cpu" else mesh.size


def memory(compiled: jax.stages.Compiled, mesh: Mesh) -> dict:
    """Returns bytes: `compiled`, planned by the compiler for a device; `device` and `process`, their peaks.

    The plan counts arguments, results and temporaries; memory that a result shares with an argument counts once.
    `device` is None if the device keeps no count; a CPU uses the memory of the process.
    """
    plan = compiled.memory_analysis()
    planned = None
    if plan is not None:
        planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        planned -= plan.alias_size_in_bytes
    counts = mesh.devices.flat[0].memory_stats() or {}
    return {"compiled": planned, "device": counts.get("peak_bytes_in_use"), "process": timing.peak_rss()}


def use_devices(count: int) -> None:
    """Splits a CPU into virtual devices; must be called before JAX initialises its devices."""
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def about(options: object, config: ConfigDict, mesh: Mesh) -> dict:
    """Returns what a result describes: configuration, devices and machine."""
    kind = mesh.devices.flat[0].device_kind
    return {
        "framework": "jax",
        "config": options.config,
        "overrides": options.overrides,
        "backbone": config.model.backbone,
        "classes": options.classes,
        "dtype": config.model.dtype,
        "platform": jax.default_backend(),
        "devices": mesh.size,
        "machine": machine.describe(os.environ, f"{mesh.size} {kind}"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures, writes them as JSON, or serves steps to another program."""
    parser = command.parser(__doc__)
    parser.add_argument("--devices", type=int, default=0, help="number of devices; on a CPU they share its cores")
    parser.add_argument("--steps", type=int, default=10, help="samples to time: %(default)s")
    parser.add_argument("--profile", type=Path, help="folder for a profile of some steps (TensorBoard, Perfetto)")
    parser.add_argument("--serve", action="store_true", help="run steps on demand: see benchmarks.common.turns")
    options, config = command.parse(parser, arguments)
    use_devices(options.devices)
    training = Training(config, options.classes, options.devices)
    facts = about(options, config, training.mesh) | {"command": command.described(__spec__.name, arguments)}
    if options.serve:
        training.run(1)
        facts |= work_and_limit(training, config) | {"memory": memory(training.compiled, training.mesh)}
        turns.serve(training.run, facts)
        return
    result = facts | measure(training, config, options.steps)
    if options.profile:
        with jax.profiler.trace(str(options.profile)):
            training.run(_PROFILED)
    print(summary(result))
    command.write(options.json, result)


def summary(result: dict) -> str:
    """Formats the figures of `measure` in a few lines."""
    seconds, used = result["seconds"], result["memory"]
    streams = ", ".join(
        f"{count} {name} {height}x{width}" for name, (count, height, width) in result["streams"].items()
    )
    held = used["device"] or used["compiled"] or used["process"]
    return (
        f"{result['config']}: {result['backbone']}, {result['dtype']}, {result['classes']} classes, {streams}; "
        f"devices: {result['devices']} ({result['platform']})\n"
        f"  step {1000 * seconds['median']:.1f} ms (quartiles {1000 * seconds['lower']:.1f} to "
        f"{1000 * seconds['upper']:.1f}, {seconds['samples']} samples), {result['images_per_second']:.2f} images/s; "
        f"compiled in {result['compile_seconds']:.1f} s\n"
        f"  {result['tflop']:.3f} TFLOP a step (the compiler counts {result['tflop_by_compiler'] or 0:.3f}), "
        f"{result['tflop_per_second']:.3f} TFLOP/s, {result['share_of_limit']:.0%} of the {result['dtype']} matrix "
        f"product's {result['limit_tflop_per_second']:.3f}\n"
        f"  memory {held / 2**30:.2f} GiB on a device, process at most {used['process'] / 2**30:.2f} GiB\n"
        f"  {machine.describe_in_words(result['machine'])}"
    )


if __name__ == "__main__":
    main()
