"""Measures how the cost of a step grows with image size, batch size, classes and devices, and plots it.

  python -m benchmarks.speed.scaling

One quantity grows at a time. On a CPU, the network is the small one of `configs/toy.py`, and devices are virtual: they
share the cores and show what the division itself costs. On an accelerator, it is the paper's network in bfloat16.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common.parts import FOLDER, Part, run_all

# Quantity -> the label of its axis.
QUANTITIES = {
    "pixels": "megapixels of an image",
    "images": "images a step",
    "classes": "classes",
    "devices": "devices",
}
_CPU = {
    "base": ("--config=configs/toy.py:ass", "--steps=5"),
    "pixels": ((64, 128), (96, 192), (128, 256), (192, 384)),
    "images": (1, 2, 4),  # Of each stream.
    "classes": (5, 20, 80),
    "devices": (1, 2, 4),
    "seconds": 25.0,
}
_ACCELERATOR = {
    "base": ("--config=configs/gta5.py:ass", "--config.model.dtype=bfloat16", "--steps=5"),
    "pixels": ((256, 512), (360, 640), (512, 1024), (720, 1280)),
    "images": (1, 2, 4),
    "classes": (19, 40, 80, 160),
    "devices": (1, 2, 4, 8),
    "seconds": 90.0,
}
_COLOUR = "#0072b2"


def parts(platform: str, devices: int) -> list[Part]:
    """Returns the benchmarks of all points.

    Args:
      platform: "cpu" or another.
      devices: number of those present; ignored on a CPU, whose devices are virtual.
    """
    plan = _CPU if platform == "cpu" else _ACCELERATOR
    counts = [count for count in plan["devices"] if platform == "cpu" or count <= devices]
    points = {f"pixels_{size[0]}x{size[1]}": [_size(size), "--devices=1"] for size in plan["pixels"]}
    points |= {f"images_{count}": [*_batch(count), "--devices=1"] for count in plan["images"]}
    points |= {f"classes_{count}": [f"--classes={count}", "--devices=1"] for count in plan["classes"]}
    if len(counts) > 1:
        # The same number of images for every number of devices.
        points |= {f"devices_{count}": [*_batch(max(counts)), f"--devices={count}"] for count in counts}
    return [
        Part(f"scaling/{name}", "speed.step", (*plan["base"], *_flat(arguments)), plan["seconds"])
        for name, arguments in points.items()
    ]


def growth(results: dict[str, dict]) -> dict[str, list[dict]]:
    """Returns, by quantity, a row for each result of `parts`: `value`, milliseconds, images/s and GiB."""
    rows = {quantity: [] for quantity in QUANTITIES}
    for name, found in results.items():
        folder, _, point = name.partition("/")
        if folder == "scaling":
            quantity = point.partition("_")[0]
            rows[quantity].append(_row(quantity, found))
    return {quantity: sorted(found, key=lambda row: row["value"]) for quantity, found in rows.items() if found}


def save_plot(rows: dict[str, list[dict]], file: Path) -> None:
    """Plots milliseconds of a step with their quartiles, and memory, in a panel for each quantity."""
    figure = Figure(figsize=(3.1 * len(rows), 4.6), layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False, sharex="col")
    for column, (quantity, points) in enumerate(rows.items()):
        _draw(axes[0, column], points, "milliseconds")
        _draw(axes[1, column], points, "gib")
        axes[1, column].set_xlabel(QUANTITIES[quantity])
        names = [f"{row['value']:.3g}" for row in points]
        axes[1, column].set_xticks([row["value"] for row in points], names, rotation=40, ha="right")
    axes[0, 0].set_ylabel("milliseconds of a step")
    axes[1, 0].set_ylabel("GiB on a device")
    figure.savefig(file, dpi=150)


def _row(quantity: str, found: dict) -> dict:
    _, height, width = found["streams"]["source"]
    seconds, memory = found["seconds"], found["memory"]
    value = {
        "pixels": height * width / 1e6,
        "images": found["images_per_step"],
        "classes": found["classes"],
        "devices": found["devices"],
    }[quantity]
    return {
        "value": value,
        "milliseconds": 1000 * seconds["median"],
        "lower": 1000 * seconds["lower"],
        "upper": 1000 * seconds["upper"],
        "images_per_second": found["images_per_second"],
        "gib": (memory["device"] or memory["compiled"] or memory["process"]) / 2**30,
    }


def _draw(axes: Axes, points: Sequence[dict], key: str) -> None:
    values, heights = [row["value"] for row in points], [row[key] for row in points]
    axes.plot(values, heights, color=_COLOUR, marker="o", markersize=4)
    if key == "milliseconds":
        axes.fill_between(
            values, [row["lower"] for row in points], [row["upper"] for row in points], color=_COLOUR, alpha=0.2
        )
    axes.set_ylim(0, 1.15 * max([*heights, *(row["upper"] for row in points if key == "milliseconds")]))
    axes.grid(color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _size(size: tuple[int, int]) -> list[str]:
    return [f"--config.data.{domain}_size={size}".replace(" ", "") for domain in ("source", "target")]


def _batch(count: int) -> list[str]:
    return [f"--config.data.batch.{stream}={count}" for stream in ("source", "labelled", "unlabelled")]


def _flat(arguments: Iterable[str | list[str]]) -> list[str]:
    return [word for entry in arguments for word in ([entry] if isinstance(entry, str) else entry)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what has no result and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of results and the plot: %(default)s")
    parser.add_argument("--platform", default="cpu", help="cpu or gpu: %(default)s")
    parser.add_argument("--devices", type=int, default=1, help="number of accelerators: %(default)s")
    parser.add_argument("--fresh", action="store_true", help="also measure what has a result")
    options = parser.parse_args(arguments)
    results = run_all(parts(options.platform, options.devices), options.folder, options.fresh)
    save_plot(growth(results), options.folder / "performance.png")


if __name__ == "__main__":
    main()
