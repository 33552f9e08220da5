"""Compares factors of the semantic-level term on several test beds: the experiment of docs/results/semantic.md.

  python -m benchmarks.ladder.factors --bed=label_shift --phase=choose --trials=adaptsegnet+global=0.001,ass+labelled
  python -m benchmarks.ladder.factors --bed=label_shift --phase=judge --trials=adaptsegnet,ass --counts=3,8

Trials and test beds are those of `benchmarks/ladder/trials.py`. Settings are chosen on seeds 100 to 104, by images that
no judged run is scored on, and judged on seeds 0 to 9 (photographs: 0 to 4). All trials of a seed share the labelled
images, the initial weights of the segmenter and the order of the data.

Writes `factors.json` and `factors.md` into the folder of the phase, or into --output. Finished runs are skipped: those
in the working directory, and those that a `factors.json` lists there.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from ass_jax.runtime.workdir import METRICS, SCORES
from benchmarks.common import machine
from benchmarks.common.runs import Run, plan
from benchmarks.ladder.jobs import interrupt_on_signals, train_missing
from benchmarks.ladder.trials import BEDS, CHOOSE, JUDGE, Bed, baseline_of, parse_trial

ROOT = Path(__file__).resolve().parents[2]
JSON_FILE, TABLE_FILE = "factors.json", "factors.md"
HELD_OUT = "held_out"
# Of a discriminator's loss: below, it has won, above, it guesses (docs/training.md).
HEALTHY = (0.2, 0.65)
# What changes no score and takes time.
_QUICK = ("evaluation.every=0", "evaluation.pictures=0", "verify=never")
_DISCRIMINATORS = ("global", "semantic")

Rows = dict[tuple[str, int], dict[int, dict]]  # Trial and number of labelled images -> seed -> what its run gave.


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, writes the report and returns the exit code: 1 if a run failed."""
    options = _parse(arguments)
    bed, folder = BEDS[options.bed], options.workdir / options.bed / options.phase
    output = options.output or folder
    rows = read_rows(output / JSON_FILE)
    planned = [
        (name, count, run)
        # All trials of a seed before the next seed, so that finished runs can be compared early.
        for seed in options.seeds
        for count in options.counts
        for name in options.trials
        if seed not in rows.get((name, count), {})
        for run in planned_runs(name, bed, options.phase, count, [seed], folder / name, options.settings)
    ]
    failed = train_missing([run for *_, run in planned], (sys.executable, str(ROOT / "main.py")), options.jobs)
    for name, count, run in planned:
        if (result := result_of(run)) is not None:
            rows.setdefault((name, count), {})[run.seed] = result
    found = summarise(rows, options.bed, options.phase)
    output.mkdir(parents=True, exist_ok=True)
    (output / JSON_FILE).write_text(json.dumps(found, indent=1) + "\n")
    (output / TABLE_FILE).write_text(table(found))
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
    variant, factors = parse_trial(name)
    choosing = bed.choosing if phase == CHOOSE else ()
    held_out = sum(int(each.partition("=")[2]) for each in choosing if each.startswith("data.held_out="))
    labels = f"data.labelled_count={count + held_out}"
    # Of a setting that occurs twice, the later one counts.
    settings = (*_QUICK, *bed.settings, *choosing, labels, *factors)
    overrides = [*(f"--config.{setting}" for setting in settings), *more]
    return plan(bed.config, [variant], seeds, overrides, folder / str(count))


