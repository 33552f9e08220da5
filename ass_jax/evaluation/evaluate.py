"""Scores a segmenter on the target domain, draws what it predicts, and answers `--mode=eval`."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax import visualization
from ass_jax.checkpoints import config_diff, selection
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.evaluation import metrics
from ass_jax.evaluation.metrics import confusion_matrix
from ass_jax.inference.prediction_files import PredictionFiles
from ass_jax.inference.views import prediction_step
from ass_jax.method.losses import IGNORED
from ass_jax.method.state import Variables, abstract_segmenter
from ass_jax.models import Networks, build_networks
from ass_jax.runtime import compilation, console
from ass_jax.runtime.console import say
from ass_jax.runtime.sharding import by_image, global_batch, local_images, make_mesh, on_mesh, pad_images, replicated
from ass_jax.runtime.workdir import CHECKPOINTS, PREDICTIONS, STRIP, TEST_PREDICTIONS
from ass_jax.weights.pretrained import with_settings

Batch = dict[str, np.ndarray]
See = Callable[[str, np.ndarray, np.ndarray, np.ndarray], None]  # Of name, image, prediction and labels.

LABELLED = "labelled"  # Key of reports and of a checkpoint's configuration: which target images were labelled.
CHANGED = "changed_settings"  # Key of reports: those that matter to the scores, and are not the checkpoint's.


def evaluate(
    config: ConfigDict, *, class_table: Any, evaluation_batches: Callable[[], Iterable[Batch]], workdir: Path
) -> dict:
    """Scores a checkpoint, writes every prediction to files, and a picture of some of them.

    Of images without labels (`config.evaluation.split` is "test"), only the predictions are written.

    Args:
      config: the whole configuration.
      class_table: `names`, `palette` `[C, 3]`, `subsets` and `raw_ids` of the classes.
      evaluation_batches: gives one pass over the images: see `score`.
      workdir: of the training run.

    Returns:
      JSON-able: what `ass_jax.checkpoints.selection.described` says of the checkpoint, `split`, what the checkpoint
      says of its `variant` and of the `labelled` images that it was trained on, `changed_settings` (key, the
      checkpoint's value, ours), and the report of `ass_jax.evaluation.metrics.report`; that of the moving average,
      where there is one, under `average`; those of the last, the selected and the best checkpoint, as scored while
      training, under `checkpoints`. Without labels: the number of `images` in place of all scores.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint is of another model, or a setting is unknown.
    """
    mesh = make_mesh([])
    settings, labelled = config.evaluation, config.evaluation.split != "test"
    with Checkpoints(
        workdir / CHECKPOINTS, config.checkpoint.keep, best_metrics=selection.RANKINGS, read_only=True
    ) as checkpoints:
        number = selection.chosen_step(checkpoints, settings.checkpoint)
        there = checkpoints.configuration(number)
        if config.init:
            config = with_settings(config, there["model"])
        networks = build_networks(config, len(class_table.names))
        target = on_mesh(abstract_segmenter(networks, config), mesh)
        variables = {"": checkpoints.restore_segmenter(target, number)}
        if config.teacher.decay and labelled:
            variables["average"] = checkpoints.restore_segmenter(target, number, average=True)
        others = selection.reports(checkpoints)
    changed = config_diff.scoring_differences(there, config.to_dict())
    if changed:
        lines = config_diff.in_lines(changed)
        say(f"Evaluates checkpoint {number} with settings that are not those of its training:{lines}")
    report = selection.described(number, settings.checkpoint) | {"split": settings.split}
    strip = Strip(settings.pictures, class_table)
    with PredictionFiles(workdir / (PREDICTIONS if labelled else TEST_PREDICTIONS), class_table) as files:

        def see(name: str, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> None:
            files.add(name, prediction)
            strip(name, image, prediction, labels)

        found = score_all(
            variables,
            lambda: console.shown(evaluation_batches()),
            step=make_evaluation_step(networks, config, mesh),
            mesh=mesh,
            class_table=class_table,
            unlabelled_size=tuple(settings.test_size),
            see=see,
        )
    say(f"Predictions of step {number}: {files.path}/ (raw ids), {files.color_path}/ (colours)")
    if not labelled:
        return report | {"images": files.count}
    variant = there.get("variant", config.variant)  # The scores are its own, whatever is asked for now.
    report |= {"variant": variant, LABELLED: there.get(LABELLED), CHANGED: changed} | found | {"checkpoints": others}
    print_report(variant, report)
    say(f"Picture: {strip.save(workdir / STRIP)}")
    return report


def evaluation_step(
    variables: Variables, batch: dict[str, jax.Array], *, networks: Networks, config: ConfigDict
) -> tuple[jax.Array, jax.Array]:
    """Scores a batch as `prediction_step` labels it.

    Args:
      variables: of the segmenter.
      batch: `image` uint8 `[B, H, W, 3]`, `label` `[B, Y, X]`; padding has only ignored pixels.
      networks: the segmenter is used.
      config: the whole configuration; static.

    Returns:
      Confusion matrix int32 `[C, C]` (rows: truth) and the predictions uint8 `[B, Y, X]`.
    """
    size = batch["label"].shape[1:]
    found = prediction_step(variables, batch["image"], networks=networks, config=config, size=size)
    return confusion_matrix(found, batch["label"], networks.segmenter.num_classes), found


def make_evaluation_step(networks: Networks, config: ConfigDict, mesh: Mesh) -> Callable:
    """Returns `evaluation_step` jitted over a mesh."""
    step = functools.partial(evaluation_step, networks=networks, config=config)
    shardings = (replicated(mesh), by_image(mesh))
    return jax.jit(step, out_shardings=shardings, compiler_options=compilation.options_of_steps())


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
      batches: gives one pass over the images.
      see: as in `score`; for "" only.
      **others: `step`, `mesh`, `class_table` and `unlabelled_size` of `score`.
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
    unlabelled_size: tuple[int, int] = (1, 1),
    see: See | None = None,
) -> dict:
    """Returns `ass_jax.evaluation.metrics.report` over all images of `batches`.

    Args:
      variables: of the segmenter, on the devices of `mesh`.
      batches: `image` uint8 `[B, H, W, 3]`, `valid` bool `[B]`, and, unless there are none, `label` `[B, Y, X]` and
        `name`, text `[B]`.
      step: of `make_evaluation_step`.
      mesh: see `ass_jax.runtime.sharding`.
      class_table: `names` and `subsets` of the classes.
      unlabelled_size: height, width of the predictions of images without labels, which are scored nowhere.
      see: called with the name (empty without names), the image, the prediction and the labels of each of this
        process's images.
    """
    num_classes = len(class_table.names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for batch, (counts, predictions) in _one_ahead(batches, variables, step, mesh, unlabelled_size):
        confusion += np.asarray(counts, np.int64)
        if see is not None:
            local = local_images(predictions)
            names = batch.get("name", [""] * len(local))
            for index in np.flatnonzero(batch["valid"]):
                see(str(names[index]), batch["image"][index], local[index], batch["label"][index])
    return metrics.report(confusion, class_table.names, class_table.subsets)


def _one_ahead(
    batches: Iterable[Batch], variables: Variables, step: Callable, mesh: Mesh, unlabelled_size: tuple[int, int]
) -> Iterator[tuple[Batch, tuple[jax.Array, jax.Array]]]:
    """Yields each batch, now with labels, and what the step makes of it, while the devices work on the next one."""
    before = None
    for batch in batches:
        if "label" not in batch:
            batch = batch | {"label": np.full((len(batch["valid"]), *unlabelled_size), IGNORED, np.uint8)}
        padded = pad_images({key: batch[key] for key in ("image", "label", "valid")}, mesh.size, IGNORED)
        found = step(variables, global_batch({"image": padded["image"], "label": padded["label"]}, mesh))
        if before is not None:
            yield before
        before = batch, found
    if before is not None:
        yield before


def print_report(name: str, report: dict) -> None:
    """Prints the scores: which checkpoint's, a column for each set of weights, and a row for each choice of one."""
    if jax.process_index() == 0:
        columns = {name: report} | {key: report[key] for key in ("average",) if key in report}
        print(f"Checkpoint of step {report['step']}: {report['checkpoint']} ({report['chosen']})")
        print(metrics.format_table(columns))
        others = ", with the settings of then, not those above" if report.get(CHANGED) else ""
        print(f"Checkpoints, as scored while training{others}:")
        print(selection.format_reports(report["checkpoints"]), flush=True)


class Strip:
    """Collects the first images that it sees into a picture: input, prediction, truth."""

    def __init__(self, count: int, class_table: Any):
        """Prepares to collect `count` images; `class_table` has `names` and `palette`."""
        self._count, self._class_table, self._seen = count, class_table, []

    def __call__(self, name: str, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> None:
        """Takes an image `[H, W, 3]`, its prediction `[Y, X]` and its labels `[Y, X]`; its name is not shown."""
        if len(self._seen) < self._count:
            self._seen.append((image, prediction, labels))

    def picture(self) -> np.ndarray | None:
        """Returns the picture, uint8 `[height, width, 3]`; None if no image was seen."""
        if not self._seen:
            return None
        images, predictions, labels = (np.stack(maps) for maps in zip(*self._seen, strict=True))
        table = self._class_table
        return visualization.prediction_strip(images, predictions, labels, table.palette, table.names)

    def save(self, path: Path) -> Path | None:
        """Writes the picture, on process 0, and returns its path; None if no image was seen."""
        picture = self.picture()
        if picture is None:
            return None
        if jax.process_index() > 0:
            return path
        visualization.save_picture(path, picture)
        return path
