"""What a report shows of an evaluation: scores, confusion matrix, example images, and with what they were computed."""

import datetime as dt
import importlib.metadata
import json
import platform
from pathlib import Path

import jax
import numpy as np

from ass_jax.class_table import ClassTable
from ass_jax.evaluation import image_scores
from ass_jax.evaluation.report.examples import ExampleImages, panels
from ass_jax.runtime.console import say
from ass_jax.runtime.workdir import REPORT, REPORT_DATA, of_split, replace_text

LIBRARIES = ("ass_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class EvaluationRecord:
    """Collects the record of a pass over labelled images.

    Attributes:
      examples: images of this process.
      confusion: of all images, integers `[C, C]`, with one more row for classes that are never predicted; None before
        the end of the pass.
    """

    def __init__(self, class_table: ClassTable):
        """Begins a pass; `class_table` has `names`, `palette` and `others` of the classes."""
        self.examples = ExampleImages()
        self.confusion: np.ndarray | None = None
        self._class_table, self._seen = class_table, 0

    def visit(
        self, name: str, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray, confusion: np.ndarray
    ) -> None:
        """Takes an image, see `ass_jax.evaluation.evaluate.score`; one without a name gets a number."""
        self._seen += 1
        names = self._class_table.names
        counts = image_scores.count_pixels(confusion[None, : len(names)])
        score = float(image_scores.ranking_scores(counts, names)[0])
        self.examples.add(name or f"image {self._seen}", score, image, labels, prediction)

    def take_total(self, confusion: np.ndarray) -> None:
        """Takes the confusion matrix of all images."""
        self.confusion = confusion

    def write(self, workdir: Path, scores: dict, images_per_step: int | None = None) -> None:
        """Writes the record to `report.json`, or of another split to `report_SPLIT.json`.

        Args:
          workdir: of the run.
          scores: the entries of `eval.json`; `step` and `split` at least.
          images_per_step: of the training, over all streams; None: as in the record before.
        """
        file = workdir / of_split(REPORT_DATA, scores["split"])
        content = self._content(scores, images_per_step or _images_per_step(file))
        replace_text(file, json.dumps(content) + "\n")

    def report(self, workdir: Path, scores: dict, images_per_step: int | None = None) -> None:
        """Writes the record, as `write` does, and the report of the run; if that fails, prints why."""
        if jax.process_index() > 0:
            return
        page = workdir / REPORT
        try:
            self.write(workdir, scores, images_per_step)
            # Its libraries are imported when a report is written, not when a run starts.
            from ass_jax.evaluation.report.page import run_page

            replace_text(page, run_page(workdir))
        except Exception as error:  # Whatever it is: a page for people must not end a run.
            say(f"{page} could not be written; the run is not affected: {type(error).__name__}: {error}")

    def _content(self, scores: dict, images_per_step: int | None) -> dict:
        table = self._class_table
        return {
            "scores": {key: value for key, value in scores.items() if key != "checkpoints"},
            "classes": list(table.names),
            "palette": np.asarray(table.palette).tolist(),
            "others": list(table.others),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "examples": [
                {"kind": kind, "name": example.name, "score": example.score, "panels": panels(example, table.palette)}
                for kind, examples in self.examples.chosen().items()
                for example in examples
            ],
            "images_per_step": images_per_step,
            "written": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "versions": {"Python": platform.python_version()} | _versions(),
            "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
        }


def print_path(workdir: Path) -> None:
    """Prints where the report of a run is, if there is one."""
    if (workdir / REPORT).is_file():
        say(f"Report: {workdir / REPORT}")


def _images_per_step(file: Path) -> int | None:
    """Returns the images per step of an earlier record, which an evaluation after the training does not know."""
    return json.loads(file.read_text()).get("images_per_step") if file.is_file() else None


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
