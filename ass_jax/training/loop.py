"""The training loop, from top to bottom."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax.checkpoints import config_diff, selection
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.class_table import ClassTable
from ass_jax.evaluation.evaluate import LABELLED, Batch, evaluate, print_report, say_left_out
from ass_jax.evaluation.report.record import print_path
from ass_jax.inference.volume_files import Volumes
from ass_jax.method.losses import IGNORED
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import Networks, build_networks
from ass_jax.runtime import compilation, preemption
from ass_jax.runtime.console import format_seconds, say
from ass_jax.runtime.distributed import lost_processes
from ass_jax.runtime.lock import training_lock
from ass_jax.runtime.sharding import global_batch, make_mesh, on_mesh, replicated
from ass_jax.runtime.workdir import CHECKPOINTS, PREDICTION_PICTURE, make_folder
from ass_jax.training import memory_estimate, verification
from ass_jax.training.metric_writer import MetricWriter
from ass_jax.training.monitor import DivergedError, Monitor
from ass_jax.training.validation import Validation, describe_scores
from ass_jax.weights.model_settings import with_settings
from ass_jax.weights.pretrained import Pretrained, describe, open_weights, place, set_by
from ass_jax.weights.trained_model import write_description

TrainingBatch = dict[str, Batch]


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The data of a run, as functions that return iterators.

    Attributes:
      training_batches: of the step to begin with, counted from 0; the batches are a pure function of the step, see
        `ass_jax.method.train_step.train_step` for their form.
      evaluation_batches: one pass over the validation images, see `ass_jax.evaluation.evaluate.score`.
      held_out_batches: one pass over labelled target images that are not trained on; their score selects a checkpoint
        without the help of the validation images. None if there are none.
      labelled: describes the labelled target images in reports and checkpoints, JSON-able: `list`, which they are, and
        `sha256`. None if there are none.
      names_of_step: returns the names of the images of a step by stream, for warnings.
      left_out: validation images, or volumes, whose files cannot be used.
      volumes: of the validation images, which are slices; None: they are none.
      held_out_volumes: the same of the images of `held_out_batches`.
    """

    training_batches: Callable[[int], Iterator[TrainingBatch]]
    evaluation_batches: Callable[[], Iterable[Batch]]
    held_out_batches: Callable[[], Iterable[Batch]] | None = None
    labelled: dict | None = None
    names_of_step: Callable[[int], dict[str, list[str]]] | None = None
    left_out: int = 0
    volumes: Volumes | None = None
    held_out_volumes: Volumes | None = None


