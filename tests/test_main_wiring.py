"""What `main.py` calls in each mode, in which order, and how it ends, with stand-ins for heavy modules."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ass_jax.runtime.lock import training_lock
from ass_jax.runtime.workdir import LOCK

ROOT = Path(__file__).parent.parent
# Runs main.py with stand-ins for heavy modules, which print their arguments.
WIRING = """
import contextlib, sys, types
from configs.user_error import UserError

def stand_in(name, **content):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)

class Writer:
    def close(self):
        print("writer closed")

def call(name):
    return lambda *arguments, **keywords: print(name, *arguments[1:], *sorted(keywords.items()))

class StoppedError(UserError):
    exit_code = 143

def train(config, data, *, class_table, writer, workdir):
    print("train", config.variant, config.seed, config.is_locked, class_table.names[0], workdir.name, data.labelled)
    assert isinstance(writer, Writer)
    data.training_batches(7)
    data.evaluation_batches()
    if data.held_out_batches:
        data.held_out_batches()
    data.names_of_step(6)
    print("left out", data.left_out, data.volumes)
    if config.steps == 1:
        raise KeyboardInterrupt
    if config.steps == 2:
        raise StoppedError("Stopped")
    if config.steps == 3:
        raise ValueError("A bug")
    return {"variant": config.variant, "step": 9, "mean_iou": {"toy": 0.5}, "split": "validation"}

def prepare(config, locations, *, scored_only):
    print("prepare", *["scored only"] * scored_only)
    if config.data.labelled_count == 9:
        raise UserError("Missing data")

def labelled_list(config):
    if config.data.labelled_count == 7:
        raise UserError("Missing image")
    return None if config.seed == 6 else types.SimpleNamespace(summary=lambda: {"list": "toy"})

def evaluate(config, *, class_table, evaluation_batches, workdir, labelled, left_out, volumes):
    if config.steps == 1:
        raise UserError("No checkpoint")
    print("evaluate", config.variant, class_table.names[0], workdir.name, left_out, volumes)
    if not labelled:
        return {"step": 8, "images": 3}
    return {"variant": config.variant, "step": 8, "mean_iou": {"toy": 0.25}, "split": config.evaluation.split}

