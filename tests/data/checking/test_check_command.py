"""The check on the command line, and the part of it that every training begins with."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import pipeline
from data.checking import check, survey
from tests.helpers import file_faults, quick_compilation, trees

ROOT = Path(__file__).parents[3]


def test_before_training_clean(config, clean):
    check.check_before_training(config)


def test_before_training_missing_data(config, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)'gta5' was not found.*'cityscapes' was not found"):
        check.check_before_training(config)


def test_before_training_all_files_alike(config, clean):
    source = clean[0]
    expected = [file_faults.plant("train ids", source, place) for place in range(4)]
    with pytest.raises(ValueError, match=r"(?s)train ids: 4.*none of the 4 pairs.*--mode=check") as caught:
        check.check_before_training(config)
    assert all(str(fault.file) in str(caught.value) for fault in expected)


def test_before_training_incomplete_list(config, clean):
    config.data.labelled_count = 50
    with pytest.raises(ValueError, match="50 of the 50 images of the labelled list"):
        check.check_before_training(config)


def test_before_training_few_files_are_read_and_none_once_prepared(config, clean, tmp_path, monkeypatch):
    trees.write_gta5(tmp_path / "source", 40)
    read, looked = [], survey.summarise_pair
    monkeypatch.setattr(survey, "summarise_pair", lambda pair, rules: read.append(pair.name) or looked(pair, rules))
    check.check_before_training(config)
    assert len(read) == check.BEFORE_TRAINING + 4 + 3
    pipeline.prepare(config)
    read.clear()
    check.check_before_training(config)
    assert read == []


def test_before_training_partly_prepared(config, clean, monkeypatch):
    pipeline.prepare(config)
    config.data.source_size = (13, 24)
    check.check_before_training(config)
    config.data.labelled_count = 50
    with pytest.raises(ValueError, match="50 of the 50 images"):
        check.check_before_training(config)


def command(*arguments):
    return [sys.executable, "main.py", "--mode=check", *map(str, arguments)]


def settings(config):
    """Returns the fixture's configuration as flags."""
    data = config.data
    keys = ("directory", "source_root", "target_root", "source_size", "target_size", "labelled_count")
    return ["--config=configs/gta5.py:smoke", *(f"--config.data.{key}={data[key]}" for key in keys)]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, **options)


def test_command_line(config, clean, tmp_path):
    """Without TensorFlow and the libraries for training, and without a working directory."""
    folder = tmp_path / "heavy"
    folder.mkdir()
    for library in ("tensorflow", "tensorflow_datasets", "clu", "orbax"):
        (folder / f"{library}.py").write_text(f"raise RuntimeError('{library} was imported')\n")
    environment = quick_compilation.environment(PYTHONPATH=str(folder))
    trees.write_gta5(tmp_path / "source", 30)  # So many that processes are started.
    begun = time.monotonic()
    result = run(*settings(config), env=environment)
    assert result.returncode == 0, result.stderr
    assert "Training would work" in result.stdout
    assert "Traceback" not in result.stderr
    assert time.monotonic() - begun < 20
    file_faults.plant("damaged image", clean[0])
    result = run(*settings(config), "--config.data.rejected_limit=0", env=environment)
    assert (result.returncode, "00001.png: damaged" in result.stdout) == (1, True)
    result = run(*settings(config), "--check_files=2", f"--workdir={tmp_path / 'run'}", env=environment)
    assert result.returncode == 0
    assert (tmp_path / "run" / "check.txt").exists()
    result = run("--config=configs/gta5.py", "--config.data.source_root=/nowhere", env=environment)
    assert result.returncode == 1
    assert "'gta5' was not found" in result.stdout
    assert "'cityscapes' was not found" in result.stdout
    for mistake in ("data.source=gta6", "data.labelled_list=/none.txt", "model.backbone=gta6", "loss.global_kind=gta6"):
        result = run(*settings(config), f"--config.{mistake}", env=environment)
        assert (result.returncode, result.stdout) == (2, "")
        assert mistake.partition("=")[2] in result.stderr
        assert "Traceback" not in result.stderr
    assert run(*settings(config), "--check_files=0", env=environment).returncode == 2
    assert run("--config=configs/toy.py", env=environment).returncode == 0
    result = run("--config=configs/toy.py", "--mode=train", "--workdir=none", "--check_files=3", env=environment)
    assert (result.returncode, "--check_files is for --mode=check" in result.stderr) == (2, True)


def test_interrupt(config, clean, tmp_path):
    trees.write_gta5(tmp_path / "source", 400, size=(128, 256))
    process = subprocess.Popen(
        command(*settings(config)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a shell started in the background ignore the signal, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    told = ""
    while "gta5 train:" not in told:  # At the first sight of it, or all may be read before the signal comes.
        character = process.stderr.read(1)
        assert character, told
        told += character
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted." in error
    assert "checkpoint" not in error
    assert "Traceback" not in error
