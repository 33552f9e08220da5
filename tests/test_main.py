"""The command line answers help and mistakes at once, without the heavy libraries."""

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ass_jax import lock

ROOT = Path(__file__).parent.parent
TOY = "--config=configs/toy.py"
CUSTOM = "--config=configs/custom.py"
HEAVY = ("tensorflow", "tensorflow_datasets", "jax", "flax", "clu", "orbax")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which importing a heavy library fails."""
    folder = tmp_path_factory.mktemp("heavy")
    for library in HEAVY:
        (folder / f"{library}.py").write_text(f"raise RuntimeError('{library} was imported')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def answer(arguments, environment):
    """Runs main.py; returns its exit code, output and seconds: of the processor, as other jobs share the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "main.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result.returncode, result.stdout, result.stderr, seconds


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--config is missing", "--config=configs/toy.py"]),
        ([TOY], ["--workdir is missing"]),
        (["--workdr=runs/x"], ["'workdr'", "Did you mean: workdir", "--config.KEY"]),
        ([TOY, "--mode=trian"], ["--mode=trian", "<train|eval|predict|check>"]),
        ([TOY, "runs/x"], ["'runs/x'", "--NAME=VALUE"]),
        (["--config=configs/tyo.py"], ["'configs/tyo.py'", "configs/toy.py", "configs/gta5.py"]),
        (
            ["--config=configs/tyo.py", "--config.loss.global_weight=1"],
            ["'configs/tyo.py'", "configs/toy.py"],
        ),
        (["--config=configs/toy.py:as"], ["'as'", "source_only, target_only", "smoke"]),
        (["--config", "configs/toy.py:ass,joint"], ["one variant", "ass, joint"]),
        (["--config.steps=3"], ["--config.steps", "--config=FILE"]),
        ([TOY, "--config.stebs=3"], ["config.stebs", "Did you mean config.steps?", "seed, skipped_limit, steps"]),
        (
            [TOY, "--config.loss.semantic_wieght=1"],
            ["semantic_wieght", "Did you mean config.loss.semantic_weight?", "global_kind, global_weight"],
        ),
        ([TOY, "--config.semantic_weight", "1"], ["Did you mean config.loss.semantic_weight?"]),
        ([TOY, "--noconfig.augment.flop"], ["Did you mean config.augment.flip?"]),
        ([TOY, "--config.steps.many=1"], ["config.steps.many", "Keys of config:"]),
        ([TOY, "--config.data=1"], ["--config.data is a group of keys", "batch.*, classes"]),
        ([TOY, "--config.data.source_size[0]=1"], ["Did you mean config.data.source_size?"]),
        ([TOY, "--config.variant=joint"], ["configs/toy.py:joint", "source_only, target_only"]),
        ([TOY, "--config.steps=many"], ["--config.steps=many", "Expected: int, such as 1500"]),
        ([TOY, "--config.data.source_size=64"], ["expected 2 numbers, such as (64, 128)"]),
        ([TOY, "--config.data.source_size=(64,12.5)"], ["expected 2 numbers, such as (64, 128)"]),
        (["--config=configs/gta5.py:150"], ["'150'", "smoke, 50, 100, 200, 500, 1000, 2975"]),
        (["--config=configs/toy.py:0"], ["labelled target images of 1 or more", "found 0", "source_only needs none"]),
        (["--config=configs/gta5.py:-1"], ["labelled target images of 1 or more", "found -1"]),
        (["--config=configs/toy.py:100,oracle"], ["oracle labels all target images", "found 100"]),
        (["--config=configs/toy.py:50,100"], ["one number of labelled images", "50, 100"]),
        ([CUSTOM, "--config.data.custom.names=(1,2)"], ["names=(1, 2)", "any number of entries such as 'ground'"]),
        ([CUSTOM, "--config.data.custom.palette=((1,2),)"], ["any number of entries such as (128, 64, 128)"]),
        ([CUSTOM, "--config.data.custom.source_ids=(('sky',1),)"], ["any number of entries such as (1, 'ground')"]),
        ([CUSTOM, "--config.data.custom.name=('a',)"], ["Did you mean config.data.custom.names?", "palette"]),
        ([TOY, "--config.evaluation.scales=()"], ["expected one or more numbers, such as (1.0,)"]),
        ([TOY, "--config.evaluation.scales=(1,'x')"], ["expected one or more numbers, such as (1.0,)"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and value[0].startswith("--") else "",
)
def test_mistake_gets_one_message(environment, arguments, expected):
    code, output, message, seconds = answer(arguments, environment)
    assert code == 2
    assert output == ""
    assert all(part in message for part in [*expected, "main.py --help"]), message
    assert "Traceback" not in message
    assert message.count("\n") <= 4
    assert seconds < 2


def test_configuration_file_cannot_define_keys(environment, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import base\n\n"
        "def get_config(words=''):\n"
        "    config = base.get_config(words)\n"
        "    config.data.labeled_count = 3\n"
        "    return config\n"
    )
    code, _, message, _ = answer([f"--config={file}"], environment)
    assert code == 2
    assert "config.data.labeled_count. Did you mean config.data.labelled_count?" in message


BEGIN = "from configs import base\n\ndef get_config(words=''):\n    config = base.default_config()\n    "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", ["mine.py defines no function get_config(words)"]),
        ("def get_config(words=''):\n    return (\n", ["mine.py, line 2: '(' was never closed"]),
        ("import nowhere\n", ["mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'"]),
        ("def get_config():\n    return 3\n", ["mine.py: expected a ConfigDict of get_config, found int"]),
        (BEGIN + "return config.dta\n", ["mine.py, line 5: AttributeError", "dta"]),
        (BEGIN + "return int('x')\n", ["mine.py, line 5: ValueError: invalid literal"]),
        (BEGIN + "config.steps = 'many'\n", ["mine.py, line 5: TypeError", "'steps'"]),
        (BEGIN + "del config['seed']\n    return config\n", ["mine.py lacks config.seed", "base.default_config()"]),
        (BEGIN + "del config['data']\n    config.data = 3\n    return config\n", ["mine.py: config.data is a group"]),
        (
            BEGIN + "config.data.source_size = (64,)\n    return config\n",
            ["mine.py sets config.data.source_size", "2 num"],
        ),
        (
            BEGIN + "del config['seed']\n    config.seed = 'x'\n    return config\n",
            ["mine.py sets config.seed to 'x' of type str; expected int, such as 0"],
        ),
    ],
)
def test_mistake_in_a_configuration_file_is_told_with_its_place(environment, tmp_path, monkeypatch, text, expected):
    file = tmp_path / "mine.py"
    file.write_text(text)
    for name in (str(file), os.path.relpath(file, ROOT)):
        code, output, message, _ = answer([f"--config={name}", f"--workdir={tmp_path}/run"], environment)
        assert (code, output) == (2, "")
        assert all(part in message for part in expected), message
        assert "Traceback" not in message
        assert "--config." not in message


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help_is_short(environment, flag):
    code, output, message, seconds = answer([flag], environment)
    assert (code, message) == (0, "")
    for part in ("--config=configs/toy.py", "--workdir", "check", "--config.KEY", "configs/base.py"):
        assert part in output
    assert output.count("\n") < 25
    assert seconds < 2


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("toy", "source_only, target_only, .*, ass_all, smoke, any number of labelled target images"),
        ("synthia", "source_only, target_only, .*, ass_all, smoke, 50, 100, 200, 500, 1000, 2975"),
    ],
)
def test_help_lists_the_words(environment, file, words):
    code, output, _, _ = answer([f"--config=configs/{file}.py", "--help"], environment)
    assert code == 0
    assert re.search(rf"(?m)^Words after the file's colon: {words}\.$", output)


