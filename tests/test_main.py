"""The command line answers help and mistakes at once, without the heavy libraries."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
        (["--config=configs/toy.py:as"], ["'as'", "source_only, source_adabn, target_only", "smoke"]),
        (["--config=configs/polyps.py:cvc"], ["'cvc'", "Valid: cvc_to_kvasir, kvasir_to_cvc, source_only"]),
        (["--config", "configs/toy.py:ass,joint"], ["one variant", "ass, joint"]),
        (["--config.steps=3"], ["--config.steps", "--config=FILE"]),
        ([TOY, "--config.stebs=3"], ["config.stebs", "Did you mean --config.steps?", "seed, skipped_limit, steps"]),
        (
            [TOY, "--config.loss.semantic_wieght=1"],
            ["semantic_wieght", "Did you mean --config.loss.semantic_weight?", "global_kind, global_weight"],
        ),
        ([TOY, "--config.semantic_weight", "1"], ["Did you mean --config.loss.semantic_weight?"]),
        ([TOY, "--noconfig.augment.flop"], ["Did you mean --config.augment.flip?"]),
        ([TOY, "--config.steps.many=1"], ["config.steps.many", "Keys of config:"]),
        ([TOY, "--config.data=1"], ["--config.data is a group of keys", "batch.*, classes"]),
        ([TOY, "--config.data.source_size[0]=1"], ["Did you mean --config.data.source_size?"]),
        ([TOY, "--config.variant=joint"], ["configs/toy.py:joint", "source_only, source_adabn, target_only"]),
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
        ([CUSTOM, "--config.data.custom.name=('a',)"], ["Did you mean --config.data.custom.names?", "palette"]),
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
    assert "config.data.labeled_count. Did you mean --config.data.labelled_count?" in message


BEGIN = "from configs import base\n\ndef get_config(words=''):\n    config = base.default_config()\n    "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", ["mine.py defines no function get_config(words)"]),
        ("def get_config(words=''):\n    return (\n", ["mine.py, line 2: '(' was never closed"]),
        ("import nowhere\n", ["mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'"]),
        ("def get_config():\n    return 3\n", ["mine.py: expected a ConfigDict from get_config, found int"]),
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


BACKBONES = "resnet_tiny, efficientnet_lite0, vit_tiny, dinov2_s, dinov2_b, dinov2_l"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("toy", f"source_only, .*, ass_all, {BACKBONES}, smoke, any number of labelled target images"),
        ("polyps", f"cvc_to_kvasir, kvasir_to_cvc, source_only, .*, {BACKBONES}, smoke, any number of .* images"),
        ("synthia", f"source_only, .*, ass_all, {BACKBONES}, smoke, 50, 100, 200, 500, 1000, 2975"),
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
        (["--config.data.source=gta6"], ["data.source is 'gta6'; expected one of toy, gta5, synthia"]),
        (["--config.data.held_out=8"], ["data.held_out is 8", "fewer than the 8 images"]),
    ],
)
def test_impossible_setting_is_refused_before_the_heavy_imports(environment, tmp_path, arguments, expected):
    code, _, message, seconds = answer([TOY, f"--workdir={tmp_path}", *arguments], environment)
    assert code == 2
    assert all(part in message for part in expected)
    assert "Traceback" not in message
    assert seconds < 2


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
