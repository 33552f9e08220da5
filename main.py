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
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict

from ass_jax.runtime import lock  # These two import nothing heavy.
from ass_jax.runtime import workdir as run_files
from configs import _command_line
from configs._validate import validate
from configs.user_error import UserError
from data import classes, streams
from data.checking import check
from data.raw.faults import printable

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of checkpoints, logs, scores and pictures.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "predict", "check"],
    "train (the default; goes on from the last checkpoint), eval, predict, or check: looks into the data on disk.",
)
INPUT = flags.DEFINE_string("input", None, "For predict: an image, a folder of images or a quoted glob.")
OUTPUT = flags.DEFINE_string("output", None, "For predict: folder of the label maps; default: WORKDIR/predicted.")
WEIGHTS = flags.DEFINE_string("weights", None, "For predict: weight file or exported program; default: the run's.")
CONFIDENCE = flags.DEFINE_boolean("confidence", False, "For predict: also a picture of each label's probability.")
CHECK_FILES = flags.DEFINE_integer(
    "check_files", None, "For check: so many evenly spread images of each split; default: all.", 1
)
EXIT_CODE_OF_BAD_DATA = 1
EXIT_CODE_OF_INTERRUPT = 130  # As shells report Ctrl-C; SIGTERM in training: 143. See `ass_jax/runtime/preemption.py`.
EXIT_CODE_OF_DIFFERENCE = 1  # Between the training step and the same in plain operations.
EXIT_CODE_OF_UNREADABLE = 1  # Some images of --mode=predict; the others are done.


def main(arguments: list[str]) -> None:
    """Joins data, method and writer as the flags say, and leaves the scores in `eval.json`."""
    del arguments  # All are flags.
    config = flags.FLAGS.config
    with told_plainly(ValueError):
        validate(config)
        class_table = classes.class_table(config.data.classes, config.data.custom)
        if MODE.value == "train" and config.evaluation.split != "validation":
            raise ValueError("evaluation.split is 'test', whose images have no labels; expected --mode=eval with it.")
        if MODE.value != "check" and CHECK_FILES.value is not None:
            raise ValueError(f"--check_files is for --mode=check; found --mode={MODE.value}. Remove either.")
    if logging.get_verbosity() == logging.INFO:  # absl's default; --verbosity=1 shows all.
        logging.set_verbosity(logging.WARNING)
    workdir = Path(WORKDIR.value) if WORKDIR.value else None  # Needed by all modes but check.
    if MODE.value == "check":
        with told_plainly(OSError, ValueError, code=EXIT_CODE_OF_BAD_DATA):
            sound = check.check_data(config, CHECK_FILES.value, workdir)
        if sound:
            tell_memory(config, class_table)
            verify(config, class_table)
        sys.exit(0 if sound else EXIT_CODE_OF_BAD_DATA)
    if MODE.value == "predict":
        predict(config, class_table, workdir)
        return
    locations = None  # Of the files, where they are known already.
    if MODE.value == "train":
        with told_plainly(ValueError, code=EXIT_CODE_OF_BAD_DATA):
            locations = check.check_before_training(config)
        with told_plainly(OSError, lock.LockedError):
            workdir.mkdir(parents=True, exist_ok=True)
            # For a moment only, before the writer leaves files there; training takes the lock when it begins.
            if config.distributed.index <= 0 and not config.distributed.detect:
                with lock.held(workdir):
                    pass
    if MODE.value == "eval":
        with told_plainly(OSError):
            run_files.expect_checkpoint(workdir)
    # TensorFlow prints while it loads unless told so before; its oneDNN kernels do so at any level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Not at the top: TensorFlow takes seconds, which help and mistakes should not.
    import jax
    from clu import metric_writers

    from ass_jax.checkpoints.integrity import DamagedError
    from ass_jax.evaluation import evaluate
    from ass_jax.runtime import compilation, distributed
    from ass_jax.training import loop
    from data import pipeline
    from data.reading import bad_records

    with told_plainly(ValueError):
        distributed.join(config.distributed)
        compilation.keep_programs(workdir)
        pipeline.prepare(config, locations)
    host = {"host": jax.process_index(), "hosts": jax.process_count()}
    common = {
        "class_table": class_table,
        "evaluation_batches": functools.partial(pipeline.evaluation_batches, config, **host),
        "workdir": workdir,
    }
    if MODE.value == "eval":
        with told_plainly(FileNotFoundError, DamagedError, bad_records.UndecodableError):
            report = evaluate.evaluate(config, **common)
    else:
        with told_plainly(ValueError):
            chosen = pipeline.labelled_list(config)
        training_batches = functools.partial(pipeline.training_batches, config, **host)
        if config.data.held_out:
            common["held_out_batches"] = functools.partial(pipeline.held_out_batches, config, **host)
        writer = metric_writers.create_default_writer(workdir, just_logging=host["host"] > 0)
        plainly = told_plainly(*loop.ENDS, bad_records.UndecodableError)
        with distributed.ended_together(), contextlib.closing(writer), plainly:
            report = loop.train(
                config,
                training_batches=training_batches,
                labelled=chosen.summary() if chosen else None,
                names_of_step=functools.partial(pipeline.names_of_step, config),
                writer=writer,
                **common,
            )
    if host["host"] == 0 and "mean_iou" in report:
        (workdir / run_files.SCORES).write_text(json.dumps(report, indent=2) + "\n")