def test_own_classes_can_be_given_on_the_command_line(environment):
    own = {
        "names": ("ground", "sky"),
        "palette": ((1, 2, 3), (4, 5, 6)),
        "source_ids": ((1, "sky"), (2, "ground"), (3, "ground")),
    }
    for file in (CUSTOM, TOY):
        arguments = [f"--config.data.custom.{key}={value}" for key, value in own.items()]
        code, output, message, _ = answer([file, *arguments, "--help"], environment)
        assert (code, message) == (0, "")
        for key, value in own.items():
            assert f"--config.data.custom.{key}={shlex.quote(str(value))}\n" in output


def test_help_with_a_configuration_lists_its_keys(environment):
    arguments = [TOY + ":joint", "--config.steps=7", "--config.evaluation.scales=(0.5,1,2.0)", "--help"]
    code, output, _, seconds = answer(arguments, environment)
    assert code == 0
    for part in ("--config.steps=7\n", "--config.data.source_size='(64, 128)'\n", "--config.variant=joint\n"):
        assert part in output
    assert seconds < 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.data.classes=toys"], ["'toys'", "toy", "cityscapes19"]),
        (["--config.data.batch.source=-1"], ["data.batch.source is -1", "0 or more"]),
        (["--config.data.classes=custom"], ["data.custom.names", "2 to 255 classes"]),
        (["--config.data.labelled_list=none.txt"], ["data.labelled_list", "'none.txt' cannot be read"]),
        (["--config.data.source=gta6"], ["Unknown data set 'gta6'", "toy, gta5, synthia, custom"]),
        (["--config.data.held_out=8"], ["data.held_out is 8", "fewer than the 8 images"]),
    ],
)
def test_impossible_setting_is_refused_before_the_heavy_imports(environment, tmp_path, arguments, expected):
    code, _, message, seconds = answer([TOY, f"--workdir={tmp_path}", *arguments], environment)
    assert code == 2
    assert all(part in message for part in expected)
    assert "Traceback" not in message
    assert seconds < 2


