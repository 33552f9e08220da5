"""Times the training step written in PyTorch, on the same random images as `benchmarks.speed.step`.

  python -m benchmarks.pytorch.step --config=configs/toy.py:ass --setting=channels_last
  python -m benchmarks.pytorch.step --config=configs/gta5.py --config.model.dtype=bfloat16 \
    --setting=channels_last+compile

Needs PyTorch (`pip install torch`) in addition to the requirements. It uses the first GPU if there is one, with TF32
for float32; on a CPU, it uses as many threads as there are cores.
"""

import os
import time
from collections.abc import Sequence

import torch
from ml_collections import ConfigDict

from benchmarks.common import command, machine, random_batches, timing, turns
from benchmarks.pytorch.training import PLAIN, TRANSFORMS, Setting, Training


class Runner:
    """A training step that is ready to run.

    Attributes:
      training: see `Training`.
      images_per_step: of all streams.
    """

    def __init__(self, config: ConfigDict, num_classes: int, setting: str):
        """Builds everything and sets the fastest options of PyTorch."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            # As XLA does. Without it, steps on random images can take 1.4 times as long. Threads inherit the mode from
            # the thread that starts them, so it must be set first.
            torch.set_flush_denormal(True)
            torch.set_num_threads(len(machine.usable_cores()))
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(config.seed)
        self.training = Training(config, num_classes, Setting.parse(setting), device)
        batches = random_batches.training_batches(config, num_classes)
        self.images_per_step = random_batches.images_per_step(batches[0])
        self._batches = [self.training.place(batch) for batch in batches]

    def run(self, steps: int) -> float:
        """Runs a number of steps and returns the seconds until the last one is done."""
        begun = time.perf_counter()
        for number in range(steps):
            self.training.step(self._batches[number % len(self._batches)])
        if self.training.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def memory(self) -> dict:
        """Returns the peak bytes of the `device` (None on a CPU) and of the `process`."""
        on_gpu = self.training.device.type == "cuda"
        return {"device": torch.cuda.max_memory_allocated() if on_gpu else None, "process": timing.peak_rss()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures, writes them as JSON, or serves steps to another program."""
    parser = command.parser(__doc__)
    parser.add_argument("--setting", default=PLAIN, help=f"{PLAIN}, or of {', '.join(TRANSFORMS)} joined by +")
    parser.add_argument("--steps", type=int, default=10, help="samples to time: %(default)s")
    parser.add_argument("--serve", action="store_true", help="run steps on demand: see benchmarks.common.turns")
    options, config = command.parse(parser, arguments)
    runner = Runner(config, options.classes, options.setting)
    begun = time.perf_counter()
    runner.run(1)  # Compiles.
    facts = {
        "framework": "torch",
        "config": options.config,
        "overrides": options.overrides,
        "classes": options.classes,
        "dtype": config.model.dtype,
        "setting": options.setting,
        "command": command.described(__spec__.name, arguments),
        "images_per_step": runner.images_per_step,
        "first_step_seconds": time.perf_counter() - begun,
        "machine": describe(runner.training.device),
    }
    if options.serve:
        turns.serve(runner.run, facts | {"memory": runner.memory()})
        return
    seconds = timing.step_seconds(runner.run, options.steps)
    rate = runner.images_per_step / seconds["median"]
    result = facts | {"seconds": seconds, "images_per_second": rate, "memory": runner.memory()}
    print(
        f"PyTorch, {options.config}, {config.model.dtype}, {options.setting}: step {1000 * seconds['median']:.1f} ms "
        f"(quartiles {1000 * seconds['lower']:.1f} to {1000 * seconds['upper']:.1f}), {rate:.2f} images/s"
    )
    command.write(options.json, result)


def describe(device: torch.device) -> dict:
    """Returns the facts of `benchmarks.common.machine`, with PyTorch's version added."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = machine.describe(os.environ, f"1 {kind}")
    return facts | {"packages": facts["packages"] | {"torch": torch.__version__}}


if __name__ == "__main__":
    main()
