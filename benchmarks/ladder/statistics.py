"""The ladder's statistics: means and spreads over the seeds, and differences seed by seed."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ass_jax.class_table import BACKGROUND
from ass_jax.evaluation.metrics import OTHER_SCORES
from benchmarks.common.runs import Run, settings, typical_run
from data.streams import streams

# The baselines and the global term; ASS against its parts, one part alone, the same with all labels; ASS+ against its
# parts, ASS and the baselines.
PAIRS = (
    ("source_adabn", "source_only"),
    ("target_teacher", "target_only"),
    ("joint", "target_only"),
    ("adaptsegnet", "joint"),
    ("ass", "joint"),
    ("ass", "adaptsegnet"),
    ("semantic", "joint"),
    ("joint_all", "oracle"),
    ("adaptsegnet_all", "joint_all"),
    ("ass_all", "adaptsegnet_all"),
    ("ass_all", "oracle"),
    ("teacher", "joint"),
    ("adaptsegnet_plus", "teacher"),
    ("ass_plus", "teacher"),
    ("ass_plus", "adaptsegnet_plus"),
    ("ass_plus", "ass"),
    ("ass_plus", "joint"),
    ("ass_plus", "target_only"),
)
AVERAGE = "average"  # Key of the teacher's scores.
ORACLE = "oracle"


def summarise(runs: Sequence[Run], config_file: str, command: str, overrides: Sequence[str]) -> dict:
    """Computes all numbers of the report.

    Args:
      runs: all runs of the ladder, finished or not.
      config_file: the file and the words after its colon, as the report shows them.
      command: the command that repeats the ladder.
      overrides: settings changed on the command line.

    Returns:
      JSON-able. Scores are shares of 1, times are seconds, "deviation" is the sample standard deviation over the
      seeds, "error" the standard error of the mean; None if no score is known.

    Raises:
      ValueError: no run has scores.
    """
    scores = {(run.variant, run.seed): run.scores() for run in runs}
    finished = [found for found in scores.values() if found is not None]
    if not finished:
        raise ValueError("No run has finished: there is nothing to report.")
    subsets = list(finished[0]["mean_iou"])
    rows = {}
    for run in runs:
        if run.variant not in rows:
            own = [other for other in runs if other.variant == run.variant]
            rows[run.variant] = _acting(run) | _row(own, scores, subsets[0])
    oracle = rows[ORACLE]["mean_iou"][subsets[0]]["mean"] if ORACLE in rows else None
    for row in rows.values():
        mean = row["mean_iou"][subsets[0]]["mean"]
        row["share_of_oracle"] = mean / oracle if oracle and mean is not None else None
    return {
        "command": command,
        "overrides": list(overrides),
        "config_file": config_file,
        "config": settings(typical_run(runs).config),
        "subsets": subsets,
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "variants": rows,
        "differences": [
            {"of": first, "against": second}
            | _difference(rows[first]["by_seed"], rows[second]["by_seed"])
            | {"class_iou": _class_differences(first, second, scores)}
            for first, second in _pairs(rows)
        ],
        "runs": [
            {"variant": run.variant, "seed": run.seed, "scores": scores[run.variant, run.seed], "job": run.job()}
            for run in runs
        ],
    }


def _pairs(rows: Mapping[str, dict]) -> list[tuple[str, str]]:
    """Returns the pairs of rows to compare: those of `PAIRS`, both with the same number of labelled images."""
    endings = dict.fromkeys("".join(row.partition(",")[1:]) for row in rows)  # Such as ",8".
    found = ((first + ending, second + ending) for first, second in PAIRS for ending in endings)
    return [pair for pair in found if rows.keys() >= {*pair}]


def _row(own: Sequence[Run], scores: dict, subset: str) -> dict:
    """Returns the scores of one variant over its seeds; mean IoUs of `subset` are compared."""
    done = [run for run in own if scores[run.variant, run.seed]]
    reports = [scores[run.variant, run.seed] for run in done]
    by_seed = {run.seed: report["mean_iou"][subset] for run, report in zip(done, reports, strict=True)}
    return {
        "by_seed": {seed: score for seed, score in by_seed.items() if score is not None},
        "mean_iou": {subset: _spread([])} | _spread_by_name(reports, "mean_iou"),
        "average": _spread(report.get(AVERAGE, {"mean_iou": {}})["mean_iou"].get(subset) for report in reports),
        "class_iou": _spread_by_name(reports, "class_iou"),
        "foreground": _spread_by_name([{"foreground": _foreground(report)} for report in reports], "foreground"),
    }


def _foreground(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns the scores of what is looked for, by their titles; none where no class is the background."""
    dice = report.get("class_dice", {})
    if BACKGROUND not in dice:
        return {}
    known = [score for name, score in dice.items() if name != BACKGROUND and score is not None]
    others = {title: report[key] for key, title in OTHER_SCORES.items() if key in report}
    return {"Dice": statistics.fmean(known) if known else None} | others


def _acting(run: Run) -> dict:
    config = run.config
    return {
        "images_per_step": streams(config),
        "labelled_count": config.data.labelled_count if config.data.batch.labelled else 0,
        "global_weight": config.loss.global_weight,
        "semantic_weight": config.loss.semantic_weight,
        "mixed_weight": config.teacher.mixed_weight,
    }


def _spread(values: Iterable[float | None]) -> dict:
    values = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "count": len(values),
    }


def _spread_by_name(reports: Sequence[dict], kind: str) -> dict[str, dict]:
    names = dict.fromkeys(name for report in reports for name in report[kind])
    return {name: _spread(report[kind].get(name) for report in reports) for name in names}


def _difference(first: dict[int, float], second: dict[int, float]) -> dict:
    """Returns the differences for the seeds that both variants have, and their statistics."""
    by_seed = {seed: first[seed] - second[seed] for seed in first if seed in second}
    spread = _spread(by_seed.values())
    error = None if spread["deviation"] is None else spread["deviation"] / spread["count"] ** 0.5
    return {"by_seed": by_seed, "positive": sum(value > 0 for value in by_seed.values()), "error": error} | spread


def _class_differences(first: str, second: str, scores: dict) -> dict[str, float]:
    """Returns the mean difference of each class's IoU over the seeds in which both variants have a score."""
    found = {}
    for (variant, seed), report in scores.items():
        other = scores.get((second, seed))
        if variant != first or not report or not other:
            continue
        for name, score in report["class_iou"].items():
            if score is not None and other["class_iou"].get(name) is not None:
                found.setdefault(name, []).append(score - other["class_iou"][name])
    return {name: statistics.fmean(values) for name, values in found.items()}
