"""The checkpoints that a run reports: the last one, and the best ones on held-out and on validation images.

The best of many checkpoints on the validation images has a validation score that is too good by luck. Labelled target
images that are kept out of training (`config.data.held_out`) select a checkpoint without this bias.
"""

import math
from typing import Any

from tabulate import tabulate

from ass_jax.checkpoints.manager import Checkpoints
from configs.user_error import UserError

# Value of config.checkpoint.metric -> names under which a checkpoint holds this score: on the held-out images, on the
# validation images.
RANKINGS = {
    "mean_iou": ("selection_mIoU", "mIoU"),
    "dice_by_image": ("selection_dice_by_image", "dice_by_image"),
    "dice_by_volume": ("selection_dice_by_volume", "dice_by_volume"),
}
DEFAULT_METRIC = "mean_iou"

# Value of config.evaluation.checkpoint -> its name in reports, and how the checkpoint is chosen.
CHOICES = {
    "last": ("last", "the last one: not chosen by a score"),
    "selected": ("selected", "chosen on held-out labelled target images"),
    "best": ("best on validation", "chosen on the validation set: not a fair score"),
}


def checkpoint_metrics(report: dict) -> dict:
    """Returns the metrics to save with a checkpoint: the scores of `RANKINGS` that the report has, and itself.

    Args:
      report: of `ass_jax.evaluation.evaluate.score` on the validation images, with the report on the held-out images
        under "held_out".
    """
    metrics: dict[str, Any] = {"report": report}
    for metric, (held_out, validation) in RANKINGS.items():
        if metric != DEFAULT_METRIC and metric not in report:  # Only slices have scores by volume.
            continue
        metrics[validation] = main_score(report, metric)
        if "held_out" in report:
            metrics[held_out] = main_score(report["held_out"], metric)
    return metrics


def main_score(report: dict, metric: str = DEFAULT_METRIC) -> float:
    """Returns the score that ranks checkpoints.

    Args:
      report: as for `checkpoint_metrics`.
      metric: a key of `RANKINGS`; "mean_iou" is the mean IoU over the first class subset.

    Returns:
      NaN if no class of the mean was seen.
    """
    score = next(iter(report["mean_iou"].values())) if metric == "mean_iou" else report.get(metric)
    return math.nan if score is None else score


def chosen_step(checkpoints: Checkpoints, choice: str) -> int:
    """Returns the step of the checkpoint that `config.evaluation.checkpoint` names.

    Args:
      checkpoints: of the run.
      choice: a key of `CHOICES`.

    Raises:
      DamagedError: there are checkpoints, and all are damaged.
      UserError: the choice is unknown, or there is no such checkpoint.
    """
    if choice not in CHOICES:
        raise UserError(f"Unknown evaluation.checkpoint {choice!r}. Valid: {', '.join(CHOICES)}.")
    step = _steps(checkpoints)[choice]
    if step is not None:
        return step
    if choice == "selected" and checkpoints.latest_step() is not None:
        raise UserError(
            f"No selected checkpoint in {checkpoints.directory}: the run held no images out. Train with "
            "--config.data.held_out=COUNT in another --workdir, or evaluate the last or the best checkpoint."
        )
    raise UserError(f"No {choice} checkpoint in {checkpoints.directory}. Train first: --mode=train.")


def describe(step: int, choice: str) -> dict:
    """Returns the entries of a report that say which checkpoint it is of: step, name and how it was chosen."""
    name, chosen = CHOICES[choice]
    return {"step": step, "checkpoint": name, "chosen": chosen}


def saved_reports(checkpoints: Checkpoints) -> dict[str, dict]:
    """Returns the reports that were saved with the last, the selected and the best checkpoint during training.

    Args:
      checkpoints: of the run.

    Returns:
      By name in reports: the entries of `describe`, and the report of `checkpoint_metrics` if that step was scored.
      A run without held-out images has no selected checkpoint.
    """
    steps = {choice: step for choice, step in _steps(checkpoints).items() if step is not None}
    return {
        CHOICES[choice][0]: (checkpoints.metrics(step) or {}).get("report", {}) | describe(step, choice)
        for choice, step in steps.items()
    }


def format_reports(reports: dict[str, dict]) -> str:
    """Formats `saved_reports` as a table, a row a checkpoint: step, scores in percent, and how it was chosen."""
    columns = {"checkpoint": list(reports), "step": [str(report["step"]) for report in reports.values()]}
    held_out = [report.get("held_out", {}) for report in reports.values()]
    for prefix, scores in {"": list(reports.values()), "held-out ": held_out}.items():
        means = [report.get("mean_iou", {}) for report in scores]
        for subset in dict.fromkeys(subset for mean in means for subset in mean):
            columns[f"{prefix}mIoU {subset}"] = [_percent(mean.get(subset)) for mean in means]
        for unit in ("image", "volume"):
            key = f"dice_by_{unit}"
            if any(key in report for report in scores):
                columns[f"{prefix}Dice by {unit}"] = [_percent(report.get(key)) for report in scores]
    alignment = ["left", *["right"] * (len(columns) - 1), "left"]
    columns["chosen"] = [report["chosen"] for report in reports.values()]
    return tabulate(columns, headers="keys", tablefmt="plain", colalign=alignment, disable_numparse=True)


def _steps(checkpoints: Checkpoints) -> dict[str, int | None]:
    """Returns the step of every choice; the best ones by the score that the training kept them for."""
    last = checkpoints.latest_intact_step()
    if last is None:
        return dict.fromkeys(CHOICES)
    settings = checkpoints.configuration(last).get("checkpoint", {})
    held_out, validation = RANKINGS[settings.get("metric", DEFAULT_METRIC)]
    return {"last": last, "selected": checkpoints.best_step(held_out), "best": checkpoints.best_step(validation)}


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"
