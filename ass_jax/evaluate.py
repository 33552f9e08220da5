"""Scores a segmenter on the target domain, draws what it predicts, and answers `--mode=eval`."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax import metrics, pictures
from ass_jax.checkpoint import Checkpoints
from ass_jax.losses import IGNORED
from ass_jax.models import Networks, build_networks
from ass_jax.sharding import by_image, global_batch, local_images, make_mesh, on_mesh, pad_images, replicated
from ass_jax.state import Variables, abstract_segmenter
from ass_jax.steps import evaluation_step

Batch = dict[str, np.ndarray]
See = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # Of an image, its prediction and its labels.

CHECKPOINTS = "checkpoints"  # Folders and files of a working directory.
PREDICTIONS = "predictions"
STRIP = "predictions.png"
LABELLED = "labelled"  # Key of reports and of a checkpoint's configuration: which target images were labelled.


def evaluate(
    config: ConfigDict, *, class_table: Any, evaluation_batches: Callable[[], Iterable[Batch]], workdir: Path
) -> dict:
    """Scores a checkpoint and writes a picture of some predictions, and every prediction as a palette PNG.

    Args:
      config: the whole configuration.
      class_table: `names`, `palette` `[C, 3]` and `subsets` of the classes.
      evaluation_batches: gives one pass over the validation images.
      workdir: of the training run.

    Returns:
      JSON-able: the checkpoint's `step`, what it says of the `labelled` images that it was trained on, and the report
      of `ass_jax.metrics.report`; the report of the moving average, where there is one, under `average`.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint is of another model, or a setting is unknown.
    """
    networks = build_networks(config, len(class_table.names))
    mesh = make_mesh([])
    with Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, read_only=True) as checkpoints:
        number = _chosen_step(checkpoints, config.evaluation.checkpoint)
        target = on_mesh(abstract_segmenter(networks, config), mesh)
        variables = {"": checkpoints.restore_segmenter(target, number)}
        labelled = checkpoints.configuration(number).get(LABELLED)
        if config.average_decay:
            variables["average"] = checkpoints.restore_segmenter(target, number, average=True)
    step = make_evaluation_step(networks, config, mesh)
    folder = PngFolder(workdir / PREDICTIONS, class_table.palette)
    strip = Strip(config.evaluation.pictures, class_table)

    def see(image: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> None:
        folder(image, prediction, labels)
        strip(image, prediction, labels)

    report = {"step": number, LABELLED: labelled} | score_all(
        variables, evaluation_batches, step=step, mesh=mesh, class_table=class_table, see=see
    )
    print_report(config.variant, report)
    print(f"Predictions: {folder.path}/  Picture: {strip.save(workdir / STRIP)}", flush=True)
    return report


def make_evaluation_step(networks: Networks, config: ConfigDict, mesh: Mesh) -> Callable:
    """Returns `evaluation_step` jitted over a mesh."""
    step = functools.partial(evaluation_step, networks=networks, config=config)
    return jax.jit(step, out_shardings=(replicated(mesh), by_image(mesh)))


def score_all(
    variables: dict[str, Variables],
    batches: Callable[[], Iterable[Batch]],
    *,
    see: See | None = None,
    **others: Any,
) -> dict:
    """Scores the trained weights (under "") and, as a nested report, every other set under its own name.

    Args:
      variables: by name; "" is the trained segmenter itself.
      batches: gives one pass over the validation images.
      see: as in `score`; for "" only.
      **others: `step`, `mesh` and `class_table` of `score`.
    """
    report = score(variables[""], batches(), see=see, **others)
    for name in variables.keys() - {""}:
        report[name] = score(variables[name], batches(), **others)
    return report


def score(
    variables: Variables,
    batches: Iterable[Batch],
    *,
    step: Callable,
    mesh: Mesh,
    class_table: Any,
    see: See | None = None,
) -> dict:
    """Returns `ass_jax.metrics.report` over all images of `batches`.

    Args:
      variables: of the segmenter, on the devices of `mesh`.
      batches: `image` uint8 `[B, H, W, 3]`, `label` `[B, Y, X]`, `valid` bool `[B]`.
      step: of `make_evaluation_step`.
      mesh: see `ass_jax.sharding`.
      class_table: `names` and `subsets` of the classes.
      see: called with each of this process's images, its prediction and its labels.
    """
    num_classes = len(class_table.names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for batch in batches:
        padded = pad_images(batch, mesh.size, IGNORED)
        counts, predictions = step(variables, global_batch({"image": padded["image"], "label": padded["label"]}, mesh))
        confusion += np.asarray(counts, np.int64)
        if see is not None:
            local = local_images(predictions)
            for index in np.flatnonzero(batch["valid"]):
                see(batch["image"][index], local[index], batch["label"][index])
    return metrics.report(confusion, class_table.names, class_table.subsets)


def print_report(name: str, report: dict) -> None:
    """Prints the table of scores, with a column for each set of weights."""
    if jax.process_index() == 0:
        columns = {name: report} | {key: report[key] for key in ("average",) if key in report}
        print(metrics.format_table(columns), flush=True)


class Strip:
    """Collects the first images that it sees into a picture: input, prediction, truth."""

    def __init__(self, count: int, class_table: Any):
        """Prepares to collect `count` images; `class_table` has `names` and `palette`."""
        self._count, self._class_table, self._seen = count, class_table, []

    def __call__(self, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> None:
        """Takes an image `[H, W, 3]`, its prediction `[Y, X]` and its labels `[Y, X]`."""
        if len(self._seen) < self._count:
            self._seen.append((image, prediction, labels))

    def picture(self) -> np.ndarray | None:
        """Returns the picture, uint8 `[height, width, 3]`; None if no image was seen."""
        if not self._seen:
            return None
        images, predictions, labels = (np.stack(maps) for maps in zip(*self._seen, strict=True))
        table = self._class_table
        return pictures.prediction_strip(images, predictions, labels, table.palette, table.names)

    def save(self, path: Path) -> Path | None:
        """Writes the picture and returns its path; None if no image was seen."""
        picture = self.picture()
        if picture is None:
            return None
        pictures.save_picture(path, picture)
        return path


class PngFolder:
    """Writes every prediction that it sees as a palette PNG, numbered in the order of the images."""

    def __init__(self, path: Path, palette: np.ndarray):
        """Makes the folder `path`; `palette` is uint8 `[C, 3]`."""
        path.mkdir(parents=True, exist_ok=True)
        self.path, self._palette, self._count = path, palette, 0

    def __call__(self, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> None:
        """Writes one prediction `[Y, X]`."""
        number = self._count * jax.process_count() + jax.process_index()
        pictures.save_prediction(self.path / f"{number:06}.png", prediction, self._palette)
        self._count += 1


def _chosen_step(checkpoints: Checkpoints, choice: str) -> int:
    steps = {"last": checkpoints.latest_step, "best": checkpoints.best_step}
    if choice not in steps:
        raise ValueError(f"Unknown evaluation.checkpoint {choice!r}. Valid: {', '.join(steps)}.")
    step = steps[choice]()
    if step is None:
        raise FileNotFoundError(f"No {choice} checkpoint in {checkpoints.directory}. Train first: --mode=train.")
    return step