# Runs main.py with stand-ins for what is heavy; they write down how they are called.
WIRING = """
import contextlib, sys, types

def stand_in(name, **content):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)

class Writer:
    def close(self):
        print("writer closed")

def call(name):
    return lambda *arguments, **keywords: print(name, *arguments[1:], *sorted(keywords.items()))

class StoppedError(Exception):
    exit_code = 143

def train(
    config,
    *,
    class_table,
    training_batches,
    evaluation_batches,
    labelled,
    writer,
    workdir,
    names_of_step,
    held_out_batches=None,
):
    print("train", config.variant, config.seed, config.is_locked, class_table.names[0], workdir.name, labelled)
    assert isinstance(writer, Writer)
    training_batches(7)
    evaluation_batches()
    if held_out_batches:
        held_out_batches()
    names_of_step(6)
    if config.steps == 1:
        raise KeyboardInterrupt
    if config.steps == 2:
        raise StoppedError("Stopped")
    return {"variant": config.variant, "step": 9, "mean_iou": {"toy": 0.5}}

def prepare(config):
    print("prepare")
    if config.data.labelled_count == 9:
        raise ValueError("Missing data")

def build_networks(config, num_classes):
    if config.model.branches == 9:
        raise ValueError(f"Unknown model.branches 9 of {num_classes} classes")

def labelled_list(config):
    if config.data.labelled_count == 7:
        raise ValueError("Missing image")
    return None if config.seed == 6 else types.SimpleNamespace(summary=lambda: {"list": "toy"})

def evaluate(config, *, class_table, evaluation_batches, workdir):
    if config.steps == 1:
        raise FileNotFoundError("No checkpoint")
    print("evaluate", config.variant, class_table.names[0], workdir.name)
    if config.evaluation.split == "test":
        return {"step": 8, "images": 3}
    return {"variant": config.variant, "step": 8, "mean_iou": {"toy": 0.25}}

stand_in("jax", process_index=lambda: 0, process_count=lambda: 2)
stand_in("clu")
sys.modules["clu"].metric_writers = types.SimpleNamespace(create_default_writer=lambda *_, **__: Writer())
stand_in("ass_jax", __path__=["ass_jax"])  # Its light modules are the real ones.
stand_in("ass_jax.compilation", keep_programs=lambda workdir: print("programs kept in", workdir.name))
stand_in("ass_jax.train", train=train, ENDS=(StoppedError,))
stand_in("ass_jax.distributed", join=lambda settings: None, ended_together=contextlib.nullcontext)
stand_in("ass_jax.evaluate", evaluate=evaluate)
stand_in("ass_jax.models", build_networks=build_networks)
stand_in("ass_jax.damage", DamagedError=type("DamagedError", (ValueError,), {}))
stand_in("data.substitution", UndecodableError=type("UndecodableError", (ValueError,), {}))
stand_in(
    "ass_jax.predict",
    find_images=lambda pattern: [pattern, "other"],
    open_predictor=lambda weights, config, class_table: f"{weights.name} {class_table.names[0]}",
    predict_files=lambda *arguments: print(*arguments) or (["other: unreadable \x1b[31m"] if arguments[-1] else []),
)
names = ("training_batches", "evaluation_batches", "held_out_batches", "names_of_step")
stand_in("data.pipeline", prepare=prepare, labelled_list=labelled_list, **{name: call(name) for name in names})
import main
main.run()
"""


