"""Measures what it takes to prepare medical images: `python -m benchmarks.speed.medical`.

  python -m benchmarks.speed.medical --polyps=datasets/kvasir_seg_352 --volumes=20

Prepares the copy of Kvasir-SEG, 1,000 pairs of 352x352 pixels, and generated volumes of 240x240x155 voxels in four
sequences, each in a process of its own. Prints processor time of all processes, which other work on the machine hardly
changes, wall time, and the largest resident memory of a process above that of the libraries. All that is written is
temporary.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import brats, polyps
from data.datasets import brats2018
from data.raw import nifti

_SHAPE = (240, 240, 155)  # Voxels of a volume of BraTS.
_BRAIN = 1.45e6  # Voxels of a volume that are not 0, about.


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one line for each set; in a child process, prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polyps", type=Path, help="folder of the copy; default: left out")
    parser.add_argument("--volumes", type=int, default=20, help="patients that are generated: %(default)s")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_prepare(MEASURES[options.measure](options), options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in MEASURES:
            if name == "polyps" and options.polyps is None:
                continue
            if name == "volumes":
                write_volumes(Path(folder) / name, options.volumes)
            child = [sys.executable, "-m", __spec__.name, f"--measure={name}", f"--folder={folder}"]
            child += [f"--polyps={options.polyps}"] if options.polyps else []
            done = subprocess.run(child, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            found = json.loads(done.stdout.splitlines()[-1])
            times = f"{found['processor']:.1f} s of processor time, {found['wall']:.1f} s"
            memory = f"{found['memory'] / 2**20:.0f} MiB above {found['before'] / 2**20:.0f} MiB"
            print(f"{name}: {found['records']} records, {times}, {memory}", flush=True)


def write_volumes(root: Path, count: int) -> None:
    """Writes patients of the training split of the target, with noise, so that the files compress like real ones."""
    x, y, z = (np.arange(length) - length / 2 for length in _SHAPE)
    radius = (_BRAIN / (4 / 3 * np.pi)) ** (1 / 3)
    away = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    made = (f"Brats18_TCIA{number // 600 + 1:02}_{number}_1" for number in range(5000))
    names = [name for name in made if brats2018.split_of(name) == "train"][:count]
    (root / "LGG").mkdir(parents=True)
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        labels = np.where(away < radius / 4, 4, np.where(away < radius / 3, 2, 0)).astype(np.int16)
        for kind in (*brats2018.SEQUENCES, "seg"):
            voxels = labels
            if kind != "seg":
                noisy = 400 + 40 * random.standard_normal(_SHAPE, np.float32) + 30 * labels
                voxels = np.where(away < radius, noisy, 0).astype(np.int16)
            file = root / "HGG" / name / f"{name}_{kind}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nifti.write(file, voxels, nifti.Frame(_SHAPE, ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))))


def _polyps(options: argparse.Namespace) -> ConfigDict:
    config = polyps.get_config("cvc_to_kvasir")
    config.data.target = "kvasir_seg_352"
    config.data.update(target_root=str(options.polyps), directory=str(options.folder / "prepared_polyps"))
    return config


def _volumes(options: argparse.Namespace) -> ConfigDict:
    config = brats.get_config()
    config.data.update(target_root=str(options.folder / "volumes"), directory=str(options.folder / "prepared_volumes"))
    return config


MEASURES = {"polyps": _polyps, "volumes": _volumes}


def _prepare(config: ConfigDict, name: str) -> dict:
    from data.preparation.location import locate_split
    from data.reading.split_builder import open_split_builder

    parts = ("target_train", "target_validation", "target_test") if name == "polyps" else ("target_train",)
    before, begun, used = _peak_memory(), time.perf_counter(), _processor_time()
    records = 0
    for part in parts:
        splits = open_split_builder(locate_split(config.data, part), config.data).info.splits
        records += sum(split.num_examples for split in splits.values())
    return {
        "records": records,
        "processor": _processor_time() - used,
        "wall": time.perf_counter() - begun,
        "before": before,
        "memory": _peak_memory() - before,
    }


def _processor_time() -> float:
    """Returns the seconds of this process and of its ended children."""
    return sum(os.times()[:4])


def _peak_memory() -> int:
    """Returns the largest resident memory of this process or of a child, in bytes."""
    both = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * max(both)


if __name__ == "__main__":
    main()
