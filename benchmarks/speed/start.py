"""Times the start of training: from the command to the end of the first step, with and without compiled programs.

  python -m benchmarks.speed.start
  python -m benchmarks.speed.start --config=configs/toy.py --config.model.backbone=resnet101

Every start is a process of `main.py` on generated images, in a working directory that is new (compiles) or that holds
the compiled programs of an earlier run, as when training resumes. Needs TensorFlow.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ass_jax.runtime.workdir import CHECKPOINTS
from benchmarks.common import command, machine, timing
from benchmarks.common.parts import ROOT

# The first step is reported at once; nothing else is needed.
_SETTINGS = ("--config.steps=100000", "--config.log_every=1", "--config.evaluation.every=0")
_FIRST = "step 1/"


def first_step_seconds(arguments: Sequence[str], workdir: Path) -> float:
    """Starts a training run, ends it after its first step, and returns the seconds until that step was reported.

    Raises:
      RuntimeError: it ended before its first step.
    """
    line = [sys.executable, "main.py", *arguments, *_SETTINGS, f"--workdir={workdir}"]
    # With a shared folder of compiled programs, no run would be new.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    begun, lines = time.monotonic(), []
    with subprocess.Popen(line, cwd=ROOT, env=environment, **pipes) as process:
        try:
            for text in process.stdout:
                lines.append(text)
                if text.startswith(_FIRST):
                    return time.monotonic() - begun
        finally:
            process.kill()
    raise RuntimeError("Training ended before its first step:\n" + "".join(lines[-15:]))


def help_seconds(arguments: Sequence[str]) -> float:
    """Returns the seconds that `main.py --help` takes."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "main.py", *arguments, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures and writes them as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind: %(default)s")
    parser.add_argument("--data", type=Path, default=Path("runs/bench/data"), help="of generated images: %(default)s")
    options, config = command.parse(parser, arguments)
    given = [f"--config={options.config}", *options.overrides, f"--config.data.directory={options.data.resolve()}"]
    seconds = {"help": [], "compiling": [], "kept": []}
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        first_step_seconds(given, workdir)  # Generates the images if they do not exist yet.
        for _ in range(options.rounds):
            shutil.rmtree(workdir)
            seconds["help"].append(help_seconds(given))
            seconds["compiling"].append(first_step_seconds(given, workdir))
            shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
            seconds["kept"].append(first_step_seconds(given, workdir))
    found = {name: timing.spread(values) for name, values in seconds.items()}
    help_, compiling, kept = (found[name]["median"] for name in seconds)
    print(f"--help {help_:.2f} s; to the first step {compiling:.1f} s, with compiled programs {kept:.1f} s")
    result = {"config": options.config, "overrides": options.overrides, "backbone": config.model.backbone}
    about = {"command": command.described(__spec__.name, arguments), "machine": machine.describe(os.environ)}
    command.write(options.json, result | found | about)


if __name__ == "__main__":
    main()
