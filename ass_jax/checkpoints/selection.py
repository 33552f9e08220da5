"""The checkpoints that a run reports apart: the last one, and the best ones on held-out and on validation images.

The best of many checkpoints on the very images that its score is reported for scores too well by luck. A slice of
the labelled target images, kept out of training (`config.data.held_out`), chooses without that.
"""

import math

from ass_jax.checkpoints.manager import Checkpoints

VALIDATION = "mIoU"  # Metrics of a checkpoint.
HELD_OUT = "selection_mIoU"
RANKINGS = (HELD_OUT, VALIDATION)

# Value of config.evaluation.checkpoint -> name in reports, and how the checkpoint was chosen.
CHOICES = {
    "last": ("last", "the last one: not chosen by a score"),
    "selected": ("selected", "chosen on held-out labelled target images"),
    "best": ("best on validation", "chosen on the validation set: not a fair score"),
}


def checkpoint_metrics(report: dict) -> dict:
    """Returns the metrics to save with a checkpoint: those that rank it, and the report itself.

    Args:
      report: of `ass_jax.evaluation.metrics.report` on the validation images; that on the held-out images under
        "held_out".
    """
    metrics = {VALIDATION: main_score(report), "report": report}
    if "held_out" in report:
        metrics[HELD_OUT] = main_score(report["held_out"])
    return metrics


def main_score(report: dict) -> float:
    """Returns the mIoU over the first class subset, which ranks checkpoints; NaN where no class was seen."""
    score = next(iter(report["mean_iou"].values()))
    return math.nan if score is None else score


def chosen_step(checkpoints: Checkpoints, choice: str) -> int:
    """Returns the step of the checkpoint that `config.evaluation.checkpoint` asks for.

    Args:
      checkpoints: opened with `RANKINGS`.
      choice: a key of `CHOICES`.

    Raises:
      ValueError: the choice is unknown.
      DamagedError: there are checkpoints, and all are damaged.
      FileNotFoundError: there is no such checkpoint.
    """
    if choice not in CHOICES:
        raise ValueError(f"Unknown evaluation.checkpoint {choice!r}. Valid: {', '.join(CHOICES)}.")
    step = _steps(checkpoints)[choice]
    if step is not None:
        return step
    if choice == "selected" and checkpoints.latest_step() is not None:
        raise FileNotFoundError(
            f"No selected checkpoint in {checkpoints.directory}: the run held no images out. Train with "
            "--config.data.held_out=COUNT in another --workdir, or ask for the last or the best checkpoint."
        )
    raise FileNotFoundError(f"No {choice} checkpoint in {checkpoints.directory}. Train first: --mode=train.")


def described(step: int, choice: str) -> dict:
    """Returns what a report says of its checkpoint: step, name and how it was chosen."""
    name, chosen = CHOICES[choice]
    return {"step": step, "checkpoint": name, "chosen": chosen}


def reports(checkpoints: Checkpoints) -> dict[str, dict]:
    """Returns the reports of the last, the selected and the best checkpoint, as they were scored while training.

    Args:
      checkpoints: opened with `RANKINGS`.

    Returns:
      By name in reports: `described`, and the report of `checkpoint_metrics` where that step was scored. Absent:
      the selected one of a run without held-out images.
    """
    steps = {choice: step for choice, step in _steps(checkpoints).items() if step is not None}
    return {
        CHOICES[choice][0]: (checkpoints.metrics(step) or {}).get("report", {}) | described(step, choice)
        for choice, step in steps.items()
    }


def format_reports(found: dict[str, dict]) -> str:
    """Lays out `reports` as a table, a checkpoint a row: step, mIoU in percent by class subset, and the choice."""
    everything = [{"mean_iou": {}} | report for report in found.values()]
    groups = {"": everything, "held-out ": [{"mean_iou": {}} | report.get("held_out", {}) for report in everything]}
    columns = {
        f"{group}mIoU {subset}": [_percent(report["mean_iou"].get(subset)) for report in members]
        for group, members in groups.items()
        for subset in dict.fromkeys(subset for report in members for subset in report["mean_iou"])
    }
    columns = {"step": [str(report["step"]) for report in everything]} | columns
    cells = [[name, *values] for name, values in columns.items()]
    names = ["checkpoint", *found]
    choices = ["chosen", *(report["chosen"] for report in everything)]
    lines = []
    for row, (name, choice) in enumerate(zip(names, choices, strict=True)):
        numbers = [column[row].rjust(max(map(len, column))) for column in cells]
        lines.append("  ".join([name.ljust(max(map(len, names))), *numbers, choice]))
    return "\n".join(lines)


def _steps(checkpoints: Checkpoints) -> dict[str, int | None]:
    return {
        "last": checkpoints.latest_sound_step(),
        "selected": checkpoints.best_step(HELD_OUT),
        "best": checkpoints.best_step(VALIDATION),
    }


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"