def tell_memory(config: ConfigDict, class_table: classes.ClassTable) -> None:
    """Says for `--mode=check` what memory a training step takes; nothing that goes wrong here is the data's fault."""
    print("\nCompiling a training step to see what memory it needs ...", file=sys.stderr, flush=True)
    try:
        from ass_jax.training import memory_estimate

        lines = memory_estimate.lines(config, len(class_table.names), streams.shapes(config))
    except Exception as error:
        lines = [f"The memory of a training step could not be calculated: {error}"]
    print("", *map(printable, lines), sep="\n", flush=True)


def verify(config: ConfigDict, class_table: classes.ClassTable) -> None:
    """Compares a training step with plain operations for `--mode=check`; ends with code 1 where they differ."""
    from ass_jax.training import verification

    with told_plainly(verification.DifferentError, code=EXIT_CODE_OF_DIFFERENCE):
        difference = verification.verify_shapes(config, len(class_table.names), streams.shapes(config))
    if difference is None:
        print("Not compared with plain operations. --config.verify=always does it for any network.", flush=True)
    else:
        print(verification.described(difference), flush=True)


def predict(config: ConfigDict, class_table: classes.ClassTable, workdir: Path) -> None:
    """Labels the images of `--input`; ends with code 1 if some could not be read."""
    from ass_jax.inference import predictor as predict

    with told_plainly(OSError, ValueError):
        inputs = predict.find_images(INPUT.value)
        predictor = predict.open_predictor(Path(WEIGHTS.value or workdir), config, class_table)
        output = Path(OUTPUT.value or workdir / "predicted")
        failures = predict.predict_files(predictor, inputs, output, CONFIDENCE.value)
    print(f"Label maps of {len(inputs) - len(failures)} images: {output}/", flush=True)
    if failures:
        print(f"{len(failures)} images could not be read:", *map(printable, failures), sep="\n", file=sys.stderr)
        sys.exit(EXIT_CODE_OF_UNREADABLE)


@contextlib.contextmanager
def told_plainly(*kinds: type[Exception], code: int = UserError.exit_code) -> Iterator[None]:
    """Ends the process with the error's own words, and its exit code if it has one, where they say what to do."""
    try:
        yield
    except kinds as error:
        print("\n".join(map(printable, str(error).splitlines())), file=sys.stderr)
        sys.exit(getattr(error, "exit_code", code))


def run() -> None:
    """Runs `main`; Ctrl-C ends it with a sentence instead of a traceback."""
    try:
        app.run(main, flags_parser=_command_line.parse)
    except KeyboardInterrupt:
        hint = ""
        if flags.FLAGS.is_parsed() and MODE.value == "train" and WORKDIR.value:
            there = run_files.has_checkpoint(Path(WORKDIR.value))
            hint = f" The same command {'goes on from the last checkpoint' if there else 'begins the training anew'}."
        print(f"Interrupted.{hint}", file=sys.stderr)
        sys.exit(EXIT_CODE_OF_INTERRUPT)


if __name__ == "__main__":
    run()
