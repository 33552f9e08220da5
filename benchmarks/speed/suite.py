"""Measures how fast the project is, on this machine, and writes docs/results/performance.md or performance_gpu.md.

  python -m benchmarks.speed.suite
  python -m benchmarks.speed.suite --only=compare --fresh
  python -m benchmarks.speed.suite --report_only

`make bench` runs it. On a CPU: the small network, and ResNet-101 at 256×512. On a GPU: the paper's sizes in float32
(TF32) and bfloat16, and the largest batch. Every benchmark is a separate process; results are stored in runs/bench/, so
that the same command continues after an interruption. The comparison needs PyTorch, the input TensorFlow; without them
these benchmarks are left out. Nothing else should run on the machine.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import machine
from benchmarks.common.parts import FOLDER, ROOT, Part, run_all
from benchmarks.ladder.report import refresh_readme
from benchmarks.speed import report, scaling

_TOY = "--config=configs/toy.py:ass"
_PAPER = "--config=configs/gta5.py:ass"
_PLUS = "_plus"  # Appended to either: the same with ASS+.
_HALF = ("--config.data.source_size=(256,512)", "--config.data.target_size=(256,512)")
_LOW = "--config.model.dtype=bfloat16"
_QUIET = 0.7  # Largest load of a machine on which nothing else runs.
_GPU_SETTINGS = "--settings=channels_last,channels_last+compile,channels_last+graphs"
# Reports by kind of machine, in docs/results/; the table of its index holds both.
_CPU_REPORT, _ACCELERATOR_REPORT = "performance", "performance_gpu"
_STARTS = (
    Part("start_toy", "speed.start", (_TOY,), 120),
    Part("start_resnet101", "speed.start", (_TOY, "--config.model.backbone=resnet101", "--rounds=1"), 120),
)


def parts_of_cpu() -> list[Part]:
    """Returns the benchmarks of a machine without an accelerator."""
    return [
        Part("step_toy", "speed.step", (_TOY, "--devices=1", "--steps=20"), 60),
        Part("step_toy_plus", "speed.step", (_TOY + _PLUS, "--devices=1", "--steps=20"), 60),
        Part("compare_toy", "speed.against_pytorch", (_TOY, "--rounds=7", "--patience=400"), 200),
        Part("compare_resnet101", "speed.against_pytorch", (_PAPER, *_HALF, "--rounds=5", "--patience=400"), 700),
        Part("evaluate_toy", "speed.evaluation", (_TOY,), 30),
        Part("evaluate_resnet101", "speed.evaluation", (_PAPER, *_HALF, "--steps=3"), 90),
        Part("input", "speed.input", (_TOY, "--seconds=5"), 240),
        *_STARTS,
        *scaling.parts("cpu", 1),
    ]


def parts_of_accelerator(devices: int) -> list[Part]:
    """Returns the benchmarks of a machine with a number of GPUs or TPUs."""
    batch = [f"--config.data.batch.{stream}=4" for stream in ("source", "labelled", "unlabelled")]
    return [
        Part("compare_paper", "speed.precisions", (_PAPER, "--rounds=7", _GPU_SETTINGS), 500),
        Part("step_paper_float32", "speed.step", (_PAPER, "--devices=1", "--steps=20"), 120),
        Part("step_paper_bfloat16", "speed.step", (_PAPER, _LOW, "--devices=1", "--steps=20"), 120),
        Part("step_paper_plus", "speed.step", (_PAPER + _PLUS, _LOW, "--devices=1", "--steps=20"), 120),
        Part(
            "compare_paper_bfloat16_4",
            "speed.against_pytorch",
            (_PAPER, _LOW, *batch, "--rounds=7", _GPU_SETTINGS),
            600,
        ),
        Part("compare_toy", "speed.against_pytorch", (_TOY, "--rounds=7", _GPU_SETTINGS), 300),
        Part("evaluate_paper", "speed.evaluation", (_PAPER, _LOW, "--steps=20"), 90),
        Part("evaluate_paper_flip", "speed.evaluation", (_PAPER, _LOW, "--config.evaluation.flip", "--steps=20"), 90),
        Part("largest_jax_bfloat16", "speed.largest", (_PAPER, _LOW), 500),
        Part("largest_torch_bfloat16", "speed.largest", (_PAPER, _LOW, "--framework=torch"), 700),
        Part("largest_jax_float32", "speed.largest", (_PAPER,), 500),
        Part("input", "speed.input", (_TOY, "--seconds=5"), 240),
        *_STARTS,
        *scaling.parts("gpu", devices),
    ]


def runnable(parts: Sequence[Part]) -> list[Part]:
    """Leaves out benchmarks whose library is missing, and prints their names."""
    needs = {"compare": "torch", "largest_torch": "torch", "input": "tensorflow", "start": "tensorflow"}
    missing = {prefix: library for prefix, library in needs.items() if importlib.util.find_spec(library) is None}
    for prefix, library in missing.items():
        print(f"Left out without {library}: {prefix}", file=sys.stderr)
    return [part for part in parts if not part.name.startswith(tuple(missing))]


def accelerators(devices: str) -> int:
    """Counts the accelerators in a description of devices, such as "8 NVIDIA H100"; 0: a CPU."""
    count = re.match(r"(\d+) (?!cpu)", devices)
    return int(count[1]) if count else 0


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Runs what has no result, writes the report and returns the exit code: 1 if a benchmark failed.

    Args:
      arguments: of the command line; default: those of this process.
      root: of the repository, in which `docs/results/` is written.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of results and logs: %(default)s")
    parser.add_argument("--only", default="", help="beginnings of the names of benchmarks to run, joined by commas")
    parser.add_argument("--fresh", action="store_true", help="also run what has a result")
    parser.add_argument("--report_only", action="store_true", help="run nothing; report the stored results")
    options = parser.parse_args(arguments)
    facts = machine.describe(os.environ)
    devices = accelerators(facts["devices"])
    parts = parts_of_accelerator(devices) if devices else parts_of_cpu()
    chosen = [part for part in runnable(parts) if part.name.startswith(tuple(options.only.split(",")))]
    failed = []
    if not options.report_only:
        print(machine.describe_in_words(facts), flush=True)
        _warn_of_others()
        try:
            done = run_all(chosen, options.folder, options.fresh)
        except KeyboardInterrupt:
            print("Interrupted. The same command continues; --report_only reports the stored results.", file=sys.stderr)
            return 130
        failed = [part.name for part in chosen if part.name not in done]
    results = {part.name: found for part in parts if (found := part.result(options.folder)) is not None}
    name = _ACCELERATOR_REPORT if devices else _CPU_REPORT
    folder = root / "docs" / "results"
    write(results, folder, name)
    if report.short_table(results):
        tables = [report.short_table(found) for found in _reported(folder)]
        refresh_readme(folder / "index.md", "\n\n".join(filter(None, tables)), "speed")
    print(f"Report: {folder / name}.md")
    if failed:
        print(f"{len(failed)} benchmarks failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _warn_of_others() -> None:
    """Warns if other programs compute: on a CPU, threads that wait for each other then lose most of the time."""
    load = os.getloadavg()[0]
    if load > _QUIET:
        print(f"WARNING: the machine is busy (load {load:.1f}); these measurements will be wrong.", file=sys.stderr)


def write(results: dict[str, dict], folder: Path, name: str = _CPU_REPORT) -> None:
    """Writes the report, all numbers as JSON, and the plot, under one name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = scaling.growth(results)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / f"{name}.md").write_text(report.markdown(results, rows, f"{name}.png"))
    if rows:
        scaling.save_plot(rows, folder / f"{name}.png")


def _reported(folder: Path) -> list[dict[str, dict]]:
    """Returns the results of both kinds of machine that have a report."""
    files = (folder / f"{name}.json" for name in (_CPU_REPORT, _ACCELERATOR_REPORT))
    return [json.loads(file.read_text()) for file in files if file.exists()]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends the running benchmark as well.
    sys.exit(main())
