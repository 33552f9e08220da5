"""Writes all metrics of a run: to TensorBoard and to `metrics.jsonl`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from ass_jax.runtime.workdir import METRICS, writing


class MetricWriter:
    """Writes scalars and pictures by step; used like a `clu.metric_writers.MetricWriter`."""

    def __init__(self, tensorboard: Any, workdir: Path, start: int):
        """Continues the files of a run at step `start`: earlier lines of `metrics.jsonl` stay, later ones are dropped.

        Args:
          tensorboard: a `clu.metric_writers.MetricWriter`.
          workdir: folder of `metrics.jsonl`, which process 0 writes.
          start: steps done before.

        Raises:
          UserError: the file cannot be written.
        """
        self._tensorboard = tensorboard
        self._file = workdir / METRICS if jax.process_index() == 0 else None
        if self._file is not None and self._file.exists():
            with writing(self._file):
                _drop_after(self._file, start)

    def write_scalars(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Writes scalars; None, a score that does not exist, goes to `metrics.jsonl` only.

        Raises:
          UserError: the file cannot be written.
        """
        self._tensorboard.write_scalars(step, {name: value for name, value in scalars.items() if value is not None})
        if self._file is not None:
            with writing(self._file), self._file.open("a") as file:
                file.write(json.dumps({"step": step, **scalars}) + "\n")

    def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes a picture, uint8 `[height, width, 3]`, to TensorBoard."""
        self._tensorboard.write_images(step, {name: picture[None]})

    def flush(self) -> None:
        """Waits until TensorBoard's file has everything."""
        self._tensorboard.flush()


def _drop_after(file: Path, step: int) -> None:
    """Removes the lines of later steps, which will be done again, and a last line that a kill has cut short."""
    lines = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            logging.warning("Dropped a damaged line of %s.", file)
    temporary = file.with_suffix(".tmp")
    temporary.write_text("".join(lines))
    temporary.replace(file)
