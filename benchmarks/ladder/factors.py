"""Compares factors of the semantic-level term on several test beds: the experiment of docs/results/semantic.md.

  python -m benchmarks.ladder.factors --bed=label_shift --phase=choose
  python -m benchmarks.ladder.factors --bed=label_shift --phase=judge --trials=adaptsegnet,ass,right --counts=3,8

A trial is a variant with settings, `TRIALS`; a bed a configuration, `BEDS`. Settings are chosen on seeds 100 to 104, by
images that no judged run is scored on, and judged on seeds 0 to 9 (real photographs: 0 to 4). All trials of a seed
share the labelled images, the initial weights of the segmenter and the order of the data. Finished runs are skipped.
Writes `factors.json` and `factors.md` into the folder of the phase, or into --output.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from ass_jax.runtime.workdir import METRICS, SCORES
from benchmarks.common import machine
from benchmarks.common.runs import Run, plan
from benchmarks.ladder.jobs import interrupt_on_signals, train_missing

ROOT = Path(__file__).resolve().parents[2]
CHOOSE, JUDGE = "choose", "judge"
HELD_OUT = "held_out"
# Of a discriminator's loss: below, it has won, above, it guesses (docs/training.md).
HEALTHY = (0.2, 0.65)
# What changes no score and takes time.
_QUICK = ("evaluation.every=0", "evaluation.pictures=0", "verify=never")


class Bed(NamedTuple):
    """A source, a target and a network.

    Attributes:
      config: the file.
      settings: of both phases, and of all trials that do not set the same.
      choosing: further settings while trials are chosen.
      counts: numbers of labelled target images.
      judged: number of seeds on which trials are judged.
    """

    config: str
    settings: tuple[str, ...]
    choosing: tuple[str, ...]
    counts: tuple[int, ...]
    judged: int


class Trial(NamedTuple):
    """A variant and settings; `against` is the trial that it is compared with."""

    variant: str
    settings: tuple[str, ...] = ()
    against: str = "adaptsegnet"


# Settings are chosen on scenes, images or held-out labels that no judged run is scored on.
BEDS = {
    "streets": Bed("configs/toy.py", (), ("data.toy.seed=100",), (8,), 10),
    "label_shift": Bed("configs/toy.py", ("data.toy.label_shift=1.0",), ("data.toy.seed=100",), (8,), 10),
    "streets_to_camvid": Bed("configs/streets_to_camvid.py", (), ("data.target=camvid_val",), (10,), 5),
    "day_to_dusk": Bed("configs/camvid.py", (), ("data.held_out=20",), (8,), 5),
}


def _global(weight: float) -> tuple[str, ...]:
    return (f"loss.global_weight={weight}",)


def _semantic(weight: float) -> tuple[str, ...]:
    return (f"loss.semantic_weight={weight}",)


_STUDENT = ("loss.semantic_unlabelled=student",)
_TEACHER = ("loss.semantic_unlabelled=teacher",)
_FAST = ("discriminator.semantic_learning_rate=1e-3",)
_CELLS = ("loss.semantic_kind=cells", "loss.semantic_outputs=class_domain", "discriminator.semantic_width=256")
_PROTOTYPES = ("loss.semantic_kind=prototypes",)
TRIALS = {
    "joint": Trial("joint"),
    # The baseline gets the same effort: its weight is chosen first.
    "adaptsegnet": Trial("adaptsegnet"),
    **{f"adaptsegnet_{weight}": Trial("adaptsegnet", _global(weight)) for weight in (0.0003, 0.001, 0.003, 0.01, 0.1)},
    "semantic": Trial("semantic"),
    **{f"semantic_{weight}": Trial("semantic", _semantic(weight)) for weight in (0.03, 0.3, 1.0)},
    "semantic_student": Trial("ass", (*_global(0.0), *_STUDENT)),
    "semantic_right": Trial("semantic", ("loss.semantic_pixels=right",)),
    "semantic_cells": Trial("ass", (*_global(0.0), *_CELLS, *_STUDENT, *_semantic(0.03))),
    "semantic_prototypes": Trial("ass", (*_global(0.0), *_PROTOTYPES, *_STUDENT, *_semantic(0.1))),
    "ass": Trial("ass"),
    **{f"weight_{weight}": Trial("ass", _semantic(weight)) for weight in (0.001, 0.01, 0.1, 0.3)},
    "binary": Trial("ass", ("loss.semantic_outputs=binary",)),
    "projection": Trial("ass", ("loss.semantic_outputs=projection",)),
    "logits": Trial("ass", ("loss.semantic_input=logits",)),
    "probabilities": Trial("ass", ("loss.semantic_input=probabilities",)),
    "right": Trial("ass", ("loss.semantic_pixels=right",)),
    "agreed": Trial("ass", ("loss.semantic_pixels=agreed",)),
    "both": Trial("ass", ("loss.semantic_confusion=both",)),
    "student": Trial("ass", _STUDENT),
    "cells": Trial("ass", (*_CELLS, *_semantic(0.01))),
    "cells_student": Trial("ass", (*_CELLS, *_STUDENT, *_semantic(0.03))),
    "prototypes": Trial("ass", (*_PROTOTYPES, *_semantic(0.1))),
    "prototypes_student": Trial("ass", (*_PROTOTYPES, *_STUDENT, *_semantic(0.1))),
    "student_moving": Trial("ass", (*_STUDENT, "loss.semantic_average=moving")),
    "student_0.3": Trial("ass", (*_STUDENT, *_semantic(0.3))),
    "student_fast": Trial("ass", (*_STUDENT, *_FAST)),
    "student_right": Trial("ass", (*_STUDENT, "loss.semantic_pixels=right")),
    "student_binary": Trial("ass", (*_STUDENT, "loss.semantic_outputs=binary")),
    "semantic_student_0.3": Trial("ass", (*_global(0.0), *_STUDENT, *_semantic(0.3))),
    "semantic_student_fast": Trial("ass", (*_global(0.0), *_STUDENT, *_FAST)),
    "semantic_student_low": Trial("ass", (*_global(0.0003), *_STUDENT)),
    "semantic_cells_0.1": Trial("ass", (*_global(0.0), *_CELLS, *_STUDENT, *_semantic(0.1))),
    "teacher": Trial("teacher", (), "adaptsegnet_plus"),
    "adaptsegnet_plus": Trial("adaptsegnet_plus"),
    **{
        f"adaptsegnet_plus_{weight}": Trial("adaptsegnet_plus", _global(weight), "adaptsegnet_plus")
        for weight in (0.0003, 0.001, 0.003, 0.01)
    },
    "ass_plus": Trial("ass_plus", (), "adaptsegnet_plus"),
    "plus_student": Trial("ass_plus", _STUDENT, "adaptsegnet_plus"),
    "plus_teacher": Trial("ass_plus", _TEACHER, "adaptsegnet_plus"),
    "plus_semantic": Trial("ass_plus", _global(0.0), "adaptsegnet_plus"),
    "plus_semantic_teacher": Trial("ass_plus", (*_global(0.0), *_TEACHER), "adaptsegnet_plus"),
    "plus_semantic_cells": Trial(
        "ass_plus", (*_global(0.0), *_CELLS, *_TEACHER, *_semantic(0.03)), "adaptsegnet_plus"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, writes the report and returns the exit code: 1 if a run failed."""
    options = _parse(arguments)
    bed, folder = BEDS[options.bed], options.workdir / options.bed / options.phase
    planned = {
        (name, count): planned_runs(name, bed, options.phase, count, options.seeds, folder / name, options.settings)
        for count in options.counts
        for name in options.trials
    }
    # All trials of a seed before the next seed, so that finished runs can be compared early.
    order = [runs[number] for number in range(len(options.seeds)) for runs in planned.values()]
    failed = train_missing(order, (sys.executable, str(ROOT / "main.py")), options.jobs)
    found = summarise(planned, options.bed, options.phase, options.seeds)
    output = options.output or folder
    output.mkdir(parents=True, exist_ok=True)
    (output / "factors.json").write_text(json.dumps(found, indent=2) + "\n")
    (output / "factors.md").write_text(table(found))
    print(table(found))
    return 1 if failed else 0


