"""Times evaluation and prediction of a configuration's segmenter, with random weights on random images.

  python -m benchmarks.speed.evaluation --config=configs/toy.py
  python -m benchmarks.speed.evaluation --config=configs/gta5.py --config.evaluation.flip --config.model.dtype=bfloat16
  python -m benchmarks.speed.evaluation --config=configs/gta5.py --config.evaluation.window="(512,512)"

A batch has `evaluation.batch` images of `data.target_size`; predictions have the size of the label files.
"""

import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ass_jax.evaluation.evaluate import make_evaluation_step
from ass_jax.method import views
from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks
from ass_jax.runtime.sharding import global_batch, make_mesh, replicated
from benchmarks.common import command, machine, random_batches, timing
from benchmarks.speed import step


def label_size(config: ConfigDict) -> tuple[int, int]:
    """Returns height and width of the target's label files where known, else those of its images."""
    return tuple(config.evaluation.test_size if config.data.target == "cityscapes" else config.data.target_size)


def measure(config: ConfigDict, num_classes: int, size: tuple[int, int], samples: int) -> dict:
    """Returns, for "evaluation" and "prediction", seconds of a batch, images/s, and seconds to compile.

    Evaluation also counts pixels by class and prediction. Both include the transfer of the images to the device.
    """
    networks = build_networks(config, num_classes)
    mesh = make_mesh([config.evaluation.batch])
    shapes = abstract_segmenter(networks, config)
    # The time does not depend on the values.
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)
    variables = jax.device_put(variables, replicated(mesh))
    generator = np.random.default_rng(config.seed)
    labels = random_batches.labels(generator, config.evaluation.batch, size, num_classes)
    valid = np.ones(len(labels), bool)
    images = random_batches.evaluation_images(config)
    batches = [{"image": each, "label": labels, "valid": valid} for each in images]
    first = global_batch(batches[0], mesh)
    score_images = functools.partial(views.scores_step, networks=networks, config=config)
    predict = jax.jit(lambda variables, batch: views.labels(score_images(variables, batch["image"]), size))
    memory = step.memory(predict.lower(variables, first).compile(), mesh)  # The comparison with labels needs less.
    found = {}
    for name, program in {"evaluation": make_evaluation_step(networks, config, mesh), "prediction": predict}.items():
        run = functools.partial(_run, program, variables, batches, mesh)
        first_seconds = run(1)
        seconds = timing.step_seconds(run, samples)
        found[name] = {
            "seconds": seconds,
            "images_per_second": config.evaluation.batch / seconds["median"],
            "compile_seconds": max(0.0, first_seconds - seconds["median"]),
            "memory": memory,
        }
    return found | {"mesh": mesh}


def _run(program: Callable, variables: dict, batches: list[dict], mesh: jax.sharding.Mesh, count: int) -> float:
    begun = time.perf_counter()
    for number in range(count):
        found = program(variables, global_batch(batches[number % len(batches)], mesh))
    jax.block_until_ready(found)
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures and writes them as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--label_size", default="", help="HEIGHT,WIDTH of the labels; default: the target's")
    parser.add_argument("--steps", type=int, default=10, help="samples to time: %(default)s")
    options, config = command.parse(parser, arguments)
    size = tuple(map(int, options.label_size.split(","))) if options.label_size else label_size(config)
    found = measure(config, options.classes, size, options.steps)
    settings = config.evaluation
    result = step.about(options, config, found.pop("mesh")) | {
        "command": command.described(__spec__.name, arguments),
        "batch": settings.batch,
        "image_size": list(config.data.target_size),
        "label_size": list(size),
        "views": {key: settings[key] for key in ("scales", "flip", "window", "stride")},
    }
    result |= found
    print(
        f"{options.config}: {settings.batch} image(s) {config.data.target_size} to labels {size}, {config.model.dtype}"
    )
    for name, figures in found.items():
        seconds = figures["seconds"]
        print(
            f"  {name}: {figures['images_per_second']:.2f} images/s; a batch {1000 * seconds['median']:.1f} ms "
            f"(quartiles {1000 * seconds['lower']:.1f} to {1000 * seconds['upper']:.1f}); "
            f"compiled in {figures['compile_seconds']:.1f} s"
        )
    print(f"  {machine.describe_in_words(result['machine'])}")
    command.write(options.json, result)


if __name__ == "__main__":
    main()
