"""Evaluation during training: scores on the validation and the held-out images, and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax.checkpoints import selection
from ass_jax.class_table import ClassTable
from ass_jax.evaluation.evaluate import CHANGED, LABELLED, PredictionStrip, make_evaluation_step, score, score_all
from ass_jax.evaluation.metrics import COUNTS, OTHER_SCORES
from ass_jax.evaluation.report.record import EvaluationRecord
from ass_jax.method.state import TrainState
from ass_jax.models import Networks
from ass_jax.runtime.preemption import CutShortError, StopRequest
from ass_jax.training import mixed_picture
from ass_jax.training.metric_writer import MetricWriter


class Validation:
    """Scores the state of a run and writes scores and pictures.

    Attributes:
      strip: picture of the last pass over the validation images.
    """

    def __init__(
        self,
        config: ConfigDict,
        networks: Networks,
        mesh: Mesh,
        data: Any,
        class_table: ClassTable,
        writer: MetricWriter,
        workdir: Path,
    ):
        """Compiles nothing yet.

        Args:
          config: the whole configuration.
          networks: of which the segmenter is used.
          mesh: of the devices that hold the state.
          data: the batches to score, their volumes and `left_out`, see `ass_jax.training.loop.TrainingData`.
          class_table: `names`, `palette` `[C, 3]`, `subsets` and `others` of the classes.
          writer: of the scores.
          workdir: folder of the picture of mixed images and of the report.
        """
        self.strip = PredictionStrip(config.evaluation.pictures, class_table)
        self._pictures, self._class_table = config.evaluation.pictures, class_table
        self._data, self._writer, self._workdir, self._variant = data, writer, workdir, config.variant
        self._scoring: dict[str, Any] = {
            "step": make_evaluation_step(networks, config, mesh, others=bool(class_table.others)),
            "mesh": mesh,
            "class_table": class_table,
        }
        self._show_mixed = mixed_picture.make_show(
            networks, config, mesh, class_table=class_table, writer=writer, workdir=workdir
        )

    def run(self, number: int, state: TrainState, batch: dict, request: StopRequest) -> dict | None:
        """Scores a state.

        Args:
          number: of steps done.
          state: after that step.
          batch: of the next step, for the picture of mixed images.
          request: a signal ends the evaluation.

        Returns:
          The report of the trained weights on the validation images; that of the moving average under `average` and
          that on the held-out images under `held_out`, if there are any. None if a signal came before the end.
        """
        self.strip = strip = PredictionStrip(self._pictures, self._class_table)
        record = EvaluationRecord(self._class_table)

        def visit(
            name: str, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray, confusion: np.ndarray
        ) -> None:
            strip.add(image, prediction, labels)
            record.visit(name, image, prediction, labels, confusion)

        variables = {"": state.segmenter} | ({} if state.average is None else {"average": state.average})
        batches = request.cut_short(self._data.evaluation_batches)
        try:
            report = score_all(
                variables,
                batches,
                visit=visit,
                take_total=record.take_total,
                left_out=self._data.left_out,
                volumes=self._data.volumes,
                **self._scoring,
            )
            if self._data.held_out_batches:
                held_out = request.cut_short(self._data.held_out_batches)
                report["held_out"] = score(
                    state.segmenter, held_out(), volumes=self._data.held_out_volumes, **self._scoring
                )
        except CutShortError:
            return None
        write_scores(number, report, self._writer)
        picture = strip.picture()
        if picture is not None:
            self._writer.write_picture(number, "validation", picture)
        self._show_mixed(number, state, batch)
        images_per_step = sum(len(examples["image"]) for examples in batch.values())
        record.report(
            self._workdir, describe_scores(number, report, self._variant, self._data.labelled), images_per_step
        )
        return report


def describe_scores(number: int, scores: dict, variant: str, labelled: dict | None) -> dict:
    """Returns the report of the last checkpoint of a training, without those of other checkpoints.

    Args:
      number: of steps done.
      scores: of `Validation.run`.
      variant: of the run.
      labelled: describes the labelled target images.
    """
    report = selection.describe(number, "last") | {"split": "validation", "variant": variant}
    return report | {CHANGED: [], LABELLED: labelled} | scores


def write_scores(number: int, report: dict, writer: MetricWriter) -> None:
    """Writes the scores of an evaluation, with the number of classes of each mean in its name."""
    scores = {}
    groups = {
        "validation": report,
        "validation_average": report.get("average"),
        "held_out": report.get("held_out"),
    }
    for prefix, group in groups.items():
        if group is not None:
            scores |= {f"{prefix}/mIoU_{subset}": value for subset, value in group["mean_iou"].items()}
            scores |= {f"{prefix}_IoU/{name}": value for name, value in group["class_iou"].items()}
            scores |= {f"{prefix}/{name}": group[name] for name in (*OTHER_SCORES, *COUNTS) if name in group}
    writer.write_scalars(number, scores)