def planned_runs(
    name: str, bed: Bed, phase: str, count: int, seeds: Sequence[int], folder: Path, more: Sequence[str]
) -> list[Run]:
    """Plans the runs of a trial, one a seed.

    Args:
      name: of the trial.
      bed: where it is tried.
      phase: "choose" or "judge".
      count: labelled target images, without those that are held out.
      seeds: of the runs.
      folder: of the runs' working directories.
      more: arguments `--config.KEY=VALUE`.
    """
    trial, choosing = TRIALS[name], bed.choosing if phase == CHOOSE else ()
    held_out = sum(int(each.partition("=")[2]) for each in choosing if each.startswith("data.held_out="))
    labels = f"data.labelled_count={count + held_out}"
    # Of a setting that occurs twice, the later one counts.
    settings = (*_QUICK, *bed.settings, *choosing, labels, *trial.settings)
    overrides = [*(f"--config.{setting}" for setting in settings), *more]
    return plan(bed.config, [trial.variant], seeds, overrides, folder / str(count))


def summarise(planned: dict[tuple[str, int], list[Run]], bed: str, phase: str, seeds: Sequence[int]) -> dict:
    """Returns scores by trial, count and seed, and paired differences with their 95 % intervals.

    Args:
      planned: runs in the order of the seeds, by trial and number of labelled images.
      bed: its name.
      phase: its name.
      seeds: of the runs.
    """
    rows = []
    for (name, count), runs in planned.items():
        rows.append({"trial": name, "count": count, "scores": {run.seed: score_of(run) for run in runs}})
        rows[-1]["settings"] = [TRIALS[name].variant, *TRIALS[name].settings]
        rows[-1]["seconds"] = [run.job().get("seconds") for run in runs]
        rows[-1]["discriminators"] = {kind: discriminator_loss(kind, runs) for kind in ("global", "semantic")}
    scores = {(row["trial"], row["count"]): row["scores"] for row in rows}
    for row in rows:
        known = [score for score in row["scores"].values() if score is not None]
        row["mean"] = statistics.fmean(known) if known else None
        other = scores.get((TRIALS[row["trial"]].against, row["count"]), {})
        row["gain"] = interval([row["scores"][seed] - other[seed] for seed in _both(row["scores"], other)])
    return {"bed": bed, "phase": phase, "seeds": list(seeds), "machine": machine.describe({}), "rows": rows}


