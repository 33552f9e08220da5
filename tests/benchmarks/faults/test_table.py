"""The table of faults: its rows and its report."""

import json
import random
import sys
from pathlib import Path

import pytest

from benchmarks.faults import repeated, runs
from benchmarks.faults import table as faults


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Replaces the faults by two that take no time; returns a function that runs the program."""
    seen = []

    def measure(setting):
        seen.append((setting.count, setting.draw.random()))
        return f"{setting.count} of {setting.count}", True

    rows = {
        3: faults.Row("something", "all", measure, 10),
        7: faults.Row("a | b", "none", lambda setting: ("1 bad", False)),
    }
    monkeypatch.setattr(faults, "rows", lambda picture: rows)
    monkeypatch.setattr(faults.machine, "describe_in_words", lambda facts: "a machine")

    def run(*arguments):
        command = ["table", f"--folder={tmp_path / 'runs'}", f"--output={tmp_path / 'faults.md'}", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            faults.main()
        return end.value.code

    return run, seen, tmp_path


def test_rows_name_tests_that_exist(monkeypatch):
    named = []
    monkeypatch.setattr(faults, "tests", lambda *arguments: named.extend(arguments))
    faults.rows(None)
    files = [argument for argument in named if argument.startswith("tests/")]
    assert files
    assert [file for file in files if not (Path(faults.__file__).parents[2] / file).is_file()] == []


def test_rows_are_measured_alone_or_together_and_stored(table, capsys):
    run, seen, folder = table
    assert run("--rows=3", "--scale=0.2", "--seed=5") == 0
    assert run("--seed=5") == 1
    assert [count for count, _ in seen] == [2, 10]
    assert seen[0][1] == seen[1][1]  # The same random moments, regardless of the other rows.
    assert "Random moments: seed 5." in capsys.readouterr().out
    lines = (folder / "faults.md").read_text().splitlines()
    assert "| 3 | something | all | 10 of 10 | yes | 0 |" in lines
    assert "| 7 | a / b | none | 1 bad | **no** | 0 |" in lines
    assert json.loads((folder / "faults.json").read_text())["7"]["holds"] is False


def test_unknown_rows_are_an_error(table, capsys):
    assert table[0]("--rows=4") == 2
    assert "valid: 3, 7" in capsys.readouterr().err


def test_table_has_all_rows(tmp_path):
    assert set(faults.rows(tmp_path / "picture.png")) == set(range(1, 27))


@pytest.mark.parametrize("kind", ["cut", "remove", "flip"])
def test_damage_changes_something(tmp_path, kind):
    for item in ("state", "checksums", "configuration", "metrics"):
        (tmp_path / item).mkdir()
        (tmp_path / item / "file").write_bytes(b"content")
    runs._damage(tmp_path, kind, random.Random(0))
    found = [path.read_bytes() for path in tmp_path.rglob("file")]
    assert found != [b"content"] * 4


def test_training_time_is_summed_over_uneven_reports(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"data": {"batch": {"source": 1, "labelled": 3}}}))
    reports = [(20, 1.0), (40, 8.0), (50, 4.0), (60, 8.0)]  # Step and images per second; the save's is at 50.
    lines = [{"step": step, "images_per_second": speed} for step, speed in reports]
    lines.insert(2, {"step": 40, "validation/mIoU_toy": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert repeated._training_seconds(tmp_path) == 20 * 4 / 8 + 10 * 4 / 4 + 10 * 4 / 8
