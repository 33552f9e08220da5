"""The training loop, told from top to bottom."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax.checkpoints import config_diff, selection
from ass_jax.checkpoints.integrity import DamagedError, SaveError
from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.evaluation.evaluate import (
    CHANGED,
    LABELLED,
    Batch,
    Strip,
    evaluate,
    make_evaluation_step,
    print_report,
    score,
    score_all,
)
from ass_jax.method.losses import IGNORED
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks
from ass_jax.runtime import compilation, lock, preemption
from ass_jax.runtime.console import format_seconds, say
from ass_jax.runtime.distributed import LostError, losses_named
from ass_jax.runtime.sharding import global_batch, make_mesh, on_mesh, replicated
from ass_jax.runtime.workdir import CHECKPOINTS, STRIP
from ass_jax.training import memory_estimate, mixed_picture, verification
from ass_jax.training.monitor import Monitor
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.pretrained import Pretrained, describe, open_weights, place, with_settings
from ass_jax.weights.trained_model import write_description

TrainingBatch = dict[str, Batch]
# Ends of a run whose message says all that a user needs.
ENDS = (
    DamagedError,
    FloatingPointError,
    LostError,
    SaveError,
    WeightFileError,
    lock.LockedError,
    config_diff.ChangedError,
    preemption.StoppedError,
    verification.DifferentError,
)


def train(
    config: ConfigDict,
    *,
    class_table: Any,
    training_batches: Callable[[int], Iterator[TrainingBatch]],
    evaluation_batches: Callable[[], Iterable[Batch]],
    writer: Any,
    workdir: Path,
    labelled: dict | None = None,
    held_out_batches: Callable[[], Iterable[Batch]] | None = None,
    names_of_step: Callable[[int], dict[str, list[str]]] | None = None,
) -> dict:
    """Trains to `config.steps`, from the last checkpoint if there is one, and scores the result.

    SIGTERM and SIGINT (with several processes, SIGTERM to any of them) end the run after the step at hand,
    whose state is saved; an evaluation under way is given up.

    Args:
      config: the whole configuration.
      class_table: `names`, `palette` `[C, 3]`, `subsets` and `raw_ids` of the classes.
      training_batches: gives the batches from a step on, a pure function of it: see
        `ass_jax.method.train_step.train_step`.
      evaluation_batches: gives one pass over the validation images.
      writer: a `clu.metric_writers.MetricWriter`.
      workdir: of checkpoints, `metrics.jsonl`, `config.json` and pictures.
      labelled: what is told and kept of the labelled target images, JSON-able: `list`, which they are, and `sha256`;
        None where there are none.
      held_out_batches: gives one pass over labelled target images that are not trained on; their score selects a
        checkpoint without the help of the validation images. None: there are none.
      names_of_step: gives the names of the images of a step, counted from 0, by stream, for warnings.

    Returns:
      The report of `ass_jax.evaluation.evaluate.evaluate` at the last step, with the scores on held-out images under
      `held_out`.

    Raises:
      ValueError: the batches, the checkpoint or the initial weights do not fit the configuration.
      FloatingPointError: loss or gradients of `config.skipped_limit` steps in a row are not finite.
      LockedError: another process trains in this working directory.
      DamagedError: there are checkpoints, and all are damaged.
      ChangedError: the configuration is not that of the checkpoint.
      SaveError: a checkpoint could not be written.
      StoppedError: a signal ended the run.
      LostError: another process of the run has ended.
      DifferentError: the first step differs from the same step in plain operations, see `config.verify`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    num_classes = len(class_table.names)
    with (
        losses_named(),
        lock.held(workdir) if jax.process_index() == 0 else contextlib.nullcontext(),
        Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, best_metrics=selection.RANKINGS) as checkpoints,
    ):
        start = checkpoints.latest_sound_step() or 0
        initial = None
        if config.init and start:
            config = with_settings(config, checkpoints.configuration(start)["model"])
        elif config.init:
            initial = open_weights(config.init)
            config = with_settings(config, initial.settings_for(num_classes))
        kept = config.to_dict() | {LABELLED: labelled}
        if start:
            there = checkpoints.configuration(start)
            config_diff.check(checkpoints.directory, start, there, kept, allowed=config.resume_with_changes)
        if start >= config.steps:
            beyond = f"The checkpoint is of step {start}, beyond config.steps = {config.steps}: nothing to train"
            say(f"{beyond if start > config.steps else f'Step {start} of {config.steps} is done already'}; evaluating.")
            return evaluate(config, class_table=class_table, evaluation_batches=evaluation_batches, workdir=workdir)
        networks, optimizer = build_networks(config, num_classes), make_optimizer(config)
        if jax.process_index() == 0:
            write_description(workdir, config, class_table)

        # The data's position is the step: nothing else is needed to go on where a run stopped.
        batches = training_batches(start)
        first = next(batches)
        _check_batch(first, num_classes)
        mesh = make_mesh([examples["image"].shape[0] * jax.process_count() for examples in first.values()])
        initialise = functools.partial(
            create_state, networks=networks, optimizer=optimizer, config=config, num_classes=num_classes
        )
        if start:
            state = checkpoints.restore(on_mesh(jax.eval_shape(initialise), mesh), start)
            say(f"Goes on from step {start} of {checkpoints.directory}.")
        else:
            once = compilation.options_of_one_use()
            state = jax.jit(initialise, out_shardings=replicated(mesh), compiler_options=once)()
            if initial is not None:
                state = _with_weights(state, initial, mesh)

        batch = global_batch(first, mesh)
        begun = time.monotonic()
        step = functools.partial(train_step, networks=networks, config=config, optimizer=optimizer)
        step = jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh)).lower(state, batch)
        step = step.compile(compiler_options=compilation.options_of_steps())
        scoring = {"step": make_evaluation_step(networks, config, mesh), "mesh": mesh, "class_table": class_table}
        shown = {"class_table": class_table, "writer": writer, "workdir": workdir}
        show_mixed = mixed_picture.make_show(networks, config, mesh, **shown)
        _print_start(config, state, batch, mesh.size, time.monotonic() - begun, labelled)
        _print_memory(memory_estimate.program_bytes(step, batch))
        if not start and verification.wanted(config, state):
            say(verification.described(verification.verify(step, state, batch, config, num_classes)))

        monitor = Monitor(
            config,
            writer=writer,
            workdir=workdir,
            start=start,
            images_per_step=sum(examples["image"].shape[0] for examples in batch.values()),
            names_of_step=names_of_step,
        )
        report = None
        # From here on there is something to lose. With several processes, JAX itself listens for signals.
        with preemption.noted(install=jax.process_count() == 1) as requests:
            for number in range(start + 1, config.steps + 1):
                # Nothing waits for a device between two reports, so that steps are queued ahead of the devices. Several
                # of them in one program gain nothing while a step takes longer than queueing it: 2 ms of a ResNet-101.
                state, metrics = step(state, batch)
                monitor.add(metrics)
                last = number == config.steps
                stop = requests.received is not None or checkpoints.reached_preemption(number)
                if not (last or stop):
                    batch = global_batch(next(batches), mesh)  # Prepared while the devices work on the step.
                judge = last or _due(number, config.evaluation.every)
                # What is scored is kept, or the best would be lost.
                save = judge or stop or _due(number, _between_saves(config.checkpoint.every))
                if save or _due(number, config.log_every):
                    checkpoints.check()
                    try:
                        monitor.report(number)
                    except FloatingPointError:
                        # Skipped updates leave the state as the last good one made it.
                        checkpoints.save(number, state, None, kept)
                        checkpoints.wait()
                        raise
                with monitor.paused():
                    scores = None
                    if judge and not stop:
                        strip = Strip(config.evaluation.pictures, class_table)
                        judged = {"": evaluation_batches, "held_out": held_out_batches}
                        judged = {name: requests.cut_short(make) for name, make in judged.items() if make}
                        try:
                            report = _judge(state, judged, strip, scoring) | {LABELLED: labelled}
                        except preemption.CutShortError:
                            stop = True
                        else:
                            _log_scores(number, report, strip, monitor, writer)
                            show_mixed(number, state, batch)
                            scores = selection.checkpoint_metrics(report)
                    if save:
                        checkpoints.save(number, state, scores, kept)
                if stop:
                    writer.flush()
                    checkpoints.wait()
                    raise preemption.StoppedError(number, requests.received)
        described = selection.described(config.steps, "last") | {"split": "validation", "variant": config.variant}
        report = described | {CHANGED: []} | report
        report["checkpoints"] = selection.reports(checkpoints)
    writer.flush()
    print_report(config.variant, report)
    say(f"Picture: {strip.save(workdir / STRIP)}")
    return report


