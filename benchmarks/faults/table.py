"""The table of faults: provokes every fault that training must survive and measures what happens.

    python -m benchmarks.faults.table                        # all rows: `make faults`
    python -m benchmarks.faults.table --rows=4,16 --scale=0.2 --output=faults.md

Writes `docs/results/faults.md`. Results of earlier calls are kept in `faults.json` beside it, so that rows can be
measured again one by one. Random moments come from a seed, which is printed.
"""

import argparse
import functools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks.common import machine
from benchmarks.faults import repeated, runs, saves, several
from benchmarks.faults.children import Place
from benchmarks.faults.runs import Result, Setting

_CHECKPOINTS, _PIPELINE = "tests/checkpoints/test_manager.py", "tests/data/test_pipeline.py"
_DAMAGED, _LABELS = "tests/data/preparation/test_prepare_damaged.py", "tests/data/raw/test_image_files.py"


class Row(NamedTuple):
    """A fault.

    Attributes:
      fault: description.
      demand: the result that is required.
      measure: provokes the fault and returns the result.
      count: number of repetitions.
    """

    fault: str
    demand: str
    measure: Callable[[Setting], Result]
    count: int = 1


def tests(*arguments: str) -> Callable[[Setting], Result]:
    """Returns a measure that runs tests and counts them."""

    def run(setting: Setting) -> Result:
        del setting
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        return f"{last.strip('= ').partition(' in ')[0]}: `pytest {shlex.join(arguments)}`", done.returncode == 0

    return run


def rows(picture: Path) -> dict[int, Row]:
    """Returns the faults by number; `picture` is the file for the plot of the long run."""
    not_finite = (
        "tests/method/test_train_step.py",
        "tests/training/test_loop.py",
        "tests/training/test_loop_faults.py",
        "-k",
        "finite or skipped",
    )
    substituted = ("tests/data/reading/test_bad_records.py",)
    sizes = (_DAMAGED, _LABELS, "-k", "fault")
    ids = ("tests/data/preparation/test_prepare.py", _DAMAGED, _LABELS, "-k", "raw_id or limit or rejected or ids")
    absent = (
        "tests/evaluation/test_metrics.py",
        "tests/method/test_losses.py",
        "-k",
        "official or ignored or nothing or left_out",
    )
    few = (
        _PIPELINE,
        "tests/data/test_pipeline_evaluation.py",
        "tests/data/test_streams.py",
        "tests/data/sampling/test_labelled_subset.py",
        "-k",
        "fewer or without or impossible or nothing or refused",
    )
    hostile = (
        "tests/weights/test_files.py",
        "tests/weights/test_hostile_input.py",
        "tests/inference/test_prediction_files.py",
        "tests/test_main.py",
        "tests/test_main_wiring.py",
        "tests/data/datasets/test_specs.py",
        "tests/data/checking/test_check.py",
        "tests/data/reading/test_bad_records.py",
        "-k",
        "hostile or is_run or are_safe or nowhere or control_characters",
    )
    devices = (_CHECKPOINTS, "-k", "other_devices or alone")
    order = (_PIPELINE, "-k", "readers or hosts or late or continues")
    return {
        1: Row("stop at any step, resume", "all identical", runs.stop_and_resume, 5),
        2: Row("kill -9 at random moments", "lost work ≤ an interval", runs.kill_at_random, 20),
        3: Row("killed while an old checkpoint is deleted", "0 crashes", repeated.kill_while_deleting, 20),
        4: Row("SIGTERM in training", "within 10 s, 0 steps lost", runs.stop_by_signal, 10),
        5: Row("newest checkpoint damaged", "none silently wrong", runs.damage_newest, 60),
        6: Row("every checkpoint damaged", "one message, code ≠ 0", runs.damage_all),
        7: Row("disk full while saving", "0 valid checkpoints lost", runs.fill_disk),
        8: Row("loss or gradient not finite", "parameters always finite", tests(*not_finite)),
        9: Row("NaN or missing mIoU", "all sequences right", runs.rank_randomly, 200),
        10: Row("corrupt image in the dataset", "resumed hash identical", tests(*substituted)),
        11: Row("image and label of different size", "all named", tests(*sizes)),
        12: Row("unknown label ids", "none silently another class", tests(*ids)),
        13: Row("no valid pixel; a class absent", "as the official scores", tests(*absent)),
        14: Row("0, 1 or few labelled images", "no hang", tests(*few)),
        15: Row("two processes in one directory", "the first finishes", runs.two_processes, 10),
        16: Row("configuration differs", "stops and names the keys", runs.change_settings),
        17: Row("other numbers of devices; parameters alone", "difference 0", tests(*devices)),
        18: Row("other numbers of readers and hosts; seeking", "hashes equal, within 1 s", tests(*order)),
        19: Row("hostile files and names", "rejected or escaped, nothing executed", tests(*hostile)),
        20: Row(
            "2,000 steps, 20 evaluations, 20 saves",
            "no leak",
            functools.partial(repeated.train_long, picture=picture),
            20,
        ),
        21: Row("one of several processes is killed", "the other ends within 60 s; identical", several.kill_one, 6),
        22: Row("SIGTERM to one of two processes, or to both", "0 steps lost; identical", several.stop_both, 6),
        23: Row("checksums and saves at the default interval", "< 3 % of the time", saves.cost_of_saves, 3),
        24: Row("one of two processes is late by seconds", "both wait; identical", several.delay_one, 2),
        25: Row("another number of processes goes on", "IoU differs by < 1e-5", several.change_number, 4),
        26: Row("five images scored by two processes", "all predictions as of one", several.score_uneven),
    }


