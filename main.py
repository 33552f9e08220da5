"""Trains a segmentation network across two domains, evaluates a trained one, or labels images with it.

  python main.py --config=configs/toy.py --workdir=runs/toy
  python main.py --config=configs/toy.py:source_only --workdir=runs/toy_source_only
  python main.py --config=configs/gta5.py:500,adaptsegnet --workdir=runs/gta5_500_adaptsegnet
  python main.py --config=configs/toy.py --config.loss.semantic_weight=0.01 --workdir=runs/toy_strong
  python main.py --config=configs/toy.py --workdir=runs/toy --mode=eval
  python main.py --config=configs/toy.py --workdir=runs/toy --mode=predict --input=photos
  python main.py --config=configs/gta5.py --mode=check

`python main.py --config=FILE --help` lists every key of that configuration with its value.
`configs/base.py` says what each key means and which words may follow the file's colon.
"""

import contextlib
import errno
import functools
import os
import sys
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

# None of these imports a heavy library: help and mistakes are answered at once.
from ass_jax.runtime import console
from ass_jax.runtime import workdir as run_files
from ass_jax.runtime.lock import training_lock
from configs import _command_line
from configs._validate import validate
from configs.user_error import UserError
from data import classes, streams
from data.checking import check as data_check
from data.datasets import registry
from data.preparation.location import Locations
from data.raw import nifti, slices
from data.raw.faults import BadFileError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of checkpoints, logs, scores and pictures.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "predict", "check"],
    "train (the default; goes on from the last checkpoint), eval, predict, or check: examines the data on disk.",
)
INPUT = flags.DEFINE_string("input", None, "For predict: an image or volume, a folder of them or a quoted glob.")
OUTPUT = flags.DEFINE_string("output", None, "For predict: folder of the label maps; default: WORKDIR/predicted.")
WEIGHTS = flags.DEFINE_string("weights", None, "For predict: weight file or exported program; default: the run's.")
CONFIDENCE = flags.DEFINE_boolean("confidence", False, "For predict: also a picture of each label's probability.")
CHECK_FILES = flags.DEFINE_integer(
    "check_files", None, "For check: number of evenly spread images to examine in each split; default: all.", 1
)
_PLACES = ("init", "data.directory", "data.source_root", "data.target_root", "data.labelled_list")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # Full, over its quota, or read-only.
EXIT_CODE_OF_FAILURE = 1  # Of --mode=check, and of --mode=predict if some images cannot be read.
EXIT_CODE_OF_INTERRUPT = 130  # As shells report Ctrl-C; SIGTERM in training: 143. See `ass_jax/runtime/preemption.py`.


def train(config: ConfigDict, workdir: str | os.PathLike) -> dict:
    """Trains to `config.steps`, from the last checkpoint if there is one, and scores the result.

    It prepares the data on first use.

    Args:
      config: the whole configuration.
      workdir: folder of checkpoints, metrics, scores and pictures; it is made.

    Returns:
      The report of `ass_jax.training.loop.train`, which is also written to `eval.json`.

    Raises:
      UserError: a mistake in a setting or a file, or the end of the run by a signal.
    """
    workdir, class_table = Path(workdir).expanduser(), _validated_classes(config)
    if config.evaluation.split != "validation":
        raise UserError(
            f"evaluation.split is {config.evaluation.split!r}; expected --mode=eval with it, or 'validation'."
        )
    locations = data_check.check_before_training(config)
    run_files.make_folder(workdir)
    if config.init and not run_files.has_checkpoint(workdir):
        from ass_jax.weights import pretrained

        # A file that is missing, damaged or unclear costs no preparation of the data.
        pretrained.expect_branches(pretrained.open_weights(config.init), config, len(class_table.names))
    # A second training must end here: preparing the data and the writer come before the loop takes the lock.
    if config.distributed.index <= 0 and not config.distributed.detect:
        with training_lock(workdir):
            pass
    host = _start(config, workdir, locations)

    from clu import metric_writers

    from ass_jax.runtime import distributed
    from ass_jax.training import loop
    from data import pipeline

    choice = pipeline.labelled_list(config)
    data = loop.TrainingData(
        training_batches=functools.partial(pipeline.training_batches, config, **host),
        evaluation_batches=functools.partial(pipeline.evaluation_batches, config, **host),
        held_out_batches=functools.partial(pipeline.held_out_batches, config, **host) if config.data.held_out else None,
        labelled=choice.summary() if choice else None,
        names_of_step=functools.partial(pipeline.names_of_step, config),
        left_out=pipeline.left_out(config),
        volumes=pipeline.volumes(config),
        held_out_volumes=pipeline.held_out_volumes(config) if config.data.held_out else None,
    )
    writer = metric_writers.create_default_writer(workdir, just_logging=host["host"] > 0)
    with distributed.end_together(), contextlib.closing(writer):
        report = loop.train(config, data, class_table=class_table, writer=writer, workdir=workdir)
    _write_scores(workdir, report, host)
    return report


