"""Measures how fast real datasets are prepared and read: `python -m benchmarks.speed.preparation`.

  python -m benchmarks.speed.preparation --pairs=64 --seconds=20 --cores=1,2

Scenes of the sizes of GTA5 and Cityscapes, with noise so that they compress like photos, are prepared at the training
sizes and read through the training pipeline. Reading is compared with the PNG decoder alone on the same records. Every
figure comes from a separate process on a fixed number of cores. All files are temporary.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from configs import base
from data.classes import class_table
from data.datasets.registry import SPECS
from data.toy.scenes import render

# Data set -> domain, size of the files, training size.
SETS = {
    "gta5": ("source", (1052, 1914), (720, 1280)),
    "cityscapes": ("target", (1024, 2048), (512, 1024)),
}
_SCENES = 8  # Rendered; the other files are copies under other names.
_NOISE = 3.0  # Standard deviation in grey values.


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one line for each figure; in a child process, prints the figure as JSON."""
    options = _parse(arguments)
    if options.measure:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(options.cores)])
        print(json.dumps(MEASURES[options.measure](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in SETS:
            write_tree(Path(folder) / name, name, options.pairs)
        for cores in options.cores.split(","):
            for name, (_, own, size) in SETS.items():
                where = f"{name}, {cores} core(s)"
                rate = measure_apart(options, "preparation", name, cores, folder)["rate"]
                print(f"{where}: preparation {own[1]}x{own[0]} to {size[1]}x{size[0]}: {rate:.1f} pairs/s", flush=True)
                found = measure_apart(options, "reading", name, cores, folder)
                share = found["rate"] / found["decoder"]
                print(
                    f"{where}: reading {size[1]}x{size[0]}: {found['rate']:.1f} pairs/s; the decoder alone "
                    f"{found['decoder']:.1f} pairs/s, so {share:.0%} of it",
                    flush=True,
                )
                found = measure_apart(options, "full_size", name, cores, folder)
                print(
                    f"{where}: reading {own[1]}x{own[0]}: {found['rate']:.1f} pairs/s, at most "
                    f"{found['memory'] / 2**20:.0f} MiB above {found['before'] / 2**20:.0f} MiB of the libraries",
                    flush=True,
                )


def write_tree(root: Path, name: str, pairs: int) -> None:
    """Writes a dataset of real-sized files."""
    _, size, _ = SETS[name]
    ids = {class_name: raw_id for raw_id, class_name in SPECS[name].labels.raw_ids.items()}
    table = np.array([ids.get(class_name, 0) for class_name in class_table("toy").names] + [0] * 246, np.uint8)
    for index in range(pairs):
        image_file, label_file = (root / file for file in _files(name, index))
        if index < _SCENES:
            image, label = render("source", 0, name, index, *size)
            noise = np.random.default_rng(index).normal(0, _NOISE, image.shape)
            contents = [np.clip(image + noise, 0, 255).astype(np.uint8), table[label]]
        for file, content in zip((image_file, label_file), contents, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            if index < _SCENES:
                Image.fromarray(content).save(file, compress_level=3)
            else:
                file.write_bytes((root / _files(name, index % _SCENES)[file == label_file]).read_bytes())


def _files(name: str, index: int) -> tuple[str, str]:
    """Returns the relative names of an image and its label."""
    if name == "gta5":
        return f"images/{index + 1:05}.png", f"labels/{index + 1:05}.png"
    start = f"train/ulm/ulm_{index:06}_000019"
    return f"leftImg8bit/{start}_leftImg8bit.png", f"gtFine/{start}_gtFine_labelIds.png"


def measure_apart(options: argparse.Namespace, measure: str, name: str, cores: str, folder: str) -> dict:
    """Runs a measurement in a separate process on a number of cores.

    Args:
      options: `seconds` is the length of the measurement.
      measure: of `MEASURES`.
      name: of `SETS`.
      cores: number of cores, in digits.
      folder: in which `write_tree` wrote the dataset under its name.
    """
    flags = {"measure": measure, "name": name, "cores": cores, "folder": folder, "seconds": options.seconds}
    command = [sys.executable, "-m", __spec__.name, *(f"--{key}={value}" for key, value in flags.items())]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{measure} of {name} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def _config(options: argparse.Namespace, full_size: bool = False) -> base.ConfigDict:
    """Returns a configuration that reads only the dataset of the options, one pair in each batch."""
    domain, own, size = SETS[options.name]
    config = base.get_config("ass")
    folder = Path(options.folder)
    config.data.directory = str(folder / f"prepared_{options.cores}")
    config.data.update({domain: options.name, f"{domain}_root": str(folder / options.name)})
    config.data.update({f"{domain}_size": own if full_size else size, "full_size": full_size})
    config.data.update(classes="cityscapes19", labelled_count=-1, readers=int(options.cores))
    config.data.decoded_memory = 0  # So few files would fit; real datasets are decoded in every epoch.
    config.data.batch.update(source=int(domain == "source"), labelled=int(domain == "target"), unlabelled=0)
    config.loss.update(global_weight=0.0, semantic_weight=0.0)
    return config


def _prepare(config: base.ConfigDict, name: str) -> int:
    """Prepares the training split; returns the number of its records."""
    from data.preparation.location import locate_split
    from data.reading.split_builder import open_split_builder

    builder = open_split_builder(locate_split(config.data, f"{SETS[name][0]}_train"), config.data)
    return builder.info.splits["train"].num_examples


def _measure_preparation(options: argparse.Namespace) -> dict:
    from data.reading import split_builder  # noqa: F401 (Leaves the import of TensorFlow out of the time.)

    config = _config(options)
    start = time.perf_counter()
    return {"rate": _prepare(config, options.name) / (time.perf_counter() - start)}


def _measure_reading(options: argparse.Namespace, augmented: bool = False) -> dict:
    from data import pipeline
    from data.reading import split_reader

    config = _config(options)
    if augmented:
        config.augment.update(flip=True, scale=(0.75, 1.25), brightness=0.2, contrast=0.2, saturation=0.2)
    _prepare(config, options.name)
    batches = pipeline.training_batches(config)
    rate = _rate(lambda: next(batches), options.seconds)
    part = f"{SETS[options.name][0]}_train"
    split = split_reader.open_splits(config, [part])[part]
    records, decode = split.fetch(range(min(split.count, 16))), split.decoder("image", "label")
    with ThreadPoolExecutor(config.data.readers) as pool:
        rounds = _rate(lambda: list(pool.map(decode, records)), options.seconds)
    return {"rate": rate, "decoder": rounds * len(records)}


def _measure_full_size(options: argparse.Namespace) -> dict:
    from data import pipeline

    config = _config(options, full_size=True)
    _prepare(config, options.name)
    before = _peak_memory()
    batches = pipeline.training_batches(config)
    rate = _rate(lambda: next(batches), options.seconds)
    return {"rate": rate, "before": before, "memory": _peak_memory() - before}


MEASURES = {
    "preparation": _measure_preparation,
    "reading": _measure_reading,
    "augmented": functools.partial(_measure_reading, augmented=True),
    "full_size": _measure_full_size,
}


def _rate(step: Callable[[], object], seconds: float) -> float:
    """Returns calls per second, after some to warm up."""
    for _ in range(4):
        step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        step()
        count += 1
    return count / (time.perf_counter() - start)


def _peak_memory() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="files of each dataset")
    parser.add_argument("--seconds", type=float, default=20, help="length of each measurement of reading")
    parser.add_argument("--cores", default="1,2", help="numbers of cores to measure with")
    for hidden in ("measure", "name", "folder"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