def _with_weights(state: TrainState, initial: Pretrained, mesh: Mesh) -> TrainState:
    """Returns the first state with the weights of a file in the segmenter, and in its average."""
    variables, placement = place(initial, state.segmenter)
    say(describe(initial, placement))
    variables = jax.device_put(variables, replicated(mesh))
    # A copy, as when the average starts from random weights.
    average = None if state.average is None else jax.tree.map(jnp.copy, variables)
    params = state.params | {"segmenter": variables["params"]}
    return state.replace(params=params, batch_stats=variables["batch_stats"], average=average)


def _judge(state: TrainState, batches: dict[str, Callable], strip: Strip, scoring: dict) -> dict:
    """Returns the report on the validation images, with that on the held-out ones, if any, under "held_out"."""
    report = score_all(_variables(state), batches[""], see=strip, **scoring)
    if "held_out" in batches:
        report["held_out"] = score(state.segmenter, batches["held_out"](), **scoring)
    return report


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0


def _between_saves(every: int) -> int:
    """Returns after how many steps a save begins, so that a kill never costs more than `every`.

    Steps go on beside a save, whose checkpoint counts only once it is whole; the next save waits for it. So the last
    whole checkpoint may be two saves old.
    """
    return max(1, every // 2) if every else 0


def _variables(state: TrainState) -> dict:
    average = {} if state.average is None else {"average": state.average}
    return {"": state.segmenter} | average


def _log_scores(number: int, report: dict, strip: Strip, monitor: Monitor, writer: Any) -> None:
    """Sends the scores of an evaluation to the console, TensorBoard and `metrics.jsonl`."""
    scores = {}
    groups = {
        "validation": report,
        "validation_average": report.get("average"),
        "held_out": report.get("held_out"),
    }
    for prefix, found in groups.items():
        if found is not None:
            scores |= {f"{prefix}/mIoU_{subset}": value for subset, value in found["mean_iou"].items()}
            scores |= {f"{prefix}_IoU/{name}": value for name, value in found["class_iou"].items()}
    monitor.write(number, scores)
    picture = strip.picture()
    if picture is not None:
        writer.write_images(number, {"validation": picture[None]})


def _check_batch(batch: TrainingBatch, num_classes: int) -> None:
    """Raises ValueError unless the first batch is as the step expects it."""
    for stream, examples in batch.items():
        image = examples["image"]
        if image.ndim != 4 or image.shape[-1] != 3 or image.dtype != np.uint8:
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


def _print_start(
    config: ConfigDict, state: TrainState, batch: dict, devices: int, seconds: float, labelled: dict | None
) -> None:
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params["segmenter"]))
    sizes = ", ".join(
        f"{len(examples['image'])} {stream} {examples['image'].shape[1]}x{examples['image'].shape[2]}"
        for stream, examples in batch.items()
    )
    say(
        f"{config.variant}: {config.model.backbone}, {weights / 1e6:.2f} million weights; a step takes {sizes}; "
        f"{devices} {jax.devices()[0].platform} device(s); compiled in {format_seconds(seconds)}."
    )
    if labelled:
        say(f"Labelled target images: {labelled['list']}; SHA-256 {labelled['sha256']}.")


def _print_memory(needed: float | None) -> None:
    if needed is None:
        return
    say(f"A step needs about {memory_estimate.gigabytes(needed)} of memory on each device.")
    if warning := memory_estimate.warning(needed):
        logging.warning("%s", warning)