def evaluate(config: ConfigDict, workdir: str | os.PathLike) -> dict:
    """Scores a checkpoint of a run and writes every prediction; `config.evaluation` chooses checkpoint and images.

    Args:
      config: the whole configuration.
      workdir: of the run.

    Returns:
      The report of `ass_jax.evaluation.evaluate.evaluate`; with scores, it is also written to `eval.json`, for
      the split "source" to `eval_source.json`, for "test" to `eval_test.json`.

    Raises:
      UserError: a mistake in a setting or a file.
    """
    workdir, class_table = Path(workdir).expanduser(), _validated_classes(config)
    run_files.expect_checkpoint(workdir)
    host = _start(config, workdir, scored_only=True)

    from ass_jax.evaluation import evaluate as evaluation
    from data import pipeline

    batches = functools.partial(pipeline.evaluation_batches, config, **host)
    report = evaluation.evaluate(
        config,
        class_table=class_table,
        evaluation_batches=batches,
        workdir=workdir,
        labelled=registry.evaluation_has_labels(config),
        left_out=pipeline.left_out(config),
        volumes=pipeline.volumes(config),
    )
    _write_scores(workdir, report, host)
    return report


def predict(
    config: ConfigDict,
    workdir: str | os.PathLike | None,
    pattern: str,
    *,
    output: str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    confidence: bool = False,
) -> list[str]:
    """Labels a user's images.

    Args:
      config: the whole configuration; a run has its own.
      workdir: of the run; None: `output` and `weights` are given.
      pattern: an image or a NIfTI volume, a folder of them or a glob.
      output: folder of the label maps; default: `predicted` in `workdir`.
      weights: weight file or exported program; default: the run's last checkpoint.
      confidence: also writes a picture of each label's probability.

    Returns:
      A line with the reason for each image that could not be read.

    Raises:
      UserError: there are no images, the weights do not fit, or the output cannot be written.
    """
    class_table = _validated_classes(config)
    if not (workdir or (weights and output)):
        raise UserError(
            "Expected a working directory, or both weights and an output folder; "
            f"found weights {weights} and output {output}."
        )

    from ass_jax.inference import image_files, prediction_files, predictor

    inputs = image_files.find_images(os.path.expanduser(pattern))
    output = Path(output or Path(workdir) / run_files.LABEL_MAPS).expanduser()
    try:
        labeller = predictor.open_predictor(Path(weights or workdir).expanduser(), config, class_table)
    except UserError:
        if older := prediction_files.older_results(inputs, output):
            console.print_error(f"Nothing is labelled; {len(older)} results in {output}/ are of an earlier prediction.")
        raise
    failures = prediction_files.predict_files(
        labeller, inputs, output, confidence, volumes=prediction_files.VolumeFormat(_read_volume, nifti.write)
    )
    console.say(f"Label maps: {len(inputs) - len(failures)}, in {output}/")
    if failures:
        console.print_error(f"Unreadable images: {len(failures)}:", *failures)
    return failures


def _read_volume(file: Path) -> tuple[nifti.Frame, dict[int, np.ndarray]]:
    """Returns the frame of a volume and its slices that show some of the brain, by number, as training sees them."""
    from ass_jax.inference.image_files import UnreadableImageError

    try:
        voxels, frame = nifti.read(file)
    except BadFileError as error:
        raise UnreadableImageError(str(error)) from error
    grey = slices.to_grey(voxels)
    return frame, {number: slices.image_of(grey, number) for number in slices.numbers_inside(grey).tolist()}


def check(config: ConfigDict, workdir: str | os.PathLike | None = None, files: int | None = None) -> bool:
    """Examines the data on disk, calculates the memory of a training step and verifies the step; prints the results.

    Args:
      config: the whole configuration.
      workdir: folder for the whole report on the data; None: it is only printed, in short.
      files: number of evenly spread images to examine in each split; None: all.

    Returns:
      Whether training would work.

    Raises:
      UserError: a mistake in a setting, the initial weights do not fit, or the report cannot be written.
    """
    class_table = _validated_classes(config)
    report = None
    if workdir:
        workdir = Path(workdir).expanduser()
        run_files.make_folder(workdir)
        report = workdir / run_files.CHECK_REPORT
        with run_files.writing(report):  # Before hours of reading, and told apart from faults of the data.
            report.touch()
    try:
        usable = data_check.check_data(config, files, report)
    except OSError as error:
        raise data_check.UnusableDataError(f"The data cannot be examined: {error}") from error
    if usable and config.init:
        config = _check_weights(config, class_table)
    if usable:
        usable = _check_step(config, class_table)
    return usable


def _validated_classes(config: ConfigDict) -> classes.ClassTable:
    """Checks all settings, completes folders that begin with ~, and returns the class table of the run."""
    for key in _PLACES:  # A shell leaves the ~ of --key=~/folder as it is.
        group, _, name = key.rpartition(".")
        settings = config[group] if group else config
        if settings[name].startswith("~"):
            settings[name] = os.path.expanduser(settings[name])
    validate(config)
    return registry.scored_classes(config)


