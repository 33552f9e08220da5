"""What a run tells while it trains: console, TensorBoard, `metrics.jsonl`, warnings of adversaries and teacher."""

import collections
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from ass_jax.method.losses import uninformed_loss
from ass_jax.runtime.console import format_seconds
from ass_jax.runtime.workdir import METRICS

_WATCHED = 10  # Reports in a row after which a sign of trouble is told.
_WON = 0.995  # Accuracy.
_NEAR = 0.01  # Distance to the loss of guessing.
_UNSURE = 0.01  # Share of pixels whose label by the teacher counts as sure.


class Monitor:
    """Averages the metrics of the steps between two reports and writes them wherever a user looks.

    Metrics stay on the device until a report, so that the steps never wait for the console.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        writer: Any,
        workdir: Path,
        start: int,
        images_per_step: int,
        names_of_step: Callable[[int], dict[str, list[str]]] | None = None,
    ):
        """Begins at step `start`; earlier reports of `metrics.jsonl` stay, later ones are dropped.

        Args:
          config: the whole configuration.
          writer: a `clu.metric_writers.MetricWriter`.
          workdir: folder of `metrics.jsonl`, which process 0 writes.
          start: steps done before this call.
          images_per_step: over all streams and devices.
          names_of_step: gives the names of the images of a step, counted from 0, by stream.
        """
        self._config, self._writer = config, writer
        self._images, self._names_of_step = images_per_step, names_of_step
        self._step, self._pending = start, []
        self._streaks = collections.Counter()
        self._skipped = self._skipped_in_a_row = 0
        self._file = workdir / METRICS if jax.process_index() == 0 else None
        if self._file is not None:
            _drop_after(self._file, start)
        self._since = time.monotonic()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Takes one step's metrics."""
        self._pending.append(metrics)

    def report(self, step: int) -> None:
        """Writes the means since the last report.

        Steps whose update was skipped are named in a warning and left out of the means.

        Raises:
          FloatingPointError: the updates of `skipped_limit` steps in a row were skipped.
        """
        steps = jax.device_get(self._pending)
        seconds = time.monotonic() - self._since
        self._count_skipped(steps)
        done = [metrics for metrics in steps if not metrics["skipped"]]
        means = {name: float(np.mean([metrics[name] for metrics in done])) for name in done[0]} if done else {}
        means["skipped"] = float(self._skipped)
        means["images_per_second"] = len(steps) * self._images / seconds
        left = (self._config.steps - step) * seconds / len(steps)
        self._pending, self._step = [], step
        self._print(step, means, left)
        self.write(step, means)
        self._watch_adversaries(means)
        self._watch_teacher(means)
        self._since = time.monotonic()

    def write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Writes scalars to TensorBoard and `metrics.jsonl`; None, a score that does not exist, only to the latter."""
        self._writer.write_scalars(step, {name: value for name, value in scalars.items() if value is not None})
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps({"step": step, **scalars}) + "\n")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside (evaluation, saving) out of the speed and the time left."""
        begun = time.monotonic()
        yield
        self._since += time.monotonic() - begun

    def _print(self, step: int, means: Mapping[str, float], left: float) -> None:
        if self._file is None:
            return
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {value:.3f}" for name, value in means.items() if name.startswith("loss/")
        )
        print(
            f"step {step}/{self._config.steps}  {losses}  "
            f"{means['images_per_second']:.1f} images/s  {format_seconds(left)} left",
            flush=True,
        )

    def _count_skipped(self, steps: list[Mapping[str, np.ndarray]]) -> None:
        for number, metrics in enumerate(steps, start=self._step + 1):
            if not metrics["skipped"]:
                self._skipped_in_a_row = 0
                continue
            self._skipped += 1
            self._skipped_in_a_row += 1
            bad = ", ".join(name for name, value in metrics.items() if not np.isfinite(value))
            logging.warning(
                "Step %d: %s not finite; its update was skipped, %d so far.%s",
                number,
                bad,
                self._skipped,
                self._images_of(number),
            )
            if self._skipped_in_a_row == self._config.skipped_limit:
                raise FloatingPointError(
                    f"Step {number}: {bad} not finite, as in the steps before: {self._skipped_in_a_row} updates in a "
                    "row were skipped. Training stops with the last good weights saved. Lower "
                    "optimizer.learning_rate or the loss weights, or set optimizer.clip_norm."
                )

    def _images_of(self, number: int) -> str:
        if self._names_of_step is None:
            return ""
        streams = self._names_of_step(number - 1).items()
        return " Its images: " + "; ".join(f"{stream} {', '.join(names)}" for stream, names in streams) + "."

    def _watch_adversaries(self, means: Mapping[str, float]) -> None:
        """Warns once of each discriminator that has won or learns nothing: neither teaches the segmenter."""
        kinds = {"global": self._config.loss.global_kind, "semantic": self._config.loss.semantic_outputs}
        for name, kind in kinds.items():
            if f"loss/{name}" not in means:
                continue
            guess = uninformed_loss(kind)
            signs = {
                "has won: its accuracy stays at 1, so its gradient teaches nothing. Lower "
                f"discriminator.{name}_learning_rate": means[f"accuracy/{name}_discriminator"] > _WON,
                f"has learnt nothing: its loss stays at {guess:.3f}, that of guessing. Raise "
                f"discriminator.{name}_learning_rate": abs(means[f"loss/{name}_discriminator"] - guess) < _NEAR,
            }
            for sign, holds in signs.items():
                self._watch(f"The {name} discriminator {sign}.", holds)

    def _watch_teacher(self, means: Mapping[str, float]) -> None:
        """Warns once of a teacher whose labels hardly count: then unlabelled images teach nothing."""
        if "teacher/confident" in means:
            warning = (
                f"The teacher is sure of less than {_UNSURE:.0%} of the pixels: unlabelled images teach next to "
                f"nothing. Lower teacher.threshold, now {self._config.teacher.threshold:g}."
            )
            self._watch(warning, means["teacher/confident"] < _UNSURE)

    def _watch(self, warning: str, holds: bool) -> None:
        """Gives a warning when its reason has held for so many reports in a row."""
        self._streaks[warning] = self._streaks[warning] + 1 if holds else 0
        if self._streaks[warning] == _WATCHED:
            logging.warning("%s", warning)


def _drop_after(file: Path, step: int) -> None:
    """Removes the lines of steps that are about to be done again, and a last line cut short by a kill."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            logging.warning("Dropped a damaged line of %s.", file)
    temporary = file.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(file)
