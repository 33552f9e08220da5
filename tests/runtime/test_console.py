"""Progress, errors, and that nothing else prints."""

import ast
from pathlib import Path

import pytest

from ass_jax.runtime.console import print_error, print_user_error, progress
from configs.user_error import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("items", [range(5), iter(range(5))])
def test_progress_lines_show_the_time_left(capsys, items):
    times = iter([0, 100, 104, 108, 116, 117])  # The first item takes 100 seconds; lines follow items 3 and 4.
    assert list(progress(items, "batches", every=7, clock=lambda: next(times))) == list(range(5))
    assert capsys.readouterr().out.splitlines() == [
        "2/5 batches  0.2/s  0:12 left",
        "4/5 batches  0.2/s  0:05 left",
    ]


def test_unknown_length_has_no_time_left(capsys):
    times = iter([0, 10, 30, 50])
    items = (number for number in range(3))
    assert list(progress(items, "batches", clock=lambda: next(times))) == [0, 1, 2]
    assert capsys.readouterr().out.splitlines() == ["2 batches  0.1/s", "3 batches  0.1/s"]


def test_errors_have_no_control_characters(capsys):
    print_error("a\x1b[31m", "b\nc")
    assert capsys.readouterr().err == "a\\x1b[31m\nb\\nc\n"


def test_message_of_a_user_error_keeps_its_lines(capsys):
    assert print_user_error(UserError("first\nsecond")) == 2
    assert capsys.readouterr().err == "first\nsecond\n"


def calls_of_print(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_only_the_console_prints():
    files = [ROOT / "main.py", *(ROOT / "ass_jax").rglob("*.py")]
    found = {str(file.relative_to(ROOT)): calls_of_print(file) for file in files}
    assert [name for name, lines in found.items() if lines] == ["ass_jax/runtime/console.py"]
