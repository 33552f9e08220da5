"""Curves of `metrics.jsonl`, thinned out for a page."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ass_jax.evaluation.metrics import COUNTS, OTHER_SCORES

MOST_POINTS = 1500  # Of a curve on a page.
_SCORED = ("validation", "validation_average", "held_out")  # Groups of metrics that are scores.
_GROUPS = (*_SCORED, "loss", "accuracy", "teacher", "gradient_norm", "learning_rate")
_TITLES = {"loss": "Losses", "accuracy": "Accuracies"}
_FIRST_TITLES = (
    "mIoU in %",
    "Other scores in %",
    "IoU by class in %, validation",
    "IoU by class in %, teacher",
    "IoU by class in %, held-out",
    "Losses",
    "Accuracies",
    "Teacher",
    "Gradient norm",
    "Learning rate",
    "Images per second",
)
_LARGEST_STEP = 2**53  # Exact in the numbers of a browser.


class Curve(NamedTuple):
    """A metric by step.

    Attributes:
      steps: int64 `[N]`, ascending, each once.
      values: float64 `[N]`, NaN where there is none.
    """

    steps: np.ndarray
    values: np.ndarray


def read_curves(file: Path) -> tuple[dict[str, Curve], int]:
    """Reads the curves of a run.

    Where a step appears twice, as after a killed run went on, the later value counts. Infinite values become NaN.

    Args:
      file: JSON lines with `step` and metrics; it may be missing.

    Returns:
      The curves by name of the metric, and the number of lines that could not be read, such as a last line that a kill
      has cut short.
    """
    if not file.is_file():
        return {}, 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        return parse_curves(lines)


def parse_curves(lines: Iterable[str]) -> tuple[dict[str, Curve], int]:
    """Parses lines as `read_curves` does."""
    found: dict[str, dict[int, float]] = {}
    damaged = 0
    for line in lines:
        if not line.strip():
            continue
        entries = _entries(line)
        if entries is None:
            damaged += 1
            continue
        step, metrics = entries
        for name, value in metrics.items():
            found.setdefault(name, {})[step] = value
    return {name: _curve(values) for name, values in found.items()}, damaged


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Thins out a curve such that peaks stay: keeps the ends, and the lowest and the highest value of equal bins.

    Args:
      curve: to thin out.
      most: points to keep at most; at least 4.
    """
    count = len(curve.steps)
    if count <= most:
        return curve
    low, high = (np.where(np.isnan(curve.values), ends, curve.values) for ends in (np.inf, -np.inf))
    kept = {0, count - 1}
    for first, end in itertools.pairwise(np.linspace(0, count, (most - 2) // 2 + 1).astype(int).tolist()):
        # Of a bin without a value, its first entry: a gap of the curve.
        kept |= {first + int(low[first:end].argmin()), first + int(high[first:end].argmax())}
    places = sorted(kept)
    return Curve(curve.steps[places], curve.values[places])


def by_plot(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Groups the metrics of a run for plots.

    Args:
      curves: by name, as "loss/global" or "validation_IoU/car".

    Returns:
      Curves by title and label. Scores come first, in percent; then losses and accuracies, then all others.
    """
    plots: dict[str, dict[str, Curve]] = {title: {} for title in _FIRST_TITLES}
    for name, curve in curves.items():
        group, _, label = name.rpartition("/")
        if label in COUNTS:
            continue
        if is_of_class(name):
            title = f"IoU by class in %, {_in_words(group.removesuffix('_IoU'))}"
        elif group in _SCORED:
            title = "mIoU in %" if label.startswith("mIoU_") else "Other scores in %"
            label = f"{OTHER_SCORES.get(label) or label.replace('mIoU_', 'mIoU ')}, {_in_words(group)}"
        else:
            title, label = _TITLES.get(group) or _in_words(group or label).capitalize(), _in_words(label)
        plots.setdefault(title, {})[label] = in_percent(name, curve)
    return {title: lines for title, lines in plots.items() if lines}


def place(name: str) -> int:
    """Returns the place of a metric among those of a run: scores first, as in `by_plot`."""
    group = name.rpartition("/")[0]
    return _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)


def is_of_class(name: str) -> bool:
    """Returns whether a metric is the IoU of one class."""
    group = name.rpartition("/")[0]
    return group.endswith("_IoU") and group.removesuffix("_IoU") in _SCORED


def is_count(name: str) -> bool:
    """Returns whether a metric counts images or volumes, which do not change."""
    return name.rpartition("/")[2] in COUNTS


def in_percent(name: str, curve: Curve) -> Curve:
    """Returns the curve of a score in percent, and any other curve as it is."""
    is_score = name.rpartition("/")[0] in _SCORED or is_of_class(name)
    return Curve(curve.steps, 100 * curve.values) if is_score else curve


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace("validation average", "teacher").replace("held out", "held-out")


def _entries(line: str) -> tuple[int, dict[str, float]] | None:
    """Returns step and metrics of a line; None if it cannot be read."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = content.pop("step", None) if isinstance(content, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < _LARGEST_STEP:
        return None
    return step, {name: _number(value) for name, value in content.items()}


def _number(value: Any) -> float:
    """Returns a finite number, or NaN for whatever is none."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _curve(values: dict[int, float]) -> Curve:
    steps = sorted(values)
    return Curve(np.array(steps, np.int64), np.array([values[step] for step in steps], np.float64))