stand_in("jax", process_index=lambda: 0, process_count=lambda: 2)
stand_in("clu")
sys.modules["clu"].metric_writers = types.SimpleNamespace(create_default_writer=lambda *_, **__: Writer())
stand_in("ass_jax", __path__=["ass_jax"])  # Its light modules are the real ones.
stand_in("ass_jax.evaluation", __path__=["ass_jax/evaluation"])
stand_in("ass_jax.runtime.allocator", keep_memory=lambda: print("memory kept"))
stand_in("ass_jax.runtime.compilation", use_compilation_cache=lambda workdir: print("cache in", workdir.name))
stand_in("ass_jax.training", __path__=["ass_jax/training"])
stand_in("ass_jax.training.loop", train=train, TrainingData=types.SimpleNamespace)
stand_in("ass_jax.runtime.distributed", join=lambda settings: None, end_together=contextlib.nullcontext)
stand_in("ass_jax.evaluation.evaluate", evaluate=evaluate)
stand_in("ass_jax.weights", __path__=["ass_jax/weights"])
stand_in(
    "ass_jax.weights.pretrained",
    open_weights=lambda path: print("opened", path) or path,
    expect_branches=lambda weights, config, count: print("branches of", weights, count),
)
stand_in("ass_jax.inference", __path__=["ass_jax/inference"])
stand_in("ass_jax.inference.image_files", find_images=lambda pattern: [pattern, "other"])
stand_in(
    "ass_jax.inference.predictor",
    open_predictor=lambda weights, config, class_table: f"{weights.name} {class_table.names[0]}",
)
stand_in(
    "ass_jax.inference.prediction_files",
    predict_files=lambda *arguments, volumes: (
        print(*arguments) or (["other: unreadable \x1b[31m"] if arguments[-1] else [])
    ),
    VolumeFormat=lambda read, write: "volumes",
)
left_out = lambda config: 2
volumes = lambda config: "volumes"
names = ("training_batches", "evaluation_batches", "held_out_batches", "names_of_step")
pipeline = {"prepare": prepare, "labelled_list": labelled_list, "left_out": left_out}
pipeline |= {"volumes": volumes, "held_out_volumes": volumes}
stand_in("data.pipeline", **pipeline, **{name: call(name) for name in names})
import main
main.run()
"""


def wire(tmp_path, *arguments):
    if "--mode=eval" in arguments:
        (tmp_path / "new/run/checkpoints/8").mkdir(parents=True)
    command = [sys.executable, "-c", WIRING, "--config=configs/toy.py:joint"]
    if tmp_path:
        command.append(f"--workdir={tmp_path}/new/run")
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_training_is_wired(tmp_path):
    result = wire(tmp_path, "--config.seed=5")
    assert result.stdout.splitlines() == [
        "memory kept",
        "cache in run",
        "prepare",
        "train joint 5 True road run {'list': 'toy'}",
        "training_batches 7 ('host', 0) ('hosts', 2)",
        "evaluation_batches ('host', 0) ('hosts', 2)",
        "names_of_step 6",
        "left out 2 volumes",
        "writer closed",
    ]
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "new/run/eval.json").read_text())
    assert report == {"variant": "joint", "step": 9, "mean_iou": {"toy": 0.5}, "split": "validation"}


def test_initial_weights_are_opened_before_the_data_is_prepared(tmp_path):
    lines = wire(tmp_path, "--config.init=weights.pth").stdout.splitlines()
    assert lines[:3] == ["opened weights.pth", "branches of weights.pth 10", "memory kept"]
    (tmp_path / "new/run/checkpoints/8").mkdir(parents=True)
    assert "opened" not in wire(tmp_path, "--config.init=weights.pth").stdout  # The checkpoint has them.


def test_run_without_labelled_target_images_is_wired(tmp_path):
    assert "train joint 6 True road run None" in wire(tmp_path, "--config.seed=6").stdout.splitlines()


def test_home_folders_are_completed(tmp_path):
    weights = "--config.init=~/weights.pth"
    command = [sys.executable, "-c", WIRING, "--config=configs/toy.py:joint", "--workdir=~/new/run", weights]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"opened {tmp_path}/weights.pth\n")
    assert (tmp_path / "new/run/eval.json").exists()
    arguments = ["--mode=predict", "--input=~/photos", "--weights=~/w.pth", "--output=~/out"]
    result = subprocess.run(
        [*command[:4], *arguments], cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.stdout.splitlines()[0] == f"w.pth road ['{tmp_path}/photos', 'other'] {tmp_path}/out False"
    assert not (ROOT / "~").exists()


def test_evaluation_is_wired(tmp_path):
    result = wire(tmp_path, "--mode=eval")
    assert result.stdout.splitlines() == [
        "memory kept",
        "cache in run",
        "prepare scored only",
        "evaluate joint road run 2 volumes",
    ]
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "new/run/eval.json").read_text())
    assert report == {"variant": "joint", "step": 8, "mean_iou": {"toy": 0.25}, "split": "validation"}


def test_prediction_is_wired(tmp_path):
    result = wire(tmp_path, "--mode=predict", "--input=photos/*.jpg")
    assert result.stdout.splitlines() == [
        f"run road ['photos/*.jpg', 'other'] {tmp_path}/new/run/predicted False",
        f"Label maps: 2, in {tmp_path}/new/run/predicted/",
    ]
    assert result.returncode == 0, result.stderr


def test_prediction_of_a_weight_file_needs_no_working_directory(tmp_path):
    arguments = ["--mode=predict", "--input=photos/*.jpg", "--weights=street.npz"]
    result = wire(None, *arguments, f"--output={tmp_path}")
    assert result.stdout.splitlines() == [
        f"street.npz road ['photos/*.jpg', 'other'] {tmp_path} False",
        f"Label maps: 2, in {tmp_path}/",
    ]
    assert result.returncode == 0, result.stderr
    result = wire(None, *arguments)
    assert (result.returncode, "--workdir is missing" in result.stderr) == (2, True)


def test_unreadable_images_are_named_and_change_the_exit_code(tmp_path):
    arguments = ("--input=a.png", f"--output={tmp_path}/out", "--confidence", "--weights=w.safetensors")
    result = wire(tmp_path, "--mode=predict", *arguments)
    assert f"w.safetensors road ['a.png', 'other'] {tmp_path}/out True\n" in result.stdout
    assert "other: unreadable" in result.stderr
    assert result.returncode == 1


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "new").write_text("a file")
    result = wire(tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(rf"{tmp_path}/new/run cannot be written \(Not a directory\)\. .*\n", result.stderr)


def test_a_bug_shows_its_traceback(tmp_path):
    result = wire(tmp_path, "--config.steps=3")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "writer closed"
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("ValueError: A bug\n")


def test_second_training_is_refused_before_it_leaves_files(tmp_path):
    with training_lock(tmp_path / "new/run"):
        result = wire(tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"in use by another training: process {os.getpid()}" in result.stderr
        assert [file.name for file in (tmp_path / "new/run").iterdir()] == [LOCK]
        # Of several processes only the first one takes the lock.
        others = ("--config.distributed.coordinator=localhost:1", "--config.distributed.processes=2")
        assert wire(tmp_path, *others, "--config.distributed.index=1").returncode == 0
    assert not (tmp_path / "new/run" / LOCK).exists()


def test_held_out_images_are_wired(tmp_path):
    result = wire(tmp_path, "--config.data.held_out=3")
    assert "held_out_batches ('host', 0) ('hosts', 2)" in result.stdout.splitlines()


def test_test_images_leave_the_scores_alone(tmp_path):
    data = ("--config.data.target=cityscapes", "--config.data.classes=cityscapes19", "--config.evaluation.split=test")
    result = wire(tmp_path, "--mode=eval", *data)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "new/run/eval.json").exists()
    result = wire(tmp_path, *data)
    assert (result.returncode, result.stdout) == (2, "")
    assert "evaluation.split is 'test'; expected --mode=eval with it" in result.stderr


def test_scores_of_the_source_have_a_file_of_their_own(tmp_path):
    result = wire(tmp_path, "--mode=eval", "--config.evaluation.split=source")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "new/run/eval_source.json").exists()
    assert not (tmp_path / "new/run/eval.json").exists()


def test_interrupt_shows_no_traceback(tmp_path):
    result = wire(tmp_path, "--config.steps=1")
    assert result.returncode == 130
    assert result.stdout.splitlines()[-1] == "writer closed"
    assert result.stderr == "Interrupted. The same command begins the training anew.\n"
    assert not (tmp_path / "new/run/eval.json").exists()
    (tmp_path / "new/run/checkpoints/3").mkdir(parents=True)
    assert wire(tmp_path, "--config.steps=1").stderr == (
        "Interrupted. The same command goes on from the last checkpoint.\n"
    )


def test_stopped_run_ends_with_the_code_of_its_signal(tmp_path):
    result = wire(tmp_path, "--config.steps=2")
    assert (result.returncode, result.stderr) == (143, "Stopped\n")
    assert result.stdout.splitlines()[-1] == "writer closed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.labelled_count=9"], "Missing data\n"),
        (["--config.model.branches=9"], "model.branches is 9; expected one of 1, 2, 3, 4.\n"),
        (["--config.data.labelled_count=7"], "Missing image\n"),
        (["--mode=eval", "--config.steps=1"], "No checkpoint\n"),
    ],
)
def test_a_mistake_shows_only_its_message(tmp_path, arguments, message):
    result = wire(tmp_path, *arguments)
    assert (result.returncode, result.stderr) == (2, message)


def test_unreadable_images_are_named_without_control_characters(tmp_path):
    result = wire(tmp_path, "--mode=predict", "--input=\x1b[31mred.png", "--confidence")
    assert result.returncode == 1
    assert "other: unreadable \\x1b[31m\n" in result.stderr
    assert "\x1b" not in result.stderr