def wire(tmp_path, *arguments):
    if "--mode=eval" in arguments:
        (tmp_path / "new/run/checkpoints/8").mkdir(parents=True)
    command = [sys.executable, "-c", WIRING, "--config=configs/toy.py:joint", f"--workdir={tmp_path}/new/run"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_training_is_wired(tmp_path):
    result = wire(tmp_path, "--config.seed=5")
    assert result.stdout.splitlines() == [
        "programs kept in run",
        "prepare",
        "train joint 5 True road run {'list': 'toy'}",
        "training_batches 7 ('host', 0) ('hosts', 2)",
        "evaluation_batches ('host', 0) ('hosts', 2)",
        "names_of_step 6",
        "writer closed",
    ]
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "new/run/eval.json").read_text())
    assert report == {"variant": "joint", "step": 9, "mean_iou": {"toy": 0.5}}


def test_run_without_labelled_target_images_is_wired(tmp_path):
    assert "train joint 6 True road run None" in wire(tmp_path, "--config.seed=6").stdout.splitlines()


def test_evaluation_is_wired(tmp_path):
    result = wire(tmp_path, "--mode=eval")
    assert result.stdout.splitlines() == ["programs kept in run", "prepare", "evaluate joint road run"]
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "new/run/eval.json").read_text())
    assert report == {"variant": "joint", "step": 8, "mean_iou": {"toy": 0.25}}


def test_prediction_is_wired(tmp_path):
    result = wire(tmp_path, "--mode=predict", "--input=photos/*.jpg")
    assert result.stdout.splitlines() == [
        f"run road ['photos/*.jpg', 'other'] {tmp_path}/new/run/predicted False",
        f"Label maps of 2 images: {tmp_path}/new/run/predicted/",
    ]
    assert result.returncode == 0, result.stderr


def test_unreadable_images_are_named_and_told_by_the_exit_code(tmp_path):
    arguments = ("--input=a.png", f"--output={tmp_path}/out", "--confidence", "--weights=w.safetensors")
    result = wire(tmp_path, "--mode=predict", *arguments)
    assert f"w.safetensors road ['a.png', 'other'] {tmp_path}/out True\n" in result.stdout
    assert "other: unreadable" in result.stderr
    assert result.returncode == 1


def test_a_workdir_that_cannot_be_is_told_plainly(tmp_path):
    (tmp_path / "new").write_text("a file")
    result = wire(tmp_path)
    assert result.returncode == 2
    assert "new" in result.stderr
    assert "Traceback" not in result.stderr


def test_second_training_is_refused_before_it_leaves_files(tmp_path):
    with lock.held(tmp_path / "new/run"):
        result = wire(tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"in use by another training: process {os.getpid()}" in result.stderr
        assert [file.name for file in (tmp_path / "new/run").iterdir()] == [lock.FILE]
        # Of several processes only the first one takes the lock.
        others = ("--config.distributed.coordinator=localhost:1", "--config.distributed.processes=2")
        assert wire(tmp_path, *others, "--config.distributed.index=1").returncode == 0
    assert not (tmp_path / "new/run" / lock.FILE).exists()


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
    assert "expected --mode=eval" in result.stderr


def test_interrupt_is_answered_plainly(tmp_path):
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
        (["--config.model.branches=9"], "Unknown model.branches 9 of 10 classes\n"),
        (["--config.data.labelled_count=7"], "Missing image\n"),
        (["--mode=eval", "--config.steps=1"], "No checkpoint\n"),
    ],
)
def test_what_is_missing_is_told_plainly(tmp_path, arguments, message):
    result = wire(tmp_path, *arguments)
    assert (result.returncode, result.stderr) == (2, message)


def test_unreadable_images_are_named_without_control_characters(tmp_path):
    result = wire(tmp_path, "--mode=predict", "--input=\x1b[31mred.png", "--confidence")
    assert result.returncode == 1
    assert "other: unreadable \\x1b[31m\n" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("content", [None, [], ["checkpoints"], ["checkpoints/damaged", "checkpoints/3.orbax-tmp"]])
def test_evaluation_of_no_run_is_refused_at_once_and_leaves_nothing(environment, tmp_path, content):
    workdir = tmp_path / "run"
    for name in () if content is None else ("", *content):
        (workdir / name).mkdir(parents=True)
    code, output, message, seconds = answer([TOY, "--mode=eval", f"--workdir={workdir}"], environment)
    assert (code, output) == (2, "")
    assert f"{workdir}: expected the working directory of a training run, which has checkpoints/STEP" in message
    assert "Traceback" not in message
    assert workdir.exists() == (content is not None)
    assert seconds < 2
