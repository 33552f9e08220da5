"""Finds the largest batch that fits into a device's memory, by trial.

  python -m benchmarks.speed.largest --config=configs/gta5.py --config.model.dtype=bfloat16
  python -m benchmarks.speed.largest --framework=torch --config=configs/gta5.py --config.model.dtype=bfloat16

Every stream has the same number of images. It doubles until a step fails; bisection finds the rest. Every trial is a
separate process; successful trials are stored and not repeated. Meant for accelerators: on a CPU, the memory is the
machine's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import command
from benchmarks.common.parts import FOLDER, Part
from data.streams import streams

_LARGEST = 256


def search(fits: Callable[[int], bool], largest: int = _LARGEST) -> int:
    """Returns the largest number that fits: exact up to 8, to an eighth above; 0 if 1 does not fit.

    Args:
      fits: tries a number; if it fits, so do all smaller ones.
      largest: number to try.
    """
    low, high = 0, 1
    while high <= largest and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8) and high <= largest:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the number and the figures of its step, and writes all trials as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--framework", choices=("jax", "torch"), default="jax", help="default: %(default)s")
    parser.add_argument("--setting", default="channels_last+compile", help="of PyTorch: %(default)s")
    parser.add_argument("--folder", type=Path, default=FOLDER / "largest", help="of the trials: %(default)s")
    options, config = command.parse(parser, arguments)
    program = {"jax": ("speed.step", ["--devices=1"]), "torch": ("pytorch.step", [f"--setting={options.setting}"])}
    module, more = program[options.framework]
    case = [f"--config={options.config}", f"--classes={options.classes}", *options.overrides, *more, "--steps=3"]
    trials = {}

    def fits(images: int) -> bool:
        batch = [f"--config.data.batch.{stream}={images}" for stream in streams(config)]
        part = Part(f"{options.framework}_{config.model.dtype}_{images}", module, (*case, *batch), 60.0)
        problem = "" if part.result(options.folder) else part.run(options.folder)
        print(f"{images} images a stream: {problem or 'fit'}", flush=True)
        if not problem:
            trials[images] = part.result(options.folder)
        return not problem

    most = search(fits)
    keys = ("images_per_second", "images_per_step", "seconds", "memory", "tflop_per_second", "share_of_limit")
    sizes = {images: {key: found[key] for key in keys if key in found} for images, found in sorted(trials.items())}
    command.write(
        options.json,
        {
            "framework": options.framework,
            "config": options.config,
            "overrides": options.overrides,
            "dtype": config.model.dtype,
            "setting": options.setting if options.framework == "torch" else "",
            "command": command.described(__spec__.name, arguments),
            "images_per_stream": most,
            "trials": sizes,
        },
    )


if __name__ == "__main__":
    main()
