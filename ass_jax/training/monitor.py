"""Watches a run while it trains: means of the metrics, speed, skipped steps, signs that a term teaches nothing."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from ass_jax.method.losses import uninformed_loss
from ass_jax.runtime.console import format_seconds, say
from ass_jax.training.metric_writer import MetricWriter
from configs.user_error import UserError

_PATIENCE = 10  # Reports in a row with a sign of trouble before the warning.
_WINNING_ACCURACY = 0.995  # Of a discriminator that has won.
_NEAR_GUESSING = 0.01  # Distance from the loss of guessing below which a discriminator has learnt nothing.
_LEAST_CONFIDENT = 0.01  # Share of confident pixels below which the teacher has no effect.


class DivergedError(UserError):
    """Losses or gradients of many steps in a row are not finite."""


class Monitor:
    """Averages the metrics of the steps between two reports, writes and prints them, and warns of trouble.

    Metrics stay on the device until a report, so that steps never wait for the console.
    """

    def __init__(
        self,
        config: ConfigDict,
        writer: MetricWriter,
        start: int,
        batch: dict,
        names_of_step: Callable[[int], dict[str, list[str]]] | None = None,
    ):
        """Begins at step `start`.

        Args:
          config: the whole configuration.
          writer: of the metrics.
          start: steps done before.
          batch: of a step, by stream: its images are counted for the speed.
          names_of_step: returns the names of the images of a step, counted from 0, by stream.
        """
        self._config, self._writer = config, writer
        self._images_per_step = sum(len(examples["image"]) for examples in batch.values())
        self._names_of_step = names_of_step
        self._step, self._pending = start, []
        self._streaks = collections.Counter()
        self._skipped = self._skipped_in_a_row = 0
        self._since = time.monotonic()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of one step."""
        self._pending.append(metrics)

    def report(self, step: int) -> None:
        """Writes the means since the last report.

        Steps whose update was skipped are named in a warning and do not count in the means.

        Raises:
          DivergedError: the updates of `skipped_limit` steps in a row were skipped.
          UserError: `metrics.jsonl` cannot be written.
        """
        steps = jax.device_get(self._pending)
        seconds = time.monotonic() - self._since
        self._count_skipped(steps)
        done = [metrics for metrics in steps if not metrics["skipped"]]
        means = {name: float(np.mean([metrics[name] for metrics in done])) for name in done[0]} if done else {}
        means["skipped"] = float(self._skipped)
        means["images_per_second"] = len(steps) * self._images_per_step / seconds
        left = (self._config.steps - step) * seconds / len(steps)
        self._pending, self._step = [], step
        losses = (
            f"{name.removeprefix('loss/')} {value:.3f}" for name, value in means.items() if name.startswith("loss/")
        )
        speed = f"{means['images_per_second']:.1f} images/s"
        say(f"step {step}/{self._config.steps}  {'  '.join(losses)}  {speed}  {format_seconds(left)} left")
        self._writer.write_scalars(step, means)
        self._watch_discriminators(means)
        self._watch_teacher(means)
        self._since = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of a `with` block (evaluation, saving) from the speed and the time left."""
        begun = time.monotonic()
        yield
        self._since += time.monotonic() - begun

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
                raise DivergedError(
                    f"Step {number}: {bad} not finite, as in the steps before: {self._skipped_in_a_row} updates in a "
                    "row were skipped. Training stops with the last good weights saved. Lower "
                    "optimizer.learning_rate or the loss weights, or set optimizer.clip_norm."
                )

    def _images_of(self, number: int) -> str:
        if self._names_of_step is None:
            return ""
        streams = self._names_of_step(number - 1).items()
        return " Its images: " + "; ".join(f"{stream} {', '.join(names)}" for stream, names in streams) + "."

    def _watch_discriminators(self, means: Mapping[str, float]) -> None:
        """Warns once of a discriminator that has won or learnt nothing: its gradient does not help the segmenter."""
        kinds = {"global": self._config.loss.global_kind, "semantic": self._config.loss.semantic_outputs}
        for name, kind in kinds.items():
            if f"loss/{name}_discriminator" not in means:
                continue
            guess = uninformed_loss(kind)
            signs = {
                "has won: its accuracy stays at 1, so its gradient teaches nothing. Lower "
                f"discriminator.{name}_learning_rate": means[f"accuracy/{name}_discriminator"] > _WINNING_ACCURACY,
                f"has learnt nothing: its loss stays at {guess:.3f}, that of guessing. Raise "
                f"discriminator.{name}_learning_rate": abs(means[f"loss/{name}_discriminator"] - guess)
                < _NEAR_GUESSING,
            }
            for sign, holds in signs.items():
                self._watch(f"The {name} discriminator {sign}.", holds)

    def _watch_teacher(self, means: Mapping[str, float]) -> None:
        """Warns once of a teacher with few confident pixels: unlabelled images then have no effect."""
        if "teacher/confident" in means:
            warning = (
                f"Less than {_LEAST_CONFIDENT:.0%} of the teacher's pixels are confident: unlabelled images have "
                f"hardly any effect. Lower teacher.threshold, now {self._config.teacher.threshold:g}."
            )
            self._watch(warning, means["teacher/confident"] < _LEAST_CONFIDENT)

    def _watch(self, warning: str, holds: bool) -> None:
        """Gives a warning once its reason has held for `_PATIENCE` reports in a row."""
        self._streaks[warning] = self._streaks[warning] + 1 if holds else 0
        if self._streaks[warning] == _PATIENCE:
            logging.warning("%s", warning)