def _start(
    config: ConfigDict, workdir: Path, locations: Locations | None = None, *, scored_only: bool = False
) -> dict[str, int]:
    """Joins the processes of the run and prepares the data; returns the arguments of the pipeline for this process."""
    # TensorFlow prints while it loads, and its oneDNN kernels print at any log level, unless these are set before.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import jax

    from ass_jax.runtime import allocator, compilation, distributed
    from data import pipeline

    distributed.join(config.distributed)
    allocator.keep_memory()
    compilation.use_compilation_cache(workdir)
    pipeline.prepare(config, locations, scored_only=scored_only)
    return {"host": jax.process_index(), "hosts": jax.process_count()}


def _write_scores(workdir: Path, report: dict, host: dict[str, int]) -> None:
    if host["host"] == 0 and "mean_iou" in report:
        run_files.write_json(workdir / run_files.of_split(run_files.SCORES, report["split"]), report)


def _check_weights(config: ConfigDict, class_table: classes.ClassTable) -> ConfigDict:
    """Prints how the initial weights fit the network; returns the configuration with their settings."""
    from ass_jax.method.state import abstract_segmenter
    from ass_jax.models import build_networks
    from ass_jax.weights import pretrained

    weights, num_classes = pretrained.open_weights(config.init), len(class_table.names)
    config = pretrained.set_by(weights, config, num_classes)
    _, placement = pretrained.place(weights, abstract_segmenter(build_networks(config, num_classes), config))
    console.say("", pretrained.describe(weights, placement))
    return config


def _check_step(config: ConfigDict, class_table: classes.ClassTable) -> bool:
    """Compiles a training step, prints the memory that it needs, and returns whether it agrees with plain operations.

    Prints as well why the memory cannot be calculated, or how the step compares.
    """
    from ass_jax.training import memory_estimate, verification

    console.print_error("", "Compiling a training step to calculate its memory ...")
    step, num_classes, sizes = None, len(class_table.names), streams.shapes(config)
    try:
        step = memory_estimate.compile_step(config, num_classes, sizes)
        lines = memory_estimate.report_lines(step, sizes)
    except (RuntimeError, UserError) as error:  # RuntimeError: also of JAX's compiler.
        lines = [f"The memory of a training step could not be calculated: {error}"]
    console.say("", *lines)
    try:
        difference = verification.verify_configuration(config, num_classes, sizes, step)
    except verification.DifferentError as error:
        console.print_user_error(error)
        return False
    if difference is None:
        console.say("Not compared with plain operations. --config.verify=always does it for any network.")
    else:
        console.say(verification.format_agreement(difference))
    return True


def main(arguments: list[str]) -> int:
    """Calls the function of the mode with the values of the flags; returns the exit code."""
    del arguments  # All are flags.
    if CHECK_FILES.value is not None and MODE.value != "check":
        raise UserError(f"--check_files is for --mode=check; found --mode={MODE.value}. Remove either.")
    if logging.get_verbosity() == logging.INFO:  # absl's default; --verbosity=1 shows all.
        logging.set_verbosity(logging.WARNING)
    config, workdir = flags.FLAGS.config, WORKDIR.value
    if MODE.value == "train":
        train(config, workdir)
    elif MODE.value == "eval":
        evaluate(config, workdir)
    elif MODE.value == "predict":
        unreadable = predict(
            config,
            workdir,
            INPUT.value,
            output=OUTPUT.value,
            weights=WEIGHTS.value,
            confidence=CONFIDENCE.value,
        )
        return EXIT_CODE_OF_FAILURE if unreadable else 0
    elif not check(config, workdir, CHECK_FILES.value):
        return EXIT_CODE_OF_FAILURE
    return 0


def run() -> None:
    """Runs `main`. A mistake of the user and Ctrl-C end it with a message; any other error shows its traceback."""
    try:
        app.run(main, flags_parser=_command_line.parse)
    except UserError as error:
        sys.exit(console.print_user_error(error))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        place = error.filename or "A file, most likely below the working directory or data.directory,"
        remedy = "Make room on the disk, allow writing there, or name another folder; then repeat the command."
        sys.exit(console.print_user_error(UserError(f"{place} cannot be written ({error.strerror}). {remedy}")))
    except KeyboardInterrupt:
        hint = ""
        if flags.FLAGS.is_parsed() and MODE.value == "train" and WORKDIR.value:
            resumes = run_files.has_checkpoint(Path(WORKDIR.value))
            hint = f" The same command {'goes on from the last checkpoint' if resumes else 'begins the training anew'}."
        console.print_error(f"Interrupted.{hint}")
        sys.exit(EXIT_CODE_OF_INTERRUPT)


if __name__ == "__main__":
    run()
