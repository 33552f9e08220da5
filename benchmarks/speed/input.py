"""Measures the input pipeline: its speed relative to the decoder's, and the share that the training step hides.

  python -m benchmarks.speed.input
  python -m benchmarks.speed.input --part=loading --config=configs/toy.py

Records: scenes of the sizes of GTA5 and Cityscapes, prepared at the paper's sizes, decoded and augmented in separate
processes on one core and on all. Loading: the training loop, in turns with the batches of the pipeline and with one
batch over and over. Needs TensorFlow.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ass_jax.runtime.sharding import global_batch
from benchmarks.common import command, machine, timing
from benchmarks.speed import preparation, step

PARTS = ("records", "loading")
_MEASURES = {"reading": "as in the paper, not augmented", "augmented": "flipped, scaled, colours jittered"}


def records(options: argparse.Namespace) -> list[dict]:
    """Returns a row for each dataset, number of cores and augmentation: pairs/s, also of the decoder alone."""
    found = []
    counts = sorted({1, len(machine.usable_cores())})
    with tempfile.TemporaryDirectory() as folder:
        for name, (_, _, size) in preparation.SETS.items():
            preparation.write_tree(Path(folder) / name, name, options.pairs)
            for cores in counts:
                for measure, what in _MEASURES.items():
                    rates = preparation.measure_apart(options, measure, name, str(cores), folder)
                    row = {"set": name, "size": list(size), "cores": cores, "augmentation": what}
                    row |= rates | {"rate_per_core": rates["rate"] / cores, "share": rates["rate"] / rates["decoder"]}
                    print(
                        f"{name} {size[0]}x{size[1]}, {cores} core(s), {what}: {row['rate']:.1f} pairs/s, "
                        f"{row['share']:.0%} of the decoder's {row['decoder']:.1f}",
                        flush=True,
                    )
                    found.append(row)
    return found


def loading(config: ConfigDict, num_classes: int, steps: int, rounds: int) -> dict:
    """Returns the spread of a step's seconds with one batch (`constant`) and with loaded batches (`loaded`).

    `alone` is loading without a step. `share` is the time that loading adds, as a share of the loaded step; `hidden` is
    the share of loading that the step hides. Both are computed for each round.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from data import pipeline

    training = step.Training(config, num_classes)
    batches = pipeline.training_batches(config)
    ways = {
        "alone": lambda: _load(training, batches, steps),
        "constant": lambda: training.run(steps),
        "loaded": lambda: _train(training, batches, steps),
    }
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            found = way() / steps
            if number:  # The first round warms up.
                seconds[name].append(found)
    rows = list(zip(*(seconds[name] for name in ways), strict=True))
    result = {name: timing.spread(values) for name, values in seconds.items()}
    result["share"] = timing.spread([(loaded - constant) / loaded for _, constant, loaded in rows])
    result["hidden"] = timing.spread([1 - (loaded - constant) / alone for alone, constant, loaded in rows])
    return result | {"steps_per_round": steps}


def _load(training: step.Training, batches: Iterator, steps: int) -> float:
    """Loads batches onto the devices and returns the seconds."""
    begun = time.perf_counter()
    for _ in range(steps):
        batch = global_batch(next(batches), training.mesh)
    for examples in batch.values():
        examples["image"].block_until_ready()
    return time.perf_counter() - begun


def _train(training: step.Training, batches: Iterator, steps: int) -> float:
    """Runs steps on loaded batches as the training loop does, and returns the seconds."""
    batch = global_batch(next(batches), training.mesh)
    begun = time.perf_counter()
    for _ in range(steps):
        training.state, training.metrics = training.compiled(training.state, batch)
        batch = global_batch(next(batches), training.mesh)  # While the devices work.
    training.state.step.block_until_ready()
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures and writes them as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--part", choices=PARTS, help="default: both")
    parser.add_argument("--pairs", type=int, default=32, help="files of each dataset: %(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of reading: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="of the loop in each round: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of the loop: %(default)s")
    parser.add_argument("--data", default="runs/bench/data", help="folder of the loop's data: %(default)s")
    options, config = command.parse(parser, arguments)
    result = {
        "config": options.config,
        "overrides": options.overrides,
        "command": command.described(__spec__.name, arguments),
        "machine": machine.describe(os.environ),
    }
    if options.part in (None, "records"):
        result["records"] = records(options)
    if options.part in (None, "loading"):
        config.data.directory = config.data.directory or options.data
        found = result["loading"] = loading(config, options.classes, options.steps, options.rounds)
        constant, loaded, alone = (1000 * found[name]["median"] for name in ("constant", "loaded", "alone"))
        print(
            f"{options.config}: a step {constant:.1f} ms with one batch, {loaded:.1f} ms with loading, "
            f"{found['share']['median']:.1%} of the step; loading alone {alone:.1f} ms"
        )
    command.write(options.json, result)


if __name__ == "__main__":
    main()
