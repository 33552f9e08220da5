"""Two faults that appear only after many repetitions: interrupted deletions, and leaks of a long run."""

import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.faults.children import Child
from benchmarks.faults.runs import Result, Setting, is_sound

# Saves forever and keeps one checkpoint, so that nearly all of its time goes into writing and deleting.
_SAVER = """
import sys
import jax.numpy as jnp
from ass_jax.checkpoints.manager import Checkpoints
with Checkpoints(sys.argv[1], keep_latest=1) as checkpoints:
    step = checkpoints.latest_intact_step() or 0
    print("ready", flush=True)
    while True:
        step += 1
        checkpoints.save(step, {f"leaf_{n}": jnp.full(50_000, step) for n in range(8)}, {"mIoU": -step}, {})
"""
_EVERY = 100  # Steps between evaluations, and between saves.
_GROWTH = 0.05  # Largest growth of memory.
_SHARE = 0.9  # Smallest share of the time spent training.


def kill_while_deleting(setting: Setting) -> Result:
    """Kills a process that saves and deletes checkpoints all the time, and checks what is left."""
    directory = setting.place.folder / "deleting"
    shutil.rmtree(directory, ignore_errors=True)
    crashes = unsound = 0
    for _ in range(setting.count):
        saver = subprocess.Popen(
            [sys.executable, "-c", _SAVER, str(directory)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        crashes += saver.stdout.readline() != "ready\n"
        time.sleep(setting.draw.uniform(0.2, 1.5))
        saver.kill()
        saver.wait()
        unsound += not is_sound(directory)
    text = f"{setting.count} kills: {crashes} crashes, {unsound} torn checkpoints chosen"
    return text, not (crashes or unsound)


def train_long(setting: Setting, picture: Path) -> Result:
    """Trains for `setting.count` evaluations and saves; watches memory, open files and time."""
    place, name, steps = setting.place, "long", setting.count * _EVERY
    shutil.rmtree(place.folder / name, ignore_errors=True)
    every = [f"--config.{key}.every={_EVERY}" for key in ("evaluation", "checkpoint")]
    child = place.start(name, f"--config.steps={steps}", "--config.log_every=20", *every)
    child.wait_for_step()
    begun, samples = time.monotonic(), []
    while child.is_running and f"step {steps}/" not in child.text:
        samples.append((time.monotonic() - begun, *_usage(child)))
        time.sleep(0.5)
    seconds = time.monotonic() - begun
    code = child.wait()
    if code or len(samples) < 20:
        return f"exit code {code}: {child.text[-300:]}", False
    # The first evaluation and the first saves load libraries that stay loaded.
    settled = [sample for sample in samples if sample[0] > 0.2 * seconds]
    quarter = max(1, len(settled) // 4)
    # Medians, because a save holds files and memory for a moment.
    early, late = _medians(settled[:quarter]), _medians(settled[-quarter:])
    growth, files = late[0] / early[0] - 1, late[1] - early[1]
    share = _training_seconds(place.folder / name) / seconds
    _plot(samples, picture)
    text = (
        f"{steps} steps: memory {100 * growth:+.1f} %, open files {files:+d}, {100 * share:.0f} % of the time training"
    )
    return text, growth < _GROWTH and files <= 0 and share >= _SHARE


def _usage(child: Child) -> tuple[float, int]:
    """Returns the resident memory in MiB and the number of open files of a process."""
    try:
        pages = int(Path(f"/proc/{child.id}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{child.id}/fd"))
    except OSError:
        return 0.0, 0


def _medians(samples: list[tuple[float, float, int]]) -> tuple[float, int]:
    """Returns the medians of memory and open files."""
    _, memory, files = zip(*(sample for sample in samples if sample[1]), strict=True)
    return statistics.median_low(memory), statistics.median_low(files)


def _training_seconds(workdir: Path) -> float:
    """Returns the training time according to the reports of a run, without evaluations and saves."""
    config = json.loads((workdir / "config.json").read_text())
    images = sum(config["data"]["batch"].values())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    reports = [(line["step"], line["images_per_second"]) for line in lines if "images_per_second" in line]
    # Saves report as well, so the distance between reports varies.
    return sum((step - before) * images / speed for (before, _), (step, speed) in itertools.pairwise(reports))


def _plot(samples: list[tuple[float, float, int]], picture: Path) -> None:
    times, memory, files = zip(*samples, strict=True)
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 4), layout="constrained")
    above.plot(times, memory)
    above.set(ylabel="memory in MiB", ylim=(0, None))
    below.plot(times, files)
    below.set(ylabel="open files", xlabel="seconds since the first report", ylim=(0, None))
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def random_source(seed: int, row: int) -> random.Random:
    """Returns the random source of a row, which does not depend on the other rows."""
    return random.Random(f"{seed} {row}")