def train(config: ConfigDict, data: TrainingData, *, class_table: ClassTable, writer: Any, workdir: Path) -> dict:
    """Trains to `config.steps`, from the last checkpoint if there is one, and scores the result.

    SIGTERM or SIGINT ends the run after the current step, whose state is saved; an evaluation in progress is given up.
    With several processes, SIGTERM to any of them ends all.

    Args:
      config: the whole configuration.
      data: of the run.
      class_table: `names`, `palette` `[C, 3]`, `subsets` and `raw_ids` of the classes.
      writer: a `clu.metric_writers.MetricWriter`.
      workdir: of checkpoints, metrics, configuration and pictures.

    Returns:
      The report of `ass_jax.evaluation.evaluate.evaluate` at the last step, with the scores on held-out images under
      `held_out`.

    Raises:
      UserError: the user can mend it, or a signal ends the run. Kinds: LockedError (another process trains in this
        directory), DamagedError (all checkpoints are damaged), ChangedError (the configuration differs from the
        checkpoint's), WeightFileError (the initial weights do not fit), DifferentError (the first step differs from
        plain operations, see `config.verify`), DivergedError (`config.skipped_limit` steps in a row are not finite),
        SaveError (a checkpoint cannot be written), StoppedError (a signal), LostError (another process has ended).
      ValueError: the first batch does not have the documented form.
    """
    make_folder(workdir)
    num_classes = len(class_table.names)
    with (
        lost_processes(),
        training_lock(workdir) if jax.process_index() == 0 else contextlib.nullcontext(),
        Checkpoints(
            workdir / CHECKPOINTS, config.checkpoint.keep, best_metrics=selection.RANKINGS[config.checkpoint.metric]
        ) as checkpoints,
    ):
        start = checkpoints.latest_intact_step() or 0
        config, initial = _with_settings_of_weights(config, checkpoints, start, num_classes)
        if start:
            _expect_same_configuration(config, data, checkpoints, start)
        if start >= config.steps:
            _say_nothing_to_train(start, config.steps)
            return evaluate(
                config,
                class_table=class_table,
                evaluation_batches=data.evaluation_batches,
                workdir=workdir,
                left_out=data.left_out,
                volumes=data.volumes,
            )

        # Data. Its position is the step, so that a resumed run needs nothing else to go on.
        batches = data.training_batches(start)
        first = next(batches)
        _expect_batch(first, num_classes)
        mesh = make_mesh([len(examples["image"]) * jax.process_count() for examples in first.values()])
        batch = global_batch(first, mesh)

        # Model. Its description comes before the first checkpoint, which cannot be used without it.
        networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
        if jax.process_index() == 0:
            write_description(workdir, config, class_table)

        # State.
        shared = {"networks": networks, "optimizer": optimizer, "config": config}
        create = functools.partial(create_state, num_classes=num_classes, **shared)
        state = _restored(create, checkpoints, start, mesh) if start else _first_state(create, initial, mesh)

        # Steps, with reports, evaluations and saves between them.
        step = _compile_step(state, batch, mesh, **shared)
        if data.labelled:
            say(f"Labelled target images: {data.labelled['list']}; SHA-256 {data.labelled['sha256']}.")
        say_left_out(data.left_out, data.volumes)
        if not start and verification.is_enabled(config, state):
            say(verification.format_agreement(verification.verify_step(step, state, batch, config, num_classes)))
        metric_writer = MetricWriter(writer, workdir, start)
        validation = Validation(config, networks, mesh, data, class_table, metric_writer, workdir)
        monitor = Monitor(config, metric_writer, start, batch, data.names_of_step)
        run = _Run(config, data, checkpoints, monitor, validation, metric_writer, mesh)
        scores = _take_steps(run, step, state, batch, batches, start)
        report = describe_scores(config.steps, scores, config.variant, data.labelled)
        report["checkpoints"] = selection.saved_reports(checkpoints)
    metric_writer.flush()
    print_report(config.variant, report)
    validation.strip.save(workdir / PREDICTION_PICTURE)
    print_path(workdir)
    return report


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the steps of a run share."""

    config: ConfigDict
    data: TrainingData
    checkpoints: Checkpoints
    monitor: Monitor
    validation: Validation
    writer: MetricWriter
    mesh: Mesh


def _take_steps(
    run: _Run, step: Callable, state: TrainState, batch: dict, batches: Iterator[TrainingBatch], start: int
) -> dict:
    """Takes the steps after `start`; reports, evaluates and saves between them. Returns the scores of the last step."""
    config: ConfigDict = run.config
    scores: Any = None
    # From here on there is work to lose, so signals wait for a step's end. With several processes, JAX catches them.
    with preemption.catch_signals(install=jax.process_count() == 1) as request:
        for number in range(start + 1, config.steps + 1):
            # Nothing waits for a device between two reports, so that steps queue up ahead of the devices.
            state, metrics = step(state, batch)
            run.monitor.add(metrics)
            last = number == config.steps
            stopping = request.signal is not None or run.checkpoints.reached_preemption(number)
            if not (last or stopping):
                batch = global_batch(next(batches), run.mesh)  # Read while the devices work on the step.
            evaluating = last or _is_due(number, config.evaluation.every)
            # A state that is scored is saved: it may be the best one.
            saving = evaluating or stopping or _is_due(number, _steps_between_saves(config.checkpoint.every))
            if saving or _is_due(number, config.log_every):
                _report_metrics(run, number, state)
            with run.monitor.paused():
                scores = None
                if evaluating and not stopping:
                    scores = run.validation.run(number, state, batch, request)
                    stopping = scores is None
                if saving:
                    _save(run, number, state, scores)
            if stopping:
                run.writer.flush()
                run.checkpoints.wait()
                raise preemption.StoppedError(number, request.signal)
    return scores


def _report_metrics(run: _Run, number: int, state: TrainState) -> None:
    """Reports the metrics since the last report; saves the state before an error ends the run."""
    run.checkpoints.raise_failed_save()
    try:
        run.monitor.report(number)
    except DivergedError:
        # Skipped updates left the state as the last good one made it.
        _save(run, number, state, None)
        run.checkpoints.wait()
        raise


def _save(run: _Run, number: int, state: TrainState, scores: dict | None) -> None:
    metrics = None if scores is None else selection.checkpoint_metrics(scores)
    run.checkpoints.save(number, state, metrics, _saved_configuration(run.config, run.data))


def _saved_configuration(config: ConfigDict, data: TrainingData) -> dict:
    """Returns the configuration that is saved with a checkpoint."""
    return config.to_dict() | {LABELLED: data.labelled}


def _expect_same_configuration(config: ConfigDict, data: TrainingData, checkpoints: Checkpoints, start: int) -> None:
    config_diff.expect_same_configuration(
        checkpoints.directory,
        start,
        saved=checkpoints.configuration(start),
        current=_saved_configuration(config, data),
        allow_changes=config.resume_with_changes,
    )


def _is_due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0


def _steps_between_saves(every: int) -> int:
    """Returns the steps between the starts of two saves, such that a kill never loses more than `every` steps.

    Steps go on during a save, whose checkpoint counts only when it is complete, and the next save waits for it. So the
    last complete checkpoint may be two saves old.
    """
    return max(1, every // 2) if every else 0


def _with_settings_of_weights(
    config: ConfigDict, checkpoints: Checkpoints, start: int, num_classes: int
) -> tuple[ConfigDict, Pretrained | None]:
    """Returns the configuration with the settings of the initial weights, and the weights of a run that begins."""
    if not config.init:
        return config, None
    if start:  # The checkpoint has the weights and their settings; their file is not needed again.
        return with_settings(config, checkpoints.configuration(start)["model"]), None
    initial = open_weights(config.init)
    return set_by(initial, config, num_classes), initial


def _say_nothing_to_train(start: int, steps: int) -> None:
    beyond = f"The checkpoint is of step {start}, beyond config.steps = {steps}: nothing to train"
    say(f"{beyond if start > steps else f'Step {start} of {steps} is done already'}; evaluating.")


def _expect_batch(batch: TrainingBatch, num_classes: int) -> None:
    """Raises ValueError unless a batch has the form that the step expects."""
    for stream, examples in batch.items():
        image = examples["image"]
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"Expected {stream} images uint8 [B, H, W, 3], found {image.dtype} {image.shape}.")
        if "label" not in examples:
            continue
        labels = examples["label"]
        if labels.shape != image.shape[:3]:
            raise ValueError(f"Expected {stream} labels {image.shape[:3]} as its images, found {labels.shape}.")
        unknown = np.setdiff1d(labels, [*range(num_classes), IGNORED])
        if unknown.size:
            raise ValueError(
                f"Expected {stream} labels 0 to {num_classes - 1}, or {IGNORED} for ignored pixels; "
                f"found {unknown[:10].tolist()}."
            )


def _restored(create: Callable[[], TrainState], checkpoints: Checkpoints, start: int, mesh: Mesh) -> TrainState:
    state = checkpoints.restore(on_mesh(jax.eval_shape(create), mesh), start)
    say(f"Goes on from step {start} of {checkpoints.directory}.")
    return state


def _first_state(create: Callable[[], TrainState], initial: Pretrained | None, mesh: Mesh) -> TrainState:
    """Returns the state before the first step: random, with initial weights in the segmenter and its moving average."""
    if initial is not None:  # Before anything is compiled, so that an error comes early.
        placed, placement = place(initial, jax.eval_shape(create).segmenter)
    once = compilation.options_of_one_use()
    state = jax.jit(create, out_shardings=replicated(mesh), compiler_options=once)()
    if initial is None:
        return state
    say(describe(initial, placement))
    variables = jax.tree.map(lambda new, drawn: new if isinstance(new, np.ndarray) else drawn, placed, state.segmenter)
    variables = jax.device_put(variables, replicated(mesh))
    # A copy: the step donates the buffers of both, which must not be the same.
    average = None if state.average is None else jax.tree.map(jnp.copy, variables)
    params = state.params | {"segmenter": variables["params"]}
    source_stats = None if state.source_stats is None else jax.tree.map(jnp.copy, variables["batch_stats"])
    return state.replace(
        params=params, batch_stats=variables["batch_stats"], source_stats=source_stats, average=average
    )


def _compile_step(
    state: TrainState,
    batch: dict,
    mesh: Mesh,
    *,
    networks: Networks,
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
) -> jax.stages.Compiled:
    """Compiles the training step and prints its size, the time that compiling took, and its memory."""
    say("Compiling the training step ...")
    begun = time.monotonic()
    step = functools.partial(train_step, networks=networks, config=config, optimizer=optimizer, mesh=mesh)
    lowered = jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh)).lower(state, batch)
    compiled = lowered.compile(compiler_options=compilation.options_of_steps())
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params["segmenter"]))
    sizes = ", ".join(
        f"{len(examples['image'])} {stream} {examples['image'].shape[1]}x{examples['image'].shape[2]}"
        for stream, examples in batch.items()
    )
    say(
        f"{config.variant}: {config.model.backbone}, {weights / 1e6:.2f} million weights; a step takes {sizes}; "
        f"devices: {mesh.size} ({jax.devices()[0].platform}); compiled in {format_seconds(time.monotonic() - begun)}."
    )
    needed = memory_estimate.program_bytes(compiled, batch)
    if needed is not None:
        say(f"A step needs about {memory_estimate.gigabytes(needed)} of memory on each device.")
        if warning := memory_estimate.warning(needed):
            logging.warning("%s", warning)
    return compiled