def main() -> None:
    """Measures the chosen rows and writes the table of all known results; exits with 1 if a row does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="numbers, separated by commas; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of repetitions")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs/results/faults.md"), help="the table")
    options = parser.parse_args()
    table = rows(options.output.with_suffix(".png"))
    numbers = [int(number) for number in options.rows.split(",") if number] or list(table)
    unknown = [number for number in numbers if number not in table]
    if unknown:
        parser.error(f"unknown rows {unknown}; valid: {', '.join(map(str, table))}")
    for folder in (options.folder, options.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    place, notes = Place(options.folder.resolve()), options.output.with_suffix(".json")
    measured = json.loads(notes.read_text()) if notes.exists() else {}
    print(f"Random moments: seed {options.seed}.", flush=True)
    for number in numbers:
        row, begun = table[number], time.monotonic()
        draw = repeated.random_source(options.seed, number)
        count = max(1, round(row.count * options.scale))
        figure, holds = row.measure(Setting(place, draw, count))
        seconds = round(time.monotonic() - begun)
        found = {"figure": figure, "holds": holds, "seconds": seconds, "seed": options.seed}
        measured[str(number)] = found | {"machine": machine.describe_in_words(machine.describe(os.environ))}
        print(f"{number:2}  {'holds' if holds else 'FAILS'}  {row.fault}: {figure}  ({seconds} s)", flush=True)
        notes.write_text(json.dumps(measured, indent=2) + "\n")
    write(options.output, table, measured)
    sys.exit(not all(measured[str(number)]["holds"] for number in numbers))


def write(output: Path, table: dict[int, Row], measured: dict) -> None:
    """Writes the table of all known results."""
    lines = [
        "# Faults survived",
        "",
        "| # | fault | demanded | measured | holds | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for number, row in table.items():
        if (found := measured.get(str(number))) is not None:
            cells = [
                number,
                row.fault,
                row.demand,
                found["figure"],
                "yes" if found["holds"] else "**no**",
                found["seconds"],
            ]
            lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    seeds = sorted({found["seed"] for found in measured.values()})
    lines += [
        "",
        f"Measured with `python -m benchmarks.faults.table` (`make faults`), seed {', '.join(map(str, seeds))}, in",
        'small runs of `configs/toy.py:ass,smoke`. "Identical" compares the checksums of all leaves of the state.',
        "",
    ]
    for words in sorted({found["machine"] for found in measured.values()}):
        there = [int(number) for number, found in measured.items() if found["machine"] == words]
        lines.append(f"* rows {', '.join(map(str, sorted(there)))}: {words}")
    if output.with_suffix(".png").exists():
        lines += ["", f"![Memory and open files over the long run]({output.with_suffix('.png').name})"]
    output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
