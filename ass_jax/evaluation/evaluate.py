"""Scores a trained segmenter and writes its predictions."""

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
from ass_jax.checkpoints.manager import Checkpoints, MisfitError
from ass_jax.class_table import ClassTable, background_class
from ass_jax.evaluation import image_scores, metrics
from ass_jax.evaluation.metrics import confusion_matrices
from ass_jax.evaluation.report.record import EvaluationRecord, print_path
from ass_jax.inference.prediction_files import PredictionFiles
from ass_jax.inference.volume_files import VolumeFiles, Volumes
from ass_jax.method import views
from ass_jax.method.losses import IGNORED
from ass_jax.method.state import Variables, abstract_segmenter
from ass_jax.models import Networks, build_networks
from ass_jax.runtime import compilation
from ass_jax.runtime.console import progress, say
from ass_jax.runtime.sharding import (
    by_image,
    global_batch,
    local_images,
    local_places,
    make_mesh,
    on_mesh,
    pad_images,
    replicated,
)
from ass_jax.runtime.workdir import CHECKPOINTS, PREDICTION_PICTURE, PREDICTIONS, of_split, writing
from ass_jax.weights.model_settings import with_settings
from configs.user_error import UserError

Batch = dict[str, np.ndarray]
# Takes name, image, prediction, labels and confusion matrix of an image.
Visit = Callable[[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]

LABELLED = "labelled"  # Key of reports and of a checkpoint's configuration: which target images were labelled.
CHANGED = "changed_settings"  # Key of reports: settings that change the scores and differ from the checkpoint's.


def evaluate(
    config: ConfigDict,
    *,
    class_table: ClassTable,
    evaluation_batches: Callable[[], Iterable[Batch]],
    workdir: Path,
    labelled: bool = True,
    left_out: int = 0,
    volumes: Volumes | None = None,
) -> dict:
    """Scores a checkpoint, writes every prediction to files, a picture of some of them, and the report of the run.

    Images of the target are normalised by the running statistics of the target, those of the source
    (`config.evaluation.split` is "source") by its own, where the run has separate ones. For images without labels, it
    only writes the predictions.

    Args:
      config: the whole configuration.
      class_table: `names`, `palette` `[C, 3]`, `subsets` and `raw_ids` of the classes.
      evaluation_batches: returns an iterator over the images, see `score`.
      workdir: of the training run.
      labelled: whether the images have labels.
      left_out: images of the split, or volumes, whose files cannot be used.
      volumes: of the images, which are slices; None: they are none.

    Returns:
      JSON-able. Which checkpoint it is: the entries of `ass_jax.checkpoints.selection.describe`, and its `variant` and
      `labelled` images. The scores: `split`, the entries of `score`, and the same for the moving average, if there is
      one, under `average`. `changed_settings` (key, the checkpoint's value, the current value). `checkpoints`: the
      reports that the last, the selected and the best checkpoint were saved with. Without labels: the number of
      `images` and of `images_left_out` instead of the scores.

    Raises:
      UserError: there is no such checkpoint, it is damaged or of another model, or files cannot be written.
    """
    mesh = make_mesh([])
    settings = config.evaluation
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        number = selection.chosen_step(checkpoints, settings.checkpoint)
        saved = checkpoints.configuration(number)
        if config.init:
            config = with_settings(config, saved["model"])
        networks = build_networks(config, len(class_table.names))
        target = on_mesh(abstract_segmenter(networks, config), mesh)
        from_source = settings.split == "source"
        try:
            variables = {"": checkpoints.restore_segmenter(target, number, source=from_source)}
        except MisfitError as error:
            settings_of_network = config_diff.network_differences(saved, config.to_dict())
            if not settings_of_network:
                raise
            raise UserError(
                f"Checkpoint {number} in {checkpoints.directory} is of another network. Evaluate it with its own "
                f"settings:{config_diff.format_differences(settings_of_network)}"
            ) from error
        if config.teacher.decay and labelled and not from_source:  # It has no statistics of the source.
            variables["average"] = checkpoints.restore_segmenter(target, number, average=True)
        saved_reports = selection.saved_reports(checkpoints)
    changed = config_diff.scoring_differences(saved, config.to_dict())
    if changed:
        lines = config_diff.format_differences(changed)
        say(f"Evaluating checkpoint {number} with settings that differ from those of its training:{lines}")
    say_left_out(left_out, volumes)
    report = selection.describe(number, settings.checkpoint) | {"split": settings.split}
    strip, record = PredictionStrip(settings.pictures, class_table), EvaluationRecord(class_table)
    folder = workdir / of_split(PREDICTIONS, settings.split)
    files = VolumeFiles(folder, class_table, volumes) if volumes else PredictionFiles(folder, class_table)
    with files:

        def visit(
            name: str, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray, confusion: np.ndarray
        ) -> None:
            files.add(name, prediction)
            strip.add(image, prediction, labels)
            record.visit(name, image, prediction, labels, confusion)

        scores = score_all(
            variables,
            lambda: progress(evaluation_batches(), "evaluation batches"),
            step=make_evaluation_step(networks, config, mesh, others=bool(class_table.others)),
            mesh=mesh,
            class_table=class_table,
            unlabelled_size=tuple(settings.test_size),
            left_out=left_out,
            volumes=volumes,
            visit=visit,
            take_total=record.take_total,
        )
    colours = "" if isinstance(files, VolumeFiles) else f", {files.color_path}/ (colours)"
    ids = "train ids" if class_table.raw_ids is None else "raw ids"
    say(f"Predictions of step {number}: {files.path}/ ({ids}){colours}")
    if not labelled:
        return report | {"images": files.count, "images_left_out": left_out}
    variant = saved.get("variant", config.variant)  # The variant of the training, whatever the command line says.
    report |= {"variant": variant, LABELLED: saved.get(LABELLED), CHANGED: changed}
    report |= scores | {"checkpoints": saved_reports}
    print_report(variant, report)
    strip.save(workdir / of_split(PREDICTION_PICTURE, settings.split))
    record.report(workdir, report)
    print_path(workdir)
    return report


def evaluation_step(
    scores: jax.Array, batch: dict[str, jax.Array], *, num_classes: int, others: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Labels a batch by its scores and compares the labels with the truth.

    Args:
      scores: `[B, h, w, C]` of `ass_jax.method.views.scores_step`.
      batch: `label` `[B, Y, X]` and `valid` bool `[B]`, False for padding.
      num_classes: `C`.
      others: whether labels hold the class table's `others`; static.

    Returns:
      Confusion matrix of each image int32 `[B, C, C]` (rows: truth; one more with `others`), `valid`, and the
      predictions uint8 `[B, Y, X]`.
    """
    predictions = views.labels(scores, batch["label"].shape[1:])
    return confusion_matrices(predictions, batch["label"], num_classes, others), batch["valid"], predictions


def make_evaluation_step(networks: Networks, config: ConfigDict, mesh: Mesh, *, others: bool = False) -> Callable:
    """Returns a function of variables and a batch, with `image` uint8 `[B, H, W, 3]`, that calls `evaluation_step`.

    It is two programs, each compiled for the mesh on its first call: the network's depends on the size of the images
    alone, so that label files of many sizes compile it once.
    """
    options = compilation.options_of_steps()
    score_images = jax.jit(
        functools.partial(views.scores_step, networks=networks, config=config),
        out_shardings=by_image(mesh),
        compiler_options=options,
    )
    compare = jax.jit(
        functools.partial(evaluation_step, num_classes=networks.segmenter.num_classes, others=others),
        out_shardings=(replicated(mesh), replicated(mesh), by_image(mesh)),  # All processes get the counts of all.
        compiler_options=options,
    )

    def step(variables: Variables, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        of_labels = {key: batch[key] for key in ("label", "valid")}
        return compare(score_images(variables, batch["image"]), of_labels)

    return step


def score_all(
    variables: dict[str, Variables],
    batches: Callable[[], Iterable[Batch]],
    *,
    visit: Visit | None = None,
    take_total: Callable[[np.ndarray], None] | None = None,
    **others: Any,
) -> dict:
    """Scores several sets of weights on the same images.

    Args:
      variables: by name; "" is the trained segmenter itself.
      batches: returns an iterator over the images.
      visit: as in `score`, for "" only.
      take_total: as in `score`, for "" only.
      **others: `step`, `mesh`, `class_table`, `unlabelled_size`, `left_out` and `volumes` of `score`.

    Returns:
      The report of "", with the report of every other set under its name.
    """
    report = score(variables[""], batches(), visit=visit, take_total=take_total, **others)
    for name in variables.keys() - {""}:
        report[name] = score(variables[name], batches(), **others)
    return report


def score(
    variables: Variables,
    batches: Iterable[Batch],
    *,
    step: Callable,
    mesh: Mesh,
    class_table: ClassTable,
    unlabelled_size: tuple[int, int] = (1, 1),
    left_out: int = 0,
    volumes: Volumes | None = None,
    visit: Visit | None = None,
    take_total: Callable[[np.ndarray], None] | None = None,
) -> dict:
    """Scores all images of `batches`, of all processes.

    Args:
      variables: of the segmenter, on the devices of `mesh`.
      batches: `image` uint8 `[B, H, W, 3]`, `valid` bool `[B]` and, where they exist, `label` `[B, Y, X]` and `name`,
        text `[B]`.
      step: of `make_evaluation_step`.
      mesh: see `ass_jax.runtime.sharding`.
      class_table: `names`, `subsets` and `others` of the classes.
      unlabelled_size: height, width of the predictions of images without labels, which count for no score.
      left_out: images, or volumes, that are not in `batches`, because their files cannot be used.
      volumes: of the images, which are slices; None: they are none.
      visit: called with name (empty if there are none), image, prediction, labels and confusion matrix of each image of
        this process.
      take_total: called at the end with the confusion matrix of all images of all processes.

    Returns:
      The entries of `ass_jax.evaluation.metrics.report` and `ass_jax.evaluation.image_scores.report`; of slices also
      those of `volume_report` there.
    """
    num_classes = len(class_table.names)
    confusion = np.zeros((num_classes + bool(class_table.others), num_classes), np.int64)
    counts = [np.zeros((0, 3, num_classes), np.int64)]
    for batch, (confusions, valid, predictions) in _one_ahead(batches, variables, step, mesh, unlabelled_size):
        every = np.asarray(confusions, np.int64)
        of_images = every[np.asarray(valid)]
        confusion += of_images.sum(axis=0)
        counts.append(image_scores.count_pixels(of_images[:, :num_classes]))
        if visit is not None:
            local, places = local_images(predictions), local_places(predictions)
            names = batch.get("name", [""] * len(local))
            labels = np.where(batch["label"] < num_classes, batch["label"], IGNORED)  # Others have no colour.
            for index in np.flatnonzero(batch["valid"]):
                visit(str(names[index]), batch["image"][index], local[index], labels[index], every[places[index]])
    if take_total is not None:
        take_total(confusion)
    report = metrics.report(confusion, class_table.names, class_table.subsets, class_table.others)
    of_images = np.concatenate(counts)
    if volumes is None:
        return report | image_scores.report(of_images, class_table.names, left_out)
    of_volumes = image_scores.add_slices(of_images, volumes.of_images)
    by_volume = image_scores.volume_report(of_volumes, class_table.names, left_out)
    return report | image_scores.report(of_images, class_table.names) | by_volume


def _one_ahead(
    batches: Iterable[Batch], variables: Variables, step: Callable, mesh: Mesh, unlabelled_size: tuple[int, int]
) -> Iterator[tuple[Batch, tuple[jax.Array, jax.Array, jax.Array]]]:
    """Yields each batch, with labels, and its result of the step while the devices work on the next batch."""
    before = None
    for batch in batches:
        if "label" not in batch:
            batch = batch | {"label": np.full((len(batch["valid"]), *unlabelled_size), IGNORED, np.uint8)}
        padded = pad_images({key: batch[key] for key in ("image", "label", "valid")}, mesh, IGNORED)
        result = step(variables, global_batch(padded, mesh))
        if before is not None:
            yield before
        before = batch, result
    if before is not None:
        yield before


def say_left_out(count: int, volumes: Volumes | None = None) -> None:
    """Prints how many images, or volumes, of the split are left out of the scores, unless there are none."""
    if count:
        kind = "Volumes" if volumes else "Images"
        say(f"{kind} left out of the evaluation because their files cannot be used: {count}; --mode=check names them.")


def print_report(variant: str, report: dict) -> None:
    """Prints the scores, a column for each set of weights, and the reports that checkpoints were saved with."""
    columns = {variant: report} | {key: report[key] for key in ("average",) if key in report}
    note = ", with the settings of that time, not those above" if report.get(CHANGED) else ""
    say(
        f"Checkpoint of step {report['step']}: {report['checkpoint']} ({report['chosen']})",
        metrics.format_table(columns),
        f"Checkpoints, as scored during training{note}:",
        selection.format_reports(report["checkpoints"]),
    )


class PredictionStrip:
    """Collects the first images of a pass for a picture: input, prediction, truth; all at the size of the first."""

    def __init__(self, count: int, class_table: ClassTable):
        """Prepares to collect `count` images; `class_table` has `names` and `palette`."""
        self._count, self._class_table, self._rows = count, class_table, []

    def add(self, image: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> None:
        """Takes an image `[H, W, 3]`, its prediction `[Y, X]` and its labels `[Y, X]`."""
        if len(self._rows) < self._count:
            size = self._rows[0][2].shape if self._rows else labels.shape
            self._rows.append((image, *(visualization.resize_nearest(each, size) for each in (prediction, labels))))

    def picture(self) -> np.ndarray | None:
        """Returns the picture, uint8 `[height, width, 3]`; None without images."""
        if not self._rows:
            return None
        images, predictions, labels = (np.stack(maps) for maps in zip(*self._rows, strict=True))
        table = self._class_table
        background = background_class(table.names)
        return visualization.prediction_strip(images, predictions, labels, table.palette, table.names, background)

    def save(self, path: Path) -> None:
        """Writes the picture on process 0 and prints its path, unless there are no images.

        Raises:
          UserError: the picture cannot be written.
        """
        picture = self.picture()
        if picture is None:
            return
        if jax.process_index() == 0:
            with writing(path):
                visualization.save_picture(path, picture)
        say(f"Picture: {path}")
