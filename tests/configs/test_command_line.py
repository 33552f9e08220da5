"""The configuration file on the command line."""

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_configuration_file_runs_once(tmp_path):
    file, count = tmp_path / "mine.py", tmp_path / "count.txt"
    file.write_text(
        "from configs import toy\n\n"
        f"with open({str(count)!r}, 'a') as file:\n    file.write('run ')\n\n\n"
        "def get_config(words=''):\n"
        f"    with open({str(count)!r}, 'a') as file:\n        file.write('call ')\n"
        "    return toy.get_config(words)\n"
    )
    arguments = [f"--config={file}:joint", "--config.steps=7", "--mode=check", "--config.model.branches=9"]
    result = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "model.branches is 9; expected one of 1, 2, 3, 4.\n")
    assert count.read_text() == "run call "


def test_configuration_file_may_follow_other_flags():
    arguments = ["--config.steps=7", "--config=configs/toy.py:joint", "--help"]
    result = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--config.steps=7\n" in result.stdout


def test_settings_on_the_command_line_are_kept_from_weights():
    arguments = ["--config=configs/toy.py", "--config.model.branches=4", "--config.model.pixel_order", "bgr", "--help"]
    result = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "init_keeps" in line]
    assert shlex.split(line) == ["--config.init_keeps=('pixel_order', 'branches')"]


def test_pixels_beside_weights_of_a_package_are_a_mistake():
    arguments = ["--config=configs/toy.py", "--config.init=hed_vgg16", "--config.model.pixel_order=rgb", "--mode=check"]
    result = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "--config.model.pixel_order belongs to the weights of --config.init=hed_vgg16, which set it: leave it out.\n"
    )