def result_of(run: Run) -> dict | None:
    """Returns what a finished run gave, None if it has not finished.

    Returns:
      `score`: mIoU, on held-out images where there are any, else on validation images; `seconds`; `losses`: of the
      global and the semantic discriminator, where it has them, over the second half of the run.
    """
    if not run.scores():
        return None
    scores = json.loads((run.folder / SCORES).read_text())
    score = next(iter(scores.get(HELD_OUT, scores)["mean_iou"].values()))
    lines = [json.loads(line) for line in (run.folder / METRICS).read_text().splitlines()]
    losses = {}
    for kind in _DISCRIMINATORS:
        key = f"loss/{kind}_discriminator"
        found = [line[key] for line in lines if key in line and line["step"] > run.config.steps // 2]
        if found:
            losses[kind] = statistics.fmean(found)
    return {"score": score, "seconds": run.job().get("seconds"), "losses": losses}


def read_rows(file: Path) -> Rows:
    """Returns the results of an earlier `factors.json`; none if there is no such file."""
    if not file.exists():
        return {}
    return {
        (row["trial"], row["count"]): {int(seed): result for seed, result in row["seeds"].items()}
        for row in json.loads(file.read_text())["rows"]
    }


def summarise(rows: Rows, bed: str, phase: str) -> dict:
    """Returns means by trial and count, and paired differences from the bed's baseline with their 95 % intervals.

    Args:
      rows: see `read_rows`.
      bed: its name.
      phase: its name.
    """
    summary = []
    for (name, count), seeds in sorted(rows.items(), key=lambda row: (row[0][1], row[0][0])):
        baseline = baseline_of(name, bed)
        other = rows.get((baseline, count), {}) if name != baseline else {}
        losses = {
            kind: [of["losses"][kind] for of in seeds.values() if kind in of["losses"]] for kind in _DISCRIMINATORS
        }
        summary.append(
            {
                "trial": name,
                "count": count,
                "mean": statistics.fmean(of["score"] for of in seeds.values()),
                "gain": interval([of["score"] - other[seed]["score"] for seed, of in seeds.items() if seed in other]),
                "losses": {kind: statistics.fmean(found) for kind, found in losses.items() if found},
                "seeds": {str(seed): seeds[seed] for seed in sorted(seeds)},
            }
        )
    return {"bed": bed, "phase": phase, "machine": machine.describe({}), "rows": summary}


def interval(differences: Sequence[float]) -> dict | None:
    """Returns the mean of paired differences, its standard error and the 95 % interval of Student's t; None below 2."""
    count = len(differences)
    if count < 2:
        return None
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return {"mean": mean, "error": error, "low": mean - half, "high": mean + half, "count": count}


def table(found: dict) -> str:
    """Returns the rows as Markdown: mean mIoU, gain over the baseline and its interval, in %.

    The last column has the losses of the global and the semantic discriminator; "!" marks those outside `HEALTHY`.
    """
    lines = [
        "| trial | labels | seeds | mIoU | gain | 95 % interval | losses of discriminators |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in sorted(found["rows"], key=lambda row: (row["count"], -row["mean"])):
        gain, spread = "–", "–"
        if row["gain"]:
            gain = f"{100 * row['gain']['mean']:+.1f} ± {100 * row['gain']['error']:.1f}"
            spread = f"{100 * row['gain']['low']:+.1f} to {100 * row['gain']['high']:+.1f}"
        losses = " / ".join(_loss_in_words(row["losses"].get(kind)) for kind in _DISCRIMINATORS)
        score = f"{100 * row['mean']:.1f}"
        lines.append(
            f"| `{row['trial']}` | {row['count']} | {len(row['seeds'])} | {score} | {gain} | {spread} | {losses} |"
        )
    return "\n".join(lines) + "\n"


def _loss_in_words(loss: float | None) -> str:
    if loss is None:
        return "–"
    return f"{loss:.2f}" if HEALTHY[0] <= loss <= HEALTHY[1] else f"{loss:.2f}!"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bed", choices=BEDS, required=True)
    parser.add_argument("--phase", choices=(CHOOSE, JUDGE), required=True)
    parser.add_argument("--trials", required=True, help="VARIANT[+FACTOR...], joined by commas")
    parser.add_argument("--seeds", help="default: of the phase")
    parser.add_argument("--counts", help="numbers of labelled images; default: the bed's")
    parser.add_argument("--workdir", type=Path, default=Path("runs/factors"))
    parser.add_argument("--output", type=Path, help="folder of the report; default: that of the phase")
    parser.add_argument("--jobs", type=int, default=len(machine.usable_cores()), help="runs at a time")
    options, settings = parser.parse_known_args(arguments)
    options.settings = settings
    options.trials = options.trials.split(",")
    for name in options.trials:
        try:
            parse_trial(name)
        except ValueError as error:
            parser.error(str(error))
    bed = BEDS[options.bed]
    default = range(bed.judged) if options.phase == JUDGE else range(100, 105)
    options.seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else list(default)
    options.counts = [int(count) for count in options.counts.split(",")] if options.counts else [bed.count]
    return options


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())