def interval(differences: Sequence[float]) -> dict | None:
    """Returns the mean of paired differences, its standard error and the 95 % interval of Student's t; None below 2."""
    count = len(differences)
    if count < 2 or not any(differences):
        return None
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return {"mean": mean, "error": error, "low": mean - half, "high": mean + half, "count": count}


def score_of(run: Run) -> float | None:
    """Returns the mIoU of a finished run: on held-out images where there are any, else on validation images."""
    if not run.scores():
        return None
    scores = json.loads((run.folder / SCORES).read_text())
    scores = scores.get(HELD_OUT, scores)
    return next(iter(scores["mean_iou"].values()))


def discriminator_loss(kind: str, runs: Sequence[Run]) -> float | None:
    """Returns a discriminator's loss over the second half of the finished runs; None without that discriminator."""
    key, found = f"loss/{kind}_discriminator", []
    for run in runs:
        if run.scores():
            lines = map(json.loads, (run.folder / METRICS).read_text().splitlines())
            found += [line[key] for line in lines if key in line and line["step"] > run.config.steps // 2]
    return statistics.fmean(found) if found else None


def _both(one: dict, other: dict) -> list[int]:
    return [seed for seed, score in one.items() if score is not None and other.get(seed) is not None]


def table(found: dict) -> str:
    """Returns the rows as Markdown: mean mIoU, gain over the trial's baseline and its interval, in %.

    The last column has the losses of the global and the semantic discriminator; "!" marks those outside `HEALTHY`.
    """
    lines = [
        "| trial | labels | seeds | mIoU | gain | 95 % interval | losses of discriminators |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in sorted(found["rows"], key=lambda row: (row["count"], -(row["mean"] or 0))):
        known = [score for score in row["scores"].values() if score is not None]
        mean = "–" if row["mean"] is None else f"{100 * row['mean']:.1f}"
        gain, spread = "–", "–"
        if row["gain"]:
            gain = f"{100 * row['gain']['mean']:+.1f} ± {100 * row['gain']['error']:.1f}"
            spread = f"{100 * row['gain']['low']:+.1f} to {100 * row['gain']['high']:+.1f}"
        losses = " / ".join(map(_loss_in_words, row["discriminators"].values()))
        lines.append(f"| `{row['trial']}` | {row['count']} | {len(known)} | {mean} | {gain} | {spread} | {losses} |")
    return "\n".join(lines) + "\n"


def _loss_in_words(loss: float | None) -> str:
    if loss is None:
        return "–"
    return f"{loss:.2f}" if HEALTHY[0] <= loss <= HEALTHY[1] else f"{loss:.2f}!"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bed", choices=BEDS, required=True)
    parser.add_argument("--phase", choices=(CHOOSE, JUDGE), required=True)
    parser.add_argument("--trials", help=f"default: all of {', '.join(TRIALS)}")
    parser.add_argument("--seeds", help="default: of the phase")
    parser.add_argument("--counts", help="numbers of labelled images; default: the bed's")
    parser.add_argument("--workdir", type=Path, default=Path("runs/factors"))
    parser.add_argument("--output", type=Path, help="folder of the report; default: that of the phase")
    parser.add_argument("--jobs", type=int, default=len(machine.usable_cores()), help="runs at a time")
    options, settings = parser.parse_known_args(arguments)
    options.settings = settings
    options.trials = options.trials.split(",") if options.trials else list(TRIALS)
    unknown = [name for name in options.trials if name not in TRIALS]
    if unknown:
        parser.error(f"unknown trial {unknown[0]!r}; valid: {', '.join(TRIALS)}")
    bed = BEDS[options.bed]
    default = range(bed.judged) if options.phase == JUDGE else range(100, 105)
    options.seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else list(default)
    options.counts = [int(count) for count in options.counts.split(",")] if options.counts else list(bed.counts)
    return options


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())
